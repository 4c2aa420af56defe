//! After any history the business rows are the state of the sidecar, but for what is recorded as failed.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use crate::support::*;

type Step = (usize, Vec<(u128, Option<u8>, u8)>);

const SQL: &str = "CREATE TABLE users (id TEXT PRIMARY KEY, n INTEGER CHECK (n <> 3), email TEXT UNIQUE);";
const WHO: [&str; 3] = ["alice", "bob", "carol"];

fn run(history: &[Step]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let world = World::new(SQL, &["users"]);
        // Which rows are live, and the payload of each.
        let mut model: BTreeMap<(&str, u128), Option<(u8, u8)>> = BTreeMap::new();
        for (who, changes) in history {
            let mut upload = Vec::new();
            for (pk, n, email) in changes {
                let row = model.entry((WHO[*who], *pk)).or_default();
                if n.is_none() && row.is_none() {
                    continue;
                }
                let op = if n.is_none() {
                    "DELETE"
                } else if row.is_some() {
                    "UPDATE"
                } else {
                    "INSERT"
                };
                *row = n.map(|n| (n, *email));
                upload.push((op, "users", *pk, format!("{{\"n\":{},\"email\":\"{email}\"}}", n.unwrap_or(0))));
            }
            let upload: Vec<Change<'_>> =
                upload.iter().map(|(op, table, pk, of)| (*op, *table, *pk, of.as_str())).collect();
            world.up(WHO[*who], &upload).await;
        }
        let mut failed = HashSet::new();
        for who in WHO {
            failed.extend(world.failures(who).await.iter().map(|of| (who, of.row.pk.as_u128())));
        }
        let business = world.rows("SELECT id || ' ' || n || ' ' || email FROM users");
        let expected = |(&(who, pk), row): (&(&str, u128), &Option<(u8, u8)>)| {
            let (n, email) = (*row)?;
            (!failed.contains(&(who, pk))).then(|| format!("{} {n} {email}", uuid::Uuid::from_u128(pk)))
        };
        let expected: Vec<String> = model.iter().filter_map(expected).collect();
        for row in &expected {
            assert!(business.contains(row), "{row} is missing from {business:?}");
        }
        // A row beyond those is one whose last change failed.
        for row in business.iter().filter(|row| !expected.contains(row)) {
            assert!(failed.iter().any(|(_, pk)| row.starts_with(&uuid::Uuid::from_u128(*pk).to_string())), "{row}");
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn business_rows_are_the_state_without_the_failures(
        history in prop::collection::vec((0_usize..3, prop::collection::vec((1_u128..5, prop::option::of(0_u8..5), 0_u8..6), 1..5)), 1..15)
    ) {
        run(&history);
    }
}
