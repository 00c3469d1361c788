//! A state, its store and the time. Each step checks the invariants, that attempts only grow and ended jobs stay ended, and
//! that the state rebuilt from the store's rows is the live one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use diptych_common::checkpoint::CheckpointKey;
use diptych_common::ids::{Attempt, JobId, PhaseIndex, Rank, Step, WorkerId};
use diptych_coordinator::assign;
use diptych_coordinator::core::{
    Answer, CheckpointRef, Deletion, Effect, Event, Exit, Job, JobState, Mono, Now, Order, Outcome,
    PhaseState, RankEvent, RankReport, Refusal, RequestId, Reread, Secret, SessionId, Settings,
    State, StoredObject, Submission, Submit, UnixMs, VerifyReport, apply, check_invariants,
};
use diptych_coordinator::metrics::Measurements;
use diptych_coordinator::store::Stored;

use crate::traced::Traced;
use crate::words::{exited, finished, id, ready, worker};

/// A state, its store as a model, and the time.
pub(crate) struct Env {
    pub(crate) state: State,
    pub(crate) stored: Stored,
    pub(crate) orders: Vec<(WorkerId, Order)>,
    pub(crate) closed: Vec<SessionId>,
    pub(crate) deleted: Vec<String>,
    pub(crate) leftovers: Vec<(JobId, Attempt)>,
    pub(crate) history: Vec<String>,
    pub(crate) at: Duration,
    pub(crate) sessions: BTreeMap<WorkerId, (SessionId, String, u32)>,
    /// Since the coordinator started.
    pub(crate) opened: BTreeMap<SessionId, WorkerId>,
    pub(crate) next_session: u64,
    pub(crate) held: Option<Step>,
    /// Events are not put into words: there are too many.
    pub(crate) brief: bool,
    pub(crate) measurements: Measurements,
    pub(crate) traced: Traced,
}

impl Env {
    pub(crate) fn new() -> Self {
        let settings = Settings {
            settle: Duration::ZERO,
            backoff: Duration::ZERO,
            suspect_after: 0,
            ..Settings::default()
        };
        let state = State::new(settings);
        Self {
            measurements: Measurements::new(&state, Mono::default()),
            traced: Traced::default(),
            state,
            stored: Stored::default(),
            orders: Vec::new(),
            closed: Vec::new(),
            deleted: Vec::new(),
            leftovers: Vec::new(),
            history: Vec::new(),
            at: Duration::ZERO,
            sessions: BTreeMap::new(),
            opened: BTreeMap::new(),
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
        if matches!(event, Event::Retry { .. }) {
            // Whoever retries has had an answer to what came before.
            self.at += Duration::from_millis(1);
        }
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
        if let Ok(outcome) = &result {
            let outcomes = std::slice::from_ref(outcome);
            self.measurements
                .take(&self.state, outcomes, &changes, now.mono);
            self.traced.take(&self.state, outcome, &changes, now.wall);
        }
        for change in changes {
            self.stored.take(change);
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
        let same = self.stored.check(&self.state);
        same.unwrap_or_else(|broken| panic!("{broken}\nafter {what}"));
        result
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
                    let worker = self.opened.get(&session);
                    let worker = worker.expect("orders go to sessions that were opened");
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
            stall: None,
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
        let stored = (self.stored.jobs.clone(), self.stored.workers.clone());
        self.state = assign::restored(*self.state.settings(), stored, Mono::new(self.at));
        self.measurements = Measurements::new(&self.state, Mono::new(self.at));
        self.traced.restart(&self.state);
        self.sessions.clear();
        self.opened.clear();
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
