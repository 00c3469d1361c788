//! Every rank is ready: they must hold the same state, and then they begin.

use std::collections::BTreeMap;

use diptych_common::ids::{Attempt, JobId, Rank, Step, WorkerId};

use crate::core::{
    BeginState, Deletion, Effect, Failure, FailureKind, Ignored, Job, Now, Order, Outcome, Peer,
    PhaseState, RankState, Stage, StartFrom, State, TensorDigest,
};
use crate::track::{self, Ending};

/// A rank loaded its state. `ready` is [`RankState::Ready`].
///
/// | the rank was | then |
/// |---|---|
/// | away, missing, starting | it is ready |
/// | ready | repeated: the newer report counts |
/// | back | if nobody has moved, the first `Begin` was lost with the former coordinator: it is ready |
/// | training | repeated |
/// | held, finished, left | too late |
pub fn rank_ready(
    state: &mut State,
    id: &JobId,
    (index, rank): (usize, Rank),
    ready: RankState,
    now: Now,
    out: &mut Outcome,
) {
    let Some(run) = state
        .job_mut(id)
        .and_then(|job| job.phases[index].run.as_mut())
    else {
        return;
    };
    let world = run.ranks.len();
    let Some(member) = run.member_mut(rank) else {
        return;
    };
    match member {
        RankState::Away
        | RankState::Missing { .. }
        | RankState::Starting
        | RankState::Back
        | RankState::Ready { .. } => *member = ready,
        RankState::Training => return out.ignore(Ignored::Repeated),
        RankState::Held { .. } | RankState::Finished { .. } | RankState::Left { .. } => {
            return out.ignore(Ignored::TooLate);
        }
    }
    if (rank.get() as usize) < world {
        begin_if_ready(state, id, index, now, out);
    }
}

/// Sends `Begin` once every rank is ready, with the rank whose state all others take; ends the attempt if states of one
/// step, or the data, differ.
pub fn begin_if_ready(state: &mut State, id: &JobId, index: usize, now: Now, out: &mut Outcome) {
    let Some(gathered) = state
        .job(id)
        .and_then(|job| Gathered::of(state, job, index))
    else {
        return;
    };
    let (attempt, start) = (gathered.attempt, gathered.start);
    let begin = match agreed(&gathered.states, start) {
        // What is older than a checkpoint is not worth keeping.
        Ok(Some(begin)) if start == StartFrom::Checkpoint || begin.step >= gathered.resume => begin,
        Ok(_) if start == StartFrom::Checkpoint => {
            let message = "every rank is ready, but none has loaded a state".to_owned();
            return refuse(
                state,
                id,
                (attempt, FailureKind::Internal, None),
                message,
                now,
                out,
            );
        }
        Ok(_) => return forgotten(state, id, index, now, out),
        Err(message) => {
            return refuse(
                state,
                id,
                (attempt, FailureKind::Diverged, None),
                message,
                now,
                out,
            );
        }
    };
    if let Some(message) = different_data(&gathered.datas) {
        return refuse(
            state,
            id,
            (attempt, FailureKind::DataDiffers, None),
            message,
            now,
            out,
        );
    }
    let world = gathered.peers.len();
    let deaf = (0..)
        .map(Rank::new)
        .zip(&gathered.peers)
        .find(|(_, peer)| peer.endpoint.is_empty() && world > 1);
    if let Some((rank, peer)) = deaf {
        let message = "it is ready but names no endpoint for its peers".to_owned();
        let who = Some((rank, peer.worker.clone()));
        return refuse(
            state,
            id,
            (attempt, FailureKind::Internal, who),
            message,
            now,
            out,
        );
    }
    let Some(job) = state.job_mut(id) else { return };
    let phase = &mut job.phases[index];
    let (PhaseState::Live(placement), Some(run)) = (&mut phase.record.state, &mut phase.run) else {
        return;
    };
    let first = !placement.begun;
    placement.begun = true;
    // From here on whatever a rank holds is this attempt's.
    phase.record.forget = false;
    run.stage = Stage::Training;
    run.begun = Some(now.mono);
    run.pulse.at = now.mono;
    phase.progress.step = begin.step;
    let placement = placement.clone();
    if first {
        let message = begun(&begin, world);
        out.note(job, now.wall, "begun", Some((index, attempt)), message);
        if attempt.get() > 1 {
            out.effects.push(Effect::Delete(Deletion::Leftovers {
                job: id.clone(),
                phase: job.submission.phases[index].index,
                before: attempt,
            }));
        }
    }
    for (rank, seat) in (0..).map(Rank::new).zip(&placement.seats) {
        let Some(session) = state
            .worker(&seat.worker)
            .and_then(|worker| worker.session())
        else {
            continue;
        };
        out.send(
            session,
            Order::Begin {
                to: placement.order_to(id, rank),
                peers: gathered.peers.clone(),
                nccl_id: gathered.nccl_id.clone(),
                state: begin.clone(),
            },
        );
    }
}

