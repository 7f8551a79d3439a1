//! What `lodestar sweep` tells the shell.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Output};

/// One workload that can be made, and one whose trace is not there.
const SCENARIO: &str = r#"
name = "half"
description = "Half of it works."
fleets = ["a100:2"]
policies = ["random", "prefix-cache"]

[[workload]]
name = "share9"
preset = "share9"
requests = 20

[[workload]]
name = "gone"
trace = "gone.jsonl"
"#;

/// The first workload alone.
fn scenario_that_works() -> &'static str {
    SCENARIO.split("\n[[workload]]\nname = \"gone\"").next().expect("a first part")
}

fn sweep(folder: &Path, more: &[&str]) -> Output {
    let scenario = folder.join("s.toml");
    fs::write(&scenario, SCENARIO).expect("written");
    Command::new(env!("CARGO_BIN_EXE_lodestar"))
        .arg("sweep")
        .arg(scenario)
        .arg("--out")
        .arg(folder.join("out"))
        .args(more)
        .output()
        .expect("it starts")
}

#[test]
fn failed_runs_are_exit_code_1_and_the_others_are_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = sweep(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.matches("failed: ").count(), 2, "{said}");
    let results = fs::read_to_string(folder.path().join("out/results.csv")).expect("a table");
    let good = |line: &&str| line.contains(",share9,") && line.contains(",20,20,0,");
    assert_eq!(results.lines().filter(good).count(), 2, "{results}");
}

#[test]
fn without_a_folder_results_are_in_one_of_the_scenarios_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |scenario: &str| {
        fs::write(folder.path().join("s.toml"), scenario).expect("written");
        let mut sweep = Command::new(env!("CARGO_BIN_EXE_lodestar"));
        sweep.args(["sweep", "s.toml", "--seeds", "5"]).current_dir(folder.path());
        sweep.output().expect("it starts")
    };
    let output = run(SCENARIO);
    assert!(folder.path().join("out/half/summary.csv").exists());
    // There is no terminal: a line for each tenth of twenty runs.
    let said = String::from_utf8_lossy(&output.stderr);
    let progress: Vec<&str> = said.lines().filter(|line| line.contains(" of 20 runs")).collect();
    assert_eq!(progress.len(), 10, "{said}");
    assert!(progress[9].starts_with("20 of 20 runs, 10 failed, best so far "), "{said}");
    assert!(
        progress[0].contains(" runs/s") && progress[9].ends_with(" runs/s, 0 seconds left"),
        "{said}"
    );

    for name in ["../half", "a/b", "..", "", "/half"] {
        let output = run(&SCENARIO.replace("\"half\"", &format!("{name:?}")));
        assert_eq!(output.status.code(), Some(2), "{name}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("say where with --out"), "{said}");
        let mut check = Command::new(env!("CARGO_BIN_EXE_lodestar"));
        check.args(["scenario", "check", "s.toml"]).current_dir(folder.path());
        let output = check.output().expect("it starts");
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(String::from_utf8_lossy(&output.stderr) == said, "{said}");
    }
}

#[test]
fn too_few_requests_for_a_knee_are_said_to_be() {
    let folder = tempfile::tempdir().expect("a folder");
    let knee = |requests: &str| {
        let text = scenario_that_works().replace("a100:2", "h100:8").replace("= 20", requests);
        fs::write(folder.path().join("s.toml"), text).expect("written");
        let mut saturate = Command::new(env!("CARGO_BIN_EXE_lodestar"));
        saturate.args(["scenario", "saturate", "s.toml"]).current_dir(folder.path());
        saturate.output().expect("it starts")
    };
    let output = knee("= 10");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("its 10 requests are too few for a knee"), "{said}");
    let enough = said.trim_end().rsplit(' ').next().expect("a last word");
    assert!(knee(&format!("= {enough}")).status.success(), "{said}");
}

#[test]
fn what_cannot_start_is_exit_code_2_and_leaves_nothing() {
    for (wrong, answer) in [
        (["--policies", "randm"], "did you mean \"random\"?"),
        (["--policies", "hindsite"], "did you mean hindsight?"),
        (["--policies", "random"], "the baseline prefix-cache is not among the policies (random)"),
        (["--baseline", "least-kv"], "the baseline least-kv is not among the policies"),
        (["--shard", "3/2"], "`3/2` is not a shard"),
        (["--seeds", "0"], "invalid value '0'"),
        (["--seeds", "99999999999"], "99999999999 is not in 1..=10000"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let output = sweep(folder.path(), &wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(answer), "{said}");
        assert!(!folder.path().join("out").exists(), "{wrong:?}");
    }
}

#[test]
fn a_merge_without_a_shard_says_what_is_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let lodestar = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lodestar"));
        command.current_dir(folder.path()).args(arguments).output().expect("it starts")
    };
    fs::write(folder.path().join("s.toml"), scenario_that_works()).expect("written");
    for (shard, out) in [("1/3", "sh1"), ("3/3", "sh3")] {
        lodestar(&["sweep", "s.toml", "--seeds", "3", "--shard", shard, "--out", out]);
    }
    let output = lodestar(&["merge", "sh1", "sh3", "--out", "m"]);
    assert!(output.status.success());
    let note = "4 of 6 runs; missing: a100-2--share9--own-rate/prefix-cache/2, \
                a100-2--share9--own-rate/random/2";
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said, format!("note: {note}\n"));
    let page = fs::read_to_string(folder.path().join("m/report.html")).expect("a report");
    assert!(page.contains(note) && page.contains("1, 3 of 1 to 3"), "the report does not say it");

    let output = lodestar(&["merge", "s.toml", "--out", "other"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("s.toml is not a folder: check the path"), "{said}");
}

