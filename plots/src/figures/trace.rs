//! What a trace looks like before anything serves it.

use crate::axis::{Axis, Format};
use crate::canvas::Canvas;
use crate::colour;
use crate::legend;
use crate::panel::{Panel, Series};
use crate::samples::cumulative;

/// The statistics of a trace. Plain data: a figure need not know how they were computed.
#[derive(Clone, Debug)]
pub struct TraceInfoFigure {
    /// What the trace is called.
    pub name: String,
    /// Requests that arrive in each minute, from the first.
    pub requests_per_minute: Vec<u64>,
    /// The prompt length of each request, tokens.
    pub prompt_tokens: Vec<u32>,
    /// The output length of each request, tokens.
    pub output_tokens: Vec<u32>,
    /// Hit ratio of one prefix cache, 0 to 1, by its capacity in tokens, ascending.
    pub hit_ratio_by_capacity: Vec<(u64, f64)>,
}

pub(crate) fn draw(info: &TraceInfoFigure) -> Canvas {
    let mut canvas = Canvas::new(1000.0, 760.0);
    let requests = crate::axis::number(info.prompt_tokens.len() as f64);
    let subtitle = format!("{requests} requests in {} min", info.requests_per_minute.len());
    let area = canvas.heading(canvas.area(), &format!("Trace {}", info.name), &subtitle);
    let (top, bottom) = area.split_top(area.height() * 0.48);
    rate(info).draw(&mut canvas, top);
    let [left, right] = bottom.inset(0.0, 10.0, 0.0, 0.0).grid(1, 2, (36.0, 0.0))[..] else {
        unreachable!("a row of two")
    };
    let names = ["prompt", "output"];
    let entries = names.into_iter().zip((0..).map(colour::series));
    let left = legend::draw(&mut canvas, left, entries);
    lengths(info).draw(&mut canvas, left);
    // As far down as the legend moved its neighbour.
    hit_ratio(info).draw(&mut canvas, right.inset(0.0, left.top - right.top, 0.0, 0.0));
    canvas
}

/// Steps of the rate curve that are drawn: there are not more pixels. A longer trace takes several minutes
/// a step.
const RATE_STEPS: usize = 2000;

/// Steps, because the number of a minute holds for all of it.
fn rate(info: &TraceInfoFigure) -> Panel {
    let minutes = info.requests_per_minute.len().div_ceil(RATE_STEPS).max(1);
    let starts = (0..).map(|step| f64::from(step) * 60.0 * minutes as f64);
    let points: Vec<_> = info
        .requests_per_minute
        .chunks(minutes)
        .zip(starts)
        .flat_map(|(counts, start)| {
            let mean = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
            [(start, mean), (start + 60.0 * counts.len() as f64, mean)]
        })
        .collect();
    let highest = points.iter().map(|point| point.1).fold(0.0_f64, f64::max);
    Panel {
        title: "Arrivals".to_owned(),
        x: Axis::time("time in the trace", 60.0 * info.requests_per_minute.len() as f64),
        y: Axis::linear("requests per minute", 0.0, highest, Format::Number),
        series: vec![Series { points, colour: colour::series(0) }],
    }
}

fn lengths(info: &TraceInfoFigure) -> Panel {
    let curve = |tokens: &[u32]| cumulative(tokens.iter().copied().map(f64::from).collect());
    let series: Vec<_> = [&info.prompt_tokens, &info.output_tokens]
        .into_iter()
        .enumerate()
        .map(|(index, tokens)| Series { points: curve(tokens), colour: colour::series(index) })
        .collect();
    let shown = series.iter().flat_map(|series| series.points.iter().map(|point| point.0));
    Panel {
        title: "Lengths".to_owned(),
        x: Axis::log("tokens (logarithmic)", shown, Format::Short),
        y: Axis::percent("share of requests"),
        series,
    }
}

fn hit_ratio(info: &TraceInfoFigure) -> Panel {
    let points: Vec<_> =
        info.hit_ratio_by_capacity.iter().map(|(tokens, ratio)| (*tokens as f64, *ratio)).collect();
    let capacities = points.iter().map(|point| point.0);
    Panel {
        title: "Prefix hit ratio of one cache".to_owned(),
        x: Axis::log("cache capacity (tokens, logarithmic)", capacities, Format::Short),
        y: Axis::percent("share of prompt tokens"),
        series: vec![Series { points, colour: colour::series(2) }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(requests_per_minute: Vec<u64>) -> Vec<(f64, f64)> {
        let info = TraceInfoFigure {
            name: String::new(),
            requests_per_minute,
            prompt_tokens: vec![1],
            output_tokens: vec![1],
            hit_ratio_by_capacity: vec![(1, 0.0)],
        };
        rate(&info).series.swap_remove(0).points
    }

    #[test]
    fn a_long_trace_has_longer_steps_not_more() {
        assert_eq!(points(vec![3, 5]), [(0.0, 3.0), (60.0, 3.0), (60.0, 5.0), (120.0, 5.0)]);
        let year = points((0..4001).map(|minute| minute % 3).collect());
        assert_eq!(year.len(), 2 * 1334);
        assert_eq!(year[..2], [(0.0, 1.0), (180.0, 1.0)]);
        assert_eq!(year[2667..], [(4001.0 * 60.0, 0.5)]);
    }
}
