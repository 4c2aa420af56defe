//! Random devices, edits and times offline.

use outrigger_client::Conflicts;
use proptest::prelude::*;

use crate::world::{Device, Server, pk, settle};

#[derive(Clone, Debug)]
enum Step {
    /// Device, table, key, value.
    Put(usize, bool, u32, u32),
    Delete(usize, bool, u32),
    Sync(usize),
    LoseAnswers(usize),
    ForgetHistory,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let device = || 0_usize..5;
    let step = prop_oneof![
        5 => (device(), any::<bool>(), 1_u32..5, 0_u32..4).prop_map(|(d, t, k, v)| Step::Put(d, t, k, v)),
        2 => (device(), any::<bool>(), 1_u32..5).prop_map(|(d, t, k)| Step::Delete(d, t, k)),
        4 => device().prop_map(Step::Sync),
        1 => device().prop_map(Step::LoseAnswers),
        1 => Just(Step::ForgetHistory),
    ];
    prop::collection::vec(step, 1..40)
}

async fn take(server: &Server, devices: &[Device], step: &Step) {
    let at = |device: usize| &devices[device % devices.len()];
    match *step {
        Step::Put(device, true, key, value) => at(device).execute(&format!(
            "INSERT INTO users (id, name) VALUES ('{}', 'v{value}') ON CONFLICT (id) DO UPDATE SET {} = 'v{value}'",
            pk(key),
            if value % 2 == 0 { "name" } else { "age" }
        )),
        Step::Put(device, false, key, value) => at(device).execute(&format!(
            "INSERT OR REPLACE INTO posts SELECT '{}', 'v{value}', (SELECT id FROM users ORDER BY id LIMIT 1 OFFSET {value})",
            pk(key)
        )),
        Step::Delete(device, true, key) => at(device).execute(&format!("DELETE FROM users WHERE id = '{}'", pk(key))),
        Step::Delete(device, false, key) => at(device).execute(&format!("DELETE FROM posts WHERE id = '{}'", pk(key))),
        Step::Sync(device) => drop(at(device).client.sync_once().await),
        Step::LoseAnswers(device) => at(device).link.answers_lost.store(2, std::sync::atomic::Ordering::SeqCst),
        Step::ForgetHistory => server.forget_history().await,
    }
}

fn run(policy: u8, count: usize, steps: &[Step]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let conflicts = match policy {
            0 => Conflicts::ServerWins,
            1 => Conflicts::ClientWins,
            _ => Conflicts::MergeFields,
        };
        let server = Server::memory().await;
        let devices: Vec<Device> = (0..count)
            .map(|n| server.device_with(&format!("device-{n}"), |config| config.conflicts(conflicts.clone())))
            .collect();
        for step in steps {
            take(&server, &devices, step).await;
        }
        for device in &devices {
            device.link.answers_lost.store(0, std::sync::atomic::Ordering::SeqCst);
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
        settle(&devices.iter().collect::<Vec<_>>()).await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_devices_end_with_equal_databases(policy in 0_u8..3, count in 2_usize..6, steps in steps()) {
        run(policy, count, &steps);
    }
}
