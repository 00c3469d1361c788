//! Attempts that end, coordinators that stay away, and agents that leave.

use std::time::Duration;

use diptych_proto::v1;
use diptych_proto::v1::rank_command::Command;
use tokio::time::Instant;

use super::{AbortOrder, AgentState, Effect, Life, Link, Process, RankKey, Stage, Toward};

/// Whether the agent stays.
#[derive(Debug)]
pub(super) enum Stay {
    Staying,
    Leaving { reason: String, until: Instant },
}

/// A leaving agent whose coordinator is away for less than this waits for it: a stream that was reset is usually back
/// within it.
const BLINK: Duration = Duration::from_secs(1);

impl AgentState {
    /// Whether a leaving agent has nothing left to stay for.
    pub fn may_leave(&self) -> bool {
        matches!(self.stay, Stay::Leaving { .. }) && self.is_idle()
    }

    /// When a leaving agent's trainers must all have been told to end; `None` while it stays.
    pub fn leaves_at(&self) -> Option<Instant> {
        match self.stay {
            Stay::Staying => None,
            Stay::Leaving { until, .. } => Some(until),
        }
    }

    /// Ends an attempt, and every earlier one of the job, on this worker.
    pub(super) fn abort(&mut self, order: &AbortOrder, now: Instant, effects: &mut Vec<Effect>) {
        let over = self.over.entry(order.job.clone()).or_insert(order.attempt);
        *over = order.attempt.max(*over);
        let kill_at = now + self.patience.abort_grace;
        let hold_by = now + self.patience.hold_grace;
        let (mut left, mut dropped) = (Vec::new(), Vec::new());
        for seat in &mut self.seats {
            let mut stays_for = false;
            if let Some(waiting) = &mut seat.waiting
                && waiting.key.job == order.job
            {
                let later = waiting.key.attempt > order.attempt;
                let kept = order.keep && !ends_by(order, waiting.key.attempt, waiting.key.rank);
                let leaves_to_hold = seat.process.as_ref().is_some_and(Process::leaves_to_hold);
                // An order that comes late takes nothing from an attempt that is to go on from what the process holds.
                stays_for = leaves_to_hold && (later || kept);
                if stays_for && !later {
                    waiting.held_back = Some(order.reason.clone());
                } else if !later {
                    dropped.extend(seat.waiting.take().map(|waiting| waiting.key));
                }
            }
            let Some(process) = &mut seat.process else {
                continue;
            };
            if process.key.job != order.job || process.key.attempt > order.attempt || stays_for {
                continue;
            }
            if process.trains() {
                left.push(process.key.clone());
            }
            if order.keep && !ends_by(order, process.key.attempt, process.key.rank) {
                process.hold(&order.reason, hold_by, effects);
            } else {
                process.end(&order.reason, kill_at, effects);
            }
        }
        for rank in left {
            self.break_gang(&rank.of(), Some(rank.rank), &order.reason, now, effects);
        }
        for key in dropped {
            self.never_started(key, &order.reason, now, effects);
        }
    }

    /// One rank leaves; the others of its attempt go on, if they can without it.
    pub(super) fn abort_rank(
        &mut self,
        key: &RankKey,
        abort: &v1::AbortRank,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let (kill_at, hold_by) = (
            now + self.patience.abort_grace,
            now + self.patience.hold_grace,
        );
        let (mut left, mut dropped) = (false, false);
        for seat in &mut self.seats {
            dropped |= seat
                .waiting
                .take_if(|waiting| waiting.key == *key)
                .is_some();
            let own = seat.process.as_mut().filter(|process| process.key == *key);
            let Some(process) = own else { continue };
            left |= process.trains();
            if abort.keep {
                process.hold(&abort.reason, hold_by, effects);
            } else {
                process.end(&abort.reason, kill_at, effects);
            }
        }
        if left {
            self.break_gang(&key.of(), Some(key.rank), &abort.reason, now, effects);
        }
        if dropped {
            self.never_started(key.clone(), &abort.reason, now, effects);
        }
    }

    /// The processes of these seats have to make room.
    pub(super) fn end_seats(
        &mut self,
        seats: std::ops::Range<usize>,
        reason: &str,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let kill_at = now + self.patience.abort_grace;
        let mut left = Vec::new();
        for process in self.seats[seats]
            .iter_mut()
            .filter_map(|seat| seat.process.as_mut())
        {
            if process.trains() {
                left.push(process.key.clone());
            }
            process.end(reason, kill_at, effects);
        }
        for rank in left {
            self.break_gang(&rank.of(), Some(rank.rank), reason, now, effects);
        }
    }

