//! The command line.

mod bench;
mod failures;
mod inspect;
mod users;

use std::num::NonZeroU32;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use outrigger_config::{Age, Flags};
use outrigger_domain::{SourceId, TableName, UserId};

pub(crate) use bench::{
    BenchArgs, BenchCommand, BenchLoadArgs, BenchSnapshotArgs, BenchSweepArgs, BenchWatchArgs, FloorKind, StoreKind,
};

use crate::rebuild::Cursor;
pub(crate) use failures::{FailuresCommand, ListArgs, RetryArgs};
pub(crate) use inspect::{
    CompletionsArgs, ConfigCommand, DoctorArgs, MigrateArgs, PingArgs, ShowArgs, completions, man,
};
pub(crate) use users::{DeleteUserArgs, DevicesArgs, ExportArgs, UsersArgs};

/// The longest life of a token.
const TTL_MAX: Duration = Duration::from_secs(10 * 366 * 86_400);

const EXAMPLES: &str = "\
Examples:
  outrigger
      A demo on this machine: the database is outrigger.db in this folder, sign-in needs no password.
  outrigger --database-url postgres://localhost/app
      The same on Postgres.
  JWT_SECRET=\"$(cat secret)\" outrigger serve --config /etc/outrigger.toml
      For devices whose tokens are signed with that secret; the file says where to listen and which tables to sync.

Every key of the file is also an environment variable: OUTRIGGER_<KEY>, with two underscores between the parts of
a nested key (OUTRIGGER_AUTH__JWT_SECRET). Flags win over the environment, the environment over the file.

Exit codes: 0 stopped as asked, 1 could not start or run, 2 the configuration is wrong.";

const OPERATING: &str = "\
Works on the database directly, beside a running server or without one, and takes the configuration that the server
takes; a secret is not needed.

Exit codes: 0 done, and nothing that was tried remains; 1 some rows could not be projected or the database cannot be used;
2 the configuration is wrong. What `list` shows it has not tried.";

const CLEARING: &str = "\
Works on the database directly, beside a running server or without one, and takes the configuration that the server
takes; a secret is not needed. Prints what was cleared.

Exit codes: 0 done, 1 stopped half-way or the database cannot be used, 2 the configuration is wrong.";

const SIGNING: &str = "\
Needs auth.jwt_secret, or one of auth.keys with the alg HS256. Prints the token and nothing else, so that

  curl -H \"Authorization: Bearer $(outrigger token --user alice --device laptop)\" …

works as it stands.

Exit codes: 0 done, 2 the configuration is wrong or has no secret.";

/// More than any user is likely to have changed since the last backup.
const SKIP: NonZeroU32 = NonZeroU32::new(1_000_000).unwrap();

const RESTORING: &str = "\
Run it once, before the server is started on the restored database. Devices that have seen what the backup had not are
told so, fetch the rows as they are and keep what they have not uploaded yet. Numbers of the streams that were given out
in the time that was lost are not given out again, if --skip is more than any user's changes in that time.

Exit codes: 0 done, 1 the database cannot be used, 2 the configuration is wrong.";

/// A sync server: keeps the devices of an app's users in step.
#[derive(Parser)]
#[command(name = "outrigger", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
}

/// What is to be done.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the server. This is also what happens without a command.
    #[command(after_help = EXAMPLES)]
    Serve(Flags),
    /// Bring the database up to the tables of this release; a server that starts does so by itself.
    #[command(after_help = inspect::MIGRATING)]
    Migrate(MigrateArgs),
    /// Look at the configuration without starting anything.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look for what is wrong with the configuration, the database and this machine.
    #[command(after_help = inspect::EXAMINING)]
    Doctor(DoctorArgs),
    /// Ask a server on this machine whether it is up, as health checks of containers do.
    #[command(after_help = inspect::PINGING)]
    Ping(PingArgs),
    /// Make a token for a device, signed with the server's own secret.
    #[command(after_help = SIGNING)]
    Token(TokenArgs),
    /// Look at rows that could not be projected onto the business tables, and try them again.
    #[command(subcommand)]
    Failures(FailuresCommand),
    /// Make the rows of a business table what devices have uploaded.
    #[command(after_help = OPERATING)]
    Materialize(MaterializeArgs),
    /// List the users of whom anything is kept.
    #[command(after_help = users::LISTING)]
    Users(UsersArgs),
    /// List devices: when they were in touch, and how far behind they are.
    #[command(after_help = users::LISTING)]
    Devices(DevicesArgs),
    /// Write out all that is kept of a user, as lines of JSON.
    #[command(after_help = users::EXPORTING)]
    Export(ExportArgs),
    /// Remove all that is kept of a user, the business rows included.
    #[command(name = "delete-user", after_help = users::DELETING)]
    DeleteUser(DeleteUserArgs),
    /// Clear the log of what retention.* lets go, now; a running server does so by itself.
    #[command(after_help = CLEARING)]
    Compact(CompactArgs),
    /// Tell devices to start again from a snapshot, after the database was restored from a backup.
    #[command(name = "restore-mark", after_help = RESTORING)]
    RestoreMark(RestoreMarkArgs),
    /// Measure what the server does on this machine, next to what its database could do at all.
    Bench(BenchArgs),
    /// Print a script that completes commands and flags in a shell.
    #[command(after_help = inspect::COMPLETING)]
    Completions(CompletionsArgs),
    /// Print the manual page, in roff.
    #[command(after_help = inspect::MANUAL)]
    Man,
}

