//! Which samples a step takes: pure, the same for every number of ranks, and cheap to enter at any step.
//!
//! A phase's samples are cut into blocks of neighbours. Each epoch's blocks are permuted by (seed, phase, epoch) and
//! appended to one endless list; block i of it goes to lane i mod L; a lane shuffles within a window of its blocks; a
//! step takes the next `batch / L` samples of each lane. So a shard is read by few lanes, every epoch holds each sample
//! once, and the cursor is the step number.

use std::collections::BTreeMap;
use std::sync::Arc;

use diptych_common::ids::{PhaseIndex, Step};
use diptych_images::draw::Draws;

/// Data up to this many bytes is read from memory after its first use: blocks of one sample mix it best.
const SMALL_DATA: u64 = 256 << 20;
/// What one read of a larger data set should bring.
const READ_BYTES: u64 = 4 << 20;
/// The largest Parquet row group that is worth making a block.
const LARGEST_RUN_BYTES: u64 = 64 << 20;
/// Blocks of a lane that are shuffled together, where blocks hold more than one sample.
const WINDOW: u64 = 16;
/// Keeps a data set's blocks per lane and epoch above this, so that blocks can be mixed.
const BLOCKS_PER_LANE: u64 = 16;

/// How samples are cut into blocks. A function of the data and the lanes alone, never of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// Samples per block, at least 1; an epoch's last block may be shorter.
    pub samples: u64,
    /// Blocks of one lane that are shuffled together, at least 1.
    pub window: u64,
}

/// Which of a phase's streams of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// The phase's batch.
    Main,
    /// The labelled rows beside a distillation batch.
    Labelled,
}

/// What to do with fewer samples than a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Contrastive batches must not hold one image twice.
    Refuse,
    /// Supervised batches start over.
    Wrap,
}

/// Everything that the order depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderKey {
    /// The job's seed.
    pub seed: u64,
    /// The phase.
    pub phase: PhaseIndex,
    /// Which stream of it.
    pub stream: Stream,
    /// Samples that the stream draws from.
    pub samples: u64,
    /// Images per step.
    pub batch: u32,
    /// Lanes, a divisor of the batch.
    pub lanes: u32,
    /// How samples are cut.
    pub blocks: Blocks,
}

/// Why there is no order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// No sample to take.
    #[error("there are no samples to train on")]
    Empty,
    /// A contrastive batch would hold an image twice.
    #[error(
        "{samples} images are fewer than a batch of {batch}; use a smaller batch or more images"
    )]
    TooFew {
        /// Images there are.
        samples: u64,
        /// Images a step needs.
        batch: u32,
    },
    /// Lanes do not divide the batch.
    #[error("{lanes} lanes do not divide a batch of {batch}; choose a divisor")]
    Lanes {
        /// Images per step.
        batch: u32,
        /// Lanes.
        lanes: u32,
    },
}

/// The endless list of a phase's samples, dealt to lanes. Remembers the epochs and windows that it used last.
#[derive(Debug, Clone)]
pub struct Order {
    key: OrderKey,
    /// Blocks per epoch.
    blocks: u64,
    /// Permuted blocks of recent epochs.
    epochs: BTreeMap<u64, Arc<[u64]>>,
    /// Each lane's last window.
    windows: Vec<Option<(u64, Vec<u64>)>>,
    /// For each lane, which of its blocks are short, ascending; complete for the epochs below `surveyed`.
    short: Vec<Vec<u64>>,
    surveyed: u64,
}

// === impl Blocks ===

impl Blocks {
    /// Cuts `samples` samples that take `bytes` bytes, stored in runs of `run` that are read whole (Parquet row groups;
    /// 1 where samples can be read alone).
    pub fn of_data(samples: u64, bytes: u64, run: u64, lanes: u32) -> Self {
        if bytes <= SMALL_DATA || samples == 0 {
            return Self {
                samples: 1,
                window: 1,
            };
        }
        let mean = (bytes / samples).max(1);
        let wanted = if run > 1 && run.saturating_mul(mean) <= LARGEST_RUN_BYTES {
            run
        } else {
            READ_BYTES.div_ceil(mean)
        };
        let most = (samples / (BLOCKS_PER_LANE * u64::from(lanes.max(1)))).max(1);
        let size = wanted.clamp(1, most);
        Self {
            samples: size,
            window: if size == 1 { 1 } else { WINDOW },
        }
    }
}

// === impl Order ===

impl Order {
    /// # Errors
    /// Without samples, with fewer than a batch where that is refused, or lanes that do not divide the batch.
    pub fn new(key: OrderKey, shortage: Shortage) -> Result<Self, OrderError> {
        if key.samples == 0 {
            return Err(OrderError::Empty);
        }
        if key.lanes == 0 || !key.batch.is_multiple_of(key.lanes) {
            return Err(OrderError::Lanes {
                batch: key.batch,
                lanes: key.lanes,
            });
        }
        if shortage == Shortage::Refuse && key.samples < u64::from(key.batch) {
            return Err(OrderError::TooFew {
                samples: key.samples,
                batch: key.batch,
            });
        }
        let lanes = key.lanes as usize;
        Ok(Self {
            key,
            blocks: key.samples.div_ceil(key.blocks.samples),
            epochs: BTreeMap::new(),
            windows: vec![None; lanes],
            short: vec![Vec::new(); lanes],
            surveyed: 0,
        })
    }

