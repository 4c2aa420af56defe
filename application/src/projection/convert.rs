//! From a member of a payload to the value of a column, directed by the column's kind.
//!
//! | kind | takes |
//! | --- | --- |
//! | uuid | UUID text in any usual form, or base64 of the 16 bytes |
//! | bytes | base64 (standard or URL-safe, padded or not); hex behind `\x` |
//! | timestamp | RFC 3339; `YYYY-MM-DD HH:MM:SS` and the same with `T`, as UTC; a day, as its midnight in UTC; a number: seconds since 1970 if its magnitude is below 10¹¹ (the year 5138), else milliseconds |
//! | date | all that a timestamp takes; its day in UTC |
//! | integer | a whole number, or one as text; booleans as 0 and 1 |
//! | number | a number with all its digits, or one as text |
//! | boolean | `true`, `false`, 0, 1, and these as text |
//! | json | anything, as it is |
//! | text | text; anything else as its JSON |
//! | label | one of the labels |
//! | array | an array of what its elements take, or of such arrays: one more dimension |

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use outrigger_domain::key;
use serde_json::value::RawValue;
use uuid::Uuid;

/// Numbers of at least this magnitude are milliseconds since 1970, smaller ones seconds.
const EPOCH_MS_FROM: f64 = 1e11;

/// What a column takes, whatever its database calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A UUID.
    Uuid,
    /// Bytes.
    Bytes,
    /// A moment.
    Timestamp,
    /// A day.
    Date,
    /// A whole number.
    Integer,
    /// A number of any kind.
    Number,
    /// True or false.
    Boolean,
    /// JSON.
    Json,
    /// Text, and what a database can make of text.
    Text,
    /// One of these texts.
    Label(Vec<String>),
    /// A list of values of one kind.
    Array(Box<Kind>),
}

impl Kind {
    fn noun(&self) -> &'static str {
        match self {
            Self::Uuid => "a uuid",
            Self::Bytes => "bytes",
            Self::Timestamp => "a timestamp",
            Self::Date => "a date",
            Self::Integer => "an integer",
            Self::Number => "a number",
            Self::Boolean => "a boolean",
            Self::Json => "json",
            Self::Text => "text",
            Self::Label(_) => "a label of its type",
            Self::Array(_) => "an array of its type",
        }
    }
}

/// The value of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// JSON null.
    Null,
    /// Of [`Kind::Uuid`].
    Uuid(Uuid),
    /// Of [`Kind::Bytes`].
    Bytes(Vec<u8>),
    /// Of [`Kind::Timestamp`].
    Timestamp(Timestamp),
    /// Of [`Kind::Date`].
    Date(Date),
    /// Of [`Kind::Integer`].
    Integer(i64),
    /// Of [`Kind::Number`], and of [`Kind::Integer`] beyond 64 bits: its digits.
    Number(String),
    /// Of [`Kind::Boolean`].
    Boolean(bool),
    /// Of [`Kind::Json`]: its text as it came.
    Json(&'a str),
    /// Of [`Kind::Text`] and [`Kind::Label`].
    Text(String),
    /// Of [`Kind::Array`].
    Array(Vec<Value<'a>>),
}

/// A value that a column cannot take. Names the types and never the value, which is the users' business.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot make {wanted} of a JSON {found}")]
pub struct Mismatch {
    wanted: &'static str,
    found: &'static str,
}

/// Makes the value of a column of a payload's member.
pub fn convert<'a>(kind: &Kind, member: &'a RawValue) -> Result<Value<'a>, Mismatch> {
    let json = Json::read(member.get());
    if let (Json::Null, false) = (&json, *kind == Kind::Json) {
        return Ok(Value::Null);
    }
    let value = match kind {
        Kind::Json => Some(Value::Json(member.get())),
        Kind::Uuid => json.text().and_then(key::parse).map(Value::Uuid),
        Kind::Bytes => json.text().and_then(bytes).map(Value::Bytes),
        Kind::Timestamp => timestamp(&json).map(Value::Timestamp),
        Kind::Date => timestamp(&json).map(|at| Value::Date(at.to_zoned(TimeZone::UTC).date())),
        Kind::Integer => integer(&json),
        Kind::Number => json.number().or_else(|| json.text().filter(|text| is_number(text))).map(number),
        Kind::Boolean => boolean(&json).map(Value::Boolean),
        Kind::Text => json.into_text().map(Value::Text),
        Kind::Label(labels) => json.text().filter(|text| labels.iter().any(|label| label == text)).map(text),
        Kind::Array(element) => return array(element, member),
    };
    value.ok_or_else(|| mismatch(kind, member))
}

