//! The golden cases that the project carries.

use std::path::Path;

use diptych_worker::device::DeviceChoice;
use diptych_worker::verify;
use tch::Device;

#[test]
fn every_golden_case_passes() {
    every_case_passes_on(Device::Cpu);
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn every_golden_case_passes_on_a_gpu() {
    every_case_passes_on(DeviceChoice::Cuda(0).open().expect("a GPU"));
}

fn every_case_passes_on(device: Device) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut out = Vec::new();
    let summary = verify::run(&folder, device, &mut out).expect("readable cases");
    let report = String::from_utf8(out).expect("text");
    assert_eq!(summary.failed, 0, "{report}");
    assert!(summary.passed >= 44, "{report}");
    for kind in ["parameters: 18 passed", "selective_kernel: 2 passed"] {
        assert!(report.contains(&format!("{kind}, 0 failed\n")), "{report}");
    }
    assert!(report.ends_with(&format!("{summary}\n")), "{report}");
}

#[test]
fn other_networks_of_the_same_format_are_counted_and_odd_ones_named() {
    let folder = tempfile::tempdir().expect("a folder");
    // The first counted by a few lines of Python that know nothing of this program.
    let case = r#"{"kind": "parameters", "cases": [
        {"depth": 50, "width": 0.5, "selective_kernel": true, "cifar_stem": true, "encoder_trainable": 8904160,
         "encoder_with_bn_statistics": 8935520, "features": 1024, "head_2_layers": 1181824, "head_3_layers": 2232448},
        {"depth": 77, "width": 1, "selective_kernel": false, "cifar_stem": false}]}"#;
    std::fs::write(folder.path().join("parameters.json"), case).expect("written");
    let mut out = Vec::new();
    verify::run(folder.path(), Device::Cpu, &mut out).expect("readable cases");
    let report = String::from_utf8(out).expect("text");
    assert!(
        report.contains("parameters case 1: 77 is not 18, 34, 50"),
        "{report}"
    );
    assert!(report.ends_with("1 passed, 1 failed\n"), "{report}");
}

#[test]
fn a_wrong_number_fails_and_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let case = r#"{"kind": "center_crop", "cases": [
        {"height": 375, "width": 500, "crop_height": 328, "crop_width": 328, "top": 24, "left": 87}]}"#;
    std::fs::write(folder.path().join("center_crop.json"), case).expect("written");
    let mut out = Vec::new();
    let summary = verify::run(folder.path(), Device::Cpu, &mut out).expect("readable cases");
    let report = String::from_utf8(out).expect("text");
    assert_eq!(summary.failed, 1, "{report}");
    assert!(
        report.contains("center_crop case 0: left[0] is 8.6e1, expected 8.7e1"),
        "{report}"
    );
    assert!(report.ends_with("0 passed, 1 failed\n"), "{report}");
}
