//! Files of other programs: read, recognised, compared, refused.

use std::collections::BTreeMap;

use bytes::Bytes;
use diptych_common::checkpoint::{Dtype, TensorBytes, Tensors};
use diptych_common::import::{self, Form, ImportError, Imported, Scheme, fit};
use diptych_common::network::{
    TensorInfo, classifier_tensors, encoder_tensors, features, head_tensors,
};
use diptych_common::spec::{BasicShortcut, Depth, EncoderSpec, HeadSpec, MaxPool, Stem};

use super::pth::{self, Item, Storage, View};

const CLASSES: u64 = 10;

pub(crate) fn encoder(depth: Depth, width: f64) -> EncoderSpec {
    EncoderSpec {
        width,
        ..EncoderSpec::torchvision(depth)
    }
}

fn selective(depth: Depth, width: f64) -> EncoderSpec {
    EncoderSpec {
        selective_kernel: true,
        ..encoder(depth, width)
    }
}

fn head() -> HeadSpec {
    HeadSpec { layers: 3, dim: 8 }
}

/// A network's tensors by our names; every number differs.
pub(crate) fn network(
    encoder: &EncoderSpec,
    head: Option<&HeadSpec>,
) -> BTreeMap<String, (Vec<u64>, Vec<f32>)> {
    let mut infos = encoder_tensors(encoder);
    infos.extend(head.iter().flat_map(|head| head_tensors(encoder, head)));
    infos.extend(classifier_tensors(features(encoder), CLASSES));
    let mut next = 0_u32;
    let mut numbers = |count| {
        let numbers = (0..count).map(|_| {
            next += 1;
            next as f32
        });
        numbers.collect()
    };
    infos
        .into_iter()
        .map(|info: TensorInfo| {
            let elements = info.elements();
            (info.name, (info.shape, numbers(elements)))
        })
        .collect()
}

