//! Names for requests that come without one, unique among proxies and restarts.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::header::HeaderValue;

/// Makes names.
#[derive(Debug)]
pub(crate) struct RequestIds {
    /// Random: the standard library's hash keys are.
    process: u64,
    next: AtomicU64,
}

impl Default for RequestIds {
    fn default() -> Self {
        Self { process: RandomState::new().hash_one(0), next: AtomicU64::new(0) }
    }
}

impl RequestIds {
    /// A number that hardly any other process has.
    pub(crate) const fn process(&self) -> u64 {
        self.process
    }

    /// Another name: 32 hexadecimal digits, as vLLM makes them.
    pub(crate) fn next(&self) -> HeaderValue {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{:016x}{number:016x}", self.process);
        HeaderValue::from_str(&name).expect("hexadecimal digits are a header's value")
    }
}
