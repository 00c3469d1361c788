use std::collections::BTreeMap;

use diptych_common::ids::{Rank, Step};
use tch::{Kind, Tensor};

use super::fleet::{Fleet, Round, from_memory, from_scratch};
use super::gang::Job;
use crate::trainer::{Activity, Report, StartFrom};

/// A classifier that is saved at every step, evaluated at every third, and whose best state is kept.
const LINEAR: &str = "  - {name: linear, kind: linear_eval, from: random, batch: 20, steps: 8, max_bad_images: 0.1, \
    lanes: 4, augment: {image_size: 12, crop_area: [0.5, 1], flip: false}, \
    evaluate: {every_epochs: 1, stop_after: {metric: eval_top1, evaluations: 9}}, \
    checkpoint: {every_steps: 1, select: {best: eval_top1}}, \
    optimizer: {kind: adamw, learning_rate: 0.05, scaling: none, weight_decay: 0.01}}\n";

/// Pretraining with everything that a state may hold.
const PRETRAIN: &str = "  - {name: pre, kind: pretrain, steps: 24, batch: 24, max_bad_images: 0.1, lanes: 6, \
    augment: {image_size: 12, crop_area: [0.5, 1], flip: false}, evaluate: {knn_k: 5, every_epochs: 4}, \
    checkpoint: {every: 1h}, loss: {memory: {size: 70, decay: 0.9}}, \
    optimizer: {kind: lars, learning_rate: 0.3, scaling: none, weight_decay: 1.0e-4}}\n";

/// Two states are one.
pub(super) fn same_bits(
    whole: &BTreeMap<String, Tensor>,
    other: &BTreeMap<String, Tensor>,
    what: &str,
) {
    assert!(whole.keys().eq(other.keys()), "{what}");
    for (name, tensor) in whole {
        assert!(tensor.equal(&other[name]), "{what}: {name} differs");
    }
}

fn nearly_the_same(whole: &BTreeMap<String, Tensor>, other: &BTreeMap<String, Tensor>) {
    let norm = |tensor: &Tensor| {
        let squares = tensor.to_kind(Kind::Double).square();
        squares.sum(Kind::Double).sqrt().double_value(&[])
    };
    for (name, tensor) in whole {
        let apart = norm(&(tensor - &other[name])) / norm(tensor).max(1e-3);
        assert!(apart <= 1e-8, "{name} differs by {apart:e}");
    }
}

/// The values of a measurement by step; what was reported twice must be the same.
fn curve(measured: &[crate::trainer::Measurement], name: &str) -> BTreeMap<Step, u64> {
    let mut curve = BTreeMap::new();
    for found in measured.iter().filter(|found| found.name == name) {
        let bits = found.value.to_bits();
        assert_eq!(*curve.entry(found.step).or_insert(bits), bits, "{name}");
    }
    curve
}

