//! Parts, manifests, verification, fall-back.

use diptych_coordinator::core::{
    Answer, CheckpointId, Exit, FailureKind, Ignored, Order, PhaseState, RankEvent, Reread,
};

use crate::env::*;
use crate::words::*;

fn running(ranks: u32) -> Env {
    let names: Vec<_> = (1..=ranks).map(|n| format!("w{n}")).collect();
    let mut env = Env::with_workers(&names.iter().map(String::as_str).collect::<Vec<_>>());
    env.submit("job-1", &submission((ranks, ranks), 0, &["a"]));
    env.all_ready("job-1", 0);
    env.orders.clear();
    env
}

fn steps(env: &Env) -> Vec<u64> {
    env.job("job-1").phases[0]
        .checkpoints
        .keys()
        .map(|id| id.step.get())
        .collect()
}

#[test]
fn reports_may_be_repeated() {
    let mut env = running(2);
    env.save("job-1", 4);
    let before = env.stored.clone();
    env.orders.clear();
    let (part, manifest) = (env.part("job-1", 1, 4), env.manifest("job-1", 4));
    assert_eq!(
        env.say("job-1", 1, part),
        Answer::Ignored(Ignored::Repeated)
    );
    assert_eq!(
        env.take_orders(is_committed),
        ["w2"],
        "the one who asks is told again"
    );
    assert_eq!(
        env.say("job-1", 0, manifest),
        Answer::Ignored(Ignored::Repeated)
    );
    assert!(before == env.stored);
}

#[test]
fn only_this_attempts_objects_and_rank_zero_s_manifest_count() {
    let mut env = running(2);
    let (part, manifest) = (env.part("job-1", 0, 4), env.manifest("job-1", 4));
    let RankEvent::PartSaved {
        step,
        mut objects,
        stall,
    } = part
    else {
        unreachable!()
    };
    objects[0].key = objects[0].key.replace("a000001", "a000009");
    let foreign = RankEvent::PartSaved {
        step,
        objects,
        stall,
    };
    assert_eq!(
        env.say("job-1", 0, foreign),
        Answer::Ignored(Ignored::ForeignObject)
    );
    assert_eq!(
        env.say("job-1", 1, manifest.clone()),
        Answer::Ignored(Ignored::NotRankZero)
    );
    let RankEvent::ManifestWritten {
        mut checkpoint,
        best,
    } = manifest
    else {
        unreachable!()
    };
    checkpoint.manifest = "elsewhere/manifest.json".to_owned();
    let foreign = RankEvent::ManifestWritten { checkpoint, best };
    assert_eq!(
        env.say("job-1", 0, foreign),
        Answer::Ignored(Ignored::ForeignObject)
    );
    assert_eq!(steps(&env), [0; 0]);
}

#[test]
fn old_checkpoints_are_collected_and_their_objects_deleted() {
    let mut env = running(1);
    for step in 1..=4 {
        env.save("job-1", step);
        env.verify_all(None);
    }
    assert_eq!(steps(&env), [3, 4]);
    assert_eq!(env.deleted.len(), 2);
    assert!(
        env.deleted[0].contains("step-000000000001-a000001"),
        "{:?}",
        env.deleted
    );
}

#[test]
fn a_checkpoint_that_a_trainer_cannot_load_is_passed_over() {
    let mut env = running(1);
    for step in [3, 6] {
        env.save("job-1", step);
        env.verify_all(None);
    }
    for (attempt, expected) in [(1, Some(6)), (2, Some(3)), (3, None)] {
        let kind = if attempt == 1 {
            FailureKind::Crashed
        } else {
            FailureKind::BadCheckpoint
        };
        env.orders.clear();
        env.say("job-1", 0, failed(kind));
        env.say_as("w1", "job-1", attempt, 0, exited(Exit::Code(1)));
        let resume = env.orders.iter().find_map(|(_, order)| match order {
            Order::Prepare(prepare) => {
                Some(prepare.resume.as_ref().map(|resume| resume.step.get()))
            }
            _ => None,
        });
        assert_eq!(resume, Some(expected), "{:#?}", env.history);
    }
    assert_eq!(env.happened("checkpoint_fallback"), 2);
    assert_eq!(
        env.job("job-1").phases[0].record.budget.failures,
        1,
        "a fall-back is free"
    );
}

#[test]
fn a_new_attempt_waits_for_the_verification_of_a_newer_checkpoint() {
    let mut env = running(1);
    env.save("job-1", 4);
    env.say("job-1", 0, exited(Exit::Signal(9)));
    assert!(env.job("job-1").live().is_none());
    env.verify_all(None);
    let placement = env.job("job-1").live().unwrap().1;
    assert_eq!(placement.resume.map(|id| id.step.get()), Some(4));
}

#[test]
fn but_not_for_ever() {
    let mut env = running(1);
    env.save("job-1", 4);
    env.say("job-1", 0, exited(Exit::Signal(9)));
    env.wait_alive(10_500, &["w1"]);
    assert_eq!(env.job("job-1").live().unwrap().1.resume, None);
}

#[test]
fn a_broken_final_checkpoint_does_not_end_the_phase() {
    let mut env = running(1);
    env.save("job-1", 10);
    env.finish("job-1", 10);
    env.verify_all(Some("shard-00000 has 3 bytes, not 5"));
    assert!(!env.is_done("job-1", 0));
    env.say_as("w1", "job-1", 1, 0, exited(Exit::Code(0)));
    assert_eq!(env.live("job-1").1, 2);
    assert!(
        env.history
            .iter()
            .any(|line| line.contains("shard-00000 has 3 bytes")),
        "{:#?}",
        env.history
    );
}