    /// The samples (indices into the phase's list, `0..samples`) of one lane in one step: positions
    /// `lane · (batch/lanes)..`.
    pub fn lane(&mut self, step: Step, lane: u32) -> Vec<u64> {
        let count = u64::from(self.key.batch / self.key.lanes);
        let mut offset = step.get() * count;
        let end = offset + count;
        let mut taken = Vec::with_capacity(count as usize);
        while offset < end {
            let window = self.window_at(lane, offset);
            let start = self.offset_of(lane, window * self.key.blocks.window);
            let samples = self.window(lane, window);
            let from = (offset - start) as usize;
            let until = samples.len().min((end - start) as usize);
            taken.extend_from_slice(&samples[from..until]);
            offset = start + until as u64;
        }
        taken
    }

    /// The window of a lane that holds the lane's `offset`-th sample.
    fn window_at(&mut self, lane: u32, offset: u64) -> u64 {
        let Blocks { samples, window } = self.key.blocks;
        // Short blocks only ever move samples to later windows.
        let mut at = offset / (samples * window);
        while self.offset_of(lane, (at + 1) * window) <= offset {
            at += 1;
        }
        at
    }

    /// How many samples a lane holds before its `block`-th block.
    fn offset_of(&mut self, lane: u32, block: u64) -> u64 {
        let size = self.key.blocks.samples;
        let missing = self.blocks * size - self.key.samples;
        if missing == 0 {
            return block * size;
        }
        self.survey(block * u64::from(self.key.lanes) + u64::from(lane));
        let short = self.short[lane as usize].partition_point(|&at| at < block) as u64;
        block * size - short * missing
    }

    /// Finds the short blocks of all epochs up to an index of the endless list.
    fn survey(&mut self, until: u64) {
        let lanes = u64::from(self.key.lanes);
        while self.surveyed * self.blocks <= until {
            let place = self
                .draws(self.surveyed, Purpose::Epoch, 0)
                .below(self.blocks);
            let index = self.surveyed * self.blocks + place;
            self.short[(index % lanes) as usize].push(index / lanes);
            self.surveyed += 1;
        }
    }

    fn window(&mut self, lane: u32, window: u64) -> &[u64] {
        let held = self.windows[lane as usize]
            .as_ref()
            .is_some_and(|(at, _)| *at == window);
        if !held {
            let made = self.make_window(lane, window);
            self.windows[lane as usize] = Some((window, made));
        }
        self.windows[lane as usize]
            .as_ref()
            .map_or(&[], |(_, samples)| samples)
    }

    fn make_window(&mut self, lane: u32, window: u64) -> Vec<u64> {
        let Blocks {
            samples: size,
            window: span,
        } = self.key.blocks;
        let lanes = u64::from(self.key.lanes);
        let mut samples = Vec::with_capacity((size * span) as usize);
        for block in window * span..(window + 1) * span {
            let index = block * lanes + u64::from(lane);
            let chosen = self.epoch(index / self.blocks)[(index % self.blocks) as usize];
            samples.extend(chosen * size..((chosen + 1) * size).min(self.key.samples));
        }
        self.draws(window, Purpose::Window, u64::from(lane))
            .shuffle(&mut samples);
        samples
    }

    /// The order of the blocks in one epoch.
    fn epoch(&mut self, epoch: u64) -> Arc<[u64]> {
        if let Some(known) = self.epochs.get(&epoch) {
            return Arc::clone(known);
        }
        let mut draws = self.draws(epoch, Purpose::Epoch, 0);
        let last = self.blocks - 1;
        let made: Arc<[u64]> = if self.blocks * self.key.blocks.samples == self.key.samples {
            let mut order: Vec<u64> = (0..self.blocks).collect();
            draws.shuffle(&mut order);
            order.into()
        } else {
            // The short block's place comes first, so that `survey` need not permute the epochs that it skips.
            let place = draws.below(self.blocks) as usize;
            let mut order: Vec<u64> = (0..last).collect();
            draws.shuffle(&mut order);
            order.insert(place, last);
            order.into()
        };
        // Lanes are at most a window apart; a few epochs cover them unless the data is tiny, and then it costs little.
        while self.epochs.len() > 3 {
            self.epochs.pop_first();
        }
        self.epochs.insert(epoch, Arc::clone(&made));
        made
    }

    fn draws(&self, number: u64, purpose: Purpose, lane: u64) -> Draws {
        let stream = match self.key.stream {
            Stream::Main => 0,
            Stream::Labelled => 1 << 32,
        };
        Draws::keyed(
            [
                self.key.seed,
                u64::from(self.key.phase.get()) | stream,
                number,
                purpose as u64,
            ],
            lane,
        )
    }
}

