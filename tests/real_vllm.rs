//! `scripts/real_vllm.sh` with mock engines in the place of vLLM: what it shows of real servers, `serve` does here too, and the
//! script still runs.

#![expect(clippy::print_stdout, reason = "a test that skips says so")]

use std::process::{Command, Stdio};

/// Says SKIPPED where there is no Python.
#[test]
fn serve_does_with_mock_engines_what_it_is_shown_to_do_with_vllm() {
    let version = Command::new("python3").arg("--version").stdout(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        println!("SKIPPED: no python3 on the path");
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let output = Command::new("bash")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/real_vllm.sh"))
        .arg("--mock")
        .arg(out.path())
        .env("LODESTAR", env!("CARGO_BIN_EXE_lodestar"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("19 of 19 checks passed"), "{said}");
}
