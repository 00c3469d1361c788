use std::collections::{BTreeMap, BTreeSet};

use diptych_common::checkpoint::{
    Classifier, Dtype, ExportInfo, NetworkDescription, Preprocessing, TensorBytes, Tensors,
};
use diptych_common::digest::Digest;
use diptych_common::ids::Step;
use diptych_common::network::{classifier_tensors, encoder_tensors, features, head_tensors};
use diptych_common::spec::{Depth, EncoderSpec, HeadSpec, MaxPool, Resampling, Stem};
use prost::Message as _;

use super::schema::{Dimension, GraphProto, ModelProto, NodeProto};
use super::{OnnxError, encode};

fn encoder(depth: Depth) -> EncoderSpec {
    EncoderSpec {
        width: 0.0625,
        ..EncoderSpec::torchvision(depth)
    }
}

/// A network with the first `layers` layers of a head of three, and a classifier on the last of them.
fn network(encoder: EncoderSpec, layers: u32, classes: &[&str]) -> (ExportInfo, Tensors) {
    let head = HeadSpec { layers: 3, dim: 5 };
    let mut infos = encoder_tensors(&encoder);
    let kept = |name: &str| (0..layers).any(|layer| name.starts_with(&format!("head.{layer}.")));
    let of_head = head_tensors(&encoder, &head).into_iter();
    infos.extend(of_head.filter(|info| kept(&info.name)));
    if !classes.is_empty() {
        let width = features(&encoder);
        infos.extend(classifier_tensors(width, classes.len() as u64));
    }
    let tensor = |shape: Vec<u64>| TensorBytes {
        dtype: Dtype::F32,
        bytes: vec![0; 4 * shape.iter().product::<u64>() as usize].into(),
        shape,
    };
    let tensors = infos
        .into_iter()
        .map(|info| (info.name, tensor(info.shape)))
        .collect();
    let info = ExportInfo {
        network: NetworkDescription {
            encoder,
            head: (layers > 0).then_some(head),
            classifier: (!classes.is_empty()).then(|| Classifier {
                classes: classes.iter().map(|class| (*class).to_owned()).collect(),
                head_layer: layers,
            }),
        },
        preprocessing: Preprocessing {
            image_size: 32,
            crop_proportion: 1.0,
            resampling: Resampling::default(),
        },
        job: "digits-3f9a01".parse().unwrap(),
        phase: "tuned".parse().unwrap(),
        step: Step::new(7),
        checkpoint: Digest::of(b"manifest"),
        results: BTreeMap::new(),
    };
    (info, tensors)
}

fn model(info: &ExportInfo, tensors: &Tensors) -> ModelProto {
    let bytes = encode(info, tensors).expect("encodes");
    ModelProto::decode(bytes.as_slice()).expect("decodes")
}

fn operators<'a>(graph: &'a GraphProto, operator: &str) -> Vec<&'a NodeProto> {
    let nodes = graph.node.iter();
    nodes.filter(|node| node.op_type == operator).collect()
}

fn outputs(graph: &GraphProto) -> Vec<(&str, Vec<String>)> {
    let words = |dimension: &Option<Dimension>| match dimension {
        Some(Dimension::Fixed(size)) => size.to_string(),
        Some(Dimension::Free(name)) => name.clone(),
        None => "?".to_owned(),
    };
    let described = graph.output.iter().map(|output| {
        let tensor = output
            .r#type
            .as_ref()
            .and_then(|kind| kind.tensor_type.as_ref());
        let shape = tensor
            .and_then(|tensor| tensor.shape.as_ref())
            .expect("a shape");
        let sizes = shape.dim.iter().map(|dim| words(&dim.value)).collect();
        (output.name.as_str(), sizes)
    });
    described.collect()
}

/// Every value is made before it is read, once; every tensor of the network is read, with its own bytes.
#[track_caller]
fn closed(graph: &GraphProto, tensors: &Tensors) {
    let constants: BTreeMap<&str, _> = graph
        .initializer
        .iter()
        .map(|constant| (constant.name.as_str(), constant))
        .collect();
    let mut known: BTreeSet<&str> = constants.keys().copied().collect();
    known.extend(graph.input.iter().map(|input| input.name.as_str()));
    let mut read = BTreeSet::new();
    for node in &graph.node {
        for input in &node.input {
            assert!(
                known.contains(input.as_str()),
                "{} reads {input} too early",
                node.name
            );
            read.insert(input.as_str());
        }
        for output in &node.output {
            assert!(known.insert(output), "{output} is made twice");
        }
    }
    for output in &graph.output {
        assert!(
            known.contains(output.name.as_str()),
            "{} is not made",
            output.name
        );
        read.insert(&output.name);
    }
    assert_eq!(known, read, "something is made and not read");
    for (name, tensor) in tensors {
        let constant = constants[name.as_str()];
        let dims: Vec<u64> = constant.dims.iter().map(|dim| *dim as u64).collect();
        assert_eq!(
            (&dims, &constant.raw_data),
            (&tensor.shape, &tensor.bytes),
            "{name}"
        );
    }
}

