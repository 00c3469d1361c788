//! The main thread's handle on its agent for one attempt: what was asked, what to report, and when to leave.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::outbox::{Fenced, WayOut};
use super::{Begin, Command, Fence, Leave, Report};

/// The attempt is over for this rank: leave, change nothing more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the attempt was aborted: {reason}")]
pub struct Aborted {
    /// What the coordinator, a later assignment, or the loss of the agent gave as the cause.
    pub reason: String,
}

/// A cheap handle, shared by the threads of a trainer.
#[derive(Clone)]
pub struct Control {
    fence: Arc<Fence>,
    shared: Arc<Shared>,
    out: Arc<WayOut>,
}

#[derive(Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    changed: Condvar,
}

type Hook = Box<dyn FnOnce(&Aborted) + Send>;

#[derive(Default)]
struct Inbox {
    begin: Option<Begin>,
    commands: VecDeque<Command>,
    leave: Option<Leave>,
    aborted: Option<Aborted>,
    hooks: Vec<Hook>,
}

impl Control {
    /// The handle of a process's first attempt, with nothing asked and nothing to say. The trainer's reader and writer
    /// threads serve its other side.
    pub fn new(fence: Fence) -> Self {
        Self {
            fence: Arc::new(fence),
            shared: Arc::default(),
            out: Arc::default(),
        }
    }

    /// The handle of a later attempt, whose reports take the same way out.
    pub(crate) fn successor(&self, fence: Fence) -> Self {
        Self {
            fence: Arc::new(fence),
            shared: Arc::default(),
            out: Arc::clone(&self.out),
        }
    }

    /// The rank and attempt that it is of.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Queues a report and returns at once. Reports leave in order; progress is merged to one a second.
    pub fn report(&self, report: Report) {
        self.out.push(&self.fence, report);
    }

