//! Whether the promises were kept: the ledger of an episode against what the database holds at its end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::RangeInclusive;

use serde_json::Value;

use super::chaos::SKIP;
use super::facts::{Entry, Facts, Pruned, RowOf, image};
use super::ledger::{Content, Inner, Key, Place, Sent, Shown};
use super::plan::{Plan, Pruning};
use super::reader::Reader;

/// How many of one kind are told of; what was wrong before is told anyway.
const TOLD_MAX: usize = 5;

/// What an episode has come to.
pub(crate) struct Evidence<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) ledger: &'a Inner,
    pub(crate) facts: &'a Facts,
    /// What the database held when the backup that was put back was taken.
    pub(crate) restored: Option<&'a Facts>,
    pub(crate) readers: &'a [Reader],
}

/// Everything that is wrong.
pub(crate) fn check(evidence: &Evidence<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    for found in [
        applied_changes_are_in_the_log(evidence),
        nothing_else_is_in_the_log(evidence),
        streams_have_no_holes(evidence),
        readers_missed_nothing(evidence),
        versions_count_up_by_one(evidence),
        rows_are_what_the_log_says(evidence),
        business_tables_are_the_state(evidence),
    ] {
        wrong.extend(found.into_iter().take(TOLD_MAX));
    }
    wrong
}

fn by_key(facts: &Facts) -> HashMap<&Key, &Entry> {
    facts.log.iter().map(|entry| (&entry.key, entry)).collect()
}

/// Every change that was answered `applied` is in the log once, as it was sent; or was pruned, and is known by its key.
fn applied_changes_are_in_the_log(evidence: &Evidence<'_>) -> Vec<String> {
    let Evidence { ledger, facts, restored, .. } = evidence;
    let log = by_key(facts);
    let mut wrong = Vec::new();
    if log.len() != facts.log.len() {
        wrong.push("a change is in the log twice".to_owned());
    }
    let backup = restored.map(by_key).unwrap_or_default();
    let tombstones = tombstones(evidence);
    for (key, sent) in &ledger.sent {
        for (life, version) in &sent.applied {
            let is_in_backup = backup.contains_key(key) || restored.is_some_and(|of| of.pruned.contains_key(key));
            if *life < ledger.life && !is_in_backup {
                // Lost with the time between the backup and its return.
                continue;
            }
            match (log.get(key), facts.pruned.get(key)) {
                (Some(entry), None) if Some(entry.version) == *version && entry.content == sent.content => {}
                (None, Some(pruned)) if Some(pruned.version) == *version => {}
                (None, None) if is_a_deletion_of_nothing(&tombstones, (key, sent), *version) => {}
                (None, None) if is_forgotten(facts, key) => {}
                (entry, pruned) => wrong.push(format!(
                    "{key:?} was answered `applied` with {version:?}, as {:?}; the log has {entry:?}, {pruned:?}",
                    sent.content
                )),
            }
        }
    }
    wrong
}

/// Rules 6 and 7 of the table: a deletion of what never was is `applied` without a version, one of what is deleted already
/// with that of the deletion before it, and neither is logged.
fn is_a_deletion_of_nothing(
    tombstones: &Option<HashSet<(RowOf, i64)>>,
    (key, sent): (&Key, &Sent),
    version: Option<i64>,
) -> bool {
    let Content { op, table, pk, .. } = &sent.content;
    let row = (key.user.clone(), table.clone(), pk.clone());
    let is_told_of_another = || version.zip(tombstones.as_ref()).is_none_or(|(of, all)| all.contains(&(row, of)));
    op == "DELETE" && is_told_of_another()
}

/// Rows and versions of all deletions; none where there may be deletions that nothing tells of any more.
fn tombstones(Evidence { facts, plan, .. }: &Evidence<'_>) -> Option<HashSet<(RowOf, i64)>> {
    let logged = facts.log.iter().filter(|entry| entry.content.op == "DELETE");
    let logged = logged.map(|entry| (row_of(entry), entry.version));
    let pruned = facts.pruned.values().filter(|pruned| pruned.op == "DELETE");
    let pruned = pruned.map(|pruned| (pruned.row.clone(), pruned.version));
    (plan.pruning != Pruning::EntriesAndKeys).then(|| logged.chain(pruned).collect())
}

fn is_forgotten(facts: &Facts, key: &Key) -> bool {
    let source = (key.user.clone(), key.source.clone());
    facts.forgotten.get(&source).is_some_and(|highest| key.id <= *highest)
}

