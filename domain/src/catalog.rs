//! The tables that take part in syncing.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::limits::NAME_BYTES_MAX;

/// The schema of a table that names none.
pub const DEFAULT_SCHEMA: &str = "public";

/// Why a text is not the name of a schema or a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a schema or table name is 1 to {NAME_BYTES_MAX} of the characters a-z, 0-9 and _")]
pub struct BadName;

/// The name of a table with its schema, both in lower case. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    schema: Arc<str>,
    table: Arc<str>,
}

impl TableName {
    /// Trims and lower-cases both parts; the schema defaults to [`DEFAULT_SCHEMA`].
    pub fn parse(schema: Option<&str>, table: &str) -> Result<Self, BadName> {
        Ok(Self { schema: part(schema.unwrap_or(DEFAULT_SCHEMA))?.into(), table: part(table)?.into() })
    }

    /// Reads `table` or `schema.table`, as it stands in a configuration.
    pub fn parse_qualified(text: &str) -> Result<Self, BadName> {
        match text.split_once('.') {
            Some((schema, table)) => Self::parse(Some(schema), table),
            None => Self::parse(None, text),
        }
    }

    /// The schema.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The table's own name.
    pub fn table(&self) -> &str {
        &self.table
    }
}

/// Trims and lower-cases one part of a name, and checks it.
pub(crate) fn part(text: &str) -> Result<String, BadName> {
    let name = text.trim().to_ascii_lowercase();
    let fits = !name.is_empty() && name.len() <= NAME_BYTES_MAX;
    let plain = name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    if fits && plain { Ok(name) } else { Err(BadName) }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

impl fmt::Debug for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One table that takes part in syncing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: TableName,
    /// The members of its payloads that name rows of other tables.
    pub references: Vec<Reference>,
}

impl Table {
    /// A table of that name, without references.
    pub fn new(name: TableName) -> Self {
        Self { name, references: Vec::new() }
    }

    /// The same table with one more reference.
    #[must_use]
    pub fn referring(mut self, column: impl Into<String>, parent: TableName) -> Self {
        self.references.push(Reference { column: column.into(), parent });
        self
    }
}

/// A foreign key: a member of a table's payloads that holds the key of a row of another table, or of the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The member's name, which is the column's.
    pub column: String,
    /// The table that the row belongs to.
    pub parent: TableName,
}

/// The registered tables.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    tables: Vec<Table>,
    // Two levels, so that a lookup by two borrowed names allocates nothing.
    by_name: HashMap<Arc<str>, HashMap<Arc<str>, usize>>,
}

impl Catalog {
    /// A catalog of these tables. A table that is named twice counts once, as first given.
    ///
    /// References to tables that are not in the catalog are dropped: the server knows nothing of their rows.
    pub fn new(tables: impl IntoIterator<Item = Table>) -> Self {
        let mut catalog = Self::default();
        for table in tables {
            let TableName { schema, table: name } = table.name.clone();
            let position = catalog.tables.len();
            let slot = catalog.by_name.entry(schema).or_default().entry(name).or_insert(position);
            if *slot == position {
                catalog.tables.push(table);
            }
        }
        let Self { tables, by_name } = &mut catalog;
        let registered = |name: &TableName| by_name.get(name.schema()).is_some_and(|of| of.contains_key(name.table()));
        for table in tables {
            table.references.retain(|reference| registered(&reference.parent));
        }
        catalog
    }

    /// The registered table of that name, given in its normal form.
    pub fn find(&self, schema: &str, table: &str) -> Option<&Table> {
        self.by_name.get(schema)?.get(table).map(|&position| &self.tables[position])
    }

    /// All tables, in the order of their registration.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_trimmed_and_lower_cased() {
        let name = TableName::parse(Some(" Business "), "Posts").unwrap();
        assert_eq!(name.to_string(), "business.posts");
        assert_eq!(TableName::parse(None, "users").unwrap().schema(), "public");
        assert_eq!(TableName::parse_qualified("a.b").unwrap().to_string(), "a.b");
    }

    #[test]
    fn names_have_1_to_63_plain_characters() {
        for bad in ["", " ", "a-b", "a.b", "naïve", "a b", &"x".repeat(64)] {
            assert_eq!(TableName::parse(None, bad), Err(BadName), "{bad:?}");
            assert_eq!(TableName::parse(Some(bad), "t"), Err(BadName), "{bad:?}");
        }
        assert!(TableName::parse(None, &"x".repeat(63)).is_ok());
        assert_eq!(TableName::parse_qualified("a.b.c"), Err(BadName));
    }

    #[test]
    fn a_table_is_found_by_schema_and_name() {
        let users = Table::new(TableName::parse_qualified("users").unwrap());
        let catalog = Catalog::new([users.clone(), users.clone()]);
        assert_eq!(catalog.tables(), std::slice::from_ref(&users));
        assert_eq!(catalog.find("public", "users"), Some(&users));
        assert_eq!(catalog.find("other", "users"), None);
        assert_eq!(catalog.find("public", "posts"), None);
    }

    #[test]
    fn a_reference_to_an_unregistered_table_is_dropped() {
        let name = |text| TableName::parse_qualified(text).unwrap();
        let posts = Table::new(name("posts")).referring("author_id", name("users")).referring("org_id", name("orgs"));
        let catalog = Catalog::new([posts, Table::new(name("users")).referring("boss_id", name("users"))]);
        let columns = |table: &str| -> Vec<String> {
            catalog.find("public", table).unwrap().references.iter().map(|of| of.column.clone()).collect()
        };
        assert_eq!(columns("posts"), ["author_id"]);
        assert_eq!(columns("users"), ["boss_id"]);
    }
}