    /// Waits until every rank stands ready.
    ///
    /// # Errors
    /// When the attempt is aborted first.
    pub fn begin(&self) -> Result<Begin, Aborted> {
        let mut inbox = lock(&self.shared.inbox);
        loop {
            if let Some(aborted) = &inbox.aborted {
                return Err(aborted.clone());
            }
            if let Some(begin) = &inbox.begin {
                return Ok(begin.clone());
            }
            inbox = self
                .shared
                .changed
                .wait(inbox)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next command, if one has come. Each command is handed out once, to one caller.
    pub fn try_command(&self) -> Option<Command> {
        lock(&self.shared.inbox).commands.pop_front()
    }

    /// Waits for the next command; `None` after `patience`.
    ///
    /// # Errors
    /// When the attempt is aborted.
    pub fn next_command(&self, patience: Duration) -> Result<Option<Command>, Aborted> {
        let until = Instant::now() + patience;
        let mut inbox = lock(&self.shared.inbox);
        loop {
            if let Some(aborted) = &inbox.aborted {
                return Err(aborted.clone());
            }
            if let Some(command) = inbox.commands.pop_front() {
                return Ok(Some(command));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let wait = &self.shared.changed;
            inbox = wait
                .wait_timeout(inbox, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Whether the rank was told to leave by plan; an agreed step ends the attempt then.
    pub fn leave(&self) -> Option<Leave> {
        lock(&self.shared.inbox).leave.clone()
    }

    /// Whether the attempt is over. Cheap enough for every step.
    ///
    /// # Errors
    /// When it is.
    pub fn check(&self) -> Result<(), Aborted> {
        lock(&self.shared.inbox).aborted.clone().map_or(Ok(()), Err)
    }

    /// Runs `hook` on the control thread as soon as the attempt is aborted, or here and now if it already is. Meant
    /// for the collectives' abort, which frees a blocked main thread.
    pub fn on_abort(&self, hook: impl FnOnce(&Aborted) + Send + 'static) {
        let mut inbox = lock(&self.shared.inbox);
        match inbox.aborted.clone() {
            None => inbox.hooks.push(Box::new(hook)),
            Some(aborted) => {
                drop(inbox);
                hook(&aborted);
            }
        }
    }

    /// Waits until every report has left, at most `patience`.
    pub fn flush(&self, patience: Duration) {
        self.out.flush(patience);
    }

    /// Gives the main thread its start signal; a second one, after a reconnect, changes nothing.
    pub(crate) fn give_begin(&self, begin: Begin) {
        lock(&self.shared.inbox).begin.get_or_insert(begin);
        self.shared.changed.notify_all();
    }

    /// Queues a command for the main thread.
    pub(crate) fn give_command(&self, command: Command) {
        lock(&self.shared.inbox).commands.push_back(command);
        self.shared.changed.notify_all();
    }

    /// Has the rank leave by plan; what a later order adds counts too.
    pub(crate) fn give_leave(&self, leave: Leave) {
        let mut inbox = lock(&self.shared.inbox);
        let earlier = inbox.leave.take();
        let (save, alone) = earlier.map_or((false, false), |earlier| (earlier.save, earlier.alone));
        inbox.leave = Some(Leave {
            save: leave.save || save,
            alone: leave.alone || alone,
            ..leave
        });
    }

    /// Ends the attempt for this rank; the first reason stays.
    pub(crate) fn abort(&self, reason: &str) {
        let mut inbox = lock(&self.shared.inbox);
        let aborted = inbox
            .aborted
            .get_or_insert_with(|| Aborted {
                reason: reason.to_owned(),
            })
            .clone();
        let hooks = std::mem::take(&mut inbox.hooks);
        drop(inbox);
        self.shared.changed.notify_all();
        for hook in hooks {
            hook(&aborted);
        }
    }

    /// The next report to write, waiting for one; `None` after [`close`](Self::close).
    pub(crate) fn next_report(&self) -> Option<Fenced> {
        self.out.next()
    }

    /// Nobody reads reports any more.
    pub(crate) fn close(&self) {
        self.out.close();
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Control({:?})", self.fence)
    }
}

/// A panic elsewhere must not stop the control thread from freeing the collectives, so poison is ignored: every
/// update under these locks is a single assignment.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests {
    use diptych_common::ids::{Attempt, Rank};

    use super::*;

    /// Rank 0 of an attempt.
    pub(crate) fn fence(attempt: u64) -> Arc<Fence> {
        Arc::new(Fence {
            job: "tiny-0a1b2c".parse().expect("a job id"),
            attempt: Attempt::new(attempt),
            rank: Rank::new(0),
        })
    }

    /// The handle of rank 0 in an attempt, without a process.
    pub(crate) fn control(attempt: u64) -> Control {
        Control::new(Fence::clone(&fence(attempt)))
    }

    #[test]
    fn an_abort_frees_every_waiter_and_runs_hooks_once() {
        let handle = control(1);
        let (sender, freed) = std::sync::mpsc::channel();
        let early = sender.clone();
        handle.on_abort(move |aborted| {
            early
                .send(aborted.reason.clone())
                .expect("the test listens")
        });
        std::thread::scope(|scope| {
            let begin = scope.spawn(|| handle.begin());
            let command = scope.spawn(|| handle.next_command(Duration::from_secs(600)));
            handle.abort("rank 1 was lost");
            handle.abort("again");
            let aborted = Aborted {
                reason: "rank 1 was lost".into(),
            };
            assert_eq!(begin.join().expect("no panic"), Err(aborted.clone()));
            assert_eq!(command.join().expect("no panic"), Err(aborted));
        });
        handle.on_abort(move |aborted| {
            sender
                .send(aborted.reason.clone())
                .expect("the test listens")
        });
        assert_eq!(
            freed.iter().collect::<Vec<_>>(),
            ["rank 1 was lost", "rank 1 was lost"]
        );
        assert!(handle.check().is_err());
    }

    #[test]
    fn only_the_first_begin_counts() {
        let handle = control(1);
        let begin = |nccl_id| Begin {
            peers: Vec::new(),
            nccl_id,
            source: None,
            state: None,
        };
        handle.give_begin(begin(vec![1]));
        handle.give_begin(begin(vec![2]));
        assert_eq!(handle.begin(), Ok(begin(vec![1])));
    }

    #[test]
    fn orders_to_leave_add_up() {
        let handle = control(1);
        assert_eq!(handle.leave(), None);
        let leave = |reason: &str, save, alone| Leave {
            reason: reason.into(),
            save,
            alone,
        };
        handle.give_leave(leave("the worker is drained", true, false));
        handle.give_leave(leave("the coordinator is away", false, true));
        let both = leave("the coordinator is away", true, true);
        assert_eq!(handle.leave(), Some(both));
    }
}
