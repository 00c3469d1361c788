//! The task that owns the state.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use diptych_common::clock::{self, MachineClock, Wall};
use diptych_common::ids::JobId;
use diptych_common::settings::Effective;
use diptych_common::store::{ByUrl, Stores};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::again::Again;
use super::handle::{Handle, Message, Watches, WishError};
use super::outbox::Outboxes;
use super::sweeper;
use crate::assign;
use crate::core::{Answer, Effect, Event, Mono, Now, Outcome, Settings, State, UnixMs, apply};
use crate::metrics::{CallTimes, Measured, Measurements};
use crate::store::{Batch, History, Journal, Logs, Point, Store, StoreError};
use crate::traces::{Outlet, Tracer};

/// Messages that wait for the owner before senders do.
const WAITING: usize = 4096;
/// Messages of one commit.
const BATCH: usize = 1024;
/// How often time is an event.
const TICK: Duration = Duration::from_millis(50);
/// Measurements wait for a commit at most this long.
const METRICS: Duration = Duration::from_secs(1);
/// Measurements that wait, at most; the oldest give way.
const POINTS: usize = 100_000;
/// How often gangs that wait are counted, by what they wait for.
const BLOCKED: Duration = Duration::from_secs(10);
/// Pause after a failed commit.
const PAUSE: Duration = Duration::from_millis(200);

/// Where and how the owner works.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data directory.
    pub data_dir: PathBuf,
    /// How long the core waits for what.
    pub settings: Settings,
    /// Where the jobs' traces go, if anywhere.
    pub traces: Option<Outlet>,
}

/// What the owner stands on.
#[derive(Debug)]
pub struct Ground {
    /// The one writer of what outlives it.
    pub journal: Box<dyn Journal>,
    /// What is read beside it.
    pub history: Arc<dyn History>,
    /// Who opens the places where checkpoints are.
    pub stores: Arc<dyn Stores>,
    /// The time that people are told. No decision reads it.
    pub wall: Arc<dyn Wall>,
}

/// The owner.
#[derive(Debug)]
struct Owner {
    state: State,
    store: Box<dyn Journal>,
    messages: mpsc::Receiver<Message>,
    watches: Arc<Watches>,
    outboxes: Outboxes,
    /// Wakes the sweeper.
    sweep: Arc<Notify>,
    /// Deletions that are done, until that is durable.
    deleted: Vec<i64>,
    wall: Arc<dyn Wall>,
    started: Instant,
    points: Vec<Point>,
    points_since: Instant,
    /// Reports of a batch that could not be committed: first in the next.
    again: Again,
    store_failed: bool,
    measured: Measured,
    tracer: Option<Tracer>,
    blocked_since: Instant,
}

/// A wish that waits for the commit.
type Waiting = (
    oneshot::Sender<Result<Answer, WishError>>,
    Result<Answer, WishError>,
);

/// Opens the data directory, rebuilds the state and starts the owner. It ends, everything committed, when `stop` is
/// cancelled.
///
/// # Errors
/// The data directory is another coordinator's, or cannot be used.
pub async fn start(
    options: Options,
    stop: CancellationToken,
) -> Result<(Handle, JoinHandle<()>), StoreError> {
    let (store, reader) = Store::open(&options.data_dir).await?;
    let ground = Ground {
        journal: Box::new(store),
        history: Arc::new(reader),
        stores: Arc::new(ByUrl),
        wall: Arc::new(MachineClock),
    };
    start_on(options, ground, stop).await
}

/// As [`start`], on a store that is open.
///
/// # Errors
/// It cannot be read.
pub async fn start_on(
    options: Options,
    ground: Ground,
    stop: CancellationToken,
) -> Result<(Handle, JoinHandle<()>), StoreError> {
    let Ground {
        journal: mut store,
        history: reader,
        stores,
        wall,
    } = ground;
    let stored = store.load().await?;
    let stored = (stored.jobs, stored.workers);
    let mut state = assign::restored(options.settings, stored, Mono::default());
    recall(&mut state, &*reader).await?;
    let tracer = match options.traces {
        Some(outlet) => Some(Tracer::recalled(outlet, &state, &*reader).await?),
        None => None,
    };
    let (sender, messages) = mpsc::channel(WAITING);
    let sweep = Arc::new(Notify::new());
    let handle = Handle {
        messages: sender,
        watches: Arc::default(),
        sessions: Arc::new(AtomicU64::new(1)),
        settings: options.settings,
        reader,
        stores,
        data_dir: options.data_dir.clone(),
        shown: Effective::default(),
        logs: Logs::new(&options.data_dir),
        measured: Measured::new(Measurements::new(&state, Mono::default())),
        traced: tracer.as_ref().map(|tracer| tracer.counts().clone()),
        calls: CallTimes::new(),
    };
    let started = Instant::now();
    let owner = Owner {
        state,
        store,
        messages,
        watches: Arc::clone(&handle.watches),
        outboxes: Outboxes::default(),
        sweep: Arc::clone(&sweep),
        deleted: Vec::new(),
        wall,
        started,
        points: Vec::new(),
        points_since: started,
        again: Again::default(),
        store_failed: false,
        measured: handle.measured.clone(),
        tracer,
        blocked_since: started,
    };
    tokio::spawn(sweeper::run(handle.clone(), sweep));
    Ok((handle, tokio::spawn(owner.run(stop))))
}

