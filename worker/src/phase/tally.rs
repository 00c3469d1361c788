//! Counts of an evaluation: sums over whatever rows a rank has, added up over ranks.

use tch::{Kind, Tensor};

use crate::collective::Collective;

use super::PhaseError;

/// What an evaluation has counted so far. Ranks may hold any number of rows, none included.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    /// Rows counted.
    pub rows: f64,
    /// Rows whose label has the largest score.
    pub top1: f64,
    /// Rows whose label is among the five largest scores (all, where there are fewer classes).
    pub top5: f64,
    /// Images left out because they are unreadable.
    pub bad: f64,
}

impl Tally {
    /// Counts `scores`, `[rows, classes]`, against `labels`, `[rows]`, int64.
    ///
    /// # Errors
    /// Fails only where libtorch does.
    pub fn add(&mut self, scores: &Tensor, labels: &Tensor) -> Result<(), tch::TchError> {
        let (_, best) = scores.f_topk(scores.size()[1].min(5), 1, true, true)?;
        let hit = best
            .f_eq_tensor(&labels.f_unsqueeze(1)?)?
            .f_to_kind(Kind::Double)?;
        self.rows += labels.size()[0] as f64;
        self.top1 += hit
            .f_narrow(1, 0, 1)?
            .f_sum(Kind::Double)?
            .f_double_value(&[])?;
        self.top5 += hit.f_sum(Kind::Double)?.f_double_value(&[])?;
        Ok(())
    }

    /// The sum over all ranks; a collective call.
    ///
    /// # Errors
    /// Fails where the collective does.
    pub fn over_ranks(self, channel: &dyn Collective) -> Result<Self, PhaseError> {
        let mut sums = Tensor::from_slice(&[self.rows, self.top1, self.top5, self.bad]);
        channel.all_reduce(&mut sums)?;
        let sums = Vec::<f64>::try_from(sums)?;
        Ok(Self {
            rows: sums[0],
            top1: sums[1],
            top5: sums[2],
            bad: sums[3],
        })
    }

    /// The share of rows that the largest score gets right, in [0, 1].
    pub fn top1_share(&self) -> f64 {
        self.top1 / self.rows.max(1.0)
    }

    /// The share of rows that the five largest scores hold, in [0, 1].
    pub fn top5_share(&self) -> f64 {
        self.top5 / self.rows.max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_rows_one_by_one() {
        tch::manual_seed(3);
        let scores = Tensor::randn([50, 7], (Kind::Float, tch::Device::Cpu));
        let labels = Tensor::randint(7, [50], (Kind::Int64, tch::Device::Cpu));
        let mut tally = Tally::default();
        for (start, count) in [(0, 13), (13, 0), (13, 37)] {
            if count > 0 {
                tally
                    .add(
                        &scores.narrow(0, start, count),
                        &labels.narrow(0, start, count),
                    )
                    .unwrap();
            }
        }
        let (mut top1, mut top5) = (0.0, 0.0);
        for row in 0..50 {
            let values: Vec<f32> = Vec::try_from(scores.get(row)).unwrap();
            let own = values[labels.int64_value(&[row]) as usize];
            let better = values.iter().filter(|value| **value > own).count();
            top1 += f64::from(u8::from(better == 0));
            top5 += f64::from(u8::from(better < 5));
        }
        assert_eq!(
            tally,
            Tally {
                rows: 50.0,
                top1,
                top5,
                bad: 0.0
            }
        );
    }
}
