use std::time::Duration;

use super::{Fault, FaultKind, Link, Nvml, NvmlError};
use crate::device::{LibraryError, fake};

fn nvml(options: &[&str]) -> Nvml {
    let library = fake::library("nvml", options);
    Nvml::open_one_of(&[&library]).expect("it starts")
}

#[test]
fn devices_are_read_with_their_memory_and_capability() {
    let nvml = nvml(&[]);
    assert_eq!(nvml.driver().expect("a version"), "580.82.07");
    assert_eq!(nvml.cuda().expect("a version").to_string(), "13.0");
    let gpus = nvml.gpus().expect("three devices");
    let names: Vec<_> = gpus.iter().map(|gpu| gpu.name.as_str()).collect();
    assert_eq!(names, ["Fake GPU 0", "Fake GPU 1", "Fake GPU 2"]);
    assert_eq!(gpus[1].uuid, "GPU-fake-1");
    assert_eq!(gpus[1].bus_id, "0000FFFF:F1:00.0");
    assert_eq!(gpus[1].memory.get(), 80 << 30);
    assert_eq!(gpus[1].capability, (9, 0));
    assert_eq!(
        (gpus[1].numa_node, gpus[1].cores.as_deref()),
        (None, None),
        "no such PCI device"
    );
}

#[test]
fn what_a_device_does_not_measure_is_absent() {
    let nvml = nvml(&[]);
    let with = nvml.load(0).expect("a load");
    assert_eq!(
        (with.busy_percent, with.ecc_uncorrected),
        (Some(90), Some(7))
    );
    assert_eq!((with.free.get(), with.used.get()), (60 << 30, 20 << 30));
    let without = nvml.load(2).expect("a load");
    assert_eq!(
        (without.busy_percent, without.ecc_uncorrected),
        (None, None)
    );
}

#[test]
fn islands_are_labelled_by_their_first_device() {
    let nvml = nvml(&[]);
    assert_eq!(nvml.link(0, 1), Ok(Link::Bridge));
    assert_eq!(nvml.link(0, 2), Ok(Link::System));
    let gpus = nvml.gpus().expect("three devices");
    let places = nvml.places(&gpus).expect("places");
    let nvlink: Vec<_> = places
        .iter()
        .map(|place| place.labels["nvlink"].as_str())
        .collect();
    assert_eq!(nvlink, ["0", "0", "2"]);
}

#[test]
fn faults_come_with_their_device_and_number() {
    let nvml = nvml(&[]);
    let faults = nvml.faults().expect("a set");
    assert_eq!(faults.devices(), 2, "device 2 reports none");
    let next = || {
        faults
            .wait(Duration::from_millis(5))
            .expect("the library answers")
    };
    let xid = Fault {
        gpu: 1,
        kind: FaultKind::Xid(79),
    };
    assert_eq!(next(), Some(xid));
    assert_eq!(xid.to_string(), "GPU 1: Xid 79");
    assert_eq!(
        next(),
        Some(Fault {
            gpu: 0,
            kind: FaultKind::Ecc
        })
    );
    assert_eq!(next(), None);
}

#[test]
fn a_library_that_does_not_start_says_why() {
    let library = fake::library("nvml", &["-DINIT=9"]);
    let error = Nvml::open_one_of(&[&library]).expect_err("it does not start");
    assert_eq!(error.to_string(), "nvmlInit: Driver Not Loaded");
}

#[test]
fn a_library_of_another_kind_is_not_called() {
    let library = fake::library("cuda", &["-DINIT=0"]);
    let error = Nvml::open_one_of(&[&library]).expect_err("it is the driver");
    match error {
        NvmlError::Library(LibraryError::Incomplete { symbols, .. }) => {
            assert_eq!(symbols.len(), 20, "{symbols:?}");
            assert_eq!(symbols[0], "nvmlInit_v2");
        }
        other => panic!("{other}"),
    }
}
