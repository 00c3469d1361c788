use std::path::PathBuf;

use diptych_common::plan::{Facts, JobPlan, Machine, Sheet, plan};
use diptych_common::spec::{JobSpec, PhaseKind, load};

fn lookup(name: &str) -> Option<String> {
    match name {
        "DIPTYCH_DATA" => Some("file:///data".to_owned()),
        "DIPTYCH_STORAGE" => Some("s3://bucket/checkpoints".to_owned()),
        _ => None,
    }
}

fn changed(text: &str, sets: &[String]) -> JobSpec {
    let draft = load(text, sets, &lookup).unwrap_or_else(|errors| panic!("{errors}"));
    JobSpec::try_from(draft).unwrap_or_else(|errors| panic!("{errors}"))
}

fn recipe(text: &str) -> JobSpec {
    changed(text, &[])
}

fn planned(spec: &JobSpec) -> JobPlan {
    let device = spec.phases()[0].gang.device;
    plan(spec, &Facts::default(), &Machine::of(Sheet::usual(device)))
}

fn files() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../recipes");
    let entries = std::fs::read_dir(folder).expect("the recipes");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
        .collect()
}

#[test]
fn every_recipe_is_valid_listed_and_can_be_planned() {
    let list = include_str!("../../../recipes/README.md");
    let files = files();
    for path in &files {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name");
        assert!(
            list.contains(&format!("[{name}]({name})")),
            "{name} is not in recipes/README.md"
        );
        let spec = recipe(&std::fs::read_to_string(path).expect("a text"));
        for phase in planned(&spec).phases {
            let world = phase.worlds.last().expect("a world");
            assert!(
                phase.steps > 0 && phase.work.phase > 0.0,
                "{name} {}",
                phase.name
            );
            assert!(
                world.phase_s.is_finite() && world.memory.device > 0,
                "{name} {}",
                phase.name
            );
        }
    }
    assert!(files.len() >= 7, "{files:?}");
}

/// The documented variables of the ImageNet recipes: all networks of both papers, both batches.
#[test]
fn the_papers_networks_are_variables_of_their_recipes() {
    let v1 = include_str!("../../../recipes/v1-imagenet.yaml");
    // Table 6 of SimCLR v1: 24, 94 and 375 million parameters.
    for (width, millions) in [(1, 24), (2, 94), (4, 375)] {
        let spec = changed(v1, &[format!("encoder.width={width}")]);
        let pretrain = &planned(&spec).phases[0];
        assert_eq!(
            (pretrain.parameters.encoder as f64 / 1e6).round() as u64,
            millions
        );
    }
    let v2 = include_str!("../../../recipes/v2-imagenet.yaml");
    // Table 1 of SimCLR v2, which counts running statistics as well.
    let table = [
        (50, 1, false, 24),
        (50, 1, true, 35),
        (50, 2, false, 94),
        (50, 2, true, 140),
        (101, 1, false, 43),
        (101, 1, true, 65),
        (101, 2, false, 170),
        (101, 2, true, 257),
        (152, 1, false, 58),
        (152, 1, true, 89),
        (152, 2, false, 233),
        (152, 2, true, 354),
        (152, 3, true, 795),
    ];
    for (depth, width, selective, millions) in table {
        for batch in [4096, 8192] {
            let spec = changed(
                v2,
                &[
                    format!("encoder.depth={depth}"),
                    format!("encoder.width={width}"),
                    format!("encoder.selective_kernel={selective}"),
                    format!("phases.pretrain.batch={batch}"),
                ],
            );
            let plan = planned(&spec);
            let pretrain = &plan.phases[0];
            let head = pretrain.parameters.head as f64;
            let counted = (pretrain.parameters.encoder + pretrain.parameters.statistics) as f64;
            // The statistics of the head's batch norms are too few to matter.
            let error = (counted / 1e6 - f64::from(millions)).abs();
            assert!(
                error < 0.6,
                "{depth} {width} {selective}: {counted} beside {head}"
            );
            let student = plan.phases.last().expect("a student");
            assert_eq!((student.parameters.encoder as f64 / 1e6).round() as u64, 24);
        }
    }
}

#[test]
fn steps_are_those_of_the_released_checkpoints() {
    let v2 = planned(&recipe(include_str!("../../../recipes/v2-imagenet.yaml")));
    let steps = |name: &str| {
        let phase = v2.phases.iter().find(|phase| phase.name.as_str() == name);
        phase.expect("a phase").steps
    };
    assert_eq!(steps("pretrain"), 250_228);
    assert_eq!((steps("tuned-10"), steps("tuned-100")), (3754, 37_535));
    assert!((750..=752).contains(&steps("tuned-1")));
    let v1 = changed(
        include_str!("../../../recipes/v1-imagenet.yaml"),
        &["phases.pretrain.epochs=100".to_owned()],
    );
    assert_eq!(planned(&v1).phases[0].steps, 31_279);
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
