//! `outrigger-torture`: breaks servers for as long as it is told to, and says whether their promises were kept.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use outrigger_torture::seed;
use outrigger_torture::sim::{Plan, StoreKind};
use outrigger_torture::turns::{Part, Turn, Wrong};

/// Breaks servers in turns: devices on one that everything happens to, random histories on the model and on every store,
/// and input that nobody means to send.
///
/// Exit codes: 0 all promises were kept, 1 one was not.
#[derive(Parser)]
#[command(name = "outrigger-torture", version)]
struct Arguments {
    /// For so many minutes, and to the end of the last turn
    #[arg(long, default_value_t = 1)]
    minutes: u64,
    /// The seed of the first turn; the next ones follow from it [default: a fresh one]
    #[arg(long)]
    seed: Option<u64>,
    /// Only that [default: all in turns]
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// What the devices' server keeps its data in [default: one after the other]
    #[arg(long)]
    store: Option<StoreKind>,
    /// Run that many turns, however long it takes
    #[arg(long, conflicts_with = "minutes")]
    turns: Option<u64>,
    /// Print the schedule of what would happen to the devices' server, and run nothing
    #[arg(long)]
    schedule: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let first = arguments.seed.unwrap_or_else(seed::fresh);
    let stores = arguments.store.map_or_else(|| vec![StoreKind::Sqlite, StoreKind::Postgres], |store| vec![store]);
    if arguments.schedule {
        stores.iter().for_each(|store| print!("{}", Plan::new(first, *store)));
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ran = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        let ran = runtime.block_on(async {
            tokio::select! {
                code = run(&arguments, first, &stores) => code,
                // What runs is dropped, and the servers of the turn are killed by that.
                () = told_to_stop() => Ok(ExitCode::FAILURE),
            }
        });
        // Histories run on a thread of their own. Waited for, they would take the end of their servers for a failure.
        runtime.shutdown_background();
        ran
    });
    ran.unwrap_or_else(|why| {
        eprintln!("outrigger-torture: {why}");
        ExitCode::FAILURE
    })
}

async fn run(arguments: &Arguments, first: u64, stores: &[StoreKind]) -> Result<ExitCode, String> {
    println!("seed {first}");
    let parts = arguments.only.map_or_else(|| Part::value_variants().to_vec(), |part| vec![part]);
    let mut turns = Vec::new();
    for part in parts {
        turns.extend(Turn::of(part, stores).await?);
    }
    let began = Instant::now();
    let length = Duration::from_secs(arguments.minutes * 60);
    let bar = progress(arguments, length);
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for number in 0.. {
        if arguments.turns.map_or(began.elapsed() >= length, |turns| number >= turns) {
            break;
        }
        let turn = &turns[number as usize % turns.len()];
        let (name, seed) = (turn.name(), first.wrapping_add(number));
        bar.set_message(format!("seed {seed}: {name}"));
        match turn.run(seed).await {
            Ok(counted) => counted.into_iter().for_each(|(name, count)| *counts.entry(name).or_default() += count),
            Err(wrong) => {
                bar.abandon();
                report(seed, &name, &wrong);
                summary(&counts);
                return Ok(ExitCode::FAILURE);
            }
        }
        bar.set_position(arguments.turns.map_or(began.elapsed().as_secs(), |_| number + 1));
        if bar.is_hidden() {
            // A log instead of a terminal.
            eprintln!("{} s: seed {seed}, {name}: kept", began.elapsed().as_secs());
        }
    }
    bar.finish_and_clear();
    summary(&counts);
    println!("every promise was kept for {} s", began.elapsed().as_secs());
    Ok(ExitCode::SUCCESS)
}

async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    if let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

fn progress(arguments: &Arguments, length: Duration) -> ProgressBar {
    let (end, unit) = arguments.turns.map_or((length.as_secs(), "s"), |turns| (turns, "turns"));
    let template = format!("{{wide_bar}} {{pos}}/{{len}} {unit}, {{msg}}");
    ProgressBar::new(end).with_style(ProgressStyle::with_template(&template).unwrap_or(ProgressStyle::default_bar()))
}

fn report(seed: u64, name: &str, wrong: &Wrong) {
    println!("{name}, seed {seed}: a promise was not kept:");
    wrong.lines.iter().for_each(|what| println!("  {what}"));
    println!("again: {}", wrong.again);
}

fn summary(counts: &BTreeMap<String, u64>) {
    let width = counts.keys().map(String::len).max().unwrap_or(0);
    counts.iter().for_each(|(name, count)| println!("{name:width$}  {count:>9}"));
}
