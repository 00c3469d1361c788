//! A worker that speaks the real protocol over a real socket and trains nothing. Benches and tests drive it.

use diptych_common::checkpoint::CheckpointKey;
use diptych_common::digest::Digest;
use diptych_common::ids::{Attempt, PhaseIndex, Rank, Step};
use diptych_common::spec::{JobDraft, JobSpec};
use diptych_proto::v1;
use diptych_proto::v1::agent_message::Message as Up;
use diptych_proto::v1::agent_service_client::AgentServiceClient;
use diptych_proto::v1::coordinator_message::Message as Down;
use diptych_proto::v1::rank_command::Command;
use diptych_proto::v1::rank_event::Event;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// An agent's open session.
#[derive(Debug)]
pub struct SimulatedAgent {
    up: mpsc::Sender<v1::AgentMessage>,
    down: Streaming<v1::CoordinatorMessage>,
}

/// The last step of every simulated phase.
pub const STEPS: u64 = 4;

/// Who registers: a worker of CPU slots.
pub fn registration(worker: &str, incarnation: &str, slots: u32) -> v1::Register {
    let device = |index| v1::DeviceInfo {
        index,
        kind: "cpu".to_owned(),
        name: "simulated".to_owned(),
        ..v1::DeviceInfo::default()
    };
    v1::Register {
        worker_id: worker.to_owned(),
        incarnation: incarnation.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: diptych_proto::PROTOCOL,
        host: "localhost".to_owned(),
        devices: (0..slots).map(device).collect(),
        running: Vec::new(),
        peer_endpoint: String::new(),
    }
}

impl SimulatedAgent {
    /// Opens a session and registers.
    ///
    /// # Errors
    /// What the coordinator answers.
    pub async fn connect(channel: Channel, register: v1::Register) -> Result<Self, Status> {
        let (up, messages) = mpsc::channel(64);
        let first = v1::AgentMessage {
            message: Some(Up::Register(register)),
        };
        up.send(first)
            .await
            .map_err(|_| Status::cancelled("the stream is closed"))?;
        let down = AgentServiceClient::new(channel)
            .max_decoding_message_size(diptych_proto::MAX_ANSWER)
            .session(ReceiverStream::new(messages))
            .await?
            .into_inner();
        Ok(Self { up, down })
    }

    /// The next message; `None` when the coordinator closed the stream.
    ///
    /// # Errors
    /// The stream broke.
    pub async fn next(&mut self) -> Result<Option<Down>, Status> {
        Ok(self
            .down
            .message()
            .await?
            .and_then(|message| message.message))
    }

    /// Tells the coordinator.
    ///
    /// # Errors
    /// The stream is closed.
    pub async fn send(&self, message: Up) -> Result<(), Status> {
        let message = v1::AgentMessage {
            message: Some(message),
        };
        self.up
            .send(message)
            .await
            .map_err(|_| Status::cancelled("the stream is closed"))
    }

    /// Obeys every order as [`answers`] says, with a heartbeat a second, until the stream ends.
    ///
    /// # Errors
    /// The stream broke.
    pub async fn obey(mut self) -> Result<(), Status> {
        let mut running = std::collections::BTreeMap::new();
        let mut beat = tokio::time::interval(std::time::Duration::from_secs(1));
        loop {
            tokio::select! {
                _ = beat.tick() => self.send(Up::Heartbeat(v1::Heartbeat {})).await?,
                order = self.down.message() => {
                    let Some(order) = order?.and_then(|order| order.message) else { return Ok(()) };
                    for answer in answers(&order, &mut running) {
                        self.send(answer).await?;
                    }
                }
            }
        }
    }
}

/// A simulated trainer: where its saves go.
pub type Trainers = std::collections::BTreeMap<(String, u64, u32), CheckpointKey>;

