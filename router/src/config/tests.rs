use super::*;

#[test]
fn a_policy_has_one_name_in_files_and_everywhere_else() {
    for (policy, name) in PolicyConfig::all().into_iter().zip(PolicyConfig::NAMES) {
        assert_eq!(policy.name(), name);
        assert_eq!(PolicyConfig::from_name(name), Ok(policy.clone()));
        assert_eq!(serde_json::to_value(&policy).unwrap()["name"], name);
        let read = serde_json::from_str::<PolicyConfig>(&format!(r#"{{"name":"{name}"}}"#));
        assert_eq!(read.unwrap(), policy);
    }
}

#[test]
fn an_option_without_effect_is_an_error() {
    for name in PolicyConfig::NAMES {
        let text = format!(r#"{{"name":"{name}","threshold":3}}"#);
        let error = serde_json::from_str::<PolicyConfig>(&text).unwrap_err().to_string();
        assert!(error.contains("unknown field `threshold`"), "{name}: {error}");
    }
}

#[test]
fn parameters_left_out_have_their_defaults() {
    let text = r#"{"policy":{"name":"prefix-cache","stddev_factor":2.0}}"#;
    let config: RouterConfig = serde_json::from_str(text).unwrap();
    let params = PrefixCacheParams { imbalance_threshold_requests: 8, stddev_factor: 2.0 };
    assert_eq!(
        config,
        RouterConfig {
            policy: PolicyConfig::PrefixCache(params),
            block_tokens: 16,
            information: Information::Deployed
        }
    );
}

#[test]
fn an_unknown_name_is_answered_with_the_nearest_and_all() {
    let message = |name| PolicyConfig::from_name(name).unwrap_err().to_string();
    let names = PolicyConfig::NAMES.join(", ");
    assert_eq!(
        message("least_reqests"),
        format!(
            "unknown policy \"least_reqests\", did you mean \"least-request\"?; the policies are {names}"
        )
    );
    assert!(!message("zzz").contains("did you mean"));
}

#[test]
fn a_threshold_is_part_of_the_name() {
    for (name, threshold_percent) in [("prefix-hit-threshold-60", 60), ("prefix-hit-threshold", 50)]
    {
        let params = PrefixHitThresholdParams { threshold_percent };
        let policy = PolicyConfig::PrefixHitThreshold(params);
        assert_eq!(PolicyConfig::from_name(name), Ok(policy.clone()));
        assert_eq!(policy.name(), name);
    }
    for name in ["prefix-hit-threshold-101", "prefix-hit-threshold-", "prefix-hit-threshold-x"] {
        let message = PolicyConfig::from_name(name).unwrap_err().to_string();
        assert!(message.contains("did you mean \"prefix-hit-threshold\""), "{message}");
    }
}

#[test]
fn an_objective_is_part_of_the_name() {
    for (name, objective) in OBJECTIVES {
        let name = format!("lodestar-{name}");
        let params = LodestarParams { objective, ..LodestarParams::default() };
        let policy = PolicyConfig::Lodestar(params);
        assert_eq!(PolicyConfig::from_name(&name), Ok(policy.clone()));
        assert_eq!(policy.name(), name);
    }
    for (name, part) in Part::ALL {
        let policy = PolicyConfig::from_name(&format!("lodestar-without-{name}")).unwrap();
        let text = format!(r#"{{"name":"lodestar","without":"{name}"}}"#);
        assert_eq!(serde_json::from_str::<PolicyConfig>(&text).unwrap(), policy);
        assert!(matches!(policy, PolicyConfig::Lodestar(params) if params.without == Some(part)));
        assert_eq!(policy.name(), format!("lodestar-without-{name}"));
    }
    let text = r#"{"name":"lodestar","objective":{"slo":{"ttft_ms":300.0,"tpot_ms":20.0}}}"#;
    let policy: PolicyConfig = serde_json::from_str(text).unwrap();
    assert_eq!(policy.name(), "lodestar-slo");
    let text = r#"{"name":"lodestar","objective":{"mix":{"ttft":-1.0,"tpot":0.5}}}"#;
    let error = serde_json::from_str::<PolicyConfig>(text).unwrap_err().to_string();
    assert!(error.contains("-1 is not a finite number"), "{error}");
}

#[test]
fn the_documentation_names_every_policy() {
    let page = include_str!("../../../docs/policies.md");
    for name in PolicyConfig::NAMES {
        assert!(page.contains(&format!("| `{name}` |")), "{name} has no row in docs/policies.md");
    }
}
