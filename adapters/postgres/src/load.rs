//! What the rules need, as of one moment.

use outrigger_application::StoreError;
use outrigger_domain::change::OpKind;
use outrigger_domain::stream::PayloadWanted;
use outrigger_domain::{
    Epoch, Logged, LoggedPayload, Payload, RowKey, RowState, RowVersion, ServerSeq, Settled, Snapshot, SourceChangeId,
    StreamHead, TableName, Unlogged, UserId, Wanted,
};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::error::{corrupt, from_sqlx};
use crate::ranges::{Range, ranges};
use crate::session::Sessions;

/// The end of the stream, and the names and types of the columns.
macro_rules! with_head {
    ($others:literal) => {
        concat!(
            "
SELECT 0 AS kind, 0::int8 AS place, coalesce(s.last_server_id, 0) AS number,
       NULL::bool AS deleted, NULL::text AS payload,
       NULL::text AS op, NULL::text AS schema_name, NULL::text AS table_name, coalesce(s.epoch, e.epoch) AS pk_uuid,
       NULL::int8 AS source_change_id
FROM sync.sync_epoch e LEFT JOIN sync.user_stream s ON s.user_id = $1
WHERE e.is_present",
            $others
        )
    };
}

/// One statement, and so one snapshot: the end of the stream (kind 0), the wanted rows (1), the wanted keys of
/// entries in the log (2), of pruned ones (3) and of changes without one (5), and the numbers that were forgotten of
/// the wanted sources (4).
///
/// Idempotency keys are looked up by ranges, since a device numbers its changes one after another: of an upload that is
/// new, one look tells that no key is there. Each look-up is a subquery with a LIMIT or an OFFSET, which the planner
/// cannot turn into a join: it would read all rows of the user where its statistics say that users have few. A payload is
/// read only where it is needed.
const LOAD: &str = with_head!("
UNION ALL
SELECT 1, w.place, m.server_version, m.deleted,
       CASE WHEN NOT m.deleted AND (w.unless_at IS NULL OR w.unless_at >= 0 AND m.server_version <> w.unless_at) THEN (
           SELECT s.payload::text
           FROM sync.sync_state s
           WHERE s.user_id = $1 AND s.schema_name = w.schema_name AND s.table_name = w.table_name AND s.pk_uuid = w.pk
       ) END,
       NULL, NULL, NULL, NULL, NULL
FROM unnest($2::text[], $3::text[], $4::uuid[], $5::int8[])
     WITH ORDINALITY AS w (schema_name, table_name, pk, unless_at, place)
CROSS JOIN LATERAL (
    SELECT r.server_version, r.deleted
    FROM sync.sync_row_meta r
    WHERE r.user_id = $1 AND r.schema_name = w.schema_name AND r.table_name = w.table_name AND r.pk_uuid = w.pk
    LIMIT 1
) m
UNION ALL
SELECT 2, k.place, l.server_version, NULL, l.payload, l.op, l.schema_name, l.table_name, l.pk_uuid, l.source_change_id
FROM unnest($6::text[], $7::int8[], $8::int8[]) WITH ORDINALITY AS k (source_id, first, last, place)
CROSS JOIN LATERAL (
    SELECT e.server_version, e.payload::text AS payload, e.op, e.schema_name, e.table_name, e.pk_uuid, e.source_change_id
    FROM sync.server_change_log e
    WHERE e.user_id = $1 AND e.source_id = k.source_id AND e.source_change_id BETWEEN k.first AND k.last
    OFFSET 0
) l
UNION ALL
SELECT CASE WHEN p.unlogged IS NULL THEN 3 ELSE 5 END, k.place, p.server_version, NULL, coalesce(p.unlogged, p.digest),
       p.op, p.schema_name, p.table_name, p.pk_uuid, p.source_change_id
FROM unnest($6::text[], $7::int8[], $8::int8[]) WITH ORDINALITY AS k (source_id, first, last, place)
CROSS JOIN LATERAL (
    SELECT e.server_version, encode(e.digest, 'hex') AS digest, e.op, e.schema_name, e.table_name, e.pk_uuid,
           e.source_change_id, e.unlogged
    FROM sync.sync_pruned_key e
    WHERE e.user_id = $1 AND e.source_id = k.source_id AND e.source_change_id BETWEEN k.first AND k.last
    OFFSET 0
) p
UNION ALL
SELECT 4, w.place, f.forgotten_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM unnest($9::text[]) WITH ORDINALITY AS w (source_id, place)
CROSS JOIN LATERAL (
    SELECT e.forgotten_id
    FROM sync.sync_source e
    WHERE e.user_id = $1 AND e.source_id = w.source_id AND e.forgotten_id > 0
    LIMIT 1
) f");

/// The same for one row, one range of keys and one source, which is what most uploads want: looked up as they are, with
/// no function to call and no join behind it.
const LOAD_SINGLE: &str = with_head!(
    "
UNION ALL
SELECT 1, 1, r.server_version, r.deleted,
       CASE WHEN NOT r.deleted AND ($5::int8 IS NULL OR $5 >= 0 AND r.server_version <> $5) THEN (
           SELECT s.payload::text
           FROM sync.sync_state s
           WHERE s.user_id = $1 AND s.schema_name = $2 AND s.table_name = $3 AND s.pk_uuid = $4
       ) END,
       NULL, NULL, NULL, NULL, NULL
FROM sync.sync_row_meta r
WHERE r.user_id = $1 AND r.schema_name = $2 AND r.table_name = $3 AND r.pk_uuid = $4
UNION ALL
SELECT 2, 1, l.server_version, NULL, l.payload::text, l.op, l.schema_name, l.table_name, l.pk_uuid, l.source_change_id
FROM sync.server_change_log l
WHERE l.user_id = $1 AND l.source_id = $6 AND l.source_change_id BETWEEN $7 AND $8
UNION ALL
SELECT CASE WHEN p.unlogged IS NULL THEN 3 ELSE 5 END, 1, p.server_version, NULL,
       coalesce(p.unlogged, encode(p.digest, 'hex')), p.op, p.schema_name, p.table_name, p.pk_uuid, p.source_change_id
FROM sync.sync_pruned_key p
WHERE p.user_id = $1 AND p.source_id = $6 AND p.source_change_id BETWEEN $7 AND $8
UNION ALL
SELECT 4, 1, f.forgotten_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM sync.sync_source f
WHERE f.user_id = $1 AND f.source_id = $9 AND f.forgotten_id > 0"
);

/// Loads what is wanted.
pub(crate) async fn load(sessions: &Sessions, user: &UserId, wanted: &Wanted) -> Result<Snapshot, StoreError> {
    let keys = ranges(wanted.keys.iter().map(|(source, number)| (source, *number)));
    let rows = &wanted.rows;
    let statement = match (rows.as_slice(), keys.as_slice(), wanted.sources.as_slice()) {
        ([row], [range], [source]) => sqlx::query(LOAD_SINGLE)
            .bind(user.as_str())
            .bind(row.key.table.schema())
            .bind(row.key.table.table())
            .bind(row.key.pk)
            .bind(row.payload.unless_at())
            .bind(range.source.as_str())
            .bind(range.first)
            .bind(range.last)
            .bind(source.as_str()),
        _ => sqlx::query(LOAD)
            .bind(user.as_str())
            .bind(rows.iter().map(|row| row.key.table.schema()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.key.table.table()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.key.pk).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.payload.unless_at()).collect::<Vec<_>>())
            .bind(keys.iter().map(|range| range.source.as_str()).collect::<Vec<_>>())
            .bind(keys.iter().map(|range| range.first).collect::<Vec<_>>())
            .bind(keys.iter().map(|range| range.last).collect::<Vec<_>>())
            .bind(wanted.sources.iter().map(|source| source.as_str()).collect::<Vec<_>>()),
    };
    let mut snapshot = Snapshot::default();
    for found in sessions.rows(statement).await.map_err(from_sqlx)? {
        let found = Found::read(&found).map_err(from_sqlx)?;
        found.put((wanted, &keys), &mut snapshot)?;
    }
    Ok(snapshot)
}

