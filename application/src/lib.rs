//! The use cases of the server and the ports they stand on.
//!
//! A port is a promise that an adapter keeps; the use cases here rely on nothing else. `upload` reads, decides
//! and writes; `download` reads one page. Which database, which token and which transport are none of
//! this crate's business.

pub mod contacts;
pub mod download;
pub mod drain;
pub mod erasure;
pub mod error;
pub mod export;
pub mod failures;
pub mod hub;
mod lanes;
pub mod measures;
mod metered;
pub mod ports;
pub mod projection;
pub mod retention;
pub mod snapshot;
pub mod tables;
pub mod upload;
pub mod watch;

pub use contacts::Contacts;
pub use download::Download;
pub use drain::Drain;
pub use erasure::{Erasure, ErasurePorts};
pub use error::SyncError;
pub use export::Exports;
pub use failures::Failures;
pub use hub::Hub;
pub use metered::Metered;
pub use ports::authenticator::{AuthError, Authenticator, Caller, Credentials, TokenIssuer};
pub use ports::clock::{Clock, SystemClock};
pub use ports::contacts::ContactStore;
pub use ports::materializer::{Batch, MaterializeError, Materializer, NetRow};
pub use ports::notifier::{News, Notifier};
pub use ports::projection::ProjectionStore;
pub use ports::retention::RetentionStore;
pub use ports::store::{StoreError, SyncStore};
pub use ports::users::UserStore;
pub use retention::Retention;
pub use snapshot::Snapshots;
pub use tables::{Materialize, SharedCatalog, TableConfig};
pub use upload::{UploadPorts, UploadService};
pub use watch::Watch;

#[cfg(any(test, feature = "mock"))]
pub use ports::{
    authenticator::{MockAuthenticator, MockTokenIssuer},
    clock::MockClock,
    contacts::MockContactStore,
    notifier::MockNotifier,
    store::MockSyncStore,
};
