//! What the command line says to wrong arguments and files: one line that names the flag, the file or the
//! field, and what to do; exit code 2.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first surprise; clippy knows #[test] only"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TRACE: &str = "{\"lodestar_trace\":1}\n\
    {\"id\":0,\"at_ns\":0,\"prompt\":\"h1:40\",\"output_tokens\":4}\n\
    {\"id\":1,\"at_ns\":9,\"prompt\":\"h1:40 p1:3\",\"output_tokens\":4}\n";

/// A folder with a small trace in it, where commands are run.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("t.jsonl"), TRACE).unwrap();
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn lodestar(&self, arguments: &str) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_lodestar"))
            .args(arguments.split(' '))
            .current_dir(self.path())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// The one line of a command that is refused.
    #[track_caller]
    fn refusal(&self, arguments: &str) -> String {
        let (code, _, stderr) = self.lodestar(arguments);
        assert_eq!(code, 2, "{arguments}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{arguments}: {stderr}");
        stderr.strip_prefix("error: ").unwrap().trim_end().to_owned()
    }
}

#[test]
fn a_flag_out_of_range_is_named() {
    let folder = Folder::new();
    for (arguments, part) in [
        ("trace info t.jsonl --rate-scale 0", "--rate-scale is 0.0, expected 0.000001 to 1000000"),
        ("trace info t.jsonl --rate-scale NaN", "--rate-scale is NaN"),
        ("trace info t.jsonl --rate-scale=-1", "--rate-scale is -1.0"),
        ("trace info t.jsonl --rate-scale 1e300", "--rate-scale is 1e300"),
        ("trace info t.jsonl --shared-prefix-tokens 0", "--shared-prefix-tokens is 0"),
        ("trace info t.jsonl --over-long drop", "--over-long has no effect without --max-prompt"),
        ("trace info t.jsonl --over-long clip", "--over-long has no effect without --max-prompt"),
        ("trace generate g.jsonl --workload demo --rate 0", "--rate 0.0: "),
        ("trace generate g.jsonl --workload demo --rate 1e300", "--rate 1e300: "),
        ("trace generate g.jsonl --workload demo --requests 0", "`requests` is 0"),
        ("trace convert t.jsonl out.parquet.gz", ".jsonl, .jsonl.gz, .jsonl.zst, .parquet"),
        ("trace convert t.jsonl /dev/null --format jsonl", "is not a regular file"),
        ("trace info absent.jsonl", "absent.jsonl: there is no such file; check the path"),
        ("trace info .", ".: is a folder, not a trace"),
        ("replay t.jsonl --fleet l4:1 --policy x --out o", "unknown policy \"x\""),
    ] {
        let message = folder.refusal(arguments);
        assert!(message.contains(part), "{arguments}: {message}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was written");
}

#[test]
fn steps_that_follow_no_law_leave_no_profile() {
    let folder = Folder::new();
    let steps = |duration_ms: fn(u32) -> u32| {
        let mut text =
            "prefill_tokens,prefill_pairs,decode_requests,decode_context_tokens,duration_ms\n"
                .to_owned();
        for row in 1..100 {
            let (prompt, requests) = (row * 37 % 800 + 1, row * 7 % 50);
            let (pairs, context) = (prompt * prompt / 2 + 1, requests * (row * 11 % 900 + 1));
            text += &format!("{prompt},{pairs},{requests},{context},{}\n", duration_ms(row));
        }
        fs::write(folder.path().join("steps.csv"), text).unwrap();
    };
    let calibrate = |more: &str| {
        let command = "calibrate steps steps.csv --gpu l4 --source test --out p.toml";
        let (code, _, stderr) = folder.lodestar(&format!("{command}{more}"));
        assert!(code == 2 && !folder.path().join("p.toml").exists(), "{stderr}");
        stderr
    };
    steps(|_| 12);
    let stderr = calibrate("");
    assert!(stderr.contains("error: these steps do not determine b_us_per_token"), "{stderr}");
    let stderr = calibrate(" --host-ms 500");
    assert!(stderr.contains("error: --host-ms 500: 99 of the 99 steps take no longer"), "{stderr}");
    steps(|row| [1, 1000, 30, 2, 600][row as usize % 5]);
    let stderr = calibrate("");
    assert!(stderr.contains("no profile was written"), "{stderr}");
}

#[test]
fn a_checkpoint_is_saved_and_gone_on_from_and_a_wrong_one_is_refused() {
    let folder = Folder::new();
    let run = "replay t.jsonl --fleet l4:2 --out o";
    let (code, _, stderr) =
        folder.lodestar(&format!("{run} --policy lodestar --save-checkpoint c"));
    assert_eq!(code, 0, "{stderr}");
    let (code, _, stderr) =
        folder.lodestar(&format!("{run} --policy lodestar-e2e --checkpoint c --save-checkpoint d"));
    assert_eq!(code, 0, "{stderr}");
    let whole = fs::read(folder.path().join("d")).unwrap();
    fs::write(folder.path().join("cut"), &whole[..whole.len() / 2]).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(folder.path().join("flipped"), flipped).unwrap();
    for (arguments, part) in [
        ("--policy lodestar --checkpoint cut", "checkpoint cut: it is damaged"),
        ("--policy lodestar --checkpoint flipped", "checkpoint flipped: it is damaged"),
        ("--policy lodestar --checkpoint t.jsonl", "checkpoint t.jsonl: its first line is not"),
        ("--policy lodestar --checkpoint absent", "checkpoint absent: there is no such file"),
        ("--policy lodestar,random --checkpoint c", "a checkpoint is of one policy"),
        ("--policy lodestar-paper --checkpoint c", "policy `lodestar-paper` keeps nothing"),
        ("--policy random --save-checkpoint x", "policy `random` keeps nothing"),
    ] {
        let message = folder.refusal(&format!("{run} {arguments}"));
        assert!(message.contains(part), "{arguments}: {message}");
    }
}

#[test]
fn a_router_log_is_repeated_and_what_is_wrong_with_one_is_named() {
    let folder = Folder::new();
    let (code, _, stderr) =
        folder.lodestar("replay t.jsonl --fleet l4:2 --policy least-request,random --out o --log");
    assert_eq!(code, 0, "{stderr}");
    let (code, stdout, _) = folder.lodestar("evaluate o/least-request");
    assert_eq!((code, stdout.as_str()), (0, "least-request: 2 of 2 decisions are equal\n"));
    let (code, stdout, _) = folder.lodestar("explain o/least-request --request 1");
    let parts = ["43 prompt tokens", "least-requests", "ms at the router", "\n* ", "score"];
    assert!(code == 0 && parts.iter().all(|part| stdout.contains(part)), "{stdout}");
    let (code, stdout, _) = folder.lodestar("learn-curve o --plot curve");
    assert!(code == 0 && stdout.contains("least-requests 100.0 %"), "{stdout}");
    assert!(folder.path().join("curve.png").exists());

    let log = fs::read_to_string(folder.path().join("o/random/decisions.jsonl")).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("newer.jsonl", &log.replace("\"log_version\":1", "\"log_version\":2"));
    write("cut.jsonl", &log[..log.len() - 9]);
    write("twice.jsonl", &format!("{log}{log}"));
    let lines = log.lines().count();
    for (arguments, part) in [
        ("evaluate newer.jsonl", "newer.jsonl, line 1: `log_version` is 2, this Lodestar reads 1"),
        ("evaluate cut.jsonl", &format!("cut.jsonl, line {lines}: EOF")),
        ("learn-curve cut.jsonl", "cut the log off before this line"),
        ("evaluate twice.jsonl", &format!("twice.jsonl, line {}: a second log", lines + 1)),
        ("evaluate t.jsonl", "t.jsonl, line 1: is not the start of a router log"),
        ("evaluate .", ".: has no decisions.jsonl; run `lodestar replay` with --log"),
        ("evaluate o", "name one of o/least-request, o/random"),
        ("explain o/random --request 2", "has no request 2; requests are numbered from 0"),
        ("evaluate o/random --policy lmetric", "has 2 decisions with a TTFT, at least 100"),
        ("evaluate o/random --policy x", "unknown policy \"x\""),
    ] {
        let message = folder.refusal(arguments);
        assert!(message.contains(part), "{arguments}: {message}");
    }
    // One decision changed: the log's router would not have made it.
    let log = fs::read_to_string(folder.path().join("o/least-request/decisions.jsonl")).unwrap();
    write("changed.jsonl", &log.replacen("\"propensity\":0.5", "\"propensity\":0.25", 1));
    let (code, stdout, _) = folder.lodestar("evaluate changed.jsonl");
    assert!(code == 1 && stdout.contains("1 of 2 decisions are equal"), "{stdout}");
}

#[test]
fn lists_may_have_spaces_and_capitals() {
    let folder = Folder::new();
    let output = Command::new(env!("CARGO_BIN_EXE_lodestar"))
        .args(["replay", "t.jsonl", "--out", "o", "--threads", "1000000000"])
        .args(["--fleet", "L4:1, a100:1", "--policy", "Random, round-robin"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(folder.path().join("o/random/requests.parquet").is_file());
}

#[test]
fn a_trace_of_decades_can_be_drawn() {
    let folder = Folder::new();
    let late = TRACE.replace("\"at_ns\":9", "\"at_ns\":2300000000000000000");
    fs::write(folder.path().join("t.jsonl"), late).unwrap();
    for arguments in ["trace info t.jsonl", "trace info t.jsonl --rate-scale 1000 --plot rate.9"] {
        let (code, stdout, stderr) = folder.lodestar(arguments);
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains("span"), "{stdout}");
    }
    let figure: PathBuf = folder.path().join("rate.9.svg");
    assert!(fs::metadata(figure).unwrap().len() < 500_000);
}

/// A folder with a case of the committed recordings, changed.
fn golden_folder(change: impl Fn(String) -> String) -> Folder {
    let folder = Folder::new();
    fs::remove_file(folder.path().join("t.jsonl")).unwrap();
    let recordings = concat!(env!("CARGO_MANIFEST_DIR"), "/sim/tests/golden");
    for name in ["c01_single.json", "c01_single.golden.json"] {
        let text = fs::read_to_string(Path::new(recordings).join(name)).unwrap();
        fs::write(folder.path().join(name), change(text)).unwrap();
    }
    folder
}

#[test]
fn a_golden_belongs_to_its_case() {
    let verify = "verify --golden .";
    let folder = golden_folder(|text| text);
    let (code, stdout, _) = folder.lodestar(verify);
    assert_eq!((code, stdout.as_str()), (0, "1 of 1 cases exact, 12 steps\n"));
    fs::copy(folder.path().join("c01_single.golden.json"), folder.path().join("x.golden.json.gz"))
        .unwrap();
    let message = folder.refusal(verify);
    assert!(message.contains("x.golden.json.gz: no x.json[.gz] beside it"), "{message}");

    let other = golden_folder(|text| text.replace("one request, prefill", "a request, prefill"));
    let message = other.refusal(verify);
    assert!(message.contains("c01_single.golden.json: recorded from another case"), "{message}");
    let late = golden_folder(|text| {
        text.replace("\"arrival_us\":0", "\"arrival_us\":18446744073709551615")
    });
    let message = late.refusal(verify);
    assert!(message.contains("c01_single.json: request `a`: `arrival_us` is 1844"), "{message}");
}
