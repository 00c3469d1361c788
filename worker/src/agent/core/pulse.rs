//! Whether trainers answer: a stopped process holds its device and its gang for ever, and nobody else can see it.

use std::time::Duration;

use diptych_proto::v1;
use diptych_proto::v1::rank_command::Command;
use diptych_proto::v1::rank_event::Event as Reported;
use tokio::time::Instant;

use super::{AgentState, Effect, Life, Process};

/// Between two pings.
pub(super) const PING: Duration = Duration::from_millis(500);
/// An agent whose own ping comes later than this was itself held up, and cannot judge the silence of others.
pub(super) const HELD_UP: Duration = Duration::from_secs(1);

impl AgentState {
    /// After the agent itself was held up (stopped, or its machine suspended), every silence starts anew.
    pub(super) fn forgive_silence(&mut self, now: Instant) {
        if self.ping_due.is_some_and(|due| now > due + HELD_UP) {
            self.ping_due = Some(now);
            for process in self.processes_mut() {
                process.heard = process.heard.map(|_| now);
            }
        }
    }

    /// A trainer has said something.
    pub(super) fn heard(&mut self, seat: usize, now: Instant) {
        if let Some(process) = &mut self.seats[seat].process {
            process.heard = Some(now);
            self.ping_due.get_or_insert(now + PING);
        }
    }

    /// Kills who is silent for too long, and asks the others.
    pub(super) fn take_pulse(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let patience = self.patience.unresponsive;
        for seat in 0..self.seats.len() {
            if self.seats[seat]
                .process
                .as_ref()
                .and_then(Process::silent_since)
                .is_some_and(|heard| now >= heard + patience)
            {
                self.kill_silent(seat, now, effects);
            }
        }
        if !self
            .processes()
            .any(|process| process.silent_since().is_some())
        {
            self.ping_due = None;
        }
        if self.ping_due.is_none_or(|due| now < due) {
            return;
        }
        self.ping_due = Some(now + PING);
        for process in self.processes() {
            if process.silent_since().is_some() {
                let ping = Command::Ping(v1::Ping {});
                effects.push(Effect::Tell(process.id, process.key.clone(), ping));
            }
        }
    }

    pub(super) fn next_pulse(&self) -> Option<Instant> {
        let silent = self.processes().filter_map(Process::silent_since);
        let earliest = silent.min()?;
        let killed = earliest + self.patience.unresponsive;
        Some(self.ping_due.map_or(killed, |due| due.min(killed)))
    }

    fn kill_silent(&mut self, seat: usize, now: Instant, effects: &mut Vec<Effect>) {
        let Some(mut process) = self.seats[seat].process.take() else {
            return;
        };
        let key = process.key.clone();
        let message = format!(
            "did not answer its agent for {:.1} s, as a stopped process does, and was killed",
            self.patience.unresponsive.as_secs_f64()
        );
        let failed = Reported::Failed(v1::Failed {
            kind: v1::FailureKind::Stalled.into(),
            message: message.clone(),
            ..v1::Failed::default()
        });
        let trained = process.trains();
        self.send(&key, &mut process.kept, failed, effects);
        effects.push(Effect::Kill(process.id, key.clone()));
        process.life = Life::Killed;
        self.seats[seat].process = Some(process);
        if trained {
            self.break_gang(&key.of(), Some(key.rank), &message, now, effects);
        }
    }
}

impl Process {
    /// When it was last heard, where it is asked: one that leaves has a deadline already.
    fn silent_since(&self) -> Option<Instant> {
        match self.life {
            Life::Running(_) | Life::Held { .. } => self.heard,
            Life::Leaving { .. } | Life::Killed => None,
        }
    }
}
