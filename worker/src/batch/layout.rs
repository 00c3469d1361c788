//! How a step's rows are dealt to ranks: pure arithmetic that every part of a step shares.
//!
//! A step has `batch` images at positions `0..batch`; lane ℓ holds positions `ℓ·(batch/lanes)..`, and belongs to
//! batch-norm group `ℓ mod groups`. Within each group the lanes are dealt to ranks in contiguous runs, as evenly as
//! they go; which ranks get the extra lanes turns with the group, so that totals differ by one lane per rank at most.
//!
//! A rank holds its rows in the order `[group][view][lane, j]`, whether it holds all groups at once or some at a
//! time. The loss reads all ranks' rows in the **canonical order `[view][position]`** (`views · batch` rows), the same
//! for every world: the partner of row i of 2N is (i + N) mod 2N.

use std::ops::Range;

use diptych_common::ids::Rank;

/// The shape of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    batch: u32,
    lanes: u32,
    groups: u32,
    world: u32,
}

/// One row of a step: a view of the image at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row {
    /// 0 or 1.
    pub view: u32,
    /// Index in the step, `0..batch`.
    pub position: u32,
}

/// Why a step cannot be dealt so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A number is 0.
    #[error("batch, lanes, groups and ranks must all be at least 1")]
    Zero,
    /// A lane would not be whole.
    #[error("{lanes} lanes do not divide a batch of {batch}; choose a divisor")]
    LanesDoNotDivide {
        /// Images per step.
        batch: u32,
        /// Lanes asked for.
        lanes: u32,
    },
    /// Groups would be of different sizes.
    #[error("{groups} batch-norm groups do not divide {lanes} lanes; choose a divisor")]
    GroupsDoNotDivide {
        /// Lanes.
        lanes: u32,
        /// Groups asked for.
        groups: u32,
    },
    /// A rank would hold no lane of some group, and could not take part in its statistics.
    #[error(
        "{world} ranks need {world} lanes in each of the {groups} groups, and there are {lanes} lanes in all; use fewer ranks or groups, or more lanes"
    )]
    TooManyRanks {
        /// Lanes.
        lanes: u32,
        /// Groups.
        groups: u32,
        /// Ranks asked for.
        world: u32,
    },
}

impl Layout {
    /// Deals `batch` images in `lanes` lanes and `groups` batch-norm groups to `world` ranks.
    ///
    /// # Errors
    /// When the numbers do not divide, or a rank would hold no lane of some group.
    pub fn new(batch: u32, lanes: u32, groups: u32, world: u32) -> Result<Self, LayoutError> {
        if [batch, lanes, groups, world].contains(&0) {
            return Err(LayoutError::Zero);
        }
        if !batch.is_multiple_of(lanes) {
            return Err(LayoutError::LanesDoNotDivide { batch, lanes });
        }
        if !lanes.is_multiple_of(groups) {
            return Err(LayoutError::GroupsDoNotDivide { lanes, groups });
        }
        if lanes / groups < world {
            return Err(LayoutError::TooManyRanks {
                lanes,
                groups,
                world,
            });
        }
        Ok(Self {
            batch,
            lanes,
            groups,
            world,
        })
    }

    /// The largest divisor of `batch` that is at most 64: the lanes of a stream that names none.
    pub fn usual_lanes(batch: u32) -> u32 {
        (1..=batch.clamp(1, 64))
            .rev()
            .find(|lanes| batch.is_multiple_of(*lanes))
            .unwrap_or(1)
    }

    /// Images per step over all ranks.
    pub fn batch(&self) -> u32 {
        self.batch
    }

    /// Lanes of a step.
    pub fn lanes(&self) -> u32 {
        self.lanes
    }

    /// Batch-norm groups of a step.
    pub fn groups(&self) -> u32 {
        self.groups
    }

    /// Ranks that share a step.
    pub fn world(&self) -> u32 {
        self.world
    }

    /// Images per lane and step.
    pub fn lane_images(&self) -> u32 {
        self.batch / self.lanes
    }

    /// Images of one batch-norm group over all ranks.
    pub fn group_images(&self) -> u32 {
        self.batch / self.groups
    }