#[test]
fn an_abort_anywhere_changes_nothing() {
    let mut job = Job::new("fp64", LINEAR);
    let whole = job.run(0, 2);
    let state = job.tensors(whole.commits.last().unwrap());
    // After the first report of an attempt, the second, and so on, everybody is told to leave at once, or is overtaken by
    // the next attempt. The last save is not committed before the test has been through the whole phase.
    let mut fleet = Fleet::new(&job, 0);
    fleet.withheld = Some(Step::new(8));
    let mut attempts = 0;
    let (mut finished, mut fallback) = (false, None);
    while !finished {
        attempts += 1;
        // Nobody holds anything where the first attempts are cut short.
        let next = match attempts < 3 {
            true => from_scratch(&[0, 1]),
            false => from_memory(&[0, 1]),
        };
        fleet.assign(fallback.take().unwrap_or(next));
        let mut ready = BTreeMap::new();
        for _ in 0..attempts {
            match fleet.hear() {
                Some((0, Report::Finished { .. })) => {
                    finished = true;
                    break;
                }
                Some((seat, Report::Ready(said))) => {
                    ready.insert(seat, said);
                    if ready.len() == 2 && Fleet::empty(&ready) {
                        fallback = Some(fleet.fallback());
                        break;
                    }
                    if ready.len() == 2 {
                        let begin = fleet.plan(&ready);
                        fleet.begin(&begin);
                    }
                }
                _ => {}
            }
        }
        if finished || attempts % 3 != 0 {
            fleet.abort(attempts % 2, true);
            fleet.abort((attempts + 1) % 2, true);
            fleet.all_held();
        }
        assert!(fleet.failed.is_empty(), "{:?}", fleet.failed);
    }
    assert!(attempts > 5, "{attempts} attempts");
    fleet.withheld = None;
    fleet.run(from_memory(&[0, 1]));
    let last = fleet.done();
    same_bits(&state, &job.tensors(&last), "after many aborts");
    for name in ["loss", "eval_top1"] {
        let (own, whole) = (curve(&fleet.measured, name), curve(&whole.measured, name));
        assert!(own.iter().all(|(step, value)| whole[step] == *value));
        assert!(name == "loss" || own == whole, "every evaluation is made");
    }
    // One whose save was cut short by an abort is not made again once a better one is at hand: it is nobody's result.
    assert_eq!(fleet.bests.last(), whole.bests.last());
    let others = |best: &Step| whole.bests.contains(best);
    assert!(fleet.bests.iter().all(others), "{:?}", fleet.bests);
}

#[test]
fn an_evaluation_that_was_cut_short_is_made_up_for() {
    let mut job = Job::new("fp64", LINEAR);
    let whole = job.run(0, 2);
    let mut fleet = Fleet::new(&job, 0);
    fleet.run(from_scratch(&[0, 1]));
    for _ in 0..3 {
        loop {
            let said = fleet.hear();
            if matches!(said, Some((0, Report::Activity(Activity::Evaluating)))) {
                break;
            }
        }
        fleet.abort(0, true);
        fleet.abort(1, true);
        fleet.all_held();
        fleet.run(from_memory(&[0, 1]));
    }
    let last = fleet.done();
    let state = job.tensors(whole.commits.last().unwrap());
    assert!(state.contains_key("judge.stop") && state.contains_key("judge.best"));
    same_bits(&state, &job.tensors(&last), "judged");
    let evaluated = |measured: &[_]| curve(measured, "eval_top1");
    assert_eq!(evaluated(&fleet.measured), evaluated(&whole.measured));
}

#[test]
fn the_ranks_that_lost_a_peer_name_it_and_go_on_without_it() {
    let mut job = Job::new("fp64", PRETRAIN);
    let whole = job.run(0, 1);
    let state = job.tensors(whole.commits.last().unwrap());
    let mut fleet = Fleet::new(&job, 0);
    fleet.run(from_scratch(&[0, 1, 2]));
    while !matches!(
        fleet.hear(),
        Some((0, Report::Activity(Activity::Training)))
    ) {}
    fleet.abort(1, false);
    while fleet.held.len() < 2 || !fleet.exited.contains_key(&1) {
        fleet.hear();
    }
    assert_eq!(fleet.exited[&1], crate::trainer::process::ABORTED);
    for seat in [0, 2] {
        assert_eq!(fleet.held[&seat].lost_peers, [Rank::new(1)]);
        assert!(fleet.held[&seat].step >= Step::new(2));
    }
    // The survivors, in other places; then a newcomer between them that never held anything.
    fleet.run(from_memory(&[2, 0]));
    while !matches!(
        fleet.hear(),
        Some((2, Report::Activity(Activity::Training)))
    ) {}
    fleet.leave(1, false, false);
    let held = fleet.all_held();
    assert!(held.iter().all(|other| other.step == held[0].step));
    assert!(held.iter().all(|held| held.lost_peers.is_empty()));
    let begin = fleet.run(from_memory(&[3, 0, 2]));
    assert_eq!(begin.source, Some(Rank::new(1)));
    nearly_the_same(&state, &job.tensors(&fleet.done()));
}

