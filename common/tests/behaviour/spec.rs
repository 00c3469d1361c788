use diptych_common::spec::{
    BasicShortcut, Depth, HeadLayers, HeadSpec, JobDraft, JobSpec, Labels, MaxPool, MemorySpec,
    MomentumKind, PhaseKind, Rule, SpecErrors, load,
};

/// One phase of each kind, all fields that have a path of their own.
pub(super) const VALID: &str = r#"
apiVersion: diptych/v1
name: job
seed: 3
storage: s3://bucket/prefix
resources: { device: cpu, ranks: { min: 1, max: 2 }, precision: fp32, spares: 1 }
data:
  train: { url: "file:///data/train-*.parquet", format: parquet, image_column: img, classes: [a, b], limit: 1000 }
  test: { url: "file:///data/test" }
encoder: { depth: 18, width: 0.25, stem: cifar, basic_shortcut: identity }
head: { layers: 3, dim: 64 }
phases:
  - name: pretrain
    kind: pretrain
    batch: 64
    lanes: 16
    groups: 4
    micro_batch_groups: 2
    epochs: 2
    optimizer: { kind: lars, learning_rate: 0.3, scaling: sqrt, warmup_epochs: 1, momentum: 0.9, momentum_kind: popular, weight_decay: 1.0e-6, trust_coefficient: 0.001 }
    augment: { image_size: 32, crop_area: [0.2, 1], crop_aspect: [0.7, 1.4], color_strength: 0.5, color_probability: 0.8, grayscale_probability: 0.2, blur_probability: 0 }
    loss: { temperature: 0.5, scale: paper, memory: { size: 1000, decay: 0.99 } }
    evaluate: { every_epochs: 1, knn_k: 20, knn_temperature: 0.1, stop_after: { metric: probe_top1, evaluations: 5 } }
    checkpoint: { every: 5m, every_steps: 10, keep: 2, select: { best: knn_top1 } }
    max_bad_images: 0.01
    on_non_finite: rewind
  - name: linear
    kind: linear_eval
    from: pretrain
    batch: 64
    steps: 5
    optimizer: { kind: sgd, learning_rate: 0.1 }
    augment: { image_size: 32 }
    head_layer: 1
  - name: tuned
    kind: finetune
    from: pretrain
    head_layer: 2
    batch: 64
    steps: 5
    optimizer: { kind: adamw, learning_rate: 0.1, beta1: 0.8, beta2: 0.99, epsilon: 1.0e-6 }
    augment: { image_size: 32 }
    labels: { per_class: 5 }
  - name: student
    kind: distill
    teacher: tuned
    student: { depth: 18, width: 0.125, stem: cifar }
    temperature: 2
    alpha: 0.5
    labelled_batch: 64
    labels: { share: 0.5, seed: 9 }
    batch: 64
    steps: 5
    optimizer: { kind: sgd, learning_rate: 0.1 }
    augment: { image_size: 32 }
"#;

pub(super) fn check(sets: &[&str]) -> Result<JobSpec, SpecErrors> {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    load(VALID, &sets, &|_| None).and_then(JobSpec::try_from)
}

fn paths(errors: &SpecErrors) -> Vec<&str> {
    errors.0.iter().map(|error| error.path.as_str()).collect()
}

#[test]
fn a_valid_spec_gets_every_default() {
    let spec = check(&[]).unwrap_or_else(|errors| panic!("{errors}"));
    let [pretrain, linear, tuned, student] = spec.phases() else {
        panic!("four phases")
    };
    assert_eq!((pretrain.lanes, linear.lanes, linear.groups), (16, 64, 1));
    assert_eq!(linear.eval.as_ref().map(|name| name.as_str()), Some("test"));
    assert!(linear.augment.color.is_none() && linear.augment.flip);
    let PhaseKind::Finetune(finetune) = &tuned.kind else {
        panic!("finetune")
    };
    assert_eq!(finetune.labels, Labels::PerClass { count: 5, seed: 3 });
    assert_eq!(spec.encoder_of(tuned), spec.encoder());
    assert_eq!(spec.encoder_of(student).width, 0.125);
    assert_ne!(spec.digest(), check(&["seed=4"]).expect("valid").digest());
}

#[test]
fn what_a_spec_does_not_ask_for_is_off() {
    let spec = check(&[
        "phases[0].loss=",
        "phases[0].evaluate=",
        "phases[0].checkpoint=",
        "phases[0].optimizer={kind: lars, learning_rate: 1}",
    ]);
    let spec = spec.unwrap_or_else(|errors| panic!("{errors}"));
    let phase = &spec.phases()[0];
    let PhaseKind::Pretrain(pretrain) = &phase.kind else {
        panic!("pretrain")
    };
    assert_eq!((pretrain.memory, phase.judged_by().count()), (None, 0));
    let classic = Rule::Lars {
        trust_coefficient: 0.001,
        momentum: 0.9,
        kind: MomentumKind::Classic,
    };
    assert_eq!(phase.optimizer.rule, classic);
    let set = |field: &str| check(&[&format!("phases[0].loss.memory={field}")]);
    let spec = set("{}").unwrap_or_else(|errors| panic!("{errors}"));
    let PhaseKind::Pretrain(pretrain) = &spec.phases()[0].kind else {
        panic!("pretrain")
    };
    let usual = MemorySpec {
        size: 65_536,
        decay: 0.999,
    };
    assert_eq!(pretrain.memory, Some(usual));
}

