//! A state, its store and the time. Each step checks the invariants, that attempts only grow and ended jobs stay ended, and
//! that the state rebuilt from the store's rows is the live one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use diptych_common::checkpoint::CheckpointKey;
use diptych_common::ids::{Attempt, JobId, PhaseIndex, Rank, Step, WorkerId};
use diptych_common::spec::Device;
use diptych_coordinator::assign;
use diptych_coordinator::core::{
    Answer, Change, CheckpointRef, Deletion, DeviceReport, Effect, Event, Exit, Ignored, Job,
    JobState, Mono, Now, Order, OrderTo, Outcome, PhaseState, RankEvent, RankId, RankReport,
    Refusal, Registration, RequestId, Reread, RunningRank, Secret, SessionId, Settings, State,
    StoredJob, StoredObject, Submission, Submit, UnixMs, VerifyReport, WorkerRecord, apply,
    check_invariants,
};

use crate::words::{exited, finished, id, ready, worker};

/// A state, its store as a model, and the time.
pub(crate) struct Env {
    pub(crate) state: State,
    pub(crate) store: BTreeMap<JobId, StoredJob>,
    pub(crate) records: BTreeMap<WorkerId, WorkerRecord>,
    pub(crate) orders: Vec<(WorkerId, Order)>,
    pub(crate) closed: Vec<SessionId>,
    pub(crate) deleted: Vec<String>,
    pub(crate) leftovers: Vec<(JobId, Attempt)>,
    pub(crate) history: Vec<String>,
    pub(crate) at: Duration,
    sessions: BTreeMap<WorkerId, (SessionId, String, u32)>,
    next_session: u64,
    held: Option<Step>,
    /// Events are not put into words: there are too many.
    pub(crate) brief: bool,
}

impl Env {
    pub(crate) fn new() -> Self {
        let settings = Settings {
            settle: Duration::ZERO,
            backoff: Duration::ZERO,
            suspect_after: 0,
            ..Settings::default()
        };
        Self {
            state: State::new(settings),
            store: BTreeMap::new(),
            records: BTreeMap::new(),
            orders: Vec::new(),
            closed: Vec::new(),
            deleted: Vec::new(),
            leftovers: Vec::new(),
            history: Vec::new(),
            at: Duration::ZERO,
            sessions: BTreeMap::new(),
            next_session: 1,
            held: None,
            brief: false,
        }
    }

    /// One in which a worker is cordoned after so many failures of its own.
    pub(crate) fn suspicious(suspect_after: u32) -> Self {
        let mut env = Self::new();
        env.state = State::new(Settings {
            suspect_after,
            ..*env.state.settings()
        });
        env
    }

