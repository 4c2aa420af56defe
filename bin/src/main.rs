//! The `outrigger` server and the commands that go with it: reads the configuration, wires the adapters together and
//! runs until it is told to stop.

mod banner;
mod bench;
mod catalog;
mod cli;
mod compact;
mod doctor;
mod edge;
mod failures;
mod inspect;
mod logging;
mod metrics;
mod migrate;
mod output;
mod ping;
mod rebuild;
mod serve;
mod shutdown;
mod tokens;
mod traces;
mod users;
mod wire;

use std::error::Error;
use std::io::stdout;
use std::process::ExitCode;

use outrigger_config::{Config, Purpose};

use cli::{Command, ConfigCommand, FailuresCommand};

/// What glibc has in its place keeps an arena for each of many threads, and gives little of it back.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The exit code of a run that failed on something outside, or that leaves something to be done.
const EXIT_FAILED: u8 = 1;
/// The exit code of a configuration that cannot be right, as of a wrong flag.
const EXIT_CONFIGURATION: u8 = 2;

/// Why a command did not do what it was to do, in one plain sentence.
#[derive(Debug, thiserror::Error)]
enum RunError {
    /// The configuration can never work.
    #[error("{0}")]
    Configuration(String),
    /// Something outside is not as it has to be.
    #[error("{0}")]
    Failed(String),
}

/// What a command that ran has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Nothing.
    Done,
    /// Rows that could not be projected, or were not come to.
    Remaining,
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = cli::parse();
    if let Command::Bench(_) | Command::Completions(_) | Command::Man = command {
        // These take no configuration: a benchmark starts servers of its own.
        return ended(run_without_configuration(&command).await);
    }
    let purpose = match command {
        Command::Serve(_) => Purpose::Serve,
        Command::Config(_) | Command::Doctor(_) => Purpose::Check,
        Command::Token(_) => Purpose::Sign,
        _ => Purpose::Operate,
    };
    let config = match outrigger_config::load(command.flags(), std::env::vars_os(), purpose) {
        Ok(config) => config,
        Err(error) => return fail(&error, EXIT_CONFIGURATION),
    };
    let traces = match traces::export(&config.settings.otlp) {
        Ok(traces) => traces.filter(|_| purpose == Purpose::Serve),
        Err(error) => return fail(&error, EXIT_CONFIGURATION),
    };
    logging::start(&config.settings.log.0, traces.as_ref());
    let ended = ended(run(command, config).await);
    if let Some(traces) = traces {
        traces.flush();
    }
    ended
}

fn ended(result: Result<Outcome, RunError>) -> ExitCode {
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Remaining) => ExitCode::from(EXIT_FAILED),
        Err(error @ RunError::Configuration(_)) => fail(&error, EXIT_CONFIGURATION),
        Err(error @ RunError::Failed(_)) => fail(&error, EXIT_FAILED),
    }
}

async fn run(command: Command, config: Config) -> Result<Outcome, RunError> {
    match command {
        Command::Serve(_) => serve::run(config).await.map(|()| Outcome::Done),
        Command::Migrate(args) => migrate::run(&config, &args).await,
        Command::Config(ConfigCommand::Check(args)) => inspect::check(&config, &args),
        Command::Config(ConfigCommand::Show(args)) => inspect::show(&args),
        Command::Doctor(args) => doctor::run(&config, &args).await,
        Command::Ping(args) => ping::run(&config, &args).await,
        Command::Token(args) => tokens::run(&config, &args),
        Command::Failures(FailuresCommand::List(args)) => {
            failures::list(&*wire::open_existing(&config).await?.projection, &args).await
        }
        Command::Failures(FailuresCommand::Retry(args)) => {
            failures::retry(&*wire::open_existing(&config).await?.projection, &args).await
        }
        Command::Materialize(args) => rebuild::run(&config, &args).await,
        Command::Compact(args) => compact::run(&config, &args).await,
        Command::Users(args) => users::users(&config, &args).await,
        Command::Devices(args) => users::devices(&config, &args).await,
        Command::Export(args) => users::export(&config, &args).await,
        Command::DeleteUser(args) => users::delete(&config, &args).await,
        Command::RestoreMark(args) => compact::restore_mark(&config, &args).await,
        command => run_without_configuration(&command).await,
    }
}

async fn run_without_configuration(command: &Command) -> Result<Outcome, RunError> {
    let written = match command {
        Command::Bench(command) => return bench::run(command).await,
        Command::Completions(args) => cli::completions(args, &mut stdout()),
        Command::Man => cli::man(&mut stdout()),
        _ => Ok(()),
    };
    output::unless_closed(written).map_err(|error| wire::failed("cannot write", error))?;
    Ok(Outcome::Done)
}

/// Says what is wrong in one plain line, whatever the format of the log: it is for whoever started the program.
fn fail(error: &dyn Error, code: u8) -> ExitCode {
    eprintln!("outrigger: {error}");
    ExitCode::from(code)
}