/// What the ranks of a gang said, once all are ready.
struct Gathered {
    attempt: Attempt,
    start: StartFrom,
    /// Steps of the newest verified checkpoint, when it was placed.
    resume: Step,
    peers: Vec<Peer>,
    nccl_id: Vec<u8>,
    states: Vec<(Rank, Option<Holds>)>,
    datas: BTreeMap<String, Vec<Rank>>,
}

/// The state that a rank holds.
#[derive(Debug, Clone)]
struct Holds {
    step: Step,
    digest: String,
    tensors: Vec<TensorDigest>,
}

impl Gathered {
    /// `None` while a rank is not ready.
    fn of(state: &State, job: &Job, index: usize) -> Option<Self> {
        let phase = &job.phases[index];
        let (placement, run) = (phase.placement()?, phase.run.as_ref()?);
        let mut gathered = Self {
            attempt: placement.attempt,
            start: placement.start,
            resume: placement.resume.map_or_else(Step::default, |id| id.step),
            peers: Vec::with_capacity(run.ranks.len()),
            nccl_id: Vec::new(),
            states: Vec::with_capacity(run.ranks.len()),
            datas: BTreeMap::new(),
        };
        for ((rank, member), seat) in (0..).map(Rank::new).zip(&run.ranks).zip(&placement.seats) {
            let RankState::Ready {
                endpoint,
                step,
                digest,
                data,
                nccl_id,
                empty,
                tensors,
            } = member
            else {
                return None;
            };
            let agent = state.worker(&seat.worker).map(|worker| worker.peer.clone());
            gathered.peers.push(Peer {
                endpoint: endpoint.clone(),
                worker: seat.worker.clone(),
                agent: agent.unwrap_or_default(),
            });
            let holds = || Holds {
                step: *step,
                digest: digest.clone(),
                tensors: tensors.clone(),
            };
            gathered.states.push((rank, (!empty).then(holds)));
            if !data.is_empty() {
                gathered.datas.entry(data.clone()).or_default().push(rank);
            }
            if rank.get() == 0 {
                gathered.nccl_id = nccl_id.clone();
            }
        }
        Some(gathered)
    }
}

