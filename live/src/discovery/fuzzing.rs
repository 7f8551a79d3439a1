//! Lists of instances from elsewhere ([`crate::fuzzing`]).

use super::{KubernetesDiscovery, PortName, file, kubernetes};
use crate::backend::Backend;
use crate::config::backends;

pub(crate) fn lists(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for is_json in [false, true] {
        let Ok(entries) = file::parse(&text, is_json) else { continue };
        if let Ok(backends) = backends(&entries, true) {
            assert_eq!(backends.len(), entries.len());
            let asked = |backend: &Backend| backend.uri("/health").is_some();
            assert!(backends.iter().all(asked), "an instance that cannot be asked: {entries:?}");
        }
    }
    for port in [PortName::Number(8000), PortName::Name("http".to_owned())] {
        let (service, namespace) = ("vllm".to_owned(), None);
        let (kv_events_port, kv_replay_port) = (Some(5557), Some(5558));
        let service =
            KubernetesDiscovery { service, namespace, port, kv_events_port, kv_replay_port };
        if let Ok(entries) = kubernetes::parse(bytes, &service) {
            // Nothing that a cluster lists is a reason to keep the list of before.
            backends(&entries, true).expect("addresses and ports, each once");
        }
    }
}
