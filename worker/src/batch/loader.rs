//! Training steps ahead of time: one rank's rows, read, decoded, augmented.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use diptych_common::ids::{PhaseIndex, Rank, Step};
use diptych_common::spec::AugmentSpec;
use diptych_common::units::Bytes;
use diptych_images::augment::{Key, Scratch, ViewParams, render};
use diptych_images::shard::{DataError, SampleId};
use rayon::prelude::*;
use tch::{TchError, Tensor};

use super::ahead::{Ahead, Stop};
use super::collate::{Images, Pixels, RowBatch, labels};
use super::labels::LabelError;
use super::order::{Blocks, Order, OrderError, OrderKey, Shortage, Stream};
use super::place::{Known, Original, Place};
use super::source::{BadImage, BadImages, Source};
use super::views::{Crops, Cuts};
use super::{Layout, LayoutError, Row};
use crate::device::pin;

/// What a rank's loader makes.
#[derive(Debug, Clone)]
pub struct LoaderOptions {
    /// The job's seed.
    pub seed: u64,
    /// The phase.
    pub phase: PhaseIndex,
    /// Which of its streams.
    pub stream: Stream,
    /// Views of each image: 2 to contrast, 1 to supervise.
    pub views: u32,
    /// How a view is made.
    pub augment: AugmentSpec,
    /// Where: what its `place` asks for.
    pub place: Place,
    /// What to do with fewer samples than a batch.
    pub shortage: Shortage,
    /// Batch-norm groups per [`RowBatch`].
    pub groups_at_once: u32,
    /// Share of the samples that may be unreadable, in [0, 1].
    pub max_bad_images: f64,
    /// Threads that decode and augment.
    pub threads: usize,
    /// Whether a CUDA device takes the rows: they are then made in memory that it reads without a copy.
    pub pinned: bool,
    /// Steps made before their use.
    pub ahead: usize,
    /// The steps to make: from the first one not committed to the end of the phase.
    pub steps: Range<u64>,
}

/// One rank's rows of one step.
#[derive(Debug)]
pub struct RankBatch {
    /// The step, counted from 0: the number of steps committed before it.
    pub step: Step,
    /// One per micro-batch, in group order.
    pub micro_batches: Vec<RowBatch>,
    /// Images found bad since the last step, each named once per rank.
    pub bad: Vec<BadImage>,
}

/// Why a loader stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The data set, or the store, failed.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Labels cannot be chosen as asked.
    #[error(transparent)]
    Labels(#[from] LabelError),
    /// The samples do not make a batch.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// The rows cannot be dealt.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// More images are bad than the spec allows.
    #[error(
        "{bad} of {samples} images are unreadable and max_bad_images allows {most}: {}; repair or remove them, or allow more",
        examples.join("; ")
    )]
    TooManyBad {
        /// Bad images found.
        bad: u64,
        /// Samples in use.
        samples: u64,
        /// Bad images allowed.
        most: u64,
        /// The first of them, by name, with the reason.
        examples: Vec<String>,
    },
    /// Images that are to be resident take more than they may.
    #[error("{images} decoded images take {bytes}, and there is room for {most}")]
    NoRoom {
        /// Images looked at so far.
        images: u64,
        /// What they take.
        bytes: Bytes,
        /// What they may take.
        most: Bytes,
    },
    /// libtorch gives no memory for a step's rows, or for resident images.
    #[error("images cannot be held: {reason}")]
    Memory {
        /// What libtorch said.
        reason: String,
    },
    /// The system gives no threads.
    #[error("loader threads cannot be started: {reason}")]
    Threads {
        /// What the system said.
        reason: String,
    },
    /// A thread or task of the loader died.
    #[error("bug: {what} panicked; see this rank's log")]
    Panicked {
        /// Which.
        what: String,
    },
    /// The attempt ended.
    #[error("the loader was stopped")]
    Aborted,
}

/// Makes one rank's steps ahead of their use, in order.
#[derive(Debug)]
pub struct Loader {
    ahead: Ahead<RankBatch>,
}

/// An image of this rank in a step: its position, its place in the source's list.
#[derive(Debug, Clone, Copy)]
struct Slot {
    position: u32,
    place: u64,
}

/// What a worker needs to make views.
#[derive(Debug)]
struct Maker {
    source: Source,
    layout: Layout,
    rank: Rank,
    options: LoaderOptions,
    bad: BadImages,
    pool: rayon::ThreadPool,
}

/// A slot with the rows that its views fill.
struct Job<'a> {
    slot: Slot,
    known: Known,
    views: Vec<(usize, Room<'a>)>,
}

/// Where a view goes.
enum Room<'a> {
    /// Its pixels.
    Pixels(&'a mut [f32]),
    /// On the device, as the part of the image that becomes it.
    Device,
}

/// What became of a slot.
struct Made {
    sample: SampleId,
    rows: Vec<usize>,
    /// One for each of the rows, where views are made on the device.
    cuts: Cuts,
    bad: Vec<BadImage>,
}

