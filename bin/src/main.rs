//! The `outrigger` server: reads its configuration, wires the adapters together and runs until it is told to stop.

mod banner;
mod cli;
mod config;
mod logging;
mod shutdown;
mod wire;

use std::error::Error;
use std::process::ExitCode;

use wire::StartError;

/// The exit code of a start that failed on something outside.
const EXIT_FAILED: u8 = 1;
/// The exit code of a configuration that cannot be right, as of a wrong flag.
const EXIT_CONFIGURATION: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let config = match config::load(&cli::parse(), std::env::vars_os()) {
        Ok(config) => config,
        Err(error) => return fail(&error, EXIT_CONFIGURATION),
    };
    logging::start(&config.settings.log.0);
    match wire::run(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ StartError::Configuration(_)) => fail(&error, EXIT_CONFIGURATION),
        Err(error @ StartError::Failed(_)) => fail(&error, EXIT_FAILED),
    }
}

/// Says what is wrong in one plain line, whatever the format of the log: it is for whoever started the server.
fn fail(error: &dyn Error, code: u8) -> ExitCode {
    eprintln!("outrigger: {error}");
    ExitCode::from(code)
}
