//! Frames on the socket pair (a little-endian u32 length, then one protobuf message), and the edge between the
//! protocol's messages and this process's own words.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::time::Duration;

use diptych_common::checkpoint::{CheckpointRef, StoredObject};
use diptych_common::ids::{Attempt, JobId, PhaseIndex, PhaseName, Rank, Step};
use diptych_common::spec::SpecErrors;
use diptych_proto::v1::rank_command::Command as Sent;
use diptych_proto::v1::rank_event::Event;
use diptych_proto::{convert, v1};
use prost::Message;

use super::assignment::Place;
use super::{
    Activity, Assignment, Begin, Command, Held, Leave, Measurement, Peer, Ready, Report, Secret,
    StartFrom,
};

/// The largest message that either side sends.
pub const MAX_FRAME: usize = 64 << 20;

/// Why a message of the other side cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket failed.
    #[error("socket to the agent: {0}")]
    Io(#[from] io::Error),
    /// The length is beyond [`MAX_FRAME`].
    #[error("the agent announced a message of {0} bytes: at most {MAX_FRAME} are taken")]
    TooLong(usize),
    /// Not the expected message.
    #[error("the agent sent what is not a RankCommand: {0}")]
    Decode(#[from] prost::DecodeError),
    /// A field that makes no sense.
    #[error("the agent's message cannot be used: {0}")]
    Field(#[from] convert::WireError),
    /// The spec does not hold.
    #[error("the spec does not hold:\n{0}")]
    Spec(#[from] SpecErrors),
}

/// What the agent sends, in this process's words.
#[derive(Debug)]
pub enum Incoming {
    /// The share of an attempt; always first. A later one ends the attempt before it.
    Prepare(Box<Assignment>),
    /// All ranks stand ready.
    Begin(Begin),
    /// For a rank that trains.
    Command(Command),
    /// Leave at once.
    Abort {
        /// Why.
        reason: String,
        /// Keep process and state for the next attempt; otherwise end.
        keep: bool,
    },
    /// Leave by plan.
    Leave(Leave),
    /// Say that the process lives.
    Ping,
}

/// Which rank a message is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: Attempt,
    /// The rank.
    pub rank: Rank,
}

/// Reads one message; `None` where the other side closed between two messages.
///
/// # Errors
/// A broken socket, a frame that is too long or cut short, or not a `RankCommand`.
pub fn read(from: &mut impl Read) -> Result<Option<v1::RankCommand>, WireError> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(WireError::TooLong(length));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(Some(v1::RankCommand::decode(body.as_slice())?))
}

/// Writes one message.
///
/// # Errors
/// A broken socket.
pub fn write(to: &mut impl Write, event: &v1::RankEvent) -> io::Result<()> {
    let body = event.encode_to_vec();
    let length =
        u32::try_from(body.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&body);
    to.write_all(&frame)
}

/// Reads a command into this process's words.
///
/// # Errors
/// Names the first field that makes no sense; a spec that does not hold lists all of its errors.
pub fn incoming(command: v1::RankCommand, place: &Place) -> Result<Incoming, WireError> {
    let fence = Fence::try_from(&command)?;
    Ok(match command.command {
        Some(Sent::Prepare(prepare)) => {
            Incoming::Prepare(Box::new(assignment(fence, prepare, place.clone())?))
        }
        Some(Sent::Begin(begin)) => Incoming::Begin(begin.try_into()?),
        Some(Sent::WriteManifest(order)) => Incoming::Command(Command::WriteManifest {
            step: Step::new(order.step),
            objects: order
                .objects
                .into_iter()
                .map(StoredObject::try_from)
                .collect::<Result<_, _>>()?,
        }),
        Some(Sent::Committed(committed)) => {
            let checkpoint = convert::required("committed.checkpoint", committed.checkpoint)?;
            Incoming::Command(Command::Committed(checkpoint.try_into()?))
        }
        Some(Sent::Abort(abort)) => Incoming::Abort {
            reason: abort.reason,
            keep: abort.keep,
        },
        Some(Sent::Leave(leave)) => Incoming::Leave(Leave {
            reason: leave.reason,
            save: leave.save,
            alone: leave.alone,
        }),
        Some(Sent::Ping(v1::Ping {})) => Incoming::Ping,
        None => return Err(convert::WireError::Missing { field: "command" }.into()),
    })
}

fn assignment(fence: Fence, prepare: v1::Prepare, place: Place) -> Result<Assignment, WireError> {
    let start = match prepare.start_from() {
        v1::StartFrom::Memory => StartFrom::Memory,
        v1::StartFrom::Checkpoint | v1::StartFrom::Unspecified => StartFrom::Checkpoint,
    };
    let spec = convert::valid_spec(convert::required("prepare.spec", prepare.spec)?)?;
    let phase = PhaseIndex::new(prepare.phase);
    if spec.phase(phase).is_none() {
        return Err(invalid(
            "prepare.phase",
            format!("the spec has no phase {phase}"),
        ));
    }
    let outside = fence.rank.get() >= prepare.world;
    if outside != prepare.reserve {
        let what = if outside {
            "outside"
        } else {
            "a reserve, but inside"
        };
        let reason = format!("rank {} is {what} a world of {}", fence.rank, prepare.world);
        return Err(invalid("rank", reason));
    }
    let secret = <[u8; 32]>::try_from(prepare.secret.as_slice()).map_err(|_| {
        invalid(
            "prepare.secret",
            format!("{} bytes instead of 32", prepare.secret.len()),
        )
    })?;
    let mut inputs = BTreeMap::new();
    for (phase, checkpoint) in prepare.inputs {
        inputs.insert(
            convert::name::<PhaseName>("prepare.inputs", &phase)?,
            checkpoint.try_into()?,
        );
    }
    Ok(Assignment {
        job: fence.job,
        attempt: fence.attempt,
        rank: fence.rank,
        world: prepare.world,
        reserve: prepare.reserve,
        spec,
        phase,
        secret: Secret::new(secret),
        start,
        skip: prepare.skip_steps.into_iter().map(Step::new).collect(),
        resume: prepare.resume.map(CheckpointRef::try_from).transpose()?,
        inputs,
        unsaved: Duration::from_millis(prepare.unsaved_ms),
        place,
    })
}

impl TryFrom<&v1::RankCommand> for Fence {
    type Error = WireError;

    fn try_from(command: &v1::RankCommand) -> Result<Self, WireError> {
        Ok(Self {
            job: convert::name("job", &command.job)?,
            attempt: Attempt::new(command.attempt),
            rank: Rank::new(command.rank),
        })
    }
}

impl TryFrom<v1::Begin> for Begin {
    type Error = WireError;

    fn try_from(begin: v1::Begin) -> Result<Self, WireError> {
        let mut peers = Vec::with_capacity(begin.peers.len());
        for (rank, peer) in (0..).zip(begin.peers) {
            if peer.rank != rank {
                let reason = format!("rank {} stands in place {rank}", peer.rank);
                return Err(invalid("begin.peers", reason));
            }
            let worker = convert::name("begin.peers.worker", &peer.worker)?;
            peers.push(Peer {
                rank: Rank::new(rank),
                endpoint: peer.endpoint,
                worker,
            });
        }
        let source = begin.source.map(Rank::new);
        if let Some(source) = source.filter(|source| source.get() as usize >= peers.len()) {
            let reason = format!("rank {source} is outside a world of {}", peers.len());
            return Err(invalid("begin.source", reason));
        }
        let state = match begin.state_digest.as_str() {
            "" => None,
            digest => {
                let digest = digest.parse().map_err(|error| {
                    invalid("begin.state_digest", format!("{digest:?}: {error}"))
                })?;
                Some((Step::new(begin.step), digest))
            }
        };
        Ok(Self {
            peers,
            nccl_id: begin.nccl_id,
            source,
            state,
        })
    }
}

impl From<Measurement> for v1::MetricPoint {
    fn from(measured: Measurement) -> Self {
        let Measurement { step, name, value } = measured;
        Self {
            step: step.get(),
            name,
            value,
            phase: String::new(),
        }
    }
}

impl Fence {
    /// The message of a report.
    pub fn event(&self, report: Report) -> v1::RankEvent {
        let (job, attempt, rank) = (self.job.to_string(), self.attempt.get(), self.rank.get());
        v1::RankEvent {
            job,
            attempt,
            rank,
            event: Some(report.into()),
        }
    }
}

impl From<Ready> for v1::Ready {
    fn from(ready: Ready) -> Self {
        let empty = ready.state.is_none();
        let (step, state_digest, tensors) = match ready.state {
            Some(state) => (state.step.get(), state.digest.to_string(), state.tensors),
            None => (0, String::new(), Vec::new()),
        };
        Self {
            endpoint: ready.endpoint,
            step,
            state_digest,
            nccl_id: ready.nccl_id,
            data_digest: ready.data_digest.to_string(),
            empty,
            tensors: tensors
                .into_iter()
                .map(|(name, digest)| v1::TensorDigest { name, digest })
                .collect(),
        }
    }
}

impl From<Report> for Event {
    fn from(report: Report) -> Self {
        let points = |all: Vec<Measurement>| all.into_iter().map(v1::MetricPoint::from).collect();
        match report {
            Report::Ready(ready) => Self::Ready(ready.into()),
            Report::Held(Held {
                step,
                reason,
                lost_peers,
            }) => Self::Held(v1::Held {
                step: step.get(),
                reason,
                lost_peers: lost_peers.into_iter().map(Rank::get).collect(),
            }),
            Report::Pong => Self::Pong(v1::Pong {}),
            Report::Progress(progress) => Self::Progress(v1::Progress {
                step: progress.step.get(),
                total_steps: progress.total_steps.get(),
                images_per_s: progress.images_per_s,
                step_s: progress.step_s,
                waited_s: progress.waited_s,
                metrics: points(progress.measurements),
            }),
            Report::PartSaved {
                step,
                objects,
                stall,
            } => Self::PartSaved(v1::PartSaved {
                step: step.get(),
                objects: objects.into_iter().map(v1::StoredObject::from).collect(),
                stall_s: Some(stall.as_secs_f64()),
            }),
            Report::ManifestWritten { checkpoint, best } => {
                Self::ManifestWritten(v1::ManifestWritten {
                    checkpoint: Some(checkpoint.into()),
                    best: best.map(|results| v1::BestResults {
                        results: points(results),
                    }),
                })
            }
            Report::Finished { step, results } => Self::Finished(v1::Finished {
                step: step.get(),
                results: points(results),
            }),
            Report::Failed {
                kind,
                message,
                object,
                step,
            } => Self::Failed(v1::Failed {
                kind: kind.into(),
                message,
                object: object.unwrap_or_default(),
                step: step.map(Step::get),
            }),
            Report::Activity(activity) => {
                let kind = match activity {
                    Activity::Training => v1::ActivityKind::Training,
                    Activity::Evaluating => v1::ActivityKind::Evaluating,
                    Activity::Saving => v1::ActivityKind::Saving,
                };
                Self::Activity(v1::Activity { kind: kind.into() })
            }
            Report::Notice { kind, message } => Self::Notice(v1::Notice {
                kind: kind.to_owned(),
                message,
            }),
        }
    }
}

fn invalid(field: &'static str, reason: String) -> WireError {
    convert::WireError::Invalid { field, reason }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            device: 0,
            data_address: "127.0.0.1".into(),
            threads: 1,
            memory: None,
            work_dir: "/nowhere".into(),
        }
    }

    fn command(command: Option<Sent>) -> v1::RankCommand {
        v1::RankCommand {
            job: "digits-00aa11".into(),
            attempt: 3,
            rank: 1,
            command,
        }
    }

    fn field_of(read: Result<Incoming, WireError>) -> &'static str {
        use convert::WireError::{Invalid, Missing};
        match read {
            Err(WireError::Field(Missing { field } | Invalid { field, .. })) => field,
            other => panic!("not a field error: {other:?}"),
        }
    }

    fn framed(command: &v1::RankCommand) -> Vec<u8> {
        let body = command.encode_to_vec();
        [
            &u32::try_from(body.len()).expect("short").to_le_bytes(),
            body.as_slice(),
        ]
        .concat()
    }

    #[test]
    fn frames_round_trip_and_end_cleanly_only_between_messages() {
        let sent = command(Some(Sent::Abort(v1::AbortRank {
            reason: "rank 0 was lost".into(),
            keep: true,
        })));
        let frame = framed(&sent);
        let mut two = [frame.clone(), frame.clone()].concat();
        let mut source = two.as_slice();
        for _ in 0..2 {
            assert_eq!(read(&mut source).expect("whole"), Some(sent.clone()));
        }
        assert_eq!(read(&mut source).expect("closed between messages"), None);
        two.truncate(frame.len() + 6);
        let mut cut = &two[frame.len()..];
        assert!(matches!(read(&mut cut), Err(WireError::Io(_))));
        assert!(matches!(
            read(&mut [0xff; 8].as_slice()),
            Err(WireError::TooLong(_))
        ));
    }

    #[test]
    fn commands_that_make_no_sense_name_their_field() {
        let digest = "0".repeat(64);
        let bad_ref = v1::CheckpointRef {
            phase: "Pre Train".into(),
            digest,
            ..v1::CheckpointRef::default()
        };
        let gap = v1::Begin {
            peers: vec![v1::Peer {
                rank: 1,
                ..v1::Peer::default()
            }],
            ..v1::Begin::default()
        };
        let source = v1::Begin {
            source: Some(0),
            ..v1::Begin::default()
        };
        let object = v1::StoredObject {
            key: "k".into(),
            size: 1,
            digest: "short".into(),
        };
        let cases = [
            (None, "command"),
            (Some(Sent::Prepare(v1::Prepare::default())), "prepare.spec"),
            (Some(Sent::Begin(gap)), "begin.peers"),
            (Some(Sent::Begin(source)), "begin.source"),
            (
                Some(Sent::Committed(v1::Committed { checkpoint: None })),
                "committed.checkpoint",
            ),
            (
                Some(Sent::Committed(v1::Committed {
                    checkpoint: Some(bad_ref),
                })),
                "checkpoint.phase",
            ),
            (
                Some(Sent::WriteManifest(v1::WriteManifest {
                    step: 1,
                    objects: vec![object],
                })),
                "object.digest",
            ),
        ];
        for (sent, expected) in cases {
            assert_eq!(field_of(incoming(command(sent), &place())), expected);
        }
        let nameless = v1::RankCommand {
            job: "../x".into(),
            ..command(None)
        };
        assert_eq!(field_of(incoming(nameless, &place())), "job");
    }
}
