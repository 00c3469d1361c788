//! Changes by plan: growth, scaling, draining, preemption. No failure is counted, and no step is lost.

use std::time::Duration;

use diptych_coordinator::core::{Event, Exit, Order, Refusal, Scale, StartFrom};

use crate::env::Env;
use crate::words::*;

/// A job of `ranks` that steps on workers of one slot each.
fn training(names: &[&str], ranks: (u32, u32)) -> Env {
    let mut env = Env::with_workers(names);
    env.submit("job-1", &submission(ranks, 0, &["a"]));
    env.all_ready("job-1", 0);
    let world = env.live("job-1").2.len() as u32;
    for rank in 0..world {
        env.say("job-1", rank, progress(5));
    }
    env.orders.clear();
    env
}

/// Every rank that was told to leave leaves, after this step.
fn leave_all(env: &mut Env, job: &str, step: u64) -> Option<bool> {
    let orders = std::mem::take(&mut env.orders);
    let mut saves = None;
    let mut told = Vec::new();
    for (_, order) in &orders {
        if let Order::Leave { to, save, .. } = order {
            saves = Some(*save);
            told.push(to.rank.get());
        }
    }
    for rank in told {
        env.say(job, rank, held(step));
    }
    saves
}

fn budget(env: &Env, job: &str) -> u32 {
    env.job(job).phases[0].record.budget.failures
}

#[test]
fn a_gang_grows_by_plan_once_those_that_stand_by_are_ready_and_it_was_quiet() {
    let mut env = training(&["w1"], (1, 2));
    env.register("w2", "1", 1, &[]);
    env.wait_alive(2_500, &["w1", "w2"]);
    let stands_by = env.orders.iter().any(|(worker, order)| {
        worker.as_str() == "w2" && matches!(order, Order::Prepare(prepare) if prepare.reserve)
    });
    assert!(stands_by, "it loads while the gang trains");
    env.say_as("w2", "job-1", 1, 1, empty());
    assert_eq!(
        leave_all(&mut env, "job-1", 6),
        None,
        "not before it was quiet"
    );
    env.wait_alive(10_000, &["w1", "w2"]);
    assert_eq!(
        leave_all(&mut env, "job-1", 9),
        Some(false),
        "memory is enough"
    );
    let (_, attempt, workers) = env.live("job-1");
    assert_eq!((attempt, workers.len()), (2, 2));
    let memory = |(_, order): &(_, Order)| matches!(order, Order::Prepare(prepare) if prepare.start == StartFrom::Memory && !prepare.reserve);
    assert_eq!(env.orders.iter().filter(|order| memory(order)).count(), 2);
    assert_eq!(budget(&env, "job-1"), 0);
}

#[test]
fn a_gang_does_not_leave_to_grow_by_a_worker_that_it_cannot_reach() {
    let mut env = training(&["w1", "w2"], (1, 2));
    env.link_lost("w1", "w2", "job-1");
    env.say_as("w1", "job-1", 1, 0, held(5));
    env.say_as("w2", "job-1", 1, 1, held(5));
    let (_, attempt, workers) = env.live("job-1");
    assert_eq!(workers.len(), 1, "they are not placed together");
    let idle = if workers[0] == "w1" { "w2" } else { "w1" };
    env.say("job-1", 0, ready(5, "aa"));
    env.say_as(idle, "job-1", attempt, 1, empty());
    let leave = |order: &Order| matches!(order, Order::Leave { .. });
    let mut seconds = (0..700).take_while(|second| {
        env.say("job-1", 0, progress(6 + second));
        env.wait_alive(1_000, &["w1", "w2"]);
        env.take_orders(leave).is_empty()
    });
    let stayed = seconds.by_ref().count();
    assert!(
        (595..620).contains(&stayed),
        "it grows after {stayed} s: {:?}",
        env.history
    );
}

#[test]
fn what_stands_by_gives_way_to_a_job_that_waits() {
    let mut env = training(&["w1"], (1, 2));
    env.register("w2", "1", 1, &[]);
    env.wait_alive(2_500, &["w1", "w2"]);
    env.orders.clear();
    env.submit("job-2", &submission((1, 1), 0, &["a"]));
    let ended = env.take_orders(|order| matches!(order, Order::End { .. }));
    assert_eq!(ended, ["w2"]);
    env.say_as("w2", "job-1", 1, 1, exited(Exit::Signal(9)));
    assert_eq!(env.live("job-2").2, ["w2"]);
    assert_eq!(env.live("job-1").1, 1, "the gang itself is not disturbed");
}

#[test]
fn a_spare_takes_the_place_of_a_dead_rank_at_once() {
    let mut env = Env::with_workers(&["w1", "w2", "w3"]);
    env.submit("job-1", &sparing((2, 2), 1));
    env.all_ready("job-1", 0);
    env.wait_alive(2_500, &["w1", "w2", "w3"]);
    env.say_as("w3", "job-1", 1, 2, empty());
    env.say("job-1", 0, exited(Exit::Signal(9)));
    let (_, attempt, workers) = env.live("job-1");
    assert_eq!(
        (attempt, workers.as_slice()),
        (2, ["w2", "w3"].map(String::from).as_slice())
    );
}

#[test]
fn one_that_stands_by_and_dies_is_no_failure() {
    let mut env = training(&["w1"], (1, 2));
    env.register("w2", "1", 1, &[]);
    env.wait_alive(2_500, &["w1", "w2"]);
    env.say_as("w2", "job-1", 1, 1, exited(Exit::Signal(9)));
    assert_eq!(env.live("job-1").1, 1);
    assert_eq!(env.happened("attempt_failed"), 0);
}

