//! The background task.

use std::sync::atomic::Ordering;
use std::time::Duration;

use outrigger_client::Event;
use tokio::sync::broadcast::Receiver;

use crate::world::{Server, pk};

async fn until(events: &mut Receiver<Event>, what: impl Fn(&Event) -> bool) {
    let seen = async { while !what(&events.recv().await.expect("no event is missed")) {} };
    tokio::time::timeout(Duration::from_secs(30), seen).await.expect("the event comes");
}

#[tokio::test]
async fn devices_that_run_stay_in_step_by_edits_and_events() {
    let server = Server::memory().await;
    let (phone, laptop) = (server.device("phone"), server.device("laptop"));
    let (mut on_phone, mut on_laptop) = (phone.client.events(), laptop.client.events());
    phone.client.start();
    laptop.client.start();
    until(&mut on_phone, |event| *event == Event::InSync).await;
    until(&mut on_laptop, |event| *event == Event::InSync).await;
    // They only look by themselves once an hour: this is the edit, and the server's event.
    for n in 1..=5 {
        phone.execute(&format!("INSERT INTO users (id) VALUES ('{}')", pk(n)));
        until(&mut on_laptop, |event| matches!(event, Event::Downloaded { .. })).await;
    }
    // An edit on a connection of the app's own is noticed too.
    let other = rusqlite::Connection::open(&laptop.path).unwrap();
    other.busy_timeout(Duration::from_secs(5)).unwrap();
    other.execute("UPDATE users SET age = 1", []).unwrap();
    until(&mut on_phone, |event| matches!(event, Event::Downloaded { .. })).await;
}

#[tokio::test]
async fn a_line_that_is_down_is_told_once_and_waited_for() {
    let server = Server::memory().await;
    let phone = server.device("phone");
    let mut events = phone.client.events();
    phone.link.is_down.store(true, Ordering::SeqCst);
    phone.client.start();
    until(&mut events, |event| matches!(event, Event::Offline(_))).await;
    phone.execute(&format!("INSERT INTO users (id) VALUES ('{}')", pk(1)));
    phone.link.is_down.store(false, Ordering::SeqCst);
    until(&mut events, |event| *event == Event::Online).await;
    while phone.client.unsent().unwrap() > 0 {
        tokio::task::yield_now().await;
    }
    phone.client.stop();
}

#[tokio::test]
async fn a_paused_client_rests() {
    let server = Server::memory().await;
    let phone = server.device("phone");
    let mut events = phone.client.events();
    phone.client.start();
    until(&mut events, |event| *event == Event::InSync).await;
    phone.client.pause();
    let before = phone.link.uploads.load(Ordering::SeqCst);
    phone.execute(&format!("INSERT INTO users (id) VALUES ('{}')", pk(1)));
    // What was under way when it was paused may still have taken the edit along: only a later one must rest.
    tokio::time::sleep(Duration::from_millis(700)).await;
    phone.execute(&format!("INSERT INTO users (id) VALUES ('{}')", pk(2)));
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(phone.client.unsent().unwrap() > 0 && phone.link.uploads.load(Ordering::SeqCst) <= before + 1);
    phone.client.resume();
    while phone.client.unsent().unwrap() > 0 {
        tokio::task::yield_now().await;
    }
    let closed = phone.client.clone().close().unwrap();
    assert_eq!(closed.unsent, 0);
    assert!(phone.client.unsent().is_err(), "nothing works with a connection that was given back");
}
