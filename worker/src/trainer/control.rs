//! The main thread's handle on its agent: what was asked, what to report, and when to leave.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Begin, Command, Progress, Report};

/// The attempt is over for this rank: leave, change nothing more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the attempt was aborted: {reason}")]
pub struct Aborted {
    /// What the coordinator, or the loss of the agent, gave as the cause.
    pub reason: String,
}

/// A cheap handle, shared by the threads of a trainer.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

struct Shared {
    inbox: Mutex<Inbox>,
    inbox_changed: Condvar,
    outbox: Mutex<Outbox>,
    outbox_changed: Condvar,
}

type Hook = Box<dyn FnOnce(&Aborted) + Send>;

#[derive(Default)]
struct Inbox {
    begin: Option<Begin>,
    commands: VecDeque<Command>,
    aborted: Option<Aborted>,
    hooks: Vec<Hook>,
}

/// Reports on their way out. Progress waits up to [`PROGRESS_INTERVAL`] and is merged; everything else goes at once,
/// after the progress that precedes it.
#[derive(Debug, Default)]
struct Outbox {
    queue: VecDeque<Report>,
    progress: Option<Progress>,
    progress_sent: Option<Instant>,
    notices_dropped: u64,
    in_flight: bool,
    closed: bool,
}

/// What the writer does next.
#[derive(Debug, PartialEq)]
enum Next {
    Send(Report),
    WaitUntil(Instant),
    Wait,
}

const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Notices that may wait for a slow agent; more are counted, not kept.
const MOST_WAITING: usize = 256;
/// Measurements that may wait in one progress report; the oldest go first.
const MOST_MEASUREMENTS: usize = 8192;

