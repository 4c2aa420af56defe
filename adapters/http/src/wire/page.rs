//! A page of a stream, written once and by hand: most of a server's time goes into these.

use std::io::Write;

use jiff::Timestamp;
use outrigger_domain::stream::StreamChange;
use outrigger_domain::window::Page;
use utoipa::ToSchema;
use uuid::Uuid;

use super::ops;

/// About the bytes of one change, but for its payload.
const CHANGE_BYTES: usize = 320;

/// One page of the user's stream.
#[derive(ToSchema)]
pub(crate) struct DownloadResponse<'a> {
    /// In ascending order of `server_id`.
    changes: Vec<DownloadChange<'a>>,
    /// Whether more of the window is to be had.
    has_more: bool,
    /// The `after` of the next request.
    next_after: i64,
    /// Where the window ends; the `until` that keeps it there.
    window_until: i64,
    /// The life of the stream that its numbers are of.
    epoch: Uuid,
}

/// An applied change.
#[derive(ToSchema)]
pub(crate) struct DownloadChange<'a> {
    /// Its place in the user's stream.
    server_id: i64,
    schema: &'a str,
    table: &'a str,
    #[schema(schema_with = ops)]
    op: &'static str,
    pk: Uuid,
    /// The row as it was uploaded; null for a DELETE.
    #[schema(value_type = Option<Object>, required = true)]
    payload: Option<&'a str>,
    /// The row's version after it.
    server_version: i64,
    /// Whether it is a DELETE.
    deleted: bool,
    /// The source that made it.
    source_id: &'a str,
    source_change_id: i64,
    /// When the server applied it, in UTC.
    #[schema(value_type = String, format = DateTime, example = "2025-08-08T07:01:00.123456Z")]
    ts: Timestamp,
}

impl<'a> From<&'a Page> for DownloadResponse<'a> {
    fn from(page: &'a Page) -> Self {
        Self {
            changes: page.changes.iter().map(DownloadChange::from).collect(),
            has_more: page.has_more,
            next_after: page.next_after.0,
            window_until: page.window_until.0,
            epoch: page.epoch.0,
        }
    }
}

impl<'a> From<&'a StreamChange> for DownloadChange<'a> {
    fn from(change: &'a StreamChange) -> Self {
        Self {
            server_id: change.server_id.0,
            schema: change.row.table.schema(),
            table: change.row.table.table(),
            op: change.op.as_str(),
            pk: change.row.pk,
            payload: change.payload.as_ref().map(|payload| payload.as_str()),
            server_version: change.version.0,
            deleted: change.payload.is_none(),
            source_id: change.source.as_str(),
            source_change_id: change.source_change_id.0,
            ts: change.at,
        }
    }
}

impl DownloadResponse<'_> {
    /// The JSON of it.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let payloads = self.changes.iter().map(|change| change.payload.map_or(0, str::len));
        let mut json = Vec::with_capacity(192 + payloads.map(|bytes| bytes + CHANGE_BYTES).sum::<usize>());
        let mut to = Writer { json: &mut json };
        // The changes of one upload were applied at one time.
        let mut time = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH.to_string());
        to.text("{\"changes\":[");
        for (n, change) in self.changes.iter().enumerate() {
            to.text(if n == 0 { "{" } else { ",{" });
            if change.ts != time.0 {
                time = (change.ts, change.ts.to_string());
            }
            to.change(change, &time.1);
        }
        to.text("],\"has_more\":");
        to.text(if self.has_more { "true" } else { "false" });
        to.number(",\"next_after\":", self.next_after);
        to.number(",\"window_until\":", self.window_until);
        to.uuid(",\"epoch\":\"", self.epoch);
        to.text("\"}");
        json
    }
}

impl DownloadChange<'_> {
    /// Adds the JSON of it, but for the opening brace: more members may stand in front.
    pub(crate) fn write_members(&self, json: &mut Vec<u8>) {
        Writer { json }.change(self, &self.ts.to_string());
    }
}

struct Writer<'v> {
    json: &'v mut Vec<u8>,
}

