//! The agent at work: one task that owns the state, feeds it every event and carries out what it decides.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use diptych_common::clock;
use diptych_common::ids::{Attempt, JobId, NameError, Rank};
use diptych_proto::v1;
use diptych_proto::v1::agent_message::Message as Up;
use diptych_proto::v1::coordinator_message::Message as Down;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::transport::Endpoint;

use super::core::{AgentState, Effect, Event, Patience, RankKey};
use super::logs::LogBook;
use super::session::{self, SessionEvent, Uplink};
use super::supervisor::{Launch, Supervisor, TrainerEvent};
use super::{recheck, upload};

/// An agent before it runs.
#[derive(Debug)]
pub struct AgentOptions {
    /// The coordinator.
    pub coordinator: Endpoint,
    /// Who this is, and its devices; `running` is filled in at each registration.
    pub register: v1::Register,
    /// How trainers are started.
    pub launch: Launch,
    /// Where their logs go.
    pub logs: PathBuf,
    /// How long it is patient.
    pub patience: Patience,
}

/// Why an agent cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The coordinator will refuse the same registration again.
    #[error("the coordinator refuses this worker: {0}")]
    Refused(String),
    /// The machine has no thread or directory left.
    #[error("cannot start trainers: {0}")]
    Spawner(#[from] std::io::Error),
    /// A part of the agent ended, which only a bug can cause.
    #[error("the agent's {0} ended by itself; please report this")]
    Part(&'static str),
}

struct Agent {
    state: AgentState,
    register: watch::Sender<v1::Register>,
    supervisor: Supervisor,
    book: LogBook,
    uplink: Option<Uplink>,
    client: watch::Sender<
        Option<v1::agent_service_client::AgentServiceClient<tonic::transport::Channel>>,
    >,
    checks: Checks,
}

/// Re-readings in progress, and reports that found no session.
#[derive(Default)]
struct Checks {
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

/// Runs an agent until `stop` gives a reason to leave.
///
/// On `stop` it tells the coordinator, aborts its trainers, and returns when they have ended.
///
/// # Errors
/// When the coordinator will never take this agent, or the machine cannot start trainers.
pub async fn run(
    options: AgentOptions,
    stop: impl Future<Output = String>,
) -> Result<(), AgentError> {
    let AgentOptions {
        coordinator,
        register,
        launch,
        logs,
        patience,
    } = options;
    let devices = u32::try_from(register.devices.len()).unwrap_or(u32::MAX);
    let (supervisor, mut trainers) = Supervisor::new(launch)?;
    let book = LogBook::new(logs);
    book.recover(clock::now());
    let (register, registration) = watch::channel(register);
    let (client, clients) = watch::channel(None);
    let (session_events, mut sessions) = mpsc::channel(256);
    let mut parts = JoinSet::new();
    parts.spawn(session::keep(coordinator, registration, session_events));
    parts.spawn(upload::upload(book.clone(), clients));
    let state = AgentState::new(patience, devices, Instant::now());
    let mut agent = Agent {
        state,
        register,
        supervisor,
        book,
        uplink: None,
        client,
        checks: Checks::default(),
    };

    let mut stop = std::pin::pin!(stop);
    let mut stopping: Option<tokio::time::Instant> = None;
    loop {
        let deadline = agent
            .state
            .next_deadline()
            .map(tokio::time::Instant::from_std);
        tokio::select! {
            event = sessions.recv() => agent.on_session(event.ok_or(AgentError::Part("session"))?).await?,
            event = trainers.recv() => agent.on_trainer(event.ok_or(AgentError::Part("supervisor"))?).await,
            Some(report) = agent.checks.tasks.join_next() => agent.on_report(report),
            reason = &mut stop, if stopping.is_none() => {
                stopping = Some(tokio::time::Instant::now() + patience.abort_grace + STOP_MARGIN);
                tracing::info!(%reason, "leaving");
                if let Some(uplink) = &agent.uplink {
                    uplink.send(Up::Leaving(v1::Leaving { reason: reason.clone(), ..v1::Leaving::default() }));
                }
                agent.take(Event::Stop(reason)).await;
            }
            () = until(deadline) => agent.take(Event::Tick).await,
            () = until(stopping) => break,
        }
        if stopping.is_some() && agent.state.running().next().is_none() {
            break;
        }
    }
    for (key, _) in agent.state.running() {
        tracing::warn!(%key, "trainer still there; killed by the end of its agent");
    }
    agent.upload_rest().await;
    // The stream has no receipt for the farewell; this is the time that it takes to leave the socket.
    tokio::time::sleep(FAREWELL).await;
    Ok(())
}

impl Agent {
    async fn take(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for effect in self.state.apply(event, Instant::now()) {
                match effect {
                    Effect::Spawn(key, prepare) => {
                        tracing::info!(%key, device = prepare.device, "starting trainer");
                        if let Err(error) = self
                            .supervisor
                            .start(key.clone(), *prepare, &self.book)
                            .await
                        {
                            let problem = format!("cannot start a trainer: {error}");
                            tracing::error!(%key, problem);
                            events.push(Event::SpawnFailed(key, problem));
                        }
                    }
                    Effect::Tell(key, command) => self.supervisor.tell(&key, command),
                    Effect::Kill(key) => {
                        tracing::warn!(%key, "did not leave in time: SIGKILL");
                        self.supervisor.kill(&key);
                    }
                    Effect::Up(key, event) => {
                        if let Some(uplink) = &self.uplink {
                            uplink.send(Up::Rank(key.event(event)));
                        }
                    }
                    Effect::Refused(key, reason) => {
                        tracing::info!(%key, reason, "command not followed")
                    }
                }
            }
        }
        self.register
            .send_modify(|register| register.running = running(&self.state));
    }

    async fn on_session(&mut self, event: SessionEvent) -> Result<(), AgentError> {
        match event {
            SessionEvent::Welcomed(uplink) => {
                self.client.send_replace(Some(uplink.client.clone()));
                for report in self.checks.unsent.drain(..) {
                    uplink.send(Up::Verified(report));
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
                fence(&command.job, command.attempt, command.rank),
                command.command,
            ) {
                (Ok(key), Some(asked)) => self.take(Event::Command(key, asked)).await,
                (Ok(key), None) => tracing::warn!(%key, "empty command dropped"),
                (Err(error), _) => tracing::warn!(%error, "command dropped"),
            },
            SessionEvent::Asked(Down::Abort(abort)) => match abort.job.parse::<JobId>() {
                Ok(job) => {
                    tracing::info!(%job, attempt = abort.attempt, reason = abort.reason, "attempt aborted");
                    let attempt = Attempt::new(abort.attempt);
                    self.take(Event::Abort {
                        job,
                        attempt,
                        reason: abort.reason,
                    })
                    .await;
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
            TrainerEvent::Reported(key, event) => self.take(Event::Reported(key, event)).await,
            TrainerEvent::Exited(key, exited) => {
                tracing::info!(%key, code = exited.code, signal = exited.signal, "trainer ended");
                self.supervisor.forget(&key);
                self.take(Event::Exited(key, exited)).await;
            }
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
            tracing::warn!(%key, "the last lines of its log stay on this disk only");
        }
    }
}

impl Checks {
    fn follow(&mut self, order: v1::VerifyOrder) {
        if self.running.insert(digest(order.checkpoint.as_ref())) {
            self.tasks.spawn(recheck::recheck(order));
        }
    }
}

fn digest(checkpoint: Option<&v1::CheckpointRef>) -> String {
    checkpoint
        .map(|checkpoint| checkpoint.digest.clone())
        .unwrap_or_default()
}

fn fence(job: &str, attempt: u64, rank: u32) -> Result<RankKey, NameError> {
    Ok(RankKey {
        job: job.parse()?,
        attempt: Attempt::new(attempt),
        rank: Rank::new(rank),
    })
}

fn running(state: &AgentState) -> Vec<v1::RunningRank> {
    let listed = |(key, device): (&RankKey, u32)| v1::RunningRank {
        job: key.job.to_string(),
        attempt: key.attempt.get(),
        rank: key.rank.get(),
        device,
        ..v1::RunningRank::default()
    };
    state.running().map(listed).collect()
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
