//! The dashboard: its page, what it asks for, and, where there is a Chromium, what it shows.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lodestar_router::PolicyConfig;
use serde_json::Value;

use crate::admin::{TOKEN, done, request, token};
use crate::script::{Running, STREAM_HEAD, Script, body_of, chunk, response, write};

const PATH: &str = "/lodestar/dashboard";
const METRICS: &str =
    "vllm:num_requests_running 2\nvllm:num_requests_waiting 1\nvllm:kv_cache_usage_perc 0.4375\n";

/// Opens the dashboard in a frame as wide as `WIDTH` and uses it: it types a wrong token, then the right one.
const HARNESS: &str = include_str!("dashboard.html");

/// Streams that are slower the longer the prompt, with usage; every thirtieth is refused.
async fn engine(ms: u64) -> Script {
    let turn = Arc::new(AtomicUsize::new(0));
    let script = Script::start(move |request, stream| {
        let turn = turn.fetch_add(1, Ordering::Relaxed);
        async move {
            if request.starts_with("GET /harness") {
                return write(&stream, &response("200 OK", "text/html; charset=utf-8", HARNESS)).await;
            }
            if turn % 30 == 29 {
                let busy = response("503 Service Unavailable", "application/json", "{}");
                return write(&stream, &busy).await;
            }
            tokio::time::sleep(Duration::from_millis(ms + request.len() as u64 / 400)).await;
            let one = "data: {\"choices\":[{\"text\":\"one\"}]}\n\n";
            let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":600,\"completion_tokens\":2,\
                         \"prompt_tokens_details\":{\"cached_tokens\":96}}}\n\n";
            let end = format!("{}{}0\r\n\r\n", chunk(usage), chunk("data: [DONE]\n\n"));
            write(&stream, &format!("{STREAM_HEAD}{}{end}", chunk(one))).await
        }
    })
    .await;
    METRICS.clone_into(&mut script.metrics.lock().unwrap());
    script
}

