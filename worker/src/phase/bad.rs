//! Bad images: each is named once, and those of all ranks together stay within the share that the spec allows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use diptych_common::digest::Digest;
use diptych_images::shard::SampleId;
use tch::Tensor;

use super::PhaseError;
use super::evaluation::gather;
use crate::batch::{BAD_SHOWN, BadImage, LoadError, Source, most_bad};
use crate::collective::Collective;
use crate::trainer::{Control, Report};

/// Names bad images to people, each once a process, whoever came across it first. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Notices {
    control: Control,
    told: Told,
}

/// The bad images that people have heard of. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Told(Arc<Mutex<BTreeSet<(Digest, SampleId)>>>);

/// The bad training images that all ranks have found: the same set on every rank after every step, for any number of
/// ranks.
#[derive(Debug)]
pub struct BadShare {
    data: Source,
    most: u64,
    /// By sample, with the reason where this rank found it.
    found: BTreeMap<u64, Option<String>>,
    /// Found here since the last exchange.
    new: Vec<i64>,
}

// === impl Notices ===

impl Notices {
    /// Notices of one attempt, of what has not been told in an earlier one.
    pub fn new(control: &Control, told: &Told) -> Self {
        Self {
            control: control.clone(),
            told: told.clone(),
        }
    }

    /// Names a bad image of `data` and says what becomes of its place.
    pub fn bad(&self, data: &Source, bad: &BadImage, then: &str) {
        let mut told = self.told.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert((data.index().digest(), bad.sample)) {
            self.control.report(Report::Notice {
                kind: "bad_image",
                message: format!("{} {}; {then}", bad.name, bad.reason),
            });
        }
    }

    /// Whether the attempt goes on.
    ///
    /// # Errors
    /// When it was aborted.
    pub fn check(&self) -> Result<(), PhaseError> {
        Ok(self.control.check()?)
    }
}

// === impl BadShare ===

impl BadShare {
    /// Allows a share of the images of `data` to be bad.
    pub fn new(data: &Source, share: f64) -> Self {
        Self {
            data: data.clone(),
            most: most_bad(data.len(), share),
            found: BTreeMap::new(),
            new: Vec::new(),
        }
    }

    /// Notes what this rank found.
    pub fn note(&mut self, bad: Vec<BadImage>) {
        for BadImage { sample, reason, .. } in bad {
            let place = sample.get();
            if self.found.insert(place, Some(reason)).is_none() {
                self.new.push(place as i64);
            }
        }
    }

    /// How many images the others have not heard of.
    pub fn unheard(&self) -> usize {
        self.new.len()
    }

    /// Tells every rank what every rank found; a collective call, for steps in which any rank found something.
    ///
    /// # Errors
    /// [`LoadError::TooManyBad`], on every rank at once; or the collective's.
    pub fn exchange(&mut self, channel: &dyn Collective) -> Result<(), PhaseError> {
        let mine = Tensor::from_slice(&std::mem::take(&mut self.new));
        for place in Vec::<i64>::try_from(gather(&mine, channel)?)? {
            self.found.entry(place as u64).or_default();
        }
        let bad = self.found.len() as u64;
        if bad <= self.most {
            return Ok(());
        }
        let name = |place: u64| self.data.index().name(SampleId::new(place));
        let examples = self
            .found
            .iter()
            .take(BAD_SHOWN)
            .map(|(&place, reason)| match reason {
                Some(reason) => format!("{} {reason}", name(place)),
                None => name(place).to_owned(),
            });
        Err(LoadError::TooManyBad {
            bad,
            samples: self.data.len(),
            most: self.most,
            examples: examples.collect(),
        }
        .into())
    }
}

/// Refuses an evaluation that left out more images than allowed. `bad` are those of all ranks, `here` this rank's.
///
/// # Errors
/// [`LoadError::TooManyBad`].
pub fn within(data: &Source, bad: u64, here: &[BadImage], share: f64) -> Result<(), PhaseError> {
    let most = most_bad(data.len(), share);
    if bad <= most {
        return Ok(());
    }
    let mut examples: Vec<String> = here
        .iter()
        .take(BAD_SHOWN)
        .map(|bad| format!("{} {}", bad.name, bad.reason))
        .collect();
    if examples.is_empty() {
        examples.push("other ranks found them, see the job's events".to_owned());
    }
    Err(LoadError::TooManyBad {
        bad,
        samples: data.len(),
        most,
        examples,
    }
    .into())
}
