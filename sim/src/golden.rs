//! Holds the engine to recordings of the real vLLM scheduler.
//!
//! A case is a workload with engine settings and a linear law for step times; its golden is what vLLM
//! 0.32.0 did with it, step by step, on a virtual clock. `docs/golden.md` has both formats. A replay
//! compares every field of every step and stops at the first difference. There is no tolerance, and
//! no command that writes a golden from our own output.

mod case;
mod input_digest;
mod limits;
mod raw_case;
mod recording;
mod replay;

pub use self::case::{Case, CaseError};
pub use self::recording::{RecordedRequest, Recording, Step};
pub use self::replay::{Difference, Exact, Pace, replay};
