//! A verified final checkpoint moves the phase, and with it the job, on. Retention.

pub mod phase; // done, and what comes next
pub mod retention; // what is kept

pub use phase::{advance, work_committed};
pub use retention::{collect, superfluous};
