//! Compressed bodies: what they are once they are inflated, within a bound.
//!
//! A kilobyte can become a gigabyte, so nothing here is read for longer than somebody wants what comes out of it, and no
//! format may ask for more room than it needs at the sizes that there are.

use std::io;
use std::pin::Pin;

use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_ENCODING;
use futures::{StreamExt, TryStreamExt};
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use crate::error::{ApiError, ErrorKind};
use crate::pace::TooSlow;

/// The window of zstd that a decoder for HTTP has to have, and no more:
/// [RFC 9659](https://www.rfc-editor.org/rfc/rfc9659), 8 MiB. By default it would be 128.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Gzip,
    Zstd,
    Brotli,
}

impl Coding {
    /// What the headers say; none for a body that is as it is.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let mut values = headers.get_all(CONTENT_ENCODING).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return if headers.contains_key(CONTENT_ENCODING) { Err(unknown()) } else { Ok(None) };
        };
        match value.to_str().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(None),
            // The other name is an old one: RFC 9110, 8.4.1.3.
            "gzip" | "x-gzip" => Ok(Some(Self::Gzip)),
            "zstd" => Ok(Some(Self::Zstd)),
            "br" => Ok(Some(Self::Brotli)),
            _ => Err(unknown()),
        }
    }

    /// The body as it was before it was compressed. Fails with [`io::ErrorKind::FileTooLarge`] for one that is larger
    /// than the bound even now, [`TimedOut`](io::ErrorKind::TimedOut) for one that came too slowly, and
    /// [`ConnectionAborted`](io::ErrorKind::ConnectionAborted) for one that ended before it was complete.
    pub(crate) fn inflate(self, body: Body, max: usize) -> Pin<Box<dyn AsyncRead + Send>> {
        let mut left = max;
        let chunks = body.into_data_stream().map_err(|error| {
            let kind =
                if TooSlow::is_cause_of(&error) { io::ErrorKind::TimedOut } else { io::ErrorKind::ConnectionAborted };
            io::Error::new(kind, error)
        });
        let chunks = chunks.map(move |chunk: io::Result<Bytes>| -> io::Result<Bytes> {
            let chunk = chunk?;
            left = left.checked_sub(chunk.len()).ok_or(io::ErrorKind::FileTooLarge)?;
            Ok(chunk)
        });
        let reader = StreamReader::new(chunks);
        match self {
            Self::Gzip => {
                let mut decoder = GzipDecoder::new(reader);
                decoder.multiple_members(true);
                Box::pin(decoder)
            }
            Self::Zstd => {
                let window = [DParameter::window_log_max(ZSTD_WINDOW_LOG_MAX)];
                let mut decoder = ZstdDecoder::with_params(reader, &window);
                decoder.multiple_members(true);
                Box::pin(decoder)
            }
            Self::Brotli => Box::pin(BrotliDecoder::new(reader)),
        }
    }
}

fn unknown() -> ApiError {
    let message = "a body is compressed with gzip, zstd or br, with one of them, or not at all";
    ApiError::client(ErrorKind::UnsupportedMediaType, message)
}
