//! Bytes of samples: requests of one call are grouped by object, and near ranges are fetched together.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt;

use super::DataError;
use super::index::{Index, Place, SampleId};

/// Objects read at once.
const READ_AT_ONCE: usize = 8;
/// Decoded Parquet row groups kept, in bytes: a block of samples shares a row group.
const ROW_GROUP_CACHE: usize = 256 << 20;

/// A place in the answer, and where the bytes are in their object.
type Span = (usize, Range<u64>);
/// A place in the answer, and what belongs there.
type Answer = (usize, Result<Bytes, DataError>);

impl Index {
    /// The encoded images of some samples, in the order asked for. One sample's failure does not touch the others.
    pub async fn read(&self, ids: &[SampleId]) -> Vec<Result<Bytes, DataError>> {
        let mut by_object: BTreeMap<u32, Vec<(usize, Place)>> = BTreeMap::new();
        let mut answers: Vec<Option<Result<Bytes, DataError>>> = vec![None; ids.len()];
        for (slot, &id) in ids.iter().enumerate() {
            match self.entry(id).map(|entry| entry.place) {
                Some(place @ (Place::Bytes { object, .. } | Place::Row { object, .. })) => {
                    by_object.entry(object).or_default().push((slot, place));
                }
                None => answers[slot] = Some(Err(self.no_sample(id, "is outside the data set"))),
            }
        }
        let parts: Vec<Vec<Answer>> = futures::stream::iter(by_object)
            .map(|(object, wanted)| self.read_object(ids, object, wanted))
            .buffer_unordered(READ_AT_ONCE)
            .collect()
            .await;
        for (slot, answer) in parts.into_iter().flatten() {
            answers[slot] = Some(answer);
        }
        answers
            .into_iter()
            .zip(ids)
            .map(|(answer, &id)| match answer {
                Some(Ok(bytes)) if bytes.is_empty() => Err(self.no_sample(id, "has no image")),
                Some(answer) => answer,
                None => Err(self.no_sample(id, "was not read")),
            })
            .collect()
    }

    async fn read_object(
        &self,
        ids: &[SampleId],
        object: u32,
        wanted: Vec<(usize, Place)>,
    ) -> Vec<Answer> {
        let mut spans = Vec::new();
        let mut rows: BTreeMap<u32, Vec<(usize, u32)>> = BTreeMap::new();
        for (slot, place) in wanted {
            match place {
                Place::Bytes { start, length, .. } => spans.push((slot, start..start + length)),
                Place::Row { group, row, .. } => rows.entry(group).or_default().push((slot, row)),
            }
        }
        let mut answers = self.read_spans(ids, object, spans).await;
        for (group, wanted) in rows {
            match self.row_group(object, group).await {
                Ok(images) => answers.extend(wanted.into_iter().map(|(slot, row)| {
                    let image = images.get(row as usize).cloned().flatten();
                    (slot, Ok(image.unwrap_or_default()))
                })),
                Err(error) => answers.extend(
                    wanted
                        .into_iter()
                        .map(|(slot, _)| (slot, Err(error.clone()))),
                ),
            }
        }
        answers
    }

    /// Parts of one object. That it is gone, or shorter than it was, is its samples' fault and not the store's.
    async fn read_spans(&self, ids: &[SampleId], object: u32, spans: Vec<Span>) -> Vec<Answer> {
        let source = &self.shared.source;
        let key = &source.objects[object as usize].location;
        // Stores refuse to read nothing; the caller says what an empty image is.
        let (empty, spans): (Vec<Span>, Vec<Span>) =
            spans.into_iter().partition(|(_, range)| range.is_empty());
        let mut answers: Vec<Answer> = empty
            .into_iter()
            .map(|(slot, _)| (slot, Ok(Bytes::new())))
            .collect();
        let error = match source.ranges(key, &ranges(&spans)).await {
            Ok(found) => {
                answers.extend(in_place(&spans, found));
                return answers;
            }
            Err(error) => error,
        };
        let size = match source.size(key).await {
            Ok(size) => size,
            Err(_) => {
                answers.extend(failed(&spans, &error));
                return answers;
            }
        };
        let (whole, lost): (Vec<Span>, Vec<Span>) = spans
            .into_iter()
            .partition(|(_, range)| size.is_some_and(|size| range.end <= size));
        let reason = match size {
            None => "was removed after the data set was listed".to_owned(),
            Some(size) => {
                format!("is cut short: its object had more bytes when it was listed, now {size}")
            }
        };
        answers.extend(
            lost.iter()
                .map(|(slot, _)| (*slot, Err(self.no_sample(ids[*slot], &reason)))),
        );
        if lost.is_empty() {
            answers.extend(failed(&whole, &error));
        } else if !whole.is_empty() {
            match source.ranges(key, &ranges(&whole)).await {
                Ok(found) => answers.extend(in_place(&whole, found)),
                Err(error) => answers.extend(failed(&whole, &error)),
            }
        }
        answers
    }

    async fn row_group(
        &self,
        object: u32,
        group: u32,
    ) -> Result<Arc<Vec<Option<Bytes>>>, DataError> {
        if let Some(found) = self.shared.row_groups.get((object, group)) {
            return Ok(found);
        }
        let images = Arc::new(
            self.shared.files[object as usize]
                .images(&self.shared.source, group)
                .await?,
        );
        self.shared
            .row_groups
            .keep((object, group), Arc::clone(&images));
        Ok(images)
    }

    fn no_sample(&self, id: SampleId, reason: &str) -> DataError {
        let name = match self.name(id) {
            "" => id.to_string(),
            name => name.to_owned(),
        };
        DataError::Sample {
            name,
            reason: reason.to_owned(),
        }
    }
}

fn ranges(spans: &[Span]) -> Vec<Range<u64>> {
    spans.iter().map(|(_, range)| range.clone()).collect()
}

fn in_place(spans: &[Span], found: Vec<Bytes>) -> impl Iterator<Item = Answer> {
    spans
        .iter()
        .zip(found)
        .map(|((slot, _), bytes)| (*slot, Ok(bytes)))
}

fn failed(spans: &[Span], error: &DataError) -> impl Iterator<Item = Answer> {
    spans
        .iter()
        .map(move |(slot, _)| (*slot, Err(error.clone())))
}

type RowGroup = Arc<Vec<Option<Bytes>>>;

/// The row groups read last, up to a number of bytes.
#[derive(Debug)]
pub(super) struct RowGroups {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Oldest first.
    groups: VecDeque<((u32, u32), RowGroup, usize)>,
    bytes: usize,
}

impl RowGroups {
    pub(super) fn new() -> Self {
        Self {
            kept: Mutex::default(),
        }
    }

    fn get(&self, key: (u32, u32)) -> Option<RowGroup> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.groups.iter().position(|(found, ..)| *found == key)?;
        let newest = kept.groups.remove(at)?;
        let group = Arc::clone(&newest.1);
        kept.groups.push_back(newest);
        Some(group)
    }

    fn keep(&self, key: (u32, u32), group: RowGroup) {
        let bytes = group.iter().flatten().map(Bytes::len).sum::<usize>();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.groups.iter().any(|(found, ..)| *found == key) {
            return;
        }
        kept.bytes += bytes;
        kept.groups.push_back((key, group, bytes));
        while kept.bytes > ROW_GROUP_CACHE && kept.groups.len() > 1 {
            if let Some((_, _, freed)) = kept.groups.pop_front() {
                kept.bytes -= freed;
            }
        }
    }
}