/// What is in the log was sent, as it is there, and was not refused each time that it was.
fn nothing_else_is_in_the_log(evidence: &Evidence<'_>) -> Vec<String> {
    let Evidence { ledger, facts, .. } = evidence;
    let mut wrong = Vec::new();
    for entry in &facts.log {
        match ledger.sent.get(&entry.key) {
            None => wrong.push(format!("nobody sent {entry:?}")),
            Some(sent) if sent.content != entry.content => {
                wrong.push(format!("{:?} is in the log as {entry:?}", sent.content));
            }
            Some(sent) if sent.applied.is_empty() && sent.answers == sent.attempts => {
                wrong.push(format!("{entry:?} was refused whenever it was sent: {sent:?}"));
            }
            Some(_) => {}
        }
    }
    let unsent = facts.pruned.keys().filter(|key| !ledger.sent.contains_key(key));
    wrong.extend(unsent.map(|key| format!("nobody sent {key:?}, which was pruned")));
    wrong
}

/// 1, 2, 3 … to the end, except for what was pruned, the numbers that pruning takes, and those that a restore skips.
fn streams_have_no_holes(evidence: &Evidence<'_>) -> Vec<String> {
    let Evidence { facts, restored, .. } = evidence;
    let mut wrong = Vec::new();
    for (user, head) in &facts.heads {
        let numbers: Vec<i64> =
            facts.log.iter().filter(|entry| entry.key.user == *user).map(|entry| entry.server_id).collect();
        let skipped = restored.and_then(|restored| restored.heads.get(user)).map(|old| (*old + 1, *old + SKIP));
        let in_skipped = |n: &&i64| skipped.is_some_and(|(from, to)| (from..=to).contains(n));
        if let Some(number) = numbers.iter().find(|n| in_skipped(n) || **n > *head) {
            wrong.push(format!("{user} has {number}, in a stream until {head} that skipped {skipped:?}"));
        }
        let missing = head - skipped.map_or(0, |_| SKIP) - numbers.len() as i64;
        let explained = explained_holes(evidence, user);
        if !explained.contains(&missing) {
            wrong.push(format!("{user} has {missing} holes until {head}, of which {explained:?} are explained"));
        }
    }
    wrong
}

/// How many entries of a user are gone: those that are known by their keys, and of the keys that were forgotten at least
/// those of changes that are known to have been applied, and at most all that were sent.
fn explained_holes(evidence: &Evidence<'_>, user: &str) -> RangeInclusive<i64> {
    let Evidence { facts, ledger, .. } = evidence;
    let log = by_key(facts);
    let pruned: Vec<&Pruned> =
        facts.pruned.iter().filter(|(key, _)| key.user == user).map(|(_, pruned)| pruned).collect();
    let is_gone = |(key, _): &(&Key, &Sent)| {
        key.user == user && is_forgotten(facts, key) && !log.contains_key(key) && !facts.pruned.contains_key(key)
    };
    let forgotten: Vec<&Sent> = ledger.sent.iter().filter(is_gone).map(|(_, sent)| sent).collect();
    let is_deletion = |sent: &&&Sent| sent.content.op == "DELETE";
    // A deletion may have been applied without an entry.
    let is_certain = |sent: &&&Sent| !is_deletion(sent) && sent.applied.iter().any(|(life, _)| *life == ledger.life);
    let certain = forgotten.iter().filter(is_certain).count();
    // Each step that clears deletions takes a number for itself.
    let deletions = pruned.iter().filter(|pruned| pruned.op == "DELETE").count();
    let steps = deletions + forgotten.iter().filter(is_deletion).count();
    (pruned.len() + certain) as i64..=(pruned.len() + forgotten.len() + steps) as i64
}

/// Whoever has read up to a number has been shown all that is there up to it, as it is there.
fn readers_missed_nothing(evidence: &Evidence<'_>) -> Vec<String> {
    let Evidence { facts, ledger, readers, .. } = evidence;
    let mut wrong = Vec::new();
    for reader in *readers {
        let of_user = || facts.log.iter().filter(|entry| entry.key.user == reader.user);
        let is_left_out = |n: i64| reader.left_out.iter().any(|(from, to)| n > *from && n <= *to);
        for entry in of_user().filter(|entry| !is_left_out(entry.server_id)) {
            if !reader.seen.contains(&entry.server_id) {
                wrong.push(format!("the reader of {} went past {entry:?} to {}", reader.user, reader.cursor));
            }
        }
        if let Some(last) = of_user().map(|entry| entry.server_id).max().filter(|last| reader.cursor < *last) {
            wrong.push(format!("the reader of {} came to {} and not to {last}", reader.user, reader.cursor));
        }
        // What was shown and is gone was pruned.
        let epoch = reader.epoch.clone().unwrap_or_default();
        let numbers: HashSet<i64> = of_user().map(|entry| entry.server_id).collect();
        for number in reader.seen.iter().filter(|number| !numbers.contains(number)) {
            let place = Place { user: reader.user.clone(), epoch: epoch.clone(), server_id: *number };
            let Some(shown) = ledger.shown.get(&place) else { continue };
            if !facts.pruned.contains_key(&shown.key) && !is_forgotten(facts, &shown.key) {
                wrong.push(format!("{shown:?} was shown as {place:?} and is gone"));
            }
        }
    }
    for entry in &facts.log {
        let place = Place { user: entry.key.user.clone(), epoch: facts.epoch.clone(), server_id: entry.server_id };
        let differs =
            |shown: &&Shown| shown.key != entry.key || shown.content != entry.content || shown.version != entry.version;
        if let Some(shown) = ledger.shown.get(&place).filter(differs) {
            wrong.push(format!("{shown:?} was shown as {place:?}, where there is {entry:?}"));
        }
    }
    wrong
}

