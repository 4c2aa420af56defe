//! The background task under a clock of the tests': hours pass at once, and nothing waits for real.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use outrigger_client::transport::{Http, Request, Response, Transport};
use outrigger_client::{Clock, Event};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use crate::world::{Device, Server, drained, pk};

/// Time that passes when the test says so.
#[derive(Clone)]
struct Dial {
    now: watch::Sender<Duration>,
    /// When those that sleep are to be woken.
    sleepers: watch::Sender<Vec<Duration>>,
}

struct Sleeper<'a>(&'a Dial, Duration);

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        self.0.sleepers.send_modify(|all| {
            let at = all.iter().position(|at| *at == self.1).unwrap();
            all.swap_remove(at);
        });
    }
}

#[async_trait::async_trait]
impl Clock for Dial {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + *self.now.borrow()
    }

    async fn sleep(&self, time: Duration) {
        let mut now = self.now.subscribe();
        let until = *now.borrow() + time;
        self.sleepers.send_modify(|all| all.push(until));
        let _sleeper = Sleeper(self, until);
        now.wait_for(|now| *now >= until).await.unwrap();
    }
}

impl Dial {
    fn new() -> Self {
        Self { now: watch::Sender::default(), sleepers: watch::Sender::default() }
    }

    /// When so many sleep, the time comes at which the first of them wakes.
    async fn pass(&self, sleeping: usize) {
        let mut sleepers = self.sleepers.subscribe();
        let asleep = sleepers.wait_for(|all| all.len() == sleeping);
        let asleep = tokio::time::timeout(Duration::from_secs(30), asleep).await.expect("they fall asleep").unwrap();
        let first = *asleep.iter().min().unwrap();
        drop(asleep);
        self.now.send_if_modified(|now| first > *now && std::mem::replace(now, first) != first);
    }

    fn seconds(&self) -> f64 {
        self.now.borrow().as_secs_f64()
    }
}

fn phone(server: &Server, dial: &Dial) -> Device {
    server.device_with("phone", |config| config.clock(dial.clone()).poll_every(Duration::from_secs(30)))
}

async fn until(events: &mut tokio::sync::broadcast::Receiver<Event>, what: impl Fn(&Event) -> bool) {
    let seen = async { while !what(&events.recv().await.expect("no event is missed")) {} };
    tokio::time::timeout(Duration::from_secs(30), seen).await.expect("the event comes");
}

/// Answers downloads with that, and notes when they were asked for.
fn refuse(phone: &Device, dial: &Dial, answer: Response) -> Arc<Mutex<Vec<f64>>> {
    let (at, dial) = (Arc::<Mutex<Vec<f64>>>::default(), dial.clone());
    let asked = Arc::clone(&at);
    phone.link.tamper(move |request, real| {
        if !request.path.starts_with("/sync/download") {
            return real;
        }
        asked.lock().unwrap().push(dial.seconds());
        answer.clone()
    });
    at
}

#[tokio::test]
async fn a_server_that_is_down_is_asked_less_and_less_often_and_told_of_once() {
    let (server, dial) = (Server::memory().await, Dial::new());
    let phone = phone(&server, &dial);
    *phone.link.unknown.lock().unwrap() = vec!["/sync/watch"];
    phone.sync().await;
    let at = refuse(&phone, &dial, Response { status: 500, ..Response::default() });
    let mut events = phone.client.events();
    phone.client.start();
    while at.lock().unwrap().len() < 12 {
        dial.pass(2).await;
    }
    let at: Vec<f64> = at.lock().unwrap().clone();
    let mut longest: f64 = 0.5;
    for pair in at.windows(2) {
        longest = (longest * 2.0).min(60.0);
        let pause = pair[1] - pair[0];
        assert!((longest / 2.0..=longest + 1e-6).contains(&pause), "{pause} s of at most {longest} s: {at:?}");
    }
    assert_eq!(drained(&mut events).iter().filter(|event| matches!(event, Event::Offline(_))).count(), 1);
    phone.execute(&format!("INSERT INTO users (id) VALUES ('{}')", pk(1)));
    phone.link.leave_alone();
    let woken = async {
        loop {
            dial.pass(2).await;
        }
    };
    tokio::select! {
        () = woken => {}
        () = until(&mut events, |event| *event == Event::Online) => {}
    }
    assert_eq!(phone.client.unsent().unwrap(), 0);
}

