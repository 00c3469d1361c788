//! Names, labels and places of all samples of a data set.

use std::fmt;
use std::sync::Arc;

use diptych_common::digest::Digest;
use diptych_common::spec::{DataFormat, DataSpec};
use futures::{StreamExt, TryStreamExt};

use super::parquet::File;
use super::read::RowGroups;
use super::source::Source;
use super::{DataError, folder, tar};

/// Shards opened at once.
const OPEN_AT_ONCE: usize = 16;
/// Problems shown before the rest is only counted.
const PROBLEMS_SHOWN: usize = 10;
/// Larger label numbers are no classes.
const MOST_CLASSES: i64 = 1 << 20;

/// Position of a sample in its index, from 0: the identity that order and augmentation use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SampleId(u64);

/// A data set, ready to read. Cheap to clone.
///
/// Samples are in the order of their shards' keys and, in a shard, of its rows or members. The order and every name
/// and label are covered by [`digest`](Self::digest): a changed data set is another data set.
#[derive(Debug, Clone)]
pub struct Index {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) source: Source,
    /// Parquet only: one per object.
    pub(super) files: Vec<File>,
    pub(super) entries: Vec<Entry>,
    classes: Vec<String>,
    digest: Digest,
    pub(super) row_groups: RowGroups,
}

/// One sample while the index is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) label: Option<i64>,
    pub(super) place: Place,
}

/// Where a sample's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A part of an object.
    Bytes {
        object: u32,
        start: u64,
        length: u64,
    },
    /// A row of a Parquet file.
    Row { object: u32, group: u32, row: u32 },
}

// === impl SampleId ===

impl SampleId {
    /// Wraps a position.
    pub const fn new(position: u64) -> Self {
        Self(position)
    }

    /// The position.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SampleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

// === impl Index ===

impl Index {
    /// Lists a data set and reads all names and labels; no image is read.
    ///
    /// # Errors
    /// [`DataError::Missing`], [`DataError::Empty`], a shard that cannot be read, or labels that make no sense:
    /// negative, beyond the stated classes, or on some samples only. Labels that are all -1 count as none.
    pub async fn open(spec: &DataSpec) -> Result<Self, DataError> {
        let (format, source) = Source::list(&spec.url).await?.select(spec)?;
        let mut files = Vec::new();
        let (mut entries, found_classes) = match format {
            DataFormat::Parquet => {
                files = futures::stream::iter(&source.objects)
                    .map(|object| File::open(&source, object, spec))
                    .buffered(OPEN_AT_ONCE)
                    .try_collect()
                    .await?;
                let rows: Vec<Vec<Entry>> = futures::stream::iter(files.iter().enumerate())
                    .map(|(number, file)| file.entries(&source, number as u32))
                    .buffered(OPEN_AT_ONCE)
                    .try_collect()
                    .await?;
                (rows.concat(), one_list_of_classes(&files)?)
            }
            DataFormat::Tar => {
                let members: Vec<Vec<Entry>> =
                    futures::stream::iter(source.objects.iter().enumerate())
                        .map(|(number, object)| tar::entries(&source, number as u32, object))
                        .buffered(OPEN_AT_ONCE)
                        .try_collect()
                        .await?;
                (members.concat(), Vec::new())
            }
            DataFormat::Folder | DataFormat::Auto => folder::entries(&source),
        };
        let classes = settle_classes(spec, &mut entries, found_classes)?;
        if let Some(limit) = spec.limit {
            entries.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        }
        if entries.is_empty() {
            return Err(DataError::Empty {
                url: spec.url.clone(),
                wanted: "samples",
            });
        }
        let digest = digest(&source, &entries, &classes);
        let row_groups = RowGroups::new();
        Ok(Self {
            shared: Arc::new(Shared {
                source,
                files,
                entries,
                classes,
                digest,
                row_groups,
            }),
        })
    }

    /// Number of samples, at least 1.
    pub fn len(&self) -> u64 {
        self.shared.entries.len() as u64
    }

    /// Never true: an empty data set is refused.
    pub fn is_empty(&self) -> bool {
        self.shared.entries.is_empty()
    }

    /// A sample's name: its path, its tar key or its row. Empty for a position outside the index.
    pub fn name(&self, id: SampleId) -> &str {
        self.entry(id).map_or("", |entry| &entry.name)
    }

    /// A sample's label, below the number of classes.
    pub fn label(&self, id: SampleId) -> Option<u32> {
        self.entry(id)?
            .label
            .and_then(|label| u32::try_from(label).ok())
    }

    /// Whether samples have labels: all of them, or none.
    pub fn labelled(&self) -> bool {
        !self.shared.classes.is_empty()
    }

    /// Class names in label order; empty without labels.
    pub fn classes(&self) -> &[String] {
        &self.shared.classes
    }

    /// BLAKE3 over classes, names, labels and the shards' names and sizes.
    pub fn digest(&self) -> Digest {
        self.shared.digest
    }

    /// Bytes of the shards, images outside a limit included.
    pub fn bytes(&self) -> u64 {
        self.shared
            .source
            .objects
            .iter()
            .map(|object| object.size)
            .sum()
    }

