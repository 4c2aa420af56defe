//! The commands about users and their devices.

use clap::Args;
use outrigger_domain::UserId;

use super::{Flags, user};

pub(super) const LISTING: &str = "\
Works on the database directly, beside a running server or without one, and takes the configuration that the server
takes; a secret is not needed. What a server knows of contacts is written some seconds late.

Exit codes: 0 done, 1 the database cannot be used, 2 the configuration is wrong.";

pub(super) const EXPORTING: &str = "\
One object a line, each with a `kind`: one `user`, then `row`s as they are, `change`s of the log, `device`s, `failure`s, and
last an `end` with how many there were. Without it the export was cut.

Example:
  outrigger export --user alice > alice.ndjson

Exit codes: 0 done, 1 nothing is kept of that user or the database cannot be used, 2 the configuration is wrong.";

pub(super) const DELETING: &str = "\
Deletes the rows with their business rows, in batches, and clears the log, the keys and the devices. The user's devices start
again with nothing; one that still has a token can fill the account again, so let tokens end first. The id, the end of
the stream and the highest number of each source are kept, so that nothing is ever applied twice. Stopped half-way, it
goes on when it is run again.

Example:
  outrigger delete-user --user alice --yes

Exit codes: 0 nothing is left, 1 something is: the reason is said; 2 the configuration is wrong, or --yes is missing.";

/// The flags of `users`.
#[derive(Args)]
pub(crate) struct UsersArgs {
    /// Print one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// The flags of `devices`.
#[derive(Args)]
pub(crate) struct DevicesArgs {
    /// Only those of this user
    #[arg(long, value_parser = user)]
    pub(crate) user: Option<UserId>,
    /// Print one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// The flags of `export`.
#[derive(Args)]
pub(crate) struct ExportArgs {
    /// The user
    #[arg(long, value_parser = user)]
    pub(crate) user: UserId,
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// The flags of `delete-user`.
#[derive(Args)]
pub(crate) struct DeleteUserArgs {
    /// The user
    #[arg(long, value_parser = user)]
    pub(crate) user: UserId,
    /// Do it
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(super) flags: Flags,
}
