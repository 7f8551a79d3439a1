//! Virtual time, which passes as real time does or so many times as fast.

use std::time::{Duration, Instant};

use lodestar_router::Time;

#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    origin: Instant,
    scale: f64,
}

impl Clock {
    /// `scale` is positive.
    pub(super) fn new(scale: f64) -> Self {
        Self { origin: Instant::now(), scale }
    }

    pub(super) fn now(&self) -> Time {
        Time::from_nanos((self.origin.elapsed().as_nanos() as f64 * self.scale) as u64)
    }

    /// When it will be `time`, or a little later.
    pub(super) fn when(&self, time: Time) -> Instant {
        let nanos = (time.as_nanos() as f64 / self.scale).ceil() as u64;
        self.origin + Duration::from_nanos(nanos)
    }
}
