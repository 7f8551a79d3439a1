//! What policies are measured against, and none of them could be: each knows what no router can know.
//!
//! [`clairvoyant_greedy`] knows output lengths and the inside of every engine, but decides request by request;
//! [`hindsight`] knows the whole trace and improves an assignment of it; [`physical_bound`] serves every request as if
//! it were alone, on the instance fastest for it, with everything cached. The first two are runs like any other and
//! no upper bounds of what is possible; the third can be reached by no run under load.

mod bound;
mod fate;
mod hindsight;
mod lanes;

pub use self::bound::physical_bound;
pub use self::hindsight::{Hindsight, hindsight, placements_of};
pub use crate::cluster::clairvoyant_greedy;
