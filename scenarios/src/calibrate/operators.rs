//! Tables of operator latencies: matrix multiplications by shape, attention by heads, all-reduce by size.
//!
//! The columns are those of NVIDIA AIConfigurator's tables, and of Vidur's for all-reduce. A shape that
//! was not measured lies between some that were: latencies are interpolated linearly, which is exact
//! where a kernel is bound by memory or by arithmetic, and beyond the largest they grow in proportion, as far
//! as [`REACH`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::input::{InputError, Table};
use super::step::interpolate;

/// The files of one GPU.
#[derive(Clone, Debug)]
pub struct OperatorFiles {
    /// `m`, `n`, `k`, `latency` (ms); `gemm_dtype`, if there is one, is bfloat16.
    pub gemm: PathBuf,
    /// `batch_size`, `isl`, `num_heads`, `num_key_value_heads`, `head_dim`, `step`, `latency` (ms).
    pub context_attention: PathBuf,
    /// The same columns; the context is `step + 1`.
    pub generation_attention: PathBuf,
    /// `num_workers`, `devices_per_node`, `size` (bytes), `time_stats.all_reduce.median` (ms).
    pub all_reduce: Option<PathBuf>,
}

/// Operator latencies of one GPU.
#[derive(Clone, Debug)]
pub struct Operators {
    files: OperatorFiles,
    /// (m, ms) by n and k.
    gemm: BTreeMap<u64, BTreeMap<u64, Curve>>,
    /// (pairs of one head, ms) by heads, KV heads and head dimension; one sequence, nothing cached.
    context: BTreeMap<Heads, Curve>,
    /// (context, ms) by heads, then by batch.
    generation: BTreeMap<Heads, BTreeMap<u64, Curve>>,
    /// (bytes, ms) by workers in one node.
    all_reduce: BTreeMap<u64, Curve>,
}

/// Query heads, KV heads and head dimension, of one GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Heads {
    pub(crate) query: u64,
    pub(crate) kv: u64,
    pub(crate) dim: u64,
}

/// Points in ascending order.
type Curve = Vec<(f64, f64)>;

/// Sizes of all-reduce around the one that is asked for, over which the median is taken: Vidur measured
/// each three times, and some of them were disturbed.
const SMOOTHED: usize = 9;

/// How many times as large as anything measured a size may be, or as small. The widest kernel that is composed,
/// of all chosen experts of a layer, has four times the columns of AIConfigurator's widest matrix.
const REACH: f64 = 4.0;

const GEMM: &str = "a GEMM table has m, n, k and latency in ms";
const ATTENTION: &str = "an attention table has batch_size, isl, num_heads, num_key_value_heads, \
                         head_dim, step and latency in ms";
const ALL_REDUCE: &str = "an all-reduce table has num_workers, devices_per_node, size in bytes and \
                          time_stats.all_reduce.median in ms";

impl Operators {
    /// Reads the tables.
    ///
    /// # Errors
    /// The first column that is missing or cell that is no measurement, and what to do.
    pub fn read(files: &OperatorFiles) -> Result<Self, InputError> {
        let all_reduce = files.all_reduce.as_deref().map(read_all_reduce).transpose()?;
        Ok(Self {
            gemm: read_gemm(&files.gemm)?,
            context: read_context(&files.context_attention)?,
            generation: read_generation(&files.generation_attention)?,
            all_reduce: all_reduce.unwrap_or_default(),
            files: files.clone(),
        })
    }

    /// `m` rows times a matrix of `k` by `n`, ms.
    pub(crate) fn gemm_ms(&self, m: f64, n: f64, k: f64) -> Result<f64, InputError> {
        let of_rows = |curve: &Curve| within_reach(curve, m.max(1.0));
        let of_depth = |by_k: &BTreeMap<u64, Curve>| {
            let points = around(by_k, k).into_iter();
            let points = points.map(|(at_k, curve)| Some((at_k as f64, of_rows(curve)?)));
            within_reach(&points.collect::<Option<Curve>>()?, k)
        };
        let columns = around(&self.gemm, n).into_iter();
        let columns = columns.map(|(at_n, by_k)| Some((at_n as f64, of_depth(by_k)?)));
        let ms = columns.collect::<Option<Curve>>().and_then(|points| within_reach(&points, n));
        ms.ok_or_else(|| {
            let shape =
                format!("{m:.0} rows times a matrix of {k:.0} by {n:.0}, nor of one near it");
            far_off(&self.files.gemm, shape)
        })
    }

    /// Prefill attention of one layer over some (query, key) pairs, ms.
    pub(crate) fn context_ms(&self, heads: Heads, pairs: f64) -> Result<f64, InputError> {
        if pairs <= 0.0 {
            return Ok(0.0);
        }
        let curve = self.context.get(&heads);
        let curve = curve.ok_or_else(|| no_heads(&self.files.context_attention, heads))?;
        within_reach(curve, pairs).ok_or_else(|| {
            let tokens = (2.0 * pairs).sqrt();
            let shape = format!("prefill of {tokens:.0} tokens, nor of nearly so many");
            far_off(&self.files.context_attention, shape)
        })
    }

