//! What an app may want to show.

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Changes went up.
    Uploaded {
        /// How many were applied.
        applied: usize,
        /// How many still wait.
        waiting: usize,
    },
    /// Changes of others came down.
    Downloaded {
        /// How many rows they changed here.
        rows: usize,
    },
    /// A conflict was decided.
    Conflict {
        /// The app's table.
        table: String,
        /// The row's key.
        pk: String,
        /// What was decided.
        decision: Decision,
    },
    /// A change can never be uploaded as it is; it was put aside, see [`Client::aside`](crate::Client::aside).
    SetAside {
        /// The app's table.
        table: String,
        /// The row's key.
        pk: String,
        /// Why, for a program.
        reason: String,
    },
    /// A row that came down does not fit the app's database, by a constraint of its own. It is tried again later.
    Unapplied {
        /// The app's table.
        table: String,
        /// The row's key.
        pk: String,
        /// Why.
        why: String,
    },
    /// The device starts again from the rows as the server has them, and keeps what it has not uploaded.
    Resync,
    /// The background task cannot reach the server, and goes on trying.
    Offline(String),
    /// The background task needs the app: to sign in again, or to look at what the database or the server says. It goes
    /// on trying too.
    Failed(String),
    /// It syncs again, after [`Offline`](Self::Offline) or [`Failed`](Self::Failed).
    Online,
    /// Everything here is on the server, and the other way round.
    InSync,
}

/// What became of a conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The server's row was taken.
    TookRemote,
    /// The local row was kept.
    KeptLocal,
    /// The two were merged.
    Merged,
}
