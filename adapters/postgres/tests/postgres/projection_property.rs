//! After any history the business rows are the state of the sidecar, but for what is recorded as failed.

use proptest::prelude::*;

use crate::business::{Row, World, table};

/// What one change of an upload does: table, key, and what the row is to hold; nothing for a delete.
type Step = (usize, u128, Option<(u8, u8)>);

const SQL: &str = "
CREATE TABLE users (id uuid PRIMARY KEY, n int CHECK (n <> 3), email text UNIQUE);
CREATE TABLE posts (id uuid PRIMARY KEY, n int, email text, author_id uuid REFERENCES users (id));
INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000004', 100, 'backend');";
const WHO: [&str; 3] = ["alice", "bob", "carol"];
const TABLES: [&str; 2] = ["users", "posts"];
/// The key of the row that the backend has written.
const BACKEND: &str = "00000000-0000-0000-0000-000000000004";

/// Rows that are live in the sidecar, with the columns that a projection gives them, unless a failure is recorded of
/// the row: then it may be as it was at any time before, or not be there.
const EXPECTED: &str = "
SELECT concat_ws(' ', s.table_name, s.pk_uuid, s.payload ->> 'n', s.payload ->> 'email', s.payload ->> 'author_id')
FROM sync.sync_state s
WHERE NOT EXISTS (
    SELECT 1 FROM sync.materialize_failures f
    WHERE (f.user_id, f.schema_name, f.table_name, f.pk_uuid) = (s.user_id, s.schema_name, s.table_name, s.pk_uuid)
)";
const BUSINESS: &str = "
SELECT concat_ws(' ', 'users', id, n, email) FROM users WHERE n < 100
UNION ALL SELECT concat_ws(' ', 'posts', id, n, email, author_id) FROM posts";
const FAILED: &str = "SELECT DISTINCT concat_ws(' ', table_name, pk_uuid) FROM sync.materialize_failures";

fn run(history: &[(usize, Vec<Step>)]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let world = World::new(SQL, TABLES.map(table).into()).await;
        for (who, steps) in history {
            let payload = |&(of, pk, content): &Step| match (content, of) {
                (None, _) => String::new(),
                (Some((n, email)), 0) => format!(r#"{{"n":{n},"email":"{email}"}}"#),
                (Some((n, email)), _) => {
                    let author = uuid::Uuid::from_u128(1 + (pk + u128::from(n)) % 4);
                    format!(r#"{{"n":{n},"email":"{email}","author_id":"{author}"}}"#)
                }
            };
            for step in steps {
                // One upload for each, and all together once more: what is refused moves no version.
                let text = payload(step);
                let op = if step.2.is_some() { "UPDATE" } else { "DELETE" };
                let row: Row<'_> = (op, TABLES[step.0], step.1, &text);
                world.settle(WHO[*who], &row).await;
            }
            let texts: Vec<String> = steps.iter().map(payload).collect();
            let rows: Vec<Row<'_>> = steps
                .iter()
                .zip(&texts)
                .map(|(step, text)| {
                    let op = if step.2.is_some() { "UPDATE" } else { "DELETE" };
                    (op, TABLES[step.0], step.1, text.as_str())
                })
                .collect();
            world.settle_all(WHO[*who], &rows).await;
        }
        let (expected, business, failed) =
            (world.rows(EXPECTED).await, world.rows(BUSINESS).await, world.rows(FAILED).await);
        for row in &expected {
            assert!(business.contains(row), "{row} is missing from {business:?}");
        }
        // A row beyond those is one of which a change failed.
        for row in business.iter().filter(|row| !expected.contains(row)) {
            assert!(failed.iter().any(|of| row.starts_with(of)), "{row} should not be there; failed: {failed:?}");
        }
        let backend = format!("SELECT concat_ws(' ', n, email) FROM users WHERE id = '{BACKEND}'");
        assert_eq!(world.rows(backend).await, ["100 backend"]);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn business_rows_are_the_state_without_the_failures(
        history in prop::collection::vec(
            (
                0_usize..3,
                prop::collection::vec((0_usize..2, 1_u128..5, prop::option::of((0_u8..5, 0_u8..6))), 1..6),
            ),
            1..10,
        )
    ) {
        run(&history);
    }
}
