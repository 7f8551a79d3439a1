//! What a file may say, and what is said of one that is wrong.

use super::*;

fn check(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("serve.toml");
    std::fs::write(&path, text).unwrap();
    let result = ServeConfig::read(&path).and_then(|config| config.check());
    result.map_or_else(|error| error.to_string(), |()| "ok".to_owned())
}

#[test]
fn a_file_is_read_with_defaults() {
    let text = "listen = '0.0.0.0:80'\ninstances = [{url = 'http://a:1'}, {url = 'http://b:1/'}]\n\
        [router]\npolicy = {name = 'least-request'}\n[limits]\nattempts = 2\n";
    assert_eq!(check(text), "ok");
    let config: ServeConfig = toml::from_str(text).unwrap();
    assert_eq!((config.limits.attempts, config.limits.idle_s), (2, 300));
    assert_eq!(config.router.information, Information::Ideal);
}

#[test]
fn who_decides_is_said() {
    let summary = |canary: &str| {
        let text = format!("instances = [{{url = 'http://a:1'}}]\n{canary}");
        toml::from_str::<ServeConfig>(&text).unwrap().summary().join("\n")
    };
    assert_eq!(summary(""), "policy `prefix-cache` decides for all requests");
    assert_eq!(
        summary("router.canary.policy = {name = 'lodestar'}"),
        "baseline: policy `prefix-cache` decides for 100 % of the sessions\n\
         canary: policy `lodestar` only watches"
    );
    assert_eq!(
        summary("router.canary = {policy = {name = 'lodestar'}, rollout_percent = 2.5}"),
        "baseline: policy `prefix-cache` decides for 97.5 % of the sessions\n\
         canary: policy `lodestar` decides for 2.5 % of the sessions; SIGUSR1 stops it"
    );
}

#[test]
fn what_has_no_effect_is_said() {
    let text =
        "instances = [{url = 'http://a:1', kv_events = 'tcp://a:2', kv_replay = 'tcp://a:3'}]";
    assert_eq!(check(text), "ok");
    assert_eq!(check("discovery.dns = {host = 'b', port = 1}"), "ok");
    let config: ServeConfig = toml::from_str(text).unwrap();
    assert!(config.warnings()[0].contains("ignored: without `router.tokenizer`"));
    assert_eq!(backends(&config.instances, config.listens()).unwrap()[0].kv_endpoints, None);
}

