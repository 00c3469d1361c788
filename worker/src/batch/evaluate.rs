//! Every sample once, not augmented: for evaluation, and for features of the training data.

use diptych_common::checkpoint::Preprocessing;
use diptych_common::ids::Rank;
use diptych_images::augment::{Scratch, evaluation};
use diptych_images::shard::SampleId;
use rayon::prelude::*;
use tch::Tensor;

use super::ahead::{Ahead, Stop};
use super::collate::{Pixels, labels};
use super::loader::{LoadError, no_memory, pool};
use super::source::{BadImage, BadImages, Fetched, Source};

/// How to go through a data set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvalOptions {
    /// What is done to an image.
    pub preprocessing: Preprocessing,
    /// Most images at once.
    pub batch: usize,
    /// Share of the samples that may be unreadable, in [0, 1].
    pub max_bad_images: f64,
    /// Threads that decode.
    pub threads: usize,
    /// Batches made before their use.
    pub ahead: usize,
}

/// Some samples of a rank's share, in order; bad images are left out.
#[derive(Debug)]
pub struct EvalBatch {
    /// The samples.
    pub samples: Vec<SampleId>,
    /// `[samples, 3, S, S]`, in [0, 1]; may be of no samples where all are bad.
    pub images: Tensor,
    /// `[samples]` of i64, where the data has labels.
    pub labels: Option<Tensor>,
    /// Images left out.
    pub bad: Vec<BadImage>,
}

/// Makes a rank's share of a data set ahead of its use: ranks take contiguous shares, as evenly as they go.
#[derive(Debug)]
pub struct EvalLoader {
    ahead: Ahead<EvalBatch>,
}

impl EvalLoader {
    /// Starts to go through the share of `rank` of `world`.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn start(
        source: &Source,
        rank: Rank,
        world: u32,
        options: EvalOptions,
    ) -> Result<Self, LoadError> {
        let share = share(source.len(), rank.get(), world);
        let size = options.batch.max(1);
        let plans = share
            .clone()
            .step_by(size)
            .map(move |start| start..(start + size as u64).min(share.end));
        let reader = source.clone();
        let read = move |places: std::ops::Range<u64>| {
            let samples: Vec<SampleId> = places.map(|place| reader.sample(place)).collect();
            let fetched = reader.fetch(&samples)?;
            Ok(samples.into_iter().zip(fetched).collect::<Vec<_>>())
        };
        let above = source.stop().clone();
        let (source, pool) = (source.clone(), pool(options.threads)?);
        let bad = BadImages::new(source.len(), options.max_bad_images);
        let work = move |samples: Vec<(SampleId, Fetched)>, stop: &Stop| {
            pool.install(|| make(&source, &bad, options.preprocessing, samples, stop))
        };
        Ok(Self {
            ahead: Ahead::start(("evaluate", &above), options.ahead, plans, read, work)?,
        })
    }

    /// The next batch; `None` after the last.
    ///
    /// # Errors
    /// As [`Loader::next_step`](super::Loader::next_step).
    pub fn next_batch(&self) -> Result<Option<EvalBatch>, LoadError> {
        self.ahead.next()
    }
}

/// A rank's contiguous share of `samples` places.
fn share(samples: u64, rank: u32, world: u32) -> std::ops::Range<u64> {
    let bound =
        |rank: u32| (u128::from(samples) * u128::from(rank) / u128::from(world.max(1))) as u64;
    bound(rank)..bound(rank + 1)
}

fn make(
    source: &Source,
    bad: &BadImages,
    stated: Preprocessing,
    samples: Vec<(SampleId, Fetched)>,
    stop: &Stop,
) -> Result<EvalBatch, LoadError> {
    let decoded: Vec<_> = samples
        .into_par_iter()
        .map(|(sample, fetched)| {
            if stop.is_stopped() {
                Err(LoadError::Aborted)
            } else {
                Ok((sample, source.image(sample, &fetched)))
            }
        })
        .collect::<Result<_, _>>()?;
    let (mut good, mut left_out) = (Vec::new(), Vec::new());
    for (sample, image) in decoded {
        match image {
            Ok(image) => good.push((sample, image)),
            Err(reason) => left_out.extend(bad.note(source, sample, reason)?),
        }
    }
    let side = stated.image_size as usize;
    let mut pixels = Pixels::new(good.len(), side, false).map_err(no_memory)?;
    let rows: Vec<_> = pixels.rows_mut().zip(&good).collect();
    rows.into_par_iter()
        .for_each_init(Scratch::default, |scratch, (row, (_, image))| {
            evaluation(image, stated, scratch, row);
        });
    let samples: Vec<SampleId> = good.iter().map(|(sample, _)| *sample).collect();
    let known: Vec<Option<u32>> = samples
        .iter()
        .map(|&sample| source.index().label(sample))
        .collect();
    let labels = if source.index().labelled() {
        labels(&known)
    } else {
        None
    };
    Ok(EvalBatch {
        samples,
        images: pixels.into_tensor(),
        labels,
        bad: left_out,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_the_data_in_order() {
        for (samples, world) in [(10, 3), (2, 4), (360, 2), (1, 1)] {
            let mut next = 0;
            for rank in 0..world {
                let share = share(samples, rank, world);
                assert_eq!(share.start, next);
                next = share.end;
            }
            assert_eq!(next, samples);
        }
    }
}
