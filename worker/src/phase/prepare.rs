//! An assignment made ready: data open, everything that can be refused refused, weights loaded, port bound.

use std::time::{Duration, Instant};

use diptych_common::checkpoint::{NetworkDescription, Preprocessing};
use diptych_common::digest::Digest;
use diptych_common::ids::Rank;
use diptych_common::spec::{Device, DistillSpec, PhaseKind, PhaseSpec, Teacher};
use diptych_images::augment::preprocessing;

use super::bad::Notices;
use super::blueprint::{self, Blueprint, Start};
use super::data::{Data, Sets};
use super::distill::Distill;
use super::evaluation::Reading;
use super::finetune::Finetune;
use super::linear_eval::LinearEval;
use super::pretrain::Pretrain;
use super::stream::Batches;
use super::task::{EvalData, Task};
use super::{Learner, PhaseError};
use super::{import, preflight, refuse};
use crate::batch::order::{Shortage, Stream};
use crate::batch::{Layout, LoaderOptions, Source, Stop};
use crate::checkpoint::{Storage, load};
use crate::collective::tcp::{Identity, Listener, Secret};
use crate::collective::{Gang, solo};
use crate::device::Compute;
use crate::project::Model;
use crate::trainer::{Assignment, Begin, Control, Ready, Report};

/// Longest that ranks may take to connect.
const CONNECT: Duration = Duration::from_secs(60);
/// Steps that the loader makes before their use.
const AHEAD: usize = 2;

/// A rank that stands ready.
#[derive(Debug)]
pub struct Prepared {
    pub(super) assignment: Assignment,
    pub(super) phase: PhaseSpec,
    pub(super) storage: Storage,
    pub(super) learner: Learner,
    pub(super) network: NetworkDescription,
    pub(super) preprocessing: Preprocessing,
    pub(super) data_digest: Digest,
    /// The training images that the main stream takes.
    pub(super) used: Source,
    pub(super) notices: Notices,
    pub(super) parent: Option<Digest>,
    pub(super) examples: u64,
    pub(super) batches: Batches,
    pub(super) task: Box<dyn Task>,
    listener: Option<Listener>,
}

/// Opens everything that an assignment names. The first rank of a job's first phases looks at the data of all phases.
/// An abort frees it, and from then on every loader.
///
/// # Errors
/// Refusals, bad data and bad checkpoints, all before any training.
pub fn prepare(assignment: Assignment, control: &Control) -> Result<Prepared, PhaseError> {
    let phase = assignment.spec.phase(assignment.phase).cloned();
    let phase = phase.ok_or_else(|| {
        PhaseError::Internal(format!("the job has no phase {}", assignment.phase))
    })?;
    if phase.gang.device == Device::Cuda {
        return Err(PhaseError::Refused(format!(
            "phase {}: this build trains on CPUs only: use `device: cpu`",
            phase.name
        )));
    }
    let compute = Compute::cpu(phase.gang.precision);
    Compute::set_threads(assignment.place.threads as u32);
    let layout = Layout::new(phase.batch, phase.lanes, phase.groups, assignment.world)
        .map_err(crate::batch::LoadError::from)?;
    let storage = Storage::open(assignment.spec.storage())?;
    let stop = Stop::new();
    let aborted = stop.clone();
    control.on_abort(move |_| aborted.stop());
    let data = {
        let mut sets = Sets::new(&assignment.spec, stop);
        let begins = assignment.resume.is_none() && assignment.inputs.is_empty();
        if begins && assignment.rank == Rank::new(0) {
            let mut problems = preflight::problems(&assignment.spec, &mut sets)?;
            problems.extend(preflight::imports(&assignment.spec, phase.index)?);
            refuse::all(problems)?;
        }
        Data::open(&mut sets, &phase)?
    };
    let notices = Notices::new(control);
    let reading = Reading {
        preprocessing: preprocessing(&phase.augment),
        max_bad_images: phase.max_bad_images,
        threads: assignment.place.threads,
        notices: notices.clone(),
    };
    let eval_data = EvalData {
        train: data.train.clone(),
        eval: data.eval.clone(),
        reading,
    };

    let mut teacher = None;
    let blueprint = match &phase.kind {
        PhaseKind::Distill(distill) => {
            let (plan, model) =
                student_and_teacher(&assignment, (&phase, distill), (&storage, &data), compute)?;
            teacher = Some(model);
            plan
        }
        _ => {
            let classes = data
                .train
                .index()
                .labelled()
                .then(|| data.train.index().classes());
            blueprint::plan(
                &assignment.spec,
                &phase,
                &assignment.inputs,
                &storage,
                classes,
            )?
        }
    };
    let taught = teacher
        .as_ref()
        .and(blueprint.description.classifier.as_ref())
        .map(|classifier| classifier.classes.as_slice());
    refuse::all(data.problems(&phase, taught))?;
    control.check()?;

    let examples = data.used.len();
    let mut learner = Learner::new(
        &blueprint,
        &phase,
        assignment.spec.seed(),
        compute,
        examples,
    )?;
    let begins = assignment.resume.is_none() && assignment.rank == Rank::new(0);
    if let Some(start) = blueprint.start.as_ref().filter(|_| begins) {
        tell(start, &phase, control);
    }
    let mut parent = blueprint.start.as_ref().and_then(|start| start.parent);
    if let Some(checkpoint) = &assignment.resume {
        resume(&assignment, &storage, &mut learner, &data)?;
        parent = Some(checkpoint.digest);
    }

    let options = |stream, shortage, groups_at_once| LoaderOptions {
        seed: assignment.spec.seed(),
        phase: phase.index,
        stream,
        views: phase.views(),
        augment: phase.augment.clone(),
        shortage,
        groups_at_once,
        max_bad_images: phase.max_bad_images,
        threads: assignment.place.threads,
        ahead: AHEAD,
        steps: learner.step.get()..learner.total().get(),
    };
    let images = phase.batch;
    let (shortage, task): (Shortage, Box<dyn Task>) = match (&phase.kind, teacher) {
        (PhaseKind::Pretrain(spec), _) => (
            Shortage::Refuse,
            Box::new(Pretrain::new(spec.clone(), layout, eval_data)?),
        ),
        (PhaseKind::LinearEval(spec), _) => {
            let task = LinearEval::new(images, &spec.layers, &blueprint.description, eval_data);
            (Shortage::Wrap, Box::new(task))
        }
        (PhaseKind::Finetune(_), _) => (Shortage::Wrap, Box::new(Finetune::new(images, eval_data))),
        (PhaseKind::Distill(spec), Some(teacher)) => {
            let labelled = match &spec.labelled {
                Some(stream) => {
                    let layout =
                        Layout::new(stream.batch, phase.lanes, phase.groups, assignment.world)
                            .map_err(crate::batch::LoadError::from)?;
                    let source = data.labelled.as_ref().unwrap_or(&data.train);
                    let options =
                        options(Stream::Labelled, Shortage::Wrap, phase.micro_batch_groups);
                    Some(Batches::start(
                        source,
                        layout,
                        assignment.rank,
                        options,
                        compute,
                    )?)
                }
                None => None,
            };
            (
                Shortage::Wrap,
                Box::new(Distill::new(
                    spec.clone(),
                    images,
                    teacher,
                    labelled,
                    eval_data,
                )),
            )
        }
        (PhaseKind::Distill(_), None) => {
            return Err(PhaseError::Internal("no teacher was loaded".to_owned()));
        }
    };
    let options = options(Stream::Main, shortage, phase.micro_batch_groups);
    let batches = Batches::start(&data.used, layout, assignment.rank, options, compute)?;
    let listener = match assignment.world {
        1 => None,
        _ => Some(Listener::bind(&format!(
            "{}:0",
            assignment.place.data_address
        ))?),
    };
    control.check()?;
    Ok(Prepared {
        network: blueprint.description,
        assignment,
        preprocessing: preprocessing(&phase.augment),
        phase,
        storage,
        learner,
        data_digest: data.digest(),
        used: data.used,
        notices,
        parent,
        examples,
        batches,
        task,
        listener,
    })
}