#[tokio::test]
async fn a_server_that_wants_to_be_left_alone_is() {
    for status in [429, 503] {
        let (server, dial) = (Server::memory().await, Dial::new());
        let phone = phone(&server, &dial);
        *phone.link.unknown.lock().unwrap() = vec!["/sync/watch"];
        phone.sync().await;
        let (body, retry_after) = (r#"{"error":"rate_limited","message":""}"#.into(), Some(Duration::from_secs(300)));
        let at = refuse(&phone, &dial, Response { status, body, retry_after });
        match phone.client.sync_once().await {
            Err(outrigger_client::Error::Offline { retry_after: Some(after), .. }) => assert_eq!(after.as_secs(), 300),
            other => panic!("{other:?}"),
        }
        phone.client.start();
        while at.lock().unwrap().len() < 4 {
            dial.pass(2).await;
        }
        let pauses: Vec<f64> = at.lock().unwrap()[1..].windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.iter().all(|pause| (300.0..=376.0).contains(pause)), "{pauses:?}");
    }
}

/// The header, over HTTP.
#[tokio::test]
async fn the_pause_that_is_asked_for_is_read_from_the_answer() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let http = Http::new(format!("http://{}", listener.local_addr().unwrap()));
    let answering = async {
        for _ in 0..2 {
            let (mut line, _) = listener.accept().await.unwrap();
            let mut request = [0; 1_024];
            assert!(line.read(&mut request).await.unwrap() > 0);
            let answer = "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
            line.write_all(answer.as_bytes()).await.unwrap();
        }
    };
    let request = Request { method: "GET", path: "/".into(), token: "t".into(), body: None };
    let asking = async {
        let answer = http.send(request.clone()).await.unwrap();
        assert_eq!((answer.status, answer.retry_after), (503, Some(Duration::from_secs(7))));
        match http.watch(request.clone()).await.unwrap() {
            outrigger_client::transport::Watched::Refused(answer) => {
                assert_eq!((answer.status, answer.retry_after), (503, Some(Duration::from_secs(7))));
            }
            outrigger_client::transport::Watched::Lines(_) => panic!("there are no events"),
        }
    };
    tokio::join!(answering, asking);
}

#[tokio::test]
async fn a_server_without_events_is_polled_and_one_with_them_is_not() {
    for has_events in [false, true] {
        let (server, dial) = (Server::memory().await, Dial::new());
        let (phone, laptop) = (phone(&server, &dial), server.device("laptop"));
        if !has_events {
            *phone.link.unknown.lock().unwrap() = vec!["/sync/watch"];
        }
        let mut events = phone.client.events();
        phone.client.start();
        until(&mut events, |event| *event == Event::InSync).await;
        // Asleep: whether to poll, whether to look for edits, and whether the event stream still lives.
        dial.pass(3).await;
        let counts = || (phone.link.count("/sync/download"), phone.link.count("/sync/watch"));
        let (downloads, watches) = counts();
        while dial.seconds() < 300.0 {
            dial.pass(3).await;
        }
        let (polled, watched) = (counts().0 - downloads, counts().1 - watches);
        // To read is no reason to sync.
        for _ in 0..20 {
            assert_eq!(phone.contents().len(), 0);
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            dial.pass(3).await;
        }
        let read = phone.link.count("/sync/download") - downloads;
        assert!(read <= polled + 2, "{has_events}: {read} and {polled} without reading");
        // An event stream that is opened, here since no heartbeat comes in this time, tells where the server stands.
        let expected = if has_events { 0..=watched } else { 8..=10 };
        assert!(expected.contains(&polled), "{has_events}: {polled} polled, {watched} watched");
        laptop.execute(&format!("INSERT INTO users (id) VALUES ('{}')", pk(1)));
        laptop.sync().await;
        let on = async {
            loop {
                dial.pass(3).await;
            }
        };
        tokio::select! {
            () = on => {}
            () = until(&mut events, |event| matches!(event, Event::Downloaded { .. })) => {}
        }
    }
}

