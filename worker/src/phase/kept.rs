//! What a trainer keeps from one attempt of its phase to the next: opened data, the networks, and the state.

use std::rc::Rc;
use std::sync::Arc;

use diptych_common::checkpoint::{NetworkDescription, Preprocessing};
use diptych_common::digest::Digest;
use diptych_common::ids::{JobId, PhaseIndex, Rank};
use diptych_common::spec::{DistillSpec, PhaseKind, PhaseSpec, Teacher};
use diptych_images::augment::preprocessing;

use super::bad::Told;
use super::blueprint::{self, Blueprint, Start};
use super::data::{Data, Opened, Sets};
use super::{Learner, PhaseError};
use super::{import, preflight, refuse};
use crate::batch::{Originals, Stop};
use crate::checkpoint::{Storage, load};
use crate::device::Compute;
use crate::project::Model;
use crate::trainer::{Assignment, Control, Report, StartFrom};

/// One device's place in a phase, over attempts.
#[derive(Debug, Default)]
pub struct Seat {
    /// Data sets, even where the attempt that opened them did not come further.
    opened: Opened,
    /// The data of the whole job has been looked at.
    looked: bool,
    pub(super) told: Told,
    pub(super) kept: Option<Kept>,
}

/// A phase that has been set up.
#[derive(Debug)]
pub struct Kept {
    pub(super) setup: Setup,
    pub(super) learner: Learner,
    /// The training images, where they are to stay with the device and are there.
    pub(super) originals: Option<Arc<Originals>>,
    /// Whether the learner's tensors are a state of the phase; otherwise they are room for one.
    pub(super) whole: bool,
}

/// What of a phase is the same in every attempt.
#[derive(Debug)]
pub struct Setup {
    /// The job, its spec and the phase: no other is ever served.
    identity: (JobId, Digest, PhaseIndex),
    pub(super) phase: PhaseSpec,
    pub(super) compute: Compute,
    pub(super) storage: Storage,
    pub(super) data: Data,
    pub(super) data_digest: Digest,
    /// Images that an epoch takes.
    pub(super) examples: u64,
    pub(super) network: NetworkDescription,
    pub(super) preprocessing: Preprocessing,
    /// The checkpoint of another phase that this one starts from.
    pub(super) start: Option<Digest>,
    pub(super) teacher: Option<Rc<Model>>,
}

// === impl Seat ===

impl Seat {
    /// Sets up what an assignment needs and is not there yet, with the state that the rank is to begin with where it can
    /// have that without a peer.
    ///
    /// # Errors
    /// Refusals, bad data and bad checkpoints, all before any training; what was there before stays.
    pub(super) fn set_up(
        &mut self,
        assignment: &Assignment,
        stop: &Stop,
        control: &Control,
    ) -> Result<&mut Kept, PhaseError> {
        let from_memory = assignment.start == StartFrom::Memory;
        let known = self.kept.is_some();
        let kept = match self.kept.take() {
            Some(kept) => kept,
            None => self.first(assignment, stop, control)?,
        };
        let kept = self.kept.insert(kept);
        if kept.setup.identity != identity(assignment) {
            return Err(PhaseError::Internal(format!(
                "{} is not the job or phase that this process serves",
                assignment.job
            )));
        }
        if from_memory {
            return Ok(kept);
        }
        kept.whole = false;
        if let Some(checkpoint) = &assignment.resume {
            let (storage, from) = (kept.setup.storage.clone(), checkpoint.clone());
            let loaded = stop.run("resume", move || load::load(&storage, &from, |_| true))??;
            let object = checkpoint.manifest.to_string();
            kept.setup.accepts(assignment, &loaded.manifest, &object)?;
            let step = loaded.manifest.step;
            kept.learner.resume(&loaded.tensors, step, &object)?;
        } else if known {
            let classes = kept.setup.classes();
            let (phase, storage) = (kept.setup.phase.clone(), kept.setup.storage.clone());
            let blueprint = plan(assignment, phase, storage, (classes, stop))?;
            let seed = assignment.spec.seed();
            kept.learner = kept.setup.beginning(&blueprint, seed)?;
        }
        kept.whole = true;
        Ok(kept)
    }

