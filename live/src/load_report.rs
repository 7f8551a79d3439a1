//! How an engine stands, by a header of its answer: nothing has to be asked for, and it is never old.
//!
//! The text form of ORCA's load reports. vLLM (0.32, `vllm/entrypoints/serve/utils/orca_metrics.py`) puts it on whole answers if the
//! request asks for it, and writes a line into its own log for each, hence only where the configuration says so.

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use crate::head::text;
use crate::metrics::MOST_REQUESTS;

const ASK: HeaderName = HeaderName::from_static("endpoint-load-metrics-format");
const REPORT: HeaderName = HeaderName::from_static("endpoint-load-metrics");

/// What a report says; its other metrics concern nobody here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LoadReport {
    pub(crate) waiting_requests: u32,
    /// 0 to 1.
    pub(crate) kv_usage: f64,
}

/// Asks for a report, unless the client does, whose business it is then. Answers whether it has asked.
pub(crate) fn ask(headers: &mut HeaderMap) -> bool {
    let is_ours = !headers.contains_key(ASK);
    if is_ours {
        headers.insert(ASK, HeaderValue::from_static("TEXT"));
    }
    is_ours
}

/// Takes the report that was asked for out of an answer, since the client has not asked.
pub(crate) fn take(headers: &mut HeaderMap) -> Option<LoadReport> {
    let report = text(headers, REPORT).and_then(parse);
    headers.remove(REPORT);
    report
}

/// Reads `TEXT named_metrics.kv_cache_usage_perc=0.4, named_metrics.num_requests_waiting=2.0`.
fn parse(report: &str) -> Option<LoadReport> {
    let metrics = report.strip_prefix("TEXT ")?;
    let number = |name: &str| {
        let named = |metric: &str| -> Option<f64> {
            let metric = metric.trim().strip_prefix("named_metrics.")?;
            metric.strip_prefix(name)?.strip_prefix('=')?.parse().ok()
        };
        let value = metrics.split(',').find_map(named)?;
        (value.is_finite() && value >= 0.0).then_some(value)
    };
    let waiting_requests = (number("num_requests_waiting")? as u32).min(MOST_REQUESTS);
    Some(LoadReport { waiting_requests, kv_usage: number("kv_cache_usage_perc")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_vllm_is_read() {
        let said =
            "TEXT named_metrics.kv_cache_usage_perc=0.25, named_metrics.num_requests_waiting=2.0";
        assert_eq!(parse(said), Some(LoadReport { waiting_requests: 2, kv_usage: 0.25 }));
        for wrong in [
            "",
            "TEXT",
            "JSON {}",
            "TEXT named_metrics.num_requests_waiting=2.0",
            "TEXT named_metrics.kv_cache_usage_perc=NaN, named_metrics.num_requests_waiting=2.0",
            "TEXT named_metrics.kv_cache_usage_perc=0.1, named_metrics.num_requests_waiting=-1",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        let many = said.replace("2.0", "1e300");
        assert_eq!(parse(&many).unwrap().waiting_requests, MOST_REQUESTS);
    }

    #[test]
    fn a_client_that_asks_gets_its_report() {
        let mut headers = HeaderMap::new();
        assert!(ask(&mut headers));
        assert!(!ask(&mut headers), "it is there already");
    }
}
