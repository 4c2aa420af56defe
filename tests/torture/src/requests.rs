//! What the requests of a history are as text.

use crate::model::{Change, Epoch, Query};

/// Stands in requests for the life of each server's streams.
pub(crate) const THIS_EPOCH: &str = "{epoch}";
const ANOTHER_EPOCH: &str = "00000000-0000-4000-8000-000000000000";

/// The body of an upload.
pub(crate) fn body(changes: &[Change], atomic: bool, epoch: Option<Epoch>) -> String {
    let changes: Vec<String> = changes.iter().map(json).collect();
    let atomic = if atomic { r#","atomic":true"# } else { "" };
    let epoch = epoch.map_or_else(String::new, |epoch| format!(r#","epoch":"{}""#, written(epoch)));
    format!(r#"{{"last_server_seq_seen":0,"changes":[{}]{atomic}{epoch}}}"#, changes.join(","))
}

fn written(epoch: Epoch) -> &'static str {
    match epoch {
        Epoch::This => THIS_EPOCH,
        Epoch::Another => ANOTHER_EPOCH,
        Epoch::NoUuid => "now",
    }
}

/// The path of a download; a parameter that is odd stands in the place of the good one.
pub(crate) fn path(query: &Query, odd: Option<(&'static str, &'static str)>) -> String {
    let number = |number: Option<i64>| number.map(|number| number.to_string());
    let pairs = [
        ("after", Some(query.after.to_string())),
        ("include_self", Some(query.include_self.to_string())),
        ("limit", number(query.limit)),
        ("until", number((query.until != 0).then_some(query.until))),
        ("wait", number(query.wait)),
        ("schema", query.schema.map(str::to_owned)),
        ("epoch", query.epoch.map(|epoch| written(epoch).to_owned())),
    ];
    let good = pairs.into_iter().filter(|(name, _)| odd.is_none_or(|(odd, _)| odd != *name));
    let good = good.filter_map(|(name, value)| Some(format!("{name}={}", value?)));
    let pairs: Vec<String> = good.chain(odd.map(|(name, value)| format!("{name}={value}"))).collect();
    format!("/sync/download?{}", pairs.join("&"))
}

fn json(change: &Change) -> String {
    let id = change.id.map_or_else(|| "\"one\"".into(), |id| id.to_string());
    let schema = change.schema.map_or_else(String::new, |schema| format!(r#""schema":"{schema}","#));
    let payload = change.payload.as_ref().map_or("null", |payload| &payload.text);
    let Change { table, op, pk, version, .. } = change;
    format!(
        r#"{{"source_change_id":{id},{schema}"table":"{table}","op":"{op}","pk":"{pk}","server_version":{version},"payload":{payload}}}"#
    )
}