/// Keeps the streams of different uses apart; never 0, which augmentation's keys leave in this place.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Epoch = 0x6570_6f63,
    Window = 0x7769_6e64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(samples: u64, batch: u32, lanes: u32, block: u64, window: u64) -> OrderKey {
        OrderKey {
            seed: 3,
            phase: PhaseIndex::new(1),
            stream: Stream::Main,
            samples,
            batch,
            lanes,
            blocks: Blocks {
                samples: block,
                window,
            },
        }
    }

    fn order(key: OrderKey) -> Order {
        Order::new(key, Shortage::Wrap).expect("a legal order")
    }

    fn step(order: &mut Order, step: u64) -> Vec<u64> {
        (0..order.key.lanes)
            .flat_map(|lane| order.lane(Step::new(step), lane))
            .collect()
    }

    proptest! {
        #[test]
        fn lanes_together_hold_every_epoch_once(
            samples in 1u64..60, per_lane in 1u32..4, lanes in 1u32..5, block in 1u64..9, window in 1u64..4,
        ) {
            let key = key(samples, per_lane * lanes, lanes, block, window);
            let mut order = order(key);
            let blocks = samples.div_ceil(block);
            // After this many blocks per lane, every lane is at the end of a window and all at the end of an epoch.
            let per_lane_blocks = blocks * window;
            let epochs = u64::from(lanes) * window;
            let mut counts = vec![0; samples as usize];
            for lane in 0..lanes {
                for window in 0..per_lane_blocks / window {
                    for &sample in order.window(lane, window) {
                        counts[sample as usize] += 1;
                    }
                }
            }
            prop_assert!(counts.iter().all(|&count| count == epochs), "{counts:?}");
        }

        #[test]
        fn any_step_can_be_entered_directly(
            samples in 1u64..200, per_lane in 1u32..5, lanes in 1u32..5, block in 1u64..9, window in 1u64..4,
            at in 0u64..200,
        ) {
            let key = key(samples, per_lane * lanes, lanes, block, window);
            let mut walked = order(key);
            let mut last = Vec::new();
            for before in 0..=at {
                last = step(&mut walked, before);
            }
            prop_assert_eq!(last.len(), key.batch as usize);
            prop_assert_eq!(last, step(&mut order(key), at));
        }
    }

    #[test]
    fn single_sample_blocks_make_every_epoch_a_run_of_steps() {
        let mut order = order(key(48, 16, 8, 1, 1));
        for epoch in 0..4 {
            let mut seen: Vec<u64> = (0..3)
                .flat_map(|s| step(&mut order, epoch * 3 + s))
                .collect();
            assert_ne!(seen, (0..48).collect::<Vec<_>>(), "an epoch is shuffled");
            seen.sort_unstable();
            assert_eq!(seen, (0..48).collect::<Vec<_>>());
        }
    }

    #[test]
    fn seed_phase_and_stream_change_the_order() {
        let base = key(100, 50, 5, 1, 1);
        let first = step(&mut order(base), 0);
        for other in [
            OrderKey { seed: 4, ..base },
            OrderKey {
                phase: PhaseIndex::new(2),
                ..base
            },
            OrderKey {
                stream: Stream::Labelled,
                ..base
            },
        ] {
            assert_ne!(first, step(&mut order(other), 0), "{other:?}");
        }
    }

    #[test]
    fn a_late_step_of_a_large_set_is_entered_at_once() {
        // 10 million samples in blocks of 40 and a short one, after 1,000 epochs.
        let mut late = order(key(10_000_001, 8192, 64, 40, 16));
        let samples = step(&mut late, 1_220_000);
        assert_eq!(samples.len(), 8192);
        assert!(late.epochs.len() <= 4, "only near epochs are permuted");
    }

    #[test]
    fn impossible_orders_are_refused() {
        let refused = |key, shortage| Order::new(key, shortage).expect_err("refused");
        assert_eq!(
            refused(key(0, 4, 2, 1, 1), Shortage::Wrap),
            OrderError::Empty
        );
        assert_eq!(
            refused(key(9, 4, 3, 1, 1), Shortage::Wrap),
            OrderError::Lanes { batch: 4, lanes: 3 }
        );
        assert_eq!(
            refused(key(3, 4, 2, 1, 1), Shortage::Refuse),
            OrderError::TooFew {
                samples: 3,
                batch: 4
            }
        );
    }

    #[test]
    fn blocks_follow_the_data() {
        let of = |samples, bytes, run, lanes| Blocks::of_data(samples, bytes, run, lanes).samples;
        assert_eq!(of(50_000, 120 << 20, 1_000, 64), 1, "small data");
        assert_eq!(of(1_281_167, 140 << 30, 1, 64), 36, "4 MiB of photos");
        assert_eq!(of(1_281_167, 140 << 30, 100, 64), 100, "a row group");
        assert_eq!(
            of(1_281_167, 140 << 30, 100_000, 64),
            36,
            "row groups too large to hold"
        );
        assert_eq!(
            of(2_000, 1 << 30, 100, 64),
            1,
            "enough blocks for every lane"
        );
    }
}
