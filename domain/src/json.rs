//! Questions about JSON text that is kept as it came: how deep it is, and whether two texts mean the same.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, Visitor};
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

/// One form per value of valid JSON text: two texts are the same value exactly if their forms are equal.
///
/// White space, the order of members and the way a string or a number is written do not matter; every
/// digit of a number does. Of a member that occurs twice the last counts.
/// Takes time in proportion to the text, and recurses once per level, so the caller has bounded the depth.
pub fn canonical(text: &str) -> Vec<u8> {
    let mut form = Vec::with_capacity(text.len());
    Reader { text, at: 0 }.value(&mut form);
    form
}

/// Reads text that is known to be valid: what it does with other text is of no use, but it comes to an end.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
        self.at += blanks;
        rest.get(blanks).copied()
    }

    fn value(&mut self, form: &mut Vec<u8>) {
        match self.peek() {
            Some(b'{') => self.object(form),
            Some(b'[') => self.array(form),
            Some(b'"') => put_text(form, &self.string()),
            _ => match self.word() {
                number if number.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => {
                    put_number(form, number);
                }
                word => form.extend(word.bytes().take(1)),
            },
        }
    }

    /// The members in the order of their names, behind their number.
    fn object(&mut self, form: &mut Vec<u8>) {
        // All values in one buffer: with one for each, small members would cost many times their text.
        let mut values = Vec::new();
        let mut members: Vec<(Cow<'a, str>, Range<usize>)> = Vec::new();
        self.items(b'}', |reader| {
            let (name, start) = (reader.string(), values.len());
            reader.skip(b':');
            reader.value(&mut values);
            members.push((name, start..values.len()));
        });
        // Stable, so that of two members of one name the later one stands last.
        members.sort_by(|a, b| a.0.cmp(&b.0));
        let is_last = |n: &usize| members.get(n + 1).is_none_or(|next| next.0 != members[*n].0);
        let kept = (0..members.len()).filter(is_last);
        put_count(form, b'{', kept.clone().count());
        for n in kept {
            let (name, value) = &members[n];
            put_text(form, name);
            form.extend_from_slice(&values[value.clone()]);
        }
    }

    fn array(&mut self, form: &mut Vec<u8>) {
        let (mut count, mut elements) = (0, Vec::new());
        self.items(b']', |reader| {
            reader.value(&mut elements);
            count += 1;
        });
        put_count(form, b'[', count);
        form.extend_from_slice(&elements);
    }

    /// Reads what stands between an opening and the closing byte, separated by commas.
    fn items(&mut self, close: u8, mut item: impl FnMut(&mut Self)) {
        self.at += 1;
        while let Some(next) = self.peek() {
            if next == close || next == b',' {
                self.at += 1;
                if next == close {
                    return;
                }
            } else {
                let before = self.at;
                item(self);
                self.at = self.at.max(before + 1);
            }
        }
    }

    fn skip(&mut self, byte: u8) {
        if self.peek() == Some(byte) {
            self.at += 1;
        }
    }

    /// A string without its escapes. One that is no Unicode text, a lone surrogate for example, stays as it is
    /// written, and so equals only itself.
    fn string(&mut self) -> Cow<'a, str> {
        self.peek();
        let written = &self.text[self.at..];
        let mut escaped = false;
        let inside = written.bytes().skip(1).take_while(|&byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            !ends
        });
        let end = (inside.count() + 2).min(written.len());
        self.at += end;
        let written = &written[..end];
        let plain = written.get(1..end.saturating_sub(1)).unwrap_or_default();
        match plain.contains('\\') {
            true => serde_json::from_str(written).map_or(Cow::Borrowed(written), Cow::Owned),
            false => Cow::Borrowed(plain),
        }
    }

    /// A number, or true, false or null.
    fn word(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let end = rest.find([',', ']', '}', ' ', '\t', '\n', '\r']).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }
}

fn put_count(form: &mut Vec<u8>, kind: u8, count: usize) {
    form.push(kind);
    form.extend_from_slice(&count.to_le_bytes());
}

fn put_text(form: &mut Vec<u8>, text: &str) {
    put_count(form, b'"', text.len());
    form.extend_from_slice(text.as_bytes());
}

