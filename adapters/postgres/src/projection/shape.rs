//! What the catalog says of the business tables.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use outrigger_application::projection::convert::Kind;
use outrigger_application::tables::{Materialize, TableConfig};
use outrigger_domain::{Reference, TableName};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

/// One row per column of each table that exists, in the order of the columns. Types are those beneath domains: the
/// column itself applies the domain, and its check must not see values that are not written. A type modifier is left
/// out: an explicit cast to `varchar(3)` would cut, the assignment to the column refuses.
const COLUMNS: &str = "
WITH RECURSIVE wanted AS (
    SELECT w.place, c.oid AS relid, CASE c.relkind
        WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' END AS no_table
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w (schema_name, table_name, place)
    JOIN pg_namespace n ON n.nspname = w.schema_name
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.table_name AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
), base (oid, type) AS (
    SELECT DISTINCT a.atttypid, a.atttypid
    FROM wanted w JOIN pg_attribute a ON a.attrelid = w.relid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT b.oid, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
)
SELECT w.place, a.attname::text AS name, format_type(t.oid, -1) AS type,
       t.typname::text AS typname, t.typtype::text AS typtype, t.typcategory::text AS category,
       e.typname::text AS element, e.typtype::text AS element_typtype,
       ARRAY(SELECT l.enumlabel::text FROM pg_enum l WHERE l.enumtypid IN (t.oid, e.oid) ORDER BY l.enumsortorder) AS labels,
       coalesce(pg_get_expr(d.adbin, d.adrelid), pg_get_expr(o.typdefaultbin, 0)) AS default_value,
       a.attgenerated <> '' OR a.attidentity <> '' AS filled,
       coalesce(a.attnum = ANY(p.conkey), false) AS in_key, coalesce(cardinality(p.conkey), 0) AS key_columns,
       coalesce(p.condeferrable, false) AS key_deferrable, w.no_table,
       EXISTS (
           SELECT FROM pg_trigger g
           WHERE NOT g.tgisinternal AND g.tginitdeferred AND (g.tgrelid = w.relid OR EXISTS (
               SELECT FROM pg_trigger f LEFT JOIN pg_constraint r ON r.oid = f.tgconstraint
               WHERE f.tgrelid = w.relid AND (NOT f.tgisinternal OR r.confdeltype IN ('c', 'n', 'd'))
           ))
       ) AS deferred
FROM wanted w
JOIN pg_attribute a ON a.attrelid = w.relid AND a.attnum > 0 AND NOT a.attisdropped
JOIN base b ON b.oid = a.atttypid
JOIN pg_type t ON t.oid = b.type AND t.typtype <> 'd'
JOIN pg_type o ON o.oid = a.atttypid
LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_constraint p ON p.conrelid = w.relid AND p.contype = 'p'
ORDER BY w.place, a.attnum";

/// Foreign keys of one column that lead to the primary key of a table. A key that is no uuid or text cannot be that of a
/// synced row, whatever the table is called.
const REFERENCES: &str = "
SELECT n.nspname::text, c.relname::text, a.attname::text, pn.nspname::text, pc.relname::text
FROM pg_constraint f
JOIN pg_class c ON c.oid = f.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class pc ON pc.oid = f.confrelid JOIN pg_namespace pn ON pn.oid = pc.relnamespace
JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = f.conkey[1]
JOIN pg_constraint k ON k.conrelid = f.confrelid AND k.contype = 'p' AND k.conkey = f.confkey
JOIN pg_attribute b ON b.attrelid = f.confrelid AND b.attnum = f.confkey[1]
JOIN pg_type t ON t.oid = b.atttypid AND (t.typtype = 'd' OR t.typname IN ('uuid', 'text', 'varchar'))
WHERE f.contype = 'f' AND f.conparentid = 0 AND cardinality(f.conkey) = 1
  AND (n.nspname::text, c.relname::text) IN (SELECT * FROM unnest($1::text[], $2::text[]))
ORDER BY 1, 2, f.conname";

/// The schema of the server's own tables.
const SIDECAR: &str = "sync";

/// A business table that can be projected onto.
#[derive(Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) name: TableName,
    pub(crate) pk: String,
    /// The type of the key's column.
    pub(crate) pk_type: String,
    /// Whether the key's constraint cannot arbitrate an insert.
    pub(crate) pk_deferrable: bool,
    pub(crate) owner: Option<(String, String)>,
    /// The columns that payloads fill.
    pub(crate) columns: Vec<Column>,
    /// Whether a trigger of the app may run at commit, where no statement timeout bounds it: one of this table, or of
    /// any other that a trigger or a cascade of this table may write to.
    pub(crate) deferred: bool,
}

/// A column that payloads fill.
#[derive(Debug, PartialEq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) type_name: String,
    pub(crate) default_value: Option<String>,
}

/// What stands in place of a registered table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Target {
    /// A business table.
    Table(Arc<Shape>),
    /// A business table that cannot be projected onto, or none where there is to be one: why.
    Unfit(String),
}

