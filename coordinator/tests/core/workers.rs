//! Leases, reconnects, restarts of agents.

use diptych_coordinator::core::{Event, Exit, Link};

use crate::env::*;
use crate::words::*;

fn running() -> Env {
    let mut env = Env::with_workers(&["w1", "w2"]);
    env.submit("job-1", &submission((2, 2), 0, &["a"]));
    env.all_ready("job-1", 0);
    env.say("job-1", 0, progress(1));
    env.say("job-1", 1, progress(1));
    env.orders.clear();
    env
}

#[test]
fn a_reset_stream_is_suspect_and_lost_after_a_second() {
    let mut env = running();
    env.reset("w2");
    env.wait(950);
    assert_eq!(env.live("job-1").1, 1, "it may yet come back");
    env.wait(50);
    assert!(env.job("job-1").live().is_none());
    assert_eq!(env.take_orders(is_abort), ["w1"]);
    let line = env
        .history
        .iter()
        .find(|line| line.starts_with("attempt_failed"))
        .unwrap();
    assert!(
        line.contains("rank 1 on w2") && line.contains("worker_lost"),
        "{line}"
    );
}

#[test]
fn an_agent_that_reconnects_in_time_costs_nothing() {
    let mut env = running();
    env.reset("w2");
    env.wait(900);
    env.register("w2", "1", 1, &[("job-1", 1, 1, 0)]);
    // It sends again what the broken stream may have swallowed.
    env.say("job-1", 1, ready(0, "aa"));
    env.say("job-1", 1, progress(1));
    env.wait_alive(3_000, &["w1", "w2"]);
    assert_eq!(env.live("job-1").1, 1);
    assert_eq!(env.take_orders(is_begin), [""; 0], "nobody begins twice");
    assert_eq!(env.happened("attempt_failed"), 0);
}

#[test]
fn a_begin_that_a_broken_stream_swallowed_is_sent_again() {
    let mut env = Env::with_workers(&["w1", "w2"]);
    env.submit("job-1", &submission((2, 2), 0, &["a"]));
    env.all_ready("job-1", 0);
    env.orders.clear();
    env.reset("w2");
    env.register("w2", "1", 1, &[("job-1", 1, 1, 0)]);
    assert_eq!(env.take_orders(is_begin), ["w1", "w2"]);
}

#[test]
fn a_prepare_that_a_broken_stream_swallowed_is_sent_again() {
    let mut env = Env::with_workers(&["w1", "w2"]);
    env.submit("job-1", &submission((2, 2), 0, &["a"]));
    env.orders.clear();
    env.reset("w2");
    env.register("w2", "1", 1, &[]);
    assert_eq!(env.take_orders(is_prepare), ["w2"]);
    env.run_phase("job-1", 10);
}

#[test]
fn a_silent_agent_is_lost_after_five_seconds() {
    let mut env = running();
    env.wait_alive(4_500, &["w1"]);
    assert_eq!(env.live("job-1").1, 1);
    env.wait_alive(600, &["w1"]);
    assert!(env.job("job-1").live().is_none());
    assert_eq!(env.closed, [env.session("w2")]);
}

#[test]
fn a_restarted_agent_has_lost_its_trainers() {
    let mut env = running();
    env.reset("w2");
    env.register("w2", "2", 1, &[]);
    assert!(
        env.history
            .iter()
            .any(|line| line.contains("its agent was restarted")),
        "{:#?}",
        env.history
    );
    env.say_as("w1", "job-1", 1, 0, exited(Exit::Signal(9)));
    assert_eq!(env.live("job-1").1, 2);
}

#[test]
fn a_trainer_that_died_during_a_reconnect_says_why_itself() {
    let mut env = running();
    env.reset("w2");
    env.register("w2", "1", 1, &[]);
    env.say("job-1", 1, exited(Exit::Signal(11)));
    assert!(
        env.history
            .iter()
            .any(|line| line.contains("killed by signal 11")),
        "{:#?}",
        env.history
    );
}

#[test]
fn a_trainer_that_vanished_without_a_word_is_not_waited_for() {
    let mut env = running();
    env.reset("w2");
    env.register("w2", "1", 1, &[]);
    env.wait_alive(1_500, &["w1", "w2"]);
    assert!(
        env.history
            .iter()
            .any(|line| line.contains("came back without its trainer")),
        "{:#?}",
        env.history
    );
}

#[test]
fn leaving_on_purpose_spends_no_budget() {
    let mut env = running();
    for round in 0..5 {
        if round > 0 {
            env.all_ready("job-1", 5);
        }
        let session = env.session("w2");
        env.do_step(Event::Leaving {
            session,
            worker: worker("w2"),
            grace: std::time::Duration::from_secs(120),
        });
        let attempt = round + 1;
        for rank in 0..2 {
            env.say("job-1", rank, held(5));
        }
        env.say_as("w2", "job-1", attempt, 1, exited(Exit::Code(4)));
        env.reset("w2");
        env.wait_alive(100, &["w1"]);
        assert!(env.job("job-1").live().is_none());
        env.register("w2", &format!("n{round}"), 1, &[]);
        assert_eq!(env.live("job-1").1, attempt + 1);
    }
    assert_eq!(env.job("job-1").phases[0].record.budget.failures, 0);
}

#[test]
fn a_lost_worker_that_wakes_up_is_told_to_end_its_ranks() {
    let mut env = running();
    env.wait_alive(6_000, &["w1"]);
    env.orders.clear();
    env.register("w2", "1", 1, &[("job-1", 1, 1, 0)]);
    assert_eq!(env.take_orders(is_end), ["w2"]);
    assert!(
        env.job("job-1").live().is_none(),
        "w2's device is not free yet"
    );
    env.say_as("w2", "job-1", 1, 1, exited(Exit::Signal(9)));
    assert_eq!(env.live("job-1").1, 2);
}

#[test]
fn a_lost_worker_is_forgotten_in_the_end() {
    let mut env = Env::with_workers(&["w1"]);
    env.reset("w1");
    env.wait(1_000);
    assert!(matches!(
        env.state.worker(&worker("w1")).unwrap().link,
        Link::Lost { .. }
    ));
    env.at += std::time::Duration::from_secs(3600);
    env.wait(50);
    assert!(env.state.worker(&worker("w1")).is_none());
}

#[test]
fn a_second_agent_of_a_worker_is_turned_away_while_the_first_is_connected() {
    let mut env = running();
    let first = env.session("w2");
    env.register("w2", "twin", 1, &[]);
    assert_eq!(env.session("w2"), first, "the first one keeps its place");
    assert_eq!(env.closed.len(), 1);
    assert!(!env.closed.contains(&first));
    assert_eq!(env.live("job-1").1, 1);
    assert_eq!(env.happened("attempt_failed"), 0);

    env.reset("w2");
    env.register("w2", "restarted", 1, &[]);
    assert_ne!(env.session("w2"), first, "after a kill it is back at once");
}

#[test]
fn an_agent_that_opens_a_new_stream_closes_its_old_one() {
    let mut env = Env::with_workers(&["w1"]);
    let old = env.session("w1");
    env.register("w1", "1", 1, &[]);
    assert_eq!(env.closed, [old]);
}
