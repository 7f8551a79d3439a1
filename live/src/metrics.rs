//! An engine's `/metrics`, in the Prometheus text format, to [`InstanceMetrics`].
//!
//! Not a general Prometheus parser: four gauges and counters out of some two hundred lines, read without
//! keeping the rest. An instance with several engines (data parallel) reports each; counts are summed
//! and the fullest KV cache counts.

use lodestar_router::InstanceMetrics;

/// A page that is not what engines serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetricsError {
    /// The page lacks what every engine has.
    #[error(
        "no {0} requests on the page; is this the /metrics of vLLM, SGLang, TGI or TensorRT-LLM?"
    )]
    Missing(&'static str),
    /// A sample that is not a usable number.
    #[error("line {line}: `{name}` is `{value}`; it must be a finite number, at least 0")]
    BadValue {
        /// Line of the page, from 1.
        line: usize,
        /// Name of the metric.
        name: &'static str,
        /// What stands there.
        value: String,
    },
}

/// An instance that says that it has more requests is believed to have so many. Policies add them up.
pub(crate) const MOST_REQUESTS: u32 = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Running,
    Waiting,
    /// 0 to 1. TGI does not say.
    KvUsage,
    /// Since the start. Only vLLM counts them; SGLang's `num_retracted_reqs` is a gauge.
    Preemptions,
}

/// What engines call it.
const NAMES: [(&str, Field); 13] = [
    ("vllm:num_requests_running", Field::Running),
    ("vllm:num_requests_waiting", Field::Waiting),
    ("vllm:kv_cache_usage_perc", Field::KvUsage),
    // Before vLLM 0.10.
    ("vllm:gpu_cache_usage_perc", Field::KvUsage),
    ("vllm:num_preemptions_total", Field::Preemptions),
    ("sglang:num_running_reqs", Field::Running),
    ("sglang:num_queue_reqs", Field::Waiting),
    ("sglang:token_usage", Field::KvUsage),
    ("tgi_batch_current_size", Field::Running),
    ("tgi_queue_size", Field::Waiting),
    ("trtllm_num_requests_running", Field::Running),
    ("trtllm_num_requests_waiting", Field::Waiting),
    ("trtllm_kv_cache_utilization", Field::KvUsage),
];

/// Reads a page of metrics.
///
/// # Errors
/// When a metric is missing or is not a number.
pub fn parse_metrics(page: &str) -> Result<InstanceMetrics, MetricsError> {
    let (mut running, mut waiting, mut kv_usage, mut preemptions) = (None, None, None, None);
    for (line, text) in (1..).zip(page.lines()) {
        let Some((name, field, value)) = sample(text) else { continue };
        let slot = match field {
            Field::Running => &mut running,
            Field::Waiting => &mut waiting,
            Field::KvUsage => &mut kv_usage,
            Field::Preemptions => &mut preemptions,
        };
        let number = number(name, line, value)?;
        let before = slot.unwrap_or(0.0);
        *slot = Some(if field == Field::KvUsage { number.max(before) } else { number + before });
    }
    let requests = |count: f64| (count as u32).min(MOST_REQUESTS);
    Ok(InstanceMetrics {
        running_requests: requests(running.ok_or(MetricsError::Missing("running"))?),
        waiting_requests: requests(waiting.ok_or(MetricsError::Missing("waiting"))?),
        kv_usage: kv_usage.unwrap_or(0.0),
        preemptions: preemptions.unwrap_or(0.0) as u64,
    })
}

/// Name, meaning and value of a sample line that is wanted: `name{labels} value [timestamp]`. A label's value may
/// hold spaces and braces, so the labels end at the last brace.
fn sample(text: &str) -> Option<(&'static str, Field, &str)> {
    let name_end = text.find(['{', ' '])?;
    let (name, field) = NAMES.into_iter().find(|(known, _)| *known == &text[..name_end])?;
    let rest = text.rfind('}').map_or(&text[name_end..], |end| &text[end + 1..]);
    Some((name, field, rest.split_whitespace().next().unwrap_or_default()))
}

fn number(name: &'static str, line: usize, value: &str) -> Result<f64, MetricsError> {
    let parsed = value.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    parsed.ok_or_else(|| MetricsError::BadValue { line, name, value: value.to_owned() })
}

