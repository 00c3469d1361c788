//! Agents' sessions and logs.

use std::pin::Pin;
use std::time::Duration;

use diptych_common::ids::{Attempt, PhaseIndex, Rank, WorkerId};
use diptych_common::version::Version;
use diptych_proto::convert::{WireError, name};
use diptych_proto::status::status;
use diptych_proto::v1::agent_service_server::AgentService;
use diptych_proto::{OLDEST_PROTOCOL, PROTOCOL, v1};
use futures::{Stream, StreamExt as _};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming};

use super::{decode, encode};
use crate::core::{Event, SessionId};
use crate::driver::{Handle, Outbound, Outbox};
use crate::store::LogFile;

/// Lines of one chunk.
const LINES: usize = 100_000;

/// Agents' sessions and logs.
#[derive(Debug, Clone)]
pub struct Agents {
    handle: Handle,
    stop: CancellationToken,
}

impl Agents {
    /// Passes everything on to the owner, until `stop`.
    pub fn new(handle: Handle, stop: CancellationToken) -> Self {
        Self { handle, stop }
    }

    fn refuse(reason: String) -> Response<Orders> {
        let refused = encode::outbound(
            Outbound::Refused {
                reason,
                retry: false,
            },
            &Default::default(),
        );
        Response::new(Box::pin(futures::stream::iter([Ok(refused)])))
    }
}

/// Orders to one agent.
pub type Orders = Pin<Box<dyn Stream<Item = Result<v1::CoordinatorMessage, Status>> + Send>>;

#[tonic::async_trait]
impl AgentService for Agents {
    type SessionStream = Orders;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Orders>, Status> {
        let mut reports = request.into_inner();
        let first = reports.message().await?.and_then(|first| first.message);
        let Some(v1::agent_message::Message::Register(register)) = first else {
            return Err(Status::invalid_argument(
                "the first message of a session must be Register",
            ));
        };
        if !(OLDEST_PROTOCOL..=PROTOCOL).contains(&register.protocol) {
            return Ok(Self::refuse(format!(
                "worker {} (version {}) speaks protocol {}; this coordinator (version {}) speaks {OLDEST_PROTOCOL} to {PROTOCOL}: upgrade the older one",
                register.worker_id,
                register.version,
                register.protocol,
                env!("CARGO_PKG_VERSION"),
            )));
        }
        let theirs = register.version.parse::<Version>();
        let who = format!("worker {}", register.worker_id);
        // What has no numbers is somebody's own build: its protocol has been checked.
        if let Ok(theirs) = theirs
            && let Err(apart) = Version::own().meets(who, theirs)
        {
            return Ok(Self::refuse(apart.to_string()));
        }
        let (outbox, orders) = Outbox::new();
        let session = self
            .handle
            .open(outbox)
            .await
            .map_err(|error| status(&error))?;
        let registration = match decode::registration(register, session) {
            Ok(registration) => registration,
            Err(error) => return Ok(Self::refuse(error.to_string())),
        };
        let worker = registration.worker.clone();
        self.handle
            .report(Event::Registered(registration))
            .await
            .map_err(|error| status(&error))?;

        let ended = self.stop.child_token();
        tokio::spawn(listen(
            self.handle.clone(),
            reports,
            session,
            worker,
            ended.clone(),
        ));
        let settings = *self.handle.settings();
        // The stream's end, from either side, ends the listener, too.
        let guard: DropGuard = ended.clone().drop_guard();
        let orders = ReceiverStream::new(orders).map(move |order| {
            let _held = &guard;
            Ok(encode::outbound(order, &settings))
        });
        Ok(Response::new(Box::pin(
            orders.take_until(ended.cancelled_owned()),
        )))
    }

    async fn upload_logs(
        &self,
        request: Request<Streaming<v1::LogChunk>>,
    ) -> Result<Response<v1::LogReceipt>, Status> {
        let mut chunks = request.into_inner();
        let mut lines = 0;
        loop {
            let chunk = tokio::select! {
                chunk = chunks.message() => chunk?,
                () = self.stop.cancelled() => None,
            };
            let Some(chunk) = chunk else { break };
            if chunk.lines.len() > LINES {
                return Err(Status::invalid_argument(format!(
                    "a chunk holds at most {LINES} lines"
                )));
            }
            let job = decode::job(&chunk.job).map_err(|error| status(&error))?;
            let known = job.clone();
            let known = self
                .handle
                .read(move |state, _| state.job(&known).is_some())
                .await;
            if !known.map_err(|error| status(&error))? {
                return Err(Status::not_found(format!(
                    "there is no job {job}: its logs are not kept"
                )));
            }
            let file = LogFile {
                phase: PhaseIndex::new(chunk.phase),
                attempt: Attempt::new(chunk.attempt),
                rank: Rank::new(chunk.rank),
            };
            let appended = self
                .handle
                .logs()
                .append(&job, &file, chunk.first_line, &chunk.lines)
                .await;
            lines = appended.map_err(|error| Status::unavailable(error.to_string()))?;
        }
        Ok(Response::new(v1::LogReceipt { lines }))
    }
}

/// Passes an agent's reports on, until its stream ends; then says so.
async fn listen(
    handle: Handle,
    mut reports: Streaming<v1::AgentMessage>,
    session: SessionId,
    worker: WorkerId,
    ended: CancellationToken,
) {
    loop {
        let report = tokio::select! {
            report = reports.message() => report,
            () = ended.cancelled() => break,
        };
        let event = match report {
            Ok(Some(report)) => event(report, session, &worker),
            Ok(None) => break,
            Err(error) => {
                tracing::debug!(%worker, %error, "agent's stream broke");
                break;
            }
        };
        match event {
            Ok(event) => {
                if handle.report(event).await.is_err() {
                    break;
                }
            }
            // A newer agent may say more than this coordinator knows.
            Err(error) => tracing::warn!(%worker, %error, "agent's message left out"),
        }
    }
    ended.cancel();
    // When the coordinator ends, nobody has to know.
    let _ = handle.report(Event::Reset { session, worker }).await;
}

fn event(
    report: v1::AgentMessage,
    session: SessionId,
    worker: &WorkerId,
) -> Result<Event, WireError> {
    use v1::agent_message::Message as M;
    Ok(match report.message {
        Some(M::Heartbeat(v1::Heartbeat {})) => Event::Heartbeat {
            session,
            worker: worker.clone(),
        },
        Some(M::Rank(rank)) => Event::Rank(decode::report(rank, session, worker)?),
        Some(M::Verified(report)) => {
            Event::Verified(decode::verify_report(report, session, worker)?)
        }
        Some(M::Leaving(leaving)) => {
            tracing::info!(%worker, reason = leaving.reason, grace_ms = leaving.grace_ms, "agent leaves");
            Event::Leaving {
                session,
                worker: worker.clone(),
                grace: Duration::from_millis(leaving.grace_ms),
            }
        }
        Some(M::LinkLost(lost)) => Event::LinkLost {
            session,
            worker: worker.clone(),
            other: name("link_lost.worker", &lost.worker)?,
            rank: (decode::job(&lost.job)?, Attempt::new(lost.attempt)),
            reason: lost.reason,
        },
        Some(M::DeviceTrouble(trouble)) => {
            let (device, problem) = decode::trouble(trouble)?;
            Event::DeviceTrouble {
                session,
                worker: worker.clone(),
                device,
                problem,
            }
        }
        Some(M::Register(_)) => {
            let reason = "an agent registers once a stream".to_owned();
            return Err(WireError::Invalid {
                field: "message",
                reason,
            });
        }
        None => return Err(WireError::Missing { field: "message" }),
    })
}
