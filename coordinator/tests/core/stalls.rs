//! Gangs that do not progress, and the pause between attempts.

use std::time::Duration;

use diptych_common::ids::Step;
use diptych_coordinator::core::{Activity, Exit, Failure, FailureKind, RankEvent, Settings, State};
use diptych_coordinator::queue::explain;

use crate::env::*;
use crate::words::*;

const BOTH: [&str; 2] = ["w1", "w2"];

fn running() -> Env {
    let mut env = Env::with_workers(&BOTH);
    env.submit("job-1", &submission((2, 2), 0, &["a"]));
    env.all_ready("job-1", 0);
    env
}

fn stepped(env: &mut Env, steps: [u64; 2]) {
    for (rank, step) in (0..).zip(steps) {
        env.say("job-1", rank, progress(step));
    }
}

fn failure(env: &Env) -> Failure {
    let budget = &env.job("job-1").phases[0].record.budget;
    budget.first.clone().expect("an attempt has failed")
}

#[test]
fn a_stopped_trainer_under_a_live_agent_is_noticed_and_named() {
    let mut env = running();
    // The first report of an attempt holds its warm-up.
    stepped(&mut env, [5, 4]);
    stepped(&mut env, [6, 5]);
    env.wait_alive(59_000, &BOTH);
    assert_eq!(env.live("job-1").1, 1, "the patience is a minute");
    env.orders.clear();
    env.wait_alive(1_500, &BOTH);
    let failure = failure(&env);
    assert_eq!(failure.kind, FailureKind::Stalled);
    let words = failure.to_string();
    assert!(
        words.contains("rank 1 on w2") && words.contains("after step 5"),
        "{words}"
    );
    assert_eq!(env.take_orders(is_abort), BOTH);
    for (rank, name) in (0..).zip(BOTH) {
        env.say_as(name, "job-1", 1, rank, exited(Exit::Signal(9)));
    }
    assert_eq!(env.live("job-1").1, 2, "and tried again");
}

#[test]
fn a_gang_that_stops_just_after_the_coordinator_restarted_is_noticed_as_soon() {
    let mut env = running();
    stepped(&mut env, [5, 5]);
    env.restart();
    for (rank, name) in (0..).zip(BOTH) {
        env.register(name, "1", 1, &[("job-1", 1, rank, 0)]);
    }
    stepped(&mut env, [6, 6]);
    env.wait_alive(59_000, &BOTH);
    assert_eq!(env.live("job-1").1, 1);
    env.wait_alive(1_500, &BOTH);
    assert_eq!(failure(&env).kind, FailureKind::Stalled);
}

#[test]
fn steps_and_other_work_are_progress_and_repetitions_are_not() {
    let mut env = running();
    for step in 1..4 {
        stepped(&mut env, [step, step]);
        env.wait_alive(50_000, &BOTH);
    }
    env.say("job-1", 0, RankEvent::Activity(Activity::Evaluating));
    env.wait_alive(1_700_000, &BOTH);
    assert_eq!(env.live("job-1").1, 1, "an evaluation takes its time");
    env.say("job-1", 0, RankEvent::Activity(Activity::Training));
    env.wait_alive(50_000, &BOTH);
    stepped(&mut env, [3, 3]);
    env.wait_alive(11_000, &BOTH);
    assert_eq!(failure(&env).kind, FailureKind::Stalled);
    assert!(failure(&env).message.contains("ranks 0 on w1, 1 on w2"));
}

#[test]
fn slow_steps_have_longer() {
    let mut env = running();
    // The first report of an attempt holds its warm-up.
    for (rank, step) in [(0, 1), (1, 1), (0, 2), (1, 2)] {
        let RankEvent::Progress {
            step,
            total,
            images_per_s,
            metrics,
            ..
        } = progress(step)
        else {
            unreachable!()
        };
        let slow = RankEvent::Progress {
            step,
            total,
            images_per_s,
            step_s: 10.0,
            waited_s: 0.0,
            metrics,
        };
        env.say("job-1", rank, slow);
    }
    env.wait_alive(199_000, &BOTH);
    assert_eq!(env.live("job-1").1, 1);
    env.wait_alive(2_000, &BOTH);
    assert_eq!(failure(&env).kind, FailureKind::Stalled);
}

#[test]
fn a_finished_gang_whose_manifest_never_comes_is_not_waited_for_for_ever() {
    let mut env = running();
    stepped(&mut env, [10, 10]);
    env.finish("job-1", 10);
    env.wait_alive(599_000, &BOTH);
    assert_eq!(env.live("job-1").1, 1);
    env.wait_alive(2_000, &BOTH);
    let failure = failure(&env);
    assert_eq!(failure.kind, FailureKind::Stalled);
    assert!(failure.message.contains("manifest"), "{failure}");
}

#[test]
fn results_of_an_attempt_that_was_not_committed_are_forgotten() {
    let mut env = running();
    env.finish("job-1", 10);
    assert!(!env.job("job-1").phases[0].record.results.is_empty());
    env.say("job-1", 0, exited(Exit::Code(1)));
    assert!(env.job("job-1").phases[0].record.results.is_empty());
}

#[test]
fn attempts_pause_after_the_second_failure_in_a_row_and_keep_their_claim() {
    let mut env = Env::new();
    env.state = State::new(Settings {
        backoff: Duration::from_secs(1),
        suspect_after: 0,
        ..*env.state.settings()
    });
    env.register("w1", "1", 1, &[]);
    env.submit("job-1", &submission((1, 1), 0, &["a"]));
    env.submit("job-2", &submission((1, 1), 0, &["a"]));
    env.all_ready("job-1", 0);
    env.say("job-1", 0, exited(Exit::Signal(11)));
    assert_eq!(env.live("job-1").1, 2, "once is nothing");
    {
        let (attempt, pause) = (2, 1_000);
        env.all_ready("job-1", 0);
        env.say("job-1", 0, exited(Exit::Signal(11)));
        let reasons = explain(&env.state, env.job("job-1"), env.now().mono);
        assert_eq!(reasons[0].code, "pausing_after_failure");
        let left = format!("in {}.0 s", pause / 1_000);
        assert!(reasons[0].message.contains(&left), "{}", reasons[0].message);
        env.wait_alive(pause - 500, &["w1"]);
        assert!(env.job("job-1").live().is_none());
        assert!(env.job("job-2").live().is_none(), "the device is kept");
        env.wait_alive(500, &["w1"]);
        assert_eq!(env.live("job-1").1, attempt + 1);
    }
    env.all_ready("job-1", 0);
    env.save("job-1", 4);
    env.verify_all(None);
    env.say("job-1", 0, exited(Exit::Signal(11)));
    assert_eq!(env.live("job-1").1, 4, "progress starts the series anew");
    let phase = &env.job("job-1").phases[0];
    assert_eq!(phase.progress.step, Step::new(4));
}
