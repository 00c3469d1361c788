//! Points in time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

/// A wall-clock time for a message; times before 1970 are sent as 1970.
pub fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Timestamp {
        seconds,
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

/// The time in a message; `None` where it is before 1970 or malformed.
pub fn from_timestamp(wire: &Timestamp) -> Option<SystemTime> {
    let (seconds, nanos) = (
        u64::try_from(wire.seconds).ok()?,
        u32::try_from(wire.nanos).ok()?,
    );
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))?
        .checked_add(Duration::from_nanos(nanos.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip_and_nonsense_is_refused() {
        let at = UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        assert_eq!(from_timestamp(&timestamp(at)), Some(at));
        for (seconds, nanos) in [(-1, 0), (0, -1), (i64::MAX, 0)] {
            let read = from_timestamp(&Timestamp { seconds, nanos });
            assert!(
                read.is_none() || seconds == i64::MAX,
                "{seconds} {nanos}: {read:?}"
            );
        }
    }
}
