//! Why a job waits, or why it failed.

use diptych_common::ids::PhaseName;
use diptych_common::spec::Device;

use super::ready::{Readiness, claim, readiness};
use crate::core::pace::STRAGGLER;
use crate::core::{
    Checkpoint, CheckpointId, Job, JobState, LeaveWhy, Mono, Phase, PhaseState, Placement,
    RankState, Stage, State,
};
use crate::place::{Problem, Wait, solve};

/// One reason. Codes are stable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// e.g. `not_enough_devices`.
    pub code: &'static str,
    /// Of which phase, if one.
    pub phase: Option<PhaseName>,
    /// What, where, and what to do.
    pub message: String,
    /// The failing rank's last lines.
    pub log: Vec<String>,
}

/// Why a job waits, runs, ended or failed: the reasons in the order in which they matter.
pub fn explain(state: &State, job: &Job, now: Mono) -> Vec<Reason> {
    match &job.record.state {
        JobState::Succeeded { .. } => {
            vec![reason("succeeded", None, "every phase is done".to_owned())]
        }
        JobState::Cancelled { reason: said, .. } => {
            let said = if said.is_empty() {
                "cancelled by a user"
            } else {
                said
            };
            vec![reason(
                "cancelled_by_user",
                None,
                format!("{said}; `diptych retry {}` goes on", job.id()),
            )]
        }
        JobState::Failed { .. } => failed(job, state.settings().failures),
        JobState::Active => match job.live() {
            Some((index, _)) => running(job, index),
            None => waiting(state, job, now),
        },
    }
}

fn reason(code: &'static str, phase: Option<&PhaseName>, message: String) -> Reason {
    Reason {
        code,
        phase: phase.cloned(),
        message,
        log: Vec::new(),
    }
}

fn failed(job: &Job, budget: u32) -> Vec<Reason> {
    let mut reasons = Vec::new();
    for (phase, plan) in job.phases.iter().zip(&job.submission.phases) {
        if let PhaseState::Failed { cause } = &phase.record.state {
            let mut first = reason("first_failure", Some(&plan.name), cause.to_string());
            first.log = cause.log.clone();
            reasons.push(first);
            let advice = if cause.kind.is_terminal() {
                format!("kind {} is never tried again by itself", cause.kind.name())
            } else if phase.record.budget.failures < budget {
                "an input that cannot be loaded is not tried again by itself".to_owned()
            } else {
                format!(
                    "stopped after {} failures in a row without progress",
                    phase.record.budget.failures
                )
            };
            let next = format!(
                "{advice}; once the cause is gone, `diptych retry {}` goes on",
                job.id()
            );
            reasons.push(reason("stopped", Some(&plan.name), next));
        }
    }
    reasons
}

fn running(job: &Job, index: usize) -> Vec<Reason> {
    let plan = &job.submission.phases[index];
    let phase = &job.phases[index];
    let (Some(placement), Some(run)) = (phase.placement(), &phase.run) else {
        return Vec::new();
    };
    let world = placement.seats.len();
    let attempt = placement.attempt;
    let ready = run
        .ranks
        .iter()
        .filter(|rank| matches!(rank, RankState::Ready { .. }))
        .count();
    let back = run.ranks.iter().filter(|rank| rank.is_attached()).count();
    let (code, message) = match &run.stage {
        _ if placement.finished.is_some() => ("verifying", finishing(phase, placement)),
        Stage::Reattaching { .. } => (
            "reattaching",
            format!(
                "the coordinator restarted; {back} of {world} ranks of attempt {attempt} are back"
            ),
        ),
        Stage::Preparing { .. } => (
            "starting",
            format!("{ready} of {world} ranks of attempt {attempt} are ready"),
        ),
        Stage::Training => (
            "training",
            format!("attempt {attempt} is at step {}", phase.progress.step),
        ),
        Stage::Doubt { symptom, .. } => ("failing", format!("looking for the cause of: {symptom}")),
        Stage::Leaving { plan, .. } => {
            let code = match plan.why {
                LeaveWhy::Grow => "growing",
                LeaveWhy::Scale => "scaling",
                LeaveWhy::Drain(_) => "draining",
                LeaveWhy::Preempt(_) => "preempted",
            };
            let held = run
                .ranks
                .iter()
                .filter(|rank| matches!(rank, RankState::Held { .. }));
            let message = format!(
                "{}: {} of {world} ranks of attempt {attempt} have left with the state",
                plan.why,
                held.count()
            );
            (code, message)
        }
    };
    let mut reasons = vec![reason(code, Some(&plan.name), message)];
    reasons.extend(stragglers(job, index));
    if let Some(first) = phase
        .record
        .budget
        .first
        .as_ref()
        .filter(|_| phase.record.budget.failures > 0)
    {
        let failures = phase.record.budget.failures;
        let mut last = reason(
            "failures",
            Some(&plan.name),
            format!("{failures} since the last progress; first {first}"),
        );
        last.log = first.log.clone();
        reasons.push(last);
    }
    reasons
}

