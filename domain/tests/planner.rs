//! The planner against a naive model: random uploads, decided one by one and in groups.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use outrigger_domain::limits::UploadLimits;
use outrigger_domain::*;
use proptest::prelude::*;
use uuid::Uuid;

/// A change in small numbers, so that keys, rows and versions collide often.
#[derive(Clone, Debug)]
struct Try {
    id: i64,
    row: u8,
    base: i64,
    op: u8,
    value: u8,
    parents: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Batch {
    source: u8,
    atomic: bool,
    tries: Vec<Try>,
}

/// What the protocol's page says, over plain maps: (version, value of a live row) per row, and all applied changes.
#[derive(Clone, Default)]
struct Model {
    rows: BTreeMap<u8, (i64, Option<u8>)>,
    keys: HashMap<(u8, i64), (u8, u8, u8, i64)>,
    /// What was settled without an entry, and the answer if it was a deletion.
    settled: HashMap<(u8, i64), (What, Option<Answer>)>,
    log: Vec<(u8, i64, i64)>,
}

/// Op, row and base.
type What = (u8, u8, i64);

#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Applied(Option<i64>),
    Conflict(i64, Option<u8>),
    Reused,
    Missing(Vec<u8>),
    Aborted,
}

impl Model {
    fn exists(&self, row: u8) -> bool {
        self.rows.get(&row).is_some_and(|row| row.1.is_some())
    }

    /// `later` says which rows the rest of the batch may make; what it hopes for is added to `hopes`.
    fn one(&mut self, source: u8, change: &Try, later: &[Try], hopes: &mut [Vec<u8>]) -> Answer {
        let value = if change.op == 2 { 0 } else { change.value };
        if let Some(&(op, row, known, version)) = self.keys.get(&(source, change.id)) {
            let same = (op, row, known) == (change.op, change.row, value);
            return if same { Answer::Applied(Some(version)) } else { Answer::Reused };
        }
        if let Some(answer) = self.settled(source, change) {
            return answer;
        }
        let parents = if change.op == 2 { &[][..] } else { &change.parents };
        let missing: Vec<u8> =
            parents.iter().copied().filter(|&parent| parent != change.row && !self.exists(parent)).collect();
        if missing.iter().any(|&parent| later.iter().any(|other| other.row == parent && other.op != 2)) {
            *hopes.last_mut().unwrap() = missing;
        } else if !missing.is_empty() {
            return Answer::Missing(missing);
        }
        let deletion = match self.rows.get(&change.row).copied() {
            None if change.op == 2 => Some(Answer::Applied(None)),
            Some((version, None)) if change.op == 2 && change.base == version => Some(Answer::Applied(Some(version))),
            row if change.base == row.map_or(0, |row| row.0) => {
                let version = change.base + 1;
                self.rows.insert(change.row, (version, (change.op != 2).then_some(value)));
                self.keys.insert((source, change.id), (change.op, change.row, value, version));
                self.log.push((source, change.id, version));
                return Answer::Applied(Some(version));
            }
            _ => None,
        };
        if deletion.is_none() || change.base > 0 {
            let what = (change.op, change.row, change.base);
            self.settled.insert((source, change.id), (what, deletion.clone()));
        }
        deletion.unwrap_or_else(|| self.conflict(change))
    }

    /// The answer to a change that was settled before without an entry.
    fn settled(&self, source: u8, change: &Try) -> Option<Answer> {
        let (what, deletion) = self.settled.get(&(source, change.id))?;
        let is_same = *what == (change.op, change.row, change.base);
        is_same.then(|| deletion.clone().unwrap_or_else(|| self.conflict(change)))
    }

    fn conflict(&self, change: &Try) -> Answer {
        let row = self.rows.get(&change.row);
        Answer::Conflict(row.map_or(0, |row| row.0), row.and_then(|row| row.1))
    }