    /// Decode attention of one layer for some requests of equal context, ms.
    pub(crate) fn generation_ms(
        &self,
        heads: Heads,
        requests: f64,
        context: f64,
    ) -> Result<f64, InputError> {
        if requests <= 0.0 {
            return Ok(0.0);
        }
        let by_batch = self.generation.get(&heads);
        let by_batch = by_batch.ok_or_else(|| no_heads(&self.files.generation_attention, heads))?;
        // It reads the cache and little else, which takes in proportion whatever the context.
        let points = around(by_batch, requests).into_iter();
        let points = points.map(|(batch, curve)| (batch as f64, proportional(curve, context)));
        let ms = within_reach(&points.collect::<Curve>(), requests);
        ms.ok_or_else(|| {
            let shape = format!("decode of {requests:.0} requests, nor of nearly so many");
            far_off(&self.files.generation_attention, shape)
        })
    }

    /// Sum of some bytes over the GPUs of one node, ms.
    pub(crate) fn all_reduce_ms(&self, workers: u64, bytes: f64) -> Result<f64, InputError> {
        let path = self.files.all_reduce.as_deref().unwrap_or(&self.files.gemm);
        let curve = self.all_reduce.get(&workers).ok_or_else(|| InputError::NoMeasurement {
            path: path.to_owned(),
            what: format!("all-reduce over {workers} GPUs in one node"),
            what_to_do: "name a table with --all-reduce that has it".to_owned(),
        })?;
        within_reach(curve, bytes).ok_or_else(|| {
            far_off(path, format!("all-reduce of {bytes:.0} bytes, nor of nearly so many"))
        })
    }
}

fn far_off(path: &Path, what: String) -> InputError {
    let what_to_do = "measure up to a quarter of that size at least, and down to four times it";
    InputError::NoMeasurement { path: path.to_owned(), what, what_to_do: what_to_do.to_owned() }
}

fn no_heads(path: &Path, heads: Heads) -> InputError {
    let Heads { query, kv, dim } = heads;
    InputError::NoMeasurement {
        path: path.to_owned(),
        what: format!("{query} heads with {kv} KV heads of dimension {dim}"),
        what_to_do: "choose another --tensor-parallel or a table that has these heads".to_owned(),
    }
}

/// The entries below and above a key, or the two at the end beyond which it lies.
fn around<T>(map: &BTreeMap<u64, T>, key: f64) -> Vec<(u64, &T)> {
    let below = map.iter().rfind(|(at, _)| **at as f64 <= key);
    let above = map.iter().find(|(at, _)| **at as f64 > key);
    below.into_iter().chain(above).map(|(at, value)| (*at, value)).collect()
}

/// Interpolated; level before the first point, in proportion beyond the last.
fn proportional(points: &[(f64, f64)], x: f64) -> f64 {
    let (last, value) = points[points.len() - 1];
    if x > last && last > 0.0 { value * x / last } else { interpolate(points, x) }
}

/// The same, if the points are near enough.
fn within_reach(points: &[(f64, f64)], x: f64) -> Option<f64> {
    let (first, last) = (points[0].0, points[points.len() - 1].0);
    (x * REACH >= first && x <= last * REACH).then(|| proportional(points, x))
}

/// Means of equal keys, by ascending keys.
fn curve(mut points: Curve) -> Curve {
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
        .chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq())
        .map(|same| (same[0].0, same.iter().map(|point| point.1).sum::<f64>() / same.len() as f64))
        .collect()
}

fn read_gemm(path: &Path) -> Result<BTreeMap<u64, BTreeMap<u64, Curve>>, InputError> {
    let table = Table::read(path)?;
    let [m, n, k] = columns(&table, ["m", "n", "k"], GEMM)?;
    let latency = latency_column(&table, GEMM)?;
    let dtype = table.find("gemm_dtype");
    let mut gemm: BTreeMap<u64, BTreeMap<u64, Curve>> = BTreeMap::new();
    for row in table.rows() {
        if dtype.is_some_and(|column| row.get(column) != Some("bfloat16")) {
            continue;
        }
        let point = (table.number(row, m)?, table.time_ms(row, latency)?);
        let (n, k) = (table.number(row, n)? as u64, table.number(row, k)? as u64);
        gemm.entry(n).or_default().entry(k).or_default().push(point);
    }
    if gemm.is_empty() {
        return Err(nothing(&table, "bfloat16 matrix multiplications", GEMM));
    }
    gemm.values_mut().flat_map(BTreeMap::values_mut).for_each(|c| *c = curve(std::mem::take(c)));
    Ok(gemm)
}