fn little(numbers: &[f32]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

/// The tensors of a network in one storage, convolutions as the transposed views that the conversions from TensorFlow
/// leave (height, width, in, out), under other names; and torchvision's counters.
pub(crate) fn views(
    network: &BTreeMap<String, (Vec<u64>, Vec<f32>)>,
    rename: impl Fn(&str) -> Option<String>,
) -> (Vec<(String, Item)>, Vec<f32>) {
    let (mut entries, mut storage) = (Vec::new(), Vec::new());
    for (name, (shape, numbers)) in network {
        let Some(theirs) = rename(name) else { continue };
        let offset = storage.len() as u64;
        let mut stride: Vec<u64> = vec![1; shape.len()];
        if let [o, i, h, w] = shape[..] {
            stride = vec![1, o, w * i * o, i * o];
            let at = |index: u64| {
                let (h_at, rest) = (index / (w * i * o), index % (w * i * o));
                let (w_at, rest) = (rest / (i * o), rest % (i * o));
                let (i_at, o_at) = (rest / o, rest % o);
                numbers[(((o_at * i + i_at) * h + h_at) * w + w_at) as usize]
            };
            storage.extend((0..o * i * h * w).map(at));
        } else {
            for axis in (0..shape.len().saturating_sub(1)).rev() {
                stride[axis] = stride[axis + 1] * shape[axis + 1];
            }
            storage.extend(numbers);
        }
        let view = View {
            storage: 0,
            offset,
            shape: shape.clone(),
            stride,
        };
        if let Some(norm) = theirs.strip_suffix("running_mean") {
            let counter = View {
                storage: 1,
                offset: 0,
                shape: vec![],
                stride: vec![],
            };
            entries.push((format!("{norm}num_batches_tracked"), Item::View(counter)));
        }
        entries.push((theirs, Item::View(view)));
    }
    (entries, storage)
}

/// The names of the conversions of SimCLR v2, stated once more and the other way round.
fn simclr_v2(ours: &str, selective: bool) -> String {
    let (path, field) = ours.rsplit_once('.').expect("a field");
    let parts: Vec<&str> = path.split('.').collect();
    let path = match (parts[0].strip_prefix("layer"), selective) {
        (None, false) => match path {
            "conv1" => "net.0.0".to_owned(),
            "bn1" => "net.0.1.0".to_owned(),
            other => other.to_owned(),
        },
        (None, true) => match path {
            "conv1.0" => "net.0.0".to_owned(),
            "conv1.1" => "net.0.1.0".to_owned(),
            "conv1.3" => "net.0.2".to_owned(),
            "conv1.4" => "net.0.3.0".to_owned(),
            "conv1.6" => "net.0.4".to_owned(),
            "bn1" => "net.0.5.0".to_owned(),
            other => other.to_owned(),
        },
        (Some(group), _) => {
            let inside = match (parts[2..].join(".").as_str(), selective) {
                ("conv1", _) => "net.0",
                ("bn1", _) => "net.1.0",
                ("conv2", false) => "net.2",
                ("bn2", false) => "net.3.0",
                ("conv3", false) => "net.4",
                ("bn3", false) => "net.5.0",
                ("downsample.0", false) => "projection.shortcut",
                ("downsample.1", false) | ("downsample.2", true) => "projection.bn.0",
                ("downsample.1", true) => "projection.shortcut.2",
                ("conv2", true) => "net.2.main_conv.0",
                ("bn2", true) => "net.2.main_conv.1.0",
                ("sk.squeeze", true) => "net.2.mixing_conv.0",
                ("sk.bn", true) => "net.2.mixing_conv.1.0",
                ("sk.expand", true) => "net.2.mixing_conv.2",
                ("conv3", true) => "net.3",
                ("bn3", true) => "net.4.0",
                other => panic!("{other:?}"),
            };
            format!("net.{group}.blocks.{}.{inside}", parts[1])
        }
    };
    format!("{path}.{field}")
}

fn simclr_v2_head(ours: &str) -> Option<String> {
    let rest = ours.strip_prefix("head.")?;
    let (layer, field) = rest.split_once('.')?;
    let place = 3 * layer.parse::<u32>().expect("a number");
    Some(match field.strip_prefix("bn.") {
        Some(field) => format!("layers.{}.{field}", place + 1),
        None => format!("layers.{place}.{field}"),
    })
}

/// `r{depth}_{w}x_sk{0|1}.pth`: the last norm of the head has a shift of zeros.
fn simclr_v2_file(spec: &EncoderSpec, head: &HeadSpec) -> Vec<u8> {
    let all = network(spec, Some(head));
    let encoder = |name: &str| {
        let ours = !name.starts_with("head.");
        ours.then(|| simclr_v2(name, spec.selective_kernel))
    };
    let (encoder, mut storage) = views(&all, encoder);
    let (mut layers, rest) = views(&all, simclr_v2_head);
    let moved = storage.len() as u64;
    for (_, item) in &mut layers {
        if let Item::View(view) = item
            && view.storage == 0
        {
            view.offset += moved;
        }
    }
    storage.extend(rest);
    let shift = View {
        storage: 0,
        offset: storage.len() as u64,
        shape: vec![head.dim.into()],
        stride: vec![1],
    };
    storage.extend(vec![0.0; head.dim as usize]);
    layers.push(("layers.7.bias".to_owned(), Item::View(shift)));
    let root = Item::Dict(vec![
        ("resnet".to_owned(), Item::Dict(encoder)),
        ("head".to_owned(), Item::Dict(layers)),
    ]);
    save(&root, &storage)
}

/// A second storage holds one count of batches.
pub(crate) fn save(root: &Item, storage: &[f32]) -> Vec<u8> {
    pth::file(
        root,
        &[Storage::Float(storage.to_vec()), Storage::Long(vec![7])],
    )
}

pub(crate) fn read(file: Vec<u8>) -> Result<Imported, ImportError> {
    import::read(&Bytes::from(file), None)
}

#[track_caller]
fn same(found: &Tensors, expected: &BTreeMap<String, (Vec<u64>, Vec<f32>)>) {
    let names = |tensors: Vec<&String>| tensors.into_iter().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(found.keys().collect()),
        names(expected.keys().collect())
    );
    for (name, (shape, numbers)) in expected {
        let expected = TensorBytes {
            dtype: Dtype::F32,
            shape: shape.clone(),
            bytes: little(numbers).into(),
        };
        assert_eq!(found[name], expected, "{name}");
    }
}

