//! One attempt of a trainer: ready, in its gang, stepping and saving, until it is over here.

use std::sync::Arc;
use std::time::Duration;

use diptych_common::checkpoint::{CheckpointKey, CheckpointRef, StoredObject};
use diptych_common::ids::{PhaseIndex, Step};
use diptych_common::store::StoreError;
use diptych_proto::v1;
use diptych_proto::v1::rank_event::Event as Reported;
use turmoil::net::TcpListener;

use super::{FAILED, Left, Process, Turn};
use crate::bucket::Bucket;
use crate::gang::{Frame, Gang};
use crate::save::{self, Place, State};

/// Steps of every phase.
pub(crate) const STEPS: u64 = 120;
/// Steps between saves.
const SAVE: u64 = 10;

/// What a rank wishes, in a frame.
const BUSY: u64 = 1;
const LEAVE: u64 = 2;
const SAVED: u64 = 4;

impl Process {
    pub(super) async fn serve(&mut self, turn: &mut Turn) -> Result<(), Left> {
        if turn.prepare.start_from() != v1::StartFrom::Memory {
            self.state = None;
            if !turn.prepare.reserve {
                self.state = Some(self.load(turn).await?);
            }
        }
        let loading = Duration::from_millis(self.world.dice(20..800));
        self.until(turn, tokio::time::sleep(loading)).await?;
        let port = self.world.port();
        let listener = TcpListener::bind(("0.0.0.0", port)).await;
        let listener = listener.map_err(|_| Left::Exit(FAILED))?;
        self.report(&turn.key, self.ready(turn, port));
        let begin = loop {
            match turn.begin.take() {
                Some(begin) => break begin,
                None => self.hear(turn).await?,
            }
        };
        let peers: Vec<(u32, String)> = begin
            .peers
            .iter()
            .map(|peer| (peer.rank, peer.endpoint.clone()))
            .collect();
        let me = (turn.key.attempt.get(), turn.key.rank.get());
        let forming = Gang::form(&listener, me, &peers);
        let mut gang = self.until(turn, forming).await?;
        self.take_state(turn, &mut gang, &begin).await?;
        self.train(turn, &mut gang).await
    }

    /// From the newest checkpoint, or from the start.
    async fn load(&mut self, turn: &mut Turn) -> Result<State, Left> {
        let phase = PhaseIndex::new(turn.prepare.phase);
        let Some(resume) = turn.prepare.resume.clone() else {
            return Ok(State::after(&turn.key.job, phase, 0));
        };
        let manifest = resume.manifest.clone();
        let Ok(reference) = CheckpointRef::try_from(resume) else {
            return Err(self.fail(turn, v1::FailureKind::Refused, manifest));
        };
        let bucket = Arc::new(Bucket::of(&self.world));
        loop {
            let reading = save::load(Arc::<Bucket>::clone(&bucket), &reference);
            match self.until(turn, reading).await? {
                Ok(state) => {
                    let right = State::after(&turn.key.job, phase, reference.step.get());
                    self.world.holds(state == right, || {
                        format!("I4: torn state loaded: {manifest}")
                    });
                    return Ok(state);
                }
                Err(error) if error.is_damage() => {
                    return Err(self.fail(turn, v1::FailureKind::BadCheckpoint, manifest));
                }
                Err(_) => {
                    let pause = tokio::time::sleep(Duration::from_millis(500));
                    self.until(turn, pause).await?;
                }
            }
        }
    }

    fn ready(&self, turn: &Turn, port: u16) -> Reported {
        let alone = turn.prepare.world == 1 || turn.prepare.reserve;
        let endpoint = if alone {
            String::new()
        } else {
            format!("{}:{port}", self.host)
        };
        Reported::Ready(v1::Ready {
            endpoint,
            step: self.state.map_or(0, |state| state.step),
            state_digest: self.state.map(State::digest).unwrap_or_default(),
            data_digest: "da7a".to_owned(),
            empty: self.state.is_none(),
            ..v1::Ready::default()
        })
    }

    /// All ranks begin with the state that the coordinator names; who lacks it takes it from the one who has it.
    async fn take_state(
        &mut self,
        turn: &mut Turn,
        gang: &mut Gang,
        begin: &v1::Begin,
    ) -> Result<(), Left> {
        if let Some(held) = self.state {
            self.world.holds(held.step <= begin.step, || {
                format!(
                    "a step is lost that a rank holds: {} begins at {} and holds {}",
                    turn.key, begin.step, held.step
                )
            });
        }
        if let Some(source) = begin.source {
            let own = Frame {
                step: self.state.map_or(u64::MAX, |state| state.step),
                value: self.state.map_or(0, |state| state.value),
                wish: 0,
            };
            let heard = self.exchange(turn, gang, own).await?;
            let given = heard.get(&source).copied().unwrap_or(own);
            self.state = Some(State {
                step: given.step,
                value: given.value,
            });
        }
        let state = self
            .state
            .filter(|state| state.step == begin.step && state.digest() == begin.state_digest);
        match state {
            Some(state) => {
                let phase = PhaseIndex::new(turn.prepare.phase);
                let right = State::after(&turn.key.job, phase, state.step);
                self.world.holds(state == right, || {
                    format!(
                        "a step was lost or taken twice: {} at {}",
                        turn.key, state.step
                    )
                });
                Ok(())
            }
            None => Err(self.fail(turn, v1::FailureKind::Diverged, String::new())),
        }
    }

