//! How slowly a body may come.
//!
//! An upload is read into memory, and takes one of its user's places until it is there. So it has to come at a pace: it
//! has some time whatever its size, and beyond that as much as its bytes take at the lowest rate.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep_until};

/// The least that is asked of a client that sends a body.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The time that any body may take.
    pub grace: Duration,
    /// Bytes a second beyond that, 1 or more.
    pub bytes_per_s: u32,
}

impl Default for Pace {
    /// What a phone does at the edge of a network of the second generation.
    fn default() -> Self {
        Self { grace: Duration::from_secs(30), bytes_per_s: 1_024 }
    }
}

/// A body that came too slowly.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the body came too slowly")]
pub(crate) struct TooSlow;

impl TooSlow {
    /// Whether that is why a body could not be read.
    pub(crate) fn is_cause_of(error: &axum::Error) -> bool {
        let mut cause = error.source();
        while let Some(error) = cause {
            if error.is::<Self>() {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// Times the body of a request, if it has one.
pub(crate) async fn pace(State(pace): State<Pace>, request: Request, next: Next) -> Response {
    let paced = |body: Body| Paced { body, pace, began: Instant::now(), received: 0, timer: None };
    next.run(request.map(|body| if body.is_end_stream() { body } else { Body::new(paced(body)) })).await
}

struct Paced {
    body: Body,
    pace: Pace,
    began: Instant,
    received: u64,
    /// There while the next bytes are waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    fn deadline(&self) -> Instant {
        self.began + self.pace.grace + Duration::from_secs(self.received / u64::from(self.pace.bytes_per_s.max(1)))
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            let bytes = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
            this.received += bytes.map_or(0, |bytes| bytes.len() as u64);
            this.timer = None;
            return Poll::Ready(frame);
        }
        let deadline = this.deadline();
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        timer.as_mut().poll(cx).map(|()| Some(Err(axum::Error::new(TooSlow))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};
    use tokio::time::sleep;

    use super::*;

    /// How long a body lasts of which a chunk comes every so often, and how it ends.
    async fn takes(chunk: usize, every: Duration, chunks: usize) -> (Duration, bool) {
        let pace = Pace { grace: Duration::from_secs(10), bytes_per_s: 100 };
        let bytes = stream::iter(0..chunks).then(move |_| async move {
            sleep(every).await;
            Ok::<_, std::io::Error>(vec![b' '; chunk])
        });
        let (body, began) = (Body::from_stream(bytes), Instant::now());
        let body = Body::new(Paced { body, pace, began, received: 0, timer: None });
        let mut chunks = body.into_data_stream();
        let mut was_too_slow = false;
        while let Some(chunk) = chunks.next().await {
            if let Err(error) = chunk {
                was_too_slow = TooSlow::is_cause_of(&error);
                break;
            }
        }
        (began.elapsed(), was_too_slow)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_has_some_time_and_then_a_pace() {
        let s = Duration::from_secs;
        assert_eq!(takes(1, s(1), 9).await, (s(9), false), "within the time that any body has");
        assert_eq!(takes(1, s(1), 20).await, (s(10), true), "byte by byte");
        assert_eq!(takes(200, s(1), 100).await, (s(100), false), "slowly, but at the pace");
        assert_eq!(takes(1_000, s(20), 2).await, (s(10), true), "nothing at first");
        assert_eq!(takes(1_000, s(9), 1).await, (s(9), false));
    }
}
