//! Whether a run that was read can have been measured: who edits a file by hand should hear of it before a table says NaN.

use std::ops::RangeInclusive;

use super::item::Item;
use super::marks::MAX_MARKS;
use super::measure::{Measured, QUANTILE_POINTS};
use super::series::{InstanceSeries, MAX_POINTS, MAX_PREDICTIONS, Series};
use crate::quantile::Distribution;
use crate::summary::Summary;

/// Lengths of time, numbers of requests.
const NOT_NEGATIVE: RangeInclusive<f64> = 0.0..=f64::MAX;
/// What logarithms are taken of.
const POSITIVE: RangeInclusive<f64> = f64::MIN_POSITIVE..=f64::MAX;
/// Shares.
const SHARE: RangeInclusive<f64> = 0.0..=1.0;

/// The first field that cannot be so, and what it should be.
type Checked = Result<(), String>;

pub(super) fn check(item: &Item) -> Checked {
    let cell = &item.cell;
    within("cell.rate_rps", cell.rate_rps, POSITIVE)?;
    within("cell.knee_rps", cell.knee_rps, POSITIVE)?;
    match item.measured() {
        Some(measured) => measured_can_be(measured),
        None => Ok(()),
    }
}

fn measured_can_be(measured: &Measured) -> Checked {
    let Measured { summary, rejected_by_router, ttft_quantiles_ms, series, .. } = measured;
    summary_can_be(summary)?;
    let is_part = *rejected_by_router <= summary.rejected;
    ensure("rejected_by_router", is_part, "expected at most `summary.rejected`")?;
    let points = if summary.ttft_ms.is_some() { QUANTILE_POINTS as usize } else { 0 };
    long("ttft_quantiles_ms", ttft_quantiles_ms.len(), points..=points)?;
    within("ttft_quantiles_ms", ttft_quantiles_ms.iter().copied(), NOT_NEGATIVE)?;
    ensure("ttft_quantiles_ms", ttft_quantiles_ms.is_sorted(), "expected quantiles in order")?;
    series_can_be(series)
}

fn summary_can_be(summary: &Summary) -> Checked {
    let Summary { requests, finished, rejected, .. } = summary;
    let adds_up = finished.checked_add(*rejected) == Some(*requests);
    ensure("summary.requests", adds_up, "expected `finished` and `rejected` together")?;
    for (field, times, range) in [
        ("summary.ttft_ms", summary.ttft_ms, POSITIVE),
        ("summary.tpot_ms", summary.tpot_ms, NOT_NEGATIVE),
        ("summary.e2e_ms", summary.e2e_ms, NOT_NEGATIVE),
    ] {
        let Some(Distribution { mean, p50, p90, p99 }) = times else { continue };
        within(field, [mean, p50, p90, p99], range)?;
        ensure(field, [p50, p90, p99].is_sorted(), "expected quantiles in order")?;
    }
    within("summary.hit_ratio", summary.hit_ratio, SHARE)?;
    within("summary.requests_per_s", summary.requests_per_s, NOT_NEGATIVE)
}

fn series_can_be(series: &Series) -> Checked {
    let Series { bin_s, ttft_mean_ms, instances, marks, predictions } = series;
    ensure("series.bin_s", *bin_s > 0, "expected at least 1")?;
    let bins = ttft_mean_ms.len();
    long("series.ttft_mean_ms", bins, 1..=MAX_POINTS as usize)?;
    within("series.ttft_mean_ms", ttft_mean_ms.iter().flatten().copied(), NOT_NEGATIVE)?;
    for InstanceSeries { running_requests, waiting_requests, kv_usage, .. } in instances {
        for (field, values, range) in [
            ("running_requests", running_requests, NOT_NEGATIVE),
            ("waiting_requests", waiting_requests, NOT_NEGATIVE),
            ("kv_usage", kv_usage, SHARE),
        ] {
            let field = format!("series.instances.{field}");
            long(&field, values.len(), bins..=bins)?;
            within(&field, values.iter().flatten().copied(), range)?;
        }
    }
    long("series.marks", marks.len(), 0..=MAX_MARKS)?;
    within("series.marks.at_s", marks.iter().map(|mark| mark.at_s), NOT_NEGATIVE)?;
    let Some(predictions) = predictions else { return Ok(()) };
    let samples = &predictions.sample_ms;
    long("series.predictions.sample_ms", samples.len(), 1..=MAX_PREDICTIONS)?;
    let both = samples.iter().flat_map(|(predicted, actual)| [*predicted, *actual]);
    within("series.predictions.sample_ms", both, NOT_NEGATIVE)?;
    long("series.predictions.error", predictions.error.len(), bins..=bins)?;
    let errors = predictions.error.iter().flatten().copied();
    within("series.predictions.error", errors, NOT_NEGATIVE)
}

fn ensure(field: &str, holds: bool, complaint: &str) -> Checked {
    if holds { Ok(()) } else { Err(format!("`{field}` is wrong, {complaint}")) }
}

fn long(field: &str, values: usize, range: RangeInclusive<usize>) -> Checked {
    if range.contains(&values) {
        return Ok(());
    }
    let (least, most) = range.into_inner();
    let expected = if least == most { least.to_string() } else { format!("{least} to {most}") };
    Err(format!("`{field}` has {values} values, expected {expected}"))
}

fn within(
    field: &str,
    values: impl IntoIterator<Item = f64>,
    range: RangeInclusive<f64>,
) -> Checked {
    let Some(wrong) = values.into_iter().find(|value| !range.contains(value)) else {
        return Ok(());
    };
    let expected = if range == SHARE {
        "0 to 1"
    } else if range == NOT_NEGATIVE {
        "at least 0"
    } else {
        "more than 0"
    };
    Err(format!("`{field}` has {wrong}, expected {expected}"))
}
