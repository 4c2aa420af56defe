//! What a commit writes of the sidecar: the text of a statement with the parts that a plan needs, and no others. Every
//! part costs each commit the time to begin and to end it, with nothing to do for it too.

use std::sync::{Arc, OnceLock};

use outrigger_domain::{Plan, ServerSeq};

use super::{assumed, unlogged};

/// One statement that is its own transaction: a caller that goes away leaves nothing open.
///
/// `turn` has one row if the stream ended at $2 and now ends at $3, and else none; all that is written comes
/// through it. Without an entry $3 is $2, and the stream has something to be swept again. A commit that races
/// this one waits for the row's lock at `moved` (`born` for a user's first), sees the new end once it has it, and writes
/// nothing. A stream that has lost its row stays lost.
///
/// When `turn` has a row, nobody has committed for this user since the plan's snapshot, so this statement's own snapshot
/// is as good, and `changed` must find every row that the plan knows, at a lower version. If it does
/// not, someone else wrote to the tables; the last line then divides by zero, which undoes all.
///
/// `entry` carries the user, so that the joins on it can only look up whole keys: with a constant, the
/// planner may prefer to read all rows of the user. `known` is null for an entry that a later one of the same
/// row supersedes. Only where a row is known there may be a state, and a look whether there is one costs as much as
/// to write it.
const TURN: &str = "
WITH moved AS (
    UPDATE sync.user_stream SET last_server_id = $3, clean_at = NULL
    WHERE user_id = $1 AND last_server_id = $2";
/// Where the statement projects: that nobody has projected rows of this user again, or recorded a failure, while it waited
/// for the stream's row. Both leave the stream's end where it is; but whose the business rows are, and which have
/// failures, is looked up as of the statement's beginning. This is evaluated again once the lock is had: the number that
/// is looked up is still that of the beginning then, and the one it is compared with is not.
const UNTOUCHED: &str = "
      AND last_failure_id = (SELECT o.last_failure_id FROM sync.user_stream o WHERE o.user_id = $1)";
const TAKEN: &str = "
    RETURNING 1
)";
/// The turn of a user's first commit.
const BORN: &str = ", born AS (
    INSERT INTO sync.user_stream (user_id, last_server_id)
    SELECT $1, $3 WHERE $2 = 0
    ON CONFLICT (user_id) DO NOTHING
    RETURNING 1
), turn AS (
    SELECT 1 FROM moved UNION ALL SELECT 1 FROM born LIMIT 1
)";
const MOVED: &str = ", turn AS NOT MATERIALIZED (SELECT 1 FROM moved)";
/// The only entry. Most uploads have one, and it costs less as it is than in arrays of one, each of which is a function
/// to be called with a store for its rows. Nor is there a store for the entry itself: whoever reads it reads the
/// parameters.
const ENTRY: &str = ", entry AS NOT MATERIALIZED (
    SELECT $1 AS user_id, $2 + 1 AS server_id, $5::text AS schema_name, $6::text AS table_name, $7::text AS op,
           $8::uuid AS pk_uuid, $9::text::json AS payload, $10::text AS source_id, $11::int8 AS source_change_id,
           $12::int8 AS server_version, $13::bool AS known, $14::bool AS projected
    FROM turn
)";
const ENTRIES: &str = ", entry AS MATERIALIZED (
    SELECT $1 AS user_id, $2 + e.place AS server_id, e.schema_name, e.table_name, e.op, e.pk_uuid,
           e.payload::json AS payload, e.source_id, e.source_change_id, e.server_version, e.known,
           e.projected
    FROM turn CROSS JOIN unnest(
        $5::text[], $6::text[], $7::text[], $8::uuid[], $9::text[], $10::text[], $11::int8[], $12::int8[], $13::bool[],
        $14::bool[]
    ) WITH ORDINALITY AS e (
        schema_name, table_name, op, pk_uuid, payload, source_id, source_change_id, server_version, known, projected, place
    )
)";
const LOGGED: &str = ", logged AS (
    INSERT INTO sync.server_change_log (
        user_id, server_id, schema_name, table_name, op, pk_uuid, payload, source_id, source_change_id,
        server_version, ts
    )
    SELECT user_id, server_id, schema_name, table_name, op, pk_uuid, payload, source_id, source_change_id,
           server_version, $4
    FROM entry
)";
const OF_NEW: &str = ", created AS (
    INSERT INTO sync.sync_row_meta (
        user_id, schema_name, table_name, pk_uuid, server_version, deleted, updated_at, projected
    )
    SELECT user_id, schema_name, table_name, pk_uuid, server_version, op = 'DELETE', $4,
           coalesce(projected, false)
    FROM entry WHERE NOT known
), stored AS (
    INSERT INTO sync.sync_state (user_id, schema_name, table_name, pk_uuid, payload)
    SELECT user_id, schema_name, table_name, pk_uuid, payload
    FROM entry WHERE NOT known AND op <> 'DELETE'
)";
const OF_KNOWN: &str = ", changed AS (
    UPDATE sync.sync_row_meta m
    SET server_version = e.server_version, deleted = e.op = 'DELETE', updated_at = $4,
        projected = coalesce(e.projected, m.projected)
    FROM entry e
    WHERE e.known AND m.user_id = e.user_id AND m.schema_name = e.schema_name AND m.table_name = e.table_name
      AND m.pk_uuid = e.pk_uuid AND m.server_version < e.server_version
    RETURNING 1
), replaced AS (
    INSERT INTO sync.sync_state (user_id, schema_name, table_name, pk_uuid, payload)
    SELECT user_id, schema_name, table_name, pk_uuid, payload
    FROM entry WHERE known AND op <> 'DELETE'
    ON CONFLICT (user_id, schema_name, table_name, pk_uuid) DO UPDATE SET payload = excluded.payload
), cleared AS (
    DELETE FROM sync.sync_state s USING entry e
    WHERE e.known AND e.op = 'DELETE' AND s.user_id = e.user_id AND s.schema_name = e.schema_name
      AND s.table_name = e.table_name AND s.pk_uuid = e.pk_uuid
)";
const ANSWER: &str = "
SELECT EXISTS (SELECT FROM turn)";
const CHANGED: &str = ", 1 / ((SELECT count(*) FROM changed) = (SELECT count(*) FROM entry WHERE known))::int4";
/// The number of the first parameter behind those of the entries.
const NEXT_PARAMETER: usize = 15;

