//! What stands in the business tables, what could not be put there, and trying it again.

use outrigger_application::Clock;
use outrigger_application::ports::projection::{Failure, FailureFilter, ProjectionStore, RebuildStep, Retried};
use outrigger_domain::TableName;
use outrigger_domain::change::OpKind;
use uuid::Uuid;

use crate::world::*;

fn named(name: &str) -> String {
    format!("{{\"name\":\"{name}\"}}")
}

fn again(id: i64, pk: Uuid, version: i64, name: &str) -> Sent {
    let mut sent = insert(id, pk, named(name));
    sent.version = version;
    sent
}

async fn failures(store: &dyn ProjectionStore, user: &str) -> Vec<Failure> {
    store.failures(&user_id(user), &FailureFilter::default(), 0, 1_000).await.expect("storage works")
}

fn versions_of(failures: &[Failure]) -> Vec<i64> {
    failures.iter().map(|failure| failure.attempted_version.0).collect()
}

async fn name_of<B: Projecting>(world: &World<B>, number: u128) -> Option<String> {
    world.backend.business_name("users", pk(number)).await
}

/// Promise 4, and one failure per row and version.
pub async fn a_row_of_another_user_is_left_alone<B: Projecting>(world: &World<B>) {
    let store = world.backend.projection().await;
    let (alice, bob) = (world.device("alice", "phone"), world.device("bob", "phone"));
    alice.apply([insert(1, pk(1), named("alice"))]).await;
    let attempts = [
        insert(1, pk(1), named("bob")),
        update(2, pk(1), 1, named("bob 2")),
        delete(3, pk(1), 2),
        again(4, pk(1), 3, "bob 4"),
    ];
    for (attempt, version) in attempts.iter().zip(1..) {
        assert_eq!(bob.apply([attempt.clone()]).await, [version]);
        assert_eq!(name_of(world, 1).await.as_deref(), Some("alice"));
        let expected: Vec<i64> = (1..=version).collect();
        assert_eq!(versions_of(&failures(&*store, "bob").await), expected);
    }
    let recorded = failures(&*store, "bob").await;
    assert_eq!(recorded.iter().map(|failure| failure.id).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let ops: Vec<OpKind> = recorded.iter().map(|failure| failure.op).collect();
    assert_eq!(ops, [OpKind::Insert, OpKind::Update, OpKind::Delete, OpKind::Insert]);
    let payloads: Vec<Option<&str>> =
        recorded.iter().map(|failure| failure.payload.as_ref().map(|payload| payload.as_str())).collect();
    let texts = ["bob", "bob 2", "", "bob 4"].map(named);
    assert_eq!(payloads, [Some(&*texts[0]), Some(&*texts[1]), None, Some(&*texts[3])]);
    for failure in &recorded {
        assert_eq!((&failure.user, failure.row.pk, failure.retry_count), (&bob.user, pk(1), 0));
        assert_eq!(failure.first_seen, world.clock.now());
        assert!(!failure.error.is_empty() && !failure.error.contains("bob"), "{}", failure.error);
    }
    assert_eq!(failures(&*store, "alice").await, []);
    alice.apply([update(2, pk(1), 1, named("alice 2"))]).await;
    assert_eq!(name_of(world, 1).await.as_deref(), Some("alice 2"));
}

/// One of two users in the model of [`two_users_with_one_key_in_every_order`].
#[derive(Default)]
struct Side {
    done: i64,
    failed: Vec<i64>,
}

/// Insert, update, delete and insert again, by two users, interleaved in all 70 ways.
pub async fn two_users_with_one_key_in_every_order<B: Projecting>(world: &World<B>) {
    let store = world.backend.projection().await;
    let devices = [world.device("alice", "phone"), world.device("bob", "phone")];
    let mut expected = [Vec::new(), Vec::new()];
    let orders = (0_u32..256).filter(|order| order.count_ones() == 4);
    for (number, order) in (1_u128..).zip(orders) {
        let mut sides = [Side::default(), Side::default()];
        let mut holder: Option<(usize, String)> = None;
        for step in 0..8 {
            let who = (order >> step & 1) as usize;
            let version = sides[who].done;
            let (id, key) = (number as i64 * 4 + version, pk(number));
            let text = format!("{who} at {version}");
            let sent = match version {
                0 | 3 => again(id, key, version, &text),
                1 => update(id, key, version, named(&text)),
                _ => delete(id, key, version),
            };
            let deletes = sent.payload.is_none();
            devices[who].apply([sent]).await;
            sides[who].done += 1;
            if holder.as_ref().is_some_and(|(owner, _)| *owner != who) {
                sides[who].failed.push(version + 1);
            } else {
                holder = (!deletes).then_some((who, text));
                sides[who].failed.clear();
            }
            let name = holder.as_ref().map(|(_, name)| name.clone());
            assert_eq!(name_of(world, number).await, name, "order {order:08b}, step {step}");
        }
        for (side, expected) in sides.iter().zip(&mut expected) {
            expected.extend(side.failed.iter().map(|version| (pk(number), *version)));
        }
    }
    for (user, expected) in ["alice", "bob"].iter().zip(expected) {
        let found = failures(&*store, user).await;
        let found: Vec<_> = found.iter().map(|failure| (failure.row.pk, failure.attempted_version.0)).collect();
        assert_eq!(found, expected, "{user}");
    }
}

/// A failure is about a row, and gone as soon as the row is there, whatever its version.
pub async fn a_later_success_clears_the_failures_of_the_row<B: Projecting>(world: &World<B>) {
    let store = world.backend.projection().await;
    let (alice, bob) = (world.device("alice", "phone"), world.device("bob", "phone"));
    alice.apply([insert(1, pk(1), named("alice")), insert(2, pk(2), named("alice"))]).await;
    bob.apply([insert(1, pk(1), named("bob"))]).await;
    bob.apply([insert(2, pk(2), named("bob"))]).await;
    bob.apply([update(3, pk(1), 1, named("bob 2"))]).await;
    alice.apply([delete(3, pk(1), 1)]).await;
    assert_eq!(name_of(world, 1).await, None);
    assert_eq!(failures(&*store, "bob").await.len(), 3);
    bob.apply([update(4, pk(1), 2, named("bob 3"))]).await;
    assert_eq!(name_of(world, 1).await.as_deref(), Some("bob 3"));
    let left: Vec<Uuid> = failures(&*store, "bob").await.iter().map(|failure| failure.row.pk).collect();
    assert_eq!(left, [pk(2)]);
}

/// Only the row that cannot be projected is left out; what is answered does not depend on it.
pub async fn an_upload_is_applied_whatever_becomes_of_its_projection<B: Projecting>(world: &World<B>) {
    let store = world.backend.projection().await;
    world.device("alice", "phone").apply([insert(1, pk(2), named("alice"))]).await;
    let bob = world.device("bob", "phone");
    let batch: Vec<Sent> = (1..=3).map(|n| insert(n, pk(n as u128), named(&format!("bob {n}")))).collect();
    assert_eq!(bob.apply(&batch).await, [1, 1, 1]);
    let names = [name_of(world, 1).await, name_of(world, 2).await, name_of(world, 3).await];
    assert_eq!(names.map(Option::unwrap), ["bob 1", "alice", "bob 3"]);
    let recorded = failures(&*store, "bob").await;
    assert_eq!(recorded.iter().map(|failure| failure.row.pk).collect::<Vec<_>>(), [pk(2)]);
    assert_eq!(bob.stream().await.len(), 3);
    // A retry of the upload is answered from the log and projects nothing anew.
    assert_eq!(bob.apply(&batch).await, [1, 1, 1]);
    assert_eq!(failures(&*store, "bob").await, recorded);
}

/// What a request does to a row in the end is what is projected, and what fails.
pub async fn a_request_is_projected_by_its_net_effect<B: Projecting>(world: &World<B>) {
    let store = world.backend.projection().await;
    let (alice, bob) = (world.device("alice", "phone"), world.device("bob", "phone"));
    let request = [
        insert(1, pk(1), named("first")),
        update(2, pk(1), 1, named("last")),
        insert(3, pk(2), named("gone")),
        delete(4, pk(2), 1),
    ];
    alice.apply(&request).await;
    assert_eq!((name_of(world, 1).await.as_deref(), name_of(world, 2).await), (Some("last"), None));
    bob.apply(&request).await;
    assert_eq!(versions_of(&failures(&*store, "bob").await), [2]);
}

/// Every way in which a retry may end but [`Retried::InProgress`].
pub async fn a_retry_projects_the_row_as_it_stands_now<B: Projecting>(world: &World<B>) {
    let store = world.backend.projection().await;
    let (alice, bob) = (world.device("alice", "phone"), world.device("bob", "phone"));
    alice.apply([insert(1, pk(1), named("alice"))]).await;
    bob.apply([insert(1, pk(1), named("bob"))]).await;
    bob.apply([update(2, pk(1), 1, named("bob 2"))]).await;
    let retry = |id| store.retry(&bob.user, id);
    assert_eq!(retry(3).await.expect("storage works"), Retried::Unknown);
    for id in [1, 2] {
        let before = failures(&*store, "bob").await.into_iter().find(|failure| failure.id == id).expect("it is there");
        let Retried::Failed(after) = retry(id).await.expect("storage works") else {
            panic!("failure {id} did not fail")
        };
        assert!(after.retry_count > before.retry_count, "{after:?}");
        assert_eq!((after.id, after.attempted_version), (id, before.attempted_version));
    }
    assert_eq!(failures(&*store, "bob").await.len(), 2, "an attempt at a known version is no new failure");
    assert_eq!(name_of(world, 1).await.as_deref(), Some("alice"));

    alice.apply([delete(2, pk(1), 1)]).await;
    assert_eq!(retry(1).await.expect("storage works"), Retried::Materialized);
    assert_eq!(name_of(world, 1).await.as_deref(), Some("bob 2"), "not what the failure was about, but what is now");
    assert_eq!(failures(&*store, "bob").await, []);
    for id in [1, 2] {
        assert_eq!(retry(id).await.expect("storage works"), Retried::Unknown);
    }
}

/// Promise 4 for failures themselves.
pub async fn a_failure_belongs_to_its_user<B: Projecting>(world: &World<B>) {
    let store = world.backend.projection().await;
    world.device("alice", "phone").apply([insert(1, pk(1), named("alice")), insert(2, pk(2), named("alice"))]).await;
    for user in ["bob", "carol"] {
        world.device(user, "phone").apply([insert(1, pk(1), named(user)), insert(2, pk(2), named(user))]).await;
        let ids: Vec<i64> = failures(&*store, user).await.iter().map(|failure| failure.id).collect();
        assert_eq!(ids, [1, 2], "{user}'s own, counted by themselves");
    }
    let before = failures(&*store, "bob").await;
    for stranger in ["alice", "dave"] {
        assert_eq!(store.retry(&user_id(stranger), 1).await.expect("storage works"), Retried::Unknown);
        assert_eq!(failures(&*store, stranger).await, []);
    }
    assert!(matches!(store.retry(&user_id("carol"), 1).await, Ok(Retried::Failed(_))));
    assert_eq!(failures(&*store, "bob").await, before);
}

/// Filters, limits and cursors, of one user and of all.
pub async fn failures_are_listed_by_schema_table_and_page<B: Projecting>(world: &World<B>) {
    let store = world.backend.projection().await;
    let rows = |_: &str| -> Vec<Sent> {
        let user = |n: i64| insert(n, pk(n as u128), named("x"));
        vec![user(1), user(2).of(None, "posts"), user(3), user(4).of(None, "posts")]
    };
    for user in ["alice", "bob", "carol"] {
        for row in rows(user) {
            world.device(user, "phone").apply([row]).await;
        }
    }
    let filter = |schema: Option<&str>, table: Option<&str>| FailureFilter {
        schema: schema.map(str::to_owned),
        table: table.map(str::to_owned),
    };
    let bob = user_id("bob");
    for (filter, after, limit, expected) in [
        (filter(None, None), 0, 10, vec![1, 2, 3, 4]),
        (filter(None, None), 0, 3, vec![1, 2, 3]),
        (filter(None, None), 3, 3, vec![4]),
        (filter(None, None), 4, 3, vec![]),
        (filter(Some("public"), None), 1, 2, vec![2, 3]),
        (filter(Some("business"), None), 0, 10, vec![]),
        (filter(None, Some("posts")), 0, 10, vec![2, 4]),
        (filter(None, Some("posts")), 2, 10, vec![4]),
        (filter(Some("public"), Some("users")), 0, 1, vec![1]),
        (filter(Some("business"), Some("users")), 0, 10, vec![]),
    ] {
        let found = store.failures(&bob, &filter, after, limit).await.expect("storage works");
        let ids: Vec<i64> = found.iter().map(|failure| failure.id).collect();
        assert_eq!(ids, expected, "{filter:?} after {after}, {limit}");
    }
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = store.all_failures(&filter(None, Some("users")), after, 3).await.expect("storage works");
        let Some(last) = page.last() else { break };
        after = Some((last.user.clone(), last.id));
        all.extend(page.into_iter().map(|failure| (failure.user.to_string(), failure.id)));
    }
    assert_eq!(all, [("bob", 1), ("bob", 3), ("carol", 1), ("carol", 3)].map(|(user, id)| (user.to_owned(), id)));
}

