//! The profile that a script and `lodestar calibrate` make is what these make today.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::Command;

#[test]
fn an_rtx_pro_6000_is_fitted_to_its_operators() {
    let (gpu, named_there) = ("rtx-pro-6000", "RTXPRO6000");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tables = root.join("../shared/data/gpu/llmservingsim");
    if !tables.is_dir() {
        let _ = writeln!(io::stderr(), "SKIPPED: no {}", tables.display());
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let run = |command: &mut Command| {
        let output = command.current_dir(folder.path()).output().expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let script = root.join("scripts/compose_llmservingsim.py");
    run(Command::new("python3").arg(script).arg(tables).args([named_there, "steps.csv"]));
    run(Command::new(env!("CARGO_BIN_EXE_lodestar"))
        .args(["calibrate", "steps", "steps.csv", "--gpu", gpu, "--source", "a test"])
        .args(["--plot", "steps", "--out", "made.toml"]));
    let made = fs::read_to_string(folder.path().join("made.toml")).expect("a profile");
    let kept =
        fs::read_to_string(root.join(format!("sim/profiles/{gpu}.toml"))).expect("a profile");
    let numbers = |line: &&str| line.contains(" = ") && !line.starts_with("source");
    let of_models = made.lines().skip_while(|line| *line != "[[models]]").filter(numbers);
    assert_eq!(
        of_models.inspect(|line| assert!(kept.contains(line), "{line}\n{kept}")).count(),
        12,
        "{made}"
    );
}