/// What is to be said of a member that a database could not make the column's value of.
pub fn mismatch(kind: &Kind, member: &RawValue) -> Mismatch {
    Mismatch { wanted: kind.noun(), found: Json::read(member.get()).noun() }
}

fn array<'a>(element: &Kind, member: &'a RawValue) -> Result<Value<'a>, Mismatch> {
    let wanted = Kind::Array(Box::new(element.clone())).noun();
    let found = Json::read(member.get()).noun();
    let elements: Vec<&RawValue> = serde_json::from_str(member.get()).map_err(|_| Mismatch { wanted, found })?;
    let value = |value: &'a RawValue| match Json::read(value.get()) {
        // As Postgres reads JSON itself: of another dimension, unless the elements are JSON.
        Json::Array(_) if *element != Kind::Json => array(element, value),
        _ => convert(element, value),
    };
    Ok(Value::Array(elements.into_iter().map(value).collect::<Result<_, _>>()?))
}

/// A JSON value, read one level deep.
enum Json<'a> {
    Null,
    Boolean(bool),
    Number(&'a str),
    /// A string; none if it is no Unicode text.
    Text(Option<String>),
    Array(&'a str),
    Object(&'a str),
}

impl<'a> Json<'a> {
    fn read(text: &'a str) -> Self {
        match text.as_bytes().first() {
            Some(b'n') => Self::Null,
            Some(b't') => Self::Boolean(true),
            Some(b'f') => Self::Boolean(false),
            Some(b'"') => Self::Text(serde_json::from_str(text).ok()),
            Some(b'[') => Self::Array(text),
            Some(b'{') => Self::Object(text),
            _ => Self::Number(text),
        }
    }

    fn noun(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean(_) => "boolean",
            Self::Number(_) => "number",
            Self::Text(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => text.as_deref(),
            _ => None,
        }
    }

    fn number(&self) -> Option<&str> {
        match self {
            Self::Number(number) => Some(number),
            _ => None,
        }
    }

    fn into_text(self) -> Option<String> {
        match self {
            Self::Null => None,
            Self::Boolean(value) => Some(value.to_string()),
            Self::Text(text) => text,
            Self::Number(raw) | Self::Array(raw) | Self::Object(raw) => Some(raw.to_owned()),
        }
    }
}

fn text<'a>(text: &str) -> Value<'a> {
    Value::Text(text.to_owned())
}

fn number<'a>(text: &str) -> Value<'a> {
    Value::Number(text.to_owned())
}

/// Whether a text is a number as JSON writes it.
fn is_number(text: &str) -> bool {
    let looks_so = text.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    looks_so && serde_json::from_str::<&RawValue>(text).is_ok_and(|value| value.get().len() == text.len())
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let Some(hex) = text.strip_prefix("\\x") else { return key::decode_base64(text) };
    let digits: Option<Vec<u8>> = hex.chars().map(|digit| digit.to_digit(16).map(|value| value as u8)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn integer<'a>(json: &Json<'_>) -> Option<Value<'a>> {
    let digits = match json {
        Json::Boolean(value) => return Some(Value::Integer(i64::from(*value))),
        Json::Number(number) => number,
        Json::Text(Some(text)) if is_number(text) => text.as_str(),
        _ => return None,
    };
    if let Ok(value) = digits.parse() {
        return Some(Value::Integer(value));
    }
    // 5.0 and 5e3 are whole too. What is beyond 64 bits is for the column to take or refuse.
    if !digits.contains(['.', 'e', 'E']) {
        return Some(number(digits));
    }
    let value: f64 = digits.parse().ok()?;
    (value.fract() == 0.0 && value.abs() < 9e15).then_some(Value::Integer(value as i64))
}

fn boolean(json: &Json<'_>) -> Option<bool> {
    match json {
        Json::Boolean(value) => Some(*value),
        Json::Number("0") => Some(false),
        Json::Number("1") => Some(true),
        Json::Text(Some(text)) => match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "1" => Some(true),
            "false" | "f" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn timestamp(json: &Json<'_>) -> Option<Timestamp> {
    match json {
        Json::Number(number) => epoch(number),
        Json::Text(Some(text)) => text
            .parse::<Timestamp>()
            .ok()
            .or_else(|| at_utc(text.parse::<DateTime>().ok()?))
            .or_else(|| at_utc(text.parse::<Date>().ok()?.to_datetime(jiff::civil::Time::midnight()))),
        _ => None,
    }
}

fn at_utc(at: DateTime) -> Option<Timestamp> {
    at.to_zoned(TimeZone::UTC).ok().map(|at| at.timestamp())
}

fn epoch(number: &str) -> Option<Timestamp> {
    let value: f64 = number.parse().ok()?;
    if value.abs() >= EPOCH_MS_FROM {
        return match number.parse() {
            Ok(ms) => Timestamp::from_millisecond(ms).ok(),
            Err(_) => Timestamp::from_microsecond((value * 1e3).round() as i64).ok(),
        };
    }
    match number.parse() {
        Ok(seconds) => Timestamp::from_second(seconds).ok(),
        // A fraction of a second is kept to the microsecond, the finest that every store keeps.
        Err(_) => Timestamp::from_duration(SignedDuration::from_micros((value * 1e6).round() as i64)).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &Kind, json: &str) -> Option<Value<'static>> {
        let member = RawValue::from_string(json.to_owned()).unwrap();
        convert(kind, Box::leak(member)).ok()
    }

    fn at(text: &str) -> Option<Value<'static>> {
        Some(Value::Timestamp(text.parse().unwrap()))
    }

    #[test]
    fn a_timestamp_is_text_with_or_without_a_zone_or_a_number() {
        for (json, expected) in [
            (r#""2025-08-08T07:01:00Z""#, "2025-08-08T07:01:00Z"),
            (r#""2025-08-08T09:01:00.25+02:00""#, "2025-08-08T07:01:00.25Z"),
            (r#""2025-08-08 07:01:00""#, "2025-08-08T07:01:00Z"),
            (r#""2025-08-08 07:01:00.5""#, "2025-08-08T07:01:00.5Z"),
            (r#""2025-08-08T07:01:00""#, "2025-08-08T07:01:00Z"),
            (r#""2025-08-08""#, "2025-08-08T00:00:00Z"),
            ("0", "1970-01-01T00:00:00Z"),
            ("1754636460", "2025-08-08T07:01:00Z"),
            ("1754636460.25", "2025-08-08T07:01:00.25Z"),
            ("1754636460250", "2025-08-08T07:01:00.25Z"),
            ("1754636460250.5", "2025-08-08T07:01:00.2505Z"),
            ("-1", "1969-12-31T23:59:59Z"),
            ("99999999999", "5138-11-16T09:46:39Z"),
            ("100000000000", "1973-03-03T09:46:40Z"),
        ] {
            assert_eq!(of(&Kind::Timestamp, json), at(expected), "{json}");
        }
        for json in ["true", "[]", "{}", r#""soon""#, r#""""#, "1e300"] {
            assert_eq!(of(&Kind::Timestamp, json), None, "{json}");
        }
        assert_eq!(of(&Kind::Date, r#""2025-08-08T23:30:00-02:00""#), Some(Value::Date("2025-08-09".parse().unwrap())));
        assert_eq!(of(&Kind::Date, r#""2025-08-08""#), Some(Value::Date("2025-08-08".parse().unwrap())));
    }

    #[test]
    fn bytes_are_base64_or_hex() {
        let bytes = |bytes: &[u8]| Some(Value::Bytes(bytes.to_vec()));
        assert_eq!(of(&Kind::Bytes, r#""3q2+7w==""#), bytes(&[0xde, 0xad, 0xbe, 0xef]));
        assert_eq!(of(&Kind::Bytes, r#""3q2-7w""#), bytes(&[0xde, 0xad, 0xbe, 0xef]));
        assert_eq!(of(&Kind::Bytes, r#""\\xDEadbeef""#), bytes(&[0xde, 0xad, 0xbe, 0xef]));
        assert_eq!(of(&Kind::Bytes, r#""""#), bytes(&[]));
        assert_eq!(of(&Kind::Bytes, r#""\\x""#), bytes(&[]));
        for json in [r#""\\xdea""#, r#""\\xgg""#, r#""%""#, "7", "[1,2]"] {
            assert_eq!(of(&Kind::Bytes, json), None, "{json}");
        }
    }

    #[test]
    fn numbers_keep_their_digits() {
        let digits = "123456789012345678901234567890.123456789012345678901234567890";
        assert_eq!(of(&Kind::Number, digits), Some(Value::Number(digits.into())));
        assert_eq!(of(&Kind::Number, &format!("\"{digits}\"")), Some(Value::Number(digits.into())));
        assert_eq!(of(&Kind::Integer, "9223372036854775807"), Some(Value::Integer(i64::MAX)));
        assert_eq!(of(&Kind::Integer, "9223372036854775808"), Some(Value::Number("9223372036854775808".into())));
        assert_eq!(of(&Kind::Integer, "5.0"), Some(Value::Integer(5)));
        assert_eq!(of(&Kind::Integer, "\"-12\""), Some(Value::Integer(-12)));
        assert_eq!(of(&Kind::Integer, "true"), Some(Value::Integer(1)));
        for json in ["5.5", "\"\"", "\"5x\"", "\" 5\"", "[5]"] {
            assert_eq!(of(&Kind::Integer, json), None, "{json}");
            assert!(json == "5.5" || of(&Kind::Number, json).is_none(), "{json}");
        }
    }

    #[test]
    fn the_other_kinds() {
        for (json, value) in [("0", false), ("1", true), ("true", true), ("false", false), ("\"T\"", true)] {
            assert_eq!(of(&Kind::Boolean, json), Some(Value::Boolean(value)), "{json}");
        }
        assert_eq!(of(&Kind::Boolean, "2"), None);
        assert_eq!(of(&Kind::Json, "null"), Some(Value::Json("null")));
        assert_eq!(of(&Kind::Json, "{ \"b\": 1.0 }"), Some(Value::Json("{ \"b\": 1.0 }")));
        assert_eq!(of(&Kind::Text, "null"), Some(Value::Null));
        assert_eq!(of(&Kind::Text, r#""é\n""#), Some(Value::Text("é\n".into())));
        assert_eq!(of(&Kind::Text, "[1, 2]"), Some(Value::Text("[1, 2]".into())));
        assert_eq!(of(&Kind::Text, r#""\ud800""#), None);
        let mood = Kind::Label(vec!["happy".into(), "sad".into()]);
        assert_eq!(of(&mood, "\"sad\""), Some(Value::Text("sad".into())));
        assert_eq!(of(&mood, "\"mad\""), None);
        let list = Kind::Array(Box::new(Kind::Integer));
        assert_eq!(of(&list, "[1,null]"), Some(Value::Array(vec![Value::Integer(1), Value::Null])));
        let row = |n: i64| Value::Array(vec![Value::Integer(n), Value::Integer(n + 1)]);
        assert_eq!(of(&list, "[[1,2],[3,4]]"), Some(Value::Array(vec![row(1), row(3)])));
        let texts = Kind::Array(Box::new(Kind::Text));
        assert_eq!(of(&texts, r#"[["a"]]"#), Some(Value::Array(vec![Value::Array(vec![Value::Text("a".into())])])));
        let json = Kind::Array(Box::new(Kind::Json));
        assert_eq!(of(&json, "[[1]]"), Some(Value::Array(vec![Value::Json("[1]")])));
        assert_eq!(of(&list, "[[\"x\"]]"), None);
        assert_eq!(of(&list, "[\"x\"]"), None);
        assert_eq!(of(&list, "1"), None);
    }

    #[test]
    fn a_mismatch_names_types_and_never_the_value() {
        let member = RawValue::from_string("\"secret\"".into()).unwrap();
        let mismatch = convert(&Kind::Uuid, &member).unwrap_err().to_string();
        assert_eq!(mismatch, "cannot make a uuid of a JSON string");
    }
}
