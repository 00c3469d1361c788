//! The wall clock. Nothing else in Diptych reads it: decisions take `now` as an argument.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The wall clock's time, for people and records; never for measuring how long something took.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock"
)]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// A wall clock.
pub trait Wall: std::fmt::Debug + Send + Sync {
    /// Its time. It may jump, in either direction.
    fn now(&self) -> SystemTime;
}

/// The machine's, by [`now`].
#[derive(Debug, Clone, Copy, Default)]
pub struct MachineClock;

impl Wall for MachineClock {
    fn now(&self) -> SystemTime {
        now()
    }
}

/// Milliseconds since 1970, 0 for earlier times.
pub fn unix_millis(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time that [`unix_millis`] stands for.
pub fn from_unix_millis(millis: u64) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_millis(millis))
        .unwrap_or(UNIX_EPOCH)
}
