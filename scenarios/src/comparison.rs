//! The table that a person reads after a replay: policies below each other, the best of each figure marked.
//!
//! Text and not a frame's own `Display`, which hides columns that do not fit and knows nothing of better
//! and worse. Figures that belong together stay together; what exceeds a terminal goes into a block below.

use std::fmt::Write as _;
use std::time::Duration;

use crate::quantile::Distribution;
use crate::summary::Summary;

/// The width every terminal is expected to have.
const MAX_WIDTH: usize = 120;

/// How the best value of a column is told from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// Bold and green, for a terminal.
    Colour,
    /// A star behind it, for a file or a pipe.
    Star,
}

/// Columns under one heading.
struct Group {
    title: &'static str,
    columns: Vec<Column>,
}

/// One figure of every policy, as text.
struct Column {
    name: &'static str,
    cells: Vec<String>,
    /// Which cells are marked.
    best: Vec<bool>,
}

/// Which end of a column is good.
#[derive(Clone, Copy)]
enum Better {
    Low,
    High,
    /// Neither: a fact about the run, or about this machine.
    Unranked,
}

/// The comparison of some runs; `wall` is how long each of them took here.
pub fn compare(summaries: &[Summary], wall: &[Duration], marks: Marks) -> String {
    assert_eq!(summaries.len(), wall.len(), "every run took some time");
    let groups = [
        latency_group("TTFT ms", summaries, |summary| summary.ttft_ms),
        latency_group("TPOT ms", summaries, |summary| summary.tpot_ms),
        latency_group("E2E ms", summaries, |summary| summary.e2e_ms),
        run_group(summaries, wall),
    ];
    let names: Vec<&str> = summaries.iter().map(|summary| summary.policy.as_str()).collect();
    let name_width = names.iter().map(|name| name.len()).max().unwrap_or(0).max("policy".len());

    let mut text = String::new();
    let mut rest = groups.as_slice();
    while !rest.is_empty() {
        let (block, later) = rest.split_at(groups_that_fit(rest, name_width));
        if !text.is_empty() {
            text.push('\n');
        }
        write_block(&mut text, block, &names, name_width, marks);
        rest = later;
    }
    let any_best =
        groups.iter().flat_map(|group| &group.columns).any(|column| column.best.contains(&true));
    if any_best && marks == Marks::Star {
        text.push_str("\n* best of its column\n");
    }
    text
}

fn latency_group(
    title: &'static str,
    summaries: &[Summary],
    pick: impl Fn(&Summary) -> Option<Distribution>,
) -> Group {
    let column = |name, value: fn(Distribution) -> f64| {
        Column::new(name, Better::Low, summaries.iter().map(|summary| pick(summary).map(value)))
    };
    let columns = vec![
        column("mean", |d| d.mean),
        column("p50", |d| d.p50),
        column("p90", |d| d.p90),
        column("p99", |d| d.p99),
    ];
    Group { title, columns }
}

fn run_group(summaries: &[Summary], wall: &[Duration]) -> Group {
    let counts = |name, count: fn(&Summary) -> u64| Column {
        name,
        cells: summaries.iter().map(|summary| count(summary).to_string()).collect(),
        best: vec![false; summaries.len()],
    };
    let mut columns = vec![
        Column::new("hit ratio", Better::High, summaries.iter().map(|s| s.hit_ratio)),
        counts("preemptions", |s| s.preemptions),
    ];
    if summaries.iter().any(|summary| summary.rejected > 0) {
        columns.push(counts("rejected", |s| s.rejected));
    }
    // Below saturation throughput is what arrives and how long the slowest request takes; it ranks nobody.
    let throughput = summaries.iter().map(|s| s.requests_per_s);
    columns.push(Column::new("req per simulated s", Better::Unranked, throughput));
    let seconds = wall.iter().map(|wall| Some(wall.as_secs_f64()));
    columns.push(Column::new("wall s", Better::Unranked, seconds));
    Group { title: "run", columns }
}

impl Column {
    fn new(name: &'static str, better: Better, values: impl Iterator<Item = Option<f64>>) -> Self {
        let values: Vec<_> = values.collect();
        let largest =
            values.iter().flatten().fold(0.0_f64, |largest, value| largest.max(value.abs()));
        let decimals = match largest {
            ..1.0 => 3,
            ..10.0 => 2,
            ..1000.0 => 1,
            _ => 0,
        };
        let show = |value: f64| format!("{value:.decimals$}");
        let cells: Vec<_> =
            values.iter().map(|value| value.map_or_else(|| "-".to_owned(), show)).collect();
        let present = values.iter().flatten().copied();
        let best = match better {
            Better::Low => present.min_by(f64::total_cmp),
            Better::High => present.max_by(f64::total_cmp),
            Better::Unranked => None,
        };
        // By what is shown: a mark on one of two equal numbers would need an explanation. Where all are
        // equal, nobody is best.
        let best = best.map(show).filter(|best| cells.iter().any(|cell| cell != best));
        let best = cells.iter().map(|cell| best.as_ref() == Some(cell)).collect();
        Self { name, cells, best }
    }