impl Writer<'_> {
    /// A change without its opening brace.
    fn change(&mut self, change: &DownloadChange<'_>, time: &str) {
        self.number("\"server_id\":", change.server_id);
        // The names of tables and ops are letters, digits and underscores.
        for (member, name) in
            [(",\"schema\":\"", change.schema), ("\",\"table\":\"", change.table), ("\",\"op\":\"", change.op)]
        {
            self.text(member);
            self.text(name);
        }
        self.uuid("\",\"pk\":\"", change.pk);
        self.text("\",\"payload\":");
        self.text(change.payload.unwrap_or("null"));
        self.number(",\"server_version\":", change.server_version);
        self.text(if change.deleted { ",\"deleted\":true" } else { ",\"deleted\":false" });
        self.text(",\"source_id\":");
        self.string(change.source_id);
        self.number(",\"source_change_id\":", change.source_change_id);
        self.text(",\"ts\":\"");
        self.text(time);
        self.text("\"}");
    }

    fn text(&mut self, text: &str) {
        self.json.extend_from_slice(text.as_bytes());
    }

    fn number(&mut self, before: &str, number: i64) {
        self.text(before);
        // Nothing that is written to memory fails.
        let _ = write!(self.json, "{number}");
    }

    fn uuid(&mut self, before: &str, uuid: Uuid) {
        self.text(before);
        self.text(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
    }

    /// Any text, with the escapes that it takes.
    fn string(&mut self, text: &str) {
        let _ = serde_json::to_writer(&mut *self.json, text);
    }
}

#[cfg(test)]
mod tests {
    use outrigger_domain::change::OpKind;
    use outrigger_domain::{Epoch, Payload, RowKey, RowVersion, ServerSeq, SourceChangeId, SourceId, TableName};
    use serde_json::json;

    use super::*;

    fn change(server_id: i64, payload: Option<&str>, source: &str) -> StreamChange {
        StreamChange {
            server_id: ServerSeq(server_id),
            row: RowKey { table: TableName::parse(Some("shop"), "users").unwrap(), pk: Uuid::from_u128(0xab) },
            op: if payload.is_some() { OpKind::Update } else { OpKind::Delete },
            payload: payload.and_then(|text| Payload::from_text(text.into())),
            version: RowVersion(7),
            source: SourceId::parse(source).unwrap(),
            source_change_id: SourceChangeId(i64::MAX),
            at: Timestamp::from_microsecond(server_id * 500_000).unwrap(),
        }
    }

    #[test]
    fn a_page_is_the_json_that_it_is_described_as() {
        let source = "a \"phone\" \\ ☎";
        let changes = vec![change(3, Some(r#"{ "b":1.50, "a":"é" }"#), source), change(4, None, "tablet")];
        let epoch = Epoch(Uuid::from_u128(1));
        let page = Page { changes, has_more: true, next_after: ServerSeq(4), window_until: ServerSeq(9), epoch };
        let text = String::from_utf8(DownloadResponse::from(&page).to_json()).unwrap();
        let pk = "00000000-0000-0000-0000-0000000000ab";
        let common = json!({"schema": "shop", "table": "users", "pk": pk, "server_version": 7,
                            "source_change_id": i64::MAX});
        let mut first = json!({"server_id": 3, "op": "UPDATE", "payload": {"b": 1.5, "a": "é"}, "deleted": false,
                               "source_id": source, "ts": "1970-01-01T00:00:01.5Z"});
        let mut second = json!({"server_id": 4, "op": "DELETE", "payload": null, "deleted": true,
                                "source_id": "tablet", "ts": "1970-01-01T00:00:02Z"});
        for change in [&mut first, &mut second] {
            change.as_object_mut().unwrap().extend(common.as_object().unwrap().clone());
        }
        let expected = json!({"changes": [first, second], "has_more": true, "next_after": 4, "window_until": 9,
                              "epoch": "00000000-0000-0000-0000-000000000001"});
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), expected, "{text}");
        assert!(text.contains(r#""payload":{ "b":1.50, "a":"é" },"#), "a payload comes back as it came: {text}");
        assert!(text.starts_with(r#"{"changes":[{"server_id":3,"schema":"shop","table":"users","op":"UPDATE","pk":"#));
    }

    #[test]
    fn an_empty_page_is_json_too() {
        let empty = DownloadResponse {
            changes: Vec::new(),
            has_more: false,
            next_after: 0,
            window_until: 0,
            epoch: Uuid::nil(),
        };
        let expected = json!({"changes": [], "has_more": false, "next_after": 0, "window_until": 0,
                              "epoch": "00000000-0000-0000-0000-000000000000"});
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&empty.to_json()).unwrap(), expected);
    }
}
