//! Every target with its corpus and a little of what can be made of it; `OUTRIGGER_FUZZ_S` makes it more.

/// Edited seeds of one round.
const CASES: u32 = 1_000;

#[test]
fn an_upload_of_anything_is_answered() {
    outrigger_fuzz::run("upload", CASES, outrigger_fuzz::upload);
}

#[test]
fn a_query_of_anything_is_answered() {
    outrigger_fuzz::run("query", CASES, outrigger_fuzz::query);
}

#[test]
fn a_token_of_anything_is_refused() {
    outrigger_fuzz::run("token", CASES, outrigger_fuzz::token);
}