impl Command {
    /// The flags that are keys of the configuration.
    pub(crate) fn flags(&self) -> &Flags {
        /// A benchmark takes no configuration.
        static NONE: Flags =
            Flags { config: None, listen: None, database_url: None, demo: None, drain_timeout_s: None, log: None };
        match self {
            Self::Bench(_) | Self::Completions(_) | Self::Man => &NONE,
            Self::Migrate(args) => &args.flags,
            Self::Config(ConfigCommand::Check(args) | ConfigCommand::Show(args)) => &args.flags,
            Self::Doctor(args) => &args.flags,
            Self::Ping(args) => &args.flags,
            Self::Users(args) => &args.flags,
            Self::Devices(args) => &args.flags,
            Self::Export(args) => &args.flags,
            Self::DeleteUser(args) => &args.flags,
            Self::Serve(flags) => flags,
            Self::Token(args) => &args.flags,
            Self::Failures(FailuresCommand::List(args)) => &args.flags,
            Self::Failures(FailuresCommand::Retry(args)) => &args.flags,
            Self::Materialize(args) => &args.flags,
            Self::Compact(args) => &args.flags,
            Self::RestoreMark(args) => &args.flags,
        }
    }
}

/// The flags of `token`.
#[derive(Args)]
pub(crate) struct TokenArgs {
    /// The user that it speaks for
    #[arg(long, value_parser = user)]
    pub(crate) user: UserId,
    /// The device, or source, that it speaks for
    #[arg(long, value_parser = device)]
    pub(crate) device: SourceId,
    /// How long it is good for, such as 15m, 1h or 30d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = ttl)]
    pub(crate) ttl: Age,
    /// Make it one of an administrator, as auth.admin_claim and auth.admin_value have it
    #[arg(long)]
    pub(crate) admin: bool,
    #[command(flatten)]
    flags: Flags,
}

/// The flags of `materialize`.
#[derive(Args)]
pub(crate) struct MaterializeArgs {
    /// The table to rebuild: TABLE or SCHEMA.TABLE
    #[arg(long, value_name = "TABLE", value_parser = table)]
    pub(crate) rebuild: TableName,
    /// Where to go on, as an interrupted run has printed it
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<Cursor>,
    /// Rows in one step
    #[arg(long, value_name = "ROWS", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) batch: u32,
    #[command(flatten)]
    flags: Flags,
}

/// The flags of `compact`.
#[derive(Args)]
pub(crate) struct CompactArgs {
    /// Only the stream of this user
    #[arg(long, value_parser = user)]
    pub(crate) user: Option<UserId>,
    #[command(flatten)]
    flags: Flags,
}

/// The flags of `restore-mark`.
#[derive(Args)]
pub(crate) struct RestoreMarkArgs {
    /// Numbers that every stream skips, one at least
    #[arg(long, value_name = "NUMBERS", default_value_t = SKIP)]
    pub(crate) skip: NonZeroU32,
    #[command(flatten)]
    flags: Flags,
}

/// Reads the command line; ends the process on `--help`, `--version` and errors.
pub(crate) fn parse() -> Command {
    Cli::parse().chosen()
}

impl Cli {
    fn chosen(self) -> Command {
        self.command.unwrap_or(Command::Serve(self.flags))
    }
}

fn user(text: &str) -> Result<UserId, String> {
    UserId::parse(text).map_err(|why| why.to_string())
}

fn device(text: &str) -> Result<SourceId, String> {
    SourceId::parse(text).map_err(|why| why.to_string())
}

fn ttl(text: &str) -> Result<Age, String> {
    match text.parse::<Age>() {
        Ok(Age(time)) if time < TTL_MAX && time.as_secs() > 0 => Ok(Age(time)),
        _ => Err("a length of time from 1s to 10y, such as 15m, 1h or 30d".into()),
    }
}

fn table(text: &str) -> Result<TableName, String> {
    TableName::parse_qualified(text).map_err(|why| why.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_is_the_default_command() {
        for line in [["outrigger", "--listen=127.0.0.1:0"].as_slice(), &["outrigger", "serve", "--listen=127.0.0.1:0"]]
        {
            let command = Cli::try_parse_from(line).unwrap().chosen();
            assert!(matches!(command, Command::Serve(_)), "{line:?}");
            assert_eq!(command.flags().listen, Some(SocketAddr::from(([127, 0, 0, 1], 0))), "{line:?}");
        }
    }

    #[test]
    fn demo_is_a_switch_that_takes_a_value() {
        for (flag, demo) in [("--demo", true), ("--demo=true", true), ("--demo=false", false)] {
            assert_eq!(Cli::try_parse_from(["outrigger", flag]).unwrap().flags.demo, Some(demo), "{flag}");
        }
    }
}
