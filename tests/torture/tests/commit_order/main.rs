//! Commits that are held up half-way, at every place where that can happen, while devices read and others write.
//!
//! What a device is told is in the order of the stream's numbers whatever the order in which transactions began, wrote
//! and ended: nobody is handed a number at or below one that they were told of before.

mod devices;
mod points;
mod scene;

use devices::Reader;
use outrigger_torture::seed;
use points::{ENDS, POINTS};
use scene::Scene;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_misses_a_change_whose_commit_was_held_up() {
    for seed in seed::fixed_and_fresh(&[1]) {
        stress(seed, false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_misses_a_change_whose_projection_was_held_up() {
    for seed in seed::fixed_and_fresh(&[2]) {
        stress(seed, true).await;
    }
}

/// Holds a commit up once at every point, in any order.
async fn stress(seed: u64, projecting: bool) {
    println!("seed {seed}: OUTRIGGER_SEED={seed} replays it");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut scene = Scene::start(projecting).await;
    let mut rounds: Vec<_> = POINTS.into_iter().filter(|point| projecting || !point.business).collect();
    rng.shuffle(&mut rounds);
    let readers: Vec<Reader> = (0..4).map(|n| scene.read(&mut rng, n)).collect();
    // Rows to change and to delete.
    for _ in 0..3 {
        scene.quiet_round().await;
    }
    for point in rounds {
        let end = ENDS[rng.usize(..ENDS.len())];
        println!("{point:?} {end:?}");
        scene.round(point, end, &readers).await;
    }
    let stream = scene.whole_stream().await;
    for reader in readers {
        reader.check(&stream).await;
    }
    scene.check(&stream).await;
}
