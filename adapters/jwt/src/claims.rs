//! What the claims of a verified token say, and whether that is acceptable.

use jiff::Timestamp;
use outrigger_application::Caller;
use outrigger_domain::{SourceId, UserId};
use serde::Deserialize;
use serde_json::Value;

use crate::{JwtOptions, SOURCE_HEADER};

/// The claims that matter, of any JSON type, so that a wrong type can be told by the claim's name.
#[derive(Deserialize)]
pub(crate) struct Claims {
    sub: Option<Value>,
    did: Option<Value>,
    source_id: Option<Value>,
    iss: Option<Value>,
    aud: Option<Value>,
    exp: Option<Value>,
    nbf: Option<Value>,
    iat: Option<Value>,
}

impl Claims {
    /// The caller that the token speaks for at `now`, or why it speaks for nobody.
    pub(crate) fn judge(&self, header: Option<&str>, options: &JwtOptions, now: Timestamp) -> Result<Caller, String> {
        self.check_issuer(options)?;
        self.check_audience(options)?;
        let expires_at = self.check_times(f64::from(options.leeway_s), now)?;
        let user = text("sub", &self.sub)?.ok_or("the token names no user (`sub`)")?;
        let user = UserId::parse(user).map_err(|why| format!("the token's `sub` {why}"))?;
        Ok(Caller { user, source: self.source(header)?, expires_at })
    }

    fn check_issuer(&self, options: &JwtOptions) -> Result<(), String> {
        match &options.issuer {
            Some(issuer) if text("iss", &self.iss)? != Some(issuer) => {
                Err("the token's `iss` is not the issuer that this server trusts".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn check_audience(&self, options: &JwtOptions) -> Result<(), String> {
        let Some(audience) = &options.audience else { return Ok(()) };
        let is_us = |value: &Value| value.as_str() == Some(audience);
        // RFC 7519, 4.1.3: one string or an array of them.
        let names_us = match &self.aud {
            Some(Value::Array(audiences)) => audiences.iter().any(is_us),
            Some(value) => is_us(value),
            None => false,
        };
        if names_us { Ok(()) } else { Err("the token's `aud` does not name this server".to_owned()) }
    }

    /// When the token ends, if it is in force at `now`.
    fn check_times(&self, leeway_s: f64, now: Timestamp) -> Result<Timestamp, String> {
        let exp = seconds("exp", &self.exp)?.ok_or("the token never expires: `exp` is required")?;
        let now_s = now.as_duration().as_secs_f64();
        let shown = |moment_s| format!("{}, by the server's clock it is {}", moment(moment_s), moment(now_s));
        if now_s >= exp + leeway_s {
            return Err(format!("the token expired at {}", shown(exp)));
        }
        for (name, start) in [("nbf", &self.nbf), ("iat", &self.iat)] {
            match seconds(name, start)? {
                Some(start) if now_s + leeway_s < start => {
                    return Err(format!("the token is not valid before its `{name}`, {}", shown(start)));
                }
                _ => {}
            }
        }
        Ok(moment(exp))
    }

    fn source(&self, header: Option<&str>) -> Result<SourceId, String> {
        let (name, source) = match (text("did", &self.did)?, text("source_id", &self.source_id)?, header) {
            (Some(did), Some(source_id), _) if did != source_id => {
                return Err("the token's `did` and `source_id` differ".to_owned());
            }
            (Some(claimed), _, Some(header)) | (None, Some(claimed), Some(header)) if claimed != header => {
                return Err(format!("the header {SOURCE_HEADER} contradicts the token's source"));
            }
            (Some(did), _, _) => ("the token's `did`", did),
            (None, Some(source_id), _) => ("the token's `source_id`", source_id),
            (None, None, Some(header)) => ("the header Outrigger-Source-Id", header),
            (None, None, None) => {
                let how = "put `did` or `source_id` into it, or send the header";
                return Err(format!("the token names no source: {how} {SOURCE_HEADER}"));
            }
        };
        SourceId::parse(source).map_err(|why| format!("{name} {why}"))
    }
}

fn text<'a>(name: &str, claim: &'a Option<Value>) -> Result<Option<&'a str>, String> {
    match claim {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("the token's `{name}` must be a string")),
    }
}

/// A `NumericDate` of RFC 7519: seconds since the epoch, possibly with a fraction.
fn seconds(name: &str, claim: &Option<Value>) -> Result<Option<f64>, String> {
    match claim {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or_else(|| format!("the token's `{name}` must be a number")),
    }
}

/// The moment in whole seconds; the nearest there is if it lies beyond all time.
fn moment(seconds: f64) -> Timestamp {
    let range = Timestamp::MIN.as_second()..=Timestamp::MAX.as_second();
    let nearest = (seconds as i64).clamp(*range.start(), *range.end());
    Timestamp::from_second(nearest).unwrap_or(Timestamp::MAX)
}
