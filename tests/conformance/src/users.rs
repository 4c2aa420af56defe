//! What an operator sees of users and their devices, and the removal of one.

use std::num::NonZeroU32;

use outrigger_application::ports::projection::FailureFilter;
use outrigger_application::ports::users::UserRecord;
use outrigger_application::{Caller, erasure::Erased};
use outrigger_domain::{Decision, ServerSeq, UserId};

use crate::world::*;

fn caller(device: &Device) -> Caller {
    let (user, source) = (device.user.clone(), device.source.clone());
    Caller { user, source, expires_at: jiff::Timestamp::MAX, is_admin: false }
}

async fn listed<B: LongLived>(world: &World<B>) -> Vec<(String, i64, u64)> {
    let users = world.backend.users().await.users(None, 100).await.expect("storage works");
    users.into_iter().map(|UserRecord { user, head, devices, .. }| (user.to_string(), head.0, devices)).collect()
}

fn named(name: &str, number: u128) -> String {
    format!(r#"{{"id":"{}","name":"{name}"}}"#, pk(number))
}

/// In the order of their ids, page by page.
pub async fn users_are_listed_while_anything_is_kept_of_them<B: LongLived + Projecting>(world: &World<B>) {
    assert!(listed(world).await.is_empty());
    for user in ["bob", "Zoë", "alice", "ali"] {
        world.device(user, "phone").apply([insert(1, pk(1), named(user, 1)), insert(2, pk(2), "{}")]).await;
    }
    // One that has only read is a user, too.
    let contacts = world.contacts().await;
    contacts.note(&caller(&world.device("carol", "laptop")), Some(ServerSeq(0)));
    contacts.note(&caller(&world.device("bob", "phone")), None);
    contacts.flush().await.expect("storage works");
    let expected = [("Zoë", 2, 0), ("ali", 2, 0), ("alice", 2, 0), ("bob", 2, 1), ("carol", 0, 1)];
    assert_eq!(listed(world).await, expected.map(|(user, head, devices)| (user.to_owned(), head, devices)));
    let users = world.backend.users().await;
    let page = users.users(Some(&user_id("ali")), 2).await.expect("storage works");
    assert_eq!(page.iter().map(|record| record.user.as_str()).collect::<Vec<_>>(), ["alice", "bob"]);
    // Whoever came first has the business row of that key.
    let failures = async |user| users.user(&user_id(user)).await.expect("storage works").map(|record| record.failures);
    assert_eq!((failures("bob").await, failures("ali").await), (Some(0), Some(2)));
    assert_eq!((failures("carol").await, failures("al").await, failures("nobody").await), (Some(0), None, None));
}

/// Of one user or of all, page by page.
pub async fn devices_are_listed_with_how_far_they_are<B: LongLived + Projecting>(world: &World<B>) {
    let (phone, bobs) = (world.device("alice", "phone"), world.device("bob", "a"));
    phone.apply([insert(7, pk(1), "{}"), insert(9, pk(2), "{}")]).await;
    let contacts = world.contacts().await;
    contacts.note(&caller(&phone), Some(ServerSeq(1)));
    contacts.note(&caller(&world.device("alice", "laptop")), None);
    contacts.note(&caller(&bobs), Some(ServerSeq(0)));
    contacts.flush().await.expect("storage works");
    let users = world.backend.users().await;
    let of = async |user: Option<&UserId>, after, limit| {
        let found = users.devices(user, after, limit).await.expect("storage works");
        let line = |device: outrigger_application::ports::users::DeviceRecord| {
            let cursor = device.cursor.map(|cursor| cursor.0);
            (device.source.to_string(), cursor, device.head.0, device.highest_source_change_id.0)
        };
        found.into_iter().map(line).collect::<Vec<_>>()
    };
    let laptop = ("laptop".to_owned(), None, 2, 0);
    let phone = ("phone".to_owned(), Some(1), 2, 9);
    let bobs = ("a".to_owned(), Some(0), 0, 0);
    assert_eq!(of(None, None, 10).await, [laptop.clone(), phone.clone(), bobs.clone()]);
    assert_eq!(of(Some(&user_id("bob")), None, 10).await, std::slice::from_ref(&bobs));
    let after = (user_id("alice"), source_id("laptop"));
    assert_eq!(of(None, Some(&after), 1).await, std::slice::from_ref(&phone));
    assert_eq!(of(Some(&user_id("alice")), Some(&after), 10).await, [phone]);
}

/// The others keep theirs.
pub async fn a_stream_that_begins_anew_has_an_epoch_of_its_own<B: LongLived + Projecting>(world: &World<B>) {
    let (alice, bob) = (world.device("alice", "phone"), world.device("bob", "phone"));
    alice.apply([insert(1, pk(1), "{}")]).await;
    bob.apply([insert(1, pk(2), "{}")]).await;
    let users = world.backend.users().await;
    assert_eq!(users.begin_anew(&user_id("nobody")).await.expect("storage works"), None);
    let before = world.store().head(&user_id("bob")).await.expect("storage works").0;
    let epoch = users.begin_anew(&user_id("alice")).await.expect("storage works");
    let head = world.store().head(&user_id("alice")).await.expect("storage works").0;
    assert_eq!((Some(head.epoch), head.seq.0), (epoch, 1));
    assert_ne!(head.epoch, before.epoch);
    assert_eq!(world.store().head(&user_id("bob")).await.expect("storage works").0, before);
    // A database that is restored begins anew as a whole.
    let all = world.backend.retention().await.restore_mark(NonZeroU32::MIN).await.expect("storage works");
    assert_eq!(world.store().head(&user_id("alice")).await.expect("storage works").0.epoch, all);
}

/// Rows, deletions, keys, devices, failures and the business rows, some of each.
async fn given<B: LongLived + Projecting>(world: &World<B>) -> (Device, Device) {
    let (alice, bob) = (world.device("alice", "phone"), world.device("bob", "phone"));
    let rows = (1..=520).map(|n| insert(n, pk(n as u128), named("Alice", n as u128))).collect::<Vec<_>>();
    alice.apply(rows[..500].to_vec()).await;
    alice.apply(rows[500..].to_vec()).await;
    alice.apply([delete(601, pk(5), 1), update(602, pk(6), 1, named("A.", 6))]).await;
    // Those are in nobody's way, and those are Alice's in the business table.
    bob.apply([insert(1, pk(9_001), named("Bob", 9_001)), insert(2, pk(1), named("Bob", 1))]).await;
    let contacts = world.contacts().await;
    contacts.note(&caller(&alice), Some(ServerSeq(3)));
    contacts.note(&caller(&bob), Some(ServerSeq(1)));
    contacts.flush().await.expect("storage works");
    (alice, bob)
}

async fn erase<B: LongLived + Projecting>(world: &World<B>, steps: usize) -> Option<Erased> {
    let (erasure, mut taken) = (world.erasure().await, 0);
    let go_on = |_: &Erased| {
        taken += 1;
        taken <= steps
    };
    erasure.erase(&user_id("alice"), go_on).await.expect("storage works")
}

async fn assert_only_bob_is_left<B: LongLived + Projecting>(world: &World<B>, alice: &Device, bob: &Device) {
    assert_eq!(listed(world).await, [("bob".to_owned(), 2, 1)]);
    assert!(alice.stream().await.is_empty() && alice.rows(100).await.0.is_empty());
    assert_eq!(bob.rows(100).await.0.len(), 2);
    for number in [2, 6, 520] {
        assert_eq!(world.backend.business_name("users", pk(number)).await, None, "{number}");
    }
    assert_eq!(world.backend.business_name("users", pk(9_001)).await.as_deref(), Some("Bob"));
    let failures = world.backend.projection().await.failures(&user_id("alice"), &FailureFilter::default(), 0, 10).await;
    assert!(failures.expect("storage works").is_empty());
    let record = world.contacts().await.source(&caller(alice)).await.expect("storage works");
    assert_eq!((record.first_contact, record.last_contact, record.cursor), (None, None, None));
    assert_eq!(record.highest_source_change_id.0, 602, "it stays known, so that no replay is new");
}

/// The rows of others stay, also where one was in the way of the other's.
pub async fn an_erased_user_is_gone_and_no_other<B: LongLived + Projecting>(world: &World<B>) {
    let (alice, bob) = given(world).await;
    let before = world.store().head(&user_id("alice")).await.expect("storage works").0;
    let erased = erase(world, usize::MAX).await.expect("there was a user");
    assert_eq!((erased.rows, erased.stuck, erased.done), (519, 0, true), "{erased:?}");
    // Each row's entry and each deletion's.
    assert_eq!((erased.entries, erased.keys), (522 + 519, 522 + 519));
    assert_only_bob_is_left(world, &alice, &bob).await;
    let after = world.store().head(&user_id("alice")).await.expect("storage works").0;
    assert!(after.seq > before.seq && after.epoch != before.epoch);
    // What was applied before is not applied again, and what is new is.
    let replayed = alice.upload([insert(1, pk(1), "{}")]).await;
    assert!(matches!(replayed.decisions[0], Decision::Conflict(_)), "{replayed:?}");
    assert_eq!(alice.apply([insert(700, pk(1), named("again", 1))]).await, [1]);
    assert!(alice.stream().await[0].server_id > after.seq);
    // Removed again, with numbers of deletions that were not used yet.
    let erased = erase(world, usize::MAX).await.expect("there is a user again");
    assert_eq!((erased.rows, erased.done), (1, true), "{erased:?}");
}

/// After every step.
pub async fn an_erasure_goes_on_where_it_was_stopped<B: LongLived + Projecting>(world: &World<B>) {
    let (alice, bob) = given(world).await;
    let mut runs = 0;
    while let Some(erased) = erase(world, 0).await {
        runs += 1;
        assert!(runs < 50, "{erased:?}");
        // What is left is a stream like any other: whoever follows it ends up with the rows that are there.
        let rows = alice.rows(1_000).await.0;
        let from_stream = alice.stream().await.into_iter().filter(|change| change.payload.is_some()).count();
        assert!(from_stream >= rows.len(), "{from_stream} of {}", rows.len());
        if erased.done {
            break;
        }
    }
    assert!(runs > 3, "{runs}");
    assert_only_bob_is_left(world, &alice, &bob).await;
}

/// An upload comes before or behind a step, and is whole either way.
pub async fn devices_that_upload_meanwhile_lose_nothing_that_is_kept<B: LongLived + Projecting>(world: &World<B>) {
    let (alice, _) = given(world).await;
    let uploading = async {
        for id in 1_000..1_030 {
            let number = id as u128;
            let verdict = alice.upload([insert(id, pk(number), named("new", number))]).await;
            assert!(verdict.decisions[0].is_applied(), "{verdict:?}");
        }
    };
    let (erased, ()) = tokio::join!(erase(world, usize::MAX), uploading);
    let erased = erased.expect("there was a user");
    // The rows that are there are those of the stream, and of the business table.
    let rows = alice.rows(1_000).await.0;
    let mut keys: Vec<_> = rows.iter().map(|row| row.row.pk).collect();
    let live = alice.stream().await.into_iter().filter(|change| change.payload.is_some());
    let mut in_stream: Vec<_> = live.map(|change| change.row.pk).collect();
    in_stream.retain(|pk| keys.contains(pk));
    keys.sort();
    in_stream.sort();
    in_stream.dedup();
    assert_eq!(keys, in_stream, "{erased:?}");
    for pk in keys {
        assert_eq!(world.backend.business_name("users", pk).await.as_deref(), Some("new"));
    }
    // Once they are quiet, nothing is left.
    if let Some(erased) = erase(world, usize::MAX).await {
        assert!(erased.done, "{erased:?}");
    }
    assert_eq!(listed(world).await.len(), 1);
}

/// Nothing is made by asking.
pub async fn nobody_is_erased_who_is_not_there<B: LongLived + Projecting>(world: &World<B>) {
    assert_eq!(erase(world, usize::MAX).await, None);
    assert!(listed(world).await.is_empty());
}
