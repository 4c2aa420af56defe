//! The bodies of uploads, made as fast as can be: what they cost is time that the server does not have.

use std::fmt::Write;

use bytes::Bytes;
use uuid::Uuid;

/// Bytes of a payload but for its name.
const FRAME_BYTES: u32 = 86;
/// The least bytes of a payload.
pub const PAYLOAD_BYTES_MIN: u32 = FRAME_BYTES + 10;

/// A row as its device knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) pk: Uuid,
    /// The version at the server.
    pub(crate) version: i64,
}

/// Numbers and writes the changes of one device.
pub(crate) struct Changes {
    random: fastrand::Rng,
    next_id: i64,
    name_bytes: usize,
}

impl Changes {
    /// Changes with payloads of so many bytes, numbered from that id on.
    pub(crate) fn new(payload_bytes: u32, first_id: i64) -> Self {
        let name_bytes = payload_bytes.max(PAYLOAD_BYTES_MIN) - FRAME_BYTES;
        Self { random: fastrand::Rng::new(), next_id: first_id, name_bytes: name_bytes as usize }
    }

    /// A row that no server knows.
    pub(crate) fn row(&mut self) -> Row {
        let pk = uuid::Builder::from_random_bytes(self.random.u128(..).to_ne_bytes()).into_uuid();
        Row { pk, version: 0 }
    }

    /// The name and the address that a payload has.
    pub(crate) fn values(&mut self) -> (String, String) {
        let mut name = String::with_capacity(self.name_bytes + 16);
        while name.len() < self.name_bytes {
            let _ = write!(name, "{:016x}", self.random.u64(..));
        }
        name.truncate(self.name_bytes);
        (name, format!("{:08}@example.com", self.random.u32(..100_000_000)))
    }

    /// An upload: for each row its change, on the version that is named.
    pub(crate) fn upload(&mut self, op: &str, rows: &[Row]) -> Bytes {
        let mut body = String::with_capacity(32 + rows.len() * (self.name_bytes + 256));
        body += r#"{"changes":["#;
        for (n, row) in rows.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            let (id, version) = (self.next_id, row.version);
            self.next_id += 1;
            let mut buffer = Uuid::encode_buffer();
            let pk = row.pk.hyphenated().encode_lower(&mut buffer);
            let _ = write!(
                body,
                r#"{comma}{{"source_change_id":{id},"table":"users","op":"{op}","pk":"{pk}","server_version":{version},"payload":"#
            );
            let payload = self.payload(pk);
            body += &payload;
            body.push('}');
        }
        body += "]}";
        body.into()
    }

    /// What a row holds.
    pub(crate) fn payload(&mut self, pk: &str) -> String {
        let (name, email) = self.values();
        format!(r#"{{"id":"{pk}","name":"{name}","email":"{email}"}}"#)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_the_bytes_that_were_asked_for() {
        for bytes in [PAYLOAD_BYTES_MIN, 200, 4_001] {
            let mut changes = Changes::new(bytes, 1);
            let pk = changes.row().pk.to_string();
            assert_eq!(changes.payload(&pk).len(), bytes as usize);
        }
    }

    #[test]
    fn ids_go_on_from_upload_to_upload() {
        let mut changes = Changes::new(100, 7);
        let rows = [changes.row(), changes.row()];
        changes.upload("INSERT", &rows);
        let body = changes.upload("UPDATE", &rows);
        let body = std::str::from_utf8(&body).unwrap();
        assert!(body.starts_with(r#"{"changes":[{"source_change_id":9,"#), "{body}");
        assert!(body.contains(r#"},{"source_change_id":10,"#) && body.ends_with("\"}}]}"), "{body}");
    }
}
