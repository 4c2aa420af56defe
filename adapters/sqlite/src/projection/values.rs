//! From a member of a payload to what is bound to a column, directed by the column's declared type.
//!
//! SQLite keeps any type name and makes little of it, so the name's words decide; the first line that matches:
//!
//! | declared type contains | takes (see `outrigger_application::projection::convert`) | is stored as |
//! | --- | --- | --- |
//! | *(a reference to a registered table)* | uuid | 16 bytes where the type contains `BLOB`, else text; without a type as the key that it refers to |
//! | `UUID`, `GUID` | uuid | text, lower case with hyphens |
//! | `BOOL` | boolean | 0 or 1 |
//! | `TIMESTAMP`, `DATETIME` | timestamp | RFC 3339 text in UTC with six digits of a second, which sorts as text |
//! | `DATE` | date | text, `YYYY-MM-DD` |
//! | `JSON` | json | its text as it came, but for a bare number, of which SQLite makes one; JSON null is NULL |
//! | `INT` | integer: a time as the number that came | INTEGER of 64 bits |
//! | `CHAR`, `CLOB`, `TEXT` | text | TEXT: all digits of a number, a time as it came |
//! | `BLOB` | bytes | BLOB |
//! | `REAL`, `FLOA`, `DOUB` | number | REAL |
//! | `NUMERIC`, `NUMBER`, `DECIMAL` | number | INTEGER or text, of which SQLite makes a REAL of 15 digits; for more use TEXT |
//! | *(anything else, `ANY`, no type)* | anything | as JSON has it: TEXT, INTEGER, REAL; booleans 0 and 1; arrays and objects as their text |

use outrigger_application::MaterializeError;
use outrigger_application::projection::convert::{self, Kind, convert};
use rusqlite::types::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

/// What a column takes and how it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    UuidText,
    UuidBytes,
    Boolean,
    Timestamp,
    Date,
    Json,
    Integer,
    Text,
    Bytes,
    Real,
    Numeric,
    Any,
}

/// The words of type names, in the order in which they count.
const WORDS: &[(&[&str], Type)] = &[
    (&["UUID", "GUID"], Type::UuidText),
    (&["BOOL"], Type::Boolean),
    (&["TIMESTAMP", "DATETIME"], Type::Timestamp),
    (&["DATE"], Type::Date),
    (&["JSON"], Type::Json),
    (&["INT"], Type::Integer),
    (&["CHAR", "CLOB", "TEXT"], Type::Text),
    (&["BLOB"], Type::Bytes),
    (&["REAL", "FLOA", "DOUB"], Type::Real),
    (&["NUMERIC", "NUMBER", "DECIMAL"], Type::Numeric),
];

impl Type {
    /// The type of a column by its declaration.
    pub(crate) fn of(declared: &str) -> Self {
        let declared = declared.to_ascii_uppercase();
        let matches = |words: &&[&str]| words.iter().any(|word| declared.contains(word));
        WORDS.iter().find(|(words, _)| matches(words)).map_or(Self::Any, |(_, found)| *found)
    }

    /// The type of a column that holds keys of rows.
    pub(crate) fn of_key(declared: &str) -> Self {
        if Self::of(declared) == Self::Bytes { Self::UuidBytes } else { Self::UuidText }
    }

    fn kind(self) -> Option<Kind> {
        Some(match self {
            Self::UuidText | Self::UuidBytes => Kind::Uuid,
            Self::Boolean => Kind::Boolean,
            Self::Timestamp => Kind::Timestamp,
            Self::Date => Kind::Date,
            Self::Json => Kind::Json,
            Self::Integer => Kind::Integer,
            Self::Text => Kind::Text,
            Self::Bytes => Kind::Bytes,
            Self::Real | Self::Numeric => Kind::Number,
            Self::Any => return None,
        })
    }

    /// A key as it stands in a column of this type.
    pub(crate) fn key(self, pk: Uuid) -> Value {
        match self {
            Self::UuidBytes => Value::Blob(pk.as_bytes().to_vec()),
            _ => Value::Text(pk.to_string()),
        }
    }

    /// What is bound for a member of a payload. The error names the column and never the value.
    pub(crate) fn bind(self, column: &str, member: &RawValue) -> Result<Value, MaterializeError> {
        let Some(kind) = self.kind() else { return Ok(any(member)) };
        if member.get() == "null" {
            return Ok(Value::Null);
        }
        let value = convert(&kind, member).map_err(|mismatch| blame(column, mismatch))?;
        self.store(value).ok_or_else(|| blame(column, "the number is too large for it"))
    }

    fn store(self, value: convert::Value<'_>) -> Option<Value> {
        use convert::Value as From;
        Some(match value {
            From::Null => Value::Null,
            From::Uuid(uuid) => self.key(uuid),
            From::Bytes(bytes) => Value::Blob(bytes),
            From::Timestamp(at) => Value::Text(format!("{at:.6}")),
            From::Date(date) => Value::Text(date.to_string()),
            From::Integer(number) => Value::Integer(number),
            From::Boolean(value) => Value::Integer(value.into()),
            From::Json(text) => Value::Text(text.to_owned()),
            From::Text(text) => Value::Text(text),
            From::Number(digits) => return self.number(digits),
            // No kind above makes an array.
            From::Array(_) => return None,
        })
    }

    fn number(self, digits: String) -> Option<Value> {
        match (self, digits.parse()) {
            (Self::Real, _) => digits.parse().ok().filter(|number: &f64| number.is_finite()).map(Value::Real),
            (Self::Numeric, Ok(number)) => Some(Value::Integer(number)),
            (Self::Numeric, Err(_)) => Some(Value::Text(digits)),
            _ => None,
        }
    }
}

/// An error that a column is to blame for.
pub(crate) fn blame(column: &str, what: impl std::fmt::Display) -> MaterializeError {
    MaterializeError(format!("column {column}: {what}"))
}

fn any(member: &RawValue) -> Value {
    let text = member.get();
    match text.as_bytes().first() {
        Some(b'n') => Value::Null,
        Some(b't') => Value::Integer(1),
        Some(b'f') => Value::Integer(0),
        Some(b'"') => Value::Text(serde_json::from_str(text).unwrap_or_else(|_| text.to_owned())),
        Some(b'[' | b'{') => Value::Text(text.to_owned()),
        _ => match (text.parse(), text.parse::<f64>()) {
            (Ok(number), _) => Value::Integer(number),
            (_, Ok(number)) if number.is_finite() => Value::Real(number),
            _ => Value::Text(text.to_owned()),
        },
    }
}
