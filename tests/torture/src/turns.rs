//! What a long run does in turns, each from a seed of its own.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;

use clap::ValueEnum;
use tokio::process::Command;
use tokio::runtime::Handle;

use crate::differential::Field;
use crate::sim::{Ground, StoreKind};

/// Histories of one turn.
const HISTORIES: u32 = 40;
/// Seconds that a fuzz target has in one turn.
const FUZZ_S: u32 = 10;
/// What libFuzzer's count of tried inputs stands behind.
const TRIED: &str = "stat::number_of_executed_units:";
/// Lines of what libFuzzer printed that are shown if it found something.
const LINES_SHOWN: usize = 40;

/// Runs fuzz targets under libFuzzer.
const GUIDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/guided/run");

/// What can be run in turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Devices on a server that everything happens to.
    Devices,
    /// Random histories on the model and on every store.
    Histories,
    /// Input that nobody means to send, under libFuzzer.
    Inputs,
}

/// Something that can be run once more with another seed.
pub enum Turn {
    /// An episode of the simulator.
    Episode(StoreKind, Ground),
    /// Histories on these servers.
    Histories(Arc<Field>),
    /// The fuzz target of that name.
    Inputs(&'static str),
}

/// What a turn found wrong.
pub struct Wrong {
    /// A line each.
    pub lines: Vec<String>,
    /// The command that does the same again, or, for an input, one that tries it again: it is kept.
    pub again: String,
}

impl Turn {
    /// All turns of that part, ready to be run.
    ///
    /// # Errors
    ///
    /// If the fuzz targets cannot be built.
    pub async fn of(part: Part, stores: &[StoreKind]) -> Result<Vec<Self>, String> {
        let mut turns = Vec::new();
        match part {
            Part::Devices => {
                for store in stores {
                    turns.push(Self::Episode(*store, Ground::prepare(*store).await));
                }
            }
            Part::Histories => turns.push(Self::Histories(Arc::new(Field::start().await))),
            Part::Inputs => {
                let built = Command::new(GUIDED).arg("build").kill_on_drop(true).status().await;
                if !built.map_err(|error| error.to_string())?.success() {
                    return Err("the fuzz targets cannot be built".into());
                }
                turns.extend(["upload", "query", "token", "configuration"].map(Self::Inputs));
            }
        }
        Ok(turns)
    }

    /// What it is called while it runs.
    pub fn name(&self) -> String {
        match self {
            Self::Episode(store, _) => format!("devices on {store}"),
            Self::Histories(_) => "histories on every store".into(),
            Self::Inputs(target) => format!("inputs to {target}"),
        }
    }

    /// Runs it. Gives what was counted.
    ///
    /// # Errors
    ///
    /// If a promise was not kept.
    pub async fn run(&self, seed: u64) -> Result<BTreeMap<String, u64>, Wrong> {
        match self {
            Self::Episode(store, ground) => {
                let again = format!("outrigger-torture --only devices --turns 1 --seed {seed} --store {store}");
                let mut counts = ground.run(seed).await.map_err(|lines| Wrong { lines, again })?;
                counts.insert(format!("episodes on {store}"), 1);
                Ok(counts)
            }
            Self::Histories(field) => histories(field, seed).await,
            Self::Inputs(target) => inputs(target, seed).await,
        }
    }
}

async fn histories(field: &Arc<Field>, seed: u64) -> Result<BTreeMap<String, u64>, Wrong> {
    let (field, runtime) = (Arc::clone(field), Handle::current());
    let run = tokio::task::spawn_blocking(move || field.run_random(&runtime, seed, HISTORIES));
    let again = format!("outrigger-torture --only histories --turns 1 --seed {seed}");
    match run.await.map_err(|error| error.to_string()).flatten() {
        Ok(()) => Ok([("histories on every store".into(), HISTORIES.into())].into()),
        Err(why) => Err(Wrong { lines: vec![why], again }),
    }
}

async fn inputs(target: &str, seed: u64) -> Result<BTreeMap<String, u64>, Wrong> {
    // It takes four bytes, and draws a seed itself for 0.
    let seed = (seed % u64::from(u32::MAX)) + 1;
    let arguments = [FUZZ_S.to_string(), seed.to_string(), target.to_owned()];
    let again = "cargo nextest run --package outrigger-fuzz".to_owned();
    let run = Command::new(GUIDED).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output().await;
    let run = match run {
        Ok(run) => run,
        Err(error) => return Err(Wrong { lines: vec![error.to_string()], again }),
    };
    let told = String::from_utf8_lossy(&run.stderr);
    let tried = told.lines().find_map(|line| line.strip_prefix(TRIED)?.trim().parse().ok());
    match tried.filter(|_| run.status.success()) {
        Some(tried) => Ok([(format!("inputs to {target}"), tried)].into()),
        None => {
            let lines: Vec<String> = told.lines().map(str::to_owned).collect();
            Err(Wrong { lines: lines[lines.len().saturating_sub(LINES_SHOWN)..].to_vec(), again })
        }
    }
}
