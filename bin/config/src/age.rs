//! Lengths of time as people write them.

use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// A length of time, such as `7d` or `36h`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Age(pub Duration);

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a length of time, such as 90d, 36h or never");
        if text == "never" {
            return Ok(Self(Duration::MAX));
        }
        let span: jiff::Span = text.parse().map_err(|_| wrong())?;
        let length = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
        length.try_into().map(Self).map_err(|_| wrong())
    }
}

impl Serialize for Age {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        const DAY: u64 = 86_400;
        match self.0 {
            Duration::MAX => to.serialize_str("never"),
            age if age.as_secs() >= DAY && age == Duration::from_secs(age.as_secs() / DAY * DAY) => {
                to.collect_str(&format_args!("{}d", age.as_secs() / DAY))
            }
            age => match jiff::SignedDuration::try_from(age) {
                Ok(age) => to.collect_str(&format_args!("{age:#}")),
                Err(_) => to.serialize_str("never"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_reads_as_it_was_written_out() {
        for text in ["7d", "1d", "36h", "90m", "1s", "0s", "never"] {
            let age: Age = text.parse().unwrap();
            let shown = serde_json::to_value(age).unwrap();
            assert_eq!(shown.as_str().unwrap().parse(), Ok(age), "{text}");
        }
        assert_eq!(serde_json::to_value(Age(Duration::from_secs(7 * 86_400))).unwrap(), "7d");
    }

    #[test]
    fn an_age_is_a_length_of_time_in_words() {
        let hours = |hours: u64| Ok(Age(Duration::from_secs(hours * 3_600)));
        for (text, expected) in [("7d", hours(168)), ("36h", hours(36)), ("1w 1 day", hours(192)), ("0s", hours(0))] {
            assert_eq!(text.parse(), expected, "{text}");
        }
        assert_eq!("never".parse(), Ok(Age(Duration::MAX)));
        for bad in ["", "7", "-1d", "1 month", "soon"] {
            assert!(bad.parse::<Age>().is_err(), "{bad}");
        }
    }
}
