//! An assignment made ready: everything set up, everything that can be refused refused, port bound, rows on their way.

use std::time::{Duration, Instant};

use diptych_common::digest::Digest;
use diptych_common::ids::{Rank, Step};
use diptych_common::spec::{PhaseKind, PhaseSpec};
use tch::Device;

use super::bad::Notices;
use super::data::Data;
use super::distill::Distill;
use super::evaluation::Reading;
use super::finetune::Finetune;
use super::kept::{Kept, Seat, Setup};
use super::linear_eval::LinearEval;
use super::pretrain::Pretrain;
use super::settle::settle;
use super::stream::Batches;
use super::task::{EvalData, Task};
use super::transfer;
use super::{Learner, PhaseError};
use crate::batch::order::{Shortage, Stream};
use crate::batch::{Layout, LoadError, LoaderOptions, Place, Source, Stop};
use crate::collective::nccl::{self, Id, Nccl, Rendezvous};
use crate::collective::tcp::{Identity, Listener, Secret};
use crate::collective::{CollectiveError, Gang, solo};
use crate::trainer::{Assignment, Begin, Control, Ready};

/// Longest that ranks may take to connect.
const CONNECT: Duration = Duration::from_secs(60);
/// Steps that the loader makes before their use.
const AHEAD: usize = 2;

/// A rank that stands ready.
#[derive(Debug)]
pub struct Prepared<'a> {
    pub(super) assignment: Assignment,
    pub(super) setup: &'a Setup,
    pub(super) learner: &'a mut Learner,
    whole: &'a mut bool,
    /// The data, for as long as this attempt goes on.
    pub(super) data: Data,
    place: Place,
    pub(super) notices: Notices,
    /// How rows are dealt; `None` for a reserve.
    deal: Option<Deal>,
    run: Option<Run>,
    listener: Option<Listener>,
    /// What was reported of the state that it holds.
    stated: Option<(Step, Digest)>,
    /// When the assignment came.
    pub(super) since: Instant,
}

/// How the ranks of an attempt share a step.
#[derive(Debug, Clone, Copy)]
struct Deal {
    main: Layout,
    labelled: Option<Layout>,
}

/// The rows of the steps from one on, and what is done with them.
#[derive(Debug)]
pub(super) struct Run {
    from: Step,
    pub(super) batches: Batches,
    pub(super) task: Box<dyn Task>,
}

// === impl Seat ===

impl Seat {
    /// Makes an assignment ready. An abort frees it, and from then on every loader.
    ///
    /// # Errors
    /// Refusals, bad data and bad checkpoints, all before any training.
    pub fn prepare(
        &mut self,
        assignment: Assignment,
        control: &Control,
    ) -> Result<Prepared<'_>, PhaseError> {
        let since = Instant::now();
        let stop = Stop::new();
        let aborted = stop.clone();
        control.on_abort(move |_| aborted.stop());
        let notices = Notices::new(control, &self.told);
        let Kept {
            setup,
            learner,
            originals,
            whole,
        } = self.set_up(&assignment, &stop, control)?;
        let place = settle(setup, originals, &assignment, &stop)?;
        let deal = match assignment.reserve {
            true => None,
            false => Some(Deal::new(&setup.phase, assignment.world)?),
        };
        let alone = assignment.world == 1 || assignment.reserve;
        let listener = match alone {
            true => None,
            false => Some(Listener::bind(&format!(
                "{}:0",
                assignment.place.data_address
            ))?),
        };
        control.check()?;
        let mut prepared = Prepared {
            data: setup.data.under(&stop),
            place,
            assignment,
            setup,
            learner,
            whole,
            notices,
            deal,
            run: None,
            listener,
            stated: None,
            since,
        };
        if *prepared.whole && prepared.deal.is_some() {
            prepared.run = Some(prepared.start()?);
        }
        Ok(prepared)
    }
}

// === impl Deal ===

