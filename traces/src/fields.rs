//! The named values of one row, JSON or CSV, and the typed ways to read them.
//!
//! Not a serde struct per format: serde names neither the field nor the remedy when a value is wrong.
//! A row is split into pairs of name and raw text, and each value is parsed once, where it is asked
//! for, so that every complaint carries its field.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{Problem, RowError, excerpt};
use crate::format::Format;
use crate::number::{self, Unit};

/// The fields of a format.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) format: Format,
    /// A first line with any of these is of this format.
    pub(crate) telling: &'static [&'static str],
    pub(crate) required: &'static [&'static str],
    pub(crate) optional: &'static [&'static str],
}

/// One row of a file that follows a [`Schema`].
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    schema: &'static Schema,
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Fields<'a> {
    /// A line of JSON: every required field, no unknown one, none twice.
    pub(crate) fn from_json(line: &'a str, schema: &'static Schema) -> Result<Self, RowError> {
        let pairs = json_pairs(line)?;
        check_names(&pairs.iter().map(|&(name, _)| name).collect::<Vec<_>>(), schema)?;
        Ok(Self { schema, pairs })
    }

    /// A line of JSON of which only these fields matter: whether a required one is there shows when it is asked for, and
    /// others are passed over.
    pub(crate) fn among_json(line: &'a str, schema: &'static Schema) -> Result<Self, RowError> {
        Ok(Self { schema, pairs: json_pairs(line)? })
    }

    /// A line of CSV under a header that [`check_names`] accepted.
    ///
    /// Split at commas, without quoting: both CSV formats hold numbers, times and plain words, and a
    /// record that is always one line shares its length limit and its line numbers with JSON lines.
    pub(crate) fn from_csv(
        header: &'a [String],
        line: &'a str,
        schema: &'static Schema,
    ) -> Result<Self, RowError> {
        let found = line.split(',').count();
        if found != header.len() {
            return Err(Problem::ColumnCount { found, expected: header.len() }.into());
        }
        let values = line.split(',').map(unquote);
        Ok(Self { schema, pairs: header.iter().map(String::as_str).zip(values).collect() })
    }

    /// The raw text of a field, if the row has it and it is not empty or null.
    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        let (_, text) = self.pairs.iter().find(|(have, _)| *have == name)?;
        (!text.is_empty() && *text != "null").then_some(*text)
    }

    fn required(&self, name: &'static str) -> Result<&'a str, RowError> {
        self.text(name).ok_or_else(|| missing(name, self.schema))
    }

    /// A prompt or output length; may be 0.
    pub(crate) fn tokens(&self, name: &'static str) -> Result<u32, RowError> {
        number::tokens(self.required(name)?).map_err(|problem| RowError::in_field(name, problem))
    }

    /// A time since the start of the trace, nanoseconds.
    pub(crate) fn time_ns(&self, name: &'static str, unit: Unit) -> Result<u64, RowError> {
        number::time_ns(self.required(name)?, unit)
            .map_err(|problem| RowError::in_field(name, problem))
    }

    /// A moment in UTC, nanoseconds of the Unix epoch.
    pub(crate) fn utc_ns(&self, name: &'static str) -> Result<u64, RowError> {
        number::utc_ns(self.required(name)?).map_err(|problem| RowError::in_field(name, problem))
    }

    /// A non-negative integer.
    pub(crate) fn id(&self, name: &'static str) -> Result<u64, RowError> {
        number::id(self.required(name)?).map_err(|problem| RowError::in_field(name, problem))
    }

    /// An object within the row, as [`Self::among_json`] reads it.
    pub(crate) fn object(
        &self,
        name: &'static str,
        schema: &'static Schema,
    ) -> Result<Self, RowError> {
        let text = self.required(name)?;
        Self::among_json(text, schema).map_err(|_| {
            let expected = "a JSON object";
            RowError::in_field(name, Problem::Malformed { found: excerpt(text), expected })
        })
    }

    /// A JSON value of another type; `expected` describes it.
    pub(crate) fn json<T: DeserializeOwned>(
        &self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<T, RowError> {
        let text = self.required(name)?;
        serde_json::from_str(text).map_err(|_| {
            RowError::in_field(name, Problem::Malformed { found: excerpt(text), expected })
        })
    }
}

/// The names in the header line of a CSV file.
pub(crate) fn names_of_csv(line: &str) -> Vec<&str> {
    line.split(',').map(unquote).collect()
}

/// The names in a JSON object.
pub(crate) fn names_of_json(line: &str) -> Result<Vec<&str>, RowError> {
    Ok(json_pairs(line)?.into_iter().map(|(name, _)| name).collect())
}

/// Every required name is there, no unknown one, none twice.
pub(crate) fn check_names(names: &[&str], schema: &Schema) -> Result<(), RowError> {
    for (index, name) in names.iter().enumerate() {
        if names[..index].contains(name) {
            return Err(RowError::in_field(excerpt(name), Problem::Repeated));
        }
        if !schema.required.contains(name) && !schema.optional.contains(name) {
            let problem = Problem::Unknown { format: schema.format.name(), known: schema.known() };
            return Err(RowError::in_field(excerpt(name), problem));
        }
    }
    match schema.required.iter().find(|name| !names.contains(name)) {
        Some(name) => Err(missing(name, schema)),
        None => Ok(()),
    }
}

impl Schema {
    fn known(&self) -> String {
        [self.required, self.optional].concat().join(", ")
    }
}

fn missing(name: &'static str, schema: &Schema) -> RowError {
    let problem = Problem::Missing { format: schema.format.name(), known: schema.known() };
    RowError::in_field(name, problem)
}

fn unquote(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

fn json_pairs(line: &str) -> Result<Vec<(&str, &str)>, RowError> {
    let mut parser = serde_json::Deserializer::from_str(line);
    let pairs = parser.deserialize_map(Pairs).and_then(|pairs| parser.end().map(|()| pairs));
    pairs.map_err(|error| not_json(line, &error))
}

struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Vec<(&'de str, &'de str)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object with plain names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::with_capacity(8);
        while let Some((name, value)) = map.next_entry::<&str, &RawValue>()? {
            pairs.push((name, value.get()));
        }
        Ok(pairs)
    }
}

/// Python writes NaN and Infinity into what it calls JSON; name them instead of a syntax error.
fn not_json(line: &str, error: &serde_json::Error) -> RowError {
    let at = error.column().saturating_sub(1);
    let rest = line.get(at.saturating_sub(1)..).unwrap_or("").trim_start_matches([' ', ':', '-']);
    let Some(word) = ["NaN", "Infinity"].into_iter().find(|word| rest.starts_with(word)) else {
        // Each line is parsed by itself: the parser's own line number is always 1.
        let text = error.to_string();
        let what = text.split(" at line ").next().unwrap_or_default();
        return Problem::NotJson { detail: format!("{what} at column {}", error.column()) }.into();
    };
    let problem = Problem::NotFinite { found: word.to_owned() };
    // The name is what stands between the last quotes before the value.
    match line.get(..at).and_then(|before| before.rsplit('"').nth(1)) {
        Some(name) => RowError::in_field(name.to_owned(), problem),
        None => problem.into(),
    }
}
