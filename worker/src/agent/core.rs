//! What the agent decides, as a function of its state, an event and the time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use diptych_common::ids::{Attempt, JobId, Rank};
use diptych_proto::v1;
use diptych_proto::v1::rank_command::Command;
use diptych_proto::v1::rank_event::Event as Reported;

use super::kept::Kept;

/// One rank of one attempt: the fence of everything that concerns it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RankKey {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: Attempt,
    /// The rank.
    pub rank: Rank,
}

/// How long the agent is patient.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From the abort of a rank to its SIGKILL.
    pub abort_grace: Duration,
    /// How long trainers go on without a coordinator.
    pub orphan_limit: Duration,
}

/// Everything that the agent knows about its ranks.
#[derive(Debug)]
pub struct AgentState {
    patience: Patience,
    devices: u32,
    link: Link,
    stopping: bool,
    ranks: BTreeMap<RankKey, Held>,
    /// The newest attempt of each job that is over: nothing up to it is started any more.
    over: BTreeMap<JobId, Attempt>,
}

#[derive(Debug, Clone, Copy)]
enum Link {
    Up,
    Down { since: Instant },
}

#[derive(Debug)]
struct Held {
    device: u32,
    kept: Kept,
    life: Life,
}

#[derive(Debug)]
enum Life {
    /// Its device is still held by a rank that is leaving.
    Waiting(Box<v1::Prepare>),
    Running,
    Leaving {
        kill_at: Instant,
    },
    Killed,
    /// Its events may still have to be sent again.
    Ended {
        at: Instant,
    },
}

/// What happened.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a handful exist at a time, and each moves once or twice"
)]
pub enum Event {
    /// The coordinator has welcomed this agent.
    Connected,
    /// The stream is gone.
    Disconnected,
    /// The coordinator asks something of a rank.
    Command(RankKey, Command),
    /// The coordinator ends an attempt.
    Abort {
        /// The job.
        job: JobId,
        /// The attempt, and with it every earlier one.
        attempt: Attempt,
        /// Why.
        reason: String,
    },
    /// A trainer reports.
    Reported(RankKey, Reported),
    /// A trainer's process has ended, and everything that it said has been read.
    Exited(RankKey, v1::Exited),
    /// A trainer could not be started.
    SpawnFailed(RankKey, String),
    /// Time has passed.
    Tick,
    /// The agent is asked to leave.
    Stop(String),
}

/// What the agent does about it.
#[derive(Debug, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "a handful exist at a time, and each moves once or twice"
)]
pub enum Effect {
    /// Start a trainer and give it its assignment.
    Spawn(RankKey, Box<v1::Prepare>),
    /// Pass a command on to a trainer.
    Tell(RankKey, Command),
    /// SIGKILL, now.
    Kill(RankKey),
    /// Tell the coordinator.
    Up(RankKey, Reported),
    /// Something was refused: for the agent's log.
    Refused(RankKey, String),
}

/// How long the events of an ended rank are sent again after a reconnect; the coordinator decides sooner than that.
const REMEMBER_ENDED: Duration = Duration::from_secs(600);

impl AgentState {
    /// An agent with `devices` free devices and no coordinator yet.
    pub fn new(patience: Patience, devices: u32, now: Instant) -> Self {
        let link = Link::Down { since: now };
        Self {
            patience,
            devices,
            link,
            stopping: false,
            ranks: BTreeMap::new(),
            over: BTreeMap::new(),
        }
    }

    /// The trainers that live, with their devices: what a registration lists.
    pub fn running(&self) -> impl Iterator<Item = (&RankKey, u32)> {
        self.ranks
            .iter()
            .filter(|(_, held)| held.life.has_process())
            .map(|(key, held)| (key, held.device))
    }

    /// When time alone will next change something.
    pub fn next_deadline(&self) -> Option<Instant> {
        let orphaned = match self.link {
            Link::Down { since }
                if self
                    .ranks
                    .values()
                    .any(|held| matches!(held.life, Life::Running)) =>
            {
                Some(since + self.patience.orphan_limit)
            }
            Link::Down { .. } | Link::Up => None,
        };
        let of_rank = |held: &Held| match held.life {
            Life::Leaving { kill_at } => Some(kill_at),
            Life::Ended { at } => Some(at + REMEMBER_ENDED),
            Life::Waiting(_) | Life::Running | Life::Killed => None,
        };
        self.ranks
            .values()
            .filter_map(of_rank)
            .chain(orphaned)
            .min()
    }

