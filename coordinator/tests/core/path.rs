//! Submit to succeeded.

use diptych_coordinator::core::{Exit, Order};

use crate::env::*;
use crate::words::*;

#[test]
fn two_phases_on_two_workers() {
    let mut env = Env::with_workers(&["w1", "w2"]);
    env.submit("job-1", &submission((2, 2), 0, &["a", "b<a"]));
    assert_eq!(
        env.live("job-1"),
        (0, 1, vec!["w1".to_owned(), "w2".to_owned()])
    );
    assert_eq!(env.take_orders(is_prepare), ["w1", "w2"]);

    env.say("job-1", 0, ready(0, "aa"));
    assert_eq!(env.take_orders(is_begin), [""; 0], "a gang begins whole");
    env.say("job-1", 1, ready(0, "aa"));
    assert_eq!(env.take_orders(is_begin), ["w1", "w2"]);

    env.say("job-1", 0, progress(3));
    let part = env.part("job-1", 0, 10);
    env.say("job-1", 0, part);
    assert_eq!(
        env.take_orders(|order| matches!(order, Order::WriteManifest { .. })),
        [""; 0]
    );
    let part = env.part("job-1", 1, 10);
    env.say("job-1", 1, part);
    let written = env.orders.iter().find_map(|(worker, order)| match order {
        Order::WriteManifest { objects, .. } => Some((worker.to_string(), objects.len())),
        _ => None,
    });
    assert_eq!(written, Some(("w1".to_owned(), 2)));
    let manifest = env.manifest("job-1", 10);
    env.say("job-1", 0, manifest);
    env.finish("job-1", 10);
    assert!(
        !env.is_done("job-1", 0),
        "committed, but nobody has re-read it"
    );
    assert_eq!(env.verify_all(None), 1);
    assert!(env.is_done("job-1", 0));

    assert!(
        env.job("job-1").live().is_none(),
        "its trainers have not left their devices"
    );
    env.say_as("w1", "job-1", 1, 0, exited(Exit::Code(0)));
    assert!(env.job("job-1").live().is_none(), "two ranks or none");
    env.orders.clear();
    env.say_as("w2", "job-1", 1, 1, exited(Exit::Code(0)));
    assert_eq!(env.live("job-1").0, 1);
    let input = env.orders.iter().find_map(|(_, order)| match order {
        Order::Prepare(prepare) => prepare
            .inputs
            .first()
            .map(|input| (input.phase.clone(), input.step.get())),
        _ => None,
    });
    assert_eq!(
        input,
        Some(("a".to_owned(), 10)),
        "the second phase reads the first one's final checkpoint"
    );
    env.run_phase("job-1", 10);
    assert!(env.has_succeeded("job-1"));
    assert_eq!(env.happened("attempt_failed"), 0);
}

#[test]
fn priority_then_age() {
    let mut env = Env::with_workers(&["w1"]);
    env.submit("first", &submission((1, 1), 0, &["a"]));
    env.submit("second", &submission((1, 1), 0, &["a"]));
    env.submit("urgent", &submission((1, 1), 5, &["a"]));
    env.run_phase("first", 10);
    assert!(env.job("urgent").live().is_some() && env.job("second").live().is_none());
    env.run_phase("urgent", 10);
    env.run_phase("second", 10);
}

#[test]
fn a_phase_is_not_placed_smaller_while_devices_are_about_to_be_free() {
    let mut env = Env::with_workers(&["w1", "w2"]);
    env.submit("job-1", &submission((1, 2), 0, &["a", "b<a"]));
    env.all_ready("job-1", 0);
    env.save("job-1", 10);
    env.finish("job-1", 10);
    env.verify_all(None);
    env.say_as("w1", "job-1", 1, 0, exited(Exit::Code(0)));
    assert!(env.job("job-1").live().is_none());
    env.say_as("w2", "job-1", 1, 1, exited(Exit::Code(0)));
    assert_eq!(env.live("job-1").2, ["w1", "w2"]);
}

#[test]
fn a_trainer_that_does_not_leave_is_pressed_and_not_waited_for() {
    let mut env = Env::with_workers(&["w1", "w2"]);
    env.submit("job-1", &submission((1, 2), 0, &["a", "b<a"]));
    env.all_ready("job-1", 0);
    env.save("job-1", 10);
    env.finish("job-1", 10);
    env.verify_all(None);
    env.say_as("w1", "job-1", 1, 0, exited(Exit::Code(0)));
    env.orders.clear();
    env.wait_alive(16_000, &["w1", "w2"]);
    assert_eq!(env.live("job-1").2, ["w1"]);
    assert_eq!(env.take_orders(is_end), ["w2"], "pressed once");
}
