use diptych_common::spec::draft::*;
use diptych_common::spec::{FieldError, JobDraft, JobSpec, SpecErrors, load, overrides, parse};
use proptest::prelude::*;

use super::spec::VALID;

fn word() -> impl Strategy<Value = Option<String>> {
    prop::option::of(
        prop::sample::select(vec![
            "",
            "random",
            "p",
            "pretrain",
            "file:///x",
            "cpu",
            "fp64",
            "lars",
            "é",
        ])
        .prop_map(str::to_owned),
    )
}

fn number() -> impl Strategy<Value = Option<f64>> {
    prop::option::of(prop::sample::select(vec![
        0.0,
        -1.0,
        0.25,
        1.0,
        1e300,
        f64::NAN,
        f64::INFINITY,
        f64::MIN_POSITIVE,
    ]))
}

fn count() -> impl Strategy<Value = Option<u32>> {
    prop::option::of(prop::sample::select(vec![
        0,
        1,
        2,
        3,
        7,
        64,
        1 << 20,
        u32::MAX,
    ]))
}

fn phase() -> impl Strategy<Value = PhaseDraft> {
    let kinds = prop::sample::select(vec!["pretrain", "linear_eval", "finetune", "distill", ""]);
    let words = (word(), word(), word(), word());
    (
        kinds,
        words,
        [number(), number(), number(), number()],
        [count(), count(), count(), count(), count(), count()],
    )
        .prop_map(
            |(
                kind,
                (name, from, teacher, device),
                [epochs, alpha, rate, share],
                [batch, lanes, groups, micro, ranks, layer],
            )| {
                PhaseDraft {
                    name: name.unwrap_or_default(),
                    kind: kind.to_owned(),
                    from,
                    teacher,
                    batch: batch.unwrap_or_default(),
                    epochs,
                    steps: layer.map(u64::from),
                    optimizer: OptimizerDraft {
                        kind: "sgd".to_owned(),
                        learning_rate: rate.unwrap_or(0.1),
                        momentum: share,
                        ..OptimizerDraft::default()
                    },
                    augment: share.map(|share| AugmentDraft {
                        image_size: 32,
                        crop_area: Some([share, 1.0]),
                        ..AugmentDraft::default()
                    }),
                    lanes,
                    groups,
                    micro_batch_groups: micro,
                    resources: Some(ResourcesDraft {
                        device,
                        ranks: ranks.map(RanksDraft::Fixed),
                        precision: None,
                        spares: groups,
                        tf32: lanes.map(|lanes| lanes % 2 == 1),
                        deterministic: None,
                        memory: micro.map(|groups| format!("{groups}GiB")),
                    }),
                    alpha,
                    head_layer: layer.map(|layer| match layer {
                        7 => HeadLayerDraft::Word("all".to_owned()),
                        64 => HeadLayerDraft::List(vec![0, 1, 1]),
                        layer => HeadLayerDraft::One(layer),
                    }),
                    probe_layer: lanes,
                    labels: share.map(|share| LabelsDraft {
                        share: Some(share),
                        ..LabelsDraft::default()
                    }),
                    labelled_batch: lanes,
                    ..PhaseDraft::default()
                }
            },
        )
}

proptest! {
    #[test]
    fn no_draft_panics_and_every_refusal_has_a_path(
        phases in prop::collection::vec(phase(), 0..6), width in number(), depth in count(), storage in word(),
    ) {
        let draft = JobDraft {
            storage: storage.unwrap_or_default(),
            encoder: EncoderDraft { depth: depth.unwrap_or(18), width, ..EncoderDraft::default() },
            phases,
            ..JobDraft::default()
        };
        let SpecErrors(errors) = JobSpec::try_from(draft).expect_err("no api version");
        prop_assert!(errors.iter().all(|error| !error.path.is_empty() && !error.message.is_empty()));
    }

    #[test]
    fn no_text_panics(text in "[a-z{}\\[\\]:,\\-&*!$ \n0-9.~\"'<]{0,80}", set in "[a-z.\\[\\]0-9=]{0,20}") {
        drop(load(&text, &[set], &|_| None));
    }

    #[test]
    fn removing_any_field_never_passes_in_silence_where_it_is_needed(index in 0_usize..6) {
        let field = ["apiVersion", "name", "storage", "data", "encoder", "phases"][index];
        let mut value = parse::document(VALID).expect("YAML");
        value.as_mapping_mut().expect("a map").remove(field);
        let errors = JobDraft::from_value(value).expect_err("missing");
        let hit = |error: &FieldError| error.path == field && error.message.contains("required");
        prop_assert!(errors.0.iter().any(hit), "{}", errors);
    }

    #[test]
    fn lanes_of_an_accepted_spec_serve_every_rank(batch in 2_u32..600, groups in 1_u32..9, ranks in 1_u32..9) {
        let mut value = parse::document(VALID).expect("YAML");
        for set in [format!("phases[0].batch={batch}"), format!("phases[0].groups={groups}"), "phases[0].lanes=".to_owned(), "phases[0].micro_batch_groups=".to_owned(), format!("phases[0].resources.ranks={ranks}")] {
            overrides::apply(&mut value, &set).expect("applies");
        }
        if let Ok(spec) = JobDraft::from_value(value).and_then(JobSpec::try_from) {
            let phase = &spec.phases()[0];
            prop_assert_eq!(phase.batch % phase.lanes, 0);
            prop_assert_eq!(phase.lanes % phase.groups, 0);
            prop_assert!(phase.lanes / phase.groups >= phase.gang.max);
        }
    }
}