/// The ranks that the others wait for.
fn stragglers(job: &Job, index: usize) -> Vec<Reason> {
    let (plan, phase) = (&job.submission.phases[index], &job.phases[index]);
    let (Some(placement), Some(run)) = (phase.placement(), &phase.run) else {
        return Vec::new();
    };
    let slow = placement.all().filter_map(|(rank, seat)| {
        let ratio = run.pulse.slowness(rank).filter(|ratio| *ratio > STRAGGLER)?;
        let message = format!(
            "rank {rank} on {} takes {ratio:.1} times as long for its own work as the others, who wait for it",
            seat.worker
        );
        Some(reason("straggler", Some(&plan.name), message))
    });
    slow.collect()
}

/// What a gang whose ranks have all finished still waits for.
fn finishing(phase: &Phase, placement: &Placement) -> String {
    let last = CheckpointId {
        step: placement.finished.unwrap_or_default(),
        attempt: placement.attempt,
    };
    let attempt = placement.attempt;
    match phase.checkpoints.get(&last) {
        None => format!("attempt {attempt} has finished; its final checkpoint is being written"),
        Some(saved) if saved.is_verified() => {
            format!(
                "attempt {attempt} has finished; its best checkpoint is being re-read{}",
                trouble(phase.best())
            )
        }
        saved => format!(
            "attempt {attempt} has finished; its final checkpoint is being re-read{}",
            trouble(saved)
        ),
    }
}

/// What kept workers from re-reading a checkpoint.
fn trouble(checkpoint: Option<&Checkpoint>) -> String {
    let last = checkpoint.and_then(|checkpoint| checkpoint.trouble.last.as_ref());
    last.map(|last| format!(" (last try: {last})"))
        .unwrap_or_default()
}

fn waiting(state: &State, job: &Job, now: Mono) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let index = match readiness(state, job, now) {
        Readiness::Phase(index) => {
            reasons.push(placement(state, job, index, now));
            Some(index)
        }
        Readiness::Verifying(index) => {
            let plan = &job.submission.phases[index];
            let message = format!(
                "its newest checkpoint is being re-read before a new attempt starts from it{}",
                trouble(job.phases[index].checkpoints.values().next_back())
            );
            reasons.push(reason("verifying_checkpoint", Some(&plan.name), message));
            Some(index)
        }
        Readiness::Pausing { index, left } => {
            let plan = &job.submission.phases[index];
            let budget = &job.phases[index].record.budget;
            let message = format!(
                "failure {} of {} without progress; the next attempt starts in {:.1} s",
                budget.failures,
                state.settings().failures,
                left.as_secs_f64()
            );
            let mut pause = reason("pausing_after_failure", Some(&plan.name), message);
            pause.log = budget
                .first
                .as_ref()
                .map(|first| first.log.clone())
                .unwrap_or_default();
            reasons.push(pause);
            Some(index)
        }
        Readiness::Returning(index) => {
            let plan = &job.submission.phases[index];
            let message = "waits for workers whose trainers may hold its state to connect again; it goes on from a \
                           checkpoint if they stay away"
                .to_owned();
            reasons.push(reason("workers_returning", Some(&plan.name), message));
            Some(index)
        }
        Readiness::Nothing => None,
    };
    for (other, plan) in job.submission.phases.iter().enumerate() {
        let waits = matches!(job.phases[other].record.state, PhaseState::Waiting);
        let open = plan.inputs.iter().map(|input| input.get() as usize);
        let mut open = open
            .filter(|input| !matches!(job.phases[*input].record.state, PhaseState::Done { .. }));
        if let (true, true, Some(input)) = (waits, Some(other) != index, open.next()) {
            let message = format!("waits for phase {}", job.submission.phases[input].name);
            reasons.push(reason("input_not_done", Some(&plan.name), message));
        }
    }
    reasons
}

