//! After any history the business rows are the state of the sidecar, but for what is recorded as failed.

use proptest::prelude::*;

use crate::support::*;

/// What one change of an upload does: table, key, and what the row is to hold; nothing for a delete.
type Step = (usize, u128, Option<(u8, u8)>);

const SQL: &str = "
    CREATE TABLE users (id TEXT PRIMARY KEY, n INTEGER CHECK (n <> 3), email TEXT UNIQUE);
    CREATE TABLE posts (id BLOB PRIMARY KEY, n INTEGER, email TEXT, author_id TEXT REFERENCES users (id));
    INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000004', 100, 'backend');";
const WHO: [&str; 3] = ["alice", "bob", "carol"];
const TABLES: [&str; 2] = ["users", "posts"];

/// Rows that are live in the sidecar, with the columns that a projection gives them, unless a failure is recorded of
/// the row: then it may be as it was at any time before, or not be there.
const EXPECTED: &str = "
    SELECT concat_ws(' ', table_name, pk_uuid, payload ->> 'n', payload ->> 'email', payload ->> 'author_id')
    FROM sync_state AS s WHERE NOT EXISTS (
        SELECT 1 FROM materialize_failures AS f WHERE (f.user_id, f.schema_name, f.table_name, f.pk_uuid)
            = (s.user_id, s.schema_name, s.table_name, s.pk_uuid))";
const BUSINESS: &str = "
    SELECT concat_ws(' ', 'users', id, n, email) FROM users WHERE n < 100
    UNION ALL SELECT concat_ws(' ', 'posts', lower(substr(hex(id), 1, 8) || '-' || substr(hex(id), 9, 4) || '-'
        || substr(hex(id), 13, 4) || '-' || substr(hex(id), 17, 4) || '-' || substr(hex(id), 21)), n, email, author_id)
    FROM posts";
const FAILED: &str = "SELECT DISTINCT concat_ws(' ', table_name, pk_uuid) FROM materialize_failures";

fn payload(&(of, pk, content): &Step) -> String {
    match (content, of) {
        (None, _) => String::new(),
        (Some((n, email)), 0) => format!(r#"{{"n":{n},"email":"{email}"}}"#),
        (Some((n, email)), _) => {
            let author = uuid::Uuid::from_u128(1 + (pk + u128::from(n)) % 4);
            format!(r#"{{"n":{n},"email":"{email}","author_id":"{author}"}}"#)
        }
    }
}

fn run(history: &[(usize, Vec<Step>)]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let world = World::new(SQL, &TABLES);
        world.refresh().await;
        for (who, steps) in history {
            let texts: Vec<String> = steps.iter().map(payload).collect();
            let change = |(step, text)| -> Change<'_> {
                let &(table, pk, content): &Step = step;
                (if content.is_some() { "UPDATE" } else { "DELETE" }, TABLES[table], pk, text)
            };
            let rows: Vec<Change<'_>> = steps.iter().zip(texts.iter().map(String::as_str)).map(change).collect();
            // One upload for each, and all together once more.
            for row in &rows {
                world.settle(WHO[*who], &[*row]).await;
            }
            world.settle(WHO[*who], &rows).await;
        }
        let (expected, business, failed) = (world.rows(EXPECTED), world.rows(BUSINESS), world.rows(FAILED));
        for row in &expected {
            assert!(business.contains(row), "{row} is missing from {business:?}");
        }
        // A row beyond those is one of which a change failed.
        for row in business.iter().filter(|row| !expected.contains(row)) {
            assert!(failed.iter().any(|of| row.starts_with(of)), "{row} should not be there; failed: {failed:?}");
        }
        assert_eq!(world.rows("SELECT n || email FROM users WHERE n = 100"), ["100backend"]);
        assert_eq!(world.rows("SELECT \"table\" FROM pragma_foreign_key_check"), [] as [&str; 0]);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn business_rows_are_the_state_without_the_failures(
        history in prop::collection::vec(
            (
                0_usize..3,
                prop::collection::vec((0_usize..2, 1_u128..5, prop::option::of((0_u8..5, 0_u8..6))), 1..6),
            ),
            1..12,
        )
    ) {
        run(&history);
    }
}
