//! Core → wire.

use std::time::Duration;

use diptych_common::clock;
use diptych_common::ids::{Rank, Step};
use diptych_common::spec::Device;
use diptych_proto::convert::timestamp;
use diptych_proto::v1;
use prost_types::Timestamp;

use super::ranks;
use crate::core::{
    Checkpoint, CheckpointRef, CheckpointState, Hold, Job, JobState, Link, Metric, Mono, Order,
    OrderTo, Peer, Phase, PhaseState, PrepareOrder, Settings, Stage, StartFrom, State,
    StoredObject, UnixMs, Worker,
};
use crate::driver::Outbound;
use crate::queue;
use crate::store::StoredEvent;

pub(super) fn time(at: UnixMs) -> Timestamp {
    timestamp(clock::from_unix_millis(at.get()))
}

/// A job, with why it waits or runs.
pub(super) fn job_in(state: &State, job: &Job, now: Mono) -> v1::Job {
    let mut wire = summary(job);
    if wire.reason.is_empty() && job.is_active() && job.live().is_none() {
        wire.reason = queue::explain(state, job, now)
            .into_iter()
            .next()
            .map(|reason| reason.message)
            .unwrap_or_default();
    }
    wire
}

/// A job.
pub(super) fn summary(job: &Job) -> v1::Job {
    let (ended, reason) = match &job.record.state {
        JobState::Active => (None, String::new()),
        JobState::Succeeded { ended } => (Some(*ended), String::new()),
        JobState::Cancelled { ended, reason } => (Some(*ended), reason.clone()),
        JobState::Failed { ended, phase } => {
            let failed = job
                .phases
                .get(phase.get() as usize)
                .map(|phase| &phase.record.state);
            let cause = match failed {
                Some(PhaseState::Failed { cause }) => cause.to_string(),
                Some(PhaseState::Waiting | PhaseState::Live(_) | PhaseState::Done { .. })
                | None => String::new(),
            };
            (Some(*ended), cause)
        }
    };
    v1::Job {
        job: job.id().to_string(),
        spec: Some(job.submission.draft.clone().into()),
        state: job_state(job).into(),
        phases: (0..job.phases.len())
            .map(|index| phase(job, index))
            .collect(),
        submitted: Some(time(job.record.submitted)),
        ended: ended.map(time),
        reason,
        spec_digest: job.submission.digest.clone(),
    }
}

pub(super) fn job_state(job: &Job) -> v1::JobState {
    match &job.record.state {
        JobState::Active if job.record.last_attempt.get() == 0 => v1::JobState::Queued,
        JobState::Active => v1::JobState::Running,
        JobState::Succeeded { .. } => v1::JobState::Succeeded,
        JobState::Failed { .. } => v1::JobState::Failed,
        JobState::Cancelled { .. } => v1::JobState::Cancelled,
    }
}

fn phase_state(job: &Job, index: usize) -> v1::PhaseState {
    let phase = &job.phases[index];
    let done = |index: usize| matches!(job.phases[index].record.state, PhaseState::Done { .. });
    match &phase.record.state {
        PhaseState::Done { .. } => v1::PhaseState::Done,
        PhaseState::Failed { .. } => v1::PhaseState::Failed,
        PhaseState::Waiting if !job.is_active() => v1::PhaseState::Cancelled,
        PhaseState::Waiting
            if job.submission.phases[index]
                .inputs
                .iter()
                .all(|i| done(i.get() as usize)) =>
        {
            v1::PhaseState::Pending
        }
        PhaseState::Waiting => v1::PhaseState::Blocked,
        PhaseState::Live(placement) if placement.finished.is_some() => v1::PhaseState::Verifying,
        PhaseState::Live(placement) => match phase.run.as_ref().map(|run| &run.stage) {
            Some(Stage::Training | Stage::Leaving { .. }) => v1::PhaseState::Training,
            Some(Stage::Reattaching { .. } | Stage::Doubt { .. }) if placement.begun => {
                v1::PhaseState::Training
            }
            Some(Stage::Reattaching { .. } | Stage::Preparing { .. } | Stage::Doubt { .. })
            | None => v1::PhaseState::Starting,
        },
    }
}

fn phase(job: &Job, index: usize) -> v1::PhaseStatus {
    let plan = &job.submission.phases[index];
    let phase = &job.phases[index];
    let progress = &phase.progress;
    let live = phase.placement().is_some();
    let left = progress.total.saturating_sub(progress.step.get());
    let known = live && progress.step_s > 0.0 && progress.total > 0;
    v1::PhaseStatus {
        name: plan.name.to_string(),
        kind: plan.kind.to_owned(),
        state: phase_state(job, index).into(),
        attempt: phase.record.attempt.get(),
        restarts: phase.record.restarts,
        step: step(phase),
        total_steps: progress.total.max(if live { 0 } else { step(phase) }),
        images_per_s: if live { progress.images_per_s } else { 0.0 },
        eta_s: known.then_some(left as f64 * progress.step_s),
        metrics: progress
            .metrics
            .values()
            .map(|metric| point(metric, plan.name.as_str()))
            .collect(),
        results: phase
            .record
            .results
            .iter()
            .map(|metric| point(metric, plan.name.as_str()))
            .collect(),
        workers: if live {
            phase.record.gang.iter().map(ToString::to_string).collect()
        } else {
            Vec::new()
        },
        started: phase.record.started.map(time),
        ended: phase.record.ended.map(time),
        ranks_min: job.range(index).min,
        ranks_max: job.range(index).max,
        ranks: ranks::of_phase(job, index),
        unsaved_s: unsaved(phase).filter(|_| live),
        skipped_steps: phase.record.skipped.iter().map(|step| step.get()).collect(),
        best_step: phase.best().map(|best| best.record.id.step.get()),
    }
}

