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

/// Steps, because the number of a minute holds for all of it.
fn rate(info: &TraceInfoFigure) -> Panel {
    let minutes = (0..).map(|minute| f64::from(minute) * 60.0);
    let steps = info.requests_per_minute.iter().zip(minutes);
    let points: Vec<_> = steps
        .flat_map(|(count, start)| [(start, *count as f64), (start + 60.0, *count as f64)])
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