/// Workers that are there but take no new ranks, and why.
fn kept_off(state: &State) -> String {
    let off = state.workers().values().filter_map(|worker| {
        let lent = worker.session().is_some() && !state.takes_ranks(worker);
        let record = state.record(&worker.id);
        let why = record.and_then(|record| record.cordoned.clone());
        lent.then(|| {
            format!(
                "{} ({})",
                worker.id,
                why.unwrap_or_else(|| "leaving".to_owned())
            )
        })
    });
    let off: Vec<_> = off.collect();
    if off.is_empty() {
        return String::new();
    }
    format!("; takes no new ranks: {}", off.join(", "))
}

/// Devices of one kind on which no rank can run, and why.
fn unusable(state: &State, kind: Device) -> String {
    let there = state.workers().values().filter(|worker| !worker.is_lost());
    let devices = there.flat_map(|worker| worker.slots.iter().map(move |slot| (worker, slot)));
    let off = devices
        .filter(|(_, slot)| slot.kind == kind)
        .filter_map(|(worker, slot)| {
            let problem = slot.problem.as_ref()?;
            Some(format!(
                "; device {} of {} ({}) cannot be used: {problem}",
                slot.index, worker.id, slot.name
            ))
        });
    off.collect()
}

/// What was kept of an attempt that ended.
fn waiting_with(phase: &Phase) -> String {
    match phase.kept.len() {
        0 => String::new(),
        kept => format!("; {kept} trainers of the last attempt wait with what they hold"),
    }
}

fn placement(state: &State, job: &Job, index: usize, now: Mono) -> Reason {
    let plan = &job.submission.phases[index];
    let problem = Problem::of(state, now);
    let requests = state
        .queue()
        .iter()
        .filter_map(|key| state.job(&key.job))
        .filter_map(|job| claim(state, job, now));
    let solution = solve(&problem, requests);
    let wait = solution
        .waiting
        .into_iter()
        .find(|(other, _)| other == job.id())
        .map(|(_, wait)| wait);
    let kind = match plan.device {
        Device::Cpu => "CPU slots",
        Device::Cuda => "GPUs",
    };
    let total = problem.capacity(plan.device).total;
    let free = problem
        .free
        .iter()
        .filter(|device| device.kind == plan.device)
        .count();
    // The solution ends once nothing is left to give out.
    let nothing_left = free == 0 || total < plan.min as usize;
    let code = match &wait {
        Some(wait) => wait.code(),
        None if nothing_left => "not_enough_devices",
        None => "behind_other_jobs",
    };
    let message = match wait {
        Some(Wait::NotEnoughDevices {
            needed,
            free,
            total,
        }) if (total as u64) < u64::from(needed) => format!(
            "needs {needed} {kind}; all workers together have {total} ({free} free): start more workers, or lower `ranks`"
        ),
        Some(Wait::NotEnoughDevices {
            needed,
            free,
            total,
        }) => format!("needs {needed} {kind}; {free} of {total} are free"),
        Some(Wait::BehindOtherJobs { first }) => {
            format!("job {first} is before it in the queue and waits for {kind}, too")
        }
        Some(Wait::DevicesReleasing { soon }) => {
            format!("could run smaller, but {soon} {kind} are about to be free")
        }
        Some(Wait::KeptApart { one, other }) => format!(
            "needs {} {kind}, but {one} and {other} could not reach each other a while ago and are not placed together",
            plan.min
        ),
        Some(Wait::WorkersJoining) => "could run smaller, but workers are still joining".to_owned(),
        None if nothing_left => format!("needs {} {kind}; {free} of {total} are free", plan.min),
        None => format!("jobs before it in the queue take the {free} free {kind}"),
    };
    let message = message
        + &kept_off(state)
        + &unusable(state, plan.device)
        + &waiting_with(&job.phases[index]);
    reason(code, Some(&plan.name), message)
}