fn put_number(form: &mut Vec<u8>, written: &str) {
    let Some(Decimal { negative, digits, exponent }) = Decimal::read(written) else {
        put_count(form, b'?', written.len());
        return form.extend_from_slice(written.as_bytes());
    };
    put_count(form, if negative { b'-' } else { b'+' }, digits.len());
    form.extend_from_slice(&digits);
    form.extend_from_slice(&exponent.to_le_bytes());
}

/// The members of a JSON object that have these names, in their order; of one that occurs twice the last.
/// None if the text is no JSON object.
pub fn members<'a>(text: &'a str, names: &[&str]) -> Option<Vec<Option<&'a RawValue>>> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let found = Members(names).deserialize(&mut deserializer).ok()?;
    deserializer.end().ok().map(|()| found)
}

/// Whether a member's name as it is written means this name. An escape that is no character means none.
fn is_name(written: &RawValue, name: &str) -> bool {
    let text = written.get();
    match text.contains('\\') {
        true => serde_json::from_str::<String>(text).is_ok_and(|unescaped| unescaped == name),
        false => text.get(1..text.len() - 1) == Some(name),
    }
}

/// How the members of these names are read. All names stay as they are written: one that is no Unicode string must not
/// make the others unreadable. What is not wanted is not kept, however much there is of it.
struct Members<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for Members<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = vec![None; self.0.len()];
        while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            if let Some(position) = self.0.iter().position(|wanted| is_name(name, wanted)) {
                found[position] = Some(value);
            }
        }
        Ok(found)
    }
}

/// A value that is read from a JSON object and from nothing else. Derived code takes an array too, member after
/// member, so that what a body means would hang on the order in which a struct's fields are declared.
#[derive(Clone, Copy, Debug)]
pub struct FromObject<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for FromObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Visit<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(Visit(PhantomData)).map(Self)
    }
}

/// A JSON number as 0.`digits` × 10^`exponent`, without leading or trailing zeros: one form per value.
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
            ("[ ]", "[]"),
            (r#"{"a\"}]":[{"b":"\\"}]}"#, r#"{ "a\u0022}]" : [ { "b" : "\u005c" } ] }"#),
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
            assert_eq!(canonical(a), canonical(b), "{a} {b}");
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
            (r#"["a,b"]"#, r#"["a","b"]"#),
            (r#"{"a":{"b":1}}"#, r#"{"a":{},"b":1}"#),
            (r#"{"a\\":"b"}"#, r#"{"a":"b"}"#),
            ("[[],[]]", "[[[]]]"),
            ("[]", "{}"),
            (r#""""#, "null"),
        ] {
            assert_ne!(canonical(a), canonical(b), "{a} {b}");
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
    fn the_form_takes_time_in_proportion_to_the_text() {
        // 126 levels around a million bytes: read once per level this would take more than a second.
        let deep = |inner: &str| format!("{}{inner}{}", "[".repeat(126), "]".repeat(126));
        let wide: String = (0..90_000).map(|n| format!(",\"m{n}\":1")).collect();
        let text = deep(&format!("{{\"a\":0{wide}}}"));
        let mut bytes = 0;
        for _ in 0..3 {
            bytes += canonical(&text).len();
        }
        assert!(bytes > 3_000_000);
        assert_eq!(canonical(&text), canonical(&text.replace(',', " , ")));
    }

    #[test]
    fn an_object_is_not_read_from_an_array() {
        #[derive(Debug, serde::Deserialize)]
        struct Point<'a> {
            x: i64,
            #[serde(borrow)]
            raw: &'a RawValue,
        }
        let point: FromObject<Point<'_>> = serde_json::from_str(r#"{"raw":{"b":1.0},"x":7}"#).unwrap();
        assert_eq!((point.0.x, point.0.raw.get()), (7, r#"{"b":1.0}"#));
        assert!(serde_json::from_str::<Point<'_>>("[7,1]").is_ok(), "what this is for");
        for text in ["[7,1]", "7", "null", "\"x\""] {
            assert!(serde_json::from_str::<FromObject<Point<'_>>>(text).is_err(), "{text}");
        }
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
