//! An export as lines of JSON.

use outrigger_application::export::Part;
use outrigger_domain::UserId;
use serde::Serialize;
use uuid::Uuid;

use crate::admin::DeviceBody;
use crate::failures::FailureBody;
use crate::wire::{DownloadChange, SnapshotRowBody};

/// Part of the export of a user.
pub struct Exported<'a> {
    /// The user.
    pub user: &'a UserId,
    /// The part.
    pub part: &'a Part,
}

/// One line.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Line<'a> {
    User { user: &'a str, highest_server_seq: i64, epoch: Uuid },
    End { rows: u64, changes: u64, devices: u64, failures: u64 },
}

/// The lines of a part, each with its end.
pub fn lines(exported: &Exported<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    match exported.part {
        Part::User(head) => {
            let user = exported.user.as_str();
            write(&mut text, "", &Line::User { user, highest_server_seq: head.seq.0, epoch: head.epoch.0 });
        }
        Part::Rows(rows) => rows.iter().for_each(|row| write(&mut text, "row", &SnapshotRowBody::from(row))),
        Part::Changes(changes) => {
            for change in changes {
                text.extend_from_slice(b"{\"kind\":\"change\",");
                DownloadChange::from(change).write_members(&mut text);
                text.push(b'\n');
            }
        }
        Part::Devices(devices) => {
            devices.iter().for_each(|device| write(&mut text, "device", &DeviceBody::from(device)))
        }
        Part::Failures(failures) => {
            failures.iter().for_each(|failure| write(&mut text, "failure", &FailureBody::from(failure)));
        }
        &Part::End { rows, changes, devices, failures } => {
            write(&mut text, "", &Line::End { rows, changes, devices, failures });
        }
    }
    text
}

/// Writes an object as a line, with its kind in front unless it has one. By hand, since a tagged value is collected first,
/// and payloads are text that has to pass through as it is.
fn write(text: &mut Vec<u8>, kind: &str, value: &impl Serialize) {
    let begin = text.len();
    // What is written here has a JSON form, and a vector takes it.
    let _ = serde_json::to_writer(&mut *text, value);
    if !kind.is_empty() {
        text.splice(begin..=begin, format!("{{\"kind\":\"{kind}\",").into_bytes());
    }
    text.push(b'\n');
}
