//! An assignment made ready: data open, everything that can be refused refused, weights loaded, port bound.

use std::time::{Duration, Instant};

use diptych_common::checkpoint::{Classifier, NetworkDescription, Preprocessing};
use diptych_common::digest::Digest;
use diptych_common::ids::DataName;
use diptych_common::spec::{Device, DistillSpec, Labels, PhaseKind, PhaseSpec};

use super::blueprint::{self, Blueprint};
use super::distill::Distill;
use super::evaluation::Reading;
use super::finetune::Finetune;
use super::linear_eval::LinearEval;
use super::pretrain::Pretrain;
use super::refuse::{self, Split};
use super::stream::Batches;
use super::task::{EvalData, Task, views};
use super::{Learner, PhaseError};
use crate::batch::order::{Shortage, Stream};
use crate::batch::{Layout, LoaderOptions, Source};
use crate::checkpoint::{Storage, load};
use crate::collective::tcp::{Identity, Listener, Secret};
use crate::collective::{Gang, solo};
use crate::device::Compute;
use crate::project::Model;
use crate::trainer::{Assignment, Begin, Control, Ready};

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
    pub(super) parent: Option<Digest>,
    pub(super) examples: u64,
    pub(super) batches: Batches,
    pub(super) task: Box<dyn Task>,
    /// What people should know of how it starts: kind and message.
    pub(super) notices: Vec<(&'static str, String)>,
    listener: Option<Listener>,
}

/// The data of a phase.
struct Data {
    train: Source,
    /// The training images that the main stream takes.
    used: Source,
    eval: Option<Source>,
}