#[test]
fn torchvisions_and_v1s_files_are_read_as_they_are() {
    for (spec, wrapped, scheme) in [
        (encoder(Depth::D18, 0.0625), None, Scheme::Torchvision),
        (encoder(Depth::D50, 0.0625), None, Scheme::Torchvision),
        (
            encoder(Depth::D50, 0.125),
            Some("state_dict"),
            Scheme::SimclrV1,
        ),
    ] {
        let tensors = network(&spec, None);
        let (entries, storage) = views(&tensors, |name| Some(name.to_owned()));
        let mut root = Item::Dict(entries);
        if let Some(key) = wrapped {
            let epoch = ("epoch".to_owned(), Item::Number(90));
            root = Item::Dict(vec![epoch, (key.to_owned(), root)]);
        }
        let imported = read(save(&root, &storage)).expect("reads");
        assert_eq!(imported.scheme, scheme);
        same(&imported.tensors, &tensors);
        let network = imported.network().expect("is recognised");
        let max_pool = match scheme {
            Scheme::SimclrV1 => MaxPool::Tensorflow,
            _ => MaxPool::Torch,
        };
        assert_eq!(
            network.encoder,
            EncoderSpec {
                max_pool,
                ..spec.clone()
            }
        );
        assert_eq!(
            network.classifier.map(|fc| fc.classes.len() as u64),
            Some(CLASSES)
        );
        assert_eq!(network.head, None);
        assert_eq!(fit::check(&imported.tensors, &spec, None), Ok(()));
    }
}

#[test]
fn v2s_files_are_read_with_their_heads() {
    let head = head();
    for spec in [
        encoder(Depth::D50, 0.0625),
        encoder(Depth::D101, 0.0625),
        selective(Depth::D50, 0.0625),
        selective(Depth::D152, 0.03125),
    ] {
        let imported = read(simclr_v2_file(&spec, &head)).expect("reads");
        assert_eq!(imported.scheme, Scheme::SimclrV2);
        same(&imported.tensors, &network(&spec, Some(&head)));
        let network = imported.network().expect("is recognised");
        let max_pool = MaxPool::Tensorflow;
        assert_eq!(
            network.encoder,
            EncoderSpec {
                max_pool,
                ..spec.clone()
            }
        );
        assert_eq!(network.head.as_ref(), Some(&head));
        assert_eq!(
            fit::check(&imported.tensors, &spec, Some((&head, 3))),
            Ok(())
        );
    }
}

/// The names that simclr's own documentation of the conversions gives, spelt out.
#[test]
fn v2s_names_are_the_published_ones() {
    let names = |spec: &EncoderSpec| -> Vec<String> {
        let all = network(spec, Some(&head()));
        all.keys()
            .map(|name| simclr_v2(name, spec.selective_kernel))
            .collect()
    };
    let plain = names(&encoder(Depth::D50, 0.0625));
    for name in [
        "net.0.1.0.running_var",
        "net.1.blocks.0.projection.shortcut.weight",
        "net.4.blocks.2.net.5.0.bias",
    ] {
        assert!(plain.contains(&name.to_owned()), "{name}");
    }
    let selective = names(&selective(Depth::D50, 0.0625));
    for name in [
        "net.0.4.weight",
        "net.2.blocks.0.projection.shortcut.2.weight",
        "net.2.blocks.3.net.2.mixing_conv.2.weight",
        "net.3.blocks.5.net.4.0.running_mean",
    ] {
        assert!(selective.contains(&name.to_owned()), "{name}");
    }
}

