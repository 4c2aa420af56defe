//! Input that nobody means to send: seeds that are well-formed, what becomes of them by random edits, and what must hold
//! of the server's answers whatever comes in.
//!
//! [`run`] gives a target all of its corpus and then edited seeds; `OUTRIGGER_SEED` makes it begin with that seed. An
//! input that breaks something is made smaller and kept in `corpus/`, where it is tried for ever after. `guided/` beside
//! this has the same targets for libFuzzer, which edits with an eye on where in the code an input gets.

mod edits;
mod server;
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use edits::edited;
pub use targets::{configuration, query, token, upload};

/// The seed of the first run; the next one is fresh.
const FIXED_SEED: u64 = 1;

/// The inputs of one target that are tried every time, with their names.
///
/// # Panics
///
/// If there are none.
pub(crate) fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = folder(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("the folder can be read").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("the file can be read"))).collect()
}

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// Gives `check` the target's corpus, and then twice as many edited seeds as that: by a fixed seed and by a fresh one.
///
/// # Panics
///
/// If `check` fails or panics, with the smallest input that was found to make it do so.
pub fn run(target: &str, cases: u32, check: impl Fn(&[u8]) -> Result<(), String>) {
    let seeds = corpus(target);
    for (path, input) in &seeds {
        check(input).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    }
    let seeds: Vec<Vec<u8>> = seeds.into_iter().map(|(_, input)| input).collect();
    let named = std::env::var("OUTRIGGER_SEED").ok().and_then(|text| text.parse().ok());
    edit((target, cases), &seeds, named.unwrap_or(FIXED_SEED), &check);
    edit((target, cases), &seeds, u64::from(fastrand::u32(..)), &check);
}

fn edit((target, cases): (&str, u32), seeds: &[Vec<u8>], seed: u64, check: &impl Fn(&[u8]) -> Result<(), String>) {
    println!("{target}: seed {seed}: OUTRIGGER_SEED={seed} replays it");
    let mut rng = fastrand::Rng::with_seed(seed);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &std::array::from_fn::<u8, 32, _>(|_| rng.u8(..)));
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 5_000, ..Config::default() };
    let tried = TestRunner::new_with_rng(config, rng)
        .run(&edited(seeds.to_vec()), |input| check(&input).map_err(TestCaseError::fail));
    match tried {
        Ok(()) => {}
        Err(TestError::Fail(why, input)) => {
            let file = folder(target).join(format!("found-{seed}"));
            let _ = fs::write(&file, &input);
            let text = String::from_utf8_lossy(&input);
            panic!("{target}, seed {seed}: {why}\nby {text:?}, which is kept in {}", file.display());
        }
        Err(TestError::Abort(why)) => panic!("{target}, seed {seed}: {why}"),
    }
}