/// Who holds which state of one step.
type ByDigest<'a> = BTreeMap<&'a str, Vec<(Rank, &'a Holds)>>;

/// The most advanced state, and the rank to take it from where not all hold it; `None` where nobody holds one.
///
/// # Errors
/// States of one step differ, or those of one checkpoint.
fn agreed(
    states: &[(Rank, Option<Holds>)],
    start: StartFrom,
) -> Result<Option<BeginState>, String> {
    let holders = || {
        states
            .iter()
            .filter_map(|(rank, holds)| Some((*rank, holds.as_ref()?)))
    };
    let mut by_step: BTreeMap<Step, ByDigest<'_>> = BTreeMap::new();
    for (rank, holds) in holders() {
        let digests = by_step.entry(holds.step).or_default();
        digests
            .entry(&holds.digest)
            .or_default()
            .push((rank, holds));
    }
    if let Some((step, digests)) = by_step.iter().find(|(_, digests)| digests.len() > 1) {
        return Err(disagreement(*step, digests));
    }
    if start == StartFrom::Checkpoint && by_step.len() > 1 {
        let sides: Vec<_> = by_step
            .iter()
            .flat_map(|(step, digests)| digests.values().map(move |who| (step, who)))
            .map(|(step, who)| format!("ranks {} hold step {step}", listed(who)))
            .collect();
        return Err(format!(
            "ranks loaded different states: {}",
            sides.join("; ")
        ));
    }
    let Some((step, digests)) = by_step.last_key_value() else {
        return Ok(None);
    };
    let Some((digest, who)) = digests.first_key_value() else {
        return Ok(None);
    };
    let all = who.len() == states.len();
    Ok(Some(BeginState {
        source: who.first().map(|(rank, _)| *rank).filter(|_| !all),
        step: *step,
        digest: (*digest).to_owned(),
    }))
}

/// Nobody holds a state any more: the next attempt starts from a checkpoint.
fn forgotten(state: &mut State, id: &JobId, index: usize, now: Now, out: &mut Outcome) {
    if let Some(job) = state.job_mut(id) {
        job.phases[index].record.forget = true;
    }
    let why = "no rank holds the state any more: going on from a checkpoint".to_owned();
    track::end_attempt(state, id, Ending::Planned(why), now, out);
}

fn refuse(
    state: &mut State,
    id: &JobId,
    (attempt, kind, who): (Attempt, FailureKind, Option<(Rank, WorkerId)>),
    message: String,
    now: Now,
    out: &mut Outcome,
) {
    let (rank, worker) = who.unzip();
    let failure = Failure {
        kind,
        attempt,
        rank,
        worker,
        message,
        log: Vec::new(),
        object: None,
        step: None,
    };
    track::end_attempt(state, id, Ending::Failed(failure), now, out);
}

fn begun(begin: &BeginState, world: usize) -> String {
    match begin.source {
        None => format!("all {world} ranks hold step {}", begin.step),
        Some(source) => format!(
            "{world} ranks go on from step {}, which rank {source} hands to those that lack it",
            begin.step
        ),
    }
}

/// The same URLs must mean the same data.
fn different_data(datas: &BTreeMap<String, Vec<Rank>>) -> Option<String> {
    if datas.len() <= 1 {
        return None;
    }
    let side = |(digest, ranks): (&String, &Vec<Rank>)| {
        let (who, sees) = match ranks.len() {
            1 => ("rank", "sees"),
            _ => ("ranks", "see"),
        };
        format!("{who} {} {sees} it as {}", join(ranks), short(digest))
    };
    let sides: Vec<_> = datas.iter().map(side).collect();
    Some(format!(
        "ranks do not see the same data: {}; give every worker the same files, then retry",
        sides.join("; ")
    ))
}

fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

fn listed(ranks: &[(Rank, &Holds)]) -> String {
    join(&ranks.iter().map(|(rank, _)| *rank).collect::<Vec<_>>())
}

fn join(ranks: &[Rank]) -> String {
    let ranks: Vec<_> = ranks.iter().map(Rank::to_string).collect();
    ranks.join(", ")
}

/// The same step must mean the same state: who holds which, and the first tensor that differs.
fn disagreement(step: Step, digests: &ByDigest<'_>) -> String {
    let sides: Vec<_> = digests
        .iter()
        .map(|(digest, who)| format!("ranks {} as {}", listed(who), short(digest)))
        .collect();
    let mut some = digests.values().filter_map(|who| who.first());
    let tensor = some.next().zip(some.next()).and_then(|((_, a), (_, b))| {
        let mut pairs = a.tensors.iter().zip(&b.tensors);
        pairs.find(|(a, b)| a != b).map(|(a, _)| a.name.clone())
    });
    let tensor = tensor.map_or_else(String::new, |name| {
        format!("; the first tensor that differs is {name}")
    });
    format!(
        "ranks hold different states of step {step}: {}{tensor}",
        sides.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(step: u64, digest: &str, last: u64) -> Option<Holds> {
        let tensor = |(name, digest): (&str, u64)| TensorDigest {
            name: name.to_owned(),
            digest,
        };
        Some(Holds {
            step: Step::new(step),
            digest: digest.to_owned(),
            tensors: [("conv1.weight", 1), ("bn1.running_mean", last)]
                .map(tensor)
                .into(),
        })
    }

    fn ranks(states: Vec<Option<Holds>>) -> Vec<(Rank, Option<Holds>)> {
        (0..).map(Rank::new).zip(states).collect()
    }

    #[test]
    fn the_most_advanced_is_the_source_for_all_others() {
        let states = ranks(vec![
            None,
            holds(7, "aa", 1),
            holds(8, "bb", 1),
            holds(8, "bb", 1),
        ]);
        let begin = agreed(&states, StartFrom::Memory).unwrap().unwrap();
        assert_eq!((begin.source, begin.step.get()), (Some(Rank::new(2)), 8));
        assert_eq!(begin.digest, "bb");
        let same = ranks(vec![holds(8, "bb", 1), holds(8, "bb", 1)]);
        assert_eq!(
            agreed(&same, StartFrom::Memory).unwrap().unwrap().source,
            None
        );
        assert_eq!(
            agreed(&ranks(vec![None, None]), StartFrom::Memory),
            Ok(None)
        );
    }

    #[test]
    fn a_divergence_names_ranks_and_tensor() {
        let states = ranks(vec![
            holds(7, "aa", 1),
            holds(7, "cc", 2),
            holds(9, "bb", 1),
        ]);
        let message = agreed(&states, StartFrom::Memory).unwrap_err();
        assert!(
            message.contains("step 7: ranks 0 as aa; ranks 1 as cc"),
            "{message}"
        );
        assert!(message.contains("bn1.running_mean"), "{message}");
        let steps = ranks(vec![holds(7, "aa", 1), holds(8, "bb", 1)]);
        assert!(
            agreed(&steps, StartFrom::Checkpoint).is_err(),
            "one checkpoint is one state"
        );
    }
}