    /// Takes one event.
    pub fn apply(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Connected => {
                self.link = Link::Up;
                for (key, held) in &self.ranks {
                    effects.extend(
                        held.kept
                            .again()
                            .map(|event| Effect::Up(key.clone(), event)),
                    );
                }
            }
            Event::Disconnected => {
                if matches!(self.link, Link::Up) {
                    self.link = Link::Down { since: now };
                }
            }
            Event::Command(key, Command::Prepare(prepare)) => {
                self.prepare(key, Box::new(prepare), now, &mut effects)
            }
            Event::Command(key, Command::Abort(abort)) => {
                self.end(&key.job, key.attempt, &abort.reason, now, &mut effects);
            }
            Event::Command(key, command) => self.pass_on(key, command, &mut effects),
            Event::Abort {
                job,
                attempt,
                reason,
            } => self.end(&job, attempt, &reason, now, &mut effects),
            Event::Reported(key, reported) => self.report(&key, reported, &mut effects),
            Event::Exited(key, exited) => self.exited(&key, exited, now, &mut effects),
            Event::SpawnFailed(key, problem) => {
                let failed = v1::Failed {
                    kind: v1::FailureKind::Internal.into(),
                    message: problem.clone(),
                    object: String::new(),
                    step: None,
                };
                self.report(&key, Reported::Failed(failed), &mut effects);
                let exited = v1::Exited {
                    last_lines: vec![problem],
                    ..v1::Exited::default()
                };
                self.exited(&key, exited, now, &mut effects);
            }
            Event::Tick => self.tick(now, &mut effects),
            Event::Stop(reason) => {
                self.stopping = true;
                self.leave_all(&reason, now, &mut effects);
            }
        }
        effects
    }

    fn prepare(
        &mut self,
        key: RankKey,
        prepare: Box<v1::Prepare>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        if self.stopping {
            return effects.push(Effect::Refused(key, "this agent is leaving".into()));
        }
        if self
            .over
            .get(&key.job)
            .is_some_and(|over| key.attempt <= *over)
        {
            return effects.push(Effect::Refused(key, "the attempt is over".into()));
        }
        if self.ranks.contains_key(&key) {
            // Sent again after a reconnect: what the rank has reported goes up again by itself.
            return;
        }
        let newest = self
            .ranks
            .keys()
            .filter(|held| held.job == key.job)
            .map(|held| held.attempt)
            .max();
        if newest.is_some_and(|newest| newest > key.attempt) {
            return effects.push(Effect::Refused(key, "a newer attempt runs here".into()));
        }
        if let Some(before) = key.attempt.get().checked_sub(1) {
            let reason = format!("attempt {} has begun", key.attempt);
            self.end(&key.job, Attempt::new(before), &reason, now, effects);
        }
        let device = prepare.device;
        let refuse = |message: String| {
            Reported::Failed(v1::Failed {
                kind: v1::FailureKind::Internal.into(),
                message,
                object: String::new(),
                step: None,
            })
        };
        if device >= self.devices {
            let message = format!(
                "device {device} does not exist: this worker has {}",
                self.devices
            );
            return self.send(&key, refuse(message), effects);
        }
        let occupant = self
            .ranks
            .iter()
            .find(|(_, held)| held.device == device && held.life.holds_device());
        let life = match occupant {
            None => {
                effects.push(Effect::Spawn(key.clone(), prepare));
                Life::Running
            }
            Some((_, held)) if held.life.has_process() && !matches!(held.life, Life::Running) => {
                Life::Waiting(prepare)
            }
            Some((other, _)) => {
                let message = format!(
                    "device {device} is held by job {} attempt {}",
                    other.job, other.attempt
                );
                return self.send(&key, refuse(message), effects);
            }
        };
        self.ranks.insert(
            key,
            Held {
                device,
                kept: Kept::default(),
                life,
            },
        );
    }

    fn pass_on(&mut self, key: RankKey, command: Command, effects: &mut Vec<Effect>) {
        match self.ranks.get_mut(&key) {
            Some(held) if matches!(held.life, Life::Running) => {
                held.kept.commanded(&command);
                effects.push(Effect::Tell(key, command));
            }
            Some(_) | None => effects.push(Effect::Refused(key, "no such rank runs here".into())),
        }
    }

    fn report(&mut self, key: &RankKey, reported: Reported, effects: &mut Vec<Effect>) {
        let Some(held) = self.ranks.get_mut(key) else {
            return;
        };
        match self.link {
            Link::Up => held.kept.sent(&reported),
            Link::Down { .. } => held.kept.missed(&reported),
        }
        self.send(key, reported, effects);
    }

    fn exited(
        &mut self,
        key: &RankKey,
        exited: v1::Exited,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        self.report(key, Reported::Exited(exited), effects);
        let Some(held) = self.ranks.get_mut(key) else {
            return;
        };
        held.life = Life::Ended { at: now };
        let device = held.device;
        let next = self
            .ranks
            .iter_mut()
            .find_map(|(key, held)| match &mut held.life {
                Life::Waiting(prepare) if held.device == device => {
                    let prepare = std::mem::take(prepare);
                    held.life = Life::Running;
                    Some(Effect::Spawn(key.clone(), prepare))
                }
                _ => None,
            });
        effects.extend(next);
    }

    fn end(
        &mut self,
        job: &JobId,
        attempt: Attempt,
        reason: &str,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let over = self.over.entry(job.clone()).or_insert(attempt);
        *over = attempt.max(*over);
        let affected = |key: &RankKey| key.job == *job && key.attempt <= attempt;
        self.leave(affected, reason, now, effects);
    }

    fn leave_all(&mut self, reason: &str, now: Instant, effects: &mut Vec<Effect>) {
        self.leave(|_| true, reason, now, effects);
    }

    fn leave(
        &mut self,
        affected: impl Fn(&RankKey) -> bool,
        reason: &str,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let mut never_started = Vec::new();
        for (key, held) in self.ranks.iter_mut().filter(|(key, _)| affected(key)) {
            match held.life {
                Life::Running => {
                    held.life = Life::Leaving {
                        kill_at: now + self.patience.abort_grace,
                    };
                    let abort = v1::AbortRank {
                        reason: reason.to_owned(),
                        keep: false,
                    };
                    effects.push(Effect::Tell(key.clone(), Command::Abort(abort)));
                }
                Life::Waiting(_) => {
                    held.life = Life::Ended { at: now };
                    never_started.push(key.clone());
                }
                Life::Leaving { .. } | Life::Killed | Life::Ended { .. } => {}
            }
        }
        for key in never_started {
            let exited = v1::Exited {
                last_lines: vec![format!("never started: {reason}")],
                ..v1::Exited::default()
            };
            self.report(&key, Reported::Exited(exited), effects);
        }
    }

    fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if let Link::Down { since } = self.link
            && now >= since + self.patience.orphan_limit
        {
            self.leave_all("no coordinator within the orphan limit", now, effects);
        }
        self.ranks.retain(|key, held| match held.life {
            Life::Leaving { kill_at } if kill_at <= now => {
                held.life = Life::Killed;
                effects.push(Effect::Kill(key.clone()));
                true
            }
            Life::Ended { at } => now < at + REMEMBER_ENDED,
            _ => true,
        });
    }

    fn send(&self, key: &RankKey, reported: Reported, effects: &mut Vec<Effect>) {
        if matches!(self.link, Link::Up) {
            effects.push(Effect::Up(key.clone(), reported));
        }
    }
}

impl Life {
    fn has_process(&self) -> bool {
        matches!(self, Self::Running | Self::Leaving { .. } | Self::Killed)
    }

    fn holds_device(&self) -> bool {
        !matches!(self, Self::Ended { .. })
    }
}

impl RankKey {
    /// The protocol's message for an event of this rank.
    pub fn event(&self, event: Reported) -> v1::RankEvent {
        let (job, attempt, rank) = (self.job.to_string(), self.attempt.get(), self.rank.get());
        v1::RankEvent {
            job,
            attempt,
            rank,
            event: Some(event),
        }
    }

    /// The protocol's message for a command to this rank.
    pub fn command(&self, command: Command) -> v1::RankCommand {
        let (job, attempt, rank) = (self.job.to_string(), self.attempt.get(), self.rank.get());
        v1::RankCommand {
            job,
            attempt,
            rank,
            command: Some(command),
        }
    }
}

impl std::fmt::Display for RankKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} attempt {} rank {}",
            self.job, self.attempt, self.rank
        )
    }
}

#[cfg(test)]
mod tests;
