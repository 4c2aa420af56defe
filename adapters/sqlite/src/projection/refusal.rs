//! What SQLite's errors say of a row that it refused, without a value of the row.

use outrigger_application::MaterializeError;
use rusqlite::ffi;

/// The error as it may be recorded. A message of SQLite's is taken over only where it is known to be made of names.
pub(crate) fn refusal(error: rusqlite::Error) -> MaterializeError {
    MaterializeError(text(&error))
}

fn text(error: &rusqlite::Error) -> String {
    let (Some(code), message) = (error.sqlite_error(), message(error)) else {
        return "the statement could not be run".into();
    };
    let named = |name: &str| format!("{name}: {message}");
    match code.extended_code {
        ffi::SQLITE_CONSTRAINT_UNIQUE => named("SQLITE_CONSTRAINT_UNIQUE"),
        ffi::SQLITE_CONSTRAINT_PRIMARYKEY => named("SQLITE_CONSTRAINT_PRIMARYKEY"),
        ffi::SQLITE_CONSTRAINT_NOTNULL => named("SQLITE_CONSTRAINT_NOTNULL"),
        ffi::SQLITE_CONSTRAINT_CHECK => named("SQLITE_CONSTRAINT_CHECK"),
        ffi::SQLITE_CONSTRAINT_DATATYPE => named("SQLITE_CONSTRAINT_DATATYPE"),
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => "SQLITE_CONSTRAINT_FOREIGNKEY: FOREIGN KEY constraint failed".into(),
        // Its message is what the trigger says, which may quote the row.
        ffi::SQLITE_CONSTRAINT_TRIGGER => "SQLITE_CONSTRAINT_TRIGGER: a trigger refused the row".into(),
        ffi::SQLITE_INTERRUPT => super::TIMED_OUT.into(),
        ffi::SQLITE_ERROR
            if ["no such ", "table ", "foreign key mismatch"].iter().any(|start| message.starts_with(start)) =>
        {
            named("SQLITE_ERROR")
        }
        other => format!("SQLite refused the row with its result code {other}"),
    }
}

fn message(error: &rusqlite::Error) -> &str {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message,
        rusqlite::Error::SqlInputError { msg, .. } => msg,
        _ => "",
    }
}
