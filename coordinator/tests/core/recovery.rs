//! Survivors keep their state and go on; what they lack comes from a peer, else from a checkpoint.

use diptych_coordinator::core::{
    BeginState, Exit, FailureKind, Hold, Order, RankEvent, StartFrom, TensorDigest,
};

use crate::env::Env;
use crate::words::*;

/// Three ranks that step, with a checkpoint of step 4.
fn training(min: u32) -> Env {
    let mut env = Env::with_workers(&["w1", "w2", "w3"]);
    env.submit("job-1", &submission((min, 3), 0, &["a"]));
    env.all_ready("job-1", 0);
    env.save("job-1", 4);
    env.verify_all(None);
    for rank in 0..3 {
        env.say("job-1", rank, progress(5));
    }
    env.orders.clear();
    env
}

fn prepares(env: &Env) -> Vec<(String, StartFrom, bool)> {
    let prepare = |(worker, order): &(diptych_common::ids::WorkerId, Order)| match order {
        Order::Prepare(prepare) => Some((worker.to_string(), prepare.start, prepare.reserve)),
        _ => None,
    };
    env.orders.iter().filter_map(prepare).collect()
}

fn begin(env: &Env) -> Option<BeginState> {
    env.orders.iter().find_map(|(_, order)| match order {
        Order::Begin { state, .. } => Some(state.clone()),
        _ => None,
    })
}

fn kept(env: &Env, name: &str) -> bool {
    let worker = env.state.worker(&worker(name)).expect("it is known");
    matches!(worker.slots[0].hold, Hold::Kept(_))
}

#[test]
fn survivors_go_on_in_the_same_breath_as_the_failure() {
    let mut env = training(1);
    env.say("job-1", 1, exited(Exit::Signal(9)));
    let (_, attempt, workers) = env.live("job-1");
    assert_eq!(
        (attempt, workers.as_slice()),
        (2, ["w1", "w3"].map(String::from).as_slice())
    );
    let aborts = env.orders.iter().filter(
        |(_, order)| matches!(order, Order::Abort { keep: true, end, .. } if end.len() == 1),
    );
    assert_eq!(aborts.count(), 3, "every agent of the gang hears it");
    let memory = |name: &str| (name.to_owned(), StartFrom::Memory, false);
    assert_eq!(prepares(&env), [memory("w1"), memory("w3")]);
    env.say("job-1", 0, ready(5, "aa"));
    env.say("job-1", 1, ready(6, "bb"));
    let begin = begin(&env).expect("all are ready");
    assert_eq!(
        (begin.source.map(|rank| rank.get()), begin.step.get()),
        (Some(1), 6)
    );
    assert_eq!(begin.digest, "bb");
    assert_eq!(env.job("job-1").phases[0].record.budget.failures, 1);
}

#[test]
fn what_a_survivor_said_before_it_heard_of_the_failure_costs_it_nothing() {
    let mut env = training(1);
    env.say("job-1", 1, exited(Exit::Signal(9)));
    assert_eq!(env.live("job-1").1, 2);
    env.orders.clear();
    env.say_as("w1", "job-1", 1, 0, progress(6));
    env.say_as("w1", "job-1", 1, 0, held(6));
    for (_, order) in &env.orders {
        let kept = matches!(order, Order::Abort { keep: true, end, .. } if end.is_empty());
        assert!(kept, "{order:?} takes the state from attempt 2");
    }
}

#[test]
fn too_few_survivors_wait_with_their_state_for_the_dead_rank() {
    let mut env = training(3);
    env.reset("w2");
    env.wait_alive(1_200, &["w1", "w3"]);
    assert!(env.job("job-1").live().is_none(), "two are not three");
    assert!(kept(&env, "w1") && kept(&env, "w3"));
    env.orders.clear();
    env.register("w2", "2", 1, &[]);
    assert_eq!(env.live("job-1").2.len(), 3, "at once, without a pause");
    assert!(
        prepares(&env)
            .iter()
            .all(|(_, start, _)| *start == StartFrom::Memory)
    );
    env.say("job-1", 0, ready(5, "aa"));
    env.say("job-1", 1, empty());
    env.say("job-1", 2, ready(5, "aa"));
    assert_eq!(
        begin(&env)
            .and_then(|begin| begin.source)
            .map(|rank| rank.get()),
        Some(0)
    );
}

