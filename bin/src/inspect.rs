//! `outrigger config check` and `outrigger config show`

use std::io::{Write, stdout};

use outrigger_config::{Config, Flags, Settings};
use serde_json::json;

use crate::cli::ShowArgs;
use crate::wire::failed;
use crate::{Outcome, RunError, edge, output};

/// Says that the configuration is one that the server could start with, and what of it is doubtful.
pub(crate) fn check(config: &Config, args: &ShowArgs) -> Result<Outcome, RunError> {
    let (_, file) = in_force(&args.flags)?;
    let file = file.map(|path| path.display().to_string());
    edge::serving(&config.settings)?;
    let doubts = config.doubts();
    let text = if args.json {
        format!("{}\n", json!({"ok": true, "file": file, "doubts": doubts}))
    } else {
        let mut text = match &file {
            Some(file) => format!("the configuration in {file} is right\n"),
            None => "the configuration is right; there is no file\n".to_owned(),
        };
        for doubt in doubts {
            text += &format!("but {doubt}\n");
        }
        text
    };
    print(&text)
}

/// Prints the settings in force.
pub(crate) fn show(args: &ShowArgs) -> Result<Outcome, RunError> {
    let (settings, file) = in_force(&args.flags)?;
    let cannot = |error: &dyn std::fmt::Display| failed("the configuration cannot be written out", error);
    if args.json {
        let text = serde_json::to_string(&settings).map_err(|error| cannot(&error))?;
        return print(&format!("{text}\n"));
    }
    let text = toml::to_string(&settings).map_err(|error| cannot(&error))?;
    let file = file.map_or_else(|| "no file".to_owned(), |path| path.display().to_string());
    print(&format!("# What is in force, from flags, environment, {file} and defaults. Secrets are masked.\n{text}"))
}

fn in_force(flags: &Flags) -> Result<(Settings, Option<std::path::PathBuf>), RunError> {
    outrigger_config::show(flags, std::env::vars_os().collect())
        .map_err(|error| RunError::Configuration(error.to_string()))
}

fn print(text: &str) -> Result<Outcome, RunError> {
    output::unless_closed(stdout().write_all(text.as_bytes())).map_err(|error| failed("cannot write", error))?;
    Ok(Outcome::Done)
}
