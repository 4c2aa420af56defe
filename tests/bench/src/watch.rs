//! `outrigger bench watch`: how soon devices hear of a change, and what it costs that they listen.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::client::{Client, Events};
use crate::server::{Cost, Server};
use crate::stats::Times;
use crate::{BenchError, Progress};

/// How much of it.
#[derive(Clone, Debug)]
pub struct WatchBench {
    /// The database; an empty one.
    pub database_url: String,
    /// Changes whose way to a watcher is timed.
    pub changes: u32,
    /// Watchers of one user that one change wakes.
    pub crowd: u32,
    /// Watchers that nothing happens to, each of a user of its own.
    pub idle: u32,
    /// How long nothing happens to them.
    pub idle_for: Duration,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct WatchReport {
    /// From before the upload until the watcher on the same node has the event.
    one_node: Times,
    /// The same with the watcher on another node; only on Postgres.
    #[serde(skip_serializing_if = "Option::is_none")]
    two_nodes: Option<Times>,
    /// From before the upload until the last of the crowd has the event.
    crowd: Times,
    crowd_size: u32,
    idle: Idle,
}

#[derive(Debug, Serialize)]
struct Idle {
    watchers: u32,
    /// Memory of the server with them, and without.
    memory_mib: f64,
    memory_before_mib: f64,
    /// The most that the server has used since it started.
    memory_peak_mib: f64,
    /// Of one core.
    cpu_percent: f64,
}

impl WatchReport {
    /// For people.
    pub fn table(&self) -> String {
        let line = |what: &str, times: &Times| {
            format!("{what:<44} {:>8.2} {:>8.2} {:>8.2}\n", times.p50_ms, times.p99_ms, times.max_ms)
        };
        let mut text = format!("{:<44} {:>8} {:>8} {:>8}\n", "", "p50 ms", "p99 ms", "max ms");
        text += &line("change to wake-up, one node", &self.one_node);
        if let Some(times) = &self.two_nodes {
            text += &line("change to wake-up, two nodes", times);
        }
        text += &line(&format!("change to the last of {} watchers", self.crowd_size), &self.crowd);
        let Idle { watchers, memory_mib, memory_before_mib, cpu_percent, .. } = self.idle;
        text += &format!(
            "{watchers} idle watchers: {memory_mib:.1} MiB ({memory_before_mib:.1} MiB without), {cpu_percent:.2} % of a core\n"
        );
        text
    }
}

/// Files that are open beside the connections of watchers, more than ever are.
const OPEN_BESIDE: u64 = 200;

/// Measures all of it on servers of its own.
pub async fn run(bench: &WatchBench, progress: &dyn Progress) -> Result<WatchReport, BenchError> {
    let needed = u64::from(bench.idle) + u64::from(bench.crowd) + OPEN_BESIDE;
    // The servers get what this process may.
    let allowed = rlimit::increase_nofile_limit(needed)?;
    if allowed < needed {
        let why = format!(
            "so many watchers need {needed} open files, and there may be {allowed}: raise the limit, or have fewer"
        );
        return Err(BenchError::Refused(why));
    }
    let folder = tempfile::tempdir()?;
    let server = Server::start(folder.path(), &bench.database_url)?;
    progress.begin("one node");
    let one_node = latency(&server, &server, "one", bench.changes).await?;
    let two_nodes = if bench.database_url.starts_with("postgres") {
        progress.begin("two nodes");
        Some(on_two_nodes(&server, folder.path(), bench).await?)
    } else {
        None
    };
    progress.begin("a crowd");
    let crowd = wake_crowd(&server, bench.crowd).await?;
    progress.begin("idle watchers");
    let idle = idle(&server, bench).await?;
    Ok(WatchReport { one_node, two_nodes, crowd, crowd_size: bench.crowd, idle })
}

async fn on_two_nodes(server: &Server, folder: &Path, bench: &WatchBench) -> Result<Times, BenchError> {
    let other = Server::start(folder, &bench.database_url)?;
    latency(server, &other, "two", bench.changes).await
}

/// Changes on one node, each timed until a watcher on the other has heard of it.
async fn latency(here: &Server, there: &Server, user: &str, changes: u32) -> Result<Times, BenchError> {
    let mut phone = Client::connect(&here.address, &here.token(user, "phone")?).await?;
    let mut events = watcher(there, user, "tablet").await?;
    let mut times = Vec::new();
    for number in 1..=i64::from(changes) {
        let began = Instant::now();
        upload(&mut phone, number).await?;
        times.push(events.until(number).await? - began);
    }
    Ok(Times::of(times))
}

async fn watcher(server: &Server, user: &str, device: &str) -> Result<Events, BenchError> {
    let mut client = Client::connect(&server.address, &server.token(user, device)?).await?;
    let mut events = client.watch().await?;
    events.until(0).await?;
    Ok(events)
}

async fn upload(client: &mut Client, number: i64) -> Result<(), BenchError> {
    let body = format!(
        r#"{{"changes":[{{"source_change_id":{number},"table":"users","op":"INSERT","pk":"{}","server_version":0,"payload":{{"name":"n"}}}}]}}"#,
        uuid::Uuid::new_v4()
    );
    client.call("POST", "/sync/upload", Bytes::from(body)).await.map(drop)
}

/// Rounds of one change that all of them hear of.
async fn wake_crowd(server: &Server, crowd: u32) -> Result<Times, BenchError> {
    const ROUNDS: i64 = 10;
    let mut watchers = JoinSet::new();
    let (heard, mut all_heard) = tokio::sync::mpsc::unbounded_channel();
    for n in 0..crowd {
        let (mut events, heard) = (watcher(server, "crowd", &format!("watcher {n}")).await?, heard.clone());
        watchers.spawn(async move {
            for number in 1..=ROUNDS {
                let Ok(at) = events.until(number).await else { return };
                let _ = heard.send(at);
            }
        });
    }
    let mut phone = Client::connect(&server.address, &server.token("crowd", "phone")?).await?;
    let mut times = Vec::new();
    for number in 1..=ROUNDS {
        let began = Instant::now();
        upload(&mut phone, number).await?;
        let mut last = began;
        for _ in 0..crowd {
            last = last.max(all_heard.recv().await.ok_or(BenchError::Ended)?);
        }
        times.push(last - began);
    }
    Ok(Times::of(times))
}

async fn idle(server: &Server, bench: &WatchBench) -> Result<Idle, BenchError> {
    const MIB: f64 = 1024.0 * 1024.0;
    let before = server.cost();
    let mut watchers = Vec::new();
    for n in 0..bench.idle {
        watchers.push(watcher(server, &format!("idle {n}"), "phone").await?);
    }
    let began = server.cost();
    tokio::time::sleep(bench.idle_for).await;
    let after: Cost = server.cost().since(began);
    Ok(Idle {
        watchers: bench.idle,
        memory_mib: after.memory as f64 / MIB,
        memory_before_mib: before.memory as f64 / MIB,
        memory_peak_mib: after.memory_peak as f64 / MIB,
        cpu_percent: 100.0 * after.cpu.as_secs_f64() / bench.idle_for.as_secs_f64(),
    })
}