/// KV cache capacity in tokens, from the labels of `vllm:cache_config_info`. Engines are added up; the null
/// block of each holds nothing. `None` if the page does not say.
pub(crate) fn kv_capacity_tokens(page: &str) -> Option<u64> {
    let info = page.lines().filter(|line| line.starts_with("vllm:cache_config_info{"));
    let mut capacities = info.map(|line| {
        let label = |name: &str| -> Option<u64> {
            let (_, rest) = line.split_once(&format!("{name}=\""))?;
            rest.split('"').next()?.parse().ok()
        };
        // `num_gpu_blocks_override` ends otherwise: the name is preceded by a brace or a comma.
        let blocks = label("{num_gpu_blocks").or_else(|| label(",num_gpu_blocks"))?;
        let tokens = label("{block_size").or_else(|| label(",block_size"))?;
        blocks.saturating_sub(1).checked_mul(tokens)
    });
    let add = |sum: u64, tokens: Option<u64>| sum.checked_add(tokens?);
    capacities.try_fold(0, add).filter(|tokens| *tokens > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of a vLLM 0.32.0 server under load.
    const PAGE: &str = r#"# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 2.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.004885197850513001
vllm:num_preemptions_total{engine="0",model_name="tiny"} 3.0
vllm:num_preemptions_created{engine="0",model_name="tiny"} 1.7952211836536677e+09
"#;

    #[test]
    fn a_page_of_vllm_is_read() {
        let metrics = parse_metrics(PAGE).unwrap();
        assert_eq!(
            metrics,
            InstanceMetrics {
                running_requests: 2,
                waiting_requests: 1,
                kv_usage: 0.004_885_197_850_513_001,
                preemptions: 3,
            }
        );
    }

    /// Lines in the forms that each engine documents.
    #[test]
    fn other_engines_and_old_versions_say_the_same_by_other_names() {
        let old = PAGE.replace("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc");
        assert_eq!(parse_metrics(&old), parse_metrics(PAGE));
        let labels = r#"{engine_type="unified",model_name="m",tp_rank="0"}"#;
        let sglang = format!(
            "# TYPE sglang:num_running_reqs gauge\nsglang:num_running_reqs{labels} 5.0\n\
             sglang:num_used_tokens{labels} 9.0\nsglang:token_usage{labels} 0.25\nsglang:num_queue_reqs{labels} 7.0\n"
        );
        let tgi = "# TYPE tgi_batch_current_size gauge\ntgi_batch_current_size 5\n\
                   tgi_batch_current_max_tokens 900\n# TYPE tgi_queue_size gauge\ntgi_queue_size 7\n";
        let labels = r#"{model_name="m",engine_type="trtllm"}"#;
        let trtllm = format!(
            "trtllm_num_requests_running{labels} 5\ntrtllm_num_requests_waiting{labels} 7\n\
             trtllm_kv_cache_hit_rate{labels} 0.9\ntrtllm_kv_cache_utilization{labels} 0.25\n"
        );
        for (page, kv_usage) in [(&sglang[..], 0.25), (tgi, 0.0), (&trtllm[..], 0.25)] {
            let (running_requests, waiting_requests, preemptions) = (5, 7, 0);
            let said =
                InstanceMetrics { running_requests, waiting_requests, kv_usage, preemptions };
            assert_eq!(parse_metrics(page), Ok(said), "{page}");
        }
    }

    #[test]
    fn engines_of_one_instance_are_added_up() {
        let second = PAGE.replace(r#"engine="0""#, r#"engine="1""#).replace("0.0048", "0.9048");
        let metrics = parse_metrics(&format!("{PAGE}{second}")).unwrap();
        assert_eq!((metrics.running_requests, metrics.preemptions), (4, 6));
        assert!(metrics.kv_usage > 0.9);
    }

    #[test]
    fn the_capacity_stands_in_the_labels() {
        let line = r#"vllm:cache_config_info{block_size="32",cache_dtype="auto",engine="0",num_gpu_blocks="2048",num_gpu_blocks_override="2048"} 1.0"#;
        assert_eq!(kv_capacity_tokens(&format!("{PAGE}{line}\n")), Some(2047 * 32));
        assert_eq!(kv_capacity_tokens(&format!("{line}\n{line}")), Some(2 * 2047 * 32));
        assert_eq!(kv_capacity_tokens(PAGE), None);
        assert_eq!(kv_capacity_tokens(&line.replace("\"2048\"", "\"None\"")), None);
    }

    #[test]
    fn more_requests_than_there_can_be_are_many() {
        let metrics = parse_metrics(&PAGE.replace(" 2.0", " 1e300")).unwrap();
        assert_eq!((metrics.running_requests, metrics.waiting_requests), (MOST_REQUESTS, 1));
    }

    #[test]
    fn what_is_not_vllms_is_refused() {
        assert_eq!(parse_metrics("<html>"), Err(MetricsError::Missing("running")));
        let error = parse_metrics(&PAGE.replace(" 2.0", " NaN")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 3: `vllm:num_requests_running` is `NaN`; it must be a finite number, at least 0"
        );
        assert!(parse_metrics(&PAGE.replace(" 2.0", "")).is_err());
    }
}