#[test]
fn every_network_of_the_papers_can_be_named() {
    for (depth, expected) in [18, 34, 50, 101, 152, 200].into_iter().zip(Depth::ALL) {
        let set = format!("encoder={{depth: {depth}, width: 3, selective_kernel: true}}");
        let spec = check(&[&set]).unwrap_or_else(|errors| panic!("{errors}"));
        let encoder = spec.encoder();
        assert_eq!((encoder.depth, encoder.selective_kernel), (expected, true));
        assert_eq!(encoder.max_pool, MaxPool::Torch);
        assert_eq!(encoder.basic_shortcut, BasicShortcut::Projection);
    }
    let identity =
        ["encoder={depth: 18, stem: cifar, selective_kernel: true, basic_shortcut: identity}"];
    let spec = check(&identity).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(spec.encoder().basic_shortcut, BasicShortcut::Identity);
}

#[test]
fn heads_have_any_number_of_layers_or_none() {
    let pretrain = |sets: &[&str]| {
        let spec = check(sets).unwrap_or_else(|errors| panic!("{errors}"));
        match &spec.phases()[0].kind {
            PhaseKind::Pretrain(pretrain) => (pretrain.head.clone(), pretrain.probe_layer),
            other => panic!("{other:?}"),
        }
    };
    let head = |layers, dim| Some(HeadSpec { layers, dim });
    assert_eq!(pretrain(&["phases[0].probe_layer=3"]), (head(3, 64), 3));
    assert_eq!(pretrain(&["head={layers: 32}"]).0, head(32, 128));
    let shallow = |set| [set, "phases[1].head_layer=0", "phases[2].head_layer=0"];
    for (set, expected) in [
        ("head={kind: nonlinear, layers: 1}", head(1, 128)),
        ("head={kind: linear, dim: 9}", head(1, 9)),
        ("head={kind: none}", None),
    ] {
        assert_eq!(pretrain(&shallow(set)).0, expected);
    }
}

#[test]
fn a_linear_evaluation_reads_one_layer_or_several() {
    let layers = |set: &str| {
        let spec = check(&[set]).unwrap_or_else(|errors| panic!("{errors}"));
        match &spec.phases()[1].kind {
            PhaseKind::LinearEval(linear) => linear.layers.clone(),
            other => panic!("{other:?}"),
        }
    };
    let of = |first, others: &[u32]| HeadLayers {
        first,
        others: others.to_vec(),
    };
    assert_eq!(layers("phases[1].head_layer="), of(0, &[]));
    assert_eq!(layers("phases[1].head_layer=2"), of(2, &[]));
    assert_eq!(layers("phases[1].head_layer=all"), of(0, &[1, 2, 3]));
    let listed = layers("phases[1].head_layer=[1, 3, 0]");
    assert_eq!(listed, of(1, &[3, 0]));
    assert_eq!(listed.deepest(), 3);
}

#[test]
fn all_errors_are_listed_at_once_whether_of_form_or_of_meaning() {
    let errors = check(&[
        "phases[0].bach=3",
        "encoder.depth=nineteen",
        "phases[2].labels={share: 2}",
        "phases[3].alpha=7",
        "storage=nowhere",
        "phases[9].x=1",
    ])
    .expect_err("six errors");
    let expected = [
        "phases[9].x",
        "phases[0].bach",
        "encoder.depth",
        "phases[2].labels.share",
        "phases[3].alpha",
        "storage",
    ];
    for path in expected {
        assert!(paths(&errors).contains(&path), "{path} in:\n{errors}");
    }
    assert_eq!(errors.0.len(), expected.len(), "{errors}");
}

#[test]
fn an_empty_document_names_what_is_missing() {
    let errors = JobDraft::from_yaml("{}").expect_err("all is missing");
    for path in ["apiVersion", "name", "storage", "data", "encoder", "phases"] {
        assert!(paths(&errors).contains(&path), "{path} in:\n{errors}");
    }
}

#[test]
fn texts_that_are_no_specs_are_refused_in_words() {
    for text in [
        "",
        "[1, 2]",
        "just words",
        "a: [",
        "a: 1\na: 2",
        "!tag {a: 1}",
        "1: 2",
    ] {
        let errors = JobDraft::from_yaml(text).expect_err(text);
        assert!(!errors.to_string().is_empty(), "{text}");
    }
}
