//! Submit twice, cancel, retry, delete, pin, explain.

use diptych_common::ids::PhaseIndex;
use diptych_coordinator::core::{
    Answer, Event, Exit, FailureKind, JobState, Refusal, Settings, State,
};
use diptych_coordinator::queue::explain;

use crate::env::*;
use crate::words::*;

fn codes(env: &Env, job: &str) -> Vec<&'static str> {
    explain(&env.state, env.job(job), env.now().mono)
        .iter()
        .map(|reason| reason.code)
        .collect()
}

#[test]
fn the_same_request_gives_the_same_job() {
    let mut env = Env::new();
    let spec = submission((1, 1), 0, &["a"]);
    let submitted = |created| Answer::Submitted {
        job: id("job-1"),
        created,
    };
    assert_eq!(
        env.submit_as("job-1", &spec, Some("r")),
        Ok(submitted(true))
    );
    assert_eq!(
        env.submit_as("job-2", &spec, Some("r")),
        Ok(submitted(false))
    );
    assert_eq!(env.state.jobs().len(), 1);
    let other = submission((1, 1), 3, &["a"]);
    let refused = env.submit_as("job-3", &other, Some("r"));
    let Err(Refusal::RequestIdTaken { job, differing, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((job, differing), (id("job-1"), vec!["priority".to_owned()]));
    env.restart();
    assert_eq!(
        env.submit_as("job-4", &spec, Some("r")),
        Ok(submitted(false)),
        "after a restart, too"
    );
}

#[test]
fn active_jobs_have_a_limit() {
    let mut env = Env::new();
    let settings = Settings {
        jobs: 2,
        ..*env.state.settings()
    };
    env.state = State::new(settings);
    let spec = submission((1, 1), 0, &["a"]);
    env.submit("job-1", &spec);
    env.submit("job-2", &spec);
    assert_eq!(
        env.submit_as("job-3", &spec, None),
        Err(Refusal::TooManyJobs(2))
    );
}

#[test]
fn wishes_fit_the_state() {
    let mut env = Env::with_workers(&["w1"]);
    let spec = submission((1, 1), 0, &["a"]);
    let (cancel, retry, delete) = (
        || Event::Cancel {
            job: id("job-1"),
            reason: "enough".to_owned(),
        },
        || Event::Retry { job: id("job-1") },
        || Event::Delete { job: id("job-1") },
    );
    for wish in [cancel(), retry(), delete()] {
        assert_eq!(env.step(wish), Err(Refusal::NoSuchJob(id("job-1"))));
    }
    env.submit("job-1", &spec);
    assert!(matches!(env.step(retry()), Err(Refusal::WrongState { .. })));
    assert!(matches!(
        env.step(delete()),
        Err(Refusal::WrongState { .. })
    ));
    env.orders.clear();
    env.do_step(cancel());
    assert_eq!(env.take_orders(is_abort), ["w1"]);
    env.do_step(cancel());
    assert_eq!(codes(&env, "job-1"), ["cancelled_by_user"]);
    assert!(
        matches!(env.step(delete()), Err(Refusal::WrongState { .. })),
        "its trainer still ends"
    );
    env.say_as("w1", "job-1", 1, 0, exited(Exit::Signal(9)));
    env.do_step(retry());
    assert_eq!(env.live("job-1").1, 2);
    env.run_phase("job-1", 10);
    assert!(matches!(
        env.job("job-1").record.state,
        JobState::Succeeded { .. }
    ));
    for wish in [cancel(), retry()] {
        assert!(matches!(env.step(wish), Err(Refusal::WrongState { .. })));
    }
    env.do_step(delete());
    assert!(env.state.jobs().is_empty());
}

#[test]
fn a_pinned_checkpoint_stays() {
    let mut env = Env::with_workers(&["w1"]);
    env.submit("job-1", &submission((1, 1), 0, &["a"]));
    env.all_ready("job-1", 0);
    env.save("job-1", 1);
    env.verify_all(None);
    let first = *env.job("job-1").phases[0]
        .checkpoints
        .keys()
        .next()
        .unwrap();
    let pin = |pinned| Event::Pin {
        job: id("job-1"),
        phase: PhaseIndex::new(0),
        checkpoint: first,
        pinned,
    };
    env.do_step(pin(true));
    for step in 2..=5 {
        env.save("job-1", step);
        env.verify_all(None);
    }
    let steps = |env: &Env| {
        env.job("job-1").phases[0]
            .checkpoints
            .keys()
            .map(|id| id.step.get())
            .collect::<Vec<_>>()
    };
    assert_eq!(steps(&env), [1, 4, 5]);
    env.do_step(pin(false));
    assert_eq!(steps(&env), [4, 5]);
}

#[test]
fn every_wait_has_a_reason() {
    let mut env = Env::new();
    env.submit("job-1", &submission((2, 2), 0, &["a", "b<a"]));
    assert_eq!(
        codes(&env, "job-1"),
        ["not_enough_devices", "input_not_done"]
    );
    env.register("w1", "1", 1, &[]);
    let message = explain(&env.state, env.job("job-1"), env.now().mono)[0]
        .message
        .clone();
    assert!(
        message.contains("needs 2 CPU slots; all workers together have 1"),
        "{message}"
    );
    env.register("w2", "1", 1, &[]);
    env.submit("job-2", &submission((2, 2), 0, &["a"]));
    env.submit("job-3", &submission((1, 1), 0, &["a"]));
    assert_eq!(codes(&env, "job-1"), ["starting"]);
    assert_eq!(codes(&env, "job-2"), ["not_enough_devices"]);
    env.say("job-1", 0, failed(FailureKind::BadData));
    env.say_as("w1", "job-1", 1, 0, exited(Exit::Code(1)));
    assert_eq!(codes(&env, "job-1"), ["first_failure", "stopped"]);
    assert_eq!(codes(&env, "job-2"), ["devices_releasing"]);
    assert_eq!(codes(&env, "job-3"), ["behind_other_jobs"]);
}

#[test]
fn a_failure_is_explained_with_rank_worker_exit_and_last_lines() {
    let mut env = Env::with_workers(&["w1"]);
    env.submit("job-1", &submission((1, 1), 0, &["a"]));
    for _ in 0..3 {
        env.all_ready("job-1", 0);
        env.say("job-1", 0, exited(Exit::Signal(11)));
    }
    let reasons = explain(&env.state, env.job("job-1"), env.now().mono);
    let first = &reasons[0];
    assert_eq!(
        (first.code, first.log.as_slice()),
        ("first_failure", &["last words".to_owned()][..])
    );
    assert!(
        first
            .message
            .contains("attempt 1, rank 0 on w1: its trainer was killed by signal 11"),
        "{}",
        first.message
    );
}
