//! The commands that look at a server, and those that are for the shell.

use std::io::{self, Write};

use clap::{Args, CommandFactory, Subcommand};
use clap_complete::Shell;

use super::{Cli, Flags};

pub(super) const MIGRATING: &str = "\
Works on an empty database or one of an earlier release, and on one that is up to date changes nothing. Several may run at
once. Takes the configuration that the server takes; a secret is not needed.

Examples:
  outrigger migrate --config /etc/outrigger.toml
  outrigger migrate --check || echo \"not before the maintenance window\"

Exit codes: 0 up to date, 1 --check found something to migrate, or the database cannot be used, 2 the configuration is
wrong.";

pub(super) const EXAMINING: &str = "\
Looks at the configuration, the database and its settings, the business tables, the identity provider's keys and this
machine, and changes none of them. Beside a running server or before the first start.

Exit codes: 0 nothing that a server would fail on, 1 something is, 2 the configuration is wrong.";

pub(super) const PINGING: &str = "\
Asks at the port of `listen`, on the loopback address if that is one of all addresses.

Exit codes: 0 it is, 1 it is not or does not answer within the time, 2 the configuration is wrong.";

pub(super) const COMPLETING: &str = "\
Examples:
  outrigger completions bash > /etc/bash_completion.d/outrigger
  outrigger completions zsh > \"${fpath[1]}/_outrigger\"
  outrigger completions fish > ~/.config/fish/completions/outrigger.fish";

pub(super) const MANUAL: &str = "\
Example:
  outrigger man > /usr/local/share/man/man1/outrigger.1";

const CHECKING: &str = "\
Reads all that the server reads before it starts, key files included, and touches neither the database nor the network.
What may well be meant otherwise is said, and is no error.

Exit codes: 0 the server could start with it, 2 one sentence says what is wrong.";

const SHOWING: &str = "\
Prints the configuration that would be in force, from flags, environment, file and defaults, as TOML that can be read again.
Secrets and passwords are masked.

Exit codes: 0 done, 2 the configuration is wrong.";

/// The flags of `migrate`.
#[derive(Args)]
pub(crate) struct MigrateArgs {
    /// Change nothing, and say whether there is anything to do
    #[arg(long)]
    pub(crate) check: bool,
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// What is to be done with the configuration.
#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say whether the server could start with it.
    #[command(after_help = CHECKING)]
    Check(ShowArgs),
    /// Print what is in force.
    #[command(after_help = SHOWING)]
    Show(ShowArgs),
}

/// The flags of `config check` and `config show`.
#[derive(Args)]
pub(crate) struct ShowArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) flags: Flags,
}

/// The flags of `doctor`.
#[derive(Args)]
pub(crate) struct DoctorArgs {
    /// Print one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// The flags of `ping`.
#[derive(Args)]
pub(crate) struct PingArgs {
    /// Ask whether it takes requests: its storage answers and it is not about to stop
    #[arg(long)]
    pub(crate) ready: bool,
    /// Seconds to wait for the answer
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub(crate) timeout_s: u32,
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// The flags of `completions`.
#[derive(Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: Shell,
}

/// Writes the script of a shell.
pub(crate) fn completions(args: &CompletionsArgs, to: &mut impl Write) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "outrigger", &mut script);
    to.write_all(&script)
}

/// Writes the manual: one page, with a section for every command.
pub(crate) fn man(to: &mut impl Write) -> io::Result<()> {
    let mut command = Cli::command();
    command.build();
    clap_mangen::Man::new(command.clone()).render(to)?;
    let commands = command.get_subcommands().filter(|command| command.get_name() != "help");
    for command in commands {
        man_of("outrigger", command, to)?;
    }
    Ok(())
}

fn man_of(parent: &str, command: &clap::Command, to: &mut impl Write) -> io::Result<()> {
    let name = format!("{parent} {}", command.get_name());
    writeln!(to, ".SH \"{}\"", name.to_uppercase())?;
    let page = clap_mangen::Man::new(command.clone());
    page.render_description_section(to)?;
    page.render_synopsis_section(to)?;
    page.render_options_section(to)?;
    page.render_extra_section(to)?;
    let commands = command.get_subcommands().filter(|command| command.get_name() != "help");
    for command in commands {
        man_of(&name, command, to)?;
    }
    Ok(())
}