#[test]
fn scale_shrinks_at_an_agreed_step_and_is_remembered() {
    let mut env = training(&["w1", "w2", "w3"], (1, 3));
    env.do_step(scale(None, Some(2)));
    assert_eq!(leave_all(&mut env, "job-1", 7), Some(false));
    assert_eq!(env.live("job-1").2, ["w1", "w2"]);
    assert_eq!(budget(&env, "job-1"), 0);
    env.restart();
    let range = env.job("job-1").range(0);
    assert_eq!((range.min, range.max), (1, 2));
}

fn scale(min: Option<u32>, max: Option<u32>) -> Event {
    Event::Scale(Scale {
        job: id("job-1"),
        phase: None,
        min,
        max,
    })
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    let mut env = training(&["w1"], (1, 1));
    for (min, max) in [(Some(0), None), (Some(3), Some(2)), (None, Some(65))] {
        let refused = env.step(scale(min, max)).unwrap_err();
        assert!(matches!(refused, Refusal::Ranks { .. }), "{refused}");
    }
    env.do_step(Event::Cancel {
        job: id("job-1"),
        reason: String::new(),
    });
    assert!(matches!(
        env.step(scale(None, Some(1))),
        Err(Refusal::WrongState { .. })
    ));
}

#[test]
fn a_drained_worker_is_left_without_loss() {
    let mut env = training(&["w1", "w2"], (1, 2));
    env.drain("w2");
    assert_eq!(
        leave_all(&mut env, "job-1", 7),
        Some(false),
        "the other rank keeps the state"
    );
    assert_eq!(env.live("job-1").2, ["w1"]);
    assert_eq!(budget(&env, "job-1"), 0);
    env.wait_alive(20_000, &["w1", "w2"]);
    assert_eq!(env.live("job-1").2, ["w1"], "nothing is placed on it again");
}

#[test]
fn the_wish_to_drain_outlives_the_coordinator() {
    let mut env = training(&["w1", "w2"], (1, 2));
    env.drain("w2");
    env.restart();
    for (rank, name) in (0..).zip(["w1", "w2"]) {
        env.register(name, "1", 1, &[("job-1", 1, rank, 0)]);
    }
    env.wait_alive(500, &["w1", "w2"]);
    assert_eq!(leave_all(&mut env, "job-1", 7), Some(false));
    assert_eq!(env.live("job-1").2, ["w1"]);
}

#[test]
fn where_too_few_remain_the_step_is_saved_first() {
    let mut env = training(&["w1", "w2"], (2, 2));
    env.drain("w2");
    assert_eq!(leave_all(&mut env, "job-1", 7), Some(true));
    assert!(env.job("job-1").live().is_none());
}

#[test]
fn an_agent_that_leaves_is_drained_within_its_grace() {
    let mut env = training(&["w1", "w2"], (1, 2));
    let (session, name) = (env.session("w2"), worker("w2"));
    env.do_step(Event::Leaving {
        session,
        worker: name,
        grace: Duration::from_secs(1),
    });
    env.wait_alive(1_500, &["w1", "w2"]);
    assert_eq!(
        env.live("job-1").2,
        ["w1"],
        "the grace is over: those that are there go on"
    );
    assert_eq!(budget(&env, "job-1"), 0);
    env.reset("w2");
    env.wait_alive(500, &["w1"]);
    assert_eq!(env.happened("attempt_failed"), 0);
}

#[test]
fn a_job_of_higher_priority_shrinks_others_and_then_stops_them() {
    let mut env = training(&["w1", "w2", "w3"], (1, 3));
    env.submit("job-2", &submission((1, 1), 5, &["a"]));
    assert_eq!(leave_all(&mut env, "job-1", 7), Some(false));
    let (_, attempt, workers) = env.live("job-1");
    assert_eq!(
        (attempt, workers.as_slice()),
        (2, ["w1", "w2"].map(String::from).as_slice())
    );
    env.say_as("w3", "job-1", 1, 2, exited(Exit::Code(0)));
    assert_eq!(env.live("job-2").2, ["w3"]);
    assert_eq!(budget(&env, "job-1"), 0);

    env.all_ready("job-1", 7);
    env.orders.clear();
    env.submit("job-3", &submission((2, 2), 5, &["a"]));
    assert_eq!(
        leave_all(&mut env, "job-1", 9),
        Some(true),
        "nobody would keep its state"
    );
    assert!(env.job("job-1").live().is_none() && env.job("job-1").is_active());
    for (rank, name) in (0..).zip(["w1", "w2"]) {
        env.say_as(name, "job-1", 2, rank, exited(Exit::Code(0)));
    }
    assert_eq!(env.live("job-3").2, ["w1", "w2"]);
}

#[test]
fn an_equal_priority_waits() {
    let mut env = training(&["w1"], (1, 1));
    env.submit("job-2", &submission((1, 1), 0, &["a"]));
    assert_eq!(leave_all(&mut env, "job-1", 7), None);
}

#[test]
fn a_rank_that_dies_while_the_gang_leaves_is_a_failure_like_any_other() {
    let mut env = training(&["w1", "w2", "w3"], (1, 3));
    env.do_step(scale(None, Some(2)));
    env.say("job-1", 0, held(6));
    env.say("job-1", 1, exited(Exit::Signal(9)));
    let (_, attempt, workers) = env.live("job-1");
    assert_eq!(
        (attempt, workers.as_slice()),
        (2, ["w1", "w3"].map(String::from).as_slice())
    );
    assert_eq!(budget(&env, "job-1"), 1);
}