#[test]
fn a_check_finds_a_baseline_that_does_not_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let scenario = folder.path().join("s.toml");
    let text = SCENARIO.replace("[[workload]]\nname = \"gone\"\ntrace = \"gone.jsonl\"\n", "");
    fs::write(&scenario, text.replace("policies =", "baseline = \"least-kv\"\npolicies ="))
        .expect("written");
    let mut check = Command::new(env!("CARGO_BIN_EXE_lodestar"));
    let output = check.args(["scenario", "check"]).arg(scenario).output().expect("it starts");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the baseline least-kv is not among the policies (random"), "{said}");
}

/// A limit on the size of files stands for a disk that is full: what the kernel refuses is a write.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_what_is_finished_and_says_so() {
    const SCENARIO: &str = r#"
name = "full"
description = "Runs of the second workload are long, and so are their files."
fleets = ["a100:4"]
policies = ["random", "prefix-cache"]

[[workload]]
name = "short"
preset = "share9"
requests = 20
output_tokens = 1

[[workload]]
name = "long"
preset = "share9"
requests = 200
output_tokens = 1
rates_rps = [1]
"#;
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("s.toml"), SCENARIO).expect("written");
    let run = |shell: &str| {
        let command = format!("{shell}exec \"$0\" sweep s.toml --threads 1 --out out \"$@\"");
        let more: &[&str] = if shell.is_empty() { &["--resume"] } else { &[] };
        let mut bash = Command::new("bash");
        bash.current_dir(folder.path()).args(["-c", &command, env!("CARGO_BIN_EXE_lodestar")]);
        bash.args(more).output().expect("bash starts")
    };
    // Ignored, the signal becomes the error that a full disk is too.
    let output = run("trap '' XFSZ; ulimit -f 6; ");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("cannot write out/runs/a100-4--long--1rps/"), "{said}");
    assert!(said.contains("are kept, go on with --resume: File too large"), "{said}");
    let file = |workload: &str, policy: &str| {
        fs::read(folder.path().join(format!("out/runs/a100-4--{workload}/{policy}/1.json")))
    };
    let short = ["random", "prefix-cache"]
        .map(|policy| file("short--own-rate", policy).expect("it is finished"));
    assert!(file("long--1rps", "random").is_err() && file("long--1rps", "prefix-cache").is_err());
    let output = run("");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(file("long--1rps", "random").is_ok());
    let again = ["random", "prefix-cache"]
        .map(|policy| file("short--own-rate", policy).expect("it is there"));
    assert!(short == again, "a finished run was made again");
}

/// Ray, as far as the script uses it, for machines without: tasks run at once, where they are started.
const NO_RAY: &str = r#"
class Ref:
    def __init__(self, value):
        self.value = value
class exceptions:
    class RayError(Exception):
        pass
init = lambda: None
put = lambda value: value
get = lambda ref: ref.value
wait = lambda refs: (refs[:1], refs[1:])
def remote(**options):
    return lambda task: type("Task", (), {"remote": staticmethod(lambda *given: Ref(task(*given)))})
"#;

