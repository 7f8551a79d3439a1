//! What tests of runs share.

use lodestar_sim::step_time::HingeCoefficients;

/// A GPU on which a step takes some ten milliseconds.
pub(crate) const STEP_TIME: HingeCoefficients = HingeCoefficients {
    host_ms: 1.0,
    t0_ms: 0.5,
    w_ms: 7.0,
    b_us_per_token: 50.0,
    c_ns_per_pair: 3.0,
    d_us_per_decode_request: 2.0,
    e_ns_per_context_token: 90.0,
    p: 1.9,
    mixed_factor: 2.1,
};