    /// Without the mark.
    fn width(&self) -> usize {
        self.cells.iter().map(String::len).max().unwrap_or(0).max(self.name.len())
    }
}

impl Group {
    /// Every column has a space before it and room for a mark behind it.
    fn width(&self) -> usize {
        self.columns.iter().map(|column| column.width() + 2).sum()
    }
}

/// How many of the first groups go side by side, at least one.
fn groups_that_fit(groups: &[Group], name_width: usize) -> usize {
    let mut width = name_width;
    let fitting = groups.iter().take_while(|group| {
        width += group.width() + 1;
        width <= MAX_WIDTH
    });
    fitting.count().max(1)
}

fn write_block(
    text: &mut String,
    groups: &[Group],
    names: &[&str],
    name_width: usize,
    marks: Marks,
) {
    let mut lines = vec![format!("{:name_width$}", ""), format!("{:name_width$}", "policy")];
    lines.extend(names.iter().map(|name| format!("{name:name_width$}")));
    for group in groups {
        // The rule under which the columns stand ends where they do.
        let title = format!("── {} ", group.title);
        let rule = "─".repeat((group.width() - 2).saturating_sub(title.chars().count()));
        write!(lines[0], "  {title}{rule} ").expect("a String takes what is written to it");
        for line in &mut lines[1..] {
            line.push(' ');
        }
        for column in &group.columns {
            let width = column.width();
            write!(lines[1], " {:>width$} ", column.name)
                .expect("a String takes what is written to it");
            for ((line, cell), best) in lines[2..].iter_mut().zip(&column.cells).zip(&column.best) {
                write_cell(line, cell, width, *best, marks);
            }
        }
    }
    for line in lines {
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

fn write_cell(line: &mut String, cell: &str, width: usize, best: bool, marks: Marks) {
    match (best, marks) {
        (true, Marks::Colour) => write!(line, " \x1b[1;32m{cell:>width$}\x1b[0m "),
        (true, Marks::Star) => write!(line, " {cell:>width$}*"),
        (false, _) => write!(line, " {cell:>width$} "),
    }
    .expect("a String takes what is written to it");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(policy: &str, factor: f64, rejected: u64) -> Summary {
        let around = |base: f64| {
            let mean = base * factor;
            Some(Distribution { mean, p50: 0.75 * mean, p90: 2.0 * mean, p99: 8.5 * mean })
        };
        Summary {
            policy: policy.to_owned(),
            requests: 10_000,
            finished: 10_000 - rejected,
            rejected,
            ttft_ms: around(412.3),
            tpot_ms: around(9.21),
            e2e_ms: around(48_120.0),
            hit_ratio: Some(0.25 / factor),
            preemptions: 12,
            requests_per_s: Some(16.2),
        }
    }

    #[test]
    fn a_comparison_of_three_policies() {
        let summaries = [
            summary("random", 1.0, 0),
            summary("least-request", 0.7, 0),
            summary("prefix-cache", 0.4, 3),
        ];
        let wall = [1.94, 2.0, 12.5].map(Duration::from_secs_f64);
        insta::assert_snapshot!(compare(&summaries, &wall, Marks::Star), @"
               ── TTFT ms ──────────────   ── TPOT ms ───────────   ── E2E ms ─────────────────
policy          mean    p50    p90   p99   mean   p50   p90   p99    mean    p50    p90     p99
random         412.3  309.2  824.6  3505   9.21  6.91  18.4  78.3   48120  36090  96240  409020
least-request  288.6  216.5  577.2  2453   6.45  4.84  12.9  54.8   33684  25263  67368  286314
prefix-cache   164.9* 123.7* 329.8* 1402*  3.68* 2.76*  7.4* 31.3*  19248* 14436* 38496* 163608*

               ── run ──────────────────────────────────────────────────────
policy         hit ratio  preemptions  rejected  req per simulated s  wall s
random             0.250           12         0                 16.2     1.9
least-request      0.357           12         0                 16.2     2.0
prefix-cache       0.625*          12         3                 16.2    12.5

* best of its column
");
    }

    #[test]
    fn colours_take_no_room() {
        let summaries = [summary("random", 1.0, 0), summary("prefix-cache", 0.5, 0)];
        let coloured = compare(&summaries, &[Duration::ZERO; 2], Marks::Colour);
        let starred = compare(&summaries, &[Duration::ZERO; 2], Marks::Star);
        let plain =
            |text: &str| text.replace("\x1b[1;32m", "").replace("\x1b[0m", "").replace('*', " ");
        let lines =
            |text: &str| plain(text).lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>();
        let (coloured, starred) = (lines(&coloured), lines(&starred));
        assert_eq!(coloured, starred[..coloured.len()]);
    }

    #[test]
    fn what_no_request_has_is_a_dash_and_wide_tables_are_split() {
        let mut slow = summary("round-robin", 1_000_000.0, 0);
        slow.tpot_ms = None;
        let text = compare(&[slow, summary("random", 1.0, 0)], &[Duration::ZERO; 2], Marks::Star);
        assert!(text.lines().all(|line| line.chars().count() <= MAX_WIDTH), "{text}");
        assert!(text.contains(" - "), "{text}");
    }
}
