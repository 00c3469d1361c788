//! What a plan knows of the data: read from the data itself, stated by the caller, or assumed.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::ids::DataName;
use crate::spec::{JobSpec, Labels, Stem};

/// Where a fact comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The data's own index.
    Read,
    /// Stated with the request.
    Stated,
    /// The data set that the papers used for networks like this one.
    Assumed,
}

/// One data set, its `limit` applied.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DataFacts {
    /// Samples.
    pub images: u64,
    /// Classes; 0 where it has no labels.
    pub classes: u64,
    /// Where the two numbers come from.
    pub origin: Origin,
    /// Samples of each class, where the index was read.
    #[serde(skip)]
    pub class_sizes: Vec<u64>,
    /// Mean bytes of a decoded image, three a pixel.
    pub decoded_bytes: u64,
    /// Mean bytes of an image as stored.
    pub stored_bytes: u64,
    /// Whether it is stored in Parquet, whose row groups are kept in memory beside the images.
    pub row_groups: bool,
}

/// What is known of a job's data.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// The data sets.
    pub data: BTreeMap<DataName, DataFacts>,
    /// Names in each list of labels, by URL, where it could be read.
    pub lists: BTreeMap<String, u64>,
}

// === impl DataFacts ===

impl DataFacts {
    /// What the papers trained on: CIFAR-10 with a CIFAR stem, ImageNet (ILSVRC 2012) with the other one; the training
    /// images where a phase of the job trains on this set, the held-out ones otherwise.
    pub fn assumed(spec: &JobSpec, name: &DataName) -> Self {
        let trains = spec.phases().iter().any(|phase| phase.train == *name);
        let (images, held_out, classes, decoded_bytes, stored_bytes) = match spec.encoder().stem {
            Stem::Cifar => (50_000, 10_000, 10, 3 * 32 * 32, 2_300),
            Stem::ImageNet => (1_281_167, 50_000, 1000, 3 * 400 * 350, 110_000),
        };
        let data = spec.data().get(name);
        let stated = data.and_then(|data| data.classes.as_ref());
        let limit = data.and_then(|data| data.limit).unwrap_or(u64::MAX);
        Self {
            images: limit.min(if trains { images } else { held_out }),
            classes: stated.map_or(classes, |names| names.len() as u64),
            origin: Origin::Assumed,
            class_sizes: Vec::new(),
            decoded_bytes,
            stored_bytes,
            row_groups: false,
        }
    }

    /// The images that a rule allows; `lists` as in [`Facts`]. All, where a list could not be read.
    pub fn chosen(&self, rule: &Labels, lists: &BTreeMap<String, u64>) -> u64 {
        match rule {
            Labels::All => self.images,
            Labels::Share { share, .. } if self.class_sizes.is_empty() => {
                ((self.images as f64 * share).round() as u64).max(self.classes.min(self.images))
            }
            Labels::Share { share, .. } => {
                let filled = self.class_sizes.iter().filter(|size| **size > 0);
                filled.map(|size| Labels::share_of(*size, *share)).sum()
            }
            Labels::PerClass { count, .. } => u64::from(*count)
                .saturating_mul(self.classes)
                .min(self.images),
            Labels::List { url } => lists.get(url).copied().unwrap_or(self.images),
        }
    }
}

impl Facts {
    /// What is known of a data set, or assumed where nothing is.
    pub fn of(&self, spec: &JobSpec, name: &DataName) -> DataFacts {
        let known = self.data.get(name).cloned();
        known.unwrap_or_else(|| DataFacts::assumed(spec, name))
    }
}
