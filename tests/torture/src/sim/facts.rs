//! What the database holds, read with plain SQL past the server.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::ledger::{Content, Key};
use super::store::Store;

/// A row of a user.
pub(crate) type RowOf = (String, String, String);

/// An entry of the log.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) server_id: i64,
    pub(crate) key: Key,
    pub(crate) content: Content,
    pub(crate) version: i64,
}

/// An entry that was cleared, of which the key is left.
#[derive(Clone, Debug)]
pub(crate) struct Pruned {
    pub(crate) row: RowOf,
    pub(crate) op: String,
    pub(crate) version: i64,
}

/// Everything.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) epoch: String,
    /// Where each user's stream ends.
    pub(crate) heads: BTreeMap<String, i64>,
    /// By user and place.
    pub(crate) log: Vec<Entry>,
    pub(crate) pruned: BTreeMap<Key, Pruned>,
    /// The highest number of each source whose key may be forgotten.
    pub(crate) forgotten: BTreeMap<(String, String), i64>,
    /// Version of each row, and whether it is deleted.
    pub(crate) meta: BTreeMap<RowOf, (i64, bool)>,
    pub(crate) state: BTreeMap<RowOf, Value>,
    /// Business rows by user, table and key.
    pub(crate) business: BTreeMap<RowOf, Value>,
    /// Rows that could not be projected.
    pub(crate) failed: BTreeSet<RowOf>,
}

impl Facts {
    /// Reads all of it. Nothing may be writing.
    pub(crate) async fn read(store: &Store) -> Result<Self, String> {
        let mut facts = Self::default();
        for row in store.rows("SELECT CAST(epoch AS text) FROM {sync}sync_epoch").await? {
            facts.epoch = text(&row, 0);
        }
        for row in store.rows("SELECT user_id, CAST(last_server_id AS text) FROM {sync}user_stream").await? {
            facts.heads.insert(text(&row, 0), number(&row, 1));
        }
        facts.read_log(store).await?;
        facts.read_rows(store).await?;
        facts.read_business(store).await?;
        Ok(facts)
    }

    async fn read_log(&mut self, store: &Store) -> Result<(), String> {
        // Ordered by the columns of the table: those of the result are text.
        let log = "SELECT user_id, source_id, CAST(source_change_id AS text), table_name, op, CAST(pk_uuid AS text), \
                   CAST(payload AS text), CAST(server_id AS text), CAST(server_version AS text) \
                   FROM {sync}server_change_log AS log ORDER BY log.user_id, log.server_id";
        for row in store.rows(log).await? {
            let key = Key { user: text(&row, 0), source: text(&row, 1), id: number(&row, 2) };
            let (table, op, pk) = (text(&row, 3), text(&row, 4), text(&row, 5));
            let content = Content { table, op, pk, payload: payload(&row, 6)? };
            self.log.push(Entry { server_id: number(&row, 7), key, content, version: number(&row, 8) });
        }
        let pruned = "SELECT user_id, source_id, CAST(source_change_id AS text), table_name, op, \
                      CAST(pk_uuid AS text), CAST(server_version AS text) FROM {sync}sync_pruned_key \
                      WHERE unlogged IS NULL";
        for row in store.rows(pruned).await? {
            let key = Key { user: text(&row, 0), source: text(&row, 1), id: number(&row, 2) };
            let of = (text(&row, 0), text(&row, 3), text(&row, 5));
            self.pruned.insert(key, Pruned { row: of, op: text(&row, 4), version: number(&row, 6) });
        }
        let sources = "SELECT user_id, source_id, CAST(forgotten_id AS text) FROM {sync}sync_source";
        for row in store.rows(sources).await? {
            self.forgotten.insert((text(&row, 0), text(&row, 1)), number(&row, 2));
        }
        Ok(())
    }

    async fn read_rows(&mut self, store: &Store) -> Result<(), String> {
        let meta = "SELECT user_id, table_name, CAST(pk_uuid AS text), CAST(server_version AS text), \
                    CASE WHEN deleted THEN 'yes' ELSE 'no' END FROM {sync}sync_row_meta";
        for row in store.rows(meta).await? {
            let of = (text(&row, 0), text(&row, 1), text(&row, 2));
            self.meta.insert(of, (number(&row, 3), text(&row, 4) == "yes"));
        }
        let state = "SELECT user_id, table_name, CAST(pk_uuid AS text), CAST(payload AS text) FROM {sync}sync_state";
        for row in store.rows(state).await? {
            let of = (text(&row, 0), text(&row, 1), text(&row, 2));
            self.state.insert(of, payload(&row, 3)?.unwrap_or_default());
        }
        Ok(())
    }

    async fn read_business(&mut self, store: &Store) -> Result<(), String> {
        let users = "SELECT owner, CAST(id AS text), name, CAST(age AS text), email FROM users";
        for row in store.rows(users).await? {
            let age: Option<i64> = row[3].as_ref().and_then(|age| age.parse().ok());
            let image = json!({"name": row[2], "age": age, "email": row[4]});
            self.business.insert((text(&row, 0), "users".into(), text(&row, 1)), image);
        }
        let posts = "SELECT owner, CAST(id AS text), title, CAST(author_id AS text) FROM posts";
        for row in store.rows(posts).await? {
            let image = json!({"title": row[2], "author_id": row[3]});
            self.business.insert((text(&row, 0), "posts".into(), text(&row, 1)), image);
        }
        let failures = "SELECT user_id, table_name, CAST(pk_uuid AS text) FROM {sync}materialize_failures";
        for row in store.rows(failures).await? {
            self.failed.insert((text(&row, 0), text(&row, 1), text(&row, 2)));
        }
        Ok(())
    }

    /// The rows of one user, as a device has them.
    pub(crate) fn rows_of(&self, user: &str) -> BTreeMap<(String, String), Value> {
        let rows = self.state.iter().filter(|((of, ..), _)| of == user);
        rows.map(|((_, table, pk), payload)| ((table.clone(), pk.clone()), image(table, payload))).collect()
    }
}

/// A payload as the columns that there are, those that it lacks as null.
pub(crate) fn image(table: &str, payload: &Value) -> Value {
    let columns: &[&str] = if table == "users" { &["name", "age", "email"] } else { &["title", "author_id"] };
    let column = |name: &&str| ((*name).to_owned(), payload.get(name).cloned().unwrap_or_default());
    Value::Object(columns.iter().map(column).collect::<Map<String, Value>>())
}

fn text(row: &[Option<String>], column: usize) -> String {
    row[column].clone().unwrap_or_default()
}

fn number(row: &[Option<String>], column: usize) -> i64 {
    row[column].as_ref().and_then(|text| text.parse().ok()).unwrap_or(-1)
}

fn payload(row: &[Option<String>], column: usize) -> Result<Option<Value>, String> {
    row[column].as_ref().map(|text| serde_json::from_str(text).map_err(|error| error.to_string())).transpose()
}
