//! Random devices, edits, times offline and deaths.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use outrigger_client::{Config, Conflicts, Resolution};
use proptest::prelude::*;

use crate::world::{Device, Server, pk, settle};

#[derive(Clone, Debug)]
enum Step {
    /// Device, table, key, value.
    Put(usize, bool, u32, u32),
    Delete(usize, bool, u32),
    Sync(usize),
    /// Has no network from here on, or has it again.
    Offline(usize, bool),
    LoseAnswers(usize),
    /// Dies at the point of that number, and is started again.
    Die(usize, usize),
    ForgetHistory,
}

impl Step {
    fn device(&self) -> Option<usize> {
        match *self {
            Self::Put(device, ..)
            | Self::Delete(device, ..)
            | Self::Sync(device)
            | Self::Offline(device, _)
            | Self::LoseAnswers(device)
            | Self::Die(device, _) => Some(device),
            Self::ForgetHistory => None,
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let device = || 0_usize..5;
    let step = prop_oneof![
        5 => (device(), any::<bool>(), 1_u32..5, 0_u32..4).prop_map(|(d, t, k, v)| Step::Put(d, t, k, v)),
        2 => (device(), any::<bool>(), 1_u32..5).prop_map(|(d, t, k)| Step::Delete(d, t, k)),
        4 => device().prop_map(Step::Sync),
        1 => (device(), any::<bool>()).prop_map(|(d, is_down)| Step::Offline(d, is_down)),
        1 => device().prop_map(Step::LoseAnswers),
        2 => (device(), 0_usize..40).prop_map(|(d, point)| Step::Die(d, point)),
        1 => Just(Step::ForgetHistory),
    ];
    prop::collection::vec(step, 1..40)
}

/// A device of the test, with the number of points until it dies.
struct Mortal {
    device: Device,
    left: Arc<AtomicUsize>,
    conflicts: Conflicts,
}

impl Mortal {
    fn new(server: &Server, name: &str, conflicts: Conflicts) -> Self {
        let left = Arc::new(AtomicUsize::new(usize::MAX));
        let device = server.device_with(name, |config| mortal(config, &left, &conflicts));
        Self { device, left, conflicts }
    }

    async fn die(&mut self, point: usize) {
        self.left.store(point, Ordering::SeqCst);
        drop(self.device.client.sync_once().await);
        self.left.store(usize::MAX, Ordering::SeqCst);
        let (left, conflicts) = (Arc::clone(&self.left), self.conflicts.clone());
        self.device.reopen(|config| mortal(config, &left, &conflicts));
    }
}

fn mortal(config: Config, left: &Arc<AtomicUsize>, conflicts: &Conflicts) -> Config {
    let left = Arc::clone(left);
    let stops = move |_| left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err();
    config.conflicts(conflicts.clone()).failpoint(stops)
}

async fn take(server: &Server, devices: &mut [Mortal], step: &Step) {
    let count = devices.len();
    let Some(device) = step.device() else { return server.forget_history().await };
    let mortal = &mut devices[device % count];
    match *step {
        Step::Put(_, true, key, value) => mortal.device.execute(&format!(
            "INSERT INTO users (id, name) VALUES ('{}', 'v{value}') ON CONFLICT (id) DO UPDATE SET {} = 'v{value}'",
            pk(key),
            if value % 2 == 0 { "name" } else { "age" }
        )),
        Step::Put(_, false, key, value) => mortal.device.execute(&format!(
            "INSERT OR REPLACE INTO posts SELECT '{}', 'v{value}', (SELECT id FROM users ORDER BY id LIMIT 1 OFFSET {value})",
            pk(key)
        )),
        Step::Delete(_, table, key) => {
            let table = if table { "users" } else { "posts" };
            mortal.device.execute(&format!("DELETE FROM {table} WHERE id = '{}'", pk(key)));
        }
        Step::Sync(_) => drop(mortal.device.client.sync_once().await),
        Step::Offline(_, is_down) => mortal.device.link.is_down.store(is_down, Ordering::SeqCst),
        Step::LoseAnswers(_) => mortal.device.link.answers_lost.store(2, Ordering::SeqCst),
        Step::Die(_, point) => mortal.die(point).await,
        Step::ForgetHistory => {}
    }
}

fn policy(number: u8) -> Conflicts {
    match number {
        0 => Conflicts::ServerWins,
        1 => Conflicts::ClientWins,
        2 => Conflicts::MergeFields,
        // The app's own: a deletion counts, and of two rows the one whose text is the greater.
        _ => Conflicts::custom(|conflict| match (&conflict.local, &conflict.remote) {
            (Some(local), Some(remote)) if format!("{local:?}") > format!("{remote:?}") => Resolution::KeepLocal,
            (None, _) => Resolution::KeepLocal,
            _ => Resolution::TakeRemote,
        }),
    }
}

async fn run(server: Server, number: u8, count: usize, steps: &[Step]) {
    let mut devices: Vec<Mortal> =
        (0..count).map(|n| Mortal::new(&server, &format!("device-{n}"), policy(number))).collect();
    for step in steps {
        take(&server, &mut devices, step).await;
    }
    let devices: Vec<&Device> = devices.iter().map(|mortal| &mortal.device).collect();
    for device in &devices {
        device.link.answers_lost.store(0, Ordering::SeqCst);
        device.link.is_down.store(false, Ordering::SeqCst);
    }
    // What waits for a parent that another device has deleted is given up, as an app would.
    for _ in 0..3 {
        for device in &devices {
            device.sync().await;
        }
    }
    for device in &devices {
        device.execute("DELETE FROM posts WHERE author_id NOT IN (SELECT id FROM users)");
    }
    settle(&devices).await;
    for device in &devices {
        assert_eq!(device.client.unsent().unwrap(), 0, "{}", device.name);
        assert_eq!(device.client.aside().unwrap(), [], "{}", device.name);
    }
}

fn block_on(run: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run);
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn all_devices_end_with_equal_databases(number in 0_u8..4, count in 2_usize..6, steps in steps()) {
        block_on(async { run(Server::memory().await, number, count, &steps).await });
    }
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn also_on_sqlite(number in 0_u8..4, count in 2_usize..6, steps in steps()) {
        block_on(async { run(Server::sqlite().await, number, count, &steps).await });
    }

    #[test]
    fn also_on_postgres(number in 0_u8..4, count in 2_usize..6, steps in steps()) {
        block_on(async { run(Server::postgres().await, number, count, &steps).await });
    }
}
