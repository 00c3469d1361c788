//! Devices on which no rank can run.

use diptych_coordinator::core::{Answer, DeviceReport, Event, Ignored};
use diptych_coordinator::queue::explain;

use crate::agents::cpu_slot;
use crate::env::*;
use crate::words::*;

fn broken(index: u32) -> DeviceReport {
    DeviceReport {
        name: format!("slot {index}"),
        problem: Some(
            "libtorch_cuda.so cannot be loaded: use the worker image for CUDA".to_owned(),
        ),
        ..cpu_slot(index)
    }
}

#[test]
fn nothing_is_placed_on_a_device_that_cannot_be_used() {
    let mut env = Env::new();
    env.register_devices("w1", vec![broken(0), cpu_slot(1), broken(2), cpu_slot(3)]);
    env.submit("job-1", &submission((1, 4), 0, &["a"]));
    env.wait_alive(5_000, &["w1"]);
    let placement = env.job("job-1").live().expect("it runs").1;
    let seats: Vec<_> = placement.seats.iter().map(|seat| seat.device).collect();
    assert_eq!(seats, [1, 3]);
}

#[test]
fn a_job_that_waits_for_one_is_told_where_it_is_and_what_is_wrong_with_it() {
    let mut env = Env::new();
    env.register_devices("w1", vec![broken(0), cpu_slot(1)]);
    env.submit("job-1", &submission((2, 2), 0, &["a"]));
    env.wait_alive(5_000, &["w1"]);
    let reasons = explain(&env.state, env.job("job-1"), env.now().mono);
    assert_eq!(reasons[0].code, "not_enough_devices");
    assert_eq!(
        reasons[0].message,
        "needs 2 CPU slots; all workers together have 1 (1 free): start more workers, or lower `ranks`; device 0 of w1 \
         (slot 0) cannot be used: libtorch_cuda.so cannot be loaded: use the worker image for CUDA"
    );
}

#[test]
fn a_device_that_breaks_gets_no_new_ranks_and_keeps_the_one_that_runs() {
    let mut env = Env::new();
    env.register_devices("w1", vec![cpu_slot(0), cpu_slot(1)]);
    env.submit("job-1", &submission((1, 1), 0, &["a"]));
    env.wait_alive(5_000, &["w1"]);
    for device in [0, 1] {
        env.device_trouble("w1", device);
    }
    assert!(env.job("job-1").live().is_some(), "it goes on while it can");
    env.submit("job-2", &submission((1, 1), 0, &["a"]));
    env.run_phase("job-1", 10);
    env.wait_alive(5_000, &["w1"]);
    assert!(env.job("job-2").live().is_none());
    let reasons = explain(&env.state, env.job("job-2"), env.now().mono);
    assert_eq!(reasons[0].code, "not_enough_devices");
    assert!(
        reasons[0]
            .message
            .contains("device 1 of w1 () cannot be used: GPU 1: Xid 79"),
        "{}",
        reasons[0].message
    );
}

#[test]
fn what_an_old_stream_says_of_a_device_is_not_heard() {
    let mut env = Env::new();
    env.register_devices("w1", vec![cpu_slot(0)]);
    let old = env.session("w1");
    env.register_devices("w1", vec![cpu_slot(0)]);
    let answer = env.do_step(Event::DeviceTrouble {
        session: old,
        worker: worker("w1"),
        device: 0,
        problem: "GPU 0: Xid 79".to_owned(),
    });
    assert_eq!(answer, Answer::Ignored(Ignored::OldSession));
    assert_eq!(
        env.state.worker(&worker("w1")).expect("known").slots[0].problem,
        None
    );
}

#[test]
fn a_device_that_is_well_again_is_used() {
    let mut env = Env::new();
    env.register_devices("w1", vec![broken(0)]);
    env.submit("job-1", &submission((1, 1), 0, &["a"]));
    env.wait_alive(5_000, &["w1"]);
    assert!(env.job("job-1").live().is_none());
    env.reset("w1");
    env.register_devices("w1", vec![cpu_slot(0)]);
    env.wait_alive(5_000, &["w1"]);
    assert!(env.job("job-1").live().is_some());
}