    /// An environment with workers of one slot each.
    pub(crate) fn with_workers(names: &[&str]) -> Self {
        let mut env = Self::new();
        for name in names {
            env.register(name, "1", 1, &[]);
        }
        env.orders.clear();
        env
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            mono: Mono::new(self.at),
            wall: UnixMs::new(1_000_000 + self.at.as_millis() as u64),
        }
    }

    /// One event, and the placement that follows it.
    pub(crate) fn step(&mut self, event: Event) -> Result<Answer, Refusal> {
        let outcome = self.one(event)?;
        let answer = self.take(outcome);
        let placed = self.one(Event::Place).expect("placing is never refused");
        self.take(placed);
        Ok(answer)
    }

    pub(crate) fn do_step(&mut self, event: Event) -> Answer {
        self.step(event)
            .unwrap_or_else(|refusal| panic!("refused: {refusal}"))
    }

    fn one(&mut self, event: Event) -> Result<Outcome, Refusal> {
        let before: Vec<Arc<Job>> = self.state.jobs().values().cloned().collect();
        let is_retry = matches!(event, Event::Retry { .. });
        let what = if self.brief {
            String::new()
        } else {
            format!("{event:?}")
        };
        let now = self.now();
        let result = apply(&mut self.state, event, now);
        let changes = self.state.changes();
        assert!(
            result.is_ok() || changes.is_empty(),
            "refused, yet changed: {what}"
        );
        for change in changes {
            self.write(change);
        }
        self.state.keep();
        check_invariants(&self.state).unwrap_or_else(|broken| panic!("{broken}\nafter {what}"));
        for old in before {
            let Some(new) = self.state.job(old.id()) else {
                continue;
            };
            assert!(
                new.record.last_attempt >= old.record.last_attempt,
                "attempts only grow"
            );
            let absorbed = old.is_active() || new.record.state == old.record.state || is_retry;
            assert!(
                absorbed,
                "I9: {:?} became {:?}",
                old.record.state, new.record.state
            );
        }
        let live: BTreeMap<_, _> = self
            .state
            .jobs()
            .iter()
            .map(|(id, job)| (id.clone(), StoredJob::of(job)))
            .collect();
        assert!(
            self.state.records() == &self.records,
            "I12: what the store remembers of workers is not what is known, after {what}"
        );
        assert!(
            live == self.store,
            "I12: the store's rows are not the live state, after {what}"
        );
        result
    }

    fn write(&mut self, change: Change) {
        match change {
            Change::PutJob { submission, record } => {
                let stored = self
                    .store
                    .entry(record.id.clone())
                    .or_insert_with(|| StoredJob {
                        submission,
                        record: record.clone(),
                        phases: Vec::new(),
                    });
                stored.record = record;
            }
            Change::PutPhase { job, phase, record } => {
                let phases = &mut self.store.get_mut(&job).expect("a phase of a job").phases;
                match phases.get_mut(phase.get() as usize) {
                    Some(row) => row.0 = *record,
                    None => phases.push((*record, Vec::new())),
                }
            }
            Change::PutCheckpoint { job, phase, record } => {
                let rows =
                    &mut self.store.get_mut(&job).expect("of a job").phases[phase.get() as usize].1;
                rows.retain(|row| row.id != record.id);
                rows.push(record);
                rows.sort_by_key(|row| row.id);
            }
            Change::DropCheckpoint { job, phase, id } => {
                let phases = &mut self.store.get_mut(&job).expect("of a job").phases;
                phases[phase.get() as usize].1.retain(|row| row.id != id);
            }
            Change::DropJob { job } => {
                self.store.remove(&job);
            }
            Change::PutWorker { record } => {
                self.records.insert(record.id.clone(), record);
            }
            Change::DropWorker { worker } => {
                self.records.remove(&worker);
            }
        }
    }

    fn take(&mut self, outcome: Outcome) -> Answer {
        self.history.extend(
            outcome
                .happened
                .iter()
                .map(|line| format!("{}: {}", line.kind, line.message)),
        );
        for effect in outcome.effects {
            match effect {
                Effect::Send { session, order } => {
                    let to = self
                        .sessions
                        .iter()
                        .find(|(_, (open, _, _))| *open == session);
                    let (worker, _) = to.expect("orders go to open sessions only");
                    self.orders.push((worker.clone(), order));
                }
                Effect::Close { session, .. } => self.closed.push(session),
                Effect::Delete(Deletion::Checkpoint { folder, .. }) => self.deleted.push(folder),
                Effect::Delete(Deletion::Leftovers { job, before, .. }) => {
                    self.leftovers.push((job, before));
                }
                Effect::Metrics { .. } => {}
            }
        }
        outcome.answer
    }

    /// Time passes, in ticks of 50 ms.
    pub(crate) fn wait(&mut self, ms: u64) {
        let end = self.at + Duration::from_millis(ms);
        while self.at < end {
            self.at += Duration::from_millis(50);
            self.do_step(Event::Tick);
        }
    }

    /// Time passes, and these workers' agents are heard.
    pub(crate) fn wait_alive(&mut self, ms: u64, names: &[&str]) {
        let end = self.at + Duration::from_millis(ms);
        while self.at < end {
            for name in names {
                let (session, worker) = (self.session(name), worker(name));
                self.do_step(Event::Heartbeat { session, worker });
            }
            self.wait(500);
        }
    }

    // Workers.

    pub(crate) fn session(&self, name: &str) -> SessionId {
        self.sessions[&worker(name)].0
    }

    pub(crate) fn register(
        &mut self,
        name: &str,
        incarnation: &str,
        slots: u32,
        running: &[(&str, u64, u32, u32)],
    ) {
        let session = SessionId(self.next_session);
        self.next_session += 1;
        let former = self
            .sessions
            .insert(worker(name), (session, incarnation.to_owned(), slots));
        let device = |index| DeviceReport {
            index,
            kind: Device::Cpu,
            name: String::new(),
            memory: 0,
        };
        let held = self.held;
        let rank = |(job, attempt, rank, device): &(&str, u64, u32, u32)| {
            let rank = RankId {
                job: id(job),
                attempt: Attempt::new(*attempt),
                rank: Rank::new(*rank),
            };
            RunningRank {
                rank,
                device: *device,
                phase: PhaseIndex::new(0),
                held,
            }
        };
        let answer = self.do_step(Event::Registered(Registration {
            session,
            worker: worker(name),
            incarnation: incarnation.to_owned(),
            version: "0".to_owned(),
            host: "localhost".to_owned(),
            devices: (0..slots).map(device).collect(),
            running: running.iter().map(rank).collect(),
            peer: String::new(),
        }));
        if let (Answer::Ignored(Ignored::AnotherAgent), Some(former)) = (answer, former) {
            self.sessions.insert(worker(name), former);
        }
    }

    /// An agent comes back with one trainer that has left its gang and waits.
    pub(crate) fn register_held(&mut self, name: &str, rank: (&str, u64, u32), step: u64) {
        let (job, attempt, number) = rank;
        self.held = Some(Step::new(step));
        self.register(name, "1", 1, &[(job, attempt, number, 0)]);
        self.held = None;
    }

    /// An agent comes back with these: job, attempt, rank, device, phase, and steps where it waits with a state. False where
    /// it is turned away.
    pub(crate) fn register_running(
        &mut self,
        name: &str,
        incarnation: &str,
        slots: u32,
        running: &[(String, u64, u32, u32, PhaseIndex, Option<u64>)],
    ) -> bool {
        let session = SessionId(self.next_session);
        self.next_session += 1;
        let former = self
            .sessions
            .insert(worker(name), (session, incarnation.to_owned(), slots));
        let device = |index| DeviceReport {
            index,
            kind: Device::Cpu,
            name: String::new(),
            memory: 0,
        };
        let running = running
            .iter()
            .map(|(job, attempt, rank, device, phase, held)| RunningRank {
                rank: RankId {
                    job: id(job),
                    attempt: Attempt::new(*attempt),
                    rank: Rank::new(*rank),
                },
                device: *device,
                phase: *phase,
                held: held.map(Step::new),
            });
        let answer = self.do_step(Event::Registered(Registration {
            session,
            worker: worker(name),
            incarnation: incarnation.to_owned(),
            version: "0".to_owned(),
            host: "localhost".to_owned(),
            devices: (0..slots).map(device).collect(),
            running: running.collect(),
            peer: String::new(),
        }));
        if answer == Answer::Ignored(Ignored::AnotherAgent) {
            match former {
                Some(former) => self.sessions.insert(worker(name), former),
                None => self.sessions.remove(&worker(name)),
            };
            return false;
        }
        true
    }

    /// The session that the coordinator knows a worker by.
    pub(crate) fn open_session(&self, name: &str) -> Option<SessionId> {
        self.state.worker(&worker(name))?.session()
    }

    /// A manifest of an attempt's save, whether or not the attempt is live.
    pub(crate) fn manifest_of(&self, to: &OrderTo, step: u64) -> RankEvent {
        let job = self.state.job(&to.job).expect("orders are about jobs");
        let found = job.phases.iter().zip(&job.submission.phases);
        let mut found = found.filter(|(phase, _)| phase.record.attempt == to.attempt);
        let plan = found
            .next()
            .map_or(&job.submission.phases[0], |(_, plan)| plan);
        let key = CheckpointKey {
            job: to.job.clone(),
            phase: plan.index,
            name: plan.name.clone(),
            step: Step::new(step),
            attempt: to.attempt,
        };
        RankEvent::ManifestWritten {
            checkpoint: CheckpointRef {
                phase: key.name.to_string(),
                manifest: key.manifest().to_string(),
                digest: "ab".repeat(32),
                step: Step::new(step),
            },
            best: None,
        }
    }

    pub(crate) fn cordon(&mut self, name: &str, reason: Option<&str>) {
        self.do_step(Event::Cordon {
            worker: worker(name),
            reason: reason.map(str::to_owned),
        });
    }

    pub(crate) fn drain(&mut self, name: &str) {
        self.do_step(Event::Drain {
            worker: worker(name),
            reason: String::new(),
            deadline: Duration::from_secs(60),
        });
    }

    pub(crate) fn link_lost(&mut self, name: &str, other: &str, job: &str) {
        let attempt = Attempt::new(self.live(job).1);
        self.do_step(Event::LinkLost {
            session: self.session(name),
            worker: worker(name),
            other: worker(other),
            rank: (id(job), attempt),
            reason: "silent for 5 s".to_owned(),
        });
    }

    pub(crate) fn reset(&mut self, name: &str) {
        self.do_step(Event::Reset {
            session: self.session(name),
            worker: worker(name),
        });
    }

    // Jobs.

    pub(crate) fn submit(&mut self, name: &str, submission: &Arc<Submission>) -> JobId {
        self.submit_as(name, submission, None).unwrap();
        id(name)
    }

    pub(crate) fn submit_as(
        &mut self,
        name: &str,
        submission: &Arc<Submission>,
        request: Option<&str>,
    ) -> Result<Answer, Refusal> {
        self.step(Event::Submit(Submit {
            id: id(name),
            submission: Arc::clone(submission),
            request: request.map(|request| RequestId(request.to_owned())),
            secret: Secret::new([7; 32]),
        }))
    }

    pub(crate) fn job(&self, name: &str) -> &Job {
        self.state.job(&id(name)).expect("there is such a job")
    }

    pub(crate) fn live(&self, name: &str) -> (usize, u64, Vec<String>) {
        let (index, placement) = self
            .job(name)
            .live()
            .unwrap_or_else(|| panic!("{name} has no live attempt"));
        let workers = placement
            .seats
            .iter()
            .map(|seat| seat.worker.to_string())
            .collect();
        (index, placement.attempt.get(), workers)
    }

    pub(crate) fn is_done(&self, name: &str, phase: usize) -> bool {
        matches!(
            self.job(name).phases[phase].record.state,
            PhaseState::Done { .. }
        )
    }

    pub(crate) fn has_succeeded(&self, name: &str) -> bool {
        matches!(self.job(name).record.state, JobState::Succeeded { .. })
    }

    // Ranks of the live attempt.

    pub(crate) fn say(&mut self, job: &str, rank: u32, event: RankEvent) -> Answer {
        let (_, attempt, workers) = self.live(job);
        let worker = workers[rank as usize].clone();
        self.say_as(&worker, job, attempt, rank, event)
    }

    pub(crate) fn say_as(
        &mut self,
        name: &str,
        job: &str,
        attempt: u64,
        rank: u32,
        event: RankEvent,
    ) -> Answer {
        let report = RankReport {
            session: self.session(name),
            worker: worker(name),
            job: id(job),
            attempt: Attempt::new(attempt),
            rank: Rank::new(rank),
            event,
        };
        self.do_step(Event::Rank(report))
    }

    pub(crate) fn all_ready(&mut self, job: &str, step: u64) {
        for rank in 0..self.live(job).2.len() as u32 {
            self.say(job, rank, ready(step, "aa"));
        }
    }

    /// A save of every rank, up to the commit.
    pub(crate) fn save(&mut self, job: &str, step: u64) {
        let world = self.live(job).2.len() as u32;
        for rank in 0..world {
            let part = self.part(job, rank, step);
            self.say(job, rank, part);
        }
        let written = self.manifest(job, step);
        self.say(job, 0, written);
    }

    pub(crate) fn key(&self, job: &str, step: u64) -> CheckpointKey {
        let (index, attempt, _) = self.live(job);
        let name = self.job(job).submission.phases[index].name.clone();
        let (phase, attempt) = (PhaseIndex::new(index as u32), Attempt::new(attempt));
        CheckpointKey {
            job: id(job),
            phase,
            name,
            step: Step::new(step),
            attempt,
        }
    }

    pub(crate) fn part(&self, job: &str, rank: u32, step: u64) -> RankEvent {
        let key = self.key(job, step).shard(Rank::new(rank));
        RankEvent::PartSaved {
            step: Step::new(step),
            objects: vec![StoredObject {
                key,
                size: 5,
                digest: "00".repeat(32),
            }],
        }
    }

    pub(crate) fn manifest(&self, job: &str, step: u64) -> RankEvent {
        let key = self.key(job, step);
        let checkpoint = CheckpointRef {
            phase: key.name.to_string(),
            manifest: key.manifest().to_string(),
            digest: "ab".repeat(32),
            step: Step::new(step),
        };
        RankEvent::ManifestWritten {
            checkpoint,
            best: None,
        }
    }

    /// Answers every verification order that is open.
    pub(crate) fn verify_all(&mut self, problem: Option<&str>) -> usize {
        self.reread_all(
            problem.map_or(Reread::Whole, |problem| Reread::Damaged(problem.to_owned())),
        )
    }

    /// Answers every verification order that is open.
    pub(crate) fn reread_all(&mut self, reread: Reread) -> usize {
        let (asked, rest) = std::mem::take(&mut self.orders)
            .into_iter()
            .partition::<Vec<_>, _>(|(_, order)| matches!(order, Order::Verify { .. }));
        self.orders = rest;
        let count = asked.len();
        for (worker, order) in asked {
            let Order::Verify {
                job, checkpoint, ..
            } = order
            else {
                continue;
            };
            let session = self.sessions[&worker].0;
            self.do_step(Event::Verified(VerifyReport {
                session,
                worker,
                job,
                checkpoint,
                reread: reread.clone(),
            }));
        }
        count
    }

    pub(crate) fn finish(&mut self, job: &str, step: u64) {
        for rank in 0..self.live(job).2.len() as u32 {
            self.say(job, rank, finished(step));
        }
    }

    /// The live attempt from prepared to done, with its last save at `step`.
    pub(crate) fn run_phase(&mut self, job: &str, step: u64) {
        let (index, attempt, workers) = self.live(job);
        self.all_ready(job, 0);
        self.save(job, step);
        self.finish(job, step);
        self.verify_all(None);
        assert!(self.is_done(job, index), "{:?}", self.history);
        for (rank, worker) in workers.iter().enumerate() {
            self.say_as(worker, job, attempt, rank as u32, exited(Exit::Code(0)));
        }
    }

    /// The coordinator is killed and started again on its store; agents have lost their sessions.
    pub(crate) fn restart(&mut self) {
        let stored: Vec<_> = self.store.values().cloned().collect();
        let records = self.records.values().cloned().collect();
        let stored = (stored, records);
        self.state = assign::restored(*self.state.settings(), stored, Mono::new(self.at));
        self.sessions.clear();
        self.orders.clear();
        check_invariants(&self.state).unwrap();
    }

    pub(crate) fn happened(&self, kind: &str) -> usize {
        let prefix = format!("{kind}: ");
        self.history
            .iter()
            .filter(|line| line.starts_with(&prefix))
            .count()
    }

    /// Orders of one kind since the last call, by worker; all orders are forgotten.
    pub(crate) fn take_orders(&mut self, wanted: impl Fn(&Order) -> bool) -> Vec<String> {
        let orders = std::mem::take(&mut self.orders);
        orders
            .into_iter()
            .filter(|(_, order)| wanted(order))
            .map(|(worker, _)| worker.to_string())
            .collect()
    }
}