// === impl LoadError ===

impl LoadError {
    /// Whether a new attempt may fare better: the store may come back; bad data stays bad.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Data(DataError::Store(error)) | Self::Labels(LabelError::Store(error)) => {
                error.is_transient()
            }
            Self::Threads { .. } | Self::Memory { .. } | Self::Aborted => true,
            Self::Data(_)
            | Self::Labels(_)
            | Self::Order(_)
            | Self::Layout(_)
            | Self::Panicked { .. }
            | Self::NoRoom { .. }
            | Self::TooManyBad { .. } => false,
        }
    }
}

// === impl Loader ===

impl Loader {
    /// Starts to make `options.steps` of `rank`.
    ///
    /// # Errors
    /// [`LoadError::Order`] where the samples do not make a batch.
    pub fn start(
        source: &Source,
        layout: Layout,
        rank: Rank,
        options: LoaderOptions,
    ) -> Result<Self, LoadError> {
        let key = OrderKey {
            seed: options.seed,
            phase: options.phase,
            stream: options.stream,
            samples: source.len(),
            batch: layout.batch(),
            lanes: layout.lanes(),
            blocks: Blocks::of_data(
                source.len(),
                source.index().bytes(),
                source.index().run(),
                layout.lanes(),
            ),
        };
        let mut order = Order::new(key, options.shortage)?;
        let lanes: Vec<u32> = (0..layout.groups())
            .flat_map(|group| layout.lanes_of(rank, group))
            .collect();
        let steps = options.steps.clone().map(Step::new);
        let per_lane = layout.lane_images();
        let (reader, place) = (source.clone(), options.place.clone());
        let read = move |step: Step| {
            let slots: Vec<Slot> = lanes
                .iter()
                .flat_map(|&lane| {
                    let places = order.lane(step, lane);
                    (lane * per_lane..)
                        .zip(places)
                        .map(|(position, place)| Slot { position, place })
                })
                .collect();
            let samples: Vec<SampleId> =
                slots.iter().map(|slot| reader.sample(slot.place)).collect();
            let known = place.know(&reader, &samples)?;
            Ok((step, slots, known))
        };
        let ahead = options.ahead;
        let maker = Maker {
            pool: pool(options.threads)?,
            bad: BadImages::new(source.len(), options.max_bad_images),
            source: source.clone(),
            layout,
            rank,
            options,
        };
        let work = move |(step, slots, known): (Step, Vec<Slot>, Vec<Known>), stop: &Stop| {
            maker.step(step, slots.into_iter().zip(known).collect(), stop)
        };
        Ok(Self {
            ahead: Ahead::start(("loader", source.stop()), ahead, steps, read, work)?,
        })
    }

    /// The next step; `None` after the last.
    ///
    /// # Errors
    /// [`LoadError::Aborted`] once stopped; otherwise what went wrong, after which there are no more steps.
    pub fn next_step(&self) -> Result<Option<RankBatch>, LoadError> {
        self.ahead.next()
    }

    /// The same, if it need not be waited for.
    pub fn ready_step(&self) -> Option<Result<Option<RankBatch>, LoadError>> {
        self.ahead.ready()
    }
}

// === impl RankBatch ===

impl RankBatch {
    /// What goes up to the device, moved.
    ///
    /// # Errors
    /// Those of `moved`.
    pub fn moved(
        self,
        moved: &impl Fn(&Tensor) -> Result<Tensor, TchError>,
    ) -> Result<Self, TchError> {
        let batches = self.micro_batches.into_iter();
        Ok(Self {
            micro_batches: batches
                .map(|rows| rows.moved(moved))
                .collect::<Result<_, _>>()?,
            ..self
        })
    }
}

/// Threads that decode and augment.
pub(super) fn pool(threads: usize) -> Result<rayon::ThreadPool, LoadError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .thread_name(|number| format!("augment-{number}"))
        .build()
        .map_err(|error| LoadError::Threads {
            reason: error.to_string(),
        })
}

pub(super) fn no_memory(error: TchError) -> LoadError {
    LoadError::Memory {
        reason: error.to_string(),
    }
}

// === impl Maker ===