    /// The lane of a position.
    pub fn lane_of(&self, position: u32) -> u32 {
        position / self.lane_images()
    }

    /// The lanes of one group that a rank owns, in order. Never empty for a rank and group that exist.
    pub fn lanes_of(&self, rank: Rank, group: u32) -> impl Iterator<Item = u32> + use<> {
        let (groups, run) = (self.groups, self.run(rank.get(), group));
        run.map(move |i| group + i * groups)
    }

    /// The positions of one group that a rank owns, lane by lane.
    pub fn positions(&self, rank: Rank, group: u32) -> impl Iterator<Item = u32> + use<> {
        let images = self.lane_images();
        self.lanes_of(rank, group)
            .flat_map(move |lane| lane * images..(lane + 1) * images)
    }

    /// Images of one group that a rank owns.
    pub fn images_of(&self, rank: Rank, group: u32) -> u32 {
        self.run(rank.get(), group).len() as u32 * self.lane_images()
    }

    /// The groups of each micro-batch, `at_once` groups each (the last may hold fewer).
    pub fn micro_batches(&self, at_once: u32) -> impl Iterator<Item = Range<u32>> + use<> {
        let (groups, at_once) = (self.groups, at_once.max(1));
        (0..groups.div_ceil(at_once)).map(move |m| m * at_once..((m + 1) * at_once).min(groups))
    }

    /// The rows (view, position) of some groups that a rank holds, ordered `[group][view][lane, j]`.
    pub fn rows(&self, rank: Rank, groups: Range<u32>, views: u32) -> Vec<Row> {
        groups
            .flat_map(|group| {
                (0..views).flat_map(move |view| {
                    self.positions(rank, group)
                        .map(move |position| Row { view, position })
                })
            })
            .collect()
    }

    /// Rows of each rank in one step, in rank order: the shares of an all-gather.
    pub fn rows_per_rank(&self, views: u32) -> Vec<i64> {
        (0..self.world)
            .map(|rank| {
                let images: u32 = (0..self.groups)
                    .map(|g| self.images_of(Rank::new(rank), g))
                    .sum();
                i64::from(images) * i64::from(views)
            })
            .collect()
    }

    /// Where a rank's rows stand in the canonical order: local row i is canonical row `canonical_rows(..)[i]`.
    pub fn canonical_rows(&self, rank: Rank, views: u32) -> Vec<i64> {
        self.rows(rank, 0..self.groups, views)
            .into_iter()
            .map(|row| i64::from(row.view) * i64::from(self.batch) + i64::from(row.position))
            .collect()
    }

    /// The permutation from all ranks' rows, concatenated in rank order, to the canonical order:
    /// `canonical = gathered.index_select(0, to_canonical(views))`.
    pub fn to_canonical(self, views: u32) -> Vec<i64> {
        let mut order = vec![0; self.batch as usize * views as usize];
        let gathered = (0..self.world).flat_map(|rank| self.canonical_rows(Rank::new(rank), views));
        for (row, canonical) in gathered.enumerate() {
            order[canonical as usize] = row as i64;
        }
        order
    }

