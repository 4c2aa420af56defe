//! The flags of `bench`.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use outrigger_bench::load::{PAYLOAD_BYTES_MIN, What};

/// The flags of `bench`, and what else can be measured.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArgs {
    /// What else is measured, in place of uploads and downloads.
    #[command(subcommand)]
    pub(crate) command: Option<BenchCommand>,
    #[command(flatten)]
    pub(crate) load: BenchLoadArgs,
}

/// The flags of `bench` alone.
#[derive(Args)]
#[command(group = ArgGroup::new("access").args(["secret", "token"]))]
pub(crate) struct BenchLoadArgs {
    /// http://HOST:PORT of a running server; otherwise one is started
    #[arg(long, value_name = "URL", requires = "access", conflicts_with = "store")]
    pub(crate) url: Option<String>,
    /// The secret that it takes tokens by
    #[arg(long, env = "JWT_SECRET", hide_env_values = true, requires = "url")]
    pub(crate) secret: Option<String>,
    /// A token of a device that it lets in: there is no other device then
    #[arg(long, requires = "url")]
    pub(crate) token: Option<String>,
    /// Its process, whose time and memory are then measured
    #[arg(long, value_name = "ID", requires = "url")]
    pub(crate) process: Option<u32>,
    /// Where a server that is started keeps its data; without --database-url in a throwaway database
    #[arg(long, value_enum, default_value_t = StoreKind::Sqlite)]
    pub(crate) store: StoreKind,
    /// postgres://… or sqlite://PATH of the server; its floor is made in there, and taken out again
    #[arg(long, value_name = "URL", conflicts_with = "store")]
    pub(crate) database_url: Option<String>,
    /// What is measured, separated by commas: upload, update, conflict, retry, download, first-sync, small-users,
    /// large-user [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) only: Vec<What>,
    /// Users of each line that is not about one user [default: 16 for single changes, 64 small ones, else 8]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) users: Option<u32>,
    /// Devices of each user [default: 16 of one large user, 2 that download, else 1]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) devices: Option<u32>,
    /// Changes of one upload
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "1,10,100,1000", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) batch: Vec<u32>,
    /// Changes of one page
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "100,1000", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) page: Vec<u32>,
    /// Changes of the user who has much
    #[arg(long, value_name = "NUMBER", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rows: u32,
    /// Bytes of each payload
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = clap::value_parser!(u32).range(i64::from(PAYLOAD_BYTES_MIN)..=100_000))]
    pub(crate) payload_bytes: u32,
    /// Seconds of one run, at the most
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub(crate) seconds: u32,
    /// Changes of one run, at the most [default: as many as there is time for]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) changes: Option<u64>,
    /// Runs of each line, of which the medians count
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
    /// What the server is measured next to: what its database can do without it
    #[arg(long, value_name = "KIND", value_enum, default_value_t = FloorKind::Statement)]
    pub(crate) floor: FloorKind,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A floor by its name.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum FloorKind {
    /// Uploads as one statement each, the least that there is
    Statement,
    /// On Postgres uploads as one transaction each, with a statement for each table
    Transaction,
    /// Nothing
    None,
}

/// A store by its name.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum StoreKind {
    /// In memory
    Memory,
    /// In a SQLite file
    Sqlite,
    /// In a Postgres that is started for it
    Postgres,
}

/// What is measured.
#[derive(Subcommand)]
pub(crate) enum BenchCommand {
    /// How soon devices hear of a change, and what it costs that they listen.
    Watch(BenchWatchArgs),
    /// How long the first sync of a new device takes, next to COPY of the same rows.
    Snapshot(BenchSnapshotArgs),
    /// How long uploads take while the log of their user is cleared.
    Sweep(BenchSweepArgs),
}

/// The flags of `bench snapshot`.
#[derive(Args)]
pub(crate) struct BenchSnapshotArgs {
    /// postgres://… or sqlite://PATH of an empty database [default: a SQLite file in a temporary folder]
    #[arg(long, value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// Rows of the user
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) rows: u32,
    /// Bytes of each row's payload
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = clap::value_parser!(u32).range(32..=100_000))]
    pub(crate) payload_bytes: u32,
    /// Rounds, of which the fastest counts
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The flags of `bench sweep`.
#[derive(Args)]
pub(crate) struct BenchSweepArgs {
    /// postgres://… or sqlite://PATH of an empty database [default: a SQLite file in a temporary folder]
    #[arg(long, value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// Rows of the user, each with three entries to be cleared
    #[arg(long, value_name = "NUMBER", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    pub(crate) rows: u32,
    /// Bytes of each payload
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = clap::value_parser!(u32).range(32..=100_000))]
    pub(crate) payload_bytes: u32,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The flags of `bench watch`.
#[derive(Args)]
pub(crate) struct BenchWatchArgs {
    /// postgres://… or sqlite://PATH of an empty database [default: a SQLite file in a temporary folder]
    #[arg(long, value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// Changes whose way to a watcher is timed
    #[arg(long, value_name = "NUMBER", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) changes: u32,
    /// Watchers of one user that are woken at once
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) crowd: u32,
    /// Watchers that nothing happens to; every one is an open file of both the server and this program
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(0..=25_000))]
    pub(crate) idle: u32,
    /// Seconds in which nothing happens to them
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub(crate) seconds: u32,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
