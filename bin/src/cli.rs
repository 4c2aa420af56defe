//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

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

/// A sync server: keeps the devices of an app's users in step.
#[derive(Parser)]
#[command(name = "outrigger", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server. This is also what happens without a command.
    #[command(after_help = EXAMPLES)]
    Serve(ServeArgs),
}

/// The flags of `serve`; each but the first is a key of the configuration of the same name.
#[derive(Args, Default, Serialize)]
pub(crate) struct ServeArgs {
    /// The configuration file [default: outrigger.toml in this folder, if there is one]
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,
    /// The address and port to listen on; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listen: Option<SocketAddr>,
    /// postgres://…, sqlite://PATH or memory: [default: sqlite://outrigger.db]
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) database_url: Option<String>,
    /// Sign-in without a password, and the tables users and posts; on a loopback address only
    /// [default: true if there is neither a configuration file nor a secret]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) demo: Option<bool>,
    /// Seconds that running requests may take to finish when the server is told to stop [default: 10]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) drain_timeout_s: Option<u32>,
    /// What to log, as in RUST_LOG: a level, or target=level, separated by commas [default: info]
    #[arg(long, value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) log: Option<String>,
}

/// Reads the command line; ends the process on `--help`, `--version` and errors.
pub(crate) fn parse() -> ServeArgs {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Serve(args)) => args,
        None => cli.serve,
    }
}

#[cfg(test)]
mod tests {
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
            let cli = Cli::try_parse_from(line).unwrap();
            let args = match cli.command {
                Some(Command::Serve(args)) => args,
                None => cli.serve,
            };
            assert_eq!(args.listen, Some(SocketAddr::from(([127, 0, 0, 1], 0))), "{line:?}");
        }
    }

    #[test]
    fn demo_is_a_switch_that_takes_a_value() {
        for (flag, demo) in [("--demo", true), ("--demo=true", true), ("--demo=false", false)] {
            assert_eq!(Cli::try_parse_from(["outrigger", flag]).unwrap().serve.demo, Some(demo), "{flag}");
        }
    }
}