/// Rebuilds `users` in steps of that many rows.
async fn rebuild<B: Projecting>(world: &World<B>, store: &dyn ProjectionStore, limit: u32) -> Vec<RebuildStep> {
    let users = TableName::parse_qualified("users").expect("a good name");
    let mut steps: Vec<RebuildStep> = Vec::new();
    loop {
        let after = steps.last().and_then(|step| step.next.clone());
        let step = store.rebuild(&users, after, limit, world.clock.now()).await.expect("storage works");
        assert!(step.projected + step.failed <= u64::from(limit), "{step:?}");
        assert!(steps.len() < 1_000, "the cursor does not move");
        let done = step.next.is_none();
        steps.push(step);
        if done {
            return steps;
        }
    }
}

/// Of a table that has no business table there is nothing to be made equal.
pub async fn a_rebuild_leaves_alone_what_is_not_projected<B: Projecting>(world: &World<B>) {
    let store = world.backend.projection().await;
    let alice = world.device("alice", "phone");
    alice.apply([insert(1, pk(1), named("alice")).of(Some("business"), "users")]).await;
    let table = TableName::parse_qualified("business.users").expect("a good name");
    let step = store.rebuild(&table, None, 10, world.clock.now()).await.expect("storage works");
    assert_eq!(step, RebuildStep::default());
    assert_eq!(failures(&*store, "alice").await, []);
}

