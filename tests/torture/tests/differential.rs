//! One random history on the model and on every store.

use outrigger_torture::differential::Field;
use outrigger_torture::history::histories;
use outrigger_torture::seed;
use proptest::test_runner::{Config, FileFailurePersistence, RngAlgorithm, TestCaseError, TestRng, TestRunner};

fn run(seed: u64, cases: u32) {
    println!("seed {seed}: OUTRIGGER_SEED={seed} replays it");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let field = runtime.block_on(Field::start());
    let kept = FileFailurePersistence::Direct(concat!(env!("CARGO_MANIFEST_DIR"), "/regressions/differential.txt"));
    let config =
        Config { cases, failure_persistence: Some(Box::new(kept)), max_shrink_iters: 2_000, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed::bytes(seed));
    let result = TestRunner::new_with_rng(config, rng)
        .run(&histories(30), |steps| runtime.block_on(field.run(&steps)).map_err(TestCaseError::fail));
    if let Err(error) = result {
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

/// Histories of each seed: `OUTRIGGER_CASES`, or few.
fn cases() -> u32 {
    std::env::var("OUTRIGGER_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(60)
}

#[test]
fn every_store_answers_as_the_model_does() {
    for seed in seed::fixed_and_fresh(&[1, 2]) {
        run(seed, cases());
    }
}