    /// Opens the data, plans the network and builds it. The first rank of a job's first phases looks at the data of all
    /// phases.
    fn first(
        &mut self,
        assignment: &Assignment,
        stop: &Stop,
        control: &Control,
    ) -> Result<Kept, PhaseError> {
        let phase = assignment.spec.phase(assignment.phase).cloned();
        let phase = phase.ok_or_else(|| {
            PhaseError::Internal(format!("the job has no phase {}", assignment.phase))
        })?;
        let compute = Compute::of_gang(&phase.gang, assignment.place.device)
            .map_err(|error| PhaseError::Unfit(format!("phase {}: {error}", phase.name)))?;
        Compute::set_threads(assignment.place.threads as u32);
        let storage = Storage::open(assignment.spec.storage())?;
        let leads = assignment.rank == Rank::new(0) && assignment.start == StartFrom::Checkpoint;
        let begins = leads && assignment.resume.is_none();
        let mut sets = Sets::new(&assignment.spec, stop.clone(), &mut self.opened);
        if begins && assignment.inputs.is_empty() && !self.looked {
            let mut problems = preflight::problems(&assignment.spec, &mut sets)?;
            problems.extend(preflight::imports(&assignment.spec, phase.index)?);
            refuse::all(problems)?;
            self.looked = true;
        }
        let data = Data::open(&mut sets, &phase)?;
        let mut teacher = None;
        let classes = match &phase.kind {
            PhaseKind::Distill(distill) => {
                let (model, classes) = teach(assignment, distill, &storage, &data, compute)?;
                teacher = Some(Rc::new(model));
                Some(classes)
            }
            _ => {
                let index = data.train.index();
                index.labelled().then(|| index.classes().to_vec())
            }
        };
        let blueprint = plan(assignment, phase.clone(), storage.clone(), (classes, stop))?;
        let taught = teacher
            .as_ref()
            .and(blueprint.description.classifier.as_ref())
            .map(|classifier| classifier.classes.as_slice());
        refuse::all(data.problems(&phase, taught))?;
        control.check()?;
        let setup = Setup {
            identity: identity(assignment),
            preprocessing: preprocessing(&phase.augment),
            compute,
            storage,
            data_digest: data.digest(),
            examples: data.used.len(),
            data,
            network: blueprint.description.clone(),
            start: blueprint.start.as_ref().and_then(|start| start.parent),
            teacher,
            phase,
        };
        let learner = setup.beginning(&blueprint, assignment.spec.seed())?;
        if let Some(start) = blueprint.start.as_ref().filter(|_| begins) {
            tell(start, &setup.phase, control);
        }
        Ok(Kept {
            setup,
            learner,
            originals: None,
            whole: false,
        })
    }
}

// === impl Setup ===

impl Setup {
    /// The state before the first step.
    fn beginning(&self, blueprint: &Blueprint, seed: u64) -> Result<Learner, PhaseError> {
        Learner::new(blueprint, &self.phase, seed, self.compute, self.examples)
    }

    /// The classes that the network is planned for, as when it was planned first.
    fn classes(&self) -> Option<Vec<String>> {
        match &self.network.classifier {
            Some(classifier) => Some(classifier.classes.clone()),
            None => {
                let index = self.data.train.index();
                index.labelled().then(|| index.classes().to_vec())
            }
        }
    }

    /// Refuses a checkpoint of another spec or of other data.
    fn accepts(
        &self,
        assignment: &Assignment,
        manifest: &diptych_common::checkpoint::Manifest,
        object: &str,
    ) -> Result<(), PhaseError> {
        if manifest.spec != assignment.spec.digest() {
            let problem = "it was written for another spec: submit a new job";
            return Err(PhaseError::bad_checkpoint(object, problem));
        }
        if !self.data.is(manifest.data) {
            return Err(PhaseError::BadData(format!(
                "the training images, the evaluation images or the chosen labels changed since {object} was written: \
                 restore them, or submit a new job"
            )));
        }
        Ok(())
    }
}

fn identity(assignment: &Assignment) -> (JobId, Digest, PhaseIndex) {
    let spec = assignment.spec.digest();
    (assignment.job.clone(), spec, assignment.phase)
}

/// The network, and the weights that it starts from; an abort does not wait for a store.
fn plan(
    assignment: &Assignment,
    phase: PhaseSpec,
    storage: Storage,
    (classes, stop): (Option<Vec<String>>, &Stop),
) -> Result<Blueprint, PhaseError> {
    let (spec, inputs) = (assignment.spec.clone(), assignment.inputs.clone());
    let plan = move || match &phase.kind {
        PhaseKind::Distill(_) => {
            let classes = classes.unwrap_or_default();
            blueprint::student(&spec, &phase, &inputs, &storage, classes)
        }
        _ => blueprint::plan(&spec, &phase, &inputs, &storage, classes.as_deref()),
    };
    stop.run("plan", plan)?
}

/// The teacher with its weights, and the classes that it tells apart.
fn teach(
    assignment: &Assignment,
    spec: &DistillSpec,
    storage: &Storage,
    data: &Data,
    compute: Compute,
) -> Result<(Model, Vec<String>), PhaseError> {
    let teaching = match &spec.teacher {
        Teacher::Phase(name) => {
            blueprint::teaching(blueprint::input(&assignment.inputs, name)?, storage)?
        }
        Teacher::Import(url) => import::teacher(url, [Some(&data.train), data.eval.as_ref()])?,
    };
    let mut teacher = Model::new(&teaching.model, 0, compute)?;
    teacher
        .load(&teaching.tensors, |_| true)
        .map_err(|error| PhaseError::bad_checkpoint(&teaching.object, error))?;
    Ok((teacher, teaching.classes))
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