/// Shows the last measurements of unfinished phases again.
async fn recall(state: &mut State, reader: &dyn History) -> Result<(), StoreError> {
    let active: Vec<JobId> = state
        .jobs()
        .values()
        .filter(|job| job.is_active())
        .map(|job| job.id().clone())
        .collect();
    for id in active {
        let Some(job) = state.job(&id).cloned() else {
            continue;
        };
        for (index, plan) in job.submission.phases.iter().enumerate() {
            if job.phases[index].record.started.is_none() {
                continue;
            }
            let metrics = reader.last_metrics(&id, plan.index).await?;
            let Some(phase) = state.job_mut(&id).map(|job| &mut job.phases[index]) else {
                continue;
            };
            let reached = metrics
                .iter()
                .map(|metric| metric.step)
                .max()
                .unwrap_or_default();
            let committed = phase.newest_committed().unwrap_or_default();
            phase.progress.step = reached.max(committed);
            phase.progress.reached = reached.max(committed).max(phase.record.budget.reached);
            phase.progress.metrics = metrics
                .into_iter()
                .map(|metric| (metric.name.clone(), metric))
                .collect();
        }
    }
    state.derive();
    state.keep();
    Ok(())
}

impl Owner {
    async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut inbox = Vec::with_capacity(BATCH);
        loop {
            let tick = tokio::select! {
                count = self.messages.recv_many(&mut inbox, BATCH) => {
                    if count == 0 {
                        break;
                    }
                    false
                }
                _ = ticks.tick() => true,
                () = stop.cancelled() => break,
            };
            // Whoever was heard before the clock struck is not silent, however long this task was held up.
            while tick && inbox.len() < BATCH {
                let Ok(message) = self.messages.try_recv() else {
                    break;
                };
                inbox.push(message);
            }
            let tick = tick && inbox.len() < BATCH;
            if !self.batch(&mut inbox, tick).await {
                tokio::time::sleep(PAUSE).await;
            }
        }
        // What has come in is still answered; what comes later is refused.
        self.messages.close();
        while self.messages.recv_many(&mut inbox, BATCH).await > 0 {
            self.batch(&mut inbox, false).await;
        }
        self.points_since = self.started;
        self.batch(&mut inbox, true).await;
    }

    fn now(&self) -> Now {
        let wall = UnixMs::new(clock::unix_millis(self.wall.now()));
        Now {
            mono: Mono::new(self.started.elapsed()),
            wall,
        }
    }

    /// Applies messages, commits once, and lets answers and effects go. False when it could not commit.
    async fn batch(&mut self, inbox: &mut Vec<Message>, tick: bool) -> bool {
        let mut outcomes: Vec<Outcome> = Vec::new();
        let mut again = std::mem::take(&mut self.again);
        let mut reports = Vec::new();
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut looks = Vec::new();
        let now = self.now();
        for event in again.events() {
            self.report(event.clone(), now, &mut outcomes);
        }
        for message in inbox.drain(..) {
            match message {
                Message::Wish(event, reply) => match apply(&mut self.state, event, now) {
                    Ok(mut outcome) => {
                        waiting.push((reply, Ok(std::mem::take(&mut outcome.answer))));
                        outcomes.push(outcome);
                    }
                    Err(refusal) => waiting.push((reply, Err(refusal.into()))),
                },
                Message::Report(event) => {
                    reports.push(event.clone());
                    self.report(event, now, &mut outcomes);
                }
                Message::Open(session, outbox) => self.outboxes.open(session, outbox),
                Message::Read(look) => looks.push(look),
                Message::Deleted(id) => self.deleted.push(id),
            }
        }
        if tick {
            self.report(Event::Tick, now, &mut outcomes);
        }
        self.report(Event::Place, now, &mut outcomes);
        if tick && self.blocked_since.elapsed() >= BLOCKED {
            self.blocked_since = Instant::now();
            let solution = assign::solution(&self.state, now);
            self.measured.lock().blocked(&solution.waiting);
        }
        let committed = self.commit(&mut outcomes).await;
        match &committed {
            Ok(batch) => {
                let mut measured = self.measured.lock();
                measured.take(&self.state, &outcomes, &batch.changes, now.mono);
                drop(measured);
                if let Some(tracer) = &mut self.tracer {
                    tracer.take(&self.state, &outcomes, &batch.happened, now.wall);
                }
                self.let_go(outcomes, waiting);
            }
            Err(error) => {
                self.state.undo();
                for event in reports {
                    if let Some(session) = again.keep(event) {
                        let reason = "the coordinator cannot write its database; come back later";
                        self.outboxes.close(session, reason.to_owned(), true);
                    }
                }
                self.again = again;
                for (reply, _) in waiting {
                    // Whoever asked may be gone.
                    let _ = reply.send(Err(WishError::NotDurable(error.to_string())));
                }
            }
        }
        for look in looks {
            look(&self.state, now.mono);
        }
        committed.is_ok()
    }

    /// Applies what nobody waits for.
    fn report(&mut self, event: Event, now: Now, outcomes: &mut Vec<Outcome>) {
        match apply(&mut self.state, event, now) {
            Ok(outcome) => {
                if let Answer::Ignored(why) = &outcome.answer {
                    tracing::debug!(?why, "report ignored");
                }
                outcomes.push(outcome);
            }
            Err(refusal) => tracing::error!(%refusal, "a report was refused"),
        }
    }

    /// What became different, once it is durable.
    async fn commit(&mut self, outcomes: &mut [Outcome]) -> Result<Batch, StoreError> {
        let mut fresh = Vec::new();
        let mut batch = Batch {
            changes: self.state.changes(),
            ..Batch::default()
        };
        for outcome in outcomes.iter_mut() {
            batch.happened.append(&mut outcome.happened);
            outcome.effects.retain_mut(|effect| match effect {
                Effect::Metrics { job, phase, points } => {
                    let points = std::mem::take(points).into_iter();
                    fresh.extend(points.map(|metric| Point {
                        job: job.clone(),
                        phase: *phase,
                        metric,
                    }));
                    false
                }
                Effect::Delete(deletion) => {
                    batch.deletions.push(deletion.clone());
                    false
                }
                Effect::Send { .. } | Effect::Close { .. } => true,
            });
        }
        batch.deleted.clone_from(&self.deleted);
        let due = !self.points.is_empty() && self.points_since.elapsed() >= METRICS;
        let needed = !batch.changes.is_empty()
            || !batch.happened.is_empty()
            || !batch.deleted.is_empty()
            || due;
        if self.points.is_empty() && !fresh.is_empty() && !needed {
            self.points_since = Instant::now();
        }
        let kept = self.points.len();
        self.points.append(&mut fresh);
        if self.points.len() > POINTS {
            self.points.drain(..self.points.len() - POINTS);
        }
        if !needed {
            return Ok(batch);
        }
        batch.points = std::mem::take(&mut self.points);
        let since = Instant::now();
        match self.store.commit(&batch).await {
            Ok(()) => {
                self.measured.lock().committed(since.elapsed());
                if std::mem::take(&mut self.store_failed) {
                    tracing::info!("the database can be written again");
                }
                self.deleted.clear();
                if !batch.deletions.is_empty() {
                    self.sweep.notify_one();
                }
                self.watch_tell(&batch);
                Self::log(&batch);
                Ok(batch)
            }
            Err(error) => {
                // This batch's own points come again with its reports.
                batch.points.truncate(kept);
                self.points = batch.points;
                if !std::mem::replace(&mut self.store_failed, true) {
                    tracing::error!(%error, "commit failed: nothing changes until the database can be written");
                }
                Err(error)
            }
        }
    }

    /// The jobs' histories stand in the log, too, for those who read that.
    fn log(batch: &Batch) {
        for line in &batch.happened {
            let phase = line.phase.as_ref().map_or("", |phase| phase.as_str());
            let attempt = line.attempt.get();
            tracing::info!(job = %line.job, phase, attempt, kind = line.kind, "{}", line.message);
        }
    }

    fn watch_tell(&self, batch: &Batch) {
        let told: BTreeSet<&JobId> = batch.happened.iter().map(|line| &line.job).collect();
        self.watches.tell(told.into_iter());
    }

    /// What is durable may be known.
    fn let_go(&mut self, outcomes: Vec<Outcome>, waiting: Vec<Waiting>) {
        self.watches.tell(self.state.touched());
        self.state.keep();
        for (reply, answer) in waiting {
            // Whoever asked may be gone; it is done all the same.
            let _ = reply.send(answer);
        }
        for effect in outcomes.into_iter().flat_map(|outcome| outcome.effects) {
            match effect {
                Effect::Send { session, order } => self.outboxes.send(session, order),
                Effect::Close {
                    session,
                    reason,
                    retry,
                } => self.outboxes.close(session, reason, retry),
                // Taken by the commit.
                Effect::Metrics { .. } | Effect::Delete(_) => {}
            }
        }
    }
}