    fn batch(&mut self, batch: &Batch) -> Vec<Answer> {
        let before = self.clone();
        let mut orphans: HashMap<usize, Vec<u8>> = HashMap::new();
        let mut answers;
        loop {
            let mut hopes = Vec::new();
            answers = Vec::new();
            for (n, change) in batch.tries.iter().enumerate() {
                hopes.push(Vec::new());
                answers.push(match orphans.get(&n) {
                    // Rules 3 and 4 come before rule 5, and so does what was settled before.
                    Some(missing)
                        if !self.keys.contains_key(&(batch.source, change.id))
                            && self.settled(batch.source, change).is_none() =>
                    {
                        Answer::Missing(missing.clone())
                    }
                    _ => self.one(batch.source, change, &batch.tries[n + 1..], &mut hopes),
                });
            }
            let disappointed = |hoped: Vec<u8>| hoped.into_iter().filter(|&row| !self.exists(row)).collect::<Vec<_>>();
            let new: Vec<_> =
                hopes.into_iter().map(disappointed).enumerate().filter(|(_, of)| !of.is_empty()).collect();
            if new.is_empty() {
                break;
            }
            orphans.extend(new);
            *self = before.clone();
        }
        if !batch.atomic || answers.iter().all(|answer| matches!(answer, Answer::Applied(_))) {
            return answers;
        }
        let settled = std::mem::replace(self, before).settled;
        for (answer, change) in answers.iter_mut().zip(&batch.tries) {
            let is_old =
                self.keys.contains_key(&(batch.source, change.id)) || self.settled(batch.source, change).is_some();
            match answer {
                Answer::Applied(_) if !is_old => *answer = Answer::Aborted,
                Answer::Conflict(..) => *answer = self.conflict(change),
                _ => {}
            }
        }
        // Its conflicts were answered like any others; its deletions were not.
        self.settled.extend(settled.into_iter().filter(|(_, (_, deletion))| deletion.is_none()));
        answers
    }
}

fn payload(value: u8) -> Payload {
    Payload::from_text(format!("{{\"v\":{value}}}")).unwrap()
}

fn value(payload: &Payload) -> u8 {
    payload.as_str().trim_start_matches("{\"v\":").trim_end_matches('}').parse().unwrap()
}

fn key(row: u8) -> RowKey {
    RowKey { table: TableName::parse(None, "t").unwrap(), pk: Uuid::from_u128(row.into()) }
}

fn source(n: u8) -> SourceId {
    SourceId::parse(&format!("s{n}")).unwrap()
}

fn upload(batch: &Batch) -> Upload {
    let submission = |change: &Try| {
        let op = match change.op {
            0 => Op::Insert(payload(change.value)),
            1 => Op::Update(payload(change.value)),
            _ => Op::Delete,
        };
        let source_change_id = SourceChangeId(change.id);
        let parents = if change.op == 2 { Vec::new() } else { change.parents.iter().copied().map(key).collect() };
        let change = Change { source_change_id, row: key(change.row), base: RowVersion(change.base), op, parents };
        Submission { source_change_id: change.source_change_id.0, change: Ok(Arc::new(change)) }
    };
    Upload {
        source: source(batch.source),
        submissions: batch.tries.iter().map(submission).collect(),
        atomic: batch.atomic,
        epoch: None,
    }
}

fn answer(decision: &Decision) -> Answer {
    match decision {
        Decision::Applied { version } => Answer::Applied(version.map(|version| version.0)),
        Decision::Conflict(row) => Answer::Conflict(row.version.0, row.payload.as_ref().map(value)),
        Decision::Invalid(refusal) if refusal.reason == Reason::SourceChangeIdReused => Answer::Reused,
        Decision::Invalid(refusal) if refusal.reason == Reason::FkMissing => {
            Answer::Missing(refusal.missing.iter().map(|row| row.pk.as_u128() as u8).collect())
        }
        Decision::Invalid(refusal) if refusal.reason == Reason::BatchAborted => Answer::Aborted,
        Decision::Invalid(refusal) => panic!("{refusal:?}"),
    }
}

/// What a store does, as simply as it can be done; it leaves out every payload that it may leave out.
#[derive(Default)]
struct Store {
    head: i64,
    rows: HashMap<RowKey, (RowVersion, RowState)>,
    logged: HashMap<(SourceId, SourceChangeId), Logged>,
    unlogged: HashMap<(SourceId, SourceChangeId), Unlogged>,
}