/// Seconds since the newest committed checkpoint or, without one, since the phase started.
fn unsaved(phase: &Phase) -> Option<f64> {
    let committed = phase
        .checkpoints
        .values()
        .rev()
        .find(|checkpoint| !checkpoint.is_broken())
        .map(|checkpoint| checkpoint.record.at);
    let since = committed.or(phase.record.started)?;
    let now = UnixMs::new(clock::unix_millis(clock::now()));
    Some(now.since(since).as_secs_f64())
}

fn step(phase: &Phase) -> u64 {
    match &phase.record.state {
        PhaseState::Done { last, steps } => steps.unwrap_or(last.step).get(),
        PhaseState::Waiting | PhaseState::Live(_) | PhaseState::Failed { .. } => {
            phase.progress.step.get()
        }
    }
}

pub(super) fn point(metric: &Metric, phase: &str) -> v1::MetricPoint {
    v1::MetricPoint {
        step: metric.step.get(),
        name: metric.name.clone(),
        value: metric.value,
        phase: phase.to_owned(),
    }
}

pub(super) fn event(event: StoredEvent) -> v1::Event {
    v1::Event {
        id: event.id as u64,
        at: Some(time(event.at)),
        kind: event.kind,
        phase: event.phase,
        attempt: event.attempt,
        message: event.message,
    }
}

pub(super) fn reason(reason: queue::Reason) -> v1::Reason {
    v1::Reason {
        code: reason.code.to_owned(),
        phase: reason.phase.map(String::from).unwrap_or_default(),
        message: reason.message,
        log: reason.log,
    }
}

pub(super) fn checkpoint(job: &Job, index: usize, checkpoint: &Checkpoint) -> v1::Checkpoint {
    let record = &checkpoint.record;
    let (state, problem) = match &record.state {
        CheckpointState::Committed => (v1::CheckpointState::Committed, String::new()),
        CheckpointState::Verified => (v1::CheckpointState::Verified, String::new()),
        CheckpointState::Broken { problem } => (v1::CheckpointState::Broken, problem.clone()),
    };
    let last = match &job.phases[index].record.state {
        PhaseState::Done { last, .. } => *last == record.id,
        PhaseState::Live(placement) => {
            placement.attempt == record.id.attempt && placement.finished == Some(record.id.step)
        }
        PhaseState::Waiting | PhaseState::Failed { .. } => false,
    };
    v1::Checkpoint {
        checkpoint: Some(reference(
            checkpoint.reference(job.submission.phases[index].name.as_str()),
        )),
        attempt: record.id.attempt.get(),
        state: state.into(),
        pinned: record.pinned,
        bytes: record.bytes,
        at: Some(time(record.at)),
        problem,
        storage: job.submission.draft.storage.clone(),
        r#final: last,
        best: job.phases[index]
            .best()
            .is_some_and(|best| best.record.id == record.id),
    }
}

fn reference(checkpoint: CheckpointRef) -> v1::CheckpointRef {
    v1::CheckpointRef {
        phase: checkpoint.phase,
        manifest: checkpoint.manifest,
        digest: checkpoint.digest,
        step: checkpoint.step.get(),
    }
}

pub(super) fn worker(state: &State, worker: &Worker) -> v1::Worker {
    let record = state.record(&worker.id);
    let link = match worker.link {
        Link::Up { .. } => v1::WorkerState::Ready,
        Link::Suspect { .. } => v1::WorkerState::Suspect,
        Link::Lost { .. } => v1::WorkerState::Lost,
    };
    let kind = |kind: Device| match kind {
        Device::Cpu => "cpu",
        Device::Cuda => "cuda",
    };
    let devices = worker.slots.iter().map(|slot| v1::DeviceInfo {
        index: slot.index,
        kind: kind(slot.kind).to_owned(),
        name: slot.name.clone(),
        memory: slot.memory,
        problem: slot.problem.clone().unwrap_or_default(),
        labels: slot.labels.clone().into_iter().collect(),
    });
    let running = worker.slots.iter().filter_map(|slot| {
        let rank = slot.hold.rank()?;
        Some(v1::RunningRank {
            job: rank.job.to_string(),
            attempt: rank.attempt.get(),
            rank: rank.rank.get(),
            device: slot.index,
            phase: 0,
            held: matches!(slot.hold, Hold::Kept(_)),
            step: 0,
        })
    });
    let cordon = record.and_then(|record| record.cordoned.clone());
    v1::Worker {
        worker: worker.id.to_string(),
        state: link.into(),
        host: worker.host.clone(),
        version: worker.version.clone(),
        devices: devices.collect(),
        running: running.collect(),
        since: Some(time(worker.since)),
        cordoned: cordon.is_some(),
        cordon_reason: cordon.unwrap_or_default(),
        draining: worker.draining.is_some(),
        blamed: record
            .into_iter()
            .flat_map(|record| record.blame.iter().rev())
            .map(|blame| blame.what.clone())
            .collect(),
        ranks: ranks::of_worker(state, &worker.id),
    }
}