/// Which parts a plan needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sidecar {
    /// The stream may not have its row yet.
    is_born: bool,
    /// There are rows that the store does not know.
    has_new: bool,
    /// There are rows that it knows.
    pub(super) has_known: bool,
    /// There are changes without an entry that are to be remembered.
    has_unlogged: bool,
    /// There is one entry, whose parameters are no arrays.
    pub(crate) is_single: bool,
    /// Nobody has looked at what the plan was made on.
    is_assumed: bool,
}

impl Sidecar {
    /// The parts for that plan.
    pub(super) fn of(plan: &Plan) -> Self {
        Self {
            is_born: plan.head.seq == ServerSeq(0),
            has_new: plan.rows.iter().any(|row| !row.known),
            has_known: plan.rows.iter().any(|row| row.known),
            has_unlogged: !plan.unlogged.is_empty(),
            is_single: plan.log.len() == 1,
            is_assumed: plan.is_assumed,
        }
    }

    /// All that is written, without an end; by a statement that projects as well or not.
    pub(super) fn writes(self, is_projecting: bool) -> String {
        let mut text = TURN.to_owned();
        text += if is_projecting { UNTOUCHED } else { "" };
        text += &if self.is_assumed { assumed::conditions(self) } else { String::new() };
        text += TAKEN;
        text += if self.is_born { BORN } else { MOVED };
        text += if self.is_single { ENTRY } else { ENTRIES };
        text += LOGGED;
        text += if self.has_new { OF_NEW } else { "" };
        text += if self.has_known { OF_KNOWN } else { "" };
        text += if self.has_unlogged { unlogged::REMEMBERED } else { "" };
        text
    }

    /// The number of the first parameter behind those of what is written.
    pub(crate) fn next_parameter(self) -> usize {
        match self {
            Self { is_assumed: true, .. } => NEXT_PARAMETER + assumed::parameters(self),
            Self { has_unlogged: true, .. } => NEXT_PARAMETER + unlogged::PARAMETERS,
            _ => NEXT_PARAMETER,
        }
    }

    /// What ends the statement: a row that says whether it was this commit's turn.
    pub(super) fn answer(self) -> String {
        let changed = if self.has_known { CHANGED } else { "" };
        format!("{ANSWER}{changed}")
    }

    /// The statement that writes the sidecar alone.
    pub(super) fn text(self) -> Arc<str> {
        static TEXTS: [OnceLock<Arc<str>>; 64] = [const { OnceLock::new() }; 64];
        let Self { is_born, has_new, has_known, has_unlogged, is_single, is_assumed } = self;
        let bits = [is_born, has_new, has_known, has_unlogged, is_single, is_assumed];
        let place = bits.into_iter().fold(0, |place, bit| place * 2 + usize::from(bit));
        Arc::clone(TEXTS[place].get_or_init(|| format!("{}{}", self.writes(false), self.answer()).into()))
    }
}