/// Says SKIPPED where there is no Python from 3.11.4 on.
#[test]
fn shards_on_ray_are_one_sweep_and_go_on_where_they_ended() {
    let succeeds = |import: &str| {
        let output = Command::new("python3").args(["-c", import]).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !succeeds("import tarfile, tomllib; tarfile.data_filter") {
        return writeln!(io::stdout(), "SKIPPED: no python3 that is new enough")
            .expect("it is read");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    if !succeeds("import ray") {
        fs::write(path("ray.py"), NO_RAY).expect("written");
    }
    // Beside the scenario, and above it.
    fs::create_dir(path("scenarios")).expect("made");
    let above = "\n[[workload]]\nname = \"above\"\ntrace = \"../above.jsonl\"\n";
    fs::write(path("scenarios/s.toml"), SCENARIO.to_owned() + above).expect("written");
    let trace =
        "{\"lodestar_trace\":1}\n{\"id\":0,\"at_ns\":9,\"prompt\":\"p0:9\",\"output_tokens\":1}\n";
    fs::write(path("scenarios/gone.jsonl"), trace).expect("written");
    fs::write(path("above.jsonl"), trace).expect("written");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/sweep_on_ray.py");
    let on_ray = |seeds: &str| {
        let mut python = Command::new("python3");
        python.current_dir(folder.path()).env("PYTHONPATH", folder.path());
        python.args([script, "scenarios/s.toml", "--shards", "2", "--out", "ray"]);
        python.args(["--binary", env!("CARGO_BIN_EXE_lodestar"), "--", "--seeds", seeds]);
        python.output().expect("it starts")
    };
    let output = on_ray("2");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut whole = Command::new(env!("CARGO_BIN_EXE_lodestar"));
    whole.current_dir(folder.path()).args(["sweep", "scenarios/s.toml", "--seeds", "2"]);
    whole.args(["--out", "whole"]);
    assert!(whole.output().expect("it starts").status.success());
    for file in ["SHA256SUMS", "results.parquet", "report.html"] {
        let bytes = |out: &str| fs::read(folder.path().join(out).join(file)).expect("it is there");
        assert!(bytes("ray") == bytes("whole"), "{file}");
    }
    let said = String::from_utf8_lossy(&on_ray("2").stderr).into_owned();
    assert!(!said.contains("of 2 shards"), "all had ended: {said}");
    let refused = |seeds: &str| {
        let output = on_ray(seeds);
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("is of another program, scenario or options"), "{said}");
    };
    refused("3");
    // A trace is a part of the scenario.
    fs::write(path("above.jsonl"), trace.replace(":9,", ":8,")).expect("written");
    refused("2");
}

/// Slurm's variables are faked, and what a task would run is only printed.
#[cfg(unix)]
#[test]
fn the_tasks_of_the_slurm_array_run_every_shard_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let stub = folder.path().join("lodestar");
    fs::write(&stub, "#!/bin/sh\necho \"$@\"\n").expect("written");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&stub, executable).expect("made executable");
    let task = |id: u32, least: u32, most: u32, count: u32, shards: Option<&str>| {
        let mut bash = Command::new("bash");
        bash.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/sweep.slurm"));
        bash.args(["s.toml", "out", "--seeds", "5"]).env("LODESTAR", &stub);
        bash.env("SLURM_ARRAY_TASK_ID", id.to_string()).env("SLURM_CPUS_PER_TASK", "4");
        bash.env("SLURM_ARRAY_TASK_MIN", least.to_string());
        bash.env("SLURM_ARRAY_TASK_MAX", most.to_string());
        bash.env("SLURM_ARRAY_TASK_COUNT", count.to_string());
        bash.env_remove("LODESTAR_SHARDS").envs(shards.map(|n| ("LODESTAR_SHARDS", n)));
        let output = bash.output().expect("bash starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned() + &said)
    };
    let asks_for = |id: u32| {
        let words =
            format!("--shard {id}/3 --resume --threads 4 --out out/shards/{id} --seeds 5\n");
        (Some(0), format!("sweep s.toml {words}"))
    };
    for id in 1..=3 {
        assert_eq!(task(id, 1, 3, 3, None), asks_for(id));
    }
    // One that was lost, again.
    assert_eq!(task(3, 3, 3, 1, Some("3")), asks_for(3));
    assert_eq!(task(1, 1, 3, 2, Some("3")), asks_for(1));
    for (id, least, most, count) in [(3, 3, 3, 1), (1, 1, 3, 2), (3, 1, 3, 2)] {
        let (code, said) = task(id, least, most, count, None);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("set LODESTAR_SHARDS"), "{said}");
    }
}

/// Says SKIPPED where there is no Python or no PyYAML.
#[test]
fn the_pods_of_the_kubernetes_job_run_every_shard_once() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/check_k8s_job.py");
    let Ok(output) = Command::new("python3").arg(script).output() else {
        return writeln!(io::stdout(), "SKIPPED: no python3").expect("it is read");
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("SKIPPED") || said.contains("ok 16 pods"), "{said}");
}

#[test]
fn what_happens_to_instances_is_shown_and_checked_before_anything_runs() {
    let lodestar = |folder: &Path, arguments: &[&str], events: &str| {
        fs::write(folder.join("s.toml"), SCENARIO.replace("gone.jsonl", "t.jsonl") + events)
            .expect("written");
        let trace = "{\"lodestar_trace\":1}\n{\"id\":0,\"at_ns\":9000000000,\"prompt\":\"p0:9\",\"output_tokens\":1}\n";
        fs::write(folder.join("t.jsonl"), trace).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_lodestar"));
        command.current_dir(folder).args(arguments).output().expect("it starts")
    };
    let folder = tempfile::tempdir().expect("a folder");
    let crash = "[[event]]\nat_s = 1.5\ninstance = 1\nkind = \"crash\"\n";
    let output = lodestar(folder.path(), &["scenario", "check", "s.toml"], crash);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("\nat 1.5 s instance 1 (a100-1) crashes\n"), "{said}");
    for arguments in [&["scenario", "check", "s.toml"][..], &["sweep", "s.toml", "--out", "out"]] {
        let output = lodestar(folder.path(), arguments, &crash.replace("= 1\n", "= 2\n"));
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("s.toml: `event[0]` cannot happen at 1.5 s to instance 2"), "{said}");
        assert!(!folder.path().join("out").exists());
    }
}
