//! What the claims of a verified token say, and whether that is acceptable.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use jiff::Timestamp;
use outrigger_application::Caller;
use outrigger_domain::{SourceId, UserId};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::{AdminRule, JwtOptions, SOURCE_HEADER};

/// The claims, each once: of two of one name nobody could say which one counts. Those that are null are as good as absent.
pub(crate) struct Claims(HashMap<String, Value>);

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Claims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with each member once")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Claims, A::Error> {
                let mut claims = HashMap::new();
                while let Some((name, value)) = members.next_entry::<String, Value>()? {
                    match claims.entry(name) {
                        Entry::Occupied(_) => return Err(A::Error::custom("a claim stands there twice")),
                        Entry::Vacant(place) => place.insert(value),
                    };
                }
                Ok(Claims(claims))
            }
        }

        from.deserialize_map(Object)
    }
}

impl Claims {
    /// The caller that the token speaks for at `now`, or why it speaks for nobody.
    pub(crate) fn judge(&self, header: Option<&str>, options: &JwtOptions, now: Timestamp) -> Result<Caller, String> {
        self.check_issuer(options)?;
        self.check_audience(options)?;
        let expires_at = self.check_times(f64::from(options.leeway_s), now)?;
        let claim = &options.user_claim;
        let user = self.text(claim)?.ok_or_else(|| format!("the token names no user (`{claim}`)"))?;
        let user = UserId::parse(user).map_err(|why| format!("the token's `{claim}` {why}"))?;
        let is_admin = options.admin.as_ref().is_some_and(|rule| self.satisfies(rule));
        Ok(Caller { user, source: self.source(header, options)?, expires_at, is_admin })
    }

    /// The claim of that name, or at that path. Names may have dots themselves, as those in the form of a URL do.
    fn get(&self, name: &str) -> Option<&Value> {
        let found = self.0.get(name).or_else(|| {
            let (first, rest) = name.split_once('.')?;
            rest.split('.').try_fold(self.0.get(first)?, |value, member| value.get(member))
        });
        found.filter(|value| !value.is_null())
    }

    fn text(&self, name: &str) -> Result<Option<&str>, String> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("the token's `{name}` must be a string")),
        }
    }

    /// A `NumericDate` of RFC 7519: seconds since the epoch, possibly with a fraction.
    fn seconds(&self, name: &str) -> Result<Option<f64>, String> {
        let number = |value: &Value| value.as_f64().ok_or_else(|| format!("the token's `{name}` must be a number"));
        self.get(name).map(number).transpose()
    }

    fn check_issuer(&self, options: &JwtOptions) -> Result<(), String> {
        match &options.issuer {
            Some(issuer) if self.text("iss")? != Some(issuer) => {
                Err("the token's `iss` is not the issuer that this server trusts".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn check_audience(&self, options: &JwtOptions) -> Result<(), String> {
        let Some(audience) = &options.audience else { return Ok(()) };
        let is_us = |value: &Value| value.as_str() == Some(audience);
        // RFC 7519, 4.1.3: one string or an array of them.
        let names_us = match self.get("aud") {
            Some(Value::Array(audiences)) => audiences.iter().any(is_us),
            Some(value) => is_us(value),
            None => false,
        };
        if names_us { Ok(()) } else { Err("the token's `aud` does not name this server".to_owned()) }
    }

    /// When the token ends, if it is in force at `now`.
    fn check_times(&self, leeway_s: f64, now: Timestamp) -> Result<Timestamp, String> {
        let exp = self.seconds("exp")?.ok_or("the token never expires: `exp` is required")?;
        let now_s = now.as_duration().as_secs_f64();
        let shown = |moment_s| format!("{}, by the server's clock it is {}", moment(moment_s), moment(now_s));
        if now_s >= exp + leeway_s {
            return Err(format!("the token expired at {}", shown(exp)));
        }
        for name in ["nbf", "iat"] {
            match self.seconds(name)? {
                Some(start) if now_s + leeway_s < start => {
                    return Err(format!("the token is not valid before its `{name}`, {}", shown(start)));
                }
                _ => {}
            }
        }
        Ok(moment(exp))
    }

    fn source(&self, header: Option<&str>, options: &JwtOptions) -> Result<SourceId, String> {
        let mut named: Option<(&str, &str)> = None;
        for claim in &options.source_claims {
            match (self.text(claim)?, named) {
                (Some(source), Some((other, known))) if source != known => {
                    return Err(format!("the token's `{other}` and `{claim}` differ"));
                }
                (Some(source), None) => named = Some((claim, source)),
                _ => {}
            }
        }
        let parse = |what: &str, text: &str| SourceId::parse(text).map_err(|why| format!("{what} {why}"));
        match (named, header) {
            (Some((_, claimed)), Some(header)) if claimed != header => {
                Err(format!("the header {SOURCE_HEADER} contradicts the token's source"))
            }
            (Some((claim, source)), _) => parse(&format!("the token's `{claim}`"), source),
            (None, Some(header)) if options.source_header => parse(&format!("the header {SOURCE_HEADER}"), header),
            (None, _) => Err(unnamed(options)),
        }
    }

    fn satisfies(&self, rule: &AdminRule) -> bool {
        let is_it = |text: &str| text == rule.value || text.split_whitespace().any(|word| word == rule.value);
        match self.get(&rule.claim) {
            Some(Value::String(text)) => is_it(text),
            Some(Value::Array(values)) => values.iter().any(|value| value.as_str() == Some(&rule.value)),
            _ => false,
        }
    }
}

/// What to do about a token without a source.
fn unnamed(options: &JwtOptions) -> String {
    let claims = options.source_claims.iter().map(|claim| format!("`{claim}`")).collect::<Vec<_>>().join(" or ");
    let into_it = format!("put {claims} into it");
    let how = match (options.source_claims.is_empty(), options.source_header) {
        (true, _) => format!("send the header {SOURCE_HEADER}"),
        (false, true) => format!("{into_it}, or send the header {SOURCE_HEADER}"),
        (false, false) => {
            format!("{into_it} (the header {SOURCE_HEADER} counts only where auth.source_header is on)")
        }
    };
    format!("the token names no source: {how}")
}

/// The moment in whole seconds; the nearest there is if it lies beyond all time.
fn moment(seconds: f64) -> Timestamp {
    let range = Timestamp::MIN.as_second()..=Timestamp::MAX.as_second();
    let nearest = (seconds as i64).clamp(*range.start(), *range.end());
    Timestamp::from_second(nearest).unwrap_or(Timestamp::MAX)
}