#[test]
fn every_network_is_recognised_by_its_tensors() {
    for depth in Depth::ALL {
        for selective_kernel in [false, true] {
            for stem in [Stem::Cifar, Stem::ImageNet] {
                for basic_shortcut in [BasicShortcut::Identity, BasicShortcut::Projection] {
                    let spec = EncoderSpec {
                        stem,
                        basic_shortcut,
                        selective_kernel,
                        ..encoder(depth, 0.03125)
                    };
                    let tensor = |info: TensorInfo| {
                        let bytes = vec![0; 4 * info.elements() as usize].into();
                        let (dtype, shape) = (Dtype::F32, info.shape);
                        (
                            info.name,
                            TensorBytes {
                                dtype,
                                shape,
                                bytes,
                            },
                        )
                    };
                    let tensors: Tensors = encoder_tensors(&spec).into_iter().map(tensor).collect();
                    // What tensors do not say is taken from the other network.
                    let like = EncoderSpec {
                        basic_shortcut,
                        ..EncoderSpec::torchvision(Depth::D50)
                    };
                    assert_eq!(Form::of(&tensors, &like).encoder, Some(spec));
                }
            }
        }
    }
}

#[test]
fn a_shift_that_is_not_zero_is_not_dropped() {
    let file = simclr_v2_file(&encoder(Depth::D50, 0.0625), &head());
    let whole = read(file).expect("reads").tensors;
    assert!(!whole.contains_key("head.2.bn.bias"));
    let spec = encoder(Depth::D50, 0.0625);
    let mut tensors = whole;
    let shift = tensors["head.2.bn.weight"].clone();
    tensors.insert("head.2.bn.bias".to_owned(), shift);
    let misfit = fit::check(&tensors, &spec, Some((&head(), 3))).expect_err("differs");
    assert_eq!(misfit.extra, ["head.2.bn.bias"]);
    assert_eq!(
        fit::check(&tensors, &spec, None),
        Ok(()),
        "the head counts only where it is used"
    );
}

#[test]
fn every_difference_is_listed_with_the_fields_that_would_fit() {
    let held = encoder(Depth::D34, 0.125);
    let tensors = network(&held, None);
    let (entries, storage) = views(&tensors, |name| Some(name.to_owned()));
    let imported = read(save(&Item::Dict(entries), &storage)).expect("reads");
    let asked = EncoderSpec {
        basic_shortcut: BasicShortcut::Projection,
        ..encoder(Depth::D18, 0.0625)
    };
    let misfit = fit::check(&imported.tensors, &asked, None).expect_err("differs");
    assert_eq!(
        misfit.instead.as_deref(),
        Some("encoder: {basic_shortcut: identity, depth: 34, width: 0.125}")
    );
    assert!(
        misfit
            .missing
            .contains(&"layer1.0.downsample.0.weight".to_owned())
    );
    assert!(
        misfit
            .extra
            .contains(&"layer3.5.bn2.running_var".to_owned())
    );
    let stem = misfit
        .shapes
        .iter()
        .find(|shapes| shapes.name == "conv1.weight")
        .expect("listed");
    assert_eq!(
        (&stem.found[..], &stem.expected[..]),
        (&[8, 3, 7, 7][..], &[4, 3, 7, 7][..])
    );
    let told = misfit.to_string();
    let all = misfit.missing.iter().chain(&misfit.extra);
    for name in all.chain(misfit.shapes.iter().map(|shapes| &shapes.name)) {
        assert!(told.contains(name), "{name} is not in {told}");
    }
    // The stem alone makes another network, too.
    let cifar = EncoderSpec {
        stem: Stem::Cifar,
        ..held
    };
    let misfit = fit::check(&imported.tensors, &cifar, None).expect_err("differs");
    assert_eq!(misfit.shapes.len(), 1);
    assert_eq!(misfit.instead.as_deref(), Some("encoder: {stem: imagenet}"));
}
