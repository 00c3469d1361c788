//! The agent at work: one task that owns the state, feeds it every event and carries out what it decides.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use diptych_common::clock;
use diptych_common::ids::{Attempt, JobId, NameError, Rank, WorkerId};
use diptych_common::store::Stores;
use diptych_proto::v1;
use diptych_proto::v1::agent_message::Message as Up;
use diptych_proto::v1::coordinator_message::Message as Down;
use futures::{Stream, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::core::{AbortOrder, AgentState, Effect, Event, Patience, RankKey};
use super::logs::LogBook;
use super::output::until;
use super::peers::{Dial, PeerEvent, Peers};
use super::session::{self, Connector, SessionEvent, Uplink};
use super::trainers::{TrainerEvent, Trainers};
use super::watch::Watch;
use super::{devices, recheck, upload};
use crate::device::nvml::Fault;

/// An agent before it runs.
#[derive(Debug)]
pub struct AgentOptions<C, T, D> {
    /// The way to the coordinator.
    pub coordinator: C,
    /// Who this is, and its devices; `running` is filled in at each registration.
    pub register: v1::Register,
    /// Who runs its trainers, and what they do.
    pub trainers: (T, mpsc::Receiver<TrainerEvent>),
    /// What goes wrong with its GPUs.
    pub faults: mpsc::Receiver<Fault>,
    /// The links to other agents, and what happens on them.
    pub peers: (Peers<D>, mpsc::Receiver<PeerEvent>),
    /// Who opens the places that checkpoints are read from again.
    pub stores: Arc<dyn Stores>,
    /// The trainers' logs.
    pub book: LogBook,
    /// How long it is patient.
    pub patience: Patience,
    /// What those who watch it are told.
    pub watch: Watch,
    /// Spreads its pauses from those of other agents.
    pub seed: u64,
}

/// Why an agent cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The coordinator will refuse the same registration again.
    #[error("the coordinator refuses this worker: {0}")]
    Refused(String),
    /// It has no valid name.
    #[error("cannot register: {0}")]
    Name(#[from] NameError),
    /// A part of the agent ended, which only a bug can cause.
    #[error("the agent's {0} ended by itself; please report this")]
    Part(&'static str),
}

struct Agent<T, D> {
    state: AgentState,
    register: v1::Register,
    trainers: T,
    peers: Peers<D>,
    book: LogBook,
    uplink: Option<Uplink>,
    client: watch::Sender<
        Option<v1::agent_service_client::AgentServiceClient<tonic::transport::Channel>>,
    >,
    checks: Checks,
    watch: Watch,
    /// What went wrong with its devices, for whoever has not heard it.
    troubles: Vec<v1::DeviceTrouble>,
}

/// Re-readings in progress, and reports that found no session.
struct Checks {
    stores: Arc<dyn Stores>,
    tasks: JoinSet<v1::VerifyReport>,
    /// By manifest digest: an order that comes again while it is followed is the same order.
    running: BTreeSet<String>,
    unsent: Vec<v1::VerifyReport>,
}

/// Beyond the grace of the trainers, how long the end may take.
const STOP_MARGIN: Duration = Duration::from_secs(2);
const FAREWELL: Duration = Duration::from_millis(100);
/// The last log lines may take this long to reach the coordinator.
const LAST_UPLOAD: Duration = Duration::from_secs(2);

/// Runs an agent until `stops` gives a reason to leave.
///
/// It then tells the coordinator, follows its commands for as long as the grace lasts, and returns when its trainers
/// have ended. A second reason makes it end them at once.
///
/// # Errors
/// When the coordinator will never take this agent.
pub async fn run<C: Connector, T: Trainers, D: Dial>(
    options: AgentOptions<C, T, D>,
    stops: impl Stream<Item = String>,
) -> Result<(), AgentError> {
    let AgentOptions {
        coordinator,
        register,
        trainers: (trainers, mut reports),
        mut faults,
        peers: (peers, mut links),
        stores,
        book,
        patience,
        watch,
        seed,
    } = options;
    let devices = register.devices.iter().map(|device| device.index + 1);
    let devices = devices.max().unwrap_or(0);
    let me = register.worker_id.parse::<WorkerId>()?;
    book.recover(clock::now());
    let (client, clients) = watch::channel(None);
    let (session_events, mut sessions) = mpsc::channel(256);
    let mut parts = JoinSet::new();
    parts.spawn(session::keep(coordinator, session_events, seed));
    parts.spawn(upload::upload(book.clone(), clients));
    let mut agent = Agent {
        state: AgentState::new(me, patience, devices, Instant::now()),
        register,
        trainers,
        peers,
        book,
        uplink: None,
        client,
        checks: Checks::new(stores),
        watch,
        troubles: Vec::new(),
    };

    let mut stops = std::pin::pin!(stops.fuse());
    while !agent.state.may_leave() {
        agent
            .watch
            .shows(agent.uplink.is_some(), agent.state.running().count());
        let last = agent
            .state
            .leaves_at()
            .map(|at| at + patience.abort_grace + STOP_MARGIN);
        let deadline = agent.state.next_deadline();
        // What trainers have said is taken before their silence is judged.
        tokio::select! {
            biased;
            event = reports.recv() => agent.on_trainer(event.ok_or(AgentError::Part("supervisor"))?).await,
            event = links.recv() => agent.on_link(event.ok_or(AgentError::Part("peer links"))?).await,
            event = sessions.recv() => agent.on_session(event.ok_or(AgentError::Part("session"))?).await?,
            Some(report) = agent.checks.tasks.join_next() => agent.on_report(report),
            Some(fault) = faults.recv() => agent.on_fault(fault),
            Some(reason) = stops.next() => {
                tracing::info!(%reason, "leaving");
                agent.take(Event::Stop(reason)).await;
            }
            () = until(deadline) => agent.take(Event::Tick).await,
            () = until(last) => break,
        }
    }
    for left in agent.state.running() {
        let (job, attempt, rank) = (left.job, left.attempt, left.rank);
        tracing::warn!(%job, attempt, rank, "trainer still there; killed by the end of its agent");
    }
    agent.upload_rest().await;
    // The stream has no receipt for the farewell; this is the time that it takes to leave the socket.
    tokio::time::sleep(FAREWELL).await;
    Ok(())
}

impl<T: Trainers, D: Dial> Agent<T, D> {
    async fn take(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for effect in self.state.apply(event, Instant::now()) {
                events.extend(self.carry_out(effect).await);
            }
        }
    }

    /// Who this is, and what runs here now.
    fn registration(&self) -> v1::Register {
        v1::Register {
            running: self.state.running().collect(),
            ..self.register.clone()
        }
    }

    /// Does what was decided; what comes of it at once is an event again.
    async fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Spawn(id, key, prepare) => {
                let phases = prepare.spec.as_ref().map(|spec| spec.phases.as_slice());
                let phase = phases.and_then(|phases| phases.get(prepare.phase as usize));
                let phase = phase.map_or("", |phase| phase.name.as_str());
                tracing::info!(job = %key.job, attempt = %key.attempt, rank = %key.rank, phase, device = prepare.device, "starting trainer");
                if let Err(error) = self.trainers.start(id, key.clone(), *prepare).await {
                    let problem = format!("cannot start a trainer: {error}");
                    tracing::error!(job = %key.job, attempt = %key.attempt, rank = %key.rank, problem);
                    return Some(Event::SpawnFailed(id, problem));
                }
            }
            Effect::Tell(id, key, command) => self.trainers.tell(id, key, command),
            Effect::Kill(id, key) => {
                tracing::warn!(job = %key.job, attempt = %key.attempt, rank = %key.rank, "did not leave or answer in time: SIGKILL");
                self.trainers.kill(id);
            }
            Effect::Up(key, event) => self.send(Up::Rank(key.event(event))),
            Effect::Leaving(leaving) => self.send(Up::Leaving(leaving)),
            Effect::LinkLost(lost) => {
                tracing::warn!(
                    job = lost.job,
                    attempt = lost.attempt,
                    worker = lost.worker,
                    reason = lost.reason,
                    "link to another agent lost"
                );
                self.send(Up::LinkLost(lost));
            }
            Effect::Link(attempt, order) => self.peers.link(&attempt, order),
            Effect::Gone(attempt, rank, reason) => self.peers.gone(&attempt, rank, reason),
            Effect::Unlink(attempt) => self.peers.unlink(&attempt),
            Effect::Refused(key, reason) => {
                tracing::info!(job = %key.job, attempt = %key.attempt, rank = %key.rank, reason, "command not followed")
            }
        }
        None
    }

    fn send(&self, message: Up) {
        if let Some(uplink) = &self.uplink {
            uplink.send(message);
        }
    }

    async fn on_session(&mut self, event: SessionEvent) -> Result<(), AgentError> {
        match event {
            // A session that was given up asks for nothing.
            SessionEvent::Registers(reply) => drop(reply.send(self.registration())),
            SessionEvent::Welcomed(uplink) => {
                self.client.send_replace(Some(uplink.client.clone()));
                for report in self.checks.unsent.drain(..) {
                    uplink.send(Up::Verified(report));
                }
                // Some may have come between the registration and its answer.
                for trouble in &self.troubles {
                    uplink.send(Up::DeviceTrouble(trouble.clone()));
                }
                self.uplink = Some(uplink);
                self.take(Event::Connected).await;
            }
            SessionEvent::Lost => {
                self.uplink = None;
                self.client.send_replace(None);
                self.take(Event::Disconnected).await;
            }
            SessionEvent::Refused(reason) => return Err(AgentError::Refused(reason)),
            SessionEvent::Asked(Down::Rank(command)) => match (
                RankKey::parse(&command.job, command.attempt, command.rank),
                command.command,
            ) {
                (Ok(key), Some(asked)) => self.take(Event::Command(key, asked)).await,
                (Ok(key), None) => {
                    tracing::warn!(job = %key.job, attempt = %key.attempt, rank = %key.rank, "empty command dropped")
                }
                (Err(error), _) => tracing::warn!(%error, "command dropped"),
            },
            SessionEvent::Asked(Down::Abort(abort)) => match abort.job.parse::<JobId>() {
                Ok(job) => {
                    // After a reconnect most are of attempts that ended here long ago.
                    if self.state.runs(&job) {
                        tracing::info!(%job, attempt = abort.attempt, reason = abort.reason, keep = abort.keep, "attempt aborted");
                    }
                    let order = AbortOrder {
                        job,
                        attempt: Attempt::new(abort.attempt),
                        reason: abort.reason,
                        keep: abort.keep,
                        end: abort.end.into_iter().map(Rank::new).collect(),
                    };
                    self.take(Event::Abort(order)).await;
                }
                Err(error) => tracing::warn!(%error, "abort dropped"),
            },
            SessionEvent::Asked(Down::Verify(order)) => self.checks.follow(order),
            SessionEvent::Asked(Down::Welcome(_) | Down::Refused(_)) => {
                tracing::warn!("a second answer to the registration was dropped");
            }
        }
        Ok(())
    }

    async fn on_trainer(&mut self, event: TrainerEvent) {
        match event {
            TrainerEvent::Reported(id, key, event) => {
                self.take(Event::Reported(id, key, event)).await;
            }
            TrainerEvent::Exited(id, exited) => {
                tracing::info!(%id, code = exited.code, signal = exited.signal, "trainer ended");
                self.trainers.forget(id);
                self.take(Event::Exited(id, exited)).await;
            }
        }
    }

    async fn on_link(&mut self, event: PeerEvent) {
        let event = match event {
            PeerEvent::Up(attempt, worker) => Event::LinkUp(attempt, worker),
            PeerEvent::Lost(attempt, worker, reason) => Event::LinkLost(attempt, worker, reason),
            PeerEvent::Gone {
                attempt,
                worker,
                rank,
                reason,
            } => Event::PeerGone {
                attempt,
                worker,
                rank,
                reason,
            },
        };
        self.take(event).await;
    }

    /// A device that is broken takes no new ranks; what runs on it ends by itself if it cannot go on.
    fn on_fault(&mut self, fault: Fault) {
        let mut devices = self.register.devices.iter_mut();
        let lent = devices.find(|device| device.kind == "cuda" && device.index == fault.gpu);
        let Some(problem) = devices::lasting(fault) else {
            return tracing::warn!(%fault, "most often a program's own doing");
        };
        tracing::error!(lent = lent.is_some(), problem, "a GPU broke");
        if let Some(device) = lent {
            device.problem.clone_from(&problem);
            let device = device.index;
            let trouble = v1::DeviceTrouble { device, problem };
            self.troubles.push(trouble.clone());
            self.send(Up::DeviceTrouble(trouble));
        }
    }

    fn on_report(&mut self, report: Result<v1::VerifyReport, tokio::task::JoinError>) {
        let report = match report {
            Ok(report) => report,
            Err(error) => return tracing::error!(%error, "a re-reading ended without a report"),
        };
        self.checks
            .running
            .remove(&digest(report.checkpoint.as_ref()));
        match &self.uplink {
            Some(uplink) => uplink.send(Up::Verified(report)),
            None => self.checks.unsent.push(report),
        }
    }

    /// Gives the last lines a moment to reach the coordinator, and names those that do not.
    async fn upload_rest(&self) {
        let all_there = async {
            while self.client.borrow().is_some() && !self.book.late().is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        drop(tokio::time::timeout(LAST_UPLOAD, all_there).await);
        for key in self.book.late() {
            tracing::warn!(job = %key.job, attempt = %key.attempt, rank = %key.rank, "the last lines of its log stay on this disk only");
        }
    }
}

impl Checks {
    fn new(stores: Arc<dyn Stores>) -> Self {
        Self {
            stores,
            tasks: JoinSet::new(),
            running: BTreeSet::new(),
            unsent: Vec::new(),
        }
    }

    fn follow(&mut self, order: v1::VerifyOrder) {
        if self.running.insert(digest(order.checkpoint.as_ref())) {
            self.tasks
                .spawn(recheck::recheck(Arc::clone(&self.stores), order));
        }
    }
}

fn digest(checkpoint: Option<&v1::CheckpointRef>) -> String {
    checkpoint
        .map(|checkpoint| checkpoint.digest.clone())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
