//! Counts, classes, sizes and the first few problems of a data set.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::decode::{Image, decode};
use crate::shard::{DataError, Index, SampleId};

/// Samples read in one go.
const CHUNK: u64 = 256;
/// Problems that are kept; the rest is counted.
const PROBLEMS_KEPT: usize = 10;

/// What [`inspect`] found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Samples in the data set.
    pub samples: u64,
    /// Samples that were decoded: all of them, or an even choice.
    pub decoded: u64,
    /// Decoded samples that are unusable.
    pub bad: u64,
    /// Samples of each class over the whole data set, in label order; empty without labels.
    pub classes: Vec<ClassCount>,
    /// Width of the decoded images in pixels.
    pub width: Option<Sides>,
    /// Height of the decoded images in pixels.
    pub height: Option<Sides>,
    /// Mean size of an encoded image in bytes.
    pub mean_bytes: u64,
    /// Decoded images by format.
    pub formats: BTreeMap<&'static str, u64>,
    /// The first few problems.
    pub problems: Vec<Problem>,
    /// BLAKE3 of the index, hex: a part of what checkpoints remember the data by.
    pub digest: String,
}

/// One class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    /// Its name.
    pub name: String,
    /// Its samples.
    pub samples: u64,
}

/// Smallest, middle and largest length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sides {
    /// Smallest.
    pub min: usize,
    /// Middle.
    pub median: usize,
    /// Largest.
    pub max: usize,
}

/// One unusable sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Its name.
    pub sample: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Counts a data set and decodes up to `most` of its images, evenly chosen. `seen` is told how many are done, and of
/// how many.
///
/// # Errors
/// None for a bad image: those are counted. A store that fails stops the inspection.
pub async fn inspect(
    index: &Index,
    most: u64,
    mut seen: impl FnMut(u64, u64),
) -> Result<Report, DataError> {
    let chosen = index.len().min(most);
    let mut report = Report {
        samples: index.len(),
        decoded: 0,
        bad: 0,
        classes: count_classes(index),
        width: None,
        height: None,
        mean_bytes: 0,
        formats: BTreeMap::new(),
        problems: Vec::new(),
        digest: index.digest().to_string(),
    };
    let (mut widths, mut heights, mut bytes) = (Vec::new(), Vec::new(), 0);
    for first in (0..chosen).step_by(CHUNK as usize) {
        let ids: Vec<SampleId> = (first..chosen.min(first + CHUNK))
            .map(|place| SampleId::new(place * index.len() / chosen))
            .collect();
        for (id, encoded) in ids.iter().zip(index.read(&ids).await) {
            report.decoded += 1;
            match examine(encoded) {
                Ok((image, format, size)) => {
                    widths.push(image.width);
                    heights.push(image.height);
                    bytes += size;
                    *report.formats.entry(format).or_default() += 1;
                }
                Err(problem) => {
                    report.bad += 1;
                    if report.problems.len() < PROBLEMS_KEPT {
                        report.problems.push(Problem {
                            sample: index.name(*id).to_owned(),
                            problem,
                        });
                    }
                }
            }
        }
        seen(report.decoded, chosen);
    }
    report.mean_bytes = bytes.checked_div(widths.len() as u64).unwrap_or(0);
    report.width = sides(widths);
    report.height = sides(heights);
    Ok(report)
}

fn examine(encoded: Result<bytes::Bytes, DataError>) -> Result<(Image, &'static str, u64), String> {
    let encoded = encoded.map_err(|error| error.to_string())?;
    let image = decode(&encoded).map_err(|error| error.to_string())?;
    let format = if encoded.starts_with(&[0xff]) {
        "jpeg"
    } else {
        "png"
    };
    Ok((image, format, encoded.len() as u64))
}

fn count_classes(index: &Index) -> Vec<ClassCount> {
    let mut counts: Vec<ClassCount> = index
        .classes()
        .iter()
        .map(|name| ClassCount {
            name: name.clone(),
            samples: 0,
        })
        .collect();
    for label in (0..index.len()).filter_map(|place| index.label(SampleId::new(place))) {
        if let Some(class) = counts.get_mut(label as usize) {
            class.samples += 1;
        }
    }
    counts
}

fn sides(mut lengths: Vec<usize>) -> Option<Sides> {
    lengths.sort_unstable();
    Some(Sides {
        min: *lengths.first()?,
        median: *lengths.get(lengths.len() / 2)?,
        max: *lengths.last()?,
    })
}
