//! Saves of one attempt: this rank's parts, on rank 0 the manifests, and what the coordinator has committed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use diptych_common::checkpoint::{
    CheckpointKey, Manifest, NetworkDescription, PhaseWord, Preprocessing, StoredObject,
    TensorMeta, partition,
};
use diptych_common::digest::Digest;
use diptych_common::ids::{Rank, Step};
use diptych_common::spec::PhaseKind;

use super::prepare::Prepared;
use super::task::Values;
use super::{Learner, PhaseError};
use crate::checkpoint::flat::describe;
use crate::checkpoint::{FileLayout, Saved, Saver};
use crate::trainer::{Command, Control, Measurement, Report};

/// Saves whose results are kept until they are committed; while nobody commits, the oldest are given up.
const UNCOMMITTED: usize = 16;
/// Longest wait before commands, outcomes and the abort are looked at again.
const TURN: Duration = Duration::from_millis(20);

/// What every manifest of an attempt says.
#[derive(Debug)]
struct Frame {
    key: CheckpointKey,
    kind: PhaseWord,
    world: u32,
    spec: Digest,
    data: Digest,
    parent: Option<Digest>,
    network: NetworkDescription,
    preprocessing: Preprocessing,
    tensors: Vec<TensorMeta>,
}

/// The saves of one rank.
#[derive(Debug)]
pub struct Keeper {
    frame: Frame,
    rank: Rank,
    saver: Saver,
    /// How long the snapshot of the part under way took.
    stall: Duration,
    results: BTreeMap<Step, BTreeMap<String, f64>>,
    committed: Option<Step>,
    /// Saves that must succeed: the phase's last, and the best so far where the spec asks for it.
    needed: BTreeSet<Step>,
    /// Saves that were the best so far.
    best: BTreeSet<Step>,
    /// The newest save that did not reach the store.
    failed: Option<Step>,
    /// The save that the ranks bring to its end among themselves, and this rank's part of it.
    alone: Option<(Step, Option<StoredObject>)>,
    age: Age,
}

/// How old the newest save is, over attempts.
#[derive(Debug, Clone, Copy)]
struct Age {
    since: Instant,
    before: Duration,
}

impl Keeper {
    /// Starts the writing thread and touches its buffer.
    ///
    /// # Errors
    /// Fails where the system gives no thread.
    pub fn start(prepared: &Prepared<'_>) -> Result<Self, PhaseError> {
        let (assignment, setup) = (&prepared.assignment, prepared.setup);
        let phase = &setup.phase;
        let tensors = describe(&prepared.learner.state())?;
        let ranks = partition::assign(&tensors, assignment.world);
        let own = |(tensor, rank): (_, &u32)| (*rank == assignment.rank.get()).then_some(tensor);
        let part: Vec<&TensorMeta> = tensors.iter().zip(&ranks).filter_map(own).collect();
        let saver = Saver::start(setup.storage.clone(), FileLayout::new(&part))?;
        let resumed = assignment.resume.as_ref();
        let frame = Frame {
            key: CheckpointKey {
                job: assignment.job.clone(),
                phase: phase.index,
                name: phase.name.clone(),
                step: prepared.learner.step,
                attempt: assignment.attempt,
            },
            kind: match phase.kind {
                PhaseKind::Pretrain(_) => PhaseWord::Pretrain,
                PhaseKind::LinearEval(_) => PhaseWord::LinearEval,
                PhaseKind::Finetune(_) => PhaseWord::Finetune,
                PhaseKind::Distill(_) => PhaseWord::Distill,
            },
            world: assignment.world,
            spec: assignment.spec.digest(),
            data: setup.data_digest,
            parent: resumed.map(|checkpoint| checkpoint.digest).or(setup.start),
            network: setup.network.clone(),
            preprocessing: setup.preprocessing,
            tensors,
        };
        let (rank, results) = (assignment.rank, BTreeMap::new());
        Ok(Self {
            frame,
            rank,
            saver,
            stall: Duration::ZERO,
            results,
            committed: None,
            needed: BTreeSet::new(),
            best: BTreeSet::new(),
            failed: None,
            alone: None,
            age: Age {
                since: Instant::now(),
                before: assignment.unsaved,
            },
        })
    }

    /// Time since the last save began; at first that of an earlier attempt, so that attempts which die young save too.
    pub fn since_last(&self) -> Duration {
        self.age.before.saturating_add(self.age.since.elapsed())
    }

    /// The newest save of the best state so far that is not committed.
    pub fn best_at_risk(&self) -> Option<Step> {
        self.best.last().copied()
    }

