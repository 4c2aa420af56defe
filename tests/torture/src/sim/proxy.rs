//! The line between a device and the server: a TCP proxy on a port of the device's own, which does to each request
//! what the plan says.
//!
//! It speaks just enough of HTTP/1.1 to know where a request and its answer end, with a connection for each.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::ledger::{Ledger, Page};
use super::node::Addresses;
use super::plan::{DevicePlan, Line, Plan, Pruning};

/// How long a node may take for an answer. The server gives up on its database long before.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Pieces of a line that is slow.
const PIECE_BYTES: usize = 64;
/// The longest that a device on a slow line is held up, in pieces.
const PIECES_MAX: usize = 40;

/// What all lines share.
pub(crate) struct Lines {
    pub(crate) plan: Plan,
    pub(crate) ledger: Ledger,
    pub(crate) nodes: Addresses,
    /// Set when faults are over.
    pub(crate) is_calm: AtomicBool,
    /// Requests on their way, those that no device waits for any more included.
    under_way: AtomicU64,
}

/// One device's line.
struct Link {
    lines: Arc<Lines>,
    device: DevicePlan,
    requests: AtomicU64,
}

impl Lines {
    pub(crate) fn new(plan: Plan, nodes: Addresses) -> Arc<Self> {
        let ledger = Ledger::new(plan.pruning);
        let (is_calm, under_way) = Default::default();
        Arc::new(Self { plan, ledger, nodes, is_calm, under_way })
    }