#[test]
fn every_tensor_of_a_network_has_its_place() {
    for depth in [Depth::D18, Depth::D50, Depth::D101] {
        for selective_kernel in [false, true] {
            for stem in [Stem::Cifar, Stem::ImageNet] {
                let encoder = EncoderSpec {
                    selective_kernel,
                    stem,
                    ..encoder(depth)
                };
                for layers in [0, 1, 3] {
                    // With three layers the classifier reads five numbers: this network has none.
                    let classes = if layers < 3 { &["cat", "dog"][..] } else { &[] };
                    let (info, tensors) = network(encoder.clone(), layers, classes);
                    closed(
                        model(&info, &tensors).graph.as_ref().expect("a graph"),
                        &tensors,
                    );
                }
            }
        }
    }
}

#[test]
fn outputs_and_metadata_say_what_they_are() {
    let (info, tensors) = network(encoder(Depth::D18), 1, &["cat", "dog"]);
    let made = model(&info, &tensors);
    assert_eq!((made.ir_version, made.opset_import[0].version), (8, 17));
    let said: BTreeMap<&str, &str> = made
        .metadata_props
        .iter()
        .map(|entry| (entry.key.as_str(), entry.value.as_str()))
        .collect();
    assert_eq!(said["class_names"], r#"["cat","dog"]"#);
    let preprocessing: Preprocessing = serde_json::from_str(said["preprocessing"]).unwrap();
    assert_eq!(preprocessing, info.preprocessing);
    assert_eq!(
        serde_json::from_str::<ExportInfo>(said["diptych"]).unwrap(),
        info
    );
    let graph = made.graph.expect("a graph");
    let words = |sizes: &[&str]| {
        sizes
            .iter()
            .map(|size| (*size).to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        outputs(&graph),
        [
            ("features", words(&["batch", "32"])),
            ("logits", words(&["batch", "2"]))
        ]
    );

    let (info, tensors) = network(encoder(Depth::D18), 3, &[]);
    let graph = model(&info, &tensors).graph.expect("a graph");
    assert_eq!(
        outputs(&graph),
        [
            ("features", words(&["batch", "32"])),
            ("projection", words(&["batch", "5"]))
        ]
    );
}

#[test]
fn pools_are_those_of_the_network() {
    let said = |max_pool| {
        let encoder = EncoderSpec {
            max_pool,
            ..encoder(Depth::D18)
        };
        let (info, tensors) = network(encoder, 0, &[]);
        let graph = model(&info, &tensors).graph.expect("a graph");
        let pools = operators(&graph, "MaxPool");
        assert_eq!(pools.len(), 1);
        let attributes = pools[0].attribute.iter();
        attributes
            .map(|attribute| attribute.name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(said(MaxPool::Torch), ["kernel_shape", "strides", "pads"]);
    assert_eq!(
        said(MaxPool::Tensorflow),
        ["kernel_shape", "strides", "auto_pad"]
    );
}

#[test]
fn doubles_are_rounded_and_what_is_missing_is_named() {
    let (info, mut tensors) = network(encoder(Depth::D18), 0, &[]);
    let scale = TensorBytes {
        dtype: Dtype::F64,
        shape: vec![4],
        bytes: [0.5_f64, 1.0, -2.0, 0.1]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect::<Vec<_>>()
            .into(),
    };
    tensors.insert("bn1.weight".to_owned(), scale);
    let graph = model(&info, &tensors).graph.expect("a graph");
    let constant = graph
        .initializer
        .iter()
        .find(|constant| constant.name == "bn1.weight")
        .unwrap();
    let rounded: Vec<u8> = [0.5_f32, 1.0, -2.0, 0.1]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    assert_eq!(constant.raw_data, rounded);

    tensors.remove("layer3.0.bn1.running_var");
    assert_eq!(
        encode(&info, &tensors),
        Err(OnnxError::Missing("layer3.0.bn1.running_var".to_owned()))
    );
}
