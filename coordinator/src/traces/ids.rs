//! Names of traces and spans. They follow from what is named, so that every coordinator that takes a job up gives the same.

use diptych_common::ids::{Attempt, JobId, PhaseName};

use crate::core::UnixMs;

/// The trace of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TraceId([u8; 16]);

/// One span of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpanId([u8; 8]);

/// What a span is of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part<'a> {
    /// The job, from its submit to its end.
    Job,
    /// What follows when a client wants a job that had ended to go on: from this time to its next end.
    Retry(UnixMs),
    /// A wait for devices, in one of these two, after this attempt.
    Queued(SpanId, Attempt),
    /// A phase, in one of these two.
    Phase(SpanId, &'a PhaseName),
    /// An attempt.
    Attempt(&'a PhaseName, Attempt),
}

impl TraceId {
    /// Of this job.
    pub fn of(job: &JobId) -> Self {
        Self(first(job, &[]))
    }

    /// As it is sent.
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl SpanId {
    pub(super) fn of(job: &JobId, part: Part<'_>) -> Self {
        Self(match part {
            Part::Job => first(job, &[b"job"]),
            Part::Retry(at) => first(job, &[b"retry", &at.get().to_le_bytes()]),
            Part::Queued(within, after) => {
                first(job, &[b"queued", &within.0, &after.get().to_le_bytes()])
            }
            Part::Phase(within, name) => {
                first(job, &[b"phase", &within.0, name.as_str().as_bytes()])
            }
            Part::Attempt(phase, attempt) => {
                let number = attempt.get().to_le_bytes();
                first(job, &[b"attempt", phase.as_str().as_bytes(), &number])
            }
        })
    }

    /// As it is sent.
    pub const fn bytes(self) -> [u8; 8] {
        self.0
    }
}

/// The first bytes of a BLAKE3 over these words.
fn first<const N: usize>(job: &JobId, words: &[&[u8]]) -> [u8; N] {
    let mut hasher = blake3::Hasher::new_derive_key("diptych.v1 names of traces and spans");
    for word in [job.as_str().as_bytes()].iter().chain(words) {
        hasher.update(&(word.len() as u64).to_le_bytes());
        hasher.update(word);
    }
    let mut bytes = [0; N];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_from_what_is_named_and_no_two_are_alike() {
        let (one, other): (JobId, JobId) = ("a-1".parse().unwrap(), "a-2".parse().unwrap());
        assert_eq!(TraceId::of(&one), TraceId::of(&one));
        assert_ne!(TraceId::of(&one), TraceId::of(&other));
        // Held fast: another release that went on with a job would break its trace in two.
        assert_eq!(hex(&TraceId::of(&one).bytes()), TRACE);
        assert_eq!(hex(&SpanId::of(&one, Part::Job).bytes()), JOB);
        let (pretrain, linear) = ("pretrain".parse().unwrap(), "linear".parse().unwrap());
        let within = SpanId::of(&one, Part::Job);
        let attempt = Attempt::new;
        let parts = [
            Part::Job,
            Part::Retry(UnixMs::new(1)),
            Part::Retry(UnixMs::new(2)),
            Part::Queued(within, attempt(0)),
            Part::Queued(within, attempt(1)),
            Part::Phase(within, &pretrain),
            Part::Phase(within, &linear),
            Part::Attempt(&pretrain, attempt(1)),
            Part::Attempt(&linear, attempt(1)),
            Part::Attempt(&linear, attempt(2)),
        ];
        let all = [&one, &other].map(|job| parts.map(|part| SpanId::of(job, part)));
        let different: BTreeSet<SpanId> = all.iter().flatten().copied().collect();
        assert_eq!(different.len(), 2 * parts.len());
    }

    const TRACE: &str = "deea7e2ef5db3a8e49db54116647d935";
    const JOB: &str = "b73b2f7e538c0002";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
