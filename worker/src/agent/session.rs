//! The stream to the coordinator: registered, kept alive by heartbeats, and opened again whenever it breaks.

use std::future::Future;
use std::time::Duration;

use diptych_proto::v1::agent_message::Message as Up;
use diptych_proto::v1::agent_service_client::AgentServiceClient;
use diptych_proto::v1::coordinator_message::Message as Down;
use diptych_proto::{MAX_ANSWER, v1};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// Whatever leads to the coordinator.
pub trait Connector: Send + Sync + 'static {
    /// A channel to it, made anew.
    fn connect(&self) -> impl Future<Output = Result<Channel, tonic::transport::Error>> + Send;

    /// What people are told that it is.
    fn name(&self) -> String;
}

impl Connector for Endpoint {
    async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        self.clone()
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_LIMIT)
            .keep_alive_while_idle(true)
            .connect()
            .await
    }

    fn name(&self) -> String {
        self.uri().to_string()
    }
}

/// The agent's way up while a session lasts.
#[derive(Debug, Clone)]
pub struct Uplink {
    messages: mpsc::UnboundedSender<v1::AgentMessage>,
    /// For calls beside the session.
    pub client: AgentServiceClient<Channel>,
}

/// What the session tells the agent.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a handful exist at a time, and each moves once or twice"
)]
pub enum SessionEvent {
    /// A connection stands: who is this, and what runs here, after everything that was asked before?
    Registers(oneshot::Sender<v1::Register>),
    /// Registered.
    Welcomed(Uplink),
    /// The coordinator asks something.
    Asked(Down),
    /// The stream is gone; the next one is on its way.
    Lost,
    /// The coordinator will never take this agent as it is.
    Refused(String),
}

/// How one session ended.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error("cannot connect: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("{code}: {message}", code = .0.code(), message = .0.message())]
    Status(Box<tonic::Status>),
    #[error("the coordinator closed the stream")]
    Closed,
    #[error("no welcome within {WELCOME_LIMIT:?}")]
    NoWelcome,
    #[error("refused: {reason}")]
    Refused { reason: String, retry: bool },
    #[error("the agent has ended")]
    AgentGone,
}

/// From opening the stream to the coordinator's welcome.
const WELCOME_LIMIT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// HTTP/2 pings notice a half-open connection.
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_LIMIT: Duration = Duration::from_secs(5);
/// Where the coordinator names no interval.
const HEARTBEAT: Duration = Duration::from_secs(1);

impl Uplink {
    /// Puts a message on the stream; a broken stream swallows it, and says so by [`SessionEvent::Lost`].
    pub fn send(&self, message: Up) {
        drop(self.messages.send(v1::AgentMessage {
            message: Some(message),
        }));
    }
}

/// Keeps a session open for as long as the agent listens, however long the coordinator is away. Each time it asks the agent
/// for its registration, in line with everything else that it tells it; `seed` spreads the pauses of many agents.
pub async fn keep(coordinator: impl Connector, events: mpsc::Sender<SessionEvent>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut failures = 0;
    loop {
        let mut welcomed = false;
        let end = session(&coordinator, &events, &mut welcomed).await;
        let lost = match &end {
            SessionEnd::AgentGone => return,
            SessionEnd::Refused {
                reason,
                retry: false,
            } => SessionEvent::Refused(reason.clone()),
            _ => SessionEvent::Lost,
        };
        failures = if welcomed { 0 } else { failures + 1 };
        // The first failure matters to people, the hundredth does not.
        if failures <= 1 {
            tracing::warn!(coordinator = coordinator.name(), reason = %end, "no session; trying again");
        } else {
            tracing::debug!(coordinator = coordinator.name(), reason = %end, failures, "no session; trying again");
        }
        if events.send(lost).await.is_err() {
            return;
        }
        let wait = pause(failures, random.random());
        tokio::time::sleep(wait).await;
    }
}

async fn session(
    coordinator: &impl Connector,
    events: &mpsc::Sender<SessionEvent>,
    welcomed: &mut bool,
) -> SessionEnd {
    match converse(coordinator, events, welcomed).await {
        Ok(end) | Err(end) => end,
    }
}

async fn converse(
    coordinator: &impl Connector,
    events: &mpsc::Sender<SessionEvent>,
    welcomed: &mut bool,
) -> Result<SessionEnd, SessionEnd> {
    let mut client =
        AgentServiceClient::new(coordinator.connect().await?).max_decoding_message_size(MAX_ANSWER);
    let (messages, outgoing) = mpsc::unbounded_channel();
    let uplink = Uplink {
        messages,
        client: client.clone(),
    };
    let (ask, answer) = oneshot::channel();
    let asked = events.send(SessionEvent::Registers(ask)).await;
    asked.map_err(|_| SessionEnd::AgentGone)?;
    let register = answer.await.map_err(|_| SessionEnd::AgentGone)?;
    uplink.send(Up::Register(register));
    let opened = tokio::time::timeout(
        WELCOME_LIMIT,
        client.session(UnboundedReceiverStream::new(outgoing)),
    );
    let mut incoming = opened
        .await
        .map_err(|_| SessionEnd::NoWelcome)??
        .into_inner();
    let first = tokio::time::timeout(WELCOME_LIMIT, incoming.message());
    let welcome = match first
        .await
        .map_err(|_| SessionEnd::NoWelcome)??
        .and_then(|first| first.message)
    {
        Some(Down::Welcome(welcome)) => welcome,
        Some(Down::Refused(v1::Refused { reason, retry })) => {
            return Ok(SessionEnd::Refused { reason, retry });
        }
        Some(_) | None => return Ok(SessionEnd::Closed),
    };
    *welcomed = true;
    tracing::info!(coordinator = coordinator.name(), version = %welcome.coordinator_version, "registered");
    let every = if welcome.heartbeat_ms == 0 {
        HEARTBEAT
    } else {
        Duration::from_millis(welcome.heartbeat_ms)
    };
    let mut beat = tokio::time::interval(every);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    events
        .send(SessionEvent::Welcomed(uplink.clone()))
        .await
        .map_err(|_| SessionEnd::AgentGone)?;
    loop {
        tokio::select! {
            _ = beat.tick() => uplink.send(Up::Heartbeat(v1::Heartbeat {})),
            message = incoming.message() => match message?.and_then(|message| message.message) {
                Some(Down::Refused(v1::Refused { reason, retry })) => return Ok(SessionEnd::Refused { reason, retry }),
                Some(asked) => events.send(SessionEvent::Asked(asked)).await.map_err(|_| SessionEnd::AgentGone)?,
                None => return Ok(SessionEnd::Closed),
            },
        }
    }
}

impl From<tonic::Status> for SessionEnd {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// Doubles from [`FIRST_PAUSE`] to [`LONGEST_PAUSE`]; `jitter` in [0, 1) takes up to half of it away, so that a
/// thousand agents do not come back at once.
fn pause(failures: u32, jitter: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10));
    doubled
        .min(LONGEST_PAUSE)
        .mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        assert_eq!(pause(0, 0.0), FIRST_PAUSE);
        assert_eq!(pause(1, 0.0), FIRST_PAUSE);
        assert_eq!(pause(3, 0.0), FIRST_PAUSE * 4);
        assert_eq!(pause(3, 1.0), FIRST_PAUSE * 2);
        assert_eq!(pause(u32::MAX, 0.0), LONGEST_PAUSE);
    }
}
