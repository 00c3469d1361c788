//! What ends attempts, and what follows.

use diptych_coordinator::core::{Exit, FailureKind, JobState, Order, PhaseState, RankEvent};

use crate::env::*;
use crate::words::*;

fn running(ranks: u32) -> Env {
    let names: Vec<_> = (1..=ranks).map(|n| format!("w{n}")).collect();
    let mut env = Env::with_workers(&names.iter().map(String::as_str).collect::<Vec<_>>());
    env.submit("job-1", &submission((ranks, ranks), 0, &["a"]));
    env.all_ready("job-1", 0);
    env
}

/// The live attempt's trainers all exit after an abort.
fn all_leave(env: &mut Env, attempt: u64, ranks: u32) {
    for rank in 0..ranks {
        env.say_as(
            &format!("w{}", rank + 1),
            "job-1",
            attempt,
            rank,
            exited(Exit::Signal(9)),
        );
    }
}

fn cause(env: &Env) -> (FailureKind, u64, Option<u32>, String) {
    match &env.job("job-1").phases[0].record.state {
        PhaseState::Failed { cause } => (
            cause.kind,
            cause.attempt.get(),
            cause.rank.map(|rank| rank.get()),
            cause.message.clone(),
        ),
        other => panic!("not failed: {other:?}\n{:#?}", env.history),
    }
}

#[test]
fn where_the_last_that_holds_the_state_dies_too_the_next_attempt_goes_on_from_the_checkpoint() {
    let mut env = running(2);
    env.save("job-1", 4);
    env.verify_all(None);
    env.orders.clear();
    env.say("job-1", 1, exited(Exit::Signal(9)));
    assert_eq!(env.live("job-1").1, 2, "from the memory of rank 0");
    assert_eq!(env.take_orders(is_abort), ["w1", "w2"]);
    env.say("job-1", 0, exited(Exit::Signal(9)));
    assert_eq!(env.live("job-1").1, 3, "nobody holds the state any more");
    let resume = env.orders.iter().find_map(|(_, order)| match order {
        Order::Prepare(prepare) => prepare.resume.as_ref().map(|resume| resume.step.get()),
        _ => None,
    });
    assert_eq!(resume, Some(4));
    env.run_phase("job-1", 10);
    assert!(env.has_succeeded("job-1"));
}

#[test]
fn three_failures_without_progress_end_the_job_with_the_first_cause() {
    let mut env = running(2);
    for attempt in 1..=3 {
        env.all_ready("job-1", 0);
        env.say("job-1", 0, progress(5));
        env.say("job-1", 1, exited(Exit::Code(attempt as i32)));
        all_leave(&mut env, attempt, 2);
    }
    let (kind, attempt, rank, message) = cause(&env);
    assert_eq!((kind, attempt, rank), (FailureKind::Crashed, 1, Some(1)));
    assert!(message.contains("exited with status 1"), "{message}");
    assert!(matches!(
        env.job("job-1").record.state,
        JobState::Failed { .. }
    ));

    env.do_step(diptych_coordinator::core::Event::Retry { job: id("job-1") });
    assert_eq!(env.live("job-1").1, 4, "a retry starts with a fresh budget");
}

#[test]
fn a_later_checkpoint_is_progress() {
    let mut env = running(1);
    for attempt in 1..=6 {
        env.all_ready("job-1", 0);
        env.save("job-1", attempt);
        env.verify_all(None);
        env.say("job-1", 0, exited(Exit::Signal(11)));
    }
    assert_eq!(env.live("job-1").1, 7);
}

#[test]
fn terminal_kinds_end_the_job_at_once() {
    for kind in [
        FailureKind::BadData,
        FailureKind::Refused,
        FailureKind::NonFinite,
        FailureKind::Diverged,
    ] {
        let mut env = running(2);
        env.say("job-1", 1, failed(kind));
        assert_eq!((cause(&env).0, cause(&env).1), (kind, 1));
        all_leave(&mut env, 1, 2);
        assert!(env.job("job-1").live().is_none());
    }
}

