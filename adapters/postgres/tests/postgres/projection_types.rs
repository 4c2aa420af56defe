//! What becomes of payloads in columns of every type.

use sqlx::AssertSqlSafe;

use crate::business::{World, table};

/// Type of the column, member of the payload, and what the column then holds, or the failure.
type Case = (&'static str, &'static str, &'static str);

const UUID: &str = "01020304-0506-0708-090a-0b0c0d0e0f10";
const AT: &str = "2025-08-08 07:01:00+00";
const AT_QUARTER: &str = "2025-08-08 07:01:00.25+00";

const CASES: &[Case] = &[
    ("uuid", "\"01020304-0506-0708-090A-0B0C0D0E0F10\"", UUID),
    ("uuid", "\"0102030405060708090a0b0c0d0e0f10\"", UUID),
    ("uuid", "\"AQIDBAUGBwgJCgsMDQ4PEA==\"", UUID),
    ("uuid", "7", "column: cannot make a uuid of a JSON number"),
    ("bytea", "\"3q2+7w==\"", "\\xdeadbeef"),
    ("bytea", "\"3q2-7w\"", "\\xdeadbeef"),
    ("bytea", "\"\\\\xDEad\"", "\\xdead"),
    ("bytea", "\"%\"", "column: cannot make bytes of a JSON string"),
    ("timestamptz", "\"2025-08-08T09:01:00.25+02:00\"", AT_QUARTER),
    ("timestamptz", "\"2025-08-08 07:01:00\"", AT),
    ("timestamptz", "1754636460", AT),
    ("timestamptz", "1754636460.25", AT_QUARTER),
    ("timestamptz", "1754636460250", AT_QUARTER),
    ("timestamptz", "[]", "column: cannot make a timestamp of a JSON array"),
    ("timestamp", "\"2025-08-08T09:01:00+02:00\"", "2025-08-08 07:01:00"),
    ("timestamp(0)", "1754636460250", "2025-08-08 07:01:00"),
    ("date", "\"2025-08-08T23:30:00-02:00\"", "2025-08-09"),
    ("date", "1754636460", "2025-08-08"),
    ("date", "true", "column: cannot make a date of a JSON boolean"),
    (
        "numeric",
        "123456789012345678901234567890.12345678901234567890",
        "123456789012345678901234567890.12345678901234567890",
    ),
    ("numeric", "\"1.50\"", "1.50"),
    ("float8", "0.1", "0.1"),
    ("boolean", "0", "false"),
    ("boolean", "1", "true"),
    ("boolean", "true", "true"),
    ("boolean", "2", "column: cannot make a boolean of a JSON number"),
    ("json", "{ \"b\": 1.0,\"a\":2 }", "{ \"b\": 1.0,\"a\":2 }"),
    ("jsonb", "{ \"b\": 1.0,\"a\":2 }", "{\"a\": 2, \"b\": 1.0}"),
    ("jsonb", "\"text\"", "\"text\""),
    ("json", "null", "NULL"),
    ("int2", "\"7\"", "7"),
    ("int4", "true", "1"),
    ("int8", "9007199254740993", "9007199254740993"),
    ("int4", "1.5", "column: cannot make an integer of a JSON number"),
    ("mood", "\"sad\"", "sad"),
    ("mood", "\"mad\"", "column: cannot make a label of its type of a JSON string"),
    ("int[]", "[1,null,3]", "{1,NULL,3}"),
    ("int[]", "[[1,2],[3,4]]", "{{1,2},{3,4}}"),
    ("int[]", "[]", "{}"),
    (
        "int[]",
        "[[1],[2,3]]",
        "column: cannot make an array of its type of a JSON array: a value is not one of its column's type (SQLSTATE 22P02)",
    ),
    ("int[]", "7", "column: cannot make an array of its type of a JSON number"),
    ("text[]", r#"["a,b","c\"d","NULL"]"#, r#"{"a,b","c\"d","NULL"}"#),
    ("text[]", r#"[["a"],["{}"]]"#, r#"{{a},{"{}"}}"#),
    ("uuid[]", "[\"AQIDBAUGBwgJCgsMDQ4PEA==\"]", "{01020304-0506-0708-090a-0b0c0d0e0f10}"),
    ("timestamptz[]", "[0]", "{\"1970-01-01 00:00:00+00\"}"),
    ("jsonb[]", "[[1],{\"a\":\"b\"}]", r#"{[1],"{\"a\": \"b\"}"}"#),
    ("mood[]", "[\"sad\",null]", "{sad,NULL}"),
    ("varchar(3)[]", "[\"abc\"]", "{abc}"),
    ("text", "7.50", "7.50"),
    ("text", "{\"a\": 1}", "{\"a\": 1}"),
    ("text", "null", "NULL"),
    ("char(4)", "\"ab\"", "ab"),
    ("char(2)", "\"abc\"", "column: cannot make text of a JSON string: a text is too long (SQLSTATE 22001)"),
    ("bit(3)", "\"101\"", "101"),
    (
        "bit(3)",
        "\"1011\"",
        "column: cannot make text of a JSON string: a value is not one of its column's type (SQLSTATE 22026)",
    ),
    ("varbit(4)", "\"1011\"", "1011"),
    ("interval", "\"1 day 02:00:00\"", "1 day 02:00:00"),
    (
        "interval",
        "\"secret\"",
        "column: cannot make text of a JSON string: a value is not one of its column's type (SQLSTATE 22007)",
    ),
    ("inet", "\"10.0.0.1/24\"", "10.0.0.1/24"),
    ("time", "\"07:01\"", "07:01:00"),
    ("point", "\"(1,2)\"", "(1,2)"),
    ("tsvector", "\"b a\"", "'a' 'b'"),
    ("oid", "7", "7"),
    ("regclass", "\"secret\"", "the database refused it (SQLSTATE 42P01)"),
    ("positive", "7", "7"),
    ("positive", "-7", "constraint positive_check: a check was not passed (SQLSTATE 23514)"),
    ("citext", "\"Abc\"", "Abc"),
];

#[tokio::test]
async fn a_column_takes_what_its_type_says() {
    let world = World::new(
        "CREATE TYPE mood AS ENUM ('happy', 'sad');
         CREATE DOMAIN positive AS int CHECK (VALUE > 0);
         DO $$ BEGIN
             CREATE EXTENSION citext;
         EXCEPTION WHEN OTHERS THEN CREATE DOMAIN citext AS text;
         END $$;
         CREATE TABLE t (id uuid PRIMARY KEY)",
        vec![table("t")],
    )
    .await;
    for (n, (declared, ..)) in CASES.iter().enumerate() {
        world.execute(format!("ALTER TABLE t ADD COLUMN c{n} {declared}")).await;
    }
    outrigger_application::ProjectionStore::refresh_catalog(&world.store).await.unwrap();
    let mut shell = world.sql().await;
    sqlx::raw_sql("SET TIME ZONE 'UTC'").execute(&mut shell).await.unwrap();
    for (n, (declared, json, expected)) in CASES.iter().enumerate() {
        let pk = 1 + n as u128;
        world.up("alice", &[("INSERT", "t", pk, &format!("{{\"c{n}\":{json}}}"))]).await;
        let found = format!("SELECT coalesce(c{n}::text, 'NULL') FROM t WHERE id = '{}'", uuid::Uuid::from_u128(pk));
        let found: Option<String> = sqlx::query_scalar(AssertSqlSafe(found)).fetch_optional(&mut shell).await.unwrap();
        let found = match found {
            Some(text) => text,
            None => world.errors("alice").await.pop().unwrap().replace(&format!("column c{n}:"), "column:"),
        };
        assert_eq!(found, *expected, "{declared} {json}");
    }
}
