//! Bodies that are compressed, too large once they are not, or too slow.

use std::time::Duration;

use async_compression::Level;
use async_compression::tokio::write::{BrotliEncoder, GzipEncoder, ZstdEncoder};
use async_compression::zstd::CParameter;
use axum::body::Body;
use axum::http::Request;
use futures::{StreamExt, stream};
use outrigger_http::router;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tower::ServiceExt;

use crate::world::{Answer, Server, Setup, send};

const MIB: usize = 1024 * 1024;
const UPLOAD: &str = r#"{"changes":[{"source_change_id":1,"table":"users","op":"INSERT","pk":"00000000-0000-0000-0000-000000000001","server_version":0,"payload":{"a":1}}]}"#;

/// What was written, again and again.
async fn written<W: AsyncWrite + Unpin>(mut to: W, text: &[u8], times: usize) -> W {
    for _ in 0..times {
        to.write_all(text).await.unwrap();
    }
    to.shutdown().await.unwrap();
    to
}

async fn compressed(coding: &str, text: &[u8], times: usize) -> Vec<u8> {
    match coding {
        "gzip" => written(GzipEncoder::with_quality(Vec::new(), Level::Precise(5)), text, times).await.into_inner(),
        "zstd" => written(ZstdEncoder::with_quality(Vec::new(), Level::Precise(5)), text, times).await.into_inner(),
        _ => written(BrotliEncoder::with_quality(Vec::new(), Level::Precise(5)), text, times).await.into_inner(),
    }
}

async fn upload(server: &Server, coding: &str, body: Vec<u8>) -> Answer {
    send(server.upload_request("alice/phone", body).header("content-encoding", coding)).await
}

#[tokio::test]
async fn an_upload_may_be_compressed() {
    let server = Setup::default().start().await;
    for coding in ["gzip", "zstd", "br"] {
        let answer = upload(&server, coding, compressed(coding, UPLOAD.as_bytes(), 1).await).await;
        assert_eq!(answer.status, 200, "{coding}: {}", answer.text);
        assert_eq!(answer.json()["statuses"][0]["status"], "applied", "{coding}");
    }
    let (begin, rest) = UPLOAD.as_bytes().split_at(20);
    for (coding, body) in [
        ("X-GZip", compressed("gzip", UPLOAD.as_bytes(), 1).await),
        ("identity", UPLOAD.into()),
        // Several members are one text.
        ("gzip", [compressed("gzip", begin, 1).await, compressed("gzip", rest, 1).await].concat()),
    ] {
        let answer = upload(&server, coding, body).await;
        assert_eq!(answer.status, 200, "{coding}: {}", answer.text);
    }
    let retry = compressed("gzip", br#"{"id":1}"#, 1).await;
    let retry = server.post("/admin/materialize-failures/retry").bearer_auth("alice/phone").body(retry);
    let retry = retry.header("content-type", "application/json").header("content-encoding", "gzip");
    assert_eq!(send(retry).await.error().1, "not_found", "the other body is read in the same way");
}

#[tokio::test]
async fn what_inflates_beyond_the_limit_is_refused() {
    let server = Setup { body_bytes_max: MIB, ..Setup::default() }.start().await;
    for coding in ["gzip", "zstd", "br"] {
        // Within the limit to the last byte, and one more.
        for (length, status) in [(MIB, 200), (MIB + 1, 413)] {
            let text = format!("{UPLOAD}{}", " ".repeat(length - UPLOAD.len()));
            let answer = upload(&server, coding, compressed(coding, text.as_bytes(), 1).await).await;
            assert_eq!(answer.status, status, "{coding}, {length}: {}", answer.text);
        }
        let bomb = compressed(coding, &[b' '; 65_536], 4_096).await;
        assert!(bomb.len() < MIB / 2, "{coding} has {} bytes", bomb.len());
        let answer = upload(&server, coding, bomb).await;
        assert_eq!((answer.status, answer.error().1.as_str()), (413, "payload_too_large"), "{coding}");
        // And one of bombs.
        let twice = compressed(coding, &compressed(coding, &[b' '; 65_536], 16).await, 1).await;
        assert_eq!(upload(&server, coding, twice).await.error().1, "invalid_request", "{coding}");
    }
    let plain = vec![b' '; MIB + 1];
    assert_eq!(upload(&server, "gzip", plain).await.status, 413, "nor is more read than the limit");
}

#[tokio::test]
async fn what_cannot_be_inflated_is_refused() {
    let server = Setup::default().start().await;
    for coding in ["gzip", "zstd", "br"] {
        let whole = compressed(coding, UPLOAD.as_bytes(), 1).await;
        for (what, body) in [
            ("plain", UPLOAD.into()),
            ("cut", whole[..whole.len() - 5].to_vec()),
            ("spoilt", whole.iter().map(|byte| byte ^ 0x55).collect()),
        ] {
            let answer = upload(&server, coding, body).await;
            assert_eq!((answer.status, answer.error().1.as_str()), (400, "invalid_request"), "{coding}, {what}");
        }
    }
    for coding in ["deflate", "gzip, gzip", "gzip, br", "compress", "nonsense"] {
        let answer = upload(&server, coding, compressed("gzip", UPLOAD.as_bytes(), 1).await).await;
        assert_eq!((answer.status, answer.error().1.as_str()), (415, "unsupported_media_type"), "{coding}");
    }
    let twice = server.upload_request("alice/phone", UPLOAD).header("content-encoding", "gzip");
    assert_eq!(send(twice.header("content-encoding", "gzip")).await.status, 415);
}

#[tokio::test]
async fn zstd_gets_no_more_memory_than_its_rfc_asks_for() {
    let server = Setup { body_bytes_max: 16 * MIB, ..Setup::default() }.start().await;
    for (window_log, status) in [(23, 200), (27, 400)] {
        let parameters = [CParameter::window_log(window_log)];
        let encoder = ZstdEncoder::with_quality_and_params(Vec::new(), Level::Fastest, &parameters);
        let body = written(encoder, UPLOAD.as_bytes(), 1).await.into_inner();
        assert_eq!(upload(&server, "zstd", body).await.status, status, "{window_log}");
    }
}

/// The clock stands still but for what is waited for.
#[tokio::test(start_paused = true)]
async fn a_body_that_comes_byte_by_byte_is_not_waited_for() {
    let slow = || {
        stream::iter(std::iter::repeat_n(vec![b' '], 10_000)).then(|byte| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, std::io::Error>(byte)
        })
    };
    let begun = stream::iter([Ok::<_, std::io::Error>(vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0])]);
    for (coding, body) in
        [("identity", Body::from_stream(slow())), ("gzip", Body::from_stream(begun.chain(stream::pending())))]
    {
        let request = Request::post("/sync/upload")
            .header("authorization", "Bearer alice/phone")
            .header("content-type", "application/json")
            .header("content-encoding", coding);
        let began = tokio::time::Instant::now();
        let response = router(Setup::default().api()).oneshot(request.body(body).unwrap()).await.unwrap();
        assert_eq!((response.status().as_u16(), began.elapsed().as_secs()), (408, 30), "{coding}");
        assert_eq!(response.headers()["connection"], "close");
    }
}