impl Deal {
    fn new(phase: &PhaseSpec, world: u32) -> Result<Self, LoadError> {
        let layout = |batch| Layout::new(batch, phase.lanes, phase.groups, world);
        let labelled = match &phase.kind {
            PhaseKind::Distill(spec) => spec.labelled.as_ref(),
            _ => None,
        };
        Ok(Self {
            main: layout(phase.batch)?,
            labelled: labelled.map(|stream| layout(stream.batch)).transpose()?,
        })
    }
}

// === impl Prepared ===

impl Prepared<'_> {
    /// What the coordinator compares over the ranks.
    ///
    /// # Errors
    /// Fails only where libtorch does.
    pub fn ready(&mut self) -> Result<Ready, PhaseError> {
        let holds = *self.whole && !self.assignment.reserve;
        let state = holds.then(|| self.learner.summary()).transpose()?;
        self.stated = state.as_ref().map(|state| (state.step, state.digest));
        let step = self.stated.map(|(step, _)| step.get());
        tracing::info!(?step, took = ?self.since.elapsed(), "ready");
        Ok(Ready {
            endpoint: self
                .listener
                .as_ref()
                .map(Listener::endpoint)
                .unwrap_or_default(),
            state,
            nccl_id: self.meeting_point()?,
            data_digest: self.setup.data_digest,
        })
    }

    /// Rank 0 of a CUDA gang: where NCCL's ranks are to meet. Empty elsewhere.
    fn meeting_point(&self) -> Result<Vec<u8>, PhaseError> {
        let leads = self.assignment.rank == Rank::new(0) && self.listener.is_some();
        if !leads || !self.setup.compute.device.is_cuda() {
            return Ok(Vec::new());
        }
        let id = Nccl::open().and_then(|nccl| Id::new(&nccl));
        Ok(id.map_err(CollectiveError::from)?.bytes().to_vec())
    }

    /// Forms the gang; an abort frees it from then on.
    pub(super) fn connect(&mut self, begin: &Begin, control: &Control) -> Result<Gang, PhaseError> {
        if self.assignment.reserve {
            return Err(PhaseError::Internal("a reserve was told to begin".into()));
        }
        let Some(listener) = self.listener.take() else {
            let gang = solo::gang();
            let abort = gang.abort.clone();
            control.on_abort(move |_| abort.abort());
            return Ok(gang);
        };
        let abort = listener.abort_handle();
        control.on_abort(move |_| abort.abort());
        let Assignment {
            job,
            attempt,
            rank,
            world,
            secret,
            ..
        } = &self.assignment;
        let identity = Identity {
            job: job.clone(),
            attempt: *attempt,
            rank: *rank,
            world: *world,
            secret: Secret::from(*secret.bytes()),
        };
        let peers: Vec<String> = begin
            .peers
            .iter()
            .map(|peer| peer.endpoint.clone())
            .collect();
        let started = Instant::now();
        let deadline = started + CONNECT;
        let gang = match self.setup.compute.device {
            Device::Cuda(device) => {
                let nccl = Nccl::open().map_err(CollectiveError::from)?;
                let id = Id::try_from(begin.nccl_id.as_slice()).map_err(CollectiveError::from)?;
                let rendezvous = Rendezvous {
                    listener,
                    identity,
                    peers: &peers,
                    id: &id,
                    deadline,
                };
                nccl::connect(&nccl, device, rendezvous)?
            }
            _ => listener.connect(identity, &peers, deadline)?,
        };
        tracing::info!(took = ?started.elapsed(), "connected");
        Ok(gang)
    }

    /// Ends up with the state that all ranks begin with: its own, or that of the rank that has it. What it held stays
    /// until the other has come whole.
    ///
    /// # Errors
    /// [`PhaseError::Diverged`] where it is not the state that the coordinator announced; the collective's.
    pub(super) fn take_state(&mut self, begin: &Begin, gang: &Gang) -> Result<(), PhaseError> {
        let Some(source) = begin.source else {
            return match (self.stated, begin.state) {
                (None, _) => Err(PhaseError::Internal(
                    "this rank holds no state, and none is to give it one".to_owned(),
                )),
                (Some(own), Some(wanted)) if own != wanted => Err(PhaseError::Diverged(format!(
                    "the gang begins at step {} with another state than this rank's of step {}",
                    wanted.0, own.0
                ))),
                _ => Ok(()),
            };
        };
        let (step, digest) = begin.state.ok_or_else(|| {
            PhaseError::Internal("a state is to be taken that nobody described".to_owned())
        })?;
        let started = Instant::now();
        let state = self.learner.state();
        let given = transfer::from(source, &state, &*gang.gradients)?;
        if gang.rank() != source && self.stated != Some((step, digest)) {
            transfer::verify(&given, digest, (source, step))?;
            self.learner.take(&given, step)?;
            *self.whole = true;
        }
        tracing::info!(step = step.get(), from = source.get(), took = ?started.elapsed(), "state taken");
        Ok(())
    }

    /// The rows and the work of the steps to come.
    pub(super) fn take_run(&mut self) -> Result<Run, PhaseError> {
        match self.run.take() {
            Some(run) if run.from == self.learner.step => Ok(run),
            _ => self.start(),
        }
    }

    fn start(&self) -> Result<Run, PhaseError> {
        let (setup, data) = (self.setup, &self.data);
        let deal = self
            .deal
            .ok_or_else(|| PhaseError::Internal("a reserve has no rows".to_owned()))?;
        let phase = &setup.phase;
        let eval_data = EvalData {
            train: data.train.clone(),
            eval: data.eval.clone(),
            reading: Reading {
                preprocessing: setup.preprocessing,
                max_bad_images: phase.max_bad_images,
                threads: self.assignment.place.threads,
                notices: self.notices.clone(),
            },
        };
        let (images, wrap) = (phase.batch, Shortage::Wrap);
        let (shortage, task): (Shortage, Box<dyn Task>) = match (&phase.kind, &setup.teacher) {
            (PhaseKind::Pretrain(spec), _) => (
                Shortage::Refuse,
                Box::new(Pretrain::new(spec.clone(), deal.main, eval_data)?),
            ),
            (PhaseKind::LinearEval(spec), _) => {
                let task = LinearEval::new(images, &spec.layers, &setup.network, eval_data);
                (wrap, Box::new(task))
            }
            (PhaseKind::Finetune(_), _) => (wrap, Box::new(Finetune::new(images, eval_data))),
            (PhaseKind::Distill(spec), Some(teacher)) => {
                let source = data.labelled.as_ref().unwrap_or(&data.train);
                let labelled = deal
                    .labelled
                    .map(|layout| self.rows(source, layout, (Stream::Labelled, wrap)));
                let task = Distill::new(
                    spec.clone(),
                    images,
                    teacher.clone(),
                    labelled.transpose()?,
                    eval_data,
                );
                (wrap, Box::new(task))
            }
            (PhaseKind::Distill(_), None) => {
                return Err(PhaseError::Internal("no teacher was loaded".to_owned()));
            }
        };
        Ok(Run {
            from: self.learner.step,
            batches: self.rows(&data.used, deal.main, (Stream::Main, shortage))?,
            task,
        })
    }

    fn rows(
        &self,
        source: &Source,
        layout: Layout,
        (stream, shortage): (Stream, Shortage),
    ) -> Result<Batches, PhaseError> {
        let phase = &self.setup.phase;
        let options = LoaderOptions {
            seed: self.assignment.spec.seed(),
            phase: phase.index,
            stream,
            views: phase.views(),
            augment: phase.augment.clone(),
            place: self.place.clone(),
            shortage,
            groups_at_once: phase.micro_batch_groups,
            max_bad_images: phase.max_bad_images,
            threads: self.assignment.place.threads,
            pinned: self.setup.compute.device.is_cuda(),
            ahead: AHEAD,
            steps: self.learner.step.get()..self.learner.total().get(),
        };
        let rank = self.assignment.rank;
        Batches::start(source, layout, rank, options, self.setup.compute)
    }
}