/// Three instances of different speed, after some hundred requests.
async fn served(folder: &Path) -> (Running, [Script; 3]) {
    let scripts = [engine(2).await, engine(4).await, engine(12).await];
    let proxy = Running::with(&scripts.iter().collect::<Vec<_>>(), |config| {
        config.admin = token(folder);
        config.router.policy = PolicyConfig::from_name("lodestar").unwrap();
    })
    .await;
    let client = async |client: usize| {
        for step in 0..60 {
            let prompt = "the same words ".repeat((step * 7 + client * 5) % 41 * 6 + 2);
            let body = format!(r#"{{"model":"m","stream":true,"prompt":"{prompt}{client}"}}"#);
            proxy.post("/v1/completions", &body).await;
        }
    };
    tokio::join!(client(0), client(1), client(2), client(3));
    (proxy, scripts)
}

#[tokio::test]
async fn the_page_is_there_if_administration_is_and_says_nothing_without_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let script = Script::says("").await;
    let off = Running::before(&[&script]).await;
    assert!(off.ask(&request("GET", PATH, TOKEN, "")).await.starts_with("HTTP/1.1 404 "));
    let on = Running::with(&[&script], |config| config.admin = token(folder.path())).await;
    let answer = on.ask(&request("GET", PATH, "", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let policy = answer.lines().find(|line| line.starts_with("content-security-policy: ")).unwrap();
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    let page = body_of(&answer);
    assert_eq!(page.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
    assert!(!page.contains("http://127") && !page.contains("style=\""));
    let again = on.ask(&request("GET", PATH, "", "")).await;
    assert!(!again.contains(nonce), "each answer has its own");
    for (method, path) in [("POST", PATH), ("GET", "/lodestar/admin/overview")] {
        let answer = on.ask(&request(method, path, "", "")).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
    assert_eq!(script.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_overview_says_how_the_fleet_the_policy_and_the_last_decisions_are() {
    let folder = tempfile::tempdir().unwrap();
    let (proxy, scripts) = served(folder.path()).await;
    let overview = done(&proxy, "GET", "overview", Value::Null).await;
    let newest = |name: &str| overview["history"][name].as_array().unwrap().last().unwrap().clone();
    assert_eq!(newest("finished"), 240);
    assert!(newest("failed").as_u64() > Some(0));
    assert_eq!(newest("failed"), newest("second_attempts"));
    assert_eq!((newest("prompt_tokens"), newest("cached_tokens")), (144_000.into(), 23_040.into()));
    let quantile = |name: &str| newest(name).as_f64().unwrap();
    assert!(quantile("ttft_p50_s") <= quantile("ttft_p99_s") && quantile("ttft_p50_s") > 0.001);
    let factor = |script: &Script| overview["ttft_factors"][script.url()].as_f64();
    assert!(scripts.iter().all(|script| factor(script) > Some(0.0)));
    assert_eq!(overview["instances"].as_array().unwrap().len(), 3);
    let reasons = overview["reasons"].as_object().unwrap().values();
    let attempts = newest("finished").as_u64().unwrap() + newest("failed").as_u64().unwrap();
    assert_eq!(reasons.map(|count| count.as_u64().unwrap()).sum::<u64>(), attempts);
    let decisions = overview["decisions"].as_array().unwrap();
    assert_eq!(decisions.len(), 50);
    for decision in decisions {
        let candidates = decision["candidates"].as_array().unwrap();
        let mut chosen = candidates.iter().filter(|candidate| candidate["chosen"] == true);
        assert_eq!(chosen.next().unwrap()["instance"], decision["instance"]);
        assert!(chosen.next().is_none());
        assert!(candidates.iter().all(|candidate| candidate["terms_s"].is_array()));
    }
    assert!(decisions.iter().any(|one| one["outcome"] == "finished" && one["cached_tokens"] == 96));
}

/// Says SKIPPED where there is no Chromium. Screenshots go to the folder in `LODESTAR_SCREENSHOTS`, if that is set.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
async fn the_dashboard_opens_in_a_browser_and_shows_numbers() {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let is_there = |name: &&str| Command::new(name).arg("--version").output().is_ok();
    let Some(browser) = names.into_iter().find(is_there) else {
        println!("SKIPPED: no chromium on the path");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (proxy, _scripts) = served(folder.path()).await;
    let proxy = Arc::new(proxy);
    let busy = Arc::clone(&proxy);
    // However long the browser takes, there is something in the last minute.
    let traffic = tokio::spawn(async move {
        loop {
            busy.post("/v1/completions", r#"{"model":"m","stream":true,"prompt":"more"}"#).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut runs = 0;
    let mut open = |query: &str, [width, height]: [u32; 2], theme: &str, more: &[String]| {
        runs += 1;
        let url =
            format!("http://{}/harness{query}#{width},{height},{theme},{TOKEN}", proxy.address);
        let mut command = Command::new("timeout");
        command.args(["120", browser, "--headless", "--no-sandbox", "--disable-gpu"]);
        command.args(["--hide-scrollbars", "--enable-logging=stderr"]);
        // No window is narrower than 500 pixels, a frame is.
        command.arg(format!("--window-size={},{height}", width.max(500)));
        command.arg(format!("--user-data-dir={}", folder.path().join(runs.to_string()).display()));
        command.arg("--virtual-time-budget=8000").args(more).arg(url);
        let output = tokio::task::block_in_place(|| command.output().unwrap());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    };
    for size in [[1280, 900], [360, 900]] {
        let (dom, log) = open("", size, "light", &["--dump-dom".to_owned()]);
        let found: Vec<_> =
            dom.split("<pre id=\"found\">").nth(1).unwrap().split("</pre>").collect();
        assert!(
            found[0].contains("ok the end") && !found[0].contains("WRONG"),
            "{}\n{log}",
            found[0]
        );
        // The browser writes there that the wrong token was answered 401.
        let complaint = |line: &&str| line.contains("CONSOLE") && !line.contains("401");
        assert_eq!(log.lines().find(complaint), None);
    }
    let Some(pictures) = std::env::var_os("LODESTAR_SCREENSHOTS") else {
        return traffic.abort();
    };
    std::fs::create_dir_all(&pictures).unwrap();
    for (name, theme, size) in [
        ("light", "light", [1280, 2600]),
        ("dark", "dark", [1280, 2600]),
        ("phone", "light", [390, 5200]),
    ] {
        let picture = Path::new(&pictures).join(format!("{name}.png"));
        open("?look", size, theme, &[format!("--screenshot={}", picture.display())]);
        assert!(picture.metadata().unwrap().len() > 10_000);
    }
    traffic.abort();
}
