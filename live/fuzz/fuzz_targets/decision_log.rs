#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lodestar_live::fuzzing::decision_log(bytes));
