//! The digest by which a recording names the case it was made from.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// SHA-256 of a case as the recorder spells it: no spaces, keys in order, ASCII only. Floating-point numbers
/// below 0.0001 would be spelled differently; the recorder's cases have none.
pub(super) fn input_sha256(case: &Value) -> String {
    let mut text = String::new();
    write(case, &mut text);
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<_, _> = fields.iter().collect();
            list(text, '{', '}', sorted, |text, (name, value)| {
                write_string(name, text);
                text.push(':');
                write(value, text);
            });
        }
        Value::Array(values) => list(text, '[', ']', values, |text, value| write(value, text)),
        Value::String(string) => write_string(string, text),
        Value::Null | Value::Bool(_) | Value::Number(_) => text.push_str(&value.to_string()),
    }
}

fn list<T>(
    text: &mut String,
    open: char,
    close: char,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut String, T),
) {
    text.push(open);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        write(text, item);
    }
    text.push(close);
}

/// With what is not ASCII as UTF-16 escapes.
fn write_string(string: &str, text: &mut String) {
    for c in Value::from(string).to_string().chars() {
        if matches!(c, ' '..='~') {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(text, "\\u{unit:04x}").expect("a String takes what is written to it");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spelling_is_the_recorders() {
        let mut text = String::new();
        let case = r#" {"b": [1, -2, 0.01, true, null], "a": {"ü\n\"": "😀\u007f/"} } "#;
        write(&serde_json::from_str(case).unwrap(), &mut text);
        // What json.dumps(case, sort_keys=True, separators=(",", ":")) prints.
        let expected =
            "{\"a\":{\"\\u00fc\\n\\\"\":\"\\ud83d\\ude00\\u007f/\"},\"b\":[1,-2,0.01,true,null]}";
        assert_eq!(text, expected);
    }
}
