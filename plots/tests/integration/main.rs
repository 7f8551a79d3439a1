//! Figures of a small replay.

mod smoke;
