//! `outrigger-torture`: breaks servers for as long as it is told to, and says whether their promises were kept.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use outrigger_torture::seed;
use outrigger_torture::sim::{Ground, Plan, StoreKind};

/// Runs devices on a server that everything happens to, episode after episode, and checks each.
///
/// Exit codes: 0 all promises were kept, 1 one was not.
#[derive(Parser)]
#[command(name = "outrigger-torture", version)]
struct Arguments {
    /// For so many minutes, and to the end of the last episode
    #[arg(long, default_value_t = 1)]
    minutes: u64,
    /// The seed of the first episode; the next ones follow from it [default: a fresh one]
    #[arg(long)]
    seed: Option<u64>,
    /// What the server keeps its data in [default: one after the other]
    #[arg(long)]
    store: Option<StoreKind>,
    /// Run that many episodes, however long it takes
    #[arg(long, conflicts_with = "minutes")]
    episodes: Option<u64>,
    /// Print the schedule of the first episode, and run nothing
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
    match runtime {
        Ok(runtime) => runtime.block_on(async {
            tokio::select! {
                code = run(&arguments, first, &stores) => code,
                // What runs is dropped, and the servers of the episode are killed by that.
                () = told_to_stop() => ExitCode::FAILURE,
            }
        }),
        Err(error) => {
            eprintln!("outrigger-torture: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments, first: u64, stores: &[StoreKind]) -> ExitCode {
    println!("seed {first}");
    let began = Instant::now();
    let length = Duration::from_secs(arguments.minutes * 60);
    let mut grounds = Vec::new();
    for store in stores {
        grounds.push((*store, Ground::prepare(*store).await));
    }
    let bar = progress(arguments, length);
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for episode in 0.. {
        let is_over = arguments.episodes.map_or(began.elapsed() >= length, |episodes| episode >= episodes);
        if is_over {
            break;
        }
        let (store, ground) = &grounds[episode as usize % grounds.len()];
        let seed = first.wrapping_add(episode);
        bar.set_message(format!("seed {seed} on {store}"));
        match ground.run(seed).await {
            Ok(counted) => {
                *counts.entry(format!("episodes on {store}")).or_default() += 1;
                counted.into_iter().for_each(|(name, count)| *counts.entry(name).or_default() += count);
            }
            Err(wrong) => {
                bar.abandon();
                report(seed, *store, &wrong);
                summary(&counts);
                return ExitCode::FAILURE;
            }
        }
        bar.set_position(arguments.episodes.map_or(began.elapsed().as_secs(), |_| episode + 1));
        if bar.is_hidden() {
            // A log instead of a terminal.
            eprintln!("{} s: seed {seed} on {store} is through", began.elapsed().as_secs());
        }
    }
    bar.finish_and_clear();
    summary(&counts);
    println!("nothing was lost in {} s", began.elapsed().as_secs());
    ExitCode::SUCCESS
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
    let (end, unit) = arguments.episodes.map_or((length.as_secs(), "s"), |episodes| (episodes, "episodes"));
    let template = format!("{{wide_bar}} {{pos}}/{{len}} {unit}, {{msg}}");
    ProgressBar::new(end).with_style(ProgressStyle::with_template(&template).unwrap_or(ProgressStyle::default_bar()))
}

fn report(seed: u64, store: StoreKind, wrong: &[String]) {
    println!("seed {seed} on {store} has failed:");
    wrong.iter().for_each(|what| println!("  {what}"));
    println!("again: outrigger-torture --episodes 1 --seed {seed} --store {store}");
}

fn summary(counts: &BTreeMap<String, u64>) {
    let width = counts.keys().map(String::len).max().unwrap_or(0);
    counts.iter().for_each(|(name, count)| println!("{name:width$}  {count:>9}"));
}
