//! The profile as a TOML file, and the table of its coefficients for people.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::fit::{Fit, Origin};
use super::step::Coefficient;

/// What a profile says besides its law.
#[derive(Clone, Debug)]
pub struct ProfileHeader {
    /// Name in a fleet.
    pub gpu: String,
    /// Name on the box.
    pub description: String,
    /// Total memory, bytes.
    pub memory_bytes: u64,
    /// vLLM's default token budget on it.
    pub max_num_batched_tokens: u32,
    /// vLLM's default bound on running requests.
    pub max_num_seqs: u32,
    /// The model.
    pub model: String,
    /// GPUs of one instance.
    pub tensor_parallel: u32,
    /// `measured`, `derived` or `scaled`.
    pub basis: &'static str,
    /// Where the numbers come from.
    pub source: String,
    /// What the host time is based on.
    pub host_note: String,
    /// What the mixed factor is based on, if it was not fitted.
    pub mixed_note: Option<String>,
}

/// The profile file.
pub fn profile_toml(header: &ProfileHeader, fit: &Fit) -> String {
    let mut text = format!(
        "gpu = {gpu}\ndescription = {description}\nmemory_bytes = {memory}\n\
         max_num_batched_tokens = {tokens}\nmax_num_seqs = {seqs}\n\n",
        gpu = quoted(&header.gpu),
        description = quoted(&header.description),
        memory = header.memory_bytes,
        tokens = header.max_num_batched_tokens,
        seqs = header.max_num_seqs,
    );
    text.push_str(&model_toml(header, fit));
    text
}

/// The part of a profile that is about one model.
fn model_toml(header: &ProfileHeader, fit: &Fit) -> String {
    let error = &fit.error_percent;
    let parallel = match header.tensor_parallel {
        1 => String::new(),
        gpus => format!("tensor_parallel = {gpus}\n"),
    };
    let mut text = format!(
        "[[models]]\nmodel = {model}\n{parallel}basis = {basis}\nsource = {source}\n\
         fit_error_percent = {{ mean = {mean:.2}, p95 = {p95:.2}, max = {max:.1} }}\n",
        model = quoted(&header.model),
        basis = quoted(header.basis),
        source = quoted(&header.source),
        mean = error.mean,
        p95 = error.p95,
        max = error.max,
    );
    if header.basis != "measured" {
        text.push_str(
            "# The error is that of the fit; nobody knows the law's.\nunchecked = true\n",
        );
    }
    if let Some(table) = &fit.table {
        text.push_str("# (tokens in the step, ms), in place of the hinge.\n");
        text.push_str("linear_ms_by_tokens = [\n");
        for line in table.points().chunks(6) {
            let points = line.iter().map(|(tokens, ms)| format!("[{tokens}, {}]", digits(*ms)));
            let points: Vec<String> = points.collect();
            let _ = writeln!(text, "  {},", points.join(", "));
        }
        text.push_str("]\n");
    }
    text.push_str("\n[models.step_time]\n");
    let _ =
        writeln!(text, "# {}\nhost_ms = {}", header.host_note, digits(fit.coefficients.host_ms));
    for estimate in &fit.estimates {
        match &estimate.origin {
            Origin::Assumed { reason } => {
                let _ = writeln!(text, "# assumed: {reason}.");
            }
            Origin::Given if estimate.coefficient == Coefficient::M => {
                let note = header.mixed_note.as_deref().unwrap_or("given");
                let _ = writeln!(text, "# {note}");
            }
            Origin::Given if estimate.coefficient == Coefficient::W => {
                text.push_str(
                    "# w, b and p of the closest hinge; the table stands in its place.\n",
                );
            }
            Origin::Given | Origin::Fitted { .. } | Origin::AtBound | Origin::Missing { .. } => {}
        }
        let (name, value) = (estimate.coefficient.name(), digits(estimate.value));
        let _ = writeln!(text, "{name} = {value}");
    }
    text
}

/// The coefficients with their intervals, a line each.
pub fn coefficient_table(fit: &Fit) -> String {
    let mut text = format!("{:<26}{:>12}   95 % interval\n", "coefficient", "value");
    let host = digits(fit.coefficients.host_ms);
    let _ = writeln!(text, "{:<26}{host:>12}   given: no step log tells it from t0_ms", "host_ms");
    for estimate in &fit.estimates {
        let (name, value) = (estimate.coefficient.name(), digits(estimate.value));
        let note = match &estimate.origin {
            Origin::Fitted { low, high } => format!("{} .. {}", digits(*low), digits(*high)),
            Origin::AtBound => "at its bound: the best value is the last one allowed".to_owned(),
            Origin::Given => "given".to_owned(),
            Origin::Assumed { reason } | Origin::Missing { reason } => {
                let word = if matches!(estimate.origin, Origin::Missing { .. }) {
                    "unknown"
                } else {
                    "assumed"
                };
                format!("{word}: {reason}; {}", estimate.coefficient.advice())
            }
        };
        let _ = writeln!(text, "{name:<26}{value:>12}   {note}");
    }
    text
}

/// Four significant digits, never in scientific notation: a profile is read by people.
fn digits(value: f64) -> String {
    if value.abs() < 1e-9 {
        return "0.0".to_owned();
    }
    let decimals = (3 - value.abs().log10().floor() as i32).max(1) as usize;
    let text = format!("{value:.decimals$}");
    let trimmed = text.trim_end_matches('0');
    if trimmed.ends_with('.') { format!("{trimmed}0") } else { trimmed.to_owned() }
}

fn quoted(text: &str) -> String {
    // JSON's strings are TOML's.
    serde_json::to_string(text).expect("text is always JSON")
}

/// Writes a file in one rename, so that nobody reads half of it.
///
/// # Errors
/// What the file system said, with the path.
pub fn write_atomically(path: &Path, text: &str) -> Result<(), io::Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.map_or_else(|| PathBuf::from("."), Path::to_owned);
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()))
    };
    let mut file = tempfile::Builder::new()
        .prefix(".profile-")
        .suffix(".partial")
        .permissions(permissions())
        .tempfile_in(folder)
        .map_err(named)?;
    file.write_all(text.as_bytes()).map_err(named)?;
    file.persist(path).map_err(|error| named(error.error))?;
    Ok(())
}

/// What a file usually has; a temporary one is for its owner alone.
#[cfg(unix)]
fn permissions() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::Permissions::from_mode(0o644)
}
