#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| outrigger_fuzz::configuration(input).unwrap_or_else(|why| panic!("{why}")));
