use diptych_common::spec::{JobSpec, PhaseKind, load};

fn lookup(name: &str) -> Option<String> {
    match name {
        "DIPTYCH_DATA" => Some("file:///data".to_owned()),
        "DIPTYCH_STORAGE" => Some("s3://bucket/checkpoints".to_owned()),
        _ => None,
    }
}

fn recipe(text: &str) -> JobSpec {
    let draft = load(text, &[], &lookup).unwrap_or_else(|errors| panic!("{errors}"));
    JobSpec::try_from(draft).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn every_recipe_is_valid() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../recipes");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("the recipes") {
        let path = entry.expect("an entry").path();
        recipe(&std::fs::read_to_string(&path).expect("a text"));
        count += 1;
    }
    assert!(count >= 3, "{count}");
}

#[test]
fn the_demo_has_every_kind_of_phase_and_a_student_of_half_the_width() {
    let spec = recipe(include_str!("../../../recipes/digits.yaml"));
    let count =
        |is: fn(&PhaseKind) -> bool| spec.phases().iter().filter(|phase| is(&phase.kind)).count();
    assert_eq!(count(|kind| matches!(kind, PhaseKind::Pretrain(_))), 2);
    assert_eq!(count(|kind| matches!(kind, PhaseKind::LinearEval(_))), 2);
    assert_eq!(count(|kind| matches!(kind, PhaseKind::Finetune(_))), 7);
    let student = spec.phases().last().expect("phases");
    assert!(spec.encoder_of(student).width * 2.0 <= spec.encoder().width);
    let twice = recipe(include_str!("../../../recipes/digits.yaml"));
    assert_eq!(twice.digest(), spec.digest());
}
