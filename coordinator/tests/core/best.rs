//! Where a spec asks for the best checkpoint, it is kept, becomes the result, and survives what the last one survives.

use diptych_common::ids::Step;
use diptych_coordinator::core::{CheckpointId, Exit, Metric, Order, PhaseState, RankEvent};

use crate::env::*;
use crate::words::*;

fn running() -> Env {
    let mut env = Env::with_workers(&["w1"]);
    env.submit("job-1", &submission((1, 1), 0, &["a", "b<a"]));
    env.all_ready("job-1", 0);
    env.orders.clear();
    env
}

/// A save that is the best so far, up to its commit.
fn save_best(env: &mut Env, step: u64, value: f64) {
    let part = env.part("job-1", 0, step);
    env.say("job-1", 0, part);
    let RankEvent::ManifestWritten { checkpoint, .. } = env.manifest("job-1", step) else {
        unreachable!()
    };
    let best = Some(vec![Metric {
        step: Step::new(step),
        name: "eval_top1".to_owned(),
        value,
    }]);
    env.say("job-1", 0, RankEvent::ManifestWritten { checkpoint, best });
}

fn steps(env: &Env) -> Vec<u64> {
    let checkpoints = env.job("job-1").phases[0].checkpoints.keys();
    checkpoints.map(|id| id.step.get()).collect()
}

/// The result of the first phase, the steps that it took, and what it measured.
fn result(env: &Env) -> Option<(CheckpointId, Option<u64>, f64)> {
    let record = &env.job("job-1").phases[0].record;
    match record.state {
        PhaseState::Done { last, steps } => {
            Some((last, steps.map(Step::get), record.results[0].value))
        }
        _ => None,
    }
}

#[test]
fn the_best_is_kept_and_the_next_phase_starts_from_it() {
    let mut env = running();
    save_best(&mut env, 2, 0.75);
    env.verify_all(None);
    for step in [4, 6, 8] {
        env.save("job-1", step);
        env.verify_all(None);
    }
    assert_eq!(steps(&env), [2, 6, 8], "of the others two are kept");
    env.save("job-1", 10);
    env.finish("job-1", 10);
    env.verify_all(None);
    let (last, taken, value) = result(&env).expect("done");
    assert_eq!((last.step.get(), taken, value), (2, Some(10), 0.75));
    assert!(
        env.history
            .iter()
            .any(|line| line.contains("a step 2 of attempt 1, the best of 10 steps")),
        "{:#?}",
        env.history
    );
    env.say_as("w1", "job-1", 1, 0, exited(Exit::Code(0)));
    let inputs = env.orders.iter().find_map(|(_, order)| match order {
        Order::Prepare(prepare) => Some(prepare.inputs.clone()),
        _ => None,
    });
    let inputs = inputs.expect("the next phase");
    assert_eq!(inputs[0].step.get(), 2);
}

#[test]
fn a_later_best_takes_its_place() {
    let mut env = running();
    for (step, value) in [(2, 0.5), (4, 0.625)] {
        save_best(&mut env, step, value);
        env.verify_all(None);
    }
    for step in [6, 8, 10] {
        env.save("job-1", step);
        env.verify_all(None);
    }
    assert_eq!(steps(&env), [4, 8, 10]);
    env.finish("job-1", 10);
    let (last, _, value) = result(&env).expect("done");
    assert_eq!((last.step.get(), value), (4, 0.625));
}

#[test]
fn the_phase_waits_until_its_best_is_verified() {
    let mut env = running();
    save_best(&mut env, 2, 0.5);
    let kept = env.orders.clone();
    env.orders.clear();
    env.save("job-1", 10);
    env.finish("job-1", 10);
    env.verify_all(None);
    assert_eq!(result(&env), None, "its best was not re-read");
    env.orders = kept;
    env.verify_all(None);
    assert_eq!(result(&env).map(|(last, ..)| last.step.get()), Some(2));
}

#[test]
fn a_best_that_is_broken_gives_way_to_the_one_before_or_the_last() {
    let mut env = running();
    save_best(&mut env, 2, 0.5);
    env.verify_all(None);
    save_best(&mut env, 4, 0.625);
    env.verify_all(Some("shard-00000 has 3 bytes, not 5"));
    env.save("job-1", 10);
    env.finish("job-1", 10);
    env.verify_all(None);
    let (last, _, value) = result(&env).expect("done");
    assert_eq!((last.step.get(), value), (2, 0.5));

    let mut env = running();
    save_best(&mut env, 4, 0.625);
    env.verify_all(Some("shard-00000 has 3 bytes, not 5"));
    env.save("job-1", 10);
    env.finish("job-1", 10);
    env.verify_all(None);
    assert_eq!(result(&env).map(|(last, ..)| last.step.get()), Some(10));
}

#[test]
fn the_best_survives_a_crash_of_the_gang_and_a_restart_of_the_coordinator() {
    let mut env = running();
    save_best(&mut env, 2, 0.75);
    env.verify_all(None);
    env.save("job-1", 4);
    env.verify_all(None);
    env.say("job-1", 0, exited(Exit::Signal(9)));
    let resume = env
        .job("job-1")
        .live()
        .and_then(|(_, placement)| placement.resume);
    assert_eq!(
        resume.map(|id| id.step.get()),
        Some(4),
        "the newest, not the best"
    );
    env.all_ready("job-1", 4);
    env.restart();
    env.register("w1", "1", 1, &[("job-1", 2, 0, 0)]);
    for step in [6, 8, 10] {
        env.save("job-1", step);
        env.verify_all(None);
    }
    env.finish("job-1", 10);
    let (last, taken, value) = result(&env).expect("done");
    assert_eq!((last.step.get(), last.attempt.get()), (2, 1));
    assert_eq!((taken, value), (Some(10), 0.75));
}