#[test]
fn one_two_one_ranks_end_where_one_does() {
    let mut job = Job::new("fp64", PRETRAIN);
    let whole = job.run(0, 1);
    let mut fleet = Fleet::new(&job, 0);
    fleet.run(from_scratch(&[0, 1]));
    for ranks in [&[1][..], &[0, 1]] {
        fleet.leave(0, false, false);
        fleet.all_held();
        fleet.run(from_memory(ranks));
    }
    let state = job.tensors(whole.commits.last().unwrap());
    nearly_the_same(&state, &job.tensors(&fleet.done()));
}

#[test]
fn a_reserve_loads_everything_but_the_state_and_takes_a_place_at_once() {
    let mut job = Job::new("fp64", PRETRAIN);
    let whole = job.run(0, 1);
    let mut fleet = Fleet::new(&job, 0);
    fleet.assign(Round {
        reserves: vec![1],
        ..from_scratch(&[0])
    });
    let ready = fleet.ready();
    assert!(ready[&0].state.is_some() && ready[&1].state.is_none());
    fleet.begin(&fleet.plan(&ready));
    fleet.leave(0, false, false);
    fleet.all_held();
    let begin = fleet.run(from_memory(&[1, 0]));
    assert_eq!(begin.source, Some(Rank::new(1)));
    let state = job.tensors(whole.commits.last().unwrap());
    nearly_the_same(&state, &job.tensors(&fleet.done()));
}

#[test]
fn a_state_that_is_not_the_announced_one_is_refused() {
    let job = Job::new("fp64", PRETRAIN);
    let mut fleet = Fleet::new(&job, 0);
    fleet.run(from_scratch(&[0]));
    fleet.leave(0, false, false);
    fleet.all_held();
    fleet.assign(from_memory(&[0, 1]));
    let ready = fleet.ready();
    let mut begin = fleet.plan(&ready);
    let step = begin.state.unwrap().0;
    begin.state = Some((step, diptych_common::digest::Digest::of(b"another")));
    fleet.begin(&begin);
    while !fleet.exited.contains_key(&1) {
        fleet.hear();
    }
    let Report::Failed { kind, message, .. } = &fleet.failed[&1] else {
        panic!("{:?}", fleet.failed)
    };
    assert_eq!(*kind, diptych_proto::v1::FailureKind::Diverged, "{message}");
    while !fleet.held.contains_key(&0) {
        fleet.hear();
    }
    assert_eq!(fleet.held[&0].step, step, "what it held is still whole");
}

#[test]
fn an_attempt_from_a_checkpoint_forgets_what_is_in_memory() {
    let mut job = Job::new("fp64", &PRETRAIN.replace("every: 1h", "every_steps: 2"));
    let whole = job.run(0, 2);
    let state = job.tensors(whole.commits.last().unwrap());
    for resume in [None, whole.commits.first().cloned()] {
        let mut fleet = Fleet::new(&job, 0);
        fleet.run(from_scratch(&[0, 1]));
        while !matches!(
            fleet.hear(),
            Some((0, Report::Activity(Activity::Training)))
        ) {}
        fleet.abort(0, true);
        fleet.abort(1, true);
        fleet.all_held();
        // The first order to forget is overtaken before anybody gets to it.
        let again = Round {
            resume: resume.clone(),
            ..from_scratch(&[0, 1])
        };
        fleet.assign(again.clone());
        let begin = fleet.run(again);
        let from = resume.map_or(Step::new(0), |checkpoint| checkpoint.step);
        assert_eq!(begin.state.map(|(step, _)| step), Some(from));
        same_bits(&state, &job.tensors(&fleet.done()), "rebuilt");
    }
}

#[test]
fn who_holds_nothing_says_so() {
    let job = Job::new("fp64", PRETRAIN);
    let mut fleet = Fleet::new(&job, 0);
    fleet.assign(Round {
        start: StartFrom::Memory,
        ..from_memory(&[0])
    });
    assert_eq!(fleet.ready()[&0].state, None);
    fleet.abort(0, true);
    assert_eq!(fleet.all_held()[0].step, Step::new(0));
}
