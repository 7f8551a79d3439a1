//! Where a model is trained makes no difference to it.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first surprise; clippy knows #[test] only"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use lodestar_router::{
    Event, InstanceId, InstanceSpec, Model, PolicyConfig, Request, RequestId, Router, RouterConfig,
    Time, TrainingJob,
};

/// The first three jobs of a router.
fn jobs() -> Vec<TrainingJob> {
    let policy = PolicyConfig::from_name("lodestar").unwrap();
    let mut router = Router::new(RouterConfig::new(policy), 3);
    let spec = InstanceSpec { kv_capacity_tokens: 400_000, max_model_len_tokens: 32_768 };
    router.observe(Time::ZERO, &Event::InstanceJoined { instance: InstanceId(0), spec });
    let mut jobs = Vec::new();
    for number in 0.. {
        let at = |millis: u64| Time::from_nanos((number * 100 + millis) * 1_000_000);
        let id = RequestId(number);
        let prompt_tokens = 100 + 977 * (number as u32 % 7);
        let request = Request { id, prompt_tokens, block_hashes: &[], session: None, priority: 0 };
        router.route(at(0), &request).unwrap();
        router.observe(at(11 + number % 60), &Event::FirstToken { request: id });
        if let Some(job) = router.training_job(at(90)) {
            router.install(at(95), job.clone().run());
            jobs.push(job);
        }
        if jobs.len() == 3 {
            break;
        }
    }
    jobs
}

#[test]
fn inline_thread_and_process_give_the_same_model_to_the_last_bit() {
    let jobs = jobs();
    let inline: Vec<Model> = jobs.iter().map(|job| job.clone().run()).collect();
    let on_a_thread = {
        let jobs = jobs.clone();
        std::thread::spawn(|| jobs.into_iter().map(TrainingJob::run).collect::<Vec<_>>())
    };
    let mut worker = Command::new(env!("CARGO_BIN_EXE_lodestar"))
        .arg("train-worker")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = worker.stdin.take().unwrap();
    let mut lines = BufReader::new(worker.stdout.take().unwrap()).lines();
    let mut in_a_process: Vec<Model> = Vec::new();
    for job in &jobs {
        writeln!(input, "{}", serde_json::to_string(job).unwrap()).unwrap();
        in_a_process.push(serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap());
    }
    drop(input);
    assert!(worker.wait().unwrap().success(), "it ends with its input");
    // Debug output of a float names it exactly, and tells -0 from 0.
    let text = |models: &[Model]| format!("{models:?}");
    assert_eq!(text(&on_a_thread.join().unwrap()), text(&inline));
    assert_eq!(text(&in_a_process), text(&inline));
    assert_ne!(inline[0], inline[1]);
}

#[test]
fn what_is_no_job_is_named() {
    let mut worker = Command::new(env!("CARGO_BIN_EXE_lodestar"))
        .arg("train-worker")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    worker.stdin.take().unwrap().write_all(b"{}\n").unwrap();
    let output = worker.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.contains("error: line 1 of the input is not a training job"), "{stderr}");
}
