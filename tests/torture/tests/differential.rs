//! One random history on the model and on every store.

use outrigger_torture::differential::Field;
use outrigger_torture::seed;

fn run(seed: u64, cases: u32) {
    println!("seed {seed}: OUTRIGGER_SEED={seed} replays it");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let field = runtime.block_on(Field::start());
    if let Err(error) = field.run_random(runtime.handle(), seed, cases) {
        panic!("seed {seed}: {error}");
    }
    // A history in which nothing happens proves nothing.
    let verdicts = field.verdicts();
    println!("{verdicts:?}");
    for verdict in [
        "applied",
        "conflict",
        "bad_payload",
        "unregistered_table",
        "source_change_id_reused",
        "fk_missing",
        "batch_aborted",
        "batch_too_large",
    ] {
        assert!(verdicts.get(verdict).is_some_and(|count| *count >= 3), "{verdict} is rare: {verdicts:?}");
    }
}

/// Histories of each seed.
const CASES: u32 = 60;

#[test]
fn every_store_answers_as_the_model_does() {
    for seed in seed::fixed_and_fresh(&[1, 2]) {
        run(seed, CASES);
    }
}
