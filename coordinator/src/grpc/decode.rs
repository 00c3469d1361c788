//! Wire → core. Receivers validate: names parse, numbers are finite, lists are bounded.

use std::collections::BTreeSet;
use std::time::Duration;

use diptych_common::ids::{Attempt, JobId, PhaseIndex, Rank, Step, WorkerId};
use diptych_common::spec::Device;
use diptych_proto::convert::{WireError, name, required};
use diptych_proto::v1;

use crate::core::{
    Activity, CheckpointRef, DeviceReport, Exit, FailureKind, Metric, RankEvent, RankId,
    RankReport, Registration, Reread, RunningRank, SessionId, StoredObject, TensorDigest,
    VerifyReport,
};

/// Devices of one worker.
const DEVICES: usize = 256;
/// Labels of one device.
const LABELS: usize = 32;
/// Objects of one part, metrics of one report, lines of one exit.
const LIST: usize = 10_000;
/// Characters of a message.
const TEXT: usize = 8 * 1024;

type Read<T> = Result<T, WireError>;

fn invalid<T>(field: &'static str, reason: impl Into<String>) -> Read<T> {
    Err(WireError::Invalid {
        field,
        reason: reason.into(),
    })
}

fn text(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT));
    text
}

/// A registration on a stream.
pub(super) fn registration(wire: v1::Register, session: SessionId) -> Read<Registration> {
    if wire.devices.len() > DEVICES || wire.running.len() > DEVICES {
        return invalid("devices", format!("at most {DEVICES}"));
    }
    if wire.incarnation.is_empty() {
        return Err(WireError::Missing {
            field: "incarnation",
        });
    }
    let devices = wire
        .devices
        .into_iter()
        .map(device)
        .collect::<Read<Vec<_>>>()?;
    let indices: BTreeSet<_> = devices.iter().map(|device| device.index).collect();
    if indices.len() < devices.len() {
        return invalid("devices", "two have the same index");
    }
    Ok(Registration {
        session,
        worker: name("worker_id", &wire.worker_id)?,
        incarnation: text(wire.incarnation),
        version: text(wire.version),
        host: text(wire.host),
        devices,
        running: wire.running.into_iter().map(running).collect::<Read<_>>()?,
        peer: text(wire.peer_endpoint),
    })
}

fn device(wire: v1::DeviceInfo) -> Read<DeviceReport> {
    let kind = match wire.kind.as_str() {
        "cpu" => Device::Cpu,
        "cuda" => Device::Cuda,
        other => return invalid("devices.kind", format!("{other:?} is neither cpu nor cuda")),
    };
    if wire.labels.len() > LABELS {
        return invalid("devices.labels", format!("at most {LABELS}"));
    }
    let label = |(word, value)| (text(word), text(value));
    Ok(DeviceReport {
        index: wire.index,
        kind,
        name: text(wire.name),
        memory: wire.memory,
        problem: Some(wire.problem)
            .filter(|problem| !problem.is_empty())
            .map(text),
        labels: wire.labels.into_iter().map(label).collect(),
    })
}

/// A device that broke, and how.
pub(super) fn trouble(wire: v1::DeviceTrouble) -> Read<(u32, String)> {
    if wire.problem.is_empty() {
        return Err(WireError::Missing { field: "problem" });
    }
    Ok((wire.device, text(wire.problem)))
}

fn running(wire: v1::RunningRank) -> Read<RunningRank> {
    let rank = RankId {
        job: name("running.job", &wire.job)?,
        attempt: Attempt::new(wire.attempt),
        rank: Rank::new(wire.rank),
    };
    Ok(RunningRank {
        rank,
        device: wire.device,
        phase: PhaseIndex::new(wire.phase),
        held: wire.held.then(|| Step::new(wire.step)),
    })
}

