//! Keys of rows as they stand in payloads.

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::value::RawValue;
use uuid::Uuid;

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD_LENIENT: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
const URL_SAFE_LENIENT: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

/// Bytes from base64 of the standard or the URL-safe alphabet, padded or not.
pub fn decode_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD_LENIENT.decode(text).or_else(|_| URL_SAFE_LENIENT.decode(text)).ok()
}

/// Reads UUID text in any usual form, or base64 of its 16 bytes: databases keep keys as either.
pub fn parse(text: &str) -> Option<Uuid> {
    // Base64 of 16 bytes has 22 characters, or 24 with padding; no form of UUID text is that short.
    Uuid::try_parse(text).ok().or_else(|| Uuid::from_slice(&decode_base64(text)?).ok())
}

/// Reads a key from a member of a payload.
pub fn parse_json(value: &RawValue) -> Option<Uuid> {
    parse(&serde_json::from_str::<String>(value.get()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_uuid_text_or_base64_of_its_bytes() {
        let key = Uuid::from_u128(0x0193_fbef_0000_7000_8000_0000_0000_00ff);
        for text in [
            "0193fbef-0000-7000-8000-0000000000ff",
            "0193FBEF-0000-7000-8000-0000000000FF",
            "0193fbef0000700080000000000000ff",
            "{0193fbef-0000-7000-8000-0000000000ff}",
            "urn:uuid:0193fbef-0000-7000-8000-0000000000ff",
            "AZP77wAAcACAAAAAAAAA/w==",
            "AZP77wAAcACAAAAAAAAA/w",
            "AZP77wAAcACAAAAAAAAA_w",
        ] {
            assert_eq!(parse(text), Some(key), "{text}");
        }
        for text in
            ["", "1", "AZP77wAAcACAAAAAAAAA", "0193fbef-0000-7000-8000-0000000000f", "AZP77wAAcACAAAAAAAAA/w==AA=="]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
