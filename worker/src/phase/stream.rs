//! The loader's steps as micro-batches on the device.

use diptych_common::ids::Rank;
use tch::{Device, Kind, Tensor};

use super::PhaseError;
use crate::backward::MicroBatch;
use crate::batch::{BadImage, Layout, Loader, LoaderOptions, RankBatch, Source};
use crate::device::Compute;
use crate::device::stream::Stream;

/// One stream of training rows of one rank. A step's rows go up to a GPU while it works on the step before.
#[derive(Debug)]
pub struct Batches {
    loader: Loader,
    group_rows: Vec<Vec<i64>>,
    compute: Compute,
    /// Where rows go up to a GPU.
    lane: Option<Stream>,
    /// What is on its way up.
    coming: Option<Result<Option<RankBatch>, PhaseError>>,
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
        let lane = match compute.device {
            Device::Cuda(index) => Some(Stream::new(index)?),
            _ => None,
        };
        Ok(Self {
            loader,
            group_rows,
            compute,
            lane,
            coming: None,
        })
    }

    /// The next step's rows.
    ///
    /// # Errors
    /// As [`Loader::next_step`]; also after the last step.
    pub fn step(&mut self) -> Result<StepRows, PhaseError> {
        let batch = match self.coming.take() {
            Some(lifted) => lifted?,
            None => self.lifted(self.loader.next_step()?)?,
        };
        let batch = batch
            .ok_or_else(|| PhaseError::Internal("the loader ended before the phase".to_owned()))?;
        if let Some(lane) = &self.lane {
            lane.before_current()?;
            // Only what is ready: the device has this step to do meanwhile.
            let ready = self.loader.ready_step();
            self.coming = ready.map(|made| self.lifted(made?));
        }
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

    /// A step on its way up, where there is a way. Nothing may touch it before the device's operations wait for it.
    fn lifted(&self, batch: Option<RankBatch>) -> Result<Option<RankBatch>, PhaseError> {
        let (lane, batch) = match (&self.lane, batch) {
            (Some(lane), Some(batch)) => (lane, batch),
            (_, batch) => return Ok(batch),
        };
        // Its memory may have been that of a tensor which the device still works on.
        lane.after_current()?;
        let up = |tensor: &Tensor| {
            let there = Tensor::f_empty(tensor.size(), (tensor.kind(), self.compute.device))?;
            lane.copy(tensor, &there)?;
            Ok(there)
        };
        Ok(Some(batch.moved(&up)?))
    }
}
