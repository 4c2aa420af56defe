//! Where all that is random comes from.

/// What a test runs with: the seed that `OUTRIGGER_SEED` names, or else these and a fresh one.
pub fn fixed_and_fresh(fixed: &[u64]) -> Vec<u64> {
    match std::env::var("OUTRIGGER_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => fixed.iter().copied().chain([fresh()]).collect(),
    }
}

/// A seed that nobody has used before, short enough to be typed.
pub fn fresh() -> u64 {
    u64::from(fastrand::Rng::new().u32(..))
}

/// The seed as the bytes that a generator wants.
pub fn bytes(seed: u64) -> [u8; 32] {
    let mut rng = fastrand::Rng::with_seed(seed);
    std::array::from_fn(|_| rng.u8(..))
}