fn read_context(path: &Path) -> Result<BTreeMap<Heads, Curve>, InputError> {
    let table = Table::read(path)?;
    let attention = AttentionColumns::of(&table)?;
    let mut context: BTreeMap<Heads, Curve> = BTreeMap::new();
    for row in table.rows() {
        let (heads, batch, step) = attention.key(&table, row)?;
        if batch != 1 || step != 0 {
            continue;
        }
        let tokens = table.number(row, attention.isl)?;
        let ms = table.time_ms(row, attention.latency)?;
        context.entry(heads).or_default().push((tokens * tokens / 2.0, ms));
    }
    if context.is_empty() {
        return Err(nothing(&table, "prefill of one sequence with nothing cached", ATTENTION));
    }
    context.values_mut().for_each(|c| *c = curve(std::mem::take(c)));
    Ok(context)
}

fn read_generation(path: &Path) -> Result<BTreeMap<Heads, BTreeMap<u64, Curve>>, InputError> {
    let table = Table::read(path)?;
    let attention = AttentionColumns::of(&table)?;
    let mut generation: BTreeMap<Heads, BTreeMap<u64, Curve>> = BTreeMap::new();
    for row in table.rows() {
        let (heads, batch, step) = attention.key(&table, row)?;
        let point = ((step + 1) as f64, table.time_ms(row, attention.latency)?);
        generation.entry(heads).or_default().entry(batch).or_default().push(point);
    }
    if generation.is_empty() {
        return Err(nothing(&table, "decode attention", ATTENTION));
    }
    let curves = generation.values_mut().flat_map(BTreeMap::values_mut);
    curves.for_each(|c| *c = curve(std::mem::take(c)));
    Ok(generation)
}

fn read_all_reduce(path: &Path) -> Result<BTreeMap<u64, Curve>, InputError> {
    let table = Table::read(path)?;
    let names = ["num_workers", "devices_per_node", "size", "time_stats.all_reduce.median"];
    let [workers, per_node, size, median] = columns(&table, names, ALL_REDUCE)?;
    let mut all_reduce: BTreeMap<u64, Curve> = BTreeMap::new();
    for row in table.rows() {
        let count = table.number(row, workers)? as u64;
        if count == table.number(row, per_node)? as u64 {
            let point = (table.number(row, size)?, table.time_ms(row, (median, 1.0))?);
            all_reduce.entry(count).or_default().push(point);
        }
    }
    all_reduce.values_mut().for_each(|c| *c = smooth(&curve(std::mem::take(c))));
    Ok(all_reduce)
}

/// The running median, which no single disturbed measurement moves, and no more than what a larger size
/// takes: what is left of the disturbances.
fn smooth(points: &[(f64, f64)]) -> Curve {
    let reach = SMOOTHED / 2;
    let median = |index: usize| {
        let (from, to) = (index.saturating_sub(reach), (index + reach + 1).min(points.len()));
        let mut near: Vec<f64> = points[from..to].iter().map(|point| point.1).collect();
        near.sort_by(f64::total_cmp);
        near[near.len() / 2]
    };
    let mut smooth: Curve =
        points.iter().enumerate().map(|(index, point)| (point.0, median(index))).collect();
    for index in (1..smooth.len()).rev() {
        smooth[index - 1].1 = smooth[index - 1].1.min(smooth[index].1);
    }
    smooth
}

struct AttentionColumns {
    batch: usize,
    isl: usize,
    query: usize,
    kv: usize,
    dim: usize,
    step: usize,
    latency: (usize, f64),
}

impl AttentionColumns {
    fn of(table: &Table) -> Result<Self, InputError> {
        let names = ["batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim", "step"];
        let [batch, isl, query, kv, dim, step] = columns(table, names, ATTENTION)?;
        let latency = latency_column(table, ATTENTION)?;
        Ok(Self { batch, isl, query, kv, dim, step, latency })
    }

    /// The heads, the batch size and the cached tokens of a row.
    fn key(&self, table: &Table, row: &csv::StringRecord) -> Result<(Heads, u64, u64), InputError> {
        let count = |column| table.number(row, column).map(|value| value as u64);
        let heads = Heads { query: count(self.query)?, kv: count(self.kv)?, dim: count(self.dim)? };
        Ok((heads, count(self.batch)?, count(self.step)?))
    }
}

fn columns<const N: usize>(
    table: &Table,
    names: [&str; N],
    what_to_do: &str,
) -> Result<[usize; N], InputError> {
    let mut columns = [0; N];
    for (column, name) in columns.iter_mut().zip(names) {
        *column = table.column(name, what_to_do)?;
    }
    Ok(columns)
}

/// AIConfigurator's `latency` is in ms; with a unit behind it, it is in that.
fn latency_column(table: &Table, what_to_do: &str) -> Result<(usize, f64), InputError> {
    if table.headers().iter().any(|header| header.starts_with("latency_")) {
        return table.time_column("latency");
    }
    table.column("latency", what_to_do).map(|column| (column, 1.0))
}

fn nothing(table: &Table, what: &str, what_to_do: &str) -> InputError {
    InputError::NoMeasurement {
        path: table.path().to_owned(),
        what: what.to_owned(),
        what_to_do: what_to_do.to_owned(),
    }
}