    /// The agent is asked to leave; the second time, it waits for nothing.
    pub(super) fn stop(&mut self, reason: String, now: Instant, effects: &mut Vec<Effect>) {
        let again = matches!(self.stay, Stay::Leaving { .. });
        let grace = if again {
            Duration::ZERO
        } else {
            self.patience.leave_grace
        };
        self.stay = Stay::Leaving {
            reason: reason.clone(),
            until: now + grace,
        };
        self.say_leaving(now, effects);
        let waiting: Vec<_> = self
            .seats
            .iter_mut()
            .filter_map(|seat| {
                seat.waiting
                    .take_if(|_| !seat.process.as_ref().is_some_and(Process::leaves_to_hold))
            })
            .collect();
        for waiting in waiting {
            self.never_started(waiting.key, &reason, now, effects);
        }
    }

    pub(super) fn say_leaving(&self, now: Instant, effects: &mut Vec<Effect>) {
        if let Stay::Leaving { reason, until } = &self.stay
            && matches!(self.link, Link::Up)
        {
            let left = until.saturating_duration_since(now).as_millis();
            effects.push(Effect::Leaving(v1::Leaving {
                reason: reason.clone(),
                grace_ms: u64::try_from(left).unwrap_or(u64::MAX),
            }));
        }
    }

    /// Without a coordinator for long, gangs save what they have and wait for it.
    pub(super) fn save_orphans(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if let Some(at) = self.orphaned_at()
            && now >= at
        {
            self.leave_alone("no coordinator within the orphan limit", effects);
        }
    }

    pub(super) fn go_on_leaving(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Stay::Leaving { reason, until } = &self.stay else {
            return;
        };
        let (reason, over) = (reason.clone(), now >= *until);
        if !over {
            if self.lonely_at().is_none_or(|at| now < at) {
                return;
            }
            self.leave_alone(&reason, effects);
            if self.processes().any(Process::has_to_save) {
                return;
            }
        }
        self.end_seats(0..self.seats.len(), &reason, now, effects);
    }

    pub(super) fn next_leave(&self) -> Option<Instant> {
        let mut next = Vec::new();
        let unasked = |process: &Process| {
            matches!(
                process.life,
                Life::Running(Stage::Training { alone: false })
            )
        };
        if self.processes().any(unasked) {
            next.extend(self.orphaned_at());
        }
        if let Stay::Leaving { until, .. } = &self.stay
            && self.processes().any(Process::is_settled)
        {
            next.push(*until);
            let nothing_to_save = !self.processes().any(Process::has_to_save);
            if self.processes().any(unasked) || nothing_to_save {
                next.extend(self.lonely_at());
            }
        }
        next.into_iter().min()
    }

    fn leave_alone(&mut self, reason: &str, effects: &mut Vec<Effect>) {
        for process in self.processes_mut() {
            if let Life::Running(Stage::Training { alone }) = &mut process.life
                && !*alone
            {
                *alone = true;
                let leave = v1::Leave {
                    reason: reason.to_owned(),
                    save: true,
                    alone: true,
                };
                let leave = Command::Leave(leave);
                effects.push(Effect::Tell(process.id, process.key.clone(), leave));
            }
        }
    }

    fn orphaned_at(&self) -> Option<Instant> {
        match self.link {
            Link::Up => None,
            Link::Down { since } => Some(since + self.patience.orphan_limit),
        }
    }

    /// When a leaving agent no longer waits for its coordinator's plan.
    fn lonely_at(&self) -> Option<Instant> {
        match self.link {
            Link::Up => None,
            Link::Down { since } => Some(since + BLINK.min(self.patience.leave_grace / 4)),
        }
    }
}

impl Process {
    fn leaves_to_hold(&self) -> bool {
        matches!(
            self.life,
            Life::Leaving {
                toward: Toward::Hold,
                ..
            }
        )
    }

    /// Whether its gang counts on it for the save before it leaves.
    fn has_to_save(&self) -> bool {
        self.trains() || self.leaves_to_hold()
    }

    /// Whether it stays as it is until it is told otherwise.
    fn is_settled(&self) -> bool {
        matches!(self.life, Life::Running(_) | Life::Held { .. }) || self.leaves_to_hold()
    }
}

fn ends_by(
    order: &AbortOrder,
    attempt: diptych_common::ids::Attempt,
    rank: diptych_common::ids::Rank,
) -> bool {
    attempt == order.attempt && order.end.contains(&rank)
}
