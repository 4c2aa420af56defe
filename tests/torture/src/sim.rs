//! Devices on a server that everything happens to, and whether the promises were kept when all is over.
//!
//! An episode is made from one seed: who edits what and when, what becomes of each request on its way, what happens to
//! the server. What that meets is up to the machine, so the same seed gives the same schedule and not the same history.

mod chaos;
mod check;
mod device;
mod facts;
mod ledger;
mod node;
mod plan;
mod proxy;
mod reader;
mod store;
mod tokens;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::chaos::Server;
use self::check::{Evidence, check};
use self::device::Device;
use self::facts::Facts;
use self::node::{Addresses, Program};
use self::plan::{DevicePlan, Policy, USERS, user_name};
pub use self::plan::{Plan, StoreKind};
use self::proxy::Lines;
use self::reader::Reader;
pub use self::store::Postgres;
use self::store::Store;

/// Rounds in which devices must come to rest.
const ROUNDS_MAX: usize = 40;

/// How much is told of what was wrong while an episode went on.
const BROKEN_TOLD_MAX: usize = 20;

/// What is needed to run episodes on a store.
pub enum Ground {
    /// A new file for each.
    Sqlite,
    /// A Postgres for all, and a new database for each.
    Postgres(Postgres),
}

impl Ground {
    /// Prepares it.
    pub async fn prepare(store: StoreKind) -> Self {
        match store {
            StoreKind::Sqlite => Self::Sqlite,
            StoreKind::Postgres => Self::Postgres(Postgres::start().await),
        }
    }

    fn kind(&self) -> StoreKind {
        match self {
            Self::Sqlite => StoreKind::Sqlite,
            Self::Postgres(_) => StoreKind::Postgres,
        }
    }

    /// Runs the episode of a seed. Gives what was counted, or all that is wrong.
    pub async fn run(&self, seed: u64) -> Result<BTreeMap<String, u64>, Vec<String>> {
        let plan = Plan::new(seed, self.kind());
        let folder = tempfile::Builder::new().prefix("outrigger-sim-").tempdir().map_err(only)?;
        // Written first, so that it is there whatever happens.
        std::fs::write(folder.path().join("schedule.txt"), plan.to_string()).map_err(only)?;
        let lines = Lines::new(plan, Addresses::new(if self.kind() == StoreKind::Postgres { 2 } else { 1 }));
        let mut result = self.episode(&lines, folder.path()).await;
        if let Err(wrong) = &mut result {
            // Where it came to no check, what was wrong before may be why.
            let broken = lines.ledger.lock().broken.clone();
            let untold = broken.into_iter().take(BROKEN_TOLD_MAX).filter(|what| !wrong.contains(what));
            wrong.extend(untold.collect::<Vec<_>>());
            // What was said over the line, for whoever looks into it.
            let _ = std::fs::write(folder.path().join("ledger.txt"), lines.ledger.lock().to_string());
            keep(folder);
        }
        result
    }

    async fn episode(&self, lines: &Arc<Lines>, folder: &Path) -> Result<BTreeMap<String, u64>, Vec<String>> {
        let store = match self {
            Self::Sqlite => Store::sqlite(folder),
            Self::Postgres(postgres) => Store::postgres(postgres).await,
        };
        let store = store.map_err(only)?;
        let program = Program::new(folder, &store.url()).map_err(only)?;
        let server = Server::start(store, program, lines).await.map_err(only)?;
        let (mut devices, mut readers) = chaos(&server, folder).await.map_err(only)?;
        lines.is_calm.store(true, Ordering::SeqCst);
        server.mend().await.map_err(only)?;
        lines.settle().await;
        rest(lines, &mut devices).await.map_err(only)?;
        devices.extend(newcomers(lines, folder, devices.len()).await.map_err(only)?);
        for reader in &mut readers {
            reader.finish().await;
        }
        server.end().await.map_err(only)?;
        let facts = Facts::read(&server.store).await.map_err(only)?;
        let restored = server.restored.lock().await;
        let mut ledger = lines.ledger.lock();
        let evidence = Evidence {
            plan: &lines.plan,
            ledger: &ledger,
            facts: &facts,
            restored: restored.as_ref(),
            readers: &readers,
        };
        let mut wrong = check(&evidence);
        wrong.extend(devices_are_equal(&devices, &facts));
        if !wrong.is_empty() || !ledger.broken.is_empty() {
            return Err(wrong);
        }
        for (name, count) in [("entries in logs", facts.log.len()), ("entries pruned", facts.pruned.len())] {
            ledger.counts.add(name, count as u64);
        }
        ledger.counts.add("rows with projection failures", facts.failed.len() as u64);
        Ok(std::mem::take(&mut ledger.counts.named))
    }
}