    /// Whether faults are over.
    pub(crate) fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::SeqCst)
    }

    /// Opens the line of a device. Gives the address that it takes for the server's.
    pub(crate) async fn open(self: &Arc<Self>, device: &DevicePlan) -> io::Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let link = Arc::new(Link { lines: Arc::clone(self), device: device.clone(), requests: AtomicU64::new(0) });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let link = Arc::clone(&link);
                tokio::spawn(async move {
                    // A connection that breaks is what this is about.
                    let _ = link.serve(stream).await;
                });
            }
        });
        Ok(url)
    }

    /// Waits until no request is on its way any more. To be called when faults are over.
    pub(crate) async fn settle(&self) {
        while self.under_way.load(Ordering::SeqCst) > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A request as it came, with what has to be known of it.
#[derive(Clone)]
struct Request {
    path: String,
    bytes: Vec<u8>,
    /// Where the body begins.
    head: usize,
}

/// An answer as it came.
struct Answer {
    bytes: Vec<u8>,
    /// Status and body, if it is whole.
    whole: Option<(u16, usize)>,
}

impl Link {
    async fn serve(self: Arc<Self>, mut stream: TcpStream) -> io::Result<()> {
        let Some(request) = read_request(&mut stream).await? else { return Ok(()) };
        if request.path.starts_with("/sync/watch") {
            return self.watch(stream, &request).await;
        }
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        let (line, node) = self.lines.plan.line(self.device.number, number);
        let line = if self.lines.is_calm() { Line::Clean } else { line };
        if line != Line::Clean {
            let name = format!("{line:?}");
            self.lines.ledger.count(format!("line {}", name.split('(').next().unwrap_or_default()));
        }
        match line {
            Line::Clean => give(&mut stream, self.send(&request, node).await?).await,
            Line::LoseRequest => Ok(()),
            Line::LoseAnswer => self.send(&request, node).await.map(drop),
            Line::Twice => {
                let (first, second) = tokio::join!(self.send(&request, node), self.send(&request, node + 1));
                give(&mut stream, second.or(first)?).await
            }
            Line::AgainLater(ms) => {
                self.send_later(&request, node + 1, ms);
                give(&mut stream, self.send(&request, node).await?).await
            }
            Line::Late(ms) => {
                self.send_later(&request, node, ms);
                Ok(())
            }
            Line::CutRequest(part) => self.send_part(&request, node, part).await,
            Line::CutAnswer(part) => {
                let answer = self.send(&request, node).await?;
                stream.write_all(&answer.bytes[..share(answer.bytes.len(), part)]).await
            }
            Line::Delay(ms) => {
                sleep(Duration::from_millis(ms)).await;
                give(&mut stream, self.send(&request, node).await?).await
            }
            Line::Slow(ms) => {
                let answer = self.send_slowly(&request, node, ms).await?;
                trickle(&mut stream, &answer.bytes, ms).await
            }
        }
    }

    fn send_later(self: &Arc<Self>, request: &Request, node: usize, ms: u64) {
        let (link, request) = (Arc::clone(self), request.clone());
        let under_way = UnderWay::new(&self.lines);
        tokio::spawn(async move {
            let _under_way = under_way;
            sleep(Duration::from_millis(ms)).await;
            let _ = link.send(&request, node).await;
        });
    }

    /// Sends a request to that node, or to another if it is down, and notes both it and its answer.
    async fn send(self: &Arc<Self>, request: &Request, node: usize) -> io::Result<Answer> {
        self.send_slowly(request, node, 0).await
    }

    /// In a task of its own, so that it goes on when the device gives up.
    async fn send_slowly(self: &Arc<Self>, request: &Request, node: usize, ms: u64) -> io::Result<Answer> {
        let (link, request) = (Arc::clone(self), request.clone());
        let under_way = UnderWay::new(&self.lines);
        let sent = tokio::spawn(async move {
            let _under_way = under_way;
            timeout(ANSWER_TIMEOUT, link.exchange(&request, node, ms)).await.unwrap_or_else(|_| {
                link.lines.ledger.broken(format!("{} was not answered in {ANSWER_TIMEOUT:?}", request.path));
                Err(io::ErrorKind::TimedOut.into())
            })
        });
        sent.await.map_err(io::Error::other)?
    }

    async fn exchange(&self, request: &Request, node: usize, ms: u64) -> io::Result<Answer> {
        let mut upstream = self.lines.nodes.connect(node).await?;
        let (user, source) = (self.device.user_name(), self.device.source());
        let ledger = &self.lines.ledger;
        let attempt = ledger.attempt(&user, &source, &request.bytes[request.head..]);
        trickle(&mut upstream, &request.bytes, ms).await?;
        let answer = read_answer(&mut upstream).await?;
        let Some((status, head)) = answer.whole else { return Ok(answer) };
        let (path, body) = (&request.path, &answer.bytes[head..]);
        let said = || format!("{user} {source} {path} is answered {status}: {}", String::from_utf8_lossy(body));
        if !self.may_answer(status) {
            ledger.broken(said());
        }
        match attempt {
            Some(attempt) => ledger.answered(&attempt, status, body),
            None if status == 200 && path.starts_with("/sync/download") => match serde_json::from_slice::<Page>(body) {
                Ok(page) => ledger.page((&user, &source), parameter(path, "after"), &page),
                Err(error) => ledger.broken(format!("{path} was answered with no page: {error}")),
            },
            None if status == 200 && path.starts_with("/sync/snapshot") => {
                ledger.note(said());
                ledger.rows(&user, body);
            }
            None if status == 409 || status == 410 => {
                ledger.note(said());
                ledger.count("devices told to start again");
            }
            None => {}
        }
        Ok(answer)
    }

    /// Devices do nothing wrong here, so that no other status has a reason.
    fn may_answer(&self, status: u16) -> bool {
        let plan = &self.lines.plan;
        match status {
            200 | 503 => true,
            409 => plan.restores(),
            410 => plan.restores() || plan.pruning != Pruning::Never,
            _ => false,
        }
    }

    /// Part of a request: what a server sees when a device loses its network.
    async fn send_part(&self, request: &Request, node: usize, part: u16) -> io::Result<()> {
        let mut upstream = self.lines.nodes.connect(node).await?;
        upstream.write_all(&request.bytes[..share(request.bytes.len(), part)]).await?;
        // It is sent before the connection is closed.
        upstream.shutdown().await
    }

    /// A stream of events, which breaks now and then.
    async fn watch(&self, mut stream: TcpStream, request: &Request) -> io::Result<()> {
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        let (line, node) = self.lines.plan.line(self.device.number, number);
        let mut upstream = self.lines.nodes.connect(node).await?;
        upstream.write_all(&request.bytes).await?;
        let copied = tokio::io::copy_bidirectional(&mut stream, &mut upstream);
        match line {
            Line::LoseRequest | Line::CutRequest(_) | Line::Late(_) => Ok(()),
            Line::Clean => copied.await.map(drop),
            _ => timeout(Duration::from_secs(1), copied).await.map(drop).map_err(io::Error::other),
        }
    }
}

/// Counts a request as long as it is on its way.
struct UnderWay(Arc<Lines>);

impl UnderWay {
    fn new(lines: &Arc<Lines>) -> Self {
        lines.under_way.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(lines))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What is left of so many bytes when the connection breaks: never all.
fn share(bytes: usize, part: u16) -> usize {
    (bytes * usize::from(part) / 1_000).min(bytes.saturating_sub(1))
}

async fn give(stream: &mut TcpStream, answer: Answer) -> io::Result<()> {
    stream.write_all(&answer.bytes).await?;
    stream.shutdown().await
}

async fn trickle(stream: &mut TcpStream, bytes: &[u8], ms: u64) -> io::Result<()> {
    if ms == 0 {
        return stream.write_all(bytes).await;
    }
    for piece in bytes.chunks(PIECE_BYTES.max(bytes.len() / PIECES_MAX)) {
        stream.write_all(piece).await?;
        sleep(Duration::from_millis(ms)).await;
    }
    Ok(())
}

/// Reads a whole request, and asks in it for a connection that ends with the answer. None if the device has left.
async fn read_request(stream: &mut TcpStream) -> io::Result<Option<Request>> {
    let mut bytes = Vec::new();
    let head = loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
        if let Some(head) = end_of_head(&bytes) {
            break head;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let length = header(&text, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    while bytes.len() < head + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
    let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
    const CLOSE: &[u8] = b"connection: close\r\n";
    let first_line = text.find("\r\n").map_or(0, |end| end + 2);
    bytes.splice(first_line..first_line, CLOSE.iter().copied());
    Ok(Some(Request { path, bytes, head: head + CLOSE.len() }))
}

/// Reads an answer to the end of its connection.
async fn read_answer(stream: &mut TcpStream) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    // A node that is killed breaks its connections: what came before counts as cut.
    let is_broken = stream.read_to_end(&mut bytes).await.is_err();
    let whole = end_of_head(&bytes).filter(|_| !is_broken).and_then(|head| {
        let text = String::from_utf8_lossy(&bytes[..head]);
        let status = text.split(' ').nth(1)?.parse().ok()?;
        let length: usize = header(&text, "content-length")?.parse().ok()?;
        (bytes.len() == head + length).then_some((status, head))
    });
    if bytes.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Answer { bytes, whole })
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = head.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// A number in a query; 0 if it is not there.
fn parameter(path: &str, name: &str) -> i64 {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(of, _)| *of == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}
