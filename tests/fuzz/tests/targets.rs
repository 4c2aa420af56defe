//! Every target with its corpus and a little of what can be made of it.

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

#[test]
fn a_configuration_of_anything_is_taken_or_refused_in_a_sentence() {
    outrigger_fuzz::run("configuration", CASES, outrigger_fuzz::configuration);
}
