//! Where a commit can be held up.

/// What holds it up.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hold {
    /// A trigger, of that definition, that waits for a lock.
    Trigger(&'static str),
    /// Another transaction that has done this and does not end.
    Transaction(&'static str),
}

/// A place inside a commit's transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) hold: Hold,
    /// Whether the user's other commits pass the one that waits there: it has no place in the stream yet.
    pub(crate) others_pass: bool,
    /// Whether it is the first commit of its user.
    pub(crate) first: bool,
    /// Whether it is the business table's, and so only there if there is one.
    pub(crate) business: bool,
}

const fn trigger(definition: &'static str) -> Point {
    Point { hold: Hold::Trigger(definition), others_pass: false, first: false, business: false }
}

const fn transaction(sql: &'static str) -> Point {
    Point { hold: Hold::Transaction(sql), others_pass: false, first: false, business: false }
}

/// All of them, in the order in which a commit comes by.
pub(crate) const POINTS: [Point; 21] = [
    Point { others_pass: true, ..trigger("BEFORE UPDATE ON sync.user_stream FOR EACH STATEMENT") },
    Point { first: true, others_pass: true, ..trigger("BEFORE INSERT ON sync.user_stream FOR EACH ROW") },
    transaction("SELECT FROM sync.user_stream WHERE user_id = $1 FOR UPDATE"),
    transaction("UPDATE sync.user_stream SET last_server_id = last_server_id WHERE user_id = $1"),
    // It has the counter's lock.
    trigger("BEFORE UPDATE ON sync.user_stream FOR EACH ROW"),
    // It has moved the counter.
    trigger("BEFORE INSERT ON sync.server_change_log FOR EACH ROW"),
    Point { first: true, ..trigger("BEFORE INSERT ON sync.server_change_log FOR EACH ROW") },
    trigger("BEFORE INSERT ON sync.sync_row_meta FOR EACH ROW"),
    trigger("BEFORE UPDATE ON sync.sync_row_meta FOR EACH ROW"),
    trigger("BEFORE INSERT ON sync.sync_state FOR EACH ROW"),
    trigger("BEFORE UPDATE ON sync.sync_state FOR EACH ROW"),
    trigger("BEFORE DELETE ON sync.sync_state FOR EACH ROW"),
    transaction("SELECT FROM sync.sync_row_meta WHERE user_id = $1 FOR UPDATE"),
    transaction("SELECT FROM sync.sync_state WHERE user_id = $1 FOR UPDATE"),
    Point { business: true, ..trigger("BEFORE INSERT OR UPDATE ON notes FOR EACH ROW") },
    Point { business: true, ..trigger("AFTER INSERT OR DELETE ON notes FOR EACH ROW") },
    Point { business: true, ..transaction("SELECT FROM notes WHERE user_id = $1 FOR UPDATE") },
    Point { business: true, ..trigger("AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW") },
    // Everything is written.
    trigger("AFTER INSERT ON sync.server_change_log FOR EACH ROW"),
    trigger("AFTER UPDATE ON sync.user_stream FOR EACH ROW"),
    // Behind the statement, in front of the commit.
    trigger("AFTER INSERT ON sync.server_change_log DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"),
];

/// What ends it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// The commit goes on.
    Release,
    /// Its statement is cancelled.
    Cancel,
    /// Its connection is.
    Terminate,
    /// The devices hang up, and send the same again later.
    HangUp,
}

pub(crate) const ENDS: [End; 4] = [End::Release, End::Cancel, End::Terminate, End::HangUp];