#[tokio::test]
async fn a_paused_client_rests() {
    let (server, dial) = (Server::memory().await, Dial::new());
    let phone = phone(&server, &dial);
    let mut events = phone.client.events();
    phone.client.start();
    until(&mut events, |event| *event == Event::InSync).await;
    dial.pass(3).await;
    phone.client.pause();
    let paused_at = dial.seconds();
    phone.execute(&format!("INSERT INTO users (id) VALUES ('{}')", pk(1)));
    // Everybody comes to rest: nobody sleeps to do something later, and the event stream is closed.
    while !dial.sleepers.borrow().is_empty() {
        dial.now.send_modify(|now| *now += Duration::from_millis(1));
        tokio::task::yield_now().await;
    }
    assert!(dial.seconds() < paused_at + 20.0, "the event stream was open for {} s", dial.seconds() - paused_at);
    let asked = phone.link.asked.lock().unwrap().len();
    dial.now.send_modify(|now| *now += Duration::from_secs(3_600));
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!((phone.client.unsent().unwrap(), phone.link.asked.lock().unwrap().len()), (1, asked));
    drained(&mut events);
    phone.client.resume();
    until(&mut events, |event| *event == Event::InSync).await;
    let closed = phone.client.close().unwrap();
    assert_eq!(closed.unsent, []);
    assert!(phone.client.unsent().is_err(), "nothing works with a connection that was given back");
}

/// The token ends while nothing else happens: the event stream gets a new one by itself.
#[tokio::test]
async fn a_watch_with_an_ended_token_refreshes_it() {
    let server = Server::memory().await;
    let link = crate::world::Link::new(&server.url);
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let tokens = Arc::clone(&asked);
    let token = move || {
        let n = tokens.fetch_add(1, Ordering::SeqCst);
        async move { Ok(format!("alice/{}", if n == 0 { "ends" } else { "phone" })) }
    };
    let dial = Dial::new();
    let config = outrigger_client::Config::over(Ending(link), token).table("users").clock(dial.clone());
    let folder = tempfile::tempdir().unwrap();
    let client = crate::world::open(&folder.path().join("a.db"), config);
    let mut events = client.events();
    client.start();
    until(&mut events, |event| *event == Event::InSync).await;
    dial.pass(3).await;
    let laptop = server.device("laptop");
    laptop.execute(&format!("INSERT INTO users (id) VALUES ('{}')", pk(1)));
    laptop.sync().await;
    until(&mut events, |event| matches!(event, Event::Downloaded { .. })).await;
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

/// The first token is good for everything but the event stream.
struct Ending(crate::world::Link);

#[async_trait::async_trait]
impl Transport for Ending {
    async fn send(&self, request: Request) -> Result<Response, outrigger_client::transport::TransportError> {
        self.0.send(request).await
    }

    async fn watch(
        &self,
        request: Request,
    ) -> Result<outrigger_client::transport::Watched, outrigger_client::transport::TransportError> {
        if request.token == "alice/ends" {
            let ended = Response { status: 401, ..Response::default() };
            return Ok(outrigger_client::transport::Watched::Refused(ended));
        }
        self.0.watch(request).await
    }
}

/// Nothing to do with the server: the app is told, and once.
#[tokio::test]
async fn what_needs_the_app_is_told_as_such() {
    let (server, dial) = (Server::memory().await, Dial::new());
    let phone = phone(&server, &dial);
    *phone.link.unknown.lock().unwrap() = vec!["/sync/watch"];
    phone.sync().await;
    let at = refuse(&phone, &dial, Response { status: 401, ..Response::default() });
    let mut events = phone.client.events();
    phone.client.start();
    while at.lock().unwrap().len() < 6 {
        dial.pass(2).await;
    }
    let told = drained(&mut events);
    assert_eq!(told.iter().filter(|event| matches!(event, Event::Failed(_))).count(), 1, "{told:?}");
    assert!(!told.iter().any(|event| matches!(event, Event::Offline(_))), "{told:?}");
}