impl Prepared {
    /// What the coordinator compares over the ranks.
    ///
    /// # Errors
    /// Fails only where libtorch does.
    pub fn ready(&self) -> Result<Ready, PhaseError> {
        Ok(Ready {
            endpoint: self
                .listener
                .as_ref()
                .map(Listener::endpoint)
                .unwrap_or_default(),
            step: self.learner.step,
            state_digest: self.learner.digest()?,
            nccl_id: Vec::new(),
            data_digest: self.data_digest,
        })
    }

    /// Forms the gang; an abort frees it from then on.
    pub(super) fn connect(&mut self, begin: &Begin, control: &Control) -> Result<Gang, PhaseError> {
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
        Ok(listener.connect(identity, &peers, Instant::now() + CONNECT)?)
    }
}

/// What people should know of the weights that a phase starts from.
fn tell(start: &Start, phase: &PhaseSpec, control: &Control) {
    if !start.head {
        let message = format!(
            "{} holds no whole projection head: phase {} starts a fresh one",
            start.object, phase.name
        );
        control.report(Report::Notice {
            kind: "fresh_head",
            message,
        });
    }
    if let Some(advice) = &start.advice {
        control.report(Report::Notice {
            kind: "import",
            message: format!("{} {advice}", start.object),
        });
    }
}

/// The student's plan, and the teacher with its weights.
fn student_and_teacher(
    assignment: &Assignment,
    (phase, spec): (&PhaseSpec, &DistillSpec),
    (storage, data): (&Storage, &Data),
    compute: Compute,
) -> Result<(Blueprint, Model), PhaseError> {
    let inputs = &assignment.inputs;
    let teaching = match &spec.teacher {
        Teacher::Phase(name) => blueprint::teaching(blueprint::input(inputs, name)?, storage)?,
        Teacher::Import(url) => import::teacher(url, [Some(&data.train), data.eval.as_ref()])?,
    };
    let mut teacher = Model::new(&teaching.model, 0, compute)?;
    teacher
        .load(&teaching.tensors, |_| true)
        .map_err(|error| PhaseError::bad_checkpoint(&teaching.object, error))?;
    let job = &assignment.spec;
    let student = blueprint::student(job, phase, inputs, storage, teaching.classes)?;
    Ok((student, teacher))
}

fn resume(
    assignment: &Assignment,
    storage: &Storage,
    learner: &mut Learner,
    data: &Data,
) -> Result<(), PhaseError> {
    let Some(checkpoint) = &assignment.resume else {
        return Ok(());
    };
    let loaded = load::load(storage, checkpoint, |_| true)?;
    let object = checkpoint.manifest.to_string();
    if loaded.manifest.spec != assignment.spec.digest() {
        let problem = "it was written for another spec: submit a new job";
        return Err(PhaseError::bad_checkpoint(object, problem));
    }
    if !data.is(loaded.manifest.data) {
        return Err(PhaseError::BadData(format!(
            "the training images, the evaluation images or the chosen labels changed since {object} was written: \
             restore them, or submit a new job"
        )));
    }
    learner.resume(&loaded.tensors, loaded.manifest.step, &object)
}