#[test]
fn what_is_wrong_with_a_collector_is_named() {
    for (text, part) in [
        (
            "instances = [{url = 'http://a:1'}]\ntelemetry.otlp_endpoint = 'collector:4318'",
            "`telemetry.otlp_endpoint` is `collector:4318`: ",
        ),
        (
            "instances = [{url = 'http://a:1'}]\ntelemetry.otlp_endpoint = 'grpc://c:4317'",
            "only http and https are spoken; write it as http://HOST:4318",
        ),
        (
            "instances = [{url = 'http://a:1'}]\n\
             telemetry = {otlp_endpoint = 'http://c:4318', sample_percent = 100.5}",
            "`telemetry.sample_percent` is 100.5; it must be from 0 to 100",
        ),
    ] {
        let message = check(text);
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (text, part) in [
        ("instances = []", "no instance"),
        ("", "no instance"),
        (
            "instances = [{url = 'http://a:1'}]\ndiscovery.file = 'list.toml'",
            "both name instances; remove one",
        ),
        ("discovery.file = 'list.toml'", "list.toml: "),
        ("instances = [{url = 'http://a:1'}]\nadmin.token_file = 't'", "`admin.token_file`: "),
        (
            "instances = [{url = 'http://a:1'}]\nadmin = {token_file = 't', token_env = 'T'}",
            "wanted exactly 1 element",
        ),
        ("discovery = {file = 'a', dns = {host = 'b', port = 1}}", "wanted exactly 1 element"),
        ("discovery.dns = {host = 'b', port = 1, kv_replay_port = 2}", "add it"),
        (
            "discovery.kubernetes = {service = 'a/b', port = 1}",
            "`discovery.kubernetes.service` is `a/b`",
        ),
        (
            "discovery.dns = {host = 'b', port = 1}\n\
             router = {policy = {name = 'dynamo'}, information = 'deployed'}",
            "give every instance its `kv_events`",
        ),
        (
            "instances = [{url = 'http://a:1'}, {url = 'http://a:1/'}]",
            "`http://a:1` is named twice",
        ),
        ("instances = [{url = 'a:1'}]", "instance `a:1`: "),
        ("instances = [{url = 'http://a:1'}]\nlimit = 1", "unknown field `limit`"),
        ("instances = [{url = 'http://a:1'}]\nlimits.attempts = 0", "`limits.attempts` is 0"),
        (
            "instances = [{url = 'http://a:1'}]\nlimits.queue_s = 10000000000000",
            "`limits.queue_s` is above a day",
        ),
        ("instances = [{url = 'http://a:1'}]\nrouter.policy = {name = 'x'}", "unknown variant `x`"),
        (
            "instances = [{url = 'http://a:1'}]\nrouter.checkpoint = 'c.json'",
            "policy `prefix-cache` keeps nothing in a checkpoint",
        ),
        (
            "instances = [{url = 'http://a:1'}]\ntls = {certificates = 'c.pem', key = 'k.pem'}",
            "c.pem: ",
        ),
        ("instances = [{url = 'https://a:1'}]\ninstance_authorities = 'a.pem'", "a.pem: "),
        (
            "instances = [{url = 'http://a:1', kv_events = 'a:2'}]",
            "`kv_events` of instance `http://a:1` is `a:2`; write it as tcp://HOST:PORT",
        ),
        (
            "instances = [{url = 'http://a:1', kv_replay = 'tcp://a:2'}]",
            "has `kv_replay` and no `kv_events`",
        ),
        ("instances = [{url = 'http://a:1'}]\nrouter.tokenizer = 'absent.json'", "absent.json: "),
        (
            "instances = [{url = 'http://a:1'}]\nrouter.chat_template = 'a.jinja'",
            "has no effect without `router.tokenizer`",
        ),
        (
            "instances = [{url = 'http://a:1', kv_events = 'tcp://a:2'}]\n\
             router = {policy = {name = 'dynamo'}, information = 'deployed'}",
            "give every instance its `kv_events`",
        ),
    ] {
        let message = check(text);
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn what_is_wrong_with_a_canary_is_named() {
    for (text, part) in [
        (
            "instances = [{url = 'http://a:1'}]\nrouter.canary = {policy = {name = 'random'}, rollout_percent = 101}",
            "`router.canary.rollout_percent` is 101; it must be from 0 to 100",
        ),
        (
            "instances = [{url = 'http://a:1'}]\nrouter.canary = {policy = {name = 'random'}, checkpoint = 'c.json'}",
            "`router.canary.checkpoint`: policy `random` keeps nothing",
        ),
        (
            "instances = [{url = 'http://a:1'}]\n[router]\npolicy = {name = 'lodestar'}\ncheckpoint = 'c.json'\n\
             canary = {policy = {name = 'lodestar'}, checkpoint = 'c.json'}",
            "are the same file",
        ),
        (
            "admin.token_env = 'T'\nrouter.information = 'deployed'\nrouter.canary.policy = {name = 'dynamo'}",
            "policy `dynamo` with information \"deployed\"",
        ),
        (
            "discovery.dns = {host = 'b', port = 1}\nrouter.information = 'deployed'\n\
             router.canary.policy = {name = 'dynamo'}",
            "policy `dynamo` with information \"deployed\"",
        ),
    ] {
        let message = check(text);
        assert!(message.contains(part), "{message}");
    }
}
