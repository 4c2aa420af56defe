//! Letting a request in: who has sent it, and whether there is room for it.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body::{Frame, SizeHint};
use outrigger_domain::UserId;
use tokio::sync::OwnedSemaphorePermit;

use crate::Api;
use crate::address::Proxies;
use crate::connection::Peer;
use crate::error::ApiError;
use crate::limits::{Limiter, Slot};

/// What is answered however much there is to do: a server that is busy is not to be taken for a dead one.
const ALWAYS: [&str; 3] = ["/health", "/ready", "/metrics"];

/// Who is let in. Cheap to clone.
#[derive(Clone, Default)]
pub struct Admission {
    /// What is counted.
    pub limiter: Limiter,
    /// Who may say where a request comes from.
    pub proxies: Arc<Proxies>,
}

/// Where a request comes from, as far as that is known. In every request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client(pub(crate) Option<IpAddr>);

impl<S: Sync> FromRequestParts<S> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().copied().unwrap_or(Self(None)))
    }
}

/// Lets a request in that there is room for.
pub(crate) async fn admit(State(admission): State<Admission>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>();
    let client = peer.map(|peer| admission.proxies.client(peer.address, request.headers()));
    request.extensions_mut().insert(Client(client));
    let always = request.extensions().get::<MatchedPath>().is_some_and(|path| ALWAYS.contains(&path.as_str()));
    if always {
        return next.run(request).await;
    }
    let place = match admission.limiter.request() {
        Ok(place) => Place::new(place),
        Err(error) => return error.into_response(),
    };
    request.extensions_mut().insert(place.clone());
    let response = next.run(request).await;
    place.answered(response)
}

/// Counts a request against its address that needs no credentials.
pub(crate) struct Anonymous;

impl FromRequestParts<Arc<Api>> for Anonymous {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        let Ok(Client(address)) = Client::from_request_parts(parts, api).await;
        api.admission.limiter.address(address).map(|()| Self)
    }
}

/// The same for whole groups of routes.
pub(crate) async fn anonymous(
    State(admission): State<Admission>,
    client: Client,
    request: Request,
    next: Next,
) -> Response {
    match admission.limiter.address(client.0) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// The room that a request takes. Its clones are one.
#[derive(Clone, Default)]
pub(crate) struct Place(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    /// Among all requests, until the head of the answer is there.
    _of_all: Option<OwnedSemaphorePermit>,
    /// Among those of its user, until the answer is sent: it may be large, and be taken slowly.
    of_user: Option<Slot>,
}

impl Place {
    fn new(of_all: OwnedSemaphorePermit) -> Self {
        Self(Arc::new(Mutex::new(Taken { _of_all: Some(of_all), of_user: None })))
    }

    /// Takes room among the requests of that user.
    pub(crate) fn of(&self, limiter: &Limiter, user: &UserId) -> Result<(), ApiError> {
        self.taken().of_user = Some(limiter.user_request(user)?);
        Ok(())
    }

    /// Gives all of it back, for a request that only waits from now on.
    pub(crate) fn leave(&self) {
        *self.taken() = Taken::default();
    }

    fn answered(self, response: Response) -> Response {
        let of_user = std::mem::take(&mut *self.taken()).of_user;
        match of_user {
            Some(slot) => response.map(|body| Body::new(Held { body, rest: Bytes::new(), _slot: slot })),
            None => response,
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Sync> FromRequestParts<S> for Place {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// Bytes of an answer that are handed over at once. Whatever sends it takes more only when most of these are gone.
const PIECE_BYTES: usize = 64 * 1024;

/// The body of an answer that takes a place until it is sent. In pieces: one that is handed over as a whole is at its end
/// before any of it is sent.
struct Held {
    body: Body,
    rest: Bytes,
    _slot: Slot,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(bytes))) => this.rest = bytes,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let piece = this.rest.split_to(PIECE_BYTES.min(this.rest.len()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(rest + body.lower());
        if let Some(upper) = body.upper() {
            hint.set_upper(rest + upper);
        }
        hint
    }
}