/// 1, 2, 3 … in the order of the stream; and again from 1 once a deletion is forgotten.
fn versions_count_up_by_one(evidence: &Evidence<'_>) -> Vec<String> {
    let Evidence { facts, plan, .. } = evidence;
    let mut wrong = Vec::new();
    let mut rows: BTreeMap<RowOf, Vec<i64>> = BTreeMap::new();
    for entry in &facts.log {
        rows.entry(row_of(entry)).or_default().push(entry.version);
    }
    for (row, versions) in &rows {
        if !versions.is_sorted_by(|a, b| a < b) {
            wrong.push(format!("{row:?} has the versions {versions:?}"));
        }
    }
    if plan.pruning == Pruning::EntriesAndKeys {
        // Of what is forgotten there is nothing left to count.
        return wrong;
    }
    for Pruned { row, version, .. } in facts.pruned.values() {
        rows.entry(row.clone()).or_default().push(*version);
    }
    for (row, versions) in &rows {
        let times = |version: i64| versions.iter().filter(|of| **of == version).count();
        let highest = versions.iter().copied().max().unwrap_or(0);
        let lives = times(1);
        let is_once = plan.pruning != Pruning::Never || lives == 1;
        if !is_once || (2..=highest).any(|version| times(version) > times(version - 1) || times(version) == 0) {
            wrong.push(format!("{row:?} has the versions {versions:?} in its {lives} lives"));
        }
    }
    wrong
}

fn row_of(entry: &Entry) -> RowOf {
    (entry.key.user.clone(), entry.content.table.clone(), entry.content.pk.clone())
}

/// Version, deletion and payload of every row are those of its last change.
fn rows_are_what_the_log_says(evidence: &Evidence<'_>) -> Vec<String> {
    let Evidence { facts, .. } = evidence;
    let mut wrong = Vec::new();
    let last: BTreeMap<RowOf, &Entry> = facts.log.iter().map(|entry| (row_of(entry), entry)).collect();
    for (row, entry) in &last {
        let payload = entry.content.payload.as_ref();
        let said = (Some(&(entry.version, payload.is_none())), payload);
        let is = (facts.meta.get(row), facts.state.get(row));
        if said != is {
            wrong.push(format!("{row:?} is {is:?}, and its last change is {entry:?}"));
        }
    }
    for row in facts.state.keys().chain(facts.meta.keys()).filter(|row| !last.contains_key(*row)) {
        wrong.push(format!("{row:?} is there, and no change of it"));
    }
    wrong
}

/// Each business row is what the state says. One with a failure may be what its user has sent at any time, or not be there.
fn business_tables_are_the_state(evidence: &Evidence<'_>) -> Vec<String> {
    let Evidence { facts, ledger, .. } = evidence;
    let mut wrong = Vec::new();
    let was_sent = |row: &RowOf, is: &Value| {
        let of_row = |(key, sent): &(&Key, &Sent)| {
            (&key.user, &sent.content.table, &sent.content.pk) == (&row.0, &row.1, &row.2)
        };
        let mut payloads = ledger.sent.iter().filter(of_row).filter_map(|(_, sent)| sent.content.payload.as_ref());
        payloads.any(|payload| image(&row.1, payload) == *is)
    };
    for row in facts.state.keys().chain(facts.business.keys()) {
        let is = facts.business.get(row);
        let said = facts.state.get(row).map(|payload| image(&row.1, payload));
        let is_excused = facts.failed.contains(row) && is.is_none_or(|is| was_sent(row, is));
        if is != said.as_ref() && !is_excused {
            wrong.push(format!("the business row {row:?} is {is:?} and should be {said:?}"));
        }
    }
    wrong
}
