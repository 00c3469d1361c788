//! Object keys: `{job}/{phase:02}-{name}/step-{step:012}-a{attempt:06}/` and `shard-{rank:05}.safetensors` or
//! `manifest.json` in it; beside them `tensorboard/events.out.tfevents.{attempt:010}.{segment:06}`. The attempt is part
//! of the key, so that a stale rank can overwrite nothing.

use std::fmt;
use std::str::FromStr;

use crate::ids::{Attempt, JobId, PhaseIndex, PhaseName, Rank, Step};

/// One checkpoint's folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointKey {
    /// The job.
    pub job: JobId,
    /// The phase's position.
    pub phase: PhaseIndex,
    /// The phase's name.
    pub name: PhaseName,
    /// Steps that the checkpoint holds.
    pub step: Step,
    /// The attempt that wrote it.
    pub attempt: Attempt,
}

/// One checkpoint's manifest: its folder and `/manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManifestKey(pub CheckpointKey);

/// One TensorBoard event file of a phase. The names of a phase's files stand in the order in which they were written:
/// TensorBoard reads them so, and knows them by the word `tfevents`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventsKey {
    /// The job.
    pub job: JobId,
    /// The phase's position.
    pub phase: PhaseIndex,
    /// The phase's name.
    pub name: PhaseName,
    /// The attempt that wrote it.
    pub attempt: Attempt,
    /// Its place among the files of the attempt.
    pub segment: u64,
}

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a checkpoint key: `job/00-phase/step-000000000000-a000000`, and `/manifest.json` for a manifest"
)]
pub struct KeyError {
    /// What was given.
    pub text: String,
}

const MANIFEST: &str = "/manifest.json";

impl CheckpointKey {
    /// The folder of all checkpoints of a job, with its closing slash.
    pub fn job_prefix(job: &JobId) -> String {
        format!("{job}/")
    }

    /// The key of a rank's shard.
    pub fn shard(&self, rank: Rank) -> String {
        format!("{self}/shard-{:05}.safetensors", rank.get())
    }

    /// The key of the manifest.
    pub fn manifest(&self) -> ManifestKey {
        ManifestKey(self.clone())
    }

    /// The checkpoint that an object's key belongs to; `None` for any other object.
    pub fn of_object(key: &str) -> Option<Self> {
        key.rsplit_once('/')?.0.parse().ok()
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let (job, phase, step) = (parts.next()?, parts.next()?, parts.next()?);
        let (index, name) = phase.split_once('-')?;
        let (step, attempt) = step.strip_prefix("step-")?.split_once("-a")?;
        let key = Self {
            job: job.parse().ok()?,
            phase: PhaseIndex::new(index.parse().ok()?),
            name: name.parse().ok()?,
            step: Step::new(step.parse().ok()?),
            attempt: Attempt::new(attempt.parse().ok()?),
        };
        // One checkpoint has one spelling.
        (key.to_string() == text).then_some(key)
    }
}

impl fmt::Display for CheckpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            job,
            phase,
            name,
            step,
            attempt,
        } = self;
        write!(
            f,
            "{job}/{:02}-{name}/step-{:012}-a{:06}",
            phase.get(),
            step.get(),
            attempt.get()
        )
    }
}

impl fmt::Display for EventsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{:02}-{}/tensorboard/events.out.tfevents.{:010}.{:06}",
            self.job,
            self.phase.get(),
            self.name,
            self.attempt.get(),
            self.segment
        )
    }
}

impl FromStr for CheckpointKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::read(text).ok_or_else(|| KeyError {
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for ManifestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{MANIFEST}", self.0)
    }
}

impl FromStr for ManifestKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let folder = text.strip_suffix(MANIFEST).and_then(CheckpointKey::read);
        folder.map(Self).ok_or_else(|| KeyError {
            text: text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDER: &str = "digits-0a1b2c/03-fine-tune-1/step-000000000420-a000007";

    #[test]
    fn keys_are_read_back_as_they_were_written() {
        let key: CheckpointKey = FOLDER.parse().expect("a key");
        assert_eq!(key.name.as_str(), "fine-tune-1");
        assert_eq!(
            (key.phase.get(), key.step.get(), key.attempt.get()),
            (3, 420, 7)
        );
        assert_eq!(key.to_string(), FOLDER);
        assert_eq!(key.manifest().to_string().parse(), Ok(key.manifest()));
        assert_eq!(
            CheckpointKey::of_object(&key.shard(Rank::new(12))),
            Some(key.clone())
        );
        let wide = CheckpointKey {
            step: Step::new(u64::MAX),
            attempt: Attempt::new(u64::MAX),
            ..key
        };
        assert_eq!(wide.to_string().parse(), Ok(wide));
    }

    #[test]
    fn event_files_lie_beside_the_checkpoints_and_are_none() {
        let key: CheckpointKey = FOLDER.parse().expect("a key");
        let events = |attempt, segment| {
            EventsKey {
                job: key.job.clone(),
                phase: key.phase,
                name: key.name.clone(),
                attempt: Attempt::new(attempt),
                segment,
            }
            .to_string()
        };
        let first = events(2, 0);
        assert_eq!(
            first,
            "digits-0a1b2c/03-fine-tune-1/tensorboard/events.out.tfevents.0000000002.000000"
        );
        assert!(first < events(2, 1) && events(2, 999) < events(10, 0));
        assert_eq!(CheckpointKey::of_object(&first), None);
    }

    #[test]
    fn other_spellings_are_refused() {
        let bad = [
            "",
            "x",
            "digits-0a1b2c/3-fine/step-000000000420-a000007",
            "digits-0a1b2c/03-fine/step-420-a7",
            "digits-0a1b2c/03-fine/step-000000000420-a000007/",
            "digits-0a1b2c/03-fine/step-000000000420-a000007/x",
            "../03-fine/step-000000000420-a000007",
            "digits-0a1b2c/03-fine/step-+00000000420-a000007",
        ];
        for text in bad {
            assert!(text.parse::<CheckpointKey>().is_err(), "{text}");
            assert!(
                format!("{text}/manifest.json")
                    .parse::<ManifestKey>()
                    .is_err()
                    || text.is_empty(),
                "{text}"
            );
        }
        assert!(FOLDER.parse::<ManifestKey>().is_err());
    }
}
