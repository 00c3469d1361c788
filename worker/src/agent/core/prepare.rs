//! A rank takes its device: in the process that serves its phase there, or in a fresh one.

use diptych_common::ids::Attempt;
use diptych_proto::v1;
use diptych_proto::v1::rank_command::Command;
use diptych_proto::v1::rank_event::Event as Reported;
use tokio::time::Instant;

use super::super::kept::Kept;
use super::{AgentState, Effect, Life, Process, ProcessId, RankKey, Stage, Stay, Toward, Waiting};

/// How a rank comes to its device.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    /// Nobody is there.
    Fresh,
    /// The process there goes on as this rank.
    Same,
    /// The process there has left its gang soon, or ends.
    Wait,
    /// The process there ends first, by order.
    Replace,
    /// It is somebody else's.
    Taken(String),
}

impl AgentState {
    pub(super) fn prepare(
        &mut self,
        key: RankKey,
        prepare: Box<v1::Prepare>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        if self.is_over(&key) {
            return effects.push(Effect::Refused(key, "the attempt is over".into()));
        }
        if self.knows(&key) {
            // Sent again after a reconnect: what the rank has reported goes up again by itself.
            return;
        }
        if self.newest(&key).is_some_and(|newest| newest > key.attempt) {
            return effects.push(Effect::Refused(key, "a newer attempt runs here".into()));
        }
        let device = prepare.device;
        let seat = device as usize;
        self.supersede(&key, prepare.phase, seat, now, effects);
        if seat >= self.seats.len() {
            let message = format!(
                "device {device} does not exist: this worker has {}",
                self.seats.len()
            );
            return self.refuse(&key, message, effects);
        }
        let way = self.way(&key, prepare.phase, seat);
        if matches!(self.stay, Stay::Leaving { .. }) && !matches!(way, Way::Same) {
            return self.never_started(key, "this worker is leaving", now, effects);
        }
        match way {
            Way::Fresh => self.start(seat, key, prepare, now, effects),
            Way::Same => {
                if let Some(process) = &mut self.seats[seat].process {
                    process.take_up(key, prepare, effects);
                }
            }
            Way::Replace => {
                let reason = format!("device {device} is needed for {key}");
                self.end_seats(seat..seat + 1, &reason, now, effects);
                self.wait(seat, key, prepare);
            }
            Way::Wait => self.wait(seat, key, prepare),
            Way::Taken(message) => self.refuse(&key, message, effects),
        }
    }

    /// The coordinator starts a gang.
    pub(super) fn begin(&mut self, key: RankKey, begin: v1::Begin, effects: &mut Vec<Effect>) {
        let over = self.is_over(&key);
        let broken = self.gangs.get(&key.of()).is_some_and(|gang| gang.broken);
        let Some(process) = self.process_of(&key) else {
            return effects.push(Effect::Refused(key, "no such rank runs here".into()));
        };
        let refusal = match &mut process.life {
            Life::Running(_) if over => Some("the attempt is over"),
            Life::Running(_) if broken => Some("its gang has lost a rank"),
            Life::Running(stage @ (Stage::Preparing | Stage::Asked { .. })) => {
                *stage = Stage::Training { alone: false };
                None
            }
            // Sent again after a reconnect.
            Life::Running(Stage::Training { .. }) => None,
            Life::Running(Stage::Finished | Stage::Left) | Life::Held { .. } => {
                Some("it has left its gang")
            }
            Life::Leaving { .. } | Life::Killed => Some("it is leaving"),
        };
        if let Some(reason) = refusal {
            return effects.push(Effect::Refused(key, reason.into()));
        }
        let (id, secret) = (process.id, process.secret.clone());
        self.join_gang(&key, &begin, secret, effects);
        effects.push(Effect::Tell(id, key, Command::Begin(begin)));
    }

    /// The process of a seat has come to hold its state: whoever waits for it goes on in it.
    pub(super) fn take_up_waiting(&mut self, seat: usize, now: Instant, effects: &mut Vec<Effect>) {
        let Some(waiting) = self.seats[seat].waiting.take() else {
            return;
        };
        let held_back = waiting.held_back;
        let kill_at = now + self.patience.hold_grace;
        if let Some(process) = &mut self.seats[seat].process {
            process.take_up(waiting.key, waiting.prepare, effects);
            if let Some(reason) = held_back {
                process.hold(&reason, kill_at, effects);
            }
        }
    }

