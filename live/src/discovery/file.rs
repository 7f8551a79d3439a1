//! A file that somebody else keeps up to date.

use std::path::Path;

use serde::Deserialize;

use super::DiscoveryError;
use crate::config::InstanceEntry;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    instances: Vec<InstanceEntry>,
}

/// Reads the list. An empty one is nobody; an empty file is one that somebody is writing.
pub(super) fn read(path: &Path) -> Result<Vec<InstanceEntry>, DiscoveryError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| DiscoveryError::Read { path: path.to_owned(), error })?;
    let is_json = path.extension().is_some_and(|end| end == "json");
    parse(&text, is_json)
        .map_err(|complaint| DiscoveryError::File { path: path.to_owned(), complaint })
}

/// The list in a file's contents, or what is wrong with them.
pub(super) fn parse(text: &str, is_json: bool) -> Result<Vec<InstanceEntry>, String> {
    let list: List = if is_json {
        serde_json::from_str(text).map_err(|error| error.to_string())?
    } else {
        toml::from_str(text).map_err(|error| error.to_string())?
    };
    Ok(list.instances)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same_and_half_a_file_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let read_as = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            read(&path).map_err(|error| error.to_string())
        };
        let toml = "[[instances]]\nurl = 'http://a:1'\nkv_events = 'tcp://a:2'\n[[instances]]\nurl = 'http://b:1'\n";
        let json =
            r#"{"instances":[{"url":"http://a:1","kv_events":"tcp://a:2"},{"url":"http://b:1"}]}"#;
        let entries = read_as("list.toml", toml).unwrap();
        assert_eq!((entries.len(), &entries), (2, &read_as("list.json", json).unwrap()));
        assert_eq!(read_as("list.toml", "instances = []"), Ok(Vec::new()));
        for (name, text) in [
            ("list.toml", ""),
            ("list.toml", "[[instances]]\nur"),
            ("list.toml", "[[instances]]\nurl = 'http://a:1'\nweight = 2"),
            ("list.json", &json[..40]),
            ("list.json", ""),
        ] {
            let message = read_as(name, text).unwrap_err();
            assert!(message.contains(name) && message.contains("write it as"), "{message}");
        }
        assert!(read(&folder.path().join("absent")).is_err());
    }
}