impl Store {
    fn load(&self, wanted: &Wanted) -> Snapshot {
        let row = |wanted: &stream::WantedRow| {
            let (version, state) = self.rows.get(&wanted.key)?.clone();
            let unwanted = !wanted.payload.is_wanted_at(version);
            let unloaded = unwanted && state != RowState::Deleted;
            Some((wanted.key.clone(), (version, if unloaded { RowState::Unloaded } else { state })))
        };
        Snapshot {
            head: StreamHead { seq: ServerSeq(self.head), ..StreamHead::default() },
            rows: wanted.rows.iter().filter_map(row).collect(),
            logged: wanted.keys.iter().filter_map(|key| Some((key.clone(), self.logged.get(key)?.clone()))).collect(),
            unlogged: wanted
                .keys
                .iter()
                .filter_map(|key| Some((key.clone(), self.unlogged.get(key)?.clone())))
                .collect(),
            forgotten: HashMap::new(),
            is_assumed: false,
        }
    }

    fn decide(&self, uploads: &[Upload]) -> (Planner, Vec<plan::Verdict>) {
        let decide = |wanted: &Wanted| {
            let mut planner = Planner::new(self.load(wanted), UploadLimits::default());
            let verdicts = uploads.iter().map(|upload| planner.decide(upload).unwrap()).collect();
            (planner, verdicts)
        };
        let mut wanted = Wanted::of(uploads);
        let (planner, verdicts) = decide(&wanted);
        if !planner.lacks_payloads() {
            return (planner, verdicts);
        }
        wanted.want_payloads();
        let (planner, verdicts) = decide(&wanted);
        assert!(!planner.lacks_payloads());
        (planner, verdicts)
    }

    fn commit(&mut self, plan: &Plan) {
        assert_eq!(plan.head.seq.0, self.head);
        for entry in &plan.log {
            self.head += 1;
            assert_eq!(entry.server_id.0, self.head);
            let Change { row, op, source_change_id, .. } = &*entry.change;
            let payload = op.payload().cloned().map(LoggedPayload::Whole);
            let logged = Logged { op: op.kind(), row: row.clone(), payload, version: entry.version };
            assert!(self.logged.insert((entry.source.clone(), *source_change_id), logged).is_none());
        }
        for (key, unlogged) in &plan.unlogged {
            assert!(!self.logged.contains_key(key));
            let before = self.unlogged.insert(key.clone(), unlogged.clone());
            assert!(before.is_none_or(|before| before != *unlogged), "it is remembered already");
        }
        for effect in &plan.rows {
            let entry = &plan.log[effect.entry];
            let last = plan.log.iter().rposition(|other| other.change.row == entry.change.row);
            assert_eq!(last, Some(effect.entry));
            assert_eq!(effect.known, self.rows.contains_key(&entry.change.row));
            let state = entry.change.op.payload().cloned().map_or(RowState::Deleted, RowState::Live);
            self.rows.insert(entry.change.row.clone(), (entry.version, state));
        }
    }
}

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let parents =
        prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::btree_set(0..4_u8, 1..3).prop_map(Vec::from_iter)];
    let change = (1..12_i64, 0..4_u8, 0..5_i64, 0..3_u8, 0..2_u8, parents)
        .prop_map(|(id, row, base, op, value, parents)| Try { id, row, base, op, value, parents });
    let batch = (0..2_u8, any::<bool>(), prop::collection::vec(change, 0..8))
        .prop_map(|(source, atomic, tries)| Batch { source, atomic, tries });
    prop::collection::vec(batch, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn the_planner_decides_as_the_model_does(batches in batches(), group in 1..4_usize) {
        let (mut model, mut store) = (Model::default(), Store::default());
        for group in batches.chunks(group) {
            let uploads: Vec<_> = group.iter().map(upload).collect();
            let (planner, verdicts) = store.decide(&uploads);
            for (batch, verdict) in group.iter().zip(verdicts) {
                let expected = model.batch(batch);
                prop_assert_eq!(verdict.decisions.iter().map(answer).collect::<Vec<_>>(), expected);
                prop_assert_eq!(verdict.head.seq.0, model.log.len() as i64);
            }
            store.commit(&planner.finish(Timestamp::UNIX_EPOCH));
        }
        prop_assert_eq!(store.head, model.log.len() as i64);
        prop_assert_eq!(store.logged.len(), model.log.len());
        for (row, (version, live)) in &model.rows {
            let state = live.map_or(RowState::Deleted, |value| RowState::Live(payload(value)));
            prop_assert_eq!(&store.rows[&key(*row)], &(RowVersion(*version), state));
        }
    }
}
