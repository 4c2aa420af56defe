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

/// A generator of its own for one part of what a seed makes: drawing from one leaves the others as they are.
pub fn derived(seed: u64, part: u64) -> fastrand::Rng {
    // The finaliser of SplitMix64: numbers that are close become seeds that are not.
    let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(part.wrapping_mul(0xd1b5_4a32_d192_ed03));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    fastrand::Rng::with_seed(mixed ^ (mixed >> 31))
}
