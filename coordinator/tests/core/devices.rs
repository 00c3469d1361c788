//! Devices on which no rank can run.

use diptych_coordinator::core::DeviceReport;
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
