//! Does the simulator tell the truth? A measured log, replayed.
//!
//! Every request of the log is sent when it was sent, to the instance that served it; only the time it
//! takes is simulated. No router is asked, so that what differs is the engine's doing. The same code
//! reads every log, reconstructs every prompt and counts every error, whatever the file is called.

mod assess;
mod columns;
mod consistency;
mod content;
mod error;
mod fleet;
mod log;
mod replay;
mod router_log;
mod statistics;

pub use assess::{Assessment, Corrected, assess};
pub use consistency::{FEW_IN, correct_impossible};
pub use content::{Prompts, prompts_of, reconstruct};
pub use error::{LogError, MIN_ROWS};
pub use fleet::{LogFleet, LogFleetError};
pub use log::{CachedTokens, ClockAt, MeasuredLog, MeasuredRequest};
pub use replay::{Overhead, Pair, Validation, ValidationError, validate};
pub use statistics::{ErrorStatistics, median};
