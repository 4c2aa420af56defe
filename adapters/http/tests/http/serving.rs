//! Stopping: what runs is finished, what is idle is closed, and it never takes longer than it may.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outrigger_application::{StoreError, SyncStore};
use outrigger_domain::window::{PageQuery, Slice};
use outrigger_domain::{Plan, Snapshot, UserId, Wanted};
use outrigger_http::{Serving, Stopped};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::world::{Setup, send};

/// A store whose pages say when they are asked for, and wait to be let through.
pub(crate) struct Gate {
    pub(crate) asked: Semaphore,
    pub(crate) open: Semaphore,
}

impl Gate {
    pub(crate) fn closed() -> Arc<Self> {
        Arc::new(Self { asked: Semaphore::new(0), open: Semaphore::new(0) })
    }
}

pub(crate) struct Gated(pub(crate) Arc<Gate>);

#[async_trait]
impl SyncStore for Gated {
    async fn load(&self, _: &UserId, _: &Wanted) -> Result<Snapshot, StoreError> {
        unreachable!("nothing is uploaded here")
    }

    async fn commit(&self, _: &UserId, _: Plan) -> Result<(), StoreError> {
        unreachable!("nothing is uploaded here")
    }

    async fn page(&self, _: &UserId, _: &PageQuery) -> Result<Slice, StoreError> {
        self.0.asked.add_permits(1);
        let _let_through = self.0.open.acquire().await;
        Ok(Slice::default())
    }

    async fn head(&self, _: &UserId) -> Result<(outrigger_domain::StreamHead, outrigger_domain::Kept), StoreError> {
        unreachable!("nothing asks for this here")
    }

    async fn rows(
        &self,
        _: &UserId,
        _: &outrigger_application::ports::store::RowsQuery,
    ) -> Result<outrigger_application::ports::store::Rows, StoreError> {
        unreachable!("nothing asks for this here")
    }

    async fn tables(&self, _: &UserId) -> Result<Vec<outrigger_domain::TableName>, StoreError> {
        unreachable!("nothing asks for this here")
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_running_request_is_answered_before_the_server_stops() {
    let gate = Gate::closed();
    let mut server = Setup::on(Gated(Arc::clone(&gate))).start().await;
    let running = tokio::spawn(send(server.get("/sync/download").bearer_auth("alice/phone")));
    gate.asked.acquire().await.unwrap().forget();
    server.stop();
    // Nothing more is accepted, while the request is still running.
    while TcpStream::connect(&server.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!running.is_finished());
    gate.open.add_permits(1);
    assert_eq!(running.await.unwrap().status, 200);
    assert_eq!(server.stopped().await, Stopped::Drained);
}

#[tokio::test]
async fn a_request_that_never_ends_does_not_hold_the_server_up() {
    let gate = Gate::closed();
    let serving = Serving { drain_timeout: Duration::from_millis(50), ..Serving::default() };
    let setup = Setup { serving, ..Setup::on(Gated(Arc::clone(&gate))) };
    let mut server = setup.start().await;
    let running = tokio::spawn(send(server.get("/sync/download").bearer_auth("alice/phone")));
    gate.asked.acquire().await.unwrap().forget();
    server.stop();
    assert_eq!(server.stopped().await, Stopped::TimedOut);
    running.abort();
}

#[tokio::test]
async fn idle_connections_do_not_hold_the_server_up() {
    let mut server = Setup::default().start().await;
    let silent = TcpStream::connect(&server.address).await.unwrap();
    let mut kept_alive = TcpStream::connect(&server.address).await.unwrap();
    kept_alive.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(br#"{"status":"ok"}"#) {
        assert_ne!(kept_alive.read_buf(&mut answer).await.unwrap(), 0, "closed");
    }
    server.stop();
    assert_eq!(server.stopped().await, Stopped::Drained);
    assert_eq!(kept_alive.read_buf(&mut answer).await.unwrap(), 0, "still open");
    drop(silent);
}