#[test]
fn other_kinds_are_tried_again() {
    for kind in [
        FailureKind::Storage,
        FailureKind::Crashed,
        FailureKind::Internal,
        FailureKind::BadCheckpoint,
    ] {
        let mut env = running(2);
        env.say("job-1", 1, failed(kind));
        all_leave(&mut env, 1, 2);
        assert_eq!(env.live("job-1").1, 2, "{kind:?}");
    }
}

#[test]
fn a_lost_peer_is_a_symptom_and_the_exit_behind_it_the_cause() {
    let mut env = running(3);
    env.say("job-1", 0, failed(FailureKind::PeerLost));
    env.say("job-1", 0, exited(Exit::Code(1)));
    assert!(env.job("job-1").live().is_some(), "the cause is awaited");
    env.say("job-1", 2, exited(Exit::Signal(9)));
    let line = env
        .history
        .iter()
        .find(|line| line.starts_with("attempt_failed"))
        .unwrap();
    assert!(
        line.contains("rank 2") && line.contains("signal 9"),
        "{line}"
    );
}

#[test]
fn a_lost_peer_without_a_cause_ends_the_attempt_all_the_same() {
    let mut env = running(2);
    env.say("job-1", 0, failed(FailureKind::PeerLost));
    env.wait(300);
    assert_eq!(env.live("job-1").1, 2);
    assert!(
        env.history.iter().any(|line| line.contains("peer_lost")),
        "{:#?}",
        env.history
    );
}

#[test]
fn different_states_at_the_same_step_are_a_divergence_that_names_the_ranks() {
    let mut env = Env::with_workers(&["w1", "w2"]);
    env.submit("job-1", &submission((2, 2), 0, &["a"]));
    env.say("job-1", 0, ready(4, "aa"));
    env.say("job-1", 1, ready(4, "bb"));
    let (kind, _, _, message) = cause(&env);
    assert_eq!(kind, FailureKind::Diverged);
    assert!(
        message.contains("states of step 4: ranks 0 as aa; ranks 1 as bb"),
        "{message}"
    );
}

#[test]
fn ranks_that_see_different_data_stop_the_job_and_are_named() {
    let mut env = Env::with_workers(&["w1", "w2"]);
    env.submit("job-1", &submission((2, 2), 0, &["a"]));
    env.say("job-1", 0, ready_with_data("aa"));
    env.say("job-1", 1, ready_with_data("bb"));
    let (kind, _, _, message) = cause(&env);
    assert_eq!(kind, FailureKind::DataDiffers);
    assert!(kind.is_terminal());
    assert!(
        message.contains("rank 0 sees it as aa; rank 1 sees it as bb"),
        "{message}"
    );
}

#[test]
fn a_rank_that_never_gets_ready_ends_the_attempt() {
    let mut env = Env::with_workers(&["w1", "w2"]);
    env.submit("job-1", &submission((2, 2), 0, &["a"]));
    env.say("job-1", 0, ready(0, "aa"));
    env.wait_alive(600_000, &["w1", "w2"]);
    let line = env
        .history
        .iter()
        .find(|line| line.starts_with("attempt_failed"))
        .expect("it fails");
    assert!(
        line.contains("rank 1 on w2") && line.contains("not_ready"),
        "{line}"
    );
}

#[test]
fn an_ended_attempt_is_fenced() {
    let mut env = running(2);
    env.say("job-1", 1, exited(Exit::Signal(9)));
    env.say_as("w1", "job-1", 1, 0, exited(Exit::Signal(9)));
    assert_eq!(env.live("job-1").1, 2);
    env.orders.clear();
    let before = env.stored.clone();
    env.say_as("w1", "job-1", 1, 0, progress(9));
    assert_eq!(env.take_orders(is_abort), ["w1"], "a zombie is told to end");
    let stale = RankEvent::Finished {
        step: diptych_common::ids::Step::new(9),
        results: vec![],
    };
    env.say_as("w1", "job-1", 1, 0, stale);
    assert!(before == env.stored, "and changes nothing");
}

#[test]
fn leaving_before_the_last_commit_is_a_failure() {
    let mut env = running(1);
    env.say("job-1", 0, finished(10));
    env.say("job-1", 0, exited(Exit::Code(0)));
    assert!(
        env.history
            .iter()
            .any(|line| line.contains("before its last save was committed"))
    );
}