fn only(error: impl ToString) -> Vec<String> {
    vec![error.to_string()]
}

/// Keeps the folder of an episode that failed, for whoever looks into it.
fn keep(folder: TempDir) {
    let path = folder.keep();
    eprintln!("the schedule, the databases and the logs are in {}", path.display());
}

/// Everything at once: devices, readers, faults. Gives the devices and the readers when all are through.
async fn chaos(server: &Arc<Server>, folder: &Path) -> Result<(Vec<Device>, Vec<Reader>), String> {
    let lines = &server.lines;
    let stop = Arc::new(AtomicBool::new(false));
    let mut reading = JoinSet::new();
    for user in 0..USERS {
        let (mut reader, stop) = (Reader::new(lines, user_name(user))?, Arc::clone(&stop));
        reading.spawn(async move {
            reader.follow(&stop).await;
            reader
        });
    }
    let mut living = JoinSet::new();
    for plan in lines.plan.devices.clone() {
        let (lines, folder) = (Arc::clone(lines), folder.to_owned());
        living.spawn(async move {
            sleep(Duration::from_millis(plan.joins_ms)).await;
            let mut device = Device::start(&lines, &folder, plan).await?;
            device.live().await?;
            Ok::<_, String>(device)
        });
    }
    let suffered = server.suffer().await;
    let mut devices = Vec::new();
    while let Some(lived) = living.join_next().await {
        devices.push(lived.map_err(|error| error.to_string())??);
    }
    suffered?;
    stop.store(true, Ordering::SeqCst);
    let readers = reading.join_all().await;
    devices.sort_by_key(|device| device.plan.number);
    Ok((devices, readers))
}

/// Devices sync until nothing moves any more.
async fn rest(lines: &Lines, devices: &mut [Device]) -> Result<(), String> {
    for device in &mut *devices {
        device.calm()?;
    }
    lines.settle().await;
    let (mut quiet, mut moved) = (0, Vec::new());
    for round in 0..ROUNDS_MAX {
        moved.clear();
        for device in &mut *devices {
            let name = device.plan.name();
            let Some(report) = device.sync().await? else {
                return Err(format!("{name} cannot sync though nothing is in its way"));
            };
            // Parents that are on the way have come by then.
            let removed = if round >= 2 { device.tidy()? } else { 0 };
            if report.uploaded + report.downloaded + removed > 0 {
                moved.push(format!("{name}: {report:?}, {removed} removed"));
            }
        }
        quiet = if moved.is_empty() { quiet + 1 } else { 0 };
        if quiet >= 2 && round > 2 {
            return Ok(());
        }
    }
    Err(format!("the devices do not come to rest in {ROUNDS_MAX} rounds: {moved:?}"))
}

/// A new device for each user, which starts from the rows as they are.
async fn newcomers(lines: &Arc<Lines>, folder: &Path, from: usize) -> Result<Vec<Device>, String> {
    let mut devices = Vec::new();
    for user in 0..USERS {
        let (number, policy) = (from + usize::from(user), Policy::MergeFields);
        let (place, steps) = (number, Vec::new());
        let plan = DevicePlan { user, number, place, joins_ms: 0, policy, is_background: false, steps };
        let mut device = Device::start(lines, folder, plan).await?;
        device.sync().await?;
        devices.push(device);
    }
    Ok(devices)
}

fn devices_are_equal(devices: &[Device], facts: &Facts) -> Vec<String> {
    let mut wrong = Vec::new();
    for device in devices {
        let (user, name) = (device.plan.user_name(), device.plan.name());
        let expected = facts.rows_of(&user);
        match device.rows() {
            Ok(rows) if rows == expected => {}
            Ok(rows) => {
                let differs = |key: &&(String, String)| rows.get(*key) != expected.get(*key);
                let Some(key) = rows.keys().chain(expected.keys()).find(differs) else { continue };
                let (is, said) = (rows.get(key), expected.get(key));
                wrong.push(format!("{name} of {user} has {is:?} as {key:?}, and the server {said:?}"));
            }
            Err(error) => wrong.push(error),
        }
    }
    wrong
}