/// What a trainer that is always quick and well answers to an order.
pub fn answers(order: &Down, trainers: &mut Trainers) -> Vec<Up> {
    match order {
        Down::Rank(command) => {
            let key = (command.job.clone(), command.attempt, command.rank);
            let said = match command.command.as_ref() {
                Some(Command::Prepare(prepare)) => match save_key(command, prepare) {
                    Some(save) => {
                        // A trainer that was kept serves the new attempt.
                        trainers.retain(|(job, attempt, _), _| {
                            *job != command.job || *attempt >= command.attempt
                        });
                        trainers.insert(key, save);
                        vec![ready(prepare)]
                    }
                    None => vec![failed("the order makes no sense")],
                },
                Some(Command::Begin(_)) => match trainers.get(&key) {
                    Some(save) => work(save, Rank::new(command.rank)),
                    None => vec![failed("nothing was prepared")],
                },
                Some(Command::WriteManifest(write)) => match trainers.get(&key) {
                    Some(save) => vec![manifest(save, Step::new(write.step))],
                    None => vec![failed("nothing was prepared")],
                },
                Some(Command::Committed(_)) => {
                    trainers.remove(&key);
                    vec![Event::Exited(v1::Exited {
                        code: Some(0),
                        ..Default::default()
                    })]
                }
                Some(Command::Leave(leave)) => {
                    let reason = leave.reason.clone();
                    vec![held(0, reason)]
                }
                Some(Command::Abort(abort)) if !abort.keep => match trainers.remove(&key) {
                    Some(_) => vec![killed()],
                    None => Vec::new(),
                },
                Some(Command::Abort(_) | Command::Ping(_)) | None => Vec::new(),
            };
            said.into_iter()
                .map(|event| rank(&command.job, command.attempt, command.rank, event))
                .collect()
        }
        Down::Abort(abort) => {
            let hit = |(job, attempt, _): &(String, u64, u32)| {
                *job == abort.job && *attempt <= abort.attempt
            };
            let all: Vec<_> = trainers.keys().filter(|key| hit(key)).cloned().collect();
            let obey = |(job, attempt, number): (String, u64, u32)| {
                let stays = abort.keep && !abort.end.contains(&number);
                let said = if stays {
                    held(0, abort.reason.clone())
                } else {
                    trainers.remove(&(job.clone(), attempt, number));
                    killed()
                };
                rank(&job, attempt, number, said)
            };
            all.into_iter().map(obey).collect()
        }
        Down::Verify(order) => {
            let checkpoint = order.checkpoint.clone();
            vec![Up::Verified(v1::VerifyReport {
                job: order.job.clone(),
                checkpoint,
                ..Default::default()
            })]
        }
        Down::Welcome(_) | Down::Refused(_) => Vec::new(),
    }
}

/// A rank's report.
pub fn rank(job: &str, attempt: u64, rank: u32, event: Event) -> Up {
    Up::Rank(v1::RankEvent {
        job: job.to_owned(),
        attempt,
        rank,
        event: Some(event),
    })
}

fn killed() -> Event {
    Event::Exited(v1::Exited {
        signal: Some(9),
        ..Default::default()
    })
}

fn held(step: u64, reason: String) -> Event {
    Event::Held(v1::Held {
        step,
        reason,
        lost_peers: Vec::new(),
    })
}

fn failed(message: &str) -> Event {
    Event::Failed(v1::Failed {
        kind: v1::FailureKind::Internal.into(),
        message: message.to_owned(),
        object: String::new(),
        step: None,
    })
}

fn save_key(command: &v1::RankCommand, prepare: &v1::Prepare) -> Option<CheckpointKey> {
    let spec = JobSpec::try_from(JobDraft::from(prepare.spec.clone()?)).ok()?;
    let phase = PhaseIndex::new(prepare.phase);
    Some(CheckpointKey {
        job: command.job.parse().ok()?,
        phase,
        name: spec.phase(phase)?.name.clone(),
        step: Step::new(STEPS),
        attempt: Attempt::new(command.attempt),
    })
}

fn ready(prepare: &v1::Prepare) -> Event {
    let step = prepare.resume.as_ref().map_or(0, |resume| resume.step);
    let state_digest = Digest::of(&step.to_le_bytes()).to_string();
    Event::Ready(v1::Ready {
        endpoint: "127.0.0.1:1".to_owned(),
        step,
        state_digest,
        nccl_id: Default::default(),
        data_digest: Default::default(),
        empty: false,
        tensors: Vec::new(),
    })
}

/// All work of a phase, its last save included.
fn work(save: &CheckpointKey, rank: Rank) -> Vec<Event> {
    let step = save.step.get();
    let point = |name: &str, value| v1::MetricPoint {
        step,
        name: name.to_owned(),
        value,
        phase: String::new(),
    };
    let metrics = if rank.get() == 0 {
        vec![point("loss", 1.5)]
    } else {
        Vec::new()
    };
    let results = if rank.get() == 0 {
        vec![point("eval_top1", 0.5)]
    } else {
        Vec::new()
    };
    let progress = v1::Progress {
        step,
        total_steps: step,
        images_per_s: 10.0,
        step_s: 0.1,
        metrics,
        waited_s: 0.0,
    };
    let key = save.shard(rank);
    let object = v1::StoredObject {
        digest: Digest::of(key.as_bytes()).to_string(),
        key,
        size: 100,
    };
    vec![
        Event::Progress(progress),
        Event::PartSaved(v1::PartSaved {
            step,
            objects: vec![object],
            stall_s: Some(0.001),
        }),
        Event::Finished(v1::Finished { step, results }),
    ]
}

fn manifest(save: &CheckpointKey, step: Step) -> Event {
    let manifest = CheckpointKey {
        step,
        ..save.clone()
    }
    .manifest()
    .to_string();
    let digest = Digest::of(manifest.as_bytes()).to_string();
    let checkpoint = v1::CheckpointRef {
        phase: save.name.to_string(),
        manifest,
        digest,
        step: step.get(),
    };
    Event::ManifestWritten(v1::ManifestWritten {
        checkpoint: Some(checkpoint),
        best: None,
    })
}
