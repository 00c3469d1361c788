//! The coordinator comes back from its store.

use diptych_coordinator::core::{Exit, Order, Stage, StartFrom};

use crate::env::*;
use crate::words::*;

fn running() -> Env {
    let mut env = Env::with_workers(&["w1", "w2"]);
    env.submit("job-1", &submission((2, 2), 0, &["a", "b<a"]));
    env.all_ready("job-1", 0);
    env.save("job-1", 4);
    env.verify_all(None);
    env.say("job-1", 0, progress(5));
    env
}

fn both_back(env: &mut Env) {
    env.register("w1", "1", 1, &[("job-1", 1, 0, 0)]);
    env.register("w2", "1", 1, &[("job-1", 1, 1, 0)]);
}

#[test]
fn an_attempt_whose_ranks_all_come_back_goes_on() {
    let mut env = running();
    env.restart();
    env.wait(10_000);
    both_back(&mut env);
    for rank in 0..2 {
        // Agents send again what the old coordinator may not have had.
        env.say("job-1", rank, ready(0, "aa"));
        env.say("job-1", rank, progress(6));
    }
    assert_eq!(env.live("job-1").1, 1);
    assert_eq!(
        env.job("job-1").phases[0].run.as_ref().unwrap().stage,
        Stage::Training
    );
    assert_eq!(env.take_orders(is_begin), [""; 0]);
    env.save("job-1", 10);
    env.finish("job-1", 10);
    env.verify_all(None);
    assert!(env.is_done("job-1", 0));
}

#[test]
fn a_begin_that_never_left_is_sent_after_the_restart() {
    let mut env = Env::with_workers(&["w1", "w2"]);
    env.submit("job-1", &submission((2, 2), 0, &["a"]));
    env.all_ready("job-1", 0);
    env.restart();
    both_back(&mut env);
    env.all_ready("job-1", 0);
    assert_eq!(env.take_orders(is_begin), ["w1", "w2"]);
}

#[test]
fn an_attempt_that_had_not_begun_goes_on_loading() {
    let mut env = Env::with_workers(&["w1", "w2"]);
    env.submit("job-1", &submission((2, 2), 0, &["a"]));
    env.restart();
    both_back(&mut env);
    env.run_phase("job-1", 10);
    assert!(env.has_succeeded("job-1"));
}

#[test]
fn an_attempt_that_lacks_a_rank_after_the_grace_is_made_anew() {
    let mut env = running();
    env.restart();
    env.register("w1", "1", 1, &[("job-1", 1, 0, 0)]);
    env.wait_alive(29_000, &["w1"]);
    assert_eq!(env.live("job-1").1, 1);
    env.wait_alive(1_500, &["w1"]);
    let line = env
        .history
        .iter()
        .find(|line| line.starts_with("attempt_failed"))
        .unwrap();
    assert!(
        line.contains("rank 1 on w2: it did not come back"),
        "{line}"
    );
    env.register("w2", "2", 1, &[]);
    env.say_as("w1", "job-1", 1, 0, exited(Exit::Signal(9)));
    assert_eq!(env.live("job-1").1, 2);
}

#[test]
fn a_state_that_is_on_its_way_back_is_waited_for() {
    for fails_before in [false, true] {
        let mut env = Env::with_workers(&["w1", "w2"]);
        env.submit("job-1", &submission((1, 2), 0, &["a"]));
        env.all_ready("job-1", 0);
        env.save("job-1", 4);
        env.verify_all(None);
        env.say("job-1", 1, progress(9));
        if fails_before {
            // It was kept for the next attempt, which was not placed yet.
            env.reset("w2");
            env.say("job-1", 0, exited(Exit::Signal(9)));
            assert!(env.job("job-1").live().is_none());
        }
        env.restart();
        // The trainer of rank 0 was killed meanwhile; its agent is sooner than the other.
        env.register("w1", "1", 1, &[]);
        env.wait_alive(3_000, &["w1"]);
        assert!(env.job("job-1").live().is_none(), "{:?}", env.history);
        env.register_held("w2", ("job-1", 1, 1), 9);
        let orders: Vec<_> = env
            .orders
            .iter()
            .filter_map(|(worker, order)| match order {
                Order::Prepare(prepare) => Some((worker.to_string(), prepare.start)),
                _ => None,
            })
            .collect();
        assert!(
            orders.contains(&("w2".to_owned(), StartFrom::Memory)),
            "{orders:?}"
        );
    }
}

#[test]
fn a_state_that_does_not_come_back_is_waited_for_no_longer_than_its_rank_would_be() {
    let mut env = Env::with_workers(&["w1", "w2"]);
    env.submit("job-1", &submission((1, 2), 0, &["a"]));
    env.all_ready("job-1", 0);
    env.restart();
    env.register("w1", "1", 1, &[]);
    env.wait_alive(29_000, &["w1"]);
    assert!(env.job("job-1").live().is_none());
    env.wait_alive(1_500, &["w1"]);
    assert_eq!(env.live("job-1").1, 2);
}

#[test]
fn a_survivor_whose_stream_was_reset_is_waited_for() {
    let mut env = Env::with_workers(&["w1", "w2"]);
    env.submit("job-1", &submission((1, 2), 0, &["a"]));
    env.all_ready("job-1", 0);
    env.reset("w2");
    env.say("job-1", 0, exited(Exit::Signal(9)));
    env.wait_alive(500, &["w1"]);
    assert!(env.job("job-1").live().is_none());
    env.register_held("w2", ("job-1", 1, 1), 5);
    assert_eq!(env.live("job-1").2, ["w2"], "it goes on by itself");
}

#[test]
fn a_save_that_was_under_way_is_committed_when_it_is_reported_again() {
    let mut env = running();
    let part = env.part("job-1", 0, 8);
    env.say("job-1", 0, part);
    env.restart();
    both_back(&mut env);
    env.save("job-1", 8);
    assert_eq!(env.verify_all(None), 1);
    assert_eq!(
        env.job("job-1").phases[0]
            .newest_verified()
            .unwrap()
            .record
            .id
            .step
            .get(),
        8
    );
}

#[test]
fn finished_and_committed_work_needs_none_of_its_ranks_again() {
    let mut env = running();
    env.save("job-1", 10);
    env.finish("job-1", 10);
    env.restart();
    env.register("w1", "1", 1, &[]);
    env.register("w2", "1", 1, &[]);
    env.wait(100);
    assert_eq!(env.verify_all(None), 1, "the verification is ordered again");
    assert!(env.is_done("job-1", 0));
    assert_eq!(env.happened("attempt_failed"), 0);
}

#[test]
fn ranks_of_attempts_that_ended_meanwhile_are_aborted() {
    let mut env = running();
    env.do_step(diptych_coordinator::core::Event::Cancel {
        job: id("job-1"),
        reason: String::new(),
    });
    env.restart();
    both_back(&mut env);
    assert_eq!(env.take_orders(is_end), ["w1", "w2"]);
}