impl Control {
    /// A handle with nothing asked and nothing to say. The trainer's reader and writer threads serve its other side.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                inbox: Mutex::default(),
                inbox_changed: Condvar::new(),
                outbox: Mutex::default(),
                outbox_changed: Condvar::new(),
            }),
        }
    }

    /// Queues a report and returns at once. Reports leave in order; progress is merged to one a second.
    pub fn report(&self, report: Report) {
        lock(&self.shared.outbox).push(report);
        self.shared.outbox_changed.notify_all();
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
                .inbox_changed
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
            let wait = &self.shared.inbox_changed;
            inbox = wait
                .wait_timeout(inbox, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
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
        let outbox = lock(&self.shared.outbox);
        let pending = |outbox: &mut Outbox| !outbox.is_flushed();
        // A timeout is an answer here: the process ends either way.
        drop(
            self.shared
                .outbox_changed
                .wait_timeout_while(outbox, patience, pending),
        );
    }

    /// Gives the main thread its start signal; a second one, after a reconnect, changes nothing.
    pub(crate) fn give_begin(&self, begin: Begin) {
        lock(&self.shared.inbox).begin.get_or_insert(begin);
        self.shared.inbox_changed.notify_all();
    }

    /// Queues a command for the main thread.
    pub(crate) fn give_command(&self, command: Command) {
        lock(&self.shared.inbox).commands.push_back(command);
        self.shared.inbox_changed.notify_all();
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
        self.shared.inbox_changed.notify_all();
        for hook in hooks {
            hook(&aborted);
        }
    }

    /// The next report to write, waiting for one; `None` after [`close`](Self::close).
    pub(crate) fn next_report(&self) -> Option<Report> {
        let mut outbox = lock(&self.shared.outbox);
        outbox.in_flight = false;
        self.shared.outbox_changed.notify_all();
        loop {
            if outbox.closed {
                return None;
            }
            let now = Instant::now();
            let wait = &self.shared.outbox_changed;
            outbox = match outbox.next(now) {
                Next::Send(report) => return Some(report),
                Next::Wait => wait.wait(outbox).unwrap_or_else(PoisonError::into_inner),
                Next::WaitUntil(due) => {
                    wait.wait_timeout(outbox, due - now)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    /// Nobody reads reports any more.
    pub(crate) fn close(&self) {
        lock(&self.shared.outbox).closed = true;
        self.shared.outbox_changed.notify_all();
    }
}

impl Default for Control {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Control")
    }
}

impl Outbox {
    fn push(&mut self, report: Report) {
        match report {
            Report::Progress(newer) => match &mut self.progress {
                Some(waiting) => waiting.merge(newer),
                None => self.progress = Some(newer),
            },
            Report::Notice { .. } if self.queue.len() >= MOST_WAITING => self.notices_dropped += 1,
            other => {
                self.queue
                    .extend(self.progress.take().map(Report::Progress));
                self.queue.push_back(other);
            }
        }
    }

    fn next(&mut self, now: Instant) -> Next {
        if let Some(report) = self.queue.pop_front() {
            if matches!(report, Report::Progress(_)) {
                self.progress_sent = Some(now);
            }
            return self.send(report);
        }
        if self.notices_dropped > 0 {
            let message = format!(
                "{} notices were dropped: the agent read too slowly",
                self.notices_dropped
            );
            self.notices_dropped = 0;
            return self.send(Report::Notice {
                kind: "notices_dropped",
                message,
            });
        }
        if self.progress.is_none() {
            return Next::Wait;
        }
        match self.progress_sent.map(|sent| sent + PROGRESS_INTERVAL) {
            Some(due) if due > now => Next::WaitUntil(due),
            _ => match self.progress.take() {
                Some(progress) => {
                    self.progress_sent = Some(now);
                    self.send(Report::Progress(progress))
                }
                None => Next::Wait,
            },
        }
    }

    fn send(&mut self, report: Report) -> Next {
        self.in_flight = true;
        Next::Send(report)
    }

    /// Waiting progress does not count: whatever matters at the end pushes it out.
    fn is_flushed(&self) -> bool {
        self.closed || (self.queue.is_empty() && self.notices_dropped == 0 && !self.in_flight)
    }
}

impl Progress {
    /// Takes the newer position and rates, and keeps the measurements of both.
    fn merge(&mut self, newer: Progress) {
        let mut measurements = std::mem::take(&mut self.measurements);
        measurements.extend(newer.measurements);
        let excess = measurements.len().saturating_sub(MOST_MEASUREMENTS);
        measurements.drain(..excess);
        *self = Progress {
            measurements,
            ..newer
        };
    }
}

/// A panic elsewhere must not stop the control thread from freeing the collectives, so poison is ignored: every
/// update under these locks is a single assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use diptych_common::ids::Step;

    use super::super::Measurement;
    use super::*;

    fn progress(step: u64) -> Progress {
        let measured = Measurement {
            step: Step::new(step),
            name: "loss".into(),
            value: step as f64,
        };
        Progress {
            step: Step::new(step),
            measurements: vec![measured],
            ..Progress::default()
        }
    }

    fn notice() -> Report {
        Report::Notice {
            kind: "bad_image",
            message: "x".into(),
        }
    }

    #[test]
    fn progress_is_merged_to_one_a_second() {
        let mut outbox = Outbox::default();
        let start = Instant::now();
        outbox.push(Report::Progress(progress(1)));
        assert_eq!(
            outbox.next(start),
            Next::Send(Report::Progress(progress(1)))
        );
        outbox.push(Report::Progress(progress(2)));
        outbox.push(Report::Progress(progress(3)));
        assert_eq!(
            outbox.next(start),
            Next::WaitUntil(start + PROGRESS_INTERVAL)
        );
        let Next::Send(Report::Progress(sent)) = outbox.next(start + PROGRESS_INTERVAL) else {
            panic!("not sent")
        };
        assert_eq!(sent.step, Step::new(3));
        assert_eq!(
            sent.measurements
                .iter()
                .map(|m| m.value)
                .collect::<Vec<_>>(),
            [2.0, 3.0]
        );
        assert_eq!(outbox.next(start + PROGRESS_INTERVAL), Next::Wait);
    }

    #[test]
    fn other_reports_go_at_once_and_after_the_progress_before_them() {
        let mut outbox = Outbox::default();
        let start = Instant::now();
        outbox.push(Report::Progress(progress(1)));
        assert!(matches!(outbox.next(start), Next::Send(_)));
        outbox.push(Report::Progress(progress(2)));
        let finished = Report::Finished {
            step: Step::new(2),
            results: Vec::new(),
        };
        outbox.push(finished.clone());
        assert_eq!(
            outbox.next(start),
            Next::Send(Report::Progress(progress(2)))
        );
        assert_eq!(outbox.next(start), Next::Send(finished));
    }

    #[test]
    fn notices_are_bounded_and_the_rest_counted() {
        let mut outbox = Outbox::default();
        for _ in 0..MOST_WAITING + 5 {
            outbox.push(notice());
        }
        let now = Instant::now();
        for _ in 0..MOST_WAITING {
            assert_eq!(outbox.next(now), Next::Send(notice()));
        }
        let Next::Send(Report::Notice { kind, message }) = outbox.next(now) else {
            panic!("no summary")
        };
        assert_eq!(kind, "notices_dropped");
        assert!(message.starts_with("5 "), "{message}");
    }

    #[test]
    fn an_abort_frees_every_waiter_and_runs_hooks_once() {
        let control = Control::new();
        let (sender, freed) = std::sync::mpsc::channel();
        let early = sender.clone();
        control.on_abort(move |aborted| {
            early
                .send(aborted.reason.clone())
                .expect("the test listens")
        });
        std::thread::scope(|scope| {
            let begin = scope.spawn(|| control.begin());
            let command = scope.spawn(|| control.next_command(Duration::from_secs(600)));
            control.abort("rank 1 was lost");
            control.abort("again");
            let aborted = Aborted {
                reason: "rank 1 was lost".into(),
            };
            assert_eq!(begin.join().expect("no panic"), Err(aborted.clone()));
            assert_eq!(command.join().expect("no panic"), Err(aborted));
        });
        control.on_abort(move |aborted| {
            sender
                .send(aborted.reason.clone())
                .expect("the test listens")
        });
        assert_eq!(
            freed.iter().collect::<Vec<_>>(),
            ["rank 1 was lost", "rank 1 was lost"]
        );
        assert!(control.check().is_err());
    }

    #[test]
    fn only_the_first_begin_counts() {
        let control = Control::new();
        let begin = |nccl_id| Begin {
            peers: Vec::new(),
            nccl_id,
        };
        control.give_begin(begin(vec![1]));
        control.give_begin(begin(vec![2]));
        assert_eq!(control.begin(), Ok(begin(vec![1])));
    }
}
