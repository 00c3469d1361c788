//! One assignment after the other: the reader takes what the agent says, the main thread what is to be done next.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::control::lock;
use super::wire::{Incoming, WireError};
use super::{Assignment, Control, Fence, StartFrom};

/// The attempts of a process: the current one, the next one, and whether there is to be none. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Attempts {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    line: Mutex<Line>,
    changed: Condvar,
}

#[derive(Debug)]
struct Line {
    /// Of the newest attempt that was assigned, whether the main thread has begun it or not.
    newest: Control,
    next: Option<Turn>,
    ended: bool,
}

/// An attempt that the main thread is to begin.
#[derive(Debug)]
pub struct Turn {
    /// What to do, or why it cannot be read.
    pub assignment: Result<Assignment, String>,
    /// Its handle.
    pub control: Control,
    /// An assignment that was overtaken by this one had the state in memory forgotten.
    pub forget: bool,
}

// === impl Attempts ===

impl Attempts {
    /// A process that has just been given its first assignment.
    pub fn new(control: Control, assignment: Result<Assignment, String>) -> Self {
        let line = Line {
            newest: control.clone(),
            next: Some(Turn {
                assignment,
                control,
                forget: false,
            }),
            ended: false,
        };
        Self {
            shared: Arc::new(Shared {
                line: Mutex::new(line),
                changed: Condvar::new(),
            }),
        }
    }

    /// Waits for the next attempt; `None` once the process is to end.
    pub fn next(&self) -> Option<Turn> {
        let mut line = lock(&self.shared.line);
        loop {
            if line.ended {
                return None;
            }
            if let Some(turn) = line.next.take() {
                return Some(turn);
            }
            let wait = &self.shared.changed;
            line = wait.wait(line).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether the process is to end.
    pub fn ended(&self) -> bool {
        lock(&self.shared.line).ended
    }

    /// Whether a later attempt waits for the main thread.
    pub fn overtaken(&self) -> bool {
        lock(&self.shared.line).next.is_some()
    }

    /// The newest attempt's handle.
    pub(crate) fn newest(&self) -> Control {
        lock(&self.shared.line).newest.clone()
    }

    /// Takes what the agent said to the rank and attempt of `fence`. What is not of the newest attempt is dropped, but a
    /// later attempt ends the one before it, and a ping is answered whatever it is of.
    pub(crate) fn hear(&self, fence: Fence, said: Result<Incoming, WireError>) {
        let newest = self.newest();
        match said {
            Ok(Incoming::Ping) => newest.report(super::Report::Pong),
            Ok(Incoming::Prepare(assignment)) => self.assign(fence, Ok(*assignment)),
            Err(error) if fence.attempt > newest.fence().attempt => {
                self.assign(fence, Err(error.to_string()));
            }
            Err(error) => tracing::warn!(%error, "command dropped"),
            Ok(_) if fence != *newest.fence() => {
                tracing::warn!(?fence, "command for another rank or attempt dropped");
            }
            Ok(Incoming::Begin(begin)) => newest.give_begin(begin),
            Ok(Incoming::Command(command)) => newest.give_command(command),
            Ok(Incoming::Leave(leave)) => newest.give_leave(leave),
            Ok(Incoming::Abort { reason, keep: true }) => newest.abort(&reason),
            Ok(Incoming::Abort {
                reason,
                keep: false,
            }) => self.end(&reason),
        }
    }

    /// Ends the attempt, and the process after it.
    pub(crate) fn end(&self, reason: &str) {
        let mut line = lock(&self.shared.line);
        line.ended = true;
        let newest = line.newest.clone();
        drop(line);
        self.shared.changed.notify_all();
        newest.abort(reason);
    }

    fn assign(&self, fence: Fence, assignment: Result<Assignment, String>) {
        let mut line = lock(&self.shared.line);
        let before = line.newest.clone();
        if fence.job != before.fence().job || fence.attempt <= before.fence().attempt {
            tracing::warn!(?fence, "an assignment that is not a later one was dropped");
            return;
        }
        let reason = format!("attempt {} begins", fence.attempt);
        let control = before.successor(fence);
        let overtaken = line.next.take().is_some_and(|turn| {
            let checkpoint = |assigned: &Assignment| assigned.start == StartFrom::Checkpoint;
            turn.forget || turn.assignment.as_ref().is_ok_and(checkpoint)
        });
        line.newest = control.clone();
        line.next = Some(Turn {
            assignment,
            control,
            forget: overtaken,
        });
        drop(line);
        self.shared.changed.notify_all();
        before.abort(&reason);
    }
}
