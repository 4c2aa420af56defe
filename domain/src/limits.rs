//! Every limit of the protocol, in one place. The unit is the last word of the name.

/// Bytes of UTF-8 in the id of a user or a source.
pub const ID_BYTES_MAX: usize = 255;
/// Bytes in the name of a schema or a table.
pub const NAME_BYTES_MAX: usize = 63;
/// Levels of arrays and objects in a payload. Deeper ones would exhaust the stack of a database's JSON parser.
pub const PAYLOAD_DEPTH_MAX: usize = 128;
/// Changes in one upload, unless configured otherwise.
pub const UPLOAD_CHANGES_MAX: usize = 1_000;
/// Changes in one upload that are not all well-formed. Each is answered by itself, and a few bytes of nonsense
/// would cost a hundred times as many in the answer.
pub const MIXED_CHANGES_MAX: usize = 100_000;
/// Bytes of one payload, unless configured otherwise.
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of one request body, unless configured otherwise.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Changes in one page of a download.
pub const PAGE_CHANGES_MAX: u32 = 1_000;
/// Bytes of payloads in one page of a download, but for the payload that goes over it.
pub const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Changes in one page of a download that names no limit.
pub const PAGE_CHANGES_DEFAULT: u32 = 100;

/// The limits an operator may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadLimits {
    /// Changes in one upload.
    pub changes_max: usize,
    /// Bytes of one payload.
    pub payload_bytes_max: usize,
}

impl Default for UploadLimits {
    fn default() -> Self {
        Self { changes_max: UPLOAD_CHANGES_MAX, payload_bytes_max: PAYLOAD_BYTES_MAX }
    }
}