#[test]
fn a_verifier_that_is_lost_is_replaced() {
    let mut env = running(2);
    env.save("job-1", 10);
    env.finish("job-1", 10);
    assert_eq!(
        env.take_orders(|order| matches!(order, Order::Verify { .. })),
        ["w2"]
    );
    env.reset("w2");
    env.wait_alive(1_500, &["w1"]);
    assert_eq!(env.verify_all(None), 1);
    assert!(
        env.is_done("job-1", 0),
        "and the phase, all committed, does not need the lost worker"
    );
}

#[test]
fn a_checkpoint_that_a_worker_cannot_read_is_given_to_another_and_not_broken() {
    let mut env = running(2);
    env.register("w3", "1", 1, &[]);
    env.save("job-1", 10);
    env.finish("job-1", 10);
    let is_verify = |order: &Order| matches!(order, Order::Verify { .. });
    let all = ["w1", "w2", "w3"];
    let mut asked = Vec::new();
    for pause in [1_000, 2_000, 4_000, 8_000] {
        let orders = env.orders.clone();
        asked.extend(env.take_orders(is_verify));
        env.orders = orders;
        assert_eq!(env.reread_all(Reread::Unread("store away".to_owned())), 1);
        env.wait_alive(pause - 500, &all);
        assert_eq!(env.take_orders(is_verify), [""; 0], "a pause that grows");
        env.wait_alive(500, &all);
    }
    assert_eq!(asked, ["w2", "w1", "w3", "w2"], "one after another");
    assert_eq!(env.happened("checkpoint_broken"), 0);
    let why = diptych_coordinator::queue::explain(&env.state, env.job("job-1"), env.now().mono);
    assert!(why[0].message.contains("store away"), "{}", why[0].message);
    assert_eq!(env.verify_all(None), 1);
    assert!(env.is_done("job-1", 0));
}

#[test]
fn an_input_that_cannot_be_loaded_is_named_and_ends_the_job() {
    let mut env = Env::with_workers(&["w1"]);
    env.submit("job-1", &submission((1, 1), 0, &["a", "b<a"]));
    let input = env.key("job-1", 10).manifest().to_string();
    env.run_phase("job-1", 10);
    env.all_ready("job-1", 0);
    env.save("job-1", 4);
    env.verify_all(None);
    env.say("job-1", 0, exited(Exit::Signal(9)));
    assert!(
        env.live("job-1").1 == 3,
        "it goes on from its own checkpoint"
    );
    env.say("job-1", 0, unloadable(&input));
    assert_eq!(env.happened("checkpoint_fallback"), 0);
    let own = env.job("job-1").phases[1].checkpoints.values().next();
    assert!(own.unwrap().is_verified(), "its own is not to blame");
    let PhaseState::Failed { cause } = &env.job("job-1").phases[1].record.state else {
        panic!("{:#?}", env.history)
    };
    assert!(
        cause.message.contains("its input, a step 10 of attempt 1"),
        "{cause}"
    );
}

#[test]
fn leftovers_of_ended_attempts_are_collected_and_never_the_live_one_s() {
    let mut env = running(1);
    assert_eq!(env.leftovers, []);
    env.say("job-1", 0, exited(Exit::Signal(9)));
    env.all_ready("job-1", 0);
    let before = |attempt| (id("job-1"), diptych_common::ids::Attempt::new(attempt));
    assert_eq!(env.leftovers, [before(2)], "attempt 2 has begun");
    env.save("job-1", 10);
    env.finish("job-1", 10);
    env.verify_all(None);
    assert_eq!(env.leftovers, [before(2), before(3)], "and has ended");
}

#[test]
fn a_resume_checkpoint_that_is_named_is_passed_over() {
    let mut env = running(1);
    env.save("job-1", 3);
    env.verify_all(None);
    let own = env.key("job-1", 3).manifest().to_string();
    env.say("job-1", 0, exited(Exit::Signal(9)));
    env.say("job-1", 0, unloadable(&own));
    assert_eq!(env.happened("checkpoint_fallback"), 1);
}

#[test]
fn the_newest_attempt_of_a_step_is_the_newest() {
    let id = |step, attempt| CheckpointId {
        step: diptych_common::ids::Step::new(step),
        attempt: diptych_common::ids::Attempt::new(attempt),
    };
    assert!(id(4, 9) < id(5, 1) && id(5, 1) < id(5, 2));
}

#[test]
fn a_new_attempt_hears_how_old_its_state_is() {
    let mut env = running(1);
    let unsaved_after_a_crash = |env: &mut Env| {
        env.orders.clear();
        let attempt = env.live("job-1").1;
        env.say_as("w1", "job-1", attempt, 0, exited(Exit::Signal(9)));
        env.wait_alive(3_000, &["w1"]);
        let told = env.orders.iter().find_map(|(_, order)| match order {
            Order::Prepare(prepare) => Some(prepare.unsaved.as_millis()),
            _ => None,
        });
        env.all_ready("job-1", 0);
        told.expect("a new attempt")
    };
    env.wait_alive(50_000, &["w1"]);
    let since_its_start = unsaved_after_a_crash(&mut env);
    assert!(since_its_start >= 50_000, "{since_its_start}");
    env.save("job-1", 4);
    env.verify_all(None);
    env.wait_alive(7_000, &["w1"]);
    let since_the_commit = unsaved_after_a_crash(&mut env);
    assert!(
        (7_000..50_000).contains(&since_the_commit),
        "{since_the_commit}"
    );
}
