//! The parameters of a query.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use outrigger_domain::{Epoch, TableName, UserId};
use uuid::Uuid;

use crate::error::ApiError;

/// The parameter's only value. Of two values nobody could say which one counts.
fn single<'a>(pairs: &'a [(String, String)], name: &str) -> Result<Option<&'a str>, ApiError> {
    let mut values = pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(ApiError::invalid_request(format!("`{name}` was given twice"))),
    }
}

/// A whole number in that range, written in digits alone.
pub(crate) fn number<T>(pairs: &[(String, String)], name: &str, range: RangeInclusive<T>) -> Result<Option<T>, ApiError>
where
    T: FromStr + PartialOrd + Display,
{
    single(pairs, name)?.map(|text| read_number(text, name, range)).transpose()
}

/// Reads such a number, wherever it stands.
pub(crate) fn read_number<T>(text: &str, name: &str, range: RangeInclusive<T>) -> Result<T, ApiError>
where
    T: FromStr + PartialOrd + Display,
{
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits && range.contains(&number) => Ok(number),
        _ => {
            let (min, max) = (range.start(), range.end());
            Err(ApiError::invalid_request(format!("`{name}` must be a number from {min} to {max}")))
        }
    }
}

/// A switch, off unless given.
pub(crate) fn flag(pairs: &[(String, String)], name: &str) -> Result<bool, ApiError> {
    match single(pairs, name)? {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1") => Ok(true),
        Some(_) => Err(ApiError::invalid_request(format!("`{name}` must be true, false, 1 or 0"))),
    }
}

/// The epoch that a device knows.
pub(crate) fn epoch(pairs: &[(String, String)]) -> Result<Option<Epoch>, ApiError> {
    single(pairs, "epoch")?.map(read_epoch).transpose()
}

/// Reads an epoch, wherever it stands.
pub(crate) fn read_epoch(text: &str) -> Result<Epoch, ApiError> {
    Uuid::try_parse(text).map(Epoch).map_err(|_| ApiError::invalid_request("`epoch` must be a UUID"))
}

/// Text of any kind that reads itself.
pub(crate) fn parsed<T: FromStr<Err: Display>>(pairs: &[(String, String)], name: &str) -> Result<Option<T>, ApiError> {
    let read = |text: &str| text.parse().map_err(|why| ApiError::invalid_request(format!("`{name}` {why}")));
    single(pairs, name)?.map(read).transpose()
}

/// Text as it is.
pub(crate) fn text<'a>(pairs: &'a [(String, String)], name: &str) -> Result<Option<&'a str>, ApiError> {
    single(pairs, name)
}

/// The id of a user.
pub(crate) fn user(pairs: &[(String, String)], name: &str) -> Result<Option<UserId>, ApiError> {
    single(pairs, name)?.map(|text| read_user(text, name)).transpose()
}

/// Reads such an id, wherever it stands.
pub(crate) fn read_user(text: &str, name: &str) -> Result<UserId, ApiError> {
    UserId::parse(text).map_err(|why| ApiError::invalid_request(format!("`{name}` {why}")))
}

/// The name of a schema or of a table, in its normal form.
pub(crate) fn name(pairs: &[(String, String)], parameter: &str) -> Result<Option<String>, ApiError> {
    let Some(text) = single(pairs, parameter)? else { return Ok(None) };
    // Both are known by the same rule, which a whole name applies to each of its parts.
    let name = TableName::parse(None, text)
        .map_err(|why| ApiError::invalid_request(format!("`{parameter}` is no name: {why}")))?;
    Ok(Some(name.table().to_owned()))
}
