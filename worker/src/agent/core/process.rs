//! One trainer process: the rank that it is, what it does, and what it said.

use std::time::Duration;

use diptych_proto::v1;
use diptych_proto::v1::rank_command::Command;
use diptych_proto::v1::rank_event::Event as Reported;
use tokio::time::Instant;

use super::super::kept::Kept;
use super::{AgentState, Effect, ProcessId, RankKey};

/// A process on a device.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) id: ProcessId,
    /// The rank that it is; another one once it is prepared again.
    pub(super) key: RankKey,
    pub(super) phase: u32,
    /// Of its attempt.
    pub(super) secret: Vec<u8>,
    pub(super) kept: Kept,
    /// When it last said anything; `None` before its first word.
    pub(super) heard: Option<Instant>,
    pub(super) life: Life,
}

#[derive(Debug)]
pub(super) enum Life {
    Running(Stage),
    /// It has left its gang with a whole state, and waits.
    Held {
        step: u64,
    },
    Leaving {
        kill_at: Instant,
        toward: Toward,
    },
    Killed,
}

/// What a running process does.
#[derive(Debug)]
pub(super) enum Stage {
    /// Prepared again, and nothing heard of it as the rank that it is now: should it end first, then as `former`.
    Asked {
        former: RankKey,
        prepare: Box<v1::Prepare>,
    },
    /// On its way to Begin, or standing by.
    Preparing,
    /// In a gang. `alone`: it was told to save and leave without a coordinator.
    Training { alone: bool },
    /// Its gang's work is done: nobody needs it in a collective.
    Finished,
    /// A number was not finite: its gang is left behind; its policy says whether the process ends.
    Left,
}

/// What a leaving process is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Toward {
    /// Report Held, and wait.
    Hold,
    /// End.
    End,
}

/// How long a trainer that has failed may take to say so and end.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(6);

impl Process {
    pub(super) fn new(id: ProcessId, key: RankKey, prepare: &v1::Prepare) -> Self {
        Self {
            id,
            key,
            phase: prepare.phase,
            secret: prepare.secret.clone(),
            kept: Kept::default(),
            heard: None,
            life: Life::Running(Stage::Preparing),
        }
    }

    pub(super) fn listed(&self, device: u32) -> v1::RunningRank {
        let (held, step) = match self.life {
            Life::Held { step } => (true, step),
            Life::Running(_) | Life::Leaving { .. } | Life::Killed => (false, 0),
        };
        v1::RunningRank {
            job: self.key.job.to_string(),
            attempt: self.key.attempt.get(),
            rank: self.key.rank.get(),
            device,
            phase: self.phase,
            held,
            step,
        }
    }

    pub(super) fn trains(&self) -> bool {
        matches!(self.life, Life::Running(Stage::Training { .. }))
    }

    /// Whether it does, or may still do, the work of another process of this phase.
    pub(super) fn serves(&self, key: &RankKey, phase: u32) -> bool {
        self.key.job == key.job && self.phase == phase
    }

    /// It takes up another attempt of its phase: the former one is over for it.
    pub(super) fn take_up(
        &mut self,
        key: RankKey,
        prepare: Box<v1::Prepare>,
        effects: &mut Vec<Effect>,
    ) {
        let killed = Life::Killed;
        let former = match std::mem::replace(&mut self.life, killed) {
            Life::Running(Stage::Asked { former, .. }) => former,
            _ => self.key.clone(),
        };
        self.key = key;
        self.secret.clone_from(&prepare.secret);
        self.kept = Kept::default();
        effects.push(Effect::Tell(
            self.id,
            self.key.clone(),
            Command::Prepare((*prepare).clone()),
        ));
        self.life = Life::Running(Stage::Asked { former, prepare });
    }

    /// Leave the gang, keep the state. Nothing where it has left, or is leaving.
    pub(super) fn hold(&mut self, reason: &str, kill_at: Instant, effects: &mut Vec<Effect>) {
        if matches!(self.life, Life::Running(_)) {
            self.leave(Toward::Hold, reason, kill_at, effects);
        }
    }

    /// End. Where it is ending already, it may be in more of a hurry.
    pub(super) fn end(&mut self, reason: &str, kill_at: Instant, effects: &mut Vec<Effect>) {
        match &mut self.life {
            Life::Leaving {
                kill_at: former,
                toward: Toward::End,
            } => *former = kill_at.min(*former),
            Life::Leaving {
                kill_at: former,
                toward: Toward::Hold,
            } => {
                let kill_at = kill_at.min(*former);
                self.leave(Toward::End, reason, kill_at, effects);
            }
            Life::Running(_) | Life::Held { .. } => {
                self.leave(Toward::End, reason, kill_at, effects);
            }
            Life::Killed => {}
        }
    }

    fn leave(&mut self, toward: Toward, reason: &str, kill_at: Instant, effects: &mut Vec<Effect>) {
        self.life = Life::Leaving { kill_at, toward };
        let abort = v1::AbortRank {
            reason: reason.to_owned(),
            keep: toward == Toward::Hold,
        };
        effects.push(Effect::Tell(
            self.id,
            self.key.clone(),
            Command::Abort(abort),
        ));
    }

