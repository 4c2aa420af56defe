//! Edits of one row on two devices.

use outrigger_client::{Conflicts, Decision, Event, Resolution};

use crate::world::{Device, Server, drained, pk, settle};

/// Two devices with one row, each with an edit of its own that the other has not seen.
async fn split(server: &Server, conflicts: Conflicts, phone_sql: &str, laptop_sql: &str) -> (Device, Device) {
    let configure = |config: outrigger_client::Config| config.conflicts(conflicts.clone());
    let (phone, laptop) = (server.device_with("phone", configure), server.device_with("laptop", configure));
    phone.execute(&format!("INSERT INTO users (id, name, age) VALUES ('{}', 'a', 1)", pk(1)));
    settle(&[&phone, &laptop]).await;
    phone.execute(phone_sql);
    laptop.execute(laptop_sql);
    phone.sync().await;
    (phone, laptop)
}

async fn outcome(conflicts: Conflicts, phone_sql: &str, laptop_sql: &str) -> (Vec<String>, Vec<Decision>) {
    let server = Server::memory().await;
    let (phone, laptop) = split(&server, conflicts, phone_sql, laptop_sql).await;
    let mut events = laptop.client.events();
    settle(&[&laptop, &phone]).await;
    let decided = drained(&mut events).into_iter().filter_map(|event| match event {
        Event::Conflict { table, pk: of, decision } => {
            assert_eq!((table.as_str(), of), ("users", pk(1)));
            Some(decision)
        }
        _ => None,
    });
    (phone.rows("SELECT name || ' ' || age FROM users"), decided.collect())
}

#[tokio::test]
async fn each_policy_decides_as_it_says_and_reports_it() {
    let (phone, laptop) = ("UPDATE users SET name = 'p'", "UPDATE users SET age = 2");
    let merged = outcome(Conflicts::MergeFields, phone, laptop).await;
    assert_eq!(merged, (vec!["p 2".into()], vec![Decision::Merged]));
    let server = outcome(Conflicts::ServerWins, phone, laptop).await;
    assert_eq!(server, (vec!["p 1".into()], vec![Decision::TookRemote]));
    let client = outcome(Conflicts::ClientWins, phone, laptop).await;
    assert_eq!(client, (vec!["a 2".into()], vec![Decision::KeptLocal]));
}

#[tokio::test]
async fn a_deletion_meets_an_edit() {
    let (delete, edit) = ("DELETE FROM users", "UPDATE users SET age = 2");
    for (conflicts, phone, laptop, expected) in [
        (Conflicts::MergeFields, delete, edit, vec!["a 2"]),
        (Conflicts::MergeFields, edit, delete, vec!["a 2"]),
        (Conflicts::ServerWins, delete, edit, vec![]),
        (Conflicts::ServerWins, edit, delete, vec!["a 2"]),
        (Conflicts::ClientWins, delete, edit, vec!["a 2"]),
        (Conflicts::ClientWins, edit, delete, vec![]),
        (Conflicts::MergeFields, delete, delete, vec![]),
    ] {
        let (rows, _) = outcome(conflicts.clone(), phone, laptop).await;
        assert_eq!(rows, expected, "{conflicts:?}: {phone} and {laptop}");
    }
}

#[tokio::test]
async fn the_app_s_own_resolver_sees_all_three_rows() {
    let resolver = Conflicts::custom(|conflict| {
        let of = |image: &Option<outrigger_client::Image>| image.as_ref().map(|image| image["age"].get().to_owned());
        assert_eq!(
            (of(&conflict.base), of(&conflict.local), of(&conflict.remote)),
            (Some("1".into()), Some("5".into()), Some("3".into()))
        );
        // The edits add up.
        let mut image = conflict.remote.clone().unwrap();
        image.insert("age".into(), serde_json::value::RawValue::from_string("7".into()).unwrap());
        Resolution::Merge(image)
    });
    let (rows, decided) = outcome(resolver, "UPDATE users SET age = 3", "UPDATE users SET age = 5").await;
    assert_eq!((rows, decided), (vec!["a 7".into()], vec![Decision::Merged]));
}

/// What a row was before it was ever on the server says nothing about the other device's edit.
#[tokio::test]
async fn a_row_that_two_devices_make_has_no_base() {
    let server = Server::memory().await;
    let resolver = Conflicts::custom(|conflict| {
        assert!(conflict.base.is_none(), "{:?}", conflict.base);
        Resolution::TakeRemote
    });
    let (phone, laptop) =
        (server.device("phone"), server.device_with("laptop", |config| config.conflicts(resolver.clone())));
    phone.execute(&format!("INSERT INTO users (id, name) VALUES ('{}', 'p')", pk(1)));
    phone.sync().await;
    laptop.sync().await;
    laptop.execute("DELETE FROM users");
    laptop.sync().await;
    phone.sync().await;
    for device in [&phone, &laptop] {
        device.execute(&format!("INSERT INTO users (id, name) VALUES ('{}', 'x')", pk(1)));
        device.execute(&format!("UPDATE users SET name = '{}'", device.name));
    }
    phone.sync().await;
    assert!(settle(&[&laptop, &phone]).await[0].contains("'phone'"));
}

#[tokio::test]
async fn a_downloaded_change_never_overwrites_an_edit_that_waits() {
    let server = Server::memory().await;
    let (phone, laptop) =
        split(&server, Conflicts::MergeFields, "UPDATE users SET name = 'p'", "UPDATE users SET name = 'l'").await;
    // The laptop's upload conflicts first and its edit is kept.
    laptop.sync().await;
    assert_eq!(laptop.rows("SELECT name FROM users"), ["l"]);
    assert!(settle(&[&phone, &laptop]).await[0].contains("'l'"));
}

#[tokio::test]
async fn rows_that_do_not_fit_wait_until_they_do() {
    let server = Server::memory().await;
    let (phone, laptop) = (server.device("phone"), server.device("laptop"));
    phone.execute(&format!("INSERT INTO users (id, email) VALUES ('{}', 'a@x'), ('{}', 'b@x')", pk(1), pk(2)));
    settle(&[&phone, &laptop]).await;
    // Two unique values change places.
    phone.execute("UPDATE users SET email = 'c@x' WHERE email = 'a@x'; UPDATE users SET email = 'a@x' WHERE email = 'b@x'; UPDATE users SET email = 'b@x' WHERE email = 'c@x'");
    settle(&[&phone, &laptop]).await;
    // Two devices take the same unique value: both rows exist on the server, and one does not fit here.
    phone.execute(&format!("INSERT INTO users (id, email) VALUES ('{}', 'd@x')", pk(3)));
    laptop.execute(&format!("INSERT INTO users (id, email) VALUES ('{}', 'd@x')", pk(4)));
    phone.sync().await;
    let mut events = laptop.client.events();
    laptop.sync().await;
    assert!(drained(&mut events).iter().any(|event| matches!(event, Event::Unapplied { pk: of, .. } if *of == pk(3))));
    laptop.execute(&format!("UPDATE users SET email = 'e@x' WHERE id = '{}'", pk(4)));
    phone.sync().await;
    assert_eq!(settle(&[&laptop, &phone]).await.len(), 4);
}