    pub(super) fn start(
        &mut self,
        seat: usize,
        key: RankKey,
        prepare: Box<v1::Prepare>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        if matches!(self.stay, Stay::Leaving { .. }) {
            return self.never_started(key, "this worker is leaving", now, effects);
        }
        let id = ProcessId::new(self.next_process);
        self.next_process += 1;
        self.seats[seat].process = Some(Process::new(id, key.clone(), &prepare));
        effects.push(Effect::Spawn(id, key, prepare));
    }

    fn wait(&mut self, seat: usize, key: RankKey, prepare: Box<v1::Prepare>) {
        self.seats[seat].waiting = Some(Waiting {
            key,
            prepare,
            held_back: None,
        });
    }

    fn way(&self, key: &RankKey, phase: u32, seat: usize) -> Way {
        let taken = |by: &RankKey| {
            Way::Taken(format!(
                "device {seat} is held by job {} attempt {}",
                by.job, by.attempt
            ))
        };
        let seat = &self.seats[seat];
        if let Some(waiting) = &seat.waiting {
            return taken(&waiting.key);
        }
        let Some(process) = &seat.process else {
            return Way::Fresh;
        };
        let same = process.serves(key, phase);
        let twin = process.key.of() == key.of();
        match process.life {
            Life::Running(_) | Life::Held { .. } if same && !twin => Way::Same,
            Life::Leaving {
                toward: Toward::Hold,
                ..
            } if same && !twin => Way::Wait,
            Life::Leaving {
                toward: Toward::End,
                ..
            }
            | Life::Killed => Way::Wait,
            Life::Running(_) | Life::Held { .. } | Life::Leaving { .. } if twin => {
                taken(&process.key)
            }
            Life::Running(_) if process.key.job != key.job && !self.is_over(&process.key) => {
                taken(&process.key)
            }
            Life::Running(_) | Life::Held { .. } | Life::Leaving { .. } => Way::Replace,
        }
    }

    /// Earlier attempts of the job are over: nobody of theirs trains on, and nobody waits for a device. What serves
    /// the same phase is kept, for its own order is on its way.
    fn supersede(
        &mut self,
        key: &RankKey,
        phase: u32,
        device: usize,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Some(before) = key.attempt.get().checked_sub(1).map(Attempt::new) else {
            return;
        };
        let over = self.over.entry(key.job.clone()).or_insert(before);
        *over = before.max(*over);
        let reason = format!("attempt {} has begun", key.attempt);
        let (kill_at, hold_by) = (
            now + self.patience.abort_grace,
            now + self.patience.hold_grace,
        );
        let mut left = Vec::new();
        let mut dropped = Vec::new();
        for (at, seat) in self.seats.iter_mut().enumerate() {
            let earlier = |of: &RankKey| of.job == key.job && of.attempt < key.attempt;
            dropped.extend(
                seat.waiting
                    .take_if(|waiting| earlier(&waiting.key))
                    .map(|waiting| waiting.key),
            );
            let Some(process) = &mut seat.process else {
                continue;
            };
            if !earlier(&process.key) {
                continue;
            }
            if process.trains() {
                left.push(process.key.clone());
            }
            if process.phase != phase {
                process.end(&reason, kill_at, effects);
            } else if process.trains() && at == device {
                // It goes on as another rank: the order to do so is the end of its former one.
                process.life = Life::Running(Stage::Left);
            } else if process.trains() {
                process.hold(&reason, hold_by, effects);
            }
        }
        for rank in left {
            self.break_gang(&rank.of(), Some(rank.rank), &reason, now, effects);
        }
        for waiting in dropped {
            self.never_started(waiting, &reason, now, effects);
        }
    }

    fn knows(&self, key: &RankKey) -> bool {
        self.ended.contains_key(key)
            || self.seats.iter().any(|seat| {
                let sits = seat.process.as_ref().is_some_and(|own| own.key == *key);
                sits || seat.waiting.as_ref().is_some_and(|own| own.key == *key)
            })
    }

    fn newest(&self, key: &RankKey) -> Option<Attempt> {
        let sits = self.processes().map(|process| &process.key);
        let waits = self.seats.iter().filter_map(|seat| seat.waiting.as_ref());
        sits.chain(waits.map(|waiting| &waiting.key))
            .chain(self.ended.keys())
            .filter(|held| held.job == key.job)
            .map(|held| held.attempt)
            .max()
    }

    fn refuse(&self, key: &RankKey, message: String, effects: &mut Vec<Effect>) {
        let failed = Reported::Failed(v1::Failed {
            kind: v1::FailureKind::Internal.into(),
            message,
            ..v1::Failed::default()
        });
        self.send(key, &mut Kept::default(), failed, effects);
    }
}