    /// Waits until the best state so far is committed, if it was saved before `step`; gives up once nobody is there to
    /// commit.
    ///
    /// # Errors
    /// As [`Keeper::attend`].
    pub fn settle_best(&mut self, step: Step, control: &Control) -> Result<(), PhaseError> {
        let alone = || control.leave().is_some_and(|leave| leave.alone);
        while self.best.last().is_some_and(|best| *best < step) && !alone() {
            self.turn(control)?;
        }
        Ok(())
    }

    /// Whether this rank still writes.
    pub fn busy(&self) -> bool {
        self.saver.busy()
    }

    /// As [`Keeper::save`], for the last step of the phase: where this save fails, the attempt does. `best` says whether
    /// it is the best so far, too.
    ///
    /// # Errors
    /// As [`Keeper::save`].
    pub fn save_last(
        &mut self,
        learner: &Learner,
        results: &Values,
        best: bool,
    ) -> Result<(), PhaseError> {
        self.needed.insert(learner.step);
        if best {
            self.best.insert(learner.step);
        }
        self.save(learner, results)
    }

    /// As [`Keeper::save`], for the best state so far: waits for the save before it, and where this one fails, the
    /// attempt does.
    ///
    /// # Errors
    /// As [`Keeper::save`] and [`Keeper::attend`].
    pub fn save_best(
        &mut self,
        learner: &Learner,
        results: &Values,
        control: &Control,
    ) -> Result<(), PhaseError> {
        self.drain(control)?;
        self.needed.insert(learner.step);
        self.best.insert(learner.step);
        self.save(learner, results)
    }

    /// As [`Keeper::save`], for the state that the ranks leave with: waits for the save before it and for this one, and
    /// says whether this rank's part is in the store. `best` as in [`Keeper::save_last`]. Where nobody gathers the parts,
    /// this rank's stays with it for [`Keeper::part`].
    ///
    /// # Errors
    /// As [`Keeper::save`] and [`Keeper::attend`]. A store that fails is none.
    pub fn save_leaving(
        &mut self,
        learner: &Learner,
        (results, best): (&Values, bool),
        alone: bool,
        control: &Control,
    ) -> Result<bool, PhaseError> {
        self.drain(control)?;
        if best {
            self.best.insert(learner.step);
        }
        if alone {
            self.alone = Some((learner.step, None));
        }
        self.save(learner, results)?;
        self.drain(control)?;
        Ok(self.failed != Some(learner.step))
    }

    /// This rank's part of the save that the ranks bring to its end among themselves.
    pub fn part(&self) -> Option<&StoredObject> {
        self.alone.as_ref().and_then(|(_, part)| part.as_ref())
    }

    /// Writes the manifest of such a save, and waits; whether it is in the store.
    ///
    /// # Errors
    /// As [`Keeper::attend`]. A store that fails is none.
    pub fn close_alone(
        &mut self,
        step: Step,
        objects: Vec<StoredObject>,
        control: &Control,
    ) -> Result<bool, PhaseError> {
        self.write_manifest(step, objects)?;
        self.drain(control)?;
        Ok(self.failed != Some(step))
    }

    /// Waits until the coordinator has committed the save of `step`; gives up where the store did not take it.
    ///
    /// # Errors
    /// As [`Keeper::attend`].
    pub fn committed_or_failed(
        &mut self,
        step: Step,
        control: &Control,
    ) -> Result<bool, PhaseError> {
        while self.committed != Some(step) && self.failed != Some(step) {
            self.turn(control)?;
        }
        Ok(self.committed == Some(step))
    }

    /// Takes the snapshot of a step and starts to write this rank's part.
    ///
    /// # Errors
    /// Fails while the last part is still being written.
    pub fn save(&mut self, learner: &Learner, results: &Values) -> Result<(), PhaseError> {
        let finite = results.iter().filter(|(_, value)| value.is_finite());
        let results = finite
            .map(|(name, value)| (name.to_string(), *value))
            .collect();
        self.results.insert(learner.step, results);
        while self.results.len() > UNCOMMITTED {
            self.results.pop_first();
        }
        let key = self.key(learner.step).shard(self.rank);
        self.stall = self.saver.save_part(learner.step, key, &learner.state())?;
        tracing::info!(step = learner.step.get(), stall = ?self.stall, "snapshot taken");
        self.age = Age {
            since: Instant::now(),
            before: Duration::ZERO,
        };
        Ok(())
    }