#[test]
fn a_rank_that_lost_its_peers_is_a_symptom_and_keeps_its_state() {
    let mut env = training(1);
    env.say("job-1", 0, held(5));
    env.say("job-1", 2, held(5));
    assert_eq!(env.live("job-1").1, 1, "the cause is awaited");
    env.say("job-1", 1, exited(Exit::Signal(9)));
    assert_eq!(env.live("job-1").2, ["w1", "w3"]);
    assert_eq!(env.happened("attempt_failed"), 1);
    assert!(
        env.history.iter().any(|line| line.contains("signal 9")),
        "{:?}",
        env.history
    );
}

#[test]
fn without_a_cause_all_go_on_together() {
    let mut env = training(1);
    for rank in 0..3 {
        env.say("job-1", rank, held(5));
    }
    env.wait_alive(500, &["w1", "w2", "w3"]);
    let (_, attempt, workers) = env.live("job-1");
    assert_eq!((attempt, workers.len()), (2, 3));
}

#[test]
fn differing_states_of_one_step_end_the_job_and_name_the_tensor() {
    let mut env = training(1);
    env.say("job-1", 1, exited(Exit::Signal(9)));
    let with = |digest: &str, last: u64| match ready(5, digest) {
        RankEvent::Ready {
            endpoint,
            step,
            digest,
            data,
            nccl_id,
            empty,
            ..
        } => RankEvent::Ready {
            endpoint,
            step,
            digest,
            data,
            nccl_id,
            empty,
            tensors: vec![TensorDigest {
                name: "fc.weight".to_owned(),
                digest: last,
            }],
        },
        other => other,
    };
    env.say("job-1", 0, with("aa", 1));
    env.say("job-1", 1, with("bb", 2));
    assert!(env.job("job-1").live().is_none());
    let failed = env
        .history
        .iter()
        .find(|line| line.starts_with("job_failed"));
    assert!(
        failed.is_some_and(|line| line.contains("fc.weight")),
        "{:?}",
        env.history
    );
    assert!(
        !kept(&env, "w1") && !kept(&env, "w3"),
        "nobody waits for a job that has ended"
    );
}

#[test]
fn where_nobody_holds_a_state_the_checkpoint_counts() {
    let mut env = training(2);
    env.reset("w1");
    env.reset("w2");
    env.wait_alive(1_200, &["w3"]);
    assert!(env.job("job-1").live().is_none());
    env.reset("w3");
    env.wait(1_200);
    env.orders.clear();
    for name in ["w1", "w2", "w3"] {
        env.register(name, "2", 1, &[]);
    }
    let start = |(_, start, _): &(String, StartFrom, bool)| *start;
    assert!(
        prepares(&env)
            .iter()
            .map(start)
            .all(|start| start == StartFrom::Checkpoint)
    );
}

#[test]
fn memory_that_is_older_than_the_checkpoint_is_not_used() {
    let mut env = training(2);
    env.say("job-1", 0, exited(Exit::Signal(9)));
    env.say("job-1", 0, ready(3, "aa"));
    env.orders.clear();
    env.say("job-1", 1, ready(3, "aa"));
    assert!(!prepares(&env).is_empty());
    assert!(
        prepares(&env)
            .iter()
            .all(|(_, start, _)| *start == StartFrom::Checkpoint)
    );
    assert_eq!(
        env.job("job-1").phases[0].record.budget.failures,
        1,
        "planned changes are free"
    );
}

