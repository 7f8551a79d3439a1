//! `lodestar serve` in front of two `lodestar mock-engine`s, as processes, on ports of the system's choice.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first surprise; clippy knows #[test] only"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// A server that ends with the test.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_lodestar"))
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = lines.find_map(|line| {
            let line = line.unwrap();
            line.split_once("listening on ").map(|(_, address)| address.to_owned())
        });
        // What it says afterwards is read, or the pipe would be full some day.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, address: address.unwrap() }
    }

    fn mock() -> Self {
        Self::start(&["mock-engine", "--gpu", "a100", "--port", "0", "--time-scale", "1000"])
    }

    fn ask(&self, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    fn chat(&self, messages: &Value) -> Value {
        let body = format!(r#"{{"model":"llama-3.1-8b","messages":{messages},"max_tokens":200}}"#);
        self.post("/v1/chat/completions", &body)
    }

    fn complete(&self, prompt: &Value) -> Value {
        let body = format!(r#"{{"model":"llama-3.1-8b","prompt":{prompt},"max_tokens":1}}"#);
        self.post("/v1/completions", &body)
    }

    fn post(&self, path: &str, body: &str) -> Value {
        let (head, answer) = self.ask(&format!(
            "POST {path} HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}\n{answer}");
        serde_json::from_str(&answer).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_conversation_stays_where_its_cache_is_and_the_proxy_ends_when_told() {
    let mocks = [Server::mock(), Server::mock()];
    let urls = mocks.each_ref().map(|mock| format!("http://{}", mock.address));
    let mut proxy = Server::start(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--policy",
        "prefix-cache",
        "--instance",
        &urls[0],
        "--instance",
        &urls[1],
    ]);
    let health = "GET /health HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n";
    while !proxy.ask(health).0.starts_with("HTTP/1.1 200 ") {}

    let question = "Tell me about the stars. ".repeat(40);
    let mut messages = vec![serde_json::json!({"role": "user", "content": question})];
    for turn in 0..4 {
        let answer = proxy.chat(&Value::from(messages.clone()));
        let usage = &answer["usage"];
        assert_eq!(usage["completion_tokens"], 200);
        let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        // All whole blocks of the last turn, its answer included.
        let least = if turn == 0 { 0 } else { 240 + 200 * turn };
        assert!(cached >= least && (turn > 0 || cached == 0), "turn {turn}: {usage}");
        messages.push(answer["choices"][0]["message"].clone());
        messages.push(serde_json::json!({"role": "user", "content": "And then?"}));
    }

    let id = proxy.process.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert!(proxy.process.wait().unwrap().success());
}

/// What engines are asked by others counts, if they tell of it.
#[test]
fn requests_that_went_past_the_proxy_are_known_by_kv_events() {
    let start = ["mock-engine", "--gpu", "a100", "--port", "0", "--time-scale", "1000"];
    let mocks = [0, 1].map(|_| Server::start(&[&start[..], &["--kv-events", "0"]].concat()));
    let folder = tempfile::tempdir().unwrap();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n");
    let instances = mocks.each_ref().map(|mock| {
        let sources: Value = serde_json::from_str(&mock.ask(&get("/kv_event_sources")).1).unwrap();
        let source = &sources["0"];
        let (events, replay) = (&source["endpoint"], &source["replay_endpoint"]);
        format!("{{url = 'http://{}', kv_events = {events}, kv_replay = {replay}}}", mock.address)
    });
    let tokenizer = concat!(env!("CARGO_MANIFEST_DIR"), "/live/tests/kv-events/tokenizer.json");
    let config = format!(
        "listen = '127.0.0.1:0'\ninstances = [{}]\n[router]\nblock_tokens = 16\ntokenizer = '{tokenizer}'\n",
        instances.join(", ")
    );
    let path = folder.path().join("serve.toml");
    std::fs::write(&path, config).unwrap();
    let proxy = Server::start(&["serve", "--config", path.to_str().unwrap()]);
    while !proxy.ask(&get("/metrics")).1.contains("lodestar_instances 2\n") {}

    let prompt =
        |number: u64| -> Value { (0..100).map(|at| Value::from(1000 * number + at)).collect() };
    let heard = || {
        let page = proxy.ask(&get("/metrics")).1;
        let count = page.lines().find_map(|line| line.strip_prefix("lodestar_kv_events_total "));
        count.unwrap().parse::<u64>().unwrap()
    };
    for number in 1..9 {
        let before = heard();
        mocks[number as usize % 3 % 2].complete(&prompt(number));
        while heard() == before {}
    }
    for number in 1..9 {
        let usage = proxy.complete(&prompt(number))["usage"].clone();
        assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 96, "prompt {number}");
    }
}

#[test]
fn what_is_learned_is_kept_and_a_damaged_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mock = Server::mock();
    let config = folder.path().join("serve.toml");
    let text = format!(
        "listen = '127.0.0.1:0'\ninstances = [{{url = 'http://{}'}}]\n\
         [router]\npolicy = {{name = 'lodestar'}}\ncheckpoint = 'learned.json'\n",
        mock.address
    );
    std::fs::write(&config, text).unwrap();
    let checkpoint = folder.path().join("learned.json");
    let serve = ["serve", "--config", config.to_str().unwrap()];
    let samples = || {
        let text = std::fs::read_to_string(&checkpoint).unwrap();
        let value: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        let learned = &value["learned"]["lodestar"];
        let url = format!("http://{}", mock.address);
        assert!(
            learned["instances"][url]["laws"]["ttft"]["samples"].as_u64() >= Some(1),
            "{learned}"
        );
        learned["fleet"]["all"]["ttft"]["samples"].as_u64().unwrap()
    };
    for requests in [3, 6] {
        let mut proxy = Server::start(&serve);
        let health = "GET /health HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n";
        while !proxy.ask(health).0.starts_with("HTTP/1.1 200 ") {}
        for _ in 0..3 {
            // Long enough that decoding one token does not hide the prefill.
            let question = "Tell me about the stars. ".repeat(400);
            let body =
                format!(r#"{{"model":"llama-3.1-8b","prompt":"{question}","max_tokens":1}}"#);
            let (head, _) = proxy.ask(&format!(
                "POST /v1/completions HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\
                 content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            ));
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        }
        let id = proxy.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        assert!(proxy.process.wait().unwrap().success());
        assert_eq!(samples(), requests, "what the runs before have learned is in it");
    }
    let whole = std::fs::read(&checkpoint).unwrap();
    std::fs::write(&checkpoint, &whole[..whole.len() - 9]).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_lodestar")).args(serve).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("learned.json: it is damaged") && stderr.contains("delete or move it"));
}

/// The process that another one has started, and how much less urgent it is.
#[cfg(target_os = "linux")]
fn child_of(parent: u32) -> Option<(String, i32)> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.into_iter().find_map(|process| {
        let stat = std::fs::read_to_string(process.path().join("stat")).ok()?;
        // proc(5): the fields after the name, from the third.
        let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let is_child = fields[1] == parent.to_string() && fields[0] != "Z";
        is_child.then(|| (stat.split(' ').next().unwrap().to_owned(), fields[16].parse().unwrap()))
    })
}

#[cfg(target_os = "linux")]
#[test]
fn a_killed_training_process_costs_one_model_and_serving_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mock = Server::mock();
    let config = folder.path().join("serve.toml");
    let text = format!(
        "listen = '127.0.0.1:0'\ninstances = [{{url = 'http://{}'}}]\n\
         [router]\npolicy = {{name = 'lodestar'}}\ntraining = 'process'\n",
        mock.address
    );
    std::fs::write(&config, text).unwrap();
    let proxy = Server::start(&["serve", "--config", config.to_str().unwrap()]);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n");
    while !proxy.ask(&get("/health")).0.starts_with("HTTP/1.1 200 ") {}
    let models = |outcome: &str| {
        let page = proxy.ask(&get("/metrics")).1;
        let name = format!("lodestar_models_total{{outcome=\"{outcome}\"}} ");
        let count = page.lines().find_map(|line| line.strip_prefix(&name));
        count.unwrap().parse::<u64>().unwrap()
    };
    let prompt: Value = (0..4000).collect();
    let serve_until = |condition: &dyn Fn() -> bool| {
        while !condition() {
            proxy.complete(&prompt);
        }
    };
    serve_until(&|| models("installed") >= 1);
    let (worker, niceness) = child_of(proxy.process.id()).unwrap();
    assert!(niceness >= 10, "{niceness}");
    assert!(Command::new("kill").args(["-KILL", &worker]).status().unwrap().success());
    serve_until(&|| models("lost") == 1);
    let before = models("installed");
    serve_until(&|| models("installed") > before);
    assert_eq!(models("lost"), 1);
    assert_ne!(child_of(proxy.process.id()).unwrap().0, worker);
}

#[test]
fn a_signal_stops_the_canary_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("serve.toml");
    let text = "listen = '127.0.0.1:0'\ninstances = [{url = 'http://127.0.0.1:1'}]\n\
                router.canary = {policy = {name = 'lodestar'}, rollout_percent = 10}\n";
    std::fs::write(&config, text).unwrap();
    for canary in [true, false] {
        let config = ["serve", "--config", config.to_str().unwrap()];
        let alone = ["serve", "--listen", "127.0.0.1:0", "--instance", "http://127.0.0.1:1"];
        let proxy = Server::start(if canary { &config } else { &alone });
        let page = || {
            let get = "GET /metrics HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n";
            proxy.ask(get).1
        };
        assert_eq!(page().contains("lodestar_canary_percent 10\n"), canary);
        let id = proxy.process.id().to_string();
        assert!(Command::new("kill").args(["-USR1", &id]).status().unwrap().success());
        while canary && !page().contains("lodestar_canary_percent 0\n") {}
        let stopped = page().contains("lodestar_canary_stops_total{reason=\"operator\"} 1\n");
        assert_eq!(stopped, canary);
    }
}

#[test]
fn what_cannot_be_served_is_named() {
    for (arguments, part) in [
        (&["serve", "--instance", "h:1"][..], "error: instance `h:1`: the scheme is missing"),
        (&["serve", "--config", "absent.toml"], "error: absent.toml: "),
        (
            &["serve", "--instance", "http://h:1", "--policy", "x", "--check"],
            "unknown policy \"x\"",
        ),
        (&["mock-engine", "--gpu", "x", "--port", "0"], "unknown GPU `x`"),
        (&["mock-engine", "--gpu", "l4", "--port", "0", "--time-scale", "0"], "--time-scale is 0"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_lodestar")).args(arguments).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(part) && stderr.lines().count() == 1, "{stderr}");
    }
}

/// Requests that share a prefix, a turn that quotes an answer, and one that waits for another one's end.
const TRACE: &str = r#"{"lodestar_trace":1}
{"id":0,"at_ns":0,"prompt":"h1:64","output_tokens":40,"session":1}
{"id":1,"at_ns":1000000000,"prompt":"h1:48 p1:20","output_tokens":1}
{"id":2,"after":0,"delay_ns":500000000,"prompt":"h1:64 o0:40 p2:8","output_tokens":5,"session":1}
"#;

#[test]
fn a_measured_run_stands_beside_a_simulated_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("t.jsonl"), TRACE).unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_lodestar")).args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let mock = Server::mock();
    let url = format!("http://{}", mock.address);
    let (trace, live, both) = (path("t.jsonl"), path("live"), path("both"));
    let (code, stdout, stderr) =
        run(&["bench", &trace, "--url", &url, "--time-scale", "1000", "--out", &live]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("\nlive ") && stdout.contains("sent     late by"), "{stdout}");
    let fleet = ["--fleet", "a100:1", "--policy", "round-robin", "--out", &both];
    let (code, _, stderr) = run(&[&["replay", &trace, "--beside", &live], &fleet[..]].concat());
    assert_eq!(code, 0, "{stderr}");
    // Both found the same in the cache: of the second prompt 48 tokens, of the third all whole blocks of what
    // came before, the answer included.
    let summary = std::fs::read_to_string(path("both/summary.csv")).unwrap();
    let mut lines = summary.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let hits = header.iter().position(|name| *name == "hit_ratio").unwrap();
    let rows: Vec<_> =
        lines.map(|row| (row[0], row[2], row[hits].parse::<f64>().unwrap())).collect();
    let expected = f64::from(48 + 96) / f64::from(64 + 68 + 112);
    for (row, name) in rows.iter().zip(["round-robin", "live"]) {
        assert_eq!((row.0, row.1), (name, "3"), "{summary}");
        assert!((row.2 - expected).abs() < 1e-9, "{summary}");
    }
    for folder in [&live, &both] {
        let (code, _, stderr) = run(&["plot", folder]);
        assert_eq!(code, 0, "{stderr}");
    }
    let (code, _, stderr) =
        run(&[&["replay", &trace, "--beside", &live, "--limit", "2"], &fleet[..]].concat());
    assert_eq!(code, 2);
    assert!(stderr.contains("replay the same trace with the same flags"), "{stderr}");

    drop(mock);
    let dead = ["bench", &trace, "--url", &url, "--out", &live];
    let (code, _, stderr) = run(&dead);
    assert_eq!(code, 2);
    assert!(stderr.contains("/v1/models: ") && stderr.contains("--model"), "{stderr}");
    let (code, stdout, _) = run(&[&dead[..], &["--model", "m", "--time-scale", "1000"]].concat());
    assert_eq!(code, 1, "nothing succeeded");
    assert!(stdout.contains("failed   3 connection refused"), "{stdout}");
}
