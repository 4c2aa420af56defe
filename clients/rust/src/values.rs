//! Values of SQLite as JSON, and back: unchanged, or not at all.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rusqlite::types::{Value, ValueRef};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::shape::Column;

/// A value as it goes over the wire, or why it cannot.
pub(crate) fn to_json(value: ValueRef<'_>, column: &Column) -> Result<Box<RawValue>, String> {
    let why = |what: &str| format!("column {} holds {what}", column.name);
    let text = match value {
        ValueRef::Null => "null".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        // The shortest text that is this number again.
        ValueRef::Real(number) if number.is_finite() => format!("{number:?}"),
        ValueRef::Real(_) => return Err(why("an infinite number, which JSON has not")),
        ValueRef::Text(_) if column.is_blob => return Err(why("text, though it is declared BLOB")),
        ValueRef::Text(bytes) => {
            let text = std::str::from_utf8(bytes).map_err(|_| why("text that is not UTF-8"))?;
            serde_json::to_string(text).map_err(|_| why("text that JSON cannot hold"))?
        }
        ValueRef::Blob(bytes) if column.is_blob => format!("\"{}\"", STANDARD.encode(bytes)),
        ValueRef::Blob(_) => return Err(why("bytes, though it is not declared BLOB")),
    };
    RawValue::from_string(text).map_err(|_| why("what JSON cannot hold"))
}

/// A value as the app's table keeps it, or why it cannot.
pub(crate) fn from_json(json: &RawValue, column: &Column) -> Result<Value, String> {
    let text = json.get();
    let why = |what: &str| format!("column {} cannot hold {what}", column.name);
    match text.as_bytes().first() {
        Some(b'n') => Ok(Value::Null),
        Some(b't') => Ok(Value::Integer(1)),
        Some(b'f') => Ok(Value::Integer(0)),
        Some(b'"') => {
            let string: String = serde_json::from_str(text).map_err(|_| why("this text"))?;
            if column.is_blob {
                return STANDARD.decode(string).map(Value::Blob).map_err(|_| why("what is not base64"));
            }
            Ok(Value::Text(string))
        }
        Some(b'{' | b'[') => Ok(Value::Text(text.to_owned())),
        _ => match text.parse::<i64>() {
            Ok(number) => Ok(Value::Integer(number)),
            Err(_) => match text.parse::<f64>() {
                // A whole number of more digits than fit would come back as another one.
                Ok(number) if number.is_finite() && (!is_whole(text) || format!("{number:.0}") == text) => {
                    Ok(Value::Real(number))
                }
                _ => Err(why("so large a number")),
            },
        },
    }
}

fn is_whole(number: &str) -> bool {
    !number.contains(['.', 'e', 'E'])
}

/// A key as it goes over the wire, or why it cannot.
pub(crate) fn key_to_text(value: ValueRef<'_>) -> Result<String, String> {
    let wrong = || "its key is no UUID in lower case with hyphens, nor 16 bytes".to_owned();
    match value {
        ValueRef::Blob(bytes) => Uuid::from_slice(bytes).map(|key| key.to_string()).map_err(|_| wrong()),
        ValueRef::Text(bytes) => {
            let text = std::str::from_utf8(bytes).map_err(|_| wrong())?;
            let key = Uuid::try_parse(text).map_err(|_| wrong())?;
            // Another spelling would be another key to the foreign keys of other devices.
            if key.to_string() == text { Ok(text.to_owned()) } else { Err(wrong()) }
        }
        _ => Err(wrong()),
    }
}

/// A key for a human, whatever it is.
pub(crate) fn key_as_text(key: &Value) -> String {
    match key {
        Value::Text(text) => text.clone(),
        other => key_to_text(ValueRef::from(other)).unwrap_or_else(|_| format!("{other:?}")),
    }
}

/// A key as the app's table keeps it.
pub(crate) fn key_from_text(text: &str, column: &Column) -> Result<Value, String> {
    let key = Uuid::try_parse(text).map_err(|_| format!("{text} is no UUID"))?;
    Ok(if column.is_blob { Value::Blob(key.as_bytes().to_vec()) } else { Value::Text(key.to_string()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(is_blob: bool) -> Column {
        Column { name: "a".into(), is_blob, is_nullable: true, default: "NULL".into() }
    }

    #[test]
    fn every_value_comes_back_as_it_went() {
        let (plain, blob) = (column(false), column(true));
        let there_and_back = |value: Value, column: &Column| {
            let json = to_json((&value).into(), column).unwrap();
            assert_eq!(from_json(&json, column), Ok(value), "{}", json.get());
        };
        for number in [0, -1, i64::MAX, i64::MIN, (1 << 53) + 1] {
            there_and_back(Value::Integer(number), &plain);
        }
        for number in [0.1, -0.0, 1.0, 1e300, 5e-324, f64::MAX, f64::MIN_POSITIVE, 0.1 + 0.2] {
            there_and_back(Value::Real(number), &plain);
        }
        for text in ["", "a\"\\\n\u{0}é", "null", "1"] {
            there_and_back(Value::Text(text.into()), &plain);
        }
        there_and_back(Value::Null, &plain);
        there_and_back(Value::Null, &blob);
        there_and_back(Value::Blob((0..=255).collect()), &blob);
        there_and_back(Value::Blob(Vec::new()), &blob);
    }

    #[test]
    fn a_number_that_would_come_back_as_another_one_does_not_fit() {
        let from = |text: &str| from_json(&RawValue::from_string(text.to_owned()).unwrap(), &column(false));
        assert_eq!(from("9223372036854775807"), Ok(Value::Integer(i64::MAX)));
        assert_eq!(from("9223372036854775808"), Ok(Value::Real(9_223_372_036_854_775_808.0)));
        assert_eq!(from("-0.0"), Ok(Value::Real(-0.0)));
        for giant in ["9223372036854775809", "123456789012345678901234567890", "1e400", "-1E999"] {
            assert!(from(giant).is_err(), "{giant}");
        }
    }

    #[test]
    fn what_cannot_come_back_does_not_go() {
        let (plain, blob) = (column(false), column(true));
        assert!(to_json(ValueRef::Real(f64::INFINITY), &plain).is_err());
        assert!(to_json(ValueRef::Blob(b"x"), &plain).is_err());
        assert!(to_json(ValueRef::Text(b"x"), &blob).is_err());
        assert!(to_json(ValueRef::Text(b"\xff"), &plain).is_err());
        for key in ["", "x", "550E8400-E29B-41D4-A716-446655440000", "550e8400e29b41d4a716446655440000"] {
            assert!(key_to_text(ValueRef::Text(key.as_bytes())).is_err(), "{key}");
        }
        assert!(key_to_text(ValueRef::Blob(b"short")).is_err());
    }
}
