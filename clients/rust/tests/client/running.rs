//! The background task.

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