    /// How many neighbouring samples are read together at least: the rows of the first Parquet row group, else 1.
    pub fn run(&self) -> u64 {
        let group = |entry: &Entry| match entry.place {
            Place::Row { object, group, .. } => Some((object, group)),
            Place::Bytes { .. } => None,
        };
        let entries = &self.shared.entries;
        match entries.first().and_then(group) {
            Some(first) => entries
                .iter()
                .take_while(|entry| group(entry) == Some(first))
                .count() as u64,
            None => 1,
        }
    }

    pub(super) fn entry(&self, id: SampleId) -> Option<&Entry> {
        self.shared.entries.get(usize::try_from(id.0).ok()?)
    }
}

/// Checks labels against classes, and names classes where nobody did. Labels become positions in what is returned.
fn settle_classes(
    spec: &DataSpec,
    entries: &mut [Entry],
    found: Vec<String>,
) -> Result<Vec<String>, DataError> {
    // Hubs write -1 where a split has no labels.
    if entries
        .iter()
        .all(|entry| entry.label.is_none_or(|label| label == -1))
    {
        entries.iter_mut().for_each(|entry| entry.label = None);
        return match &spec.classes {
            Some(stated) if !entries.is_empty() => Err(DataError::Labels {
                url: spec.url.clone(),
                problems: vec![format!(
                    "{} classes are stated, but no sample has a label",
                    stated.len()
                )],
            }),
            _ => Ok(Vec::new()),
        };
    }
    let by_name = spec
        .classes
        .as_ref()
        .is_some_and(|stated| spec_is_by_name(stated, &found));
    // What the labels count, before any renaming.
    let counted = match (&spec.classes, found.is_empty()) {
        (Some(stated), true) => stated.len(),
        (_, false) => found.len(),
        (None, true) => {
            let largest = entries.iter().filter_map(|entry| entry.label).max();
            largest.map_or(0, |largest| largest.clamp(-1, MOST_CLASSES) + 1) as usize
        }
    };
    let mut problems = out_of_range(entries, counted);
    problems.extend(without_label(entries));
    let classes = match &spec.classes {
        Some(stated) => {
            let unknown: Vec<&str> = found
                .iter()
                .filter(|name| !stated.contains(name))
                .map(String::as_str)
                .collect();
            if !unknown.is_empty() && stated.len() != found.len() {
                problems.push(format!(
                    "classes that are not among the stated ones: {}",
                    unknown.join(", ")
                ));
            }
            stated.clone()
        }
        None if !found.is_empty() => found.clone(),
        None => (0..counted).map(|label| label.to_string()).collect(),
    };
    if !problems.is_empty() {
        return Err(DataError::Labels {
            url: spec.url.clone(),
            problems,
        });
    }
    if by_name {
        let position: Vec<Option<i64>> = found
            .iter()
            .map(|name| Some(classes.iter().position(|wanted| wanted == name)? as i64))
            .collect();
        for entry in entries.iter_mut() {
            entry.label = entry
                .label
                .and_then(|label| *position.get(usize::try_from(label).ok()?)?);
        }
    }
    Ok(classes)
}

/// Labels that are no class, the first few by name.
fn out_of_range(entries: &[Entry], classes: usize) -> Vec<String> {
    let wrong: Vec<(&str, i64)> = entries
        .iter()
        .filter_map(|entry| Some((entry.name.as_str(), entry.label?)))
        .filter(|(_, label)| usize::try_from(*label).map_or(true, |label| label >= classes))
        .collect();
    let mut problems: Vec<String> = wrong
        .iter()
        .take(PROBLEMS_SHOWN)
        .map(|(name, label)| {
            format!(
                "{name} has label {label}, labels are 0 to {}",
                classes.saturating_sub(1)
            )
        })
        .collect();
    if wrong.len() > PROBLEMS_SHOWN {
        problems.push(format!("and {} more", wrong.len() - PROBLEMS_SHOWN));
    }
    problems
}

/// Samples without a label beside others that have one.
fn without_label(entries: &[Entry]) -> Option<String> {
    let without: Vec<&str> = entries
        .iter()
        .filter(|entry| entry.label.is_none())
        .map(|entry| entry.name.as_str())
        .collect();
    (!without.is_empty()).then(|| {
        format!(
            "{} of {} samples have no label, e.g. {}",
            without.len(),
            entries.len(),
            without[..without.len().min(3)].join(", ")
        )
    })
}

/// The class names that the files state; every file that names classes must name the same.
fn one_list_of_classes(files: &[File]) -> Result<Vec<String>, DataError> {
    let mut all = files
        .iter()
        .filter_map(|file| Some((file, file.classes()?)));
    let Some((_, first)) = all.next() else {
        return Ok(Vec::new());
    };
    match all.find(|(_, other)| *other != first) {
        None => Ok(first),
        Some((file, other)) => Err(file.fault(format!(
            "names other classes than the first file: {} and not {}",
            other.join(", "),
            first.join(", ")
        ))),
    }
}

/// Whether stated classes reorder the found ones, rather than renaming them.
fn spec_is_by_name(stated: &[String], found: &[String]) -> bool {
    !found.is_empty() && found.iter().all(|name| stated.contains(name))
}

fn digest(source: &Source, entries: &[Entry], classes: &[String]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for class in classes {
        field(class.as_bytes());
    }
    for object in &source.objects {
        field(source.name(object).as_bytes());
        field(&object.size.to_le_bytes());
    }
    for entry in entries {
        field(entry.name.as_bytes());
        field(&entry.label.unwrap_or(-1).to_le_bytes());
    }
    Digest::new(hasher.finalize().into())
}