#[test]
fn a_number_that_is_not_finite_rewinds_where_the_spec_says_so() {
    let mut env = Env::with_workers(&["w1", "w2"]);
    env.submit("job-1", &rewinding((1, 2)));
    env.all_ready("job-1", 0);
    env.save("job-1", 4);
    env.verify_all(None);
    env.say("job-1", 0, progress(6));
    env.orders.clear();
    env.say("job-1", 0, not_finite(6));
    let orders: Vec<_> = env
        .orders
        .iter()
        .filter_map(|(_, order)| match order {
            Order::Prepare(prepare) => Some(prepare.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(orders.len(), 2, "both go on, in the same processes");
    for order in orders {
        assert_eq!(order.start, StartFrom::Checkpoint);
        assert_eq!(order.resume.map(|resume| resume.step.get()), Some(4));
        assert_eq!(
            order.skip.iter().map(|step| step.get()).collect::<Vec<_>>(),
            [6]
        );
    }
}

#[test]
fn without_that_it_is_final() {
    let mut env = training(1);
    env.say("job-1", 0, not_finite(6));
    assert!(
        env.history
            .iter()
            .any(|line| line.starts_with("job_failed"))
    );
}

#[test]
fn a_crash_loop_counts_once_against_the_worker_and_others_cordon_it() {
    let mut env = Env::suspicious(5);
    env.register("w1", "1", 1, &[]);
    for job in 0..5 {
        let name = format!("job-{job}");
        env.submit(&name, &submission((1, 1), 0, &["a"]));
        for _ in 0..if job == 4 { 1 } else { 3 } {
            env.wait_alive(4_500, &["w1"]);
            env.all_ready(&name, 0);
            env.say(&name, 0, exited(Exit::Signal(11)));
        }
        assert!(env.job(&name).live().is_none());
        let record = env.state.record(&worker("w1")).expect("it was blamed");
        assert_eq!(record.blame.len(), job + 1);
        assert_eq!(record.cordoned.is_some(), job == 4);
    }
    assert_eq!(env.happened("worker_cordoned"), 1);
    env.submit("job-9", &submission((1, 1), 0, &["a"]));
    assert!(env.job("job-9").live().is_none(), "nothing is placed on it");
    env.restart();
    env.register("w1", "1", 1, &[]);
    assert!(env.job("job-9").live().is_none(), "it survives a restart");
    env.cordon("w1", None);
    assert!(env.job("job-4").live().is_some(), "it stood first");
}

#[test]
fn a_gang_that_left_while_the_coordinator_was_away_goes_on_from_memory() {
    let mut env = training(1);
    env.restart();
    for (rank, name) in (0..).zip(["w1", "w2", "w3"]) {
        env.register_held(name, ("job-1", 1, rank), 7);
    }
    let (_, attempt, workers) = env.live("job-1");
    assert_eq!((attempt, workers.len()), (2, 3));
    assert!(
        prepares(&env)
            .iter()
            .all(|(_, start, _)| *start == StartFrom::Memory)
    );
    assert_eq!(env.job("job-1").phases[0].record.budget.failures, 0);
}

#[test]
fn workers_that_cannot_reach_each_other_are_placed_apart() {
    let mut env = training(1);
    env.link_lost("w1", "w2", "job-1");
    let (_, attempt, workers) = env.live("job-1");
    assert_eq!(
        (attempt, workers.as_slice()),
        (2, ["w1", "w3"].map(String::from).as_slice())
    );
    assert!(
        env.history
            .iter()
            .any(|line| line.contains("w1 and w2 cannot reach each other"))
    );
}

#[test]
fn a_worker_that_comes_back_is_not_kept_apart_for_its_own_end() {
    let mut env = training(3);
    // The link is gone sooner than the stream to the coordinator is seen to be.
    env.link_lost("w1", "w2", "job-1");
    assert_eq!(env.job("job-1").live().map(|(_, p)| p.seats.len()), None);
    env.reset("w2");
    env.register("w2", "2", 1, &[]);
    env.say_as("w1", "job-1", 1, 0, held(5));
    env.say_as("w3", "job-1", 1, 2, held(5));
    let (_, _, workers) = env.live("job-1");
    assert_eq!(workers, ["w1", "w2", "w3"]);
}

#[test]
fn kinds_that_speak_against_a_worker() {
    let own = [
        FailureKind::Crashed,
        FailureKind::WorkerLost,
        FailureKind::NotReady,
        FailureKind::Stalled,
    ];
    assert!(own.into_iter().all(FailureKind::is_a_workers_own));
    let not = [
        FailureKind::PeerLost,
        FailureKind::BadData,
        FailureKind::NonFinite,
        FailureKind::Storage,
    ];
    assert!(!not.into_iter().any(FailureKind::is_a_workers_own));
}