/// A rebuild goes from cursor to cursor and leaves what the sidecar has, or a failure.
pub async fn a_rebuild_makes_rows_what_the_sidecar_has<B: Projecting>(world: &World<B>) {
    let store = world.backend.projection().await;
    let (alice, bob) = (world.device("alice", "phone"), world.device("bob", "phone"));
    let rows = |name: &str| -> Vec<Sent> { (1..=7).map(|n| insert(n, pk(n as u128), named(name))).collect() };
    alice.apply(rows("alice")).await;
    bob.apply(rows("bob")).await;
    alice.apply((1..=6).map(|n| delete(10 + n, pk(n as u128), 1)).collect::<Vec<_>>()).await;
    assert_eq!(failures(&*store, "bob").await.len(), 7);
    assert_eq!(name_of(world, 1).await, None);

    let steps = rebuild(world, &*store, 3).await;
    assert!(steps.len() >= 3, "{steps:?}");
    assert_eq!(steps.iter().map(|step| step.failed).sum::<u64>(), 1, "{steps:?}");
    assert!(steps.iter().map(|step| step.projected).sum::<u64>() >= 7, "{steps:?}");
    for number in 1..=6 {
        assert_eq!(name_of(world, number).await.as_deref(), Some("bob"), "row {number}");
    }
    assert_eq!(name_of(world, 7).await.as_deref(), Some("alice"));
    let left = failures(&*store, "bob").await;
    assert_eq!(left.iter().map(|failure| failure.row.pk).collect::<Vec<_>>(), [pk(7)]);

    // Once more changes nothing; a step that is done twice is as good as once.
    rebuild(world, &*store, 100).await;
    assert_eq!(name_of(world, 6).await.as_deref(), Some("bob"));
    alice.apply([delete(20, pk(7), 1)]).await;
    let steps = rebuild(world, &*store, 1).await;
    assert_eq!(steps.iter().map(|step| step.failed).sum::<u64>(), 0, "{steps:?}");
    assert_eq!((name_of(world, 7).await.as_deref(), failures(&*store, "bob").await), (Some("bob"), vec![]));
}
