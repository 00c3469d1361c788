//! The golden cases that the project carries.

use std::path::Path;

use diptych_worker::verify;

#[test]
fn every_golden_case_passes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut out = Vec::new();
    let summary = verify::run(&folder, &mut out).expect("readable cases");
    let report = String::from_utf8(out).expect("text");
    assert_eq!(summary.failed, 0, "{report}");
    assert!(summary.passed >= 30, "{report}");
    assert!(report.ends_with(&format!("{summary}\n")), "{report}");
}

#[test]
fn a_wrong_number_fails_and_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let case = r#"{"kind": "center_crop", "cases": [
        {"height": 375, "width": 500, "crop_height": 328, "crop_width": 328, "top": 24, "left": 87}]}"#;
    std::fs::write(folder.path().join("center_crop.json"), case).expect("written");
    let mut out = Vec::new();
    let summary = verify::run(folder.path(), &mut out).expect("readable cases");
    let report = String::from_utf8(out).expect("text");
    assert_eq!(summary.failed, 1, "{report}");
    assert!(
        report.contains("center_crop case 0: left[0] is 8.6e1, expected 8.7e1"),
        "{report}"
    );
    assert!(report.ends_with("0 passed, 1 failed\n"), "{report}");
}