/// One row of the answer to [`LOAD`].
struct Found {
    kind: i32,
    place: i64,
    number: i64,
    deleted: Option<bool>,
    payload: Option<String>,
    op: Option<String>,
    schema_name: Option<String>,
    table_name: Option<String>,
    pk_uuid: Option<Uuid>,
    source_change_id: Option<i64>,
}

impl Found {
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            kind: row.try_get(0)?,
            place: row.try_get(1)?,
            number: row.try_get(2)?,
            deleted: row.try_get(3)?,
            payload: row.try_get(4)?,
            op: row.try_get(5)?,
            schema_name: row.try_get(6)?,
            table_name: row.try_get(7)?,
            pk_uuid: row.try_get(8)?,
            source_change_id: row.try_get(9)?,
        })
    }

    fn put(self, (wanted, keys): (&Wanted, &[Range<'_>]), snapshot: &mut Snapshot) -> Result<(), StoreError> {
        // Places are counted from 1. The head has none.
        let place = usize::try_from(self.place - 1).unwrap_or_default();
        match self.kind {
            0 => {
                let epoch = Epoch(self.pk_uuid.ok_or_else(|| corrupt("a stream has no epoch"))?);
                snapshot.head = StreamHead { seq: ServerSeq(self.number), epoch };
            }
            4 => {
                snapshot.forgotten.insert(wanted.sources[place].clone(), SourceChangeId(self.number));
            }
            1 => {
                let wanted = &wanted.rows[place];
                let version = RowVersion(self.number);
                let state = self.state(wanted.payload).ok_or_else(|| {
                    corrupt(format!("the state of {:?} {} is missing or no object", wanted.key.table, wanted.key.pk))
                })?;
                snapshot.rows.insert(wanted.key.clone(), (version, state));
            }
            _ => {
                let number = SourceChangeId(self.source_change_id.unwrap_or_default());
                let key = (keys[place].source.clone(), number);
                let odd = || corrupt(format!("what is kept of source {}, change {}, cannot be read", key.0, key.1));
                if self.kind == 5 {
                    let unlogged = self.unlogged().ok_or_else(odd)?;
                    snapshot.unlogged.insert(key, unlogged);
                } else {
                    let logged = self.logged().ok_or_else(odd)?;
                    snapshot.logged.insert(key, logged);
                }
            }
        }
        Ok(())
    }

    fn state(self, wanted: PayloadWanted) -> Option<RowState> {
        match (self.deleted?, self.payload) {
            (true, _) => Some(RowState::Deleted),
            (false, Some(text)) => Payload::from_text(text).map(RowState::Live),
            (false, None) => (!wanted.is_wanted_at(RowVersion(self.number))).then_some(RowState::Unloaded),
        }
    }

    fn change(&self) -> Option<(OpKind, RowKey)> {
        let table = TableName::parse(self.schema_name.as_deref(), self.table_name.as_deref()?).ok()?;
        Some((OpKind::parse(self.op.as_deref()?)?, RowKey { table, pk: self.pk_uuid? }))
    }

    fn unlogged(self) -> Option<Unlogged> {
        let (op, row) = self.change()?;
        Some(Unlogged { op, row, base: RowVersion(self.number), settled: Settled::parse(self.payload.as_deref()?)? })
    }

    fn logged(self) -> Option<Logged> {
        let (op, row) = self.change()?;
        Some(Logged {
            op,
            row,
            payload: match self.payload {
                Some(text) if self.kind == 2 => Some(LoggedPayload::Whole(Payload::from_text(text)?)),
                Some(hex) => Some(LoggedPayload::Digest(digest(&hex)?)),
                None => None,
            },
            version: RowVersion(self.number),
        })
    }
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    (hex.len() == 64).then_some(bytes)
}
