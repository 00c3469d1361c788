//! Specs cross the wire without loss.

use std::collections::BTreeMap;

use diptych_common::spec::JobDraft;
use diptych_common::spec::draft::*;
use diptych_proto::v1;
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;

fn text() -> impl Strategy<Value = Option<String>> {
    option::of("[a-zé]{0,6}")
}

fn number() -> impl Strategy<Value = Option<f64>> {
    option::of(-1e9..1e9)
}

fn count() -> impl Strategy<Value = Option<u32>> {
    option::of(any::<u32>())
}

fn resources() -> impl Strategy<Value = Option<ResourcesDraft>> {
    let ranks = prop_oneof![
        any::<u32>().prop_map(RanksDraft::Fixed),
        any::<[u32; 2]>().prop_map(|[min, max]| RanksDraft::Range(RankRangeDraft { min, max })),
    ];
    option::of(
        (
            text(),
            option::of(ranks),
            text(),
            option::of(0_u32..9),
            any::<[Option<bool>; 2]>(),
            text(),
        )
            .prop_map(
                |(device, ranks, precision, spares, [tf32, deterministic], memory)| {
                    ResourcesDraft {
                        device,
                        ranks,
                        precision,
                        spares,
                        tf32,
                        deterministic,
                        memory,
                    }
                },
            ),
    )
}

fn encoder() -> impl Strategy<Value = EncoderDraft> {
    let words = [text(), text(), text()];
    let flag = option::of(any::<bool>());
    (any::<u32>(), number(), words, flag).prop_map(
        |(depth, width, [stem, basic_shortcut, max_pool], selective_kernel)| EncoderDraft {
            depth,
            width,
            stem,
            basic_shortcut,
            selective_kernel,
            max_pool,
        },
    )
}

fn head() -> impl Strategy<Value = HeadDraft> {
    (text(), count(), count()).prop_map(|(kind, layers, dim)| HeadDraft { kind, layers, dim })
}

fn head_layer() -> impl Strategy<Value = HeadLayerDraft> {
    prop_oneof![
        any::<u32>().prop_map(HeadLayerDraft::One),
        "[a-z]{0,3}".prop_map(HeadLayerDraft::Word),
        prop::collection::vec(any::<u32>(), 0..4).prop_map(HeadLayerDraft::List),
    ]
}

fn data() -> impl Strategy<Value = DataDraft> {
    let classes = option::of(prop::collection::vec("[a-z]{0,3}", 0..3));
    (
        "[a-z]{0,5}",
        text(),
        text(),
        text(),
        classes,
        option::of(any::<u64>()),
    )
        .prop_map(
            |(url, format, image_column, label_column, classes, limit)| DataDraft {
                url,
                format,
                image_column,
                label_column,
                classes,
                limit,
            },
        )
}

fn augment() -> impl Strategy<Value = AugmentDraft> {
    let numbers = [number(), number(), number(), number()];
    (
        any::<u32>(),
        option::of(any::<[u8; 2]>()),
        option::of(any::<bool>()),
        numbers,
        [text(), text(), text(), text(), text(), text()],
    )
        .prop_map(
            |(
                image_size,
                pair,
                flip,
                [
                    color_strength,
                    color_probability,
                    grayscale_probability,
                    blur_probability,
                ],
                [
                    implementation,
                    interpolation,
                    color_order,
                    brightness,
                    blur_sigma,
                    place,
                ],
            )| {
                let pair = pair.map(|[low, high]| [f64::from(low), f64::from(high)]);
                AugmentDraft {
                    image_size,
                    crop_area: pair,
                    crop_aspect: pair,
                    flip,
                    color_strength,
                    color_probability,
                    color_hue_saturation: flip,
                    grayscale_probability,
                    blur_probability,
                    implementation,
                    interpolation,
                    color_order,
                    brightness,
                    blur_sigma,
                    place,
                }
            },
        )
}

