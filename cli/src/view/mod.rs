//! What the wire said, or a plan, in the words and the order that `-o json` keeps stable.

pub(crate) mod job; // jobs
pub(crate) mod phase; // their phases
pub(crate) mod rank; // the phases' ranks
pub(crate) mod summary; // what a job came to
pub(crate) mod states; // where jobs and phases are
pub(crate) mod history; // events, logs, metrics, explanations
pub(crate) mod checkpoint; // checkpoints
pub(crate) mod plan; // what a job takes
pub(crate) mod scale; // what another number of ranks does
pub(crate) mod device; // their devices
pub(crate) mod worker; // workers
pub(crate) mod top; // ranks by worker
pub(crate) mod admin; // backups, debug bundles
pub(crate) mod cluster; // versions, contexts

pub(crate) use job::JobView;
pub(crate) use phase::PhaseView;
pub(crate) use states::{JobState, PhaseState};

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

/// ISO 8601 in UTC, to the second.
fn time(at: Option<Timestamp>) -> Option<String> {
    instant(at).map(|at| humantime::format_rfc3339_seconds(at).to_string())
}

/// ISO 8601 in UTC, to the millisecond.
fn fine_time(at: Option<Timestamp>) -> Option<String> {
    instant(at).map(|at| humantime::format_rfc3339_millis(at).to_string())
}

fn instant(at: Option<Timestamp>) -> Option<SystemTime> {
    let time = SystemTime::try_from(at?).ok()?;
    // Past the year 9999, `humantime` cannot write it.
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    (SystemTime::UNIX_EPOCH..end)
        .contains(&time)
        .then_some(time)
}

/// Seconds between two moments, where both are known.
fn seconds_between(start: Option<Timestamp>, end: Option<Timestamp>) -> Option<f64> {
    Some(
        instant(end)?
            .duration_since(instant(start)?)
            .ok()?
            .as_secs_f64(),
    )
}

fn some_text(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}
