//! The promises of the protocol, as far as one device after another can see them; the rest is in `races`.

use std::collections::HashSet;

use outrigger_domain::stream::StreamChange;
use uuid::Uuid;

use crate::world::*;

/// Promise 3: versions count 1, 2, 3 … per row, deletes included.
pub async fn a_version_counts_every_applied_change<B: Backend>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    phone.apply([insert(1, pk(1), "{}"), insert(2, pk(2), "{}")]).await;
    tablet.apply([update(1, pk(1), 1, "{}"), delete(2, pk(2), 1)]).await;
    phone.apply([update(3, pk(1), 2, "{}"), update(4, pk(2), 2, "{}"), delete(5, pk(1), 3)]).await;
    let stream = phone.stream().await;
    let versions = |number| -> Vec<i64> {
        stream.iter().filter(|change| change.row.pk == pk(number)).map(|change| change.version.0).collect()
    };
    assert_eq!(versions(1), [1, 2, 3, 4]);
    assert_eq!(versions(2), [1, 2, 3]);
}

/// The stream is exactly the applied set.
pub async fn a_rejected_change_never_reaches_another_device<B: Backend>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    phone.apply([insert(1, pk(1), r#"{"by":"phone"}"#)]).await;
    let batch = [
        insert(1, pk(1), r#"{"by":"tablet"}"#),
        update(2, pk(1), 1, r#"{"by":"tablet"}"#),
        insert(3, pk(2), "[]"),
        insert(4, pk(3), "{}").of(None, "nope"),
        delete(5, pk(4), 0),
        delete(6, pk(1), 1),
        insert(7, pk(5), r#"{"by":"tablet"}"#),
    ];
    let verdict = tablet.upload(&batch).await;
    tablet.upload(&batch).await;
    let with_version = |index: usize| verdict.decisions[index] != outrigger_domain::Decision::Applied { version: None };
    let applied: HashSet<(String, i64)> = batch
        .iter()
        .enumerate()
        .filter(|&(index, _)| verdict.decisions[index].is_applied() && with_version(index))
        .map(|(_, sent)| ("tablet".to_owned(), sent.id))
        .chain([("phone".to_owned(), 1)])
        .collect();
    let stream = phone.stream().await;
    let logged: Vec<_> = stream.iter().map(|change| (change.source.to_string(), change.source_change_id.0)).collect();
    assert_eq!(logged.len(), 3);
    assert_eq!(logged.into_iter().collect::<HashSet<_>>(), applied);
    assert!(verdict.head.seq.0 == 3 && stream.last().is_some_and(|change| change.server_id.0 == 3));
}

/// Promise 2: `server_id` is 1, 2, 3 … whatever was refused in between.
pub async fn the_stream_has_no_holes<B: Backend>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    for round in 0..20 {
        let (id, number) = (3 * round + 1, 2 * round as u128);
        let head = phone.upload([insert(id, pk(number), "{}"), update(id + 1, pk(number), 7, "{}")]).await.head.seq.0;
        assert_eq!(head, 2 * round + 1);
        tablet.upload_atomic([insert(id, pk(number + 1), "{}"), insert(id + 1, pk(number), "{}")]).await;
        tablet.apply([insert(id, pk(number + 1), "{}")]).await;
    }
    let numbers: Vec<i64> = phone.stream().await.iter().map(|change| change.server_id.0).collect();
    assert_eq!(numbers, (1..=40).collect::<Vec<_>>());
}

/// Promise 4: the same keys, ids and rows under another user are other keys, ids and rows.
pub async fn users_see_nothing_of_each_other<B: Backend>(world: &World<B>) {
    let (alice, bob) = (world.device("alice", "phone"), world.device("bob", "phone"));
    alice.apply([insert(1, pk(1), r#"{"secret":"of alice"}"#), update(2, pk(1), 1, r#"{"secret":"still"}"#)]).await;
    assert_eq!(bob.stream().await, []);
    assert_eq!(bob.page(&query(0, 10)).await.window_until.0, 0);
    // Neither the version nor the key nor the payload of the other's row shows.
    let verdict = bob.upload([update(1, pk(1), 2, "{}"), delete(2, pk(1), 2)]).await;
    assert!(
        matches!(&verdict.decisions[0], outrigger_domain::Decision::Conflict(row) if row.version.0 == 0 && row.payload.is_none())
    );
    assert_eq!(verdict.decisions[1], outrigger_domain::Decision::Applied { version: None });
    assert_eq!(verdict.head.seq.0, 0);
    assert_eq!(bob.apply([insert(1, pk(1), r#"{"mine":true}"#), insert(2, pk(2), "{}")]).await, [1, 1]);
    assert_eq!(bob.apply([delete(3, pk(1), 1)]).await, [2]);
    let of = |stream: Vec<StreamChange>| -> Vec<_> {
        stream.into_iter().map(|change| (change.server_id.0, change.op.as_str(), change.version.0)).collect()
    };
    assert_eq!(of(alice.stream().await), [(1, "INSERT", 1), (2, "UPDATE", 2)]);
    assert_eq!(of(bob.stream().await), [(1, "INSERT", 1), (2, "INSERT", 1), (3, "DELETE", 2)]);
}

/// Ids that a store might fold together: case, trailing blanks, normal forms, quotes and wildcards.
pub async fn odd_ids_are_kept_apart<B: Backend>(world: &World<B>) {
    let long = "x".repeat(255);
    let ids = ["a", "A", "a ", " a", "å", "a\u{30a}", "%", "_", "a'--", "\\", "0", "00", "💾", &long];
    for (number, user) in ids.iter().enumerate() {
        for source in ids {
            let device = world.device(user, source);
            assert_eq!(device.apply([insert(1, Uuid::new_v4(), format!("{{\"n\":{number}}}"))]).await, [1]);
        }
    }
    for (number, user) in ids.iter().enumerate() {
        let stream = world.device(user, "reader").stream().await;
        assert_eq!(stream.iter().map(|change| change.source.as_str()).collect::<Vec<_>>(), ids, "{user:?}");
        let own = format!("{{\"n\":{number}}}");
        assert!(stream.iter().all(|change| change.payload.as_ref().is_some_and(|payload| payload.as_str() == own)));
    }
}

/// Promise 6.
pub async fn payloads_come_back_as_they_came<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let payloads = [
        "{}".to_owned(),
        r#"{"b":1,"a":2,"b":3}"#.into(),
        r#"{"big":123456789012345678901234567890.12345678901234567890,"tiny":1e-400,"huge":1E+9999,"zero":-0.0}"#
            .into(),
        r#"{"nul":"\u0000","lone":"\ud800","pair":"\ud83d\ude00","slash":"\/","raw":"💾é"}"#.into(),
        "{ \"spaced\" :\t[ 1 , 2 ],\r\n \"x\" : null }".into(),
        format!("{{\"deep\":{}{}}}", "[".repeat(126), "]".repeat(126)),
        format!("{{\"long\":\"{}\"}}", "é".repeat(600_000)),
    ];
    let batch: Vec<_> =
        payloads.iter().enumerate().map(|(n, text)| insert(n as i64 + 1, pk(n as u128), text)).collect();
    phone.apply(&batch).await;
    // Out of the log …
    let stream = phone.stream().await;
    let logged: Vec<_> = stream.iter().map(|change| change.payload.as_ref().map(|payload| payload.as_str())).collect();
    assert_eq!(logged, payloads.iter().map(|text| Some(text.as_str())).collect::<Vec<_>>());
    // … and out of the state.
    let stale: Vec<_> = (0..payloads.len()).map(|n| update(n as i64 + 100, pk(n as u128), 7, "{}")).collect();
    for (decision, text) in phone.upload(&stale).await.decisions.iter().zip(&payloads) {
        let outrigger_domain::Decision::Conflict(row) = decision else { panic!("{decision:?}") };
        assert_eq!(row.payload.as_ref().map(|payload| payload.as_str()), Some(text.as_str()));
    }
    // And a retry of them is known as one.
    assert_eq!(phone.apply(&batch).await, vec![1; payloads.len()]);
}

/// A row is (user, schema, table, pk).
pub async fn a_row_is_named_by_schema_table_and_pk<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let rows = [
        insert(1, pk(1), r#"{"n":1}"#),
        insert(2, pk(1), r#"{"n":2}"#).of(None, "posts"),
        insert(3, pk(1), r#"{"n":3}"#).of(Some("business"), "users"),
    ];
    assert_eq!(phone.apply(&rows).await, [1, 1, 1]);
    assert_eq!(phone.apply([delete(4, pk(1), 1).of(None, "posts")]).await, [2]);
    let names: Vec<_> = phone.stream().await.iter().map(|change| change.row.table.to_string()).collect();
    assert_eq!(names, ["public.users", "public.posts", "business.users", "public.posts"]);
    assert_eq!(
        phone.apply([update(5, pk(1), 1, "{}"), update(6, pk(1), 1, "{}").of(Some("business"), "users")]).await,
        [2, 2]
    );
}

/// Everything a device is told of a change.
pub async fn the_log_tells_who_and_when<B: Backend>(world: &World<B>) {
    use outrigger_application::Clock;
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    let first = world.clock.now();
    phone.apply([insert(41, pk(1), r#"{"n":1}"#)]).await;
    world.clock.advance(1_000_001);
    tablet.apply([delete(7, pk(1), 1)]).await;
    let stream = phone.stream().await;
    let told: Vec<_> = stream
        .iter()
        .map(|change| (change.source.as_str(), change.source_change_id.0, change.at, change.payload.is_some()))
        .collect();
    assert_eq!(told, [("phone", 41, first, true), ("tablet", 7, world.clock.now(), false)]);
}