/// Opens everything that an assignment names.
///
/// # Errors
/// Refusals, bad data and bad checkpoints, all before any training.
pub fn prepare(assignment: Assignment) -> Result<Prepared, PhaseError> {
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
    let data = open_data(&assignment, &phase)?;
    let reading = Reading {
        image_size: phase.augment.image_size,
        max_bad_images: phase.max_bad_images,
        threads: assignment.place.threads,
    };
    let eval_data = EvalData {
        train: data.train.clone(),
        eval: data.eval.clone(),
        reading,
    };

    let mut teacher = None;
    let blueprint = match &phase.kind {
        PhaseKind::Distill(distill) => {
            let (plan, model) = student_and_teacher(&assignment, distill, &storage, compute)?;
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
    let taught = teacher.as_ref().and(blueprint.model.classes);
    check(&phase, &data, taught)?;

    let examples = data.used.len();
    let mut learner = Learner::new(
        &blueprint,
        &phase,
        assignment.spec.seed(),
        compute,
        examples,
    )?;
    let mut notices = Vec::new();
    let headless = blueprint.start.as_ref().filter(|start| !start.head);
    if let Some(start) = headless.filter(|_| assignment.resume.is_none()) {
        let message = format!(
            "{} holds no whole projection head: phase {} starts a fresh one",
            start.object, phase.name
        );
        notices.push(("fresh_head", message));
    }
    let data_digest = data.train.index().digest();
    let mut parent = blueprint.start.as_ref().and_then(|start| start.parent);
    if let Some(checkpoint) = &assignment.resume {
        resume(&assignment, &storage, &mut learner, data_digest)?;
        parent = Some(checkpoint.digest);
    }

    let options = |stream, shortage, groups_at_once| LoaderOptions {
        seed: assignment.spec.seed(),
        phase: phase.index,
        stream,
        views: views(&phase),
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
        (PhaseKind::LinearEval(_), _) => {
            (Shortage::Wrap, Box::new(LinearEval::new(images, eval_data)))
        }
        (PhaseKind::Finetune(_), _) => (Shortage::Wrap, Box::new(Finetune::new(images, eval_data))),
        (PhaseKind::Distill(spec), Some(teacher)) => {
            let labelled = match &spec.labelled {
                Some(stream) => {
                    let layout =
                        Layout::new(stream.batch, phase.lanes, phase.groups, assignment.world)
                            .map_err(crate::batch::LoadError::from)?;
                    let source = data.train.labelled(&stream.labels)?;
                    let options =
                        options(Stream::Labelled, Shortage::Wrap, phase.micro_batch_groups);
                    Some(Batches::start(
                        &source,
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
    let preprocessing = Preprocessing {
        image_size: phase.augment.image_size,
        crop_proportion: crop(&phase),
    };
    Ok(Prepared {
        network: blueprint.description,
        assignment,
        phase,
        storage,
        learner,
        preprocessing,
        data_digest,
        parent,
        examples,
        batches,
        task,
        notices,
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
        })
    }

    /// Forms the gang; an abort frees it, and the loader, from then on.
    pub(super) fn connect(&mut self, begin: &Begin, control: &Control) -> Result<Gang, PhaseError> {
        let loader = self.batches.stop_handle();
        control.on_abort(move |_| loader.stop());
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

fn open_data(assignment: &Assignment, phase: &PhaseSpec) -> Result<Data, PhaseError> {
    let open = |name: &DataName| {
        let spec = assignment.spec.data().get(name);
        let spec =
            spec.ok_or_else(|| PhaseError::Internal(format!("the job has no data {name}")))?;
        Ok::<_, PhaseError>(Source::open(spec)?)
    };
    let train = open(&phase.train)?;
    let eval = phase.eval.as_ref().map(open).transpose()?;
    let used = match &phase.kind {
        PhaseKind::LinearEval(spec) => labelled(&train, &spec.labels)?,
        PhaseKind::Finetune(spec) => labelled(&train, &spec.labels)?,
        PhaseKind::Pretrain(_) | PhaseKind::Distill(_) => train.clone(),
    };
    Ok(Data { train, used, eval })
}

fn labelled(train: &Source, labels: &Labels) -> Result<Source, PhaseError> {
    Ok(train.labelled(labels)?)
}

fn check(phase: &PhaseSpec, data: &Data, teacher: Option<u32>) -> Result<(), PhaseError> {
    let split = |name, source: &Source| Split {
        name,
        images: source.len(),
        classes: source
            .index()
            .labelled()
            .then(|| source.index().classes().len() as u32),
    };
    let eval = phase
        .eval
        .as_ref()
        .zip(data.eval.as_ref())
        .map(|(name, source)| split(name, source));
    refuse::check(phase, split(&phase.train, &data.train), eval, teacher)
}

/// The student's plan, and the teacher with its weights.
fn student_and_teacher(
    assignment: &Assignment,
    spec: &DistillSpec,
    storage: &Storage,
    compute: Compute,
) -> Result<(Blueprint, Model), PhaseError> {
    let checkpoint = blueprint::input(&assignment.inputs, &spec.teacher)?;
    let loaded = blueprint::network_of(storage, checkpoint)?;
    let (model, classes) = blueprint::classifying(&loaded.manifest)?;
    let mut teacher = Model::new(&model, 0, compute)?;
    teacher
        .load(&loaded.tensors, |_| true)
        .map_err(|error| PhaseError::BadCheckpoint {
            object: checkpoint.manifest.to_string(),
            problem: error.to_string(),
        })?;
    let encoder = spec.student.clone().unwrap_or(model.encoder);
    let description = NetworkDescription {
        encoder: encoder.clone(),
        head: None,
        classifier: Some(Classifier {
            classes: classes.clone(),
            head_layer: 0,
        }),
    };
    let student = crate::project::ModelSpec {
        encoder,
        head: None,
        classes: Some(classes.len() as u32),
        probe: None,
    };
    Ok((
        Blueprint {
            model: student,
            description,
            start: None,
        },
        teacher,
    ))
}

fn resume(
    assignment: &Assignment,
    storage: &Storage,
    learner: &mut Learner,
    data: Digest,
) -> Result<(), PhaseError> {
    let Some(checkpoint) = &assignment.resume else {
        return Ok(());
    };
    let loaded = load::load(storage, checkpoint, |_| true)?;
    let object = checkpoint.manifest.to_string();
    if loaded.manifest.spec != assignment.spec.digest() {
        let problem = "it was written for another spec: submit a new job".to_owned();
        return Err(PhaseError::BadCheckpoint { object, problem });
    }
    if loaded.manifest.data != data {
        return Err(PhaseError::BadData(format!(
            "the training data changed since {object} was written: restore it, or submit a new job"
        )));
    }
    learner.resume(&loaded.tensors, loaded.manifest.step, &object)
}

/// Share of the shorter side that evaluation keeps, as `images` does it.
fn crop(phase: &PhaseSpec) -> f64 {
    if phase.augment.image_size <= 32 {
        1.0
    } else {
        0.875
    }
}