/// What goes down an agent's stream.
pub(super) fn outbound(outbound: Outbound, settings: &Settings) -> v1::CoordinatorMessage {
    use v1::coordinator_message::Message as M;
    use v1::rank_command::Command as C;
    let message = match outbound {
        Outbound::Refused { reason, retry } => M::Refused(v1::Refused { reason, retry }),
        Outbound::Order(order) => match order {
            Order::Welcome => M::Welcome(welcome(settings)),
            Order::Prepare(prepare) => M::Rank(self::prepare(*prepare)),
            Order::Begin {
                to,
                peers,
                nccl_id,
                state,
            } => {
                let peer = |(rank, peer): (u32, Peer)| v1::Peer {
                    rank,
                    endpoint: peer.endpoint,
                    worker: peer.worker.to_string(),
                    agent: peer.agent,
                };
                let begin = v1::Begin {
                    peers: (0..).zip(peers).map(peer).collect(),
                    nccl_id,
                    source: state.source.map(Rank::get),
                    step: state.step.get(),
                    state_digest: state.digest,
                };
                M::Rank(command(to, C::Begin(begin)))
            }
            Order::Leave { to, reason, save } => {
                let leave = v1::Leave {
                    reason,
                    save,
                    alone: false,
                };
                M::Rank(command(to, C::Leave(leave)))
            }
            Order::WriteManifest { to, step, objects } => {
                let objects = objects.into_iter().map(object).collect();
                M::Rank(command(
                    to,
                    C::WriteManifest(v1::WriteManifest {
                        step: step.get(),
                        objects,
                    }),
                ))
            }
            Order::Committed { to, checkpoint } => {
                let checkpoint = Some(reference(checkpoint));
                M::Rank(command(to, C::Committed(v1::Committed { checkpoint })))
            }
            Order::Abort {
                job,
                attempt,
                reason,
                keep,
                end,
            } => M::Abort(v1::Abort {
                job: job.to_string(),
                attempt: attempt.get(),
                reason,
                keep,
                end: end.into_iter().map(Rank::get).collect(),
            }),
            Order::End { to, reason } => {
                let abort = v1::AbortRank {
                    reason,
                    keep: false,
                };
                M::Rank(command(to, C::Abort(abort)))
            }
            Order::Verify {
                job,
                storage,
                checkpoint,
            } => M::Verify(v1::VerifyOrder {
                job: job.to_string(),
                storage,
                checkpoint: Some(reference(checkpoint)),
            }),
        },
    };
    v1::CoordinatorMessage {
        message: Some(message),
    }
}

fn welcome(settings: &Settings) -> v1::Welcome {
    let ms = |wait: Duration| wait.as_millis() as u64;
    v1::Welcome {
        heartbeat_ms: ms(settings.heartbeat),
        dead_after_ms: ms(settings.dead_after),
        reconnect_ms: ms(settings.reconnect),
        coordinator_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn command(to: OrderTo, command: v1::rank_command::Command) -> v1::RankCommand {
    v1::RankCommand {
        job: to.job.to_string(),
        attempt: to.attempt.get(),
        rank: to.rank.get(),
        command: Some(command),
    }
}

fn prepare(order: PrepareOrder) -> v1::RankCommand {
    let prepare = v1::Prepare {
        device: order.device,
        spec: Some(order.submission.draft.clone().into()),
        phase: order.phase.get(),
        world: order.world,
        secret: order.secret.to_vec(),
        resume: order.resume.map(reference),
        inputs: order
            .inputs
            .into_iter()
            .map(|input| (input.phase.clone(), reference(input)))
            .collect(),
        unsaved_ms: u64::try_from(order.unsaved.as_millis()).unwrap_or(u64::MAX),
        start_from: match order.start {
            StartFrom::Checkpoint => v1::StartFrom::Checkpoint.into(),
            StartFrom::Memory => v1::StartFrom::Memory.into(),
        },
        reserve: order.reserve,
        skip_steps: order.skip.into_iter().map(Step::get).collect(),
    };
    command(order.to, v1::rank_command::Command::Prepare(prepare))
}

fn object(object: StoredObject) -> v1::StoredObject {
    v1::StoredObject {
        key: object.key,
        size: object.size,
        digest: object.digest,
    }
}
