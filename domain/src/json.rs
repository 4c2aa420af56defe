//! Questions about JSON text that is kept as it came: how deep it is, and whether two texts mean the same.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Whether valid JSON text nests arrays and objects more than `levels` deep.
pub fn is_deeper_than(text: &str, levels: usize) -> bool {
    // Every level takes an opening and a closing byte, so that most texts need no look.
    if text.len() < 2 * (levels + 1) {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        if depth > levels {
            return true;
        }
    }
    false
}

/// Whether two valid JSON texts are the same value.
///
/// White space, the order of members and the way a string or a number is written do not matter; every
/// digit of a number does. Of a member that occurs twice the last counts.
/// Recurses once per level, so the caller has bounded the depth.
pub fn is_same_value(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    match (a.as_bytes().first(), b.as_bytes().first()) {
        (Some(b'{'), Some(b'{')) => same_parsed(a, b, same_members),
        (Some(b'['), Some(b'[')) => same_parsed(a, b, same_elements),
        // Text that is no Unicode string, a lone surrogate for example, equals only itself.
        (Some(b'"'), Some(b'"')) => same_parsed(a, b, |a: String, b: String| a == b),
        (Some(b'-' | b'0'..=b'9'), Some(b'-' | b'0'..=b'9')) => match (Decimal::read(a), Decimal::read(b)) {
            (Some(a), Some(b)) => a == b,
            _ => false,
        },
        _ => false,
    }
}

fn same_parsed<'a, T: serde::Deserialize<'a>>(a: &'a str, b: &'a str, same: impl Fn(T, T) -> bool) -> bool {
    match (serde_json::from_str(a), serde_json::from_str(b)) {
        (Ok(a), Ok(b)) => same(a, b),
        _ => false,
    }
}

fn same_members(a: HashMap<String, &RawValue>, b: HashMap<String, &RawValue>) -> bool {
    a.len() == b.len()
        && a.iter().all(|(name, value)| b.get(name).is_some_and(|other| is_same_value(value.get(), other.get())))
}

fn same_elements(a: Vec<&RawValue>, b: Vec<&RawValue>) -> bool {
    a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| is_same_value(a.get(), b.get()))
}

/// The members of a JSON object that have these names, in their order; of one that occurs twice the last.
/// None if the text is no JSON object.
pub fn members<'a>(text: &'a str, names: &[&str]) -> Option<Vec<Option<&'a RawValue>>> {
    let object: Members<'a> = serde_json::from_str(text).ok()?;
    let mut found = vec![None; names.len()];
    for (name, value) in object.0 {
        if let Some(position) = names.iter().position(|wanted| is_name(name, wanted)) {
            found[position] = Some(value);
        }
    }
    Some(found)
}

/// Whether a member's name as it is written means this name. An escape that is no character means none.
fn is_name(written: &RawValue, name: &str) -> bool {
    let text = written.get();
    match text.contains('\\') {
        true => serde_json::from_str::<String>(text).is_ok_and(|unescaped| unescaped == name),
        false => text.get(1..text.len() - 1) == Some(name),
    }
}

/// An object's members in the order of the text. The names stay as they are written: one that is no
/// Unicode string must not make the others unreadable.
struct Members<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;

        impl<'de> Visitor<'de> for Visit {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Visit)
    }
}

/// A JSON number as 0.`digits` × 10^`exponent`, without leading or trailing zeros: one form per value.
#[derive(PartialEq)]
struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    /// None if the exponent does not fit.
    fn read(text: &str) -> Option<Self> {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = || whole.bytes().chain(fraction.bytes());
        let leading_zeros = all().take_while(|&digit| digit == b'0').count();
        let mut digits: Vec<u8> = all().skip(leading_zeros).collect();
        while digits.last() == Some(&b'0') {
            digits.pop();
        }
        if digits.is_empty() {
            return Some(Self { negative: false, digits, exponent: 0 });
        }
        let point = i64::try_from(whole.len()).ok()? - i64::try_from(leading_zeros).ok()?;
        Some(Self { negative, digits, exponent: exponent.checked_add(point)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_may_be_written_differently() {
        for (a, b) in [
            ("{}", "{ }"),
            (r#"{"a":1,"b":[true,null]}"#, r#"{ "b" : [ true , null ], "a" : 1 }"#),
            (r#""é\n""#, r#""\u00e9\u000a""#),
            ("1", "1.0"),
            ("1", "10e-1"),
            ("-0.0", "0"),
            ("0.001", "1E-3"),
            ("123456789012345678901234567890", "1.23456789012345678901234567890e29"),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            (r#""\ud800""#, r#""\ud800""#),
            ("1e99999999999999999999", "1e99999999999999999999"),
        ] {
            assert!(is_same_value(a, b), "{a} {b}");
            assert!(is_same_value(b, a), "{b} {a}");
        }
    }

    #[test]
    fn every_digit_and_every_member_counts() {
        for (a, b) in [
            ("12345678901234567890123", "12345678901234567890124"),
            ("0.1", "0.10000000000000000001"),
            ("1", "-1"),
            ("1", "10"),
            ("0.1", "0.01"),
            ("1", "\"1\""),
            ("1", "true"),
            ("null", "false"),
            (r#"{"a":1}"#, r#"{"a":1,"b":null}"#),
            (r#"{"a":1}"#, r#"{"b":1}"#),
            ("[1,2]", "[2,1]"),
            (r#""\ud800""#, r#""\ud801""#),
            ("1e99999999999999999999", "1e99999999999999999998"),
        ] {
            assert!(!is_same_value(a, b), "{a} {b}");
            assert!(!is_same_value(b, a), "{b} {a}");
        }
    }

    #[test]
    fn members_are_found_by_name_however_it_is_written() {
        let text = r#"{"a":1,"\u0062":[2],"\ud800":3,"a\"":4,"a":5}"#;
        let found = members(text, &["b", "a", "c"]).unwrap();
        let found: Vec<_> = found.into_iter().map(|value| value.map(RawValue::get)).collect();
        assert_eq!(found, [Some("[2]"), Some("5"), None]);
        assert!(members("[]", &["a"]).is_none());
    }

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert!(!is_deeper_than("[[]]", 2));
        assert!(is_deeper_than("[[[]]]", 2));
        assert!(!is_deeper_than(r#"["[[[[[[\"[[[[[[\\"]"#, 1));
        assert!(is_deeper_than(r#"{"a\\":{"b":1}}"#, 1));
        assert!(!is_deeper_than("[[],[],[],[],[],[]]", 2));
    }
}