    /// Reports what has reached the store and does what the coordinator asked; never waits. A save that failed is
    /// reported too, and a later one is hoped for.
    ///
    /// # Errors
    /// The failure of a save that must succeed, or an abort.
    pub fn attend(&mut self, control: &Control) -> Result<(), PhaseError> {
        control.check()?;
        while let Some(command) = control.try_command() {
            self.obey(command)?;
        }
        while let Some(saved) = self.saver.poll()? {
            self.report(control, saved)?;
        }
        Ok(())
    }

    /// Waits until nothing is being written.
    ///
    /// # Errors
    /// As [`Keeper::attend`].
    pub fn drain(&mut self, control: &Control) -> Result<(), PhaseError> {
        while self.busy() {
            self.turn(control)?;
        }
        Ok(())
    }

    /// Waits until the coordinator has committed the save of `step`.
    ///
    /// # Errors
    /// As [`Keeper::attend`].
    pub fn wait_committed(&mut self, step: Step, control: &Control) -> Result<(), PhaseError> {
        while self.committed != Some(step) {
            self.turn(control)?;
        }
        Ok(())
    }

    fn turn(&mut self, control: &Control) -> Result<(), PhaseError> {
        if self.busy() {
            if let Some(saved) = self.saver.wait(TURN)? {
                self.report(control, saved)?;
            }
        } else if let Some(command) = control.next_command(TURN)? {
            self.obey(command)?;
        }
        self.attend(control)
    }

    fn obey(&mut self, command: Command) -> Result<(), PhaseError> {
        match command {
            Command::WriteManifest { step, .. } if self.is_alone(step) => Ok(()),
            Command::WriteManifest { step, objects } => self.write_manifest(step, objects),
            Command::Committed(checkpoint) => {
                self.committed = Some(checkpoint.step);
                self.results.retain(|step, _| *step >= checkpoint.step);
                self.needed.retain(|step| *step > checkpoint.step);
                self.best.retain(|step| *step > checkpoint.step);
                Ok(())
            }
        }
    }

    fn write_manifest(&mut self, step: Step, objects: Vec<StoredObject>) -> Result<(), PhaseError> {
        let Some(results) = self.results.get(&step).cloned() else {
            tracing::warn!(
                step = step.get(),
                "a manifest was asked for that this rank saved nothing for"
            );
            return Ok(());
        };
        let (frame, key) = (&self.frame, self.key(step));
        let mut tensors = partition::table(&frame.tensors, frame.world);
        // Keys end in the shard's number, so their order is the ranks'.
        let mut objects = objects;
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        tensors.sort_by_key(|tensor| (tensor.shard, tensor.range));
        let manifest = Manifest {
            version: Manifest::VERSION,
            job: key.job,
            phase: key.phase,
            name: key.name,
            kind: frame.kind,
            attempt: key.attempt,
            step,
            world: frame.world,
            spec: frame.spec,
            data: frame.data,
            parent: frame.parent,
            network: frame.network.clone(),
            preprocessing: frame.preprocessing,
            results,
            tensors,
            objects,
        };
        let (bytes, digest) = manifest
            .encode()
            .map_err(|error| PhaseError::Internal(format!("manifest of step {step}: {error}")))?;
        self.saver
            .save_manifest(manifest.reference(digest), Bytes::from(bytes))
    }

    fn is_alone(&self, step: Step) -> bool {
        self.alone.as_ref().is_some_and(|(own, _)| *own == step)
    }

    fn report(&mut self, control: &Control, saved: Saved) -> Result<(), PhaseError> {
        control.report(match saved {
            Saved::Part { step, object } if self.is_alone(step) => {
                self.alone = Some((step, Some(object)));
                return Ok(());
            }
            Saved::Part { step, object } => Report::PartSaved {
                step,
                objects: vec![object],
                stall: self.stall,
            },
            Saved::Manifest(checkpoint) => Report::ManifestWritten {
                best: self.best_results(checkpoint.step),
                checkpoint,
            },
            Saved::Failed { step, error } if self.needed.contains(&step) => {
                return Err(error.into());
            }
            Saved::Failed { step, error } => {
                self.failed = Some(step);
                Report::Notice {
                    kind: "save_failed",
                    message: format!("step {step}: {error}; training goes on to the next save"),
                }
            }
        });
        Ok(())
    }

    /// The results of a save, if it was the best so far.
    fn best_results(&self, step: Step) -> Option<Vec<Measurement>> {
        let results = self
            .results
            .get(&step)
            .filter(|_| self.best.contains(&step))?;
        let results = results.iter().map(|(name, value)| Measurement {
            step,
            name: name.clone(),
            value: *value,
        });
        Some(results.collect())
    }

    fn key(&self, step: Step) -> CheckpointKey {
        CheckpointKey {
            step,
            ..self.frame.key.clone()
        }
    }
}