/// A rank's report.
pub(super) fn report(
    wire: v1::RankEvent,
    session: SessionId,
    worker: &WorkerId,
) -> Read<RankReport> {
    use v1::rank_event::Event as E;
    let event = match required("event", wire.event)? {
        E::Ready(ready) => RankEvent::Ready {
            endpoint: text(ready.endpoint),
            step: Step::new(ready.step),
            digest: text(ready.state_digest),
            data: text(ready.data_digest),
            nccl_id: ready.nccl_id,
            empty: ready.empty,
            tensors: tensors(ready.tensors)?,
        },
        E::Held(held) => {
            if held.lost_peers.len() > LIST {
                return invalid("lost_peers", format!("at most {LIST}"));
            }
            RankEvent::Held {
                step: Step::new(held.step),
                reason: text(held.reason),
                lost: held.lost_peers.into_iter().map(Rank::new).collect(),
            }
        }
        E::Progress(progress) => RankEvent::Progress {
            step: Step::new(progress.step),
            total: progress.total_steps,
            images_per_s: finite(progress.images_per_s),
            step_s: finite(progress.step_s),
            waited_s: finite(progress.waited_s),
            metrics: metrics(progress.metrics)?,
        },
        E::PartSaved(part) => RankEvent::PartSaved {
            step: Step::new(part.step),
            objects: objects(part.objects)?,
            stall: part
                .stall_s
                .and_then(|stall_s| Duration::try_from_secs_f64(stall_s).ok()),
        },
        E::ManifestWritten(written) => {
            let checkpoint = checkpoint(required("checkpoint", written.checkpoint)?);
            let best = written.best.map(|best| metrics(best.results)).transpose()?;
            RankEvent::ManifestWritten { checkpoint, best }
        }
        E::Finished(finished) => RankEvent::Finished {
            step: Step::new(finished.step),
            results: metrics(finished.results)?,
        },
        E::Failed(failed) => RankEvent::Failed {
            kind: failure_kind(failed.kind()),
            message: text(failed.message),
            object: Some(failed.object)
                .filter(|object| !object.is_empty())
                .map(text),
            step: failed.step.map(Step::new),
        },
        E::Activity(activity) => RankEvent::Activity(match activity.kind() {
            v1::ActivityKind::Training | v1::ActivityKind::Unspecified => Activity::Training,
            v1::ActivityKind::Evaluating => Activity::Evaluating,
            v1::ActivityKind::Saving => Activity::Saving,
        }),
        E::Exited(exited) => {
            let exit = match (exited.code, exited.signal) {
                (_, Some(signal)) => Exit::Signal(signal),
                (Some(code), None) => Exit::Code(code),
                (None, None) => Exit::Unknown,
            };
            let lines = exited
                .last_lines
                .into_iter()
                .rev()
                .take(100)
                .map(text)
                .collect::<Vec<_>>();
            RankEvent::Exited {
                exit,
                last_lines: lines.into_iter().rev().collect(),
            }
        }
        E::Pong(_) => return invalid("event", "a pong is for the agent"),
        E::Notice(notice) => RankEvent::Notice {
            kind: text(notice.kind),
            message: text(notice.message),
        },
    };
    let (job, attempt, rank) = (
        job(&wire.job)?,
        Attempt::new(wire.attempt),
        Rank::new(wire.rank),
    );
    Ok(RankReport {
        session,
        worker: worker.clone(),
        job,
        attempt,
        rank,
        event,
    })
}

/// What an agent found on re-reading.
pub(super) fn verify_report(
    wire: v1::VerifyReport,
    session: SessionId,
    worker: &WorkerId,
) -> Read<VerifyReport> {
    Ok(VerifyReport {
        session,
        worker: worker.clone(),
        job: job(&wire.job)?,
        checkpoint: checkpoint(required("checkpoint", wire.checkpoint)?),
        reread: match (wire.problem.is_empty(), wire.unread) {
            (true, false) => Reread::Whole,
            (false, false) => Reread::Damaged(text(wire.problem)),
            (_, true) => Reread::Unread(text(wire.problem)),
        },
    })
}

/// A job id.
pub(super) fn job(text: &str) -> Read<JobId> {
    name("job", text)
}

fn checkpoint(wire: v1::CheckpointRef) -> CheckpointRef {
    CheckpointRef {
        phase: text(wire.phase),
        manifest: text(wire.manifest),
        digest: text(wire.digest),
        step: Step::new(wire.step),
    }
}

fn objects(wire: Vec<v1::StoredObject>) -> Read<Vec<StoredObject>> {
    if wire.len() > LIST {
        return invalid("objects", format!("at most {LIST}"));
    }
    let object = |object: v1::StoredObject| StoredObject {
        key: text(object.key),
        size: object.size,
        digest: text(object.digest),
    };
    Ok(wire.into_iter().map(object).collect())
}

fn tensors(wire: Vec<v1::TensorDigest>) -> Read<Vec<TensorDigest>> {
    if wire.len() > LIST {
        return invalid("tensors", format!("at most {LIST}"));
    }
    let tensor = |tensor: v1::TensorDigest| TensorDigest {
        name: text(tensor.name),
        digest: tensor.digest,
    };
    Ok(wire.into_iter().map(tensor).collect())
}

/// Measurements that are not finite say nothing: trainers report them as failures.
fn metrics(wire: Vec<v1::MetricPoint>) -> Read<Vec<Metric>> {
    if wire.len() > LIST {
        return invalid("metrics", format!("at most {LIST}"));
    }
    let metric = |point: v1::MetricPoint| Metric {
        step: Step::new(point.step.min(i64::MAX as u64)),
        name: text(point.name),
        value: point.value,
    };
    Ok(wire
        .into_iter()
        .filter(|point| point.value.is_finite())
        .map(metric)
        .collect())
}

fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}

fn failure_kind(kind: v1::FailureKind) -> FailureKind {
    match kind {
        v1::FailureKind::BadData => FailureKind::BadData,
        v1::FailureKind::Refused => FailureKind::Refused,
        v1::FailureKind::NonFinite => FailureKind::NonFinite,
        v1::FailureKind::Diverged => FailureKind::Diverged,
        v1::FailureKind::PeerLost => FailureKind::PeerLost,
        v1::FailureKind::Storage => FailureKind::Storage,
        v1::FailureKind::Crashed => FailureKind::Crashed,
        v1::FailureKind::Internal | v1::FailureKind::Unspecified => FailureKind::Internal,
        v1::FailureKind::BadCheckpoint => FailureKind::BadCheckpoint,
        v1::FailureKind::Stalled => FailureKind::Stalled,
        v1::FailureKind::Unfit => FailureKind::NotReady,
    }
}
