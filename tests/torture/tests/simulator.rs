//! Devices on a server that everything happens to.

use outrigger_torture::seed;
use outrigger_torture::sim::{Ground, StoreKind};

fn run(store: StoreKind, fixed: &[u64]) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let ground = Ground::prepare(store).await;
        for seed in seed::fixed_and_fresh(fixed) {
            println!("seed {seed}: OUTRIGGER_SEED={seed} replays its schedule");
            match ground.run(seed).await {
                Ok(counts) => println!("{counts:?}"),
                Err(wrong) => panic!(
                    "seed {seed} on {store}:\n{}\nagain: outrigger-torture --only devices --turns 1 --seed {seed} --store {store}",
                    wrong.join("\n")
                ),
            }
        }
    });
}

#[test]
fn nothing_is_lost_on_sqlite() {
    run(StoreKind::Sqlite, &[1, 2]);
}

#[test]
fn nothing_is_lost_on_postgres() {
    run(StoreKind::Postgres, &[1, 2]);
}