fn optimizer() -> impl Strategy<Value = OptimizerDraft> {
    (
        "[a-z]{0,4}",
        -1.0..1.0,
        [text(), text()],
        [
            number(),
            number(),
            number(),
            number(),
            number(),
            number(),
            number(),
        ],
    )
        .prop_map(
            |(
                kind,
                learning_rate,
                [scaling, momentum_kind],
                [
                    warmup_epochs,
                    momentum,
                    weight_decay,
                    trust_coefficient,
                    beta1,
                    beta2,
                    epsilon,
                ],
            )| OptimizerDraft {
                kind,
                learning_rate,
                scaling,
                warmup_epochs,
                momentum,
                weight_decay,
                trust_coefficient,
                momentum_kind,
                beta1,
                beta2,
                epsilon,
            },
        )
}

fn phase() -> impl Strategy<Value = PhaseDraft> {
    let words = (
        "[a-z]{0,5}",
        "[a-z]{0,5}",
        [text(), text(), text(), text(), text()],
    );
    let counts = (
        [count(), count(), count(), count(), count(), count()],
        option::of(any::<u64>()),
        option::of(any::<bool>()),
    );
    let numbers = [number(), number(), number(), number(), number(), number()];
    let parts = (
        optimizer(),
        option::of(augment()),
        resources(),
        option::of(encoder()),
        option::of(head_layer()),
    );
    (words, counts, numbers, parts).prop_map(|(words, counts, numbers, parts)| {
        let (name, kind, [from, teacher, train, every, list]) = words;
        let ([lanes, groups, micro, layer, labelled, keep], steps, flag) = counts;
        let [epochs, bad, temperature, alpha, share, often] = numbers;
        let (optimizer, augment, resources, student, head_layer) = parts;
        PhaseDraft {
            name,
            kind,
            from,
            data: train.clone().map(|train| PhaseDataDraft {
                train: Some(train),
                eval: every.clone(),
            }),
            batch: lanes.unwrap_or(7),
            epochs,
            steps,
            optimizer,
            augment,
            lanes,
            groups,
            micro_batch_groups: micro,
            resources,
            checkpoint: keep.map(|_| CheckpointDraft {
                every: every.clone(),
                every_steps: steps,
                keep,
                select: every.clone().map(|best| SelectDraft { best }),
            }),
            evaluate: often.map(|_| EvaluateDraft {
                every_epochs: often,
                knn_k: layer,
                knn_temperature: temperature,
                stop_after: layer.map(|evaluations| StopAfterDraft {
                    metric: every.clone().unwrap_or_default(),
                    evaluations,
                }),
            }),
            max_bad_images: bad,
            on_non_finite: every.clone(),
            loss: temperature.map(|_| LossDraft {
                temperature,
                normalize: flag,
                scale: train,
                memory: lanes.map(|_| MemoryDraft {
                    size: groups,
                    decay: share,
                }),
            }),
            probe: flag,
            probe_layer: layer,
            head_layer,
            labels: share.map(|_| LabelsDraft {
                share,
                per_class: labelled,
                list,
                seed: steps,
            }),
            teacher,
            student,
            temperature,
            alpha,
            labelled_batch: labelled,
        }
    })
}

prop_compose! {
    fn job()(
        words in ("[a-z/0-9]{0,9}", "[a-z]{0,5}", "[a-z:/]{0,9}"),
        seed in option::of(any::<u64>()), tensorboard in option::of(any::<bool>()), priority in option::of(any::<i32>()),
        resources in resources(),
        data in prop::collection::btree_map("[a-z]{0,4}", data(), 0..3),
        encoder in encoder(),
        head in option::of(head()),
        phases in prop::collection::vec(phase(), 0..4),
    ) -> JobDraft {
        let (api_version, name, storage) = words;
        let data: BTreeMap<String, DataDraft> = data;
        JobDraft { api_version, name, seed, priority, storage, tensorboard, resources, data, encoder, head, phases }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_draft_comes_back_from_the_wire_as_it_went(draft in job()) {
        let bytes = v1::JobSpec::from(draft.clone()).encode_to_vec();
        let wire = v1::JobSpec::decode(bytes.as_slice()).expect("decodes");
        prop_assert_eq!(JobDraft::from(wire), draft);
    }
}