    /// What its own words say of it. Whether its gang has lost it by that.
    fn spoke(&mut self, reported: &Reported, now: Instant) -> bool {
        if let Life::Running(stage @ Stage::Asked { .. }) = &mut self.life {
            *stage = Stage::Preparing;
        }
        let trained = self.trains();
        match (reported, &self.life) {
            (Reported::Held(held), Life::Running(_) | Life::Held { .. })
            | (
                Reported::Held(held),
                Life::Leaving {
                    toward: Toward::Hold,
                    ..
                },
            ) => {
                self.life = Life::Held { step: held.step };
                trained && !held.lost_peers.is_empty()
            }
            (Reported::Finished(_), Life::Running(_)) => {
                self.life = Life::Running(Stage::Finished);
                false
            }
            (Reported::Failed(failed), Life::Running(_)) if is_not_finite(failed) => {
                self.life = Life::Running(Stage::Left);
                trained
            }
            (Reported::Failed(failed), Life::Running(_) | Life::Held { .. })
                if !is_not_finite(failed) =>
            {
                self.life = Life::Leaving {
                    kill_at: now + LAST_WORDS,
                    toward: Toward::End,
                };
                trained
            }
            (
                Reported::Failed(failed),
                Life::Leaving {
                    kill_at,
                    toward: Toward::Hold,
                },
            ) if !is_not_finite(failed) => {
                self.life = Life::Leaving {
                    kill_at: *kill_at,
                    toward: Toward::End,
                };
                false
            }
            _ => false,
        }
    }
}

/// A process that computed such a number may go on by its policy; after any other failure it ends.
fn is_not_finite(failed: &v1::Failed) -> bool {
    failed.kind == i32::from(v1::FailureKind::NonFinite)
}

impl AgentState {
    pub(super) fn reported(
        &mut self,
        id: ProcessId,
        key: &RankKey,
        reported: Reported,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Some(seat) = self.seat_of(id) else {
            return;
        };
        self.heard(seat, now);
        let Some(mut process) = self.seats[seat].process.take() else {
            return;
        };
        if process.key != *key || matches!(reported, Reported::Pong(_)) {
            self.seats[seat].process = Some(process);
            return;
        }
        let lost = process.spoke(&reported, now);
        let reason = match &reported {
            Reported::Held(held) => held.reason.clone(),
            Reported::Failed(failed) => failed.message.clone(),
            _ => String::new(),
        };
        self.send(key, &mut process.kept, reported, effects);
        let held = matches!(process.life, Life::Held { .. });
        self.seats[seat].process = Some(process);
        if lost {
            self.break_gang(&key.of(), Some(key.rank), &reason, now, effects);
        }
        if held {
            self.take_up_waiting(seat, now, effects);
        }
    }

    pub(super) fn exited(
        &mut self,
        id: ProcessId,
        exited: v1::Exited,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Some(seat) = self.seat_of(id) else {
            return;
        };
        let Some(process) = self.seats[seat].process.take() else {
            return;
        };
        let (trained, reason) = (process.trains(), words(&exited));
        let key = process.key.clone();
        match process.life {
            Life::Running(Stage::Asked { former, prepare }) => {
                self.note_end(former, Kept::default(), exited, now, effects);
                self.start(seat, process.key, prepare, now, effects);
            }
            _ => self.note_end(process.key, process.kept, exited, now, effects),
        }
        if trained {
            self.break_gang(&key.of(), Some(key.rank), &reason, now, effects);
        }
        if self.seats[seat].process.is_none()
            && let Some(waiting) = self.seats[seat].waiting.take()
        {
            match waiting.held_back {
                None => self.start(seat, waiting.key, waiting.prepare, now, effects),
                Some(reason) => self.never_started(waiting.key, &reason, now, effects),
            }
        }
    }

    pub(super) fn spawn_failed(
        &mut self,
        id: ProcessId,
        problem: String,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Some(seat) = self.seat_of(id) else {
            return;
        };
        if let Some(mut process) = self.seats[seat].process.take() {
            let failed = Reported::Failed(v1::Failed {
                kind: v1::FailureKind::Internal.into(),
                message: problem.clone(),
                ..v1::Failed::default()
            });
            let key = process.key.clone();
            self.send(&key, &mut process.kept, failed, effects);
            self.seats[seat].process = Some(process);
        }
        let exited = v1::Exited {
            last_lines: vec![problem],
            ..v1::Exited::default()
        };
        self.exited(id, exited, now, effects);
    }
}

fn words(exited: &v1::Exited) -> String {
    match (exited.code, exited.signal) {
        (_, Some(signal)) => format!("its process was ended by signal {signal}"),
        (Some(code), None) => format!("its process ended with status {code}"),
        (None, None) => "its process ended".to_owned(),
    }
}