impl Maker {
    fn step(
        &self,
        step: Step,
        slots: Vec<(Slot, Known)>,
        stop: &Stop,
    ) -> Result<RankBatch, LoadError> {
        let mut by_position: HashMap<u32, (Slot, Known)> = slots
            .into_iter()
            .map(|entry| (entry.0.position, entry))
            .collect();
        let mut micro_batches = Vec::new();
        let mut bad = Vec::new();
        for groups in self.layout.micro_batches(self.options.groups_at_once) {
            let rows = self
                .layout
                .rows(self.rank, groups.clone(), self.options.views);
            let room = match self.options.place {
                Place::Host => rows.len(),
                Place::Device | Place::Resident(_) => 0,
            };
            let side = self.options.augment.image_size as usize;
            let mut pixels = Pixels::new(room, side, self.options.pinned).map_err(no_memory)?;
            let mut rooms = pixels.rows_mut().map(Room::Pixels);
            let mut jobs: BTreeMap<u32, Job<'_>> = BTreeMap::new();
            for (number, row) in rows.iter().enumerate() {
                if let Some((slot, known)) = by_position.remove(&row.position) {
                    jobs.insert(
                        row.position,
                        Job {
                            slot,
                            known,
                            views: Vec::new(),
                        },
                    );
                }
                if let Some(job) = jobs.get_mut(&row.position) {
                    job.views
                        .push((number, rooms.next().unwrap_or(Room::Device)));
                }
            }
            drop(rooms);
            let jobs: Vec<Job<'_>> = jobs.into_values().collect();
            let made: Vec<Made> = self.pool.install(|| {
                jobs.into_par_iter()
                    .map_init(Scratch::default, |scratch, job| {
                        self.make(step, job, scratch, stop)
                    })
                    .collect::<Result<_, _>>()
            })?;
            let mut samples = vec![SampleId::new(0); rows.len()];
            let mut cuts = Cuts::default();
            for slot in made {
                for row in slot.rows {
                    samples[row] = slot.sample;
                }
                cuts.append(slot.cuts);
                bad.extend(slot.bad);
            }
            let known: Vec<Option<u32>> = samples
                .iter()
                .map(|&sample| self.source.index().label(sample))
                .collect();
            let batch = self.batch(rows, samples, (pixels, cuts), labels(&known));
            micro_batches.push(batch.map_err(no_memory)?);
        }
        Ok(RankBatch {
            step,
            micro_batches,
            bad,
        })
    }

    /// One of `pixels` and `cuts` is empty.
    fn batch(
        &self,
        rows: Vec<Row>,
        samples: Vec<SampleId>,
        (pixels, cuts): (Pixels, Cuts),
        labels: Option<Tensor>,
    ) -> Result<RowBatch, TchError> {
        let spec = &self.options.augment;
        let batch = RowBatch {
            rows,
            samples,
            images: match &self.options.place {
                Place::Host => Images::Views(pixels.into_tensor()),
                Place::Device => Images::Crops(Crops::pack(spec, cuts)?),
                Place::Resident(originals) => {
                    Images::Crops(Crops::resident(spec, cuts, originals)?)
                }
            },
            labels,
        };
        match self.options.pinned {
            true => batch.moved(&pin),
            false => Ok(batch),
        }
    }

    fn make(
        &self,
        step: Step,
        job: Job<'_>,
        scratch: &mut Scratch,
        stop: &Stop,
    ) -> Result<Made, LoadError> {
        let mut bad = Vec::new();
        let (mut place, mut known) = (job.slot.place, job.known);
        let (sample, original) = loop {
            if stop.is_stopped() {
                return Err(LoadError::Aborted);
            }
            let sample = self.source.sample(place);
            match known.original(&self.source, sample) {
                Ok(original) => break (sample, original),
                Err(reason) => bad.extend(self.bad.note(&self.source, sample, reason)?),
            }
            // The next good sample of the list, the same for any number of ranks.
            place = (place + 1) % self.source.len();
            while self.bad.known(self.source.sample(place)) && place != job.slot.place {
                place = (place + 1) % self.source.len();
            }
            if place == job.slot.place {
                return Err(LoadError::Order(OrderError::Empty));
            }
            let next = self.source.sample(place);
            let found = self.options.place.know(&self.source, &[next])?.pop();
            known = found.ok_or(LoadError::Order(OrderError::Empty))?;
        };
        let mut rows = Vec::with_capacity(job.views.len());
        let mut cuts = Cuts::default();
        let (height, width) = original.size();
        for (view, (row, out)) in job.views.into_iter().enumerate() {
            let key = Key {
                seed: self.options.seed,
                phase: self.options.phase.get() | self.stream_bit(),
                step: step.get(),
                position: job.slot.position,
                sample: sample.get(),
                view: view as u32,
            };
            let spec = &self.options.augment;
            let params = ViewParams::draw(spec, &key, height, width);
            match (&original, out) {
                (Original::Decoded(image), Room::Pixels(out)) => {
                    render(image, spec, &params, scratch, out);
                }
                (Original::Decoded(image), Room::Device) => cuts.cut(row, image, params),
                (Original::Resident(frame), _) => cuts.point(row, *frame, params),
            }
            rows.push(row);
        }
        Ok(Made {
            sample,
            rows,
            cuts,
            bad,
        })
    }

    /// Keeps the labelled stream's augmentations apart from the main stream's.
    fn stream_bit(&self) -> u32 {
        match self.options.stream {
            Stream::Main => 0,
            Stream::Labelled => 1 << 31,
        }
    }
}