/// Reads the targets of these tables. A table without one is not projected.
pub(crate) async fn read(
    connection: &mut PgConnection,
    tables: &[TableConfig],
    expected: &HashSet<TableName>,
) -> Result<HashMap<TableName, Target>, sqlx::Error> {
    let tables: Vec<&TableConfig> = tables.iter().filter(|config| config.materialize != Materialize::Off).collect();
    let rows = sqlx::query(COLUMNS)
        .bind(tables.iter().map(|config| config.table.name.schema()).collect::<Vec<_>>())
        .bind(tables.iter().map(|config| config.table.name.table()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    let mut targets = HashMap::new();
    for (place, config) in (1_i64..).zip(&tables) {
        let name = &config.table.name;
        let mut columns = Vec::new();
        for row in &rows {
            if row.try_get::<i64, _>("place")? == place {
                columns.push(Found::read(row)?);
            }
        }
        let missing = columns.is_empty();
        if missing && config.materialize != Materialize::Required && !expected.contains(name) {
            continue;
        }
        let shape = if missing { Err(format!("there is no table {name}")) } else { shape(config, columns) };
        let target = shape.map_or_else(Target::Unfit, |shape| Target::Table(Arc::new(shape)));
        targets.insert(name.clone(), target);
    }
    Ok(targets)
}

/// The foreign keys between these tables.
pub(crate) async fn references(
    connection: &mut PgConnection,
    tables: &[TableConfig],
) -> Result<Vec<(TableName, Reference)>, sqlx::Error> {
    let rows: Vec<(String, String, String, String, String)> = sqlx::query_as(REFERENCES)
        .bind(tables.iter().map(|config| config.table.name.schema()).collect::<Vec<_>>())
        .bind(tables.iter().map(|config| config.table.name.table()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    let registered = |schema: &str, table: &str| {
        let names = tables.iter().map(|config| &config.table.name);
        names.into_iter().find(|name| name.schema() == schema && name.table() == table).cloned()
    };
    let reference = |(schema, table, column, parent_schema, parent_table): (String, String, String, String, String)| {
        let parent = registered(&parent_schema, &parent_table)?;
        Some((registered(&schema, &table)?, Reference { column, parent }))
    };
    Ok(rows.into_iter().filter_map(reference).collect())
}

/// A column as the catalog has it.
struct Found {
    column: Column,
    typname: String,
    filled: bool,
    in_key: bool,
    key_columns: i32,
    key_deferrable: bool,
    deferred: bool,
    /// What the relation is instead of a table.
    no_table: Option<String>,
}

impl Found {
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        let typname: String = row.try_get("typname")?;
        Ok(Self {
            column: Column {
                name: row.try_get("name")?,
                kind: kind_of(row, &typname)?,
                type_name: row.try_get("type")?,
                default_value: row.try_get("default_value")?,
            },
            typname,
            filled: row.try_get("filled")?,
            in_key: row.try_get("in_key")?,
            key_columns: row.try_get("key_columns")?,
            key_deferrable: row.try_get("key_deferrable")?,
            deferred: row.try_get("deferred")?,
            no_table: row.try_get("no_table")?,
        })
    }
}

fn kind_of(row: &PgRow, typname: &str) -> Result<Kind, sqlx::Error> {
    let (typtype, category): (String, String) = (row.try_get("typtype")?, row.try_get("category")?);
    let labels: Vec<String> = row.try_get("labels")?;
    if let ("A", Some(element)) = (category.as_str(), row.try_get::<Option<String>, _>("element")?) {
        let is_enum = row.try_get::<Option<String>, _>("element_typtype")?.as_deref() == Some("e");
        return Ok(Kind::Array(Box::new(if is_enum { Kind::Label(labels) } else { kind(&element) })));
    }
    Ok(if typtype == "e" { Kind::Label(labels) } else { kind(typname) })
}

fn kind(typname: &str) -> Kind {
    match typname {
        "uuid" => Kind::Uuid,
        "bytea" => Kind::Bytes,
        "timestamptz" | "timestamp" => Kind::Timestamp,
        "date" => Kind::Date,
        "int2" | "int4" | "int8" => Kind::Integer,
        "numeric" | "float4" | "float8" => Kind::Number,
        "bool" => Kind::Boolean,
        "json" | "jsonb" => Kind::Json,
        _ => Kind::Text,
    }
}

fn shape(config: &TableConfig, columns: Vec<Found>) -> Result<Shape, String> {
    let name = config.table.name.clone();
    if name.schema() == SIDECAR {
        return Err(format!("table {name} is one of the server's own, and cannot be projected onto"));
    }
    if let Some(kind) = columns.iter().find_map(|found| found.no_table.as_deref()) {
        return Err(format!("{name} is a {kind}, and only a table can be projected onto"));
    }
    let key = columns.iter().find(|found| found.in_key && found.key_columns == 1);
    let Some(key) = key.filter(|found| matches!(found.typname.as_str(), "uuid" | "text" | "varchar") && !found.filled)
    else {
        return Err(format!("table {name} needs a primary key of exactly one column of type uuid or text"));
    };
    let (pk, pk_type, pk_deferrable) = (key.column.name.clone(), key.column.type_name.clone(), key.key_deferrable);
    let deferred = key.deferred;
    let owner = match &config.owner_column {
        None => None,
        Some(owner) => {
            let found = columns.iter().find(|found| found.column.name == *owner && !found.in_key && !found.filled);
            let found = found.ok_or_else(|| format!("table {name} has no column {owner} that could name the owner"))?;
            Some((owner.clone(), found.column.type_name.clone()))
        }
    };
    let is_owner = |column: &str| owner.as_ref().is_some_and(|(owner, _)| owner == column);
    let plain = columns.into_iter().filter(|found| !found.in_key && !found.filled).map(|found| found.column);
    let columns = plain.filter(|column| !is_owner(&column.name)).collect();
    Ok(Shape { name, pk, pk_type, pk_deferrable, owner, columns, deferred })
}
