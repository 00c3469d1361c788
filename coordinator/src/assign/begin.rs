//! Every rank is ready: they must hold the same state, and then they begin.

use std::collections::BTreeMap;

use diptych_common::ids::{JobId, Rank, Step};

use crate::core::{
    Deletion, Effect, Failure, FailureKind, Ignored, Now, Order, OrderTo, Outcome, PhaseState,
    RankState, Stage, State,
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
/// | finished, left | too late |
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
    let Some(member) = run.ranks.get_mut(rank.get() as usize) else {
        return;
    };
    match member {
        RankState::Away
        | RankState::Missing { .. }
        | RankState::Starting
        | RankState::Back
        | RankState::Ready { .. } => *member = ready,
        RankState::Training => return out.ignore(Ignored::Repeated),
        RankState::Finished { .. } | RankState::Left { .. } => return out.ignore(Ignored::TooLate),
    }
    begin_if_ready(state, id, index, now, out);
}

/// Sends `Begin` once every rank is ready with the same state and data; ends the attempt if either differs.
pub fn begin_if_ready(state: &mut State, id: &JobId, index: usize, now: Now, out: &mut Outcome) {
    let Some(job) = state.job_mut(id) else { return };
    let phase = &mut job.phases[index];
    let (PhaseState::Live(placement), Some(run)) = (&mut phase.record.state, &mut phase.run) else {
        return;
    };
    let mut peers = Vec::with_capacity(run.ranks.len());
    let mut states: BTreeMap<(Step, String), Vec<Rank>> = BTreeMap::new();
    let mut datas: BTreeMap<String, Vec<Rank>> = BTreeMap::new();
    let mut nccl = Vec::new();
    for ((rank, member), seat) in (0..).map(Rank::new).zip(&run.ranks).zip(&placement.seats) {
        let RankState::Ready {
            endpoint,
            step,
            digest,
            data,
            nccl_id,
        } = member
        else {
            return;
        };
        peers.push((endpoint.clone(), seat.worker.clone()));
        states
            .entry((*step, digest.clone()))
            .or_default()
            .push(rank);
        if !data.is_empty() {
            datas.entry(data.clone()).or_default().push(rank);
        }
        if rank.get() == 0 {
            nccl = nccl_id.clone();
        }
    }
    let attempt = placement.attempt;
    let differing = different_data(&datas)
        .map(|message| (FailureKind::DataDiffers, message))
        .or_else(|| Some((FailureKind::Diverged, disagreement(&states)?)));
    if let Some((kind, message)) = differing {
        let failure = Failure {
            kind,
            attempt,
            rank: None,
            worker: None,
            message,
            log: Vec::new(),
            object: None,
        };
        return track::end_attempt(state, id, Ending::Failed(failure), now, out);
    }
    let deaf = (0..)
        .map(Rank::new)
        .zip(&peers)
        .find(|(_, (endpoint, _))| endpoint.is_empty() && peers.len() > 1);
    if let Some((rank, (_, worker))) = deaf {
        let message = "it is ready but names no endpoint for its peers".to_owned();
        let kind = FailureKind::Internal;
        let worker = Some(worker.clone());
        let failure = Failure {
            kind,
            attempt,
            rank: Some(rank),
            worker,
            message,
            log: Vec::new(),
            object: None,
        };
        return track::end_attempt(state, id, Ending::Failed(failure), now, out);
    }
    let first = !placement.begun;
    placement.begun = true;
    run.stage = Stage::Training;
    run.pulse.at = now.mono;
    let seats = placement.seats.clone();
    if first {
        let step = states
            .keys()
            .next()
            .map_or(Step::default(), |(step, _)| *step);
        out.note(
            job,
            now.wall,
            "begun",
            Some((index, attempt)),
            format!("all {} ranks hold step {step}", seats.len()),
        );
        if attempt.get() > 1 {
            out.effects.push(Effect::Delete(Deletion::Leftovers {
                job: id.clone(),
                phase: job.submission.phases[index].index,
                before: attempt,
            }));
        }
    }
    for (rank, seat) in (0..).map(Rank::new).zip(&seats) {
        let Some(session) = state
            .worker(&seat.worker)
            .and_then(|worker| worker.session())
        else {
            continue;
        };
        let to = OrderTo {
            job: id.clone(),
            attempt,
            rank,
        };
        out.send(
            session,
            Order::Begin {
                to,
                peers: peers.clone(),
                nccl_id: nccl.clone(),
            },
        );
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
        format!("{who} {} {sees} it as {}", listed(ranks), short(digest))
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

fn listed(ranks: &[Rank]) -> String {
    let ranks: Vec<_> = ranks.iter().map(Rank::to_string).collect();
    ranks.join(", ")
}

/// The same step must mean the same state.
fn disagreement(states: &BTreeMap<(Step, String), Vec<Rank>>) -> Option<String> {
    if states.len() <= 1 {
        return None;
    }
    let sides: Vec<_> = states
        .iter()
        .map(|((step, digest), who)| {
            format!(
                "ranks {} hold step {step} as {}",
                listed(who),
                short(digest)
            )
        })
        .collect();
    Some(format!(
        "ranks loaded different states: {}",
        sides.join("; ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disagreement_names_the_ranks() {
        let side = |digest: &str, ranks: &[u32]| {
            (
                (Step::new(7), digest.to_owned()),
                ranks
                    .iter()
                    .map(|rank| Rank::new(*rank))
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(disagreement(&[side("aa", &[0, 1])].into()), None);
        let message = disagreement(&[side("aa", &[0, 2]), side("bb", &[1])].into()).unwrap();
        assert!(
            message.contains("ranks 0, 2 hold step 7 as aa; ranks 1 hold step 7 as bb"),
            "{message}"
        );
    }
}