    async fn train(&mut self, turn: &mut Turn, gang: &mut Gang) -> Result<(), Left> {
        self.report(
            &turn.key,
            Reported::Activity(v1::Activity {
                kind: v1::ActivityKind::Training.into(),
            }),
        );
        let Some(mut state) = self.state else {
            return Err(Left::Exit(FAILED));
        };
        while state.step < STEPS {
            let wish = wish_of(turn);
            let frame = |wish| Frame {
                step: state.step,
                value: state.value,
                wish,
            };
            let heard = self.exchange(turn, gang, frame(wish)).await?;
            let same = |other: &Frame| (other.step, other.value) == (state.step, state.value);
            self.world.holds(heard.values().all(same), || {
                format!(
                    "ranks of one gang differ at step {}: {}",
                    state.step, turn.key
                )
            });
            let agreed = heard.values().fold(wish, |all, frame| all | frame.wish);
            let work = tokio::time::sleep(Duration::from_millis(self.world.dice(30..120)));
            self.until(turn, work).await?;
            // The commit gate: every rank has done its part of the step.
            self.exchange(turn, gang, frame(0)).await?;
            state = state.next();
            self.state = Some(state);
            self.report(&turn.key, progress(state.step));
            let leaves = agreed & LEAVE != 0 && state.step < STEPS;
            let due = state.step.is_multiple_of(SAVE) && state.step < STEPS;
            if agreed & BUSY == 0 && (due && !leaves || leaves && agreed & SAVED != 0) {
                self.save(turn, state, 3);
                if leaves {
                    self.commit(turn, state.step).await?;
                }
            }
            if leaves {
                let reason = "the gang leaves by plan".to_owned();
                return Err(self.held(reason, Vec::new()));
            }
        }
        while !turn.writes.is_empty() {
            self.hear(turn).await?;
        }
        self.save(turn, state, u32::MAX);
        self.report(
            &turn.key,
            Reported::Finished(v1::Finished {
                step: state.step,
                results: Vec::new(),
            }),
        );
        self.commit(turn, state.step).await
    }

    /// Until the coordinator has committed the save of `step`.
    async fn commit(&mut self, turn: &mut Turn, step: u64) -> Result<(), Left> {
        while turn.committed < step {
            self.hear(turn).await?;
        }
        Ok(())
    }

    fn save(&self, turn: &mut Turn, state: State, tries: u32) {
        let (world, place) = (Arc::clone(&self.world), place(turn, state.step));
        turn.writes.spawn(async move {
            let bucket = Bucket::of(&world);
            let write = || save::part(bucket.clone(), place.clone(), state);
            match again(tries, write).await {
                Ok(object) => Reported::PartSaved(v1::PartSaved {
                    step: state.step,
                    objects: vec![object.into()],
                    stall_s: None,
                }),
                Err(problem) => unsaved(tries, problem),
            }
        });
    }

    pub(super) fn write_manifest(&self, turn: &mut Turn, order: v1::WriteManifest) {
        let (world, place) = (Arc::clone(&self.world), place(turn, order.step));
        let objects = order.objects.into_iter().map(StoredObject::try_from);
        let Ok(objects) = objects.collect::<Result<Vec<_>, _>>() else {
            return;
        };
        turn.writes.spawn(async move {
            let bucket = Bucket::of(&world);
            let write = || save::manifest(bucket.clone(), place.clone(), objects.clone());
            match again(u32::MAX, write).await {
                Ok(checkpoint) => Reported::ManifestWritten(v1::ManifestWritten {
                    checkpoint: Some(checkpoint.into()),
                    best: None,
                }),
                Err(problem) => Reported::Failed(failed(v1::FailureKind::Storage, problem)),
            }
        });
    }
}

fn wish_of(turn: &Turn) -> u64 {
    let leave = match &turn.leave {
        Some(leave) if leave.save => LEAVE | SAVED,
        Some(_) => LEAVE,
        None => 0,
    };
    let busy = if turn.writes.is_empty() { 0 } else { BUSY };
    leave | busy
}

fn place(turn: &Turn, step: u64) -> Place {
    let phases = turn.prepare.spec.as_ref().map(|spec| &spec.phases);
    let name = phases
        .and_then(|phases| phases.get(turn.prepare.phase as usize))
        .map(|phase| phase.name.clone())
        .unwrap_or_default();
    Place {
        key: CheckpointKey {
            job: turn.key.job.clone(),
            phase: PhaseIndex::new(turn.prepare.phase),
            name: name
                .parse()
                .unwrap_or_else(|_| unreachable!("a phase of a valid job has a name")),
            step: Step::new(step),
            attempt: turn.key.attempt,
        },
        rank: turn.key.rank.get(),
        world: turn.prepare.world,
    }
}

fn progress(step: u64) -> Reported {
    Reported::Progress(v1::Progress {
        step,
        total_steps: STEPS,
        step_s: 0.1,
        ..v1::Progress::default()
    })
}

/// A save that does not come about is nothing but a pity, unless it is the last.
fn unsaved(tries: u32, problem: String) -> Reported {
    if tries == u32::MAX {
        return Reported::Failed(failed(v1::FailureKind::Storage, problem));
    }
    Reported::Notice(v1::Notice {
        kind: "save_failed".to_owned(),
        message: problem,
    })
}

pub(super) fn failed(kind: v1::FailureKind, problem: String) -> v1::Failed {
    v1::Failed {
        kind: kind.into(),
        message: format!("{kind:?} {problem}"),
        ..v1::Failed::default()
    }
}

/// Tries up to so many times.
async fn again<T, F: Future<Output = Result<T, StoreError>>>(
    tries: u32,
    write: impl Fn() -> F,
) -> Result<T, String> {
    let mut tried = 0;
    loop {
        tried += 1;
        match write().await {
            Ok(written) => return Ok(written),
            Err(error) if tried >= tries || !error.is_transient() => return Err(error.to_string()),
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}
