use std::time::Duration;

use super::{Fault, FaultKind, Faults, Gpu, Link, Nvml, NvmlError};
use crate::device::{LibraryError, fake};

fn nvml(options: &[&str]) -> Nvml {
    let library = fake::library("nvml", options);
    Nvml::open_one_of(&[&library]).expect("it starts")
}

fn gpus(nvml: &Nvml) -> Vec<Gpu> {
    (0..nvml.count().expect("a number"))
        .map(|index| nvml.gpu(index).expect("it answers"))
        .collect()
}

/// Everything that is told until nothing is.
fn all(faults: &mut Faults<'_>) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(fault) = faults
        .wait(Duration::from_millis(5))
        .expect("the library answers")
    {
        told.push(fault.to_string());
    }
    told
}

const XID: &str = "GPU 1: Xid 79";
const ECC: &str = "GPU 0: uncorrectable memory error (ECC)";
const LOST: &str = "GPU 1: lost";

#[test]
fn devices_are_read_with_their_memory_and_capability() {
    let nvml = nvml(&[]);
    assert_eq!(nvml.driver().expect("a version"), "580.82.07");
    assert_eq!(nvml.cuda().expect("a version").to_string(), "13.0");
    let gpus = gpus(&nvml);
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
    let gpus = gpus(&nvml);
    let places = nvml.places(&gpus);
    let nvlink: Vec<_> = places
        .iter()
        .map(|place| place.labels["nvlink"].as_str())
        .collect();
    assert_eq!(nvlink, ["0", "0", "2"]);
}

#[test]
fn a_link_that_is_not_known_is_no_label() {
    let nvml = nvml(&["-DTOPOLOGY=3"]);
    assert!(nvml.link(0, 2).is_err());
    let places = nvml.places(&gpus(&nvml));
    let nvlink: Vec<_> = places
        .iter()
        .map(|place| place.labels.get("nvlink").map(String::as_str))
        .collect();
    // NVLink is asked for otherwise.
    assert_eq!(nvlink, [Some("0"), Some("0"), None]);
}

#[test]
fn counters_that_this_user_may_not_read_are_absent() {
    let load = nvml(&["-DFORBIDDEN=0"]).load(0).expect("a load");
    assert_eq!((load.busy_percent, load.ecc_uncorrected), (None, None));
    assert_eq!(load.free.get(), 60 << 30);
}

#[test]
fn a_device_in_mig_mode_is_told_from_others() {
    let modes = |options: &[&str]| {
        let gpus = gpus(&nvml(options));
        gpus.iter().map(|gpu| gpu.mig).collect::<Vec<_>>()
    };
    assert_eq!(modes(&["-DMIG=1"]), [false, true, false]);
    assert_eq!(modes(&["-DMIG=2"]), [false; 3], "2 has no such mode");
    assert_eq!(modes(&["-DMIG=1", "-DNO_MIG"]), [false; 3]);
}

#[test]
fn faults_come_with_their_device_and_number() {
    let nvml = nvml(&[]);
    let mut faults = nvml.faults().expect("a set");
    assert_eq!(faults.devices(), 2, "device 2 reports none");
    let first = faults.wait(Duration::from_millis(5));
    let xid = Fault {
        gpu: 1,
        kind: FaultKind::Xid(79),
    };
    assert_eq!(first, Ok(Some(xid)));
    assert_eq!(xid.to_string(), XID);
    assert_eq!(all(&mut faults), [ECC]);
}

#[test]
fn devices_that_refuse_to_be_listened_to_leave_the_others_heard() {
    // What is told, and by how many devices.
    let cases: [(&str, &[&str], u32); 4] = [
        ("-DLOST=1", &[LOST, ECC], 1),
        ("-DFORBIDDEN=1", &[ECC], 1),
        ("-DXID_ONLY=1", &[XID, ECC], 2),
        ("-DXID_ONLY=0", &[XID], 2),
    ];
    for (machine, told, devices) in cases {
        let nvml = nvml(&[machine]);
        let mut faults = nvml.faults().expect("a set");
        assert_eq!(all(&mut faults), told, "{machine}");
        assert_eq!(faults.devices(), devices, "{machine}");
    }
}

#[test]
fn a_device_that_falls_off_the_bus_is_told_once_and_the_others_are_still_heard() {
    let nvml = nvml(&["-DFALLS=1"]);
    let mut faults = nvml.faults().expect("a set");
    assert_eq!(faults.devices(), 2);
    assert_eq!(all(&mut faults), [LOST, ECC]);
    assert_eq!(faults.devices(), 1);
}

#[test]
fn the_last_device_that_falls_off_the_bus_is_told() {
    let nvml = nvml(&["-DFALLS=1", "-DLOST=0"]);
    let mut faults = nvml.faults().expect("a set");
    assert_eq!(all(&mut faults), ["GPU 0: lost", LOST]);
    assert_eq!(faults.devices(), 0);
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
