//! The loader's steps as micro-batches on the device.

use diptych_common::ids::Rank;
use tch::Kind;

use super::PhaseError;
use crate::backward::MicroBatch;
use crate::batch::{BadImage, Layout, Loader, LoaderOptions, Source};
use crate::device::Compute;

/// One stream of training rows of one rank.
#[derive(Debug)]
pub struct Batches {
    loader: Loader,
    group_rows: Vec<Vec<i64>>,
    compute: Compute,
}

/// One rank's rows of one step.
#[derive(Debug)]
pub struct StepRows {
    /// Micro-batches, placed on the device.
    pub rows: Vec<MicroBatch>,
    /// Images found bad on the way.
    pub bad: Vec<BadImage>,
}

impl Batches {
    /// Starts to load the steps that `options` names.
    ///
    /// # Errors
    /// As [`Loader::start`].
    pub fn start(
        source: &Source,
        layout: Layout,
        rank: Rank,
        options: LoaderOptions,
        compute: Compute,
    ) -> Result<Self, PhaseError> {
        let rows = |group| i64::from(layout.images_of(rank, group)) * i64::from(options.views);
        let group_rows = layout
            .micro_batches(options.groups_at_once)
            .map(|groups| groups.map(rows).collect())
            .collect();
        let loader = Loader::start(source, layout, rank, options)?;
        Ok(Self {
            loader,
            group_rows,
            compute,
        })
    }

    /// The next step's rows.
    ///
    /// # Errors
    /// As [`Loader::next_step`]; also after the last step.
    pub fn next(&self) -> Result<StepRows, PhaseError> {
        let batch = self.loader.next_step()?;
        let batch = batch
            .ok_or_else(|| PhaseError::Internal("the loader ended before the phase".to_owned()))?;
        let device = self.compute.device;
        let rows =
            batch
                .micro_batches
                .into_iter()
                .zip(&self.group_rows)
                .map(|(rows, group_rows)| {
                    Ok(MicroBatch {
                        images: self.compute.place(&rows.images.views(device)?)?,
                        group_rows: group_rows.clone(),
                        labels: rows
                            .labels
                            .map(|labels| labels.f_to_device_(device, Kind::Int64, true, false))
                            .transpose()?,
                    })
                });
        Ok(StepRows {
            rows: rows.collect::<Result<_, PhaseError>>()?,
            bad: batch.bad,
        })
    }
}