    /// Which of a group's lanes (counted within the group) a rank owns.
    fn run(&self, rank: u32, group: u32) -> Range<u32> {
        let lanes = self.lanes / self.groups;
        let (least, extra) = (lanes / self.world, lanes % self.world);
        // Ranks turn..turn+extra (cyclically) hold one lane more in this group.
        let turn = (u64::from(group) * u64::from(extra) % u64::from(self.world)) as u32;
        let longer = |r: u32| u32::from((r + self.world - turn) % self.world < extra);
        let start = rank * least + (0..rank.min(self.world)).map(longer).sum::<u32>();
        start..start + least + longer(rank)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shapes() -> impl Strategy<Value = (Layout, u32)> {
        (1u32..5, 1u32..5, 1u32..6, 1u32..4, 1u32..3).prop_flat_map(
            |(images, per_group, groups, _, views)| {
                (1..=per_group).prop_map(move |world| {
                    let lanes = per_group * groups;
                    (
                        Layout::new(lanes * images, lanes, groups, world).expect("a legal shape"),
                        views,
                    )
                })
            },
        )
    }

    proptest! {
        #[test]
        fn every_row_has_one_owner_and_one_canonical_place((layout, views) in shapes()) {
            let order = layout.to_canonical(views);
            let mut seen = order.clone();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..i64::from(layout.batch() * views)).collect::<Vec<_>>());
            let gathered: Vec<i64> = (0..layout.world())
                .flat_map(|r| layout.canonical_rows(Rank::new(r), views))
                .collect();
            for (canonical, row) in order.iter().enumerate() {
                prop_assert_eq!(gathered[*row as usize], canonical as i64);
            }
            let shares = layout.rows_per_rank(views);
            prop_assert_eq!(shares.iter().sum::<i64>(), i64::from(layout.batch() * views));
            let lane = i64::from(layout.lane_images() * views);
            prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= lane);
        }

        #[test]
        fn every_rank_holds_whole_lanes_of_every_group((layout, _) in shapes()) {
            for group in 0..layout.groups() {
                let mut lanes = Vec::new();
                for rank in 0..layout.world() {
                    let own: Vec<u32> = layout.lanes_of(Rank::new(rank), group).collect();
                    prop_assert!(!own.is_empty());
                    prop_assert!(own.iter().all(|lane| lane % layout.groups() == group));
                    lanes.extend(own);
                }
                // Contiguous runs in rank order leave the group's lanes in order.
                let all: Vec<u32> = (0..layout.lanes()).filter(|lane| lane % layout.groups() == group).collect();
                prop_assert_eq!(lanes, all);
            }
        }

        #[test]
        fn micro_batches_cut_the_same_rows((layout, views) in shapes(), at_once in 1u32..6) {
            for rank in (0..layout.world()).map(Rank::new) {
                let cut: Vec<Row> = layout
                    .micro_batches(at_once)
                    .flat_map(|groups| layout.rows(rank, groups, views))
                    .collect();
                prop_assert_eq!(cut, layout.rows(rank, 0..layout.groups(), views));
            }
        }
    }

    #[test]
    fn a_small_step_in_full() {
        // Lanes 0..6 of two images; groups {0,2,4} and {1,3,5}; two ranks take 2+1 and 1+2 lanes of them.
        let layout = Layout::new(12, 6, 2, 2).expect("legal");
        let lanes = |rank, group| layout.lanes_of(Rank::new(rank), group).collect::<Vec<_>>();
        assert_eq!((lanes(0, 0), lanes(1, 0)), (vec![0, 2], vec![4]));
        assert_eq!((lanes(0, 1), lanes(1, 1)), (vec![1], vec![3, 5]));
        assert_eq!(layout.rows_per_rank(2), [12, 12]);
        let rows = layout.rows(Rank::new(0), 1..2, 2);
        assert_eq!(
            rows,
            [(0, 2), (0, 3), (1, 2), (1, 3)].map(|(view, position)| Row { view, position })
        );
    }

    #[test]
    fn impossible_shapes_are_refused_by_name() {
        assert_eq!(Layout::new(0, 1, 1, 1), Err(LayoutError::Zero));
        assert_eq!(
            Layout::new(10, 4, 1, 1),
            Err(LayoutError::LanesDoNotDivide {
                batch: 10,
                lanes: 4
            })
        );
        assert_eq!(
            Layout::new(12, 4, 3, 1),
            Err(LayoutError::GroupsDoNotDivide {
                lanes: 4,
                groups: 3
            })
        );
        assert_eq!(
            Layout::new(16, 8, 4, 3),
            Err(LayoutError::TooManyRanks {
                lanes: 8,
                groups: 4,
                world: 3
            })
        );
    }

    #[test]
    fn usual_lanes_divide_the_batch() {
        for (batch, lanes) in [
            (1, 1),
            (64, 64),
            (256, 64),
            (8192, 64),
            (100, 50),
            (67, 1),
            (96, 48),
        ] {
            assert_eq!(Layout::usual_lanes(batch), lanes);
        }
    }
}
