//! Loaders over real files: what the promises of the order and the layout come to.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use diptych_common::ids::{PhaseIndex, Rank};
use diptych_common::spec::{AugmentSpec, BlurSigma, DataFormat, DataSpec, Labels};
use diptych_common::units::Bytes;
use diptych_images::augment::preprocessing;
use diptych_images::shard::SampleId;
use tch::Device;

use super::{
    EvalLoader, EvalOptions, Layout, LoadError, Loader, LoaderOptions, OrderError, Originals,
    Place, Settling, Shortage, Source, Stop, Stream,
};

const IMAGES: usize = 30;
const SIDE: usize = 12;

/// Thirty pictures in three classes; `broken` are no images.
fn write(folder: &Path, broken: &[usize]) -> DataSpec {
    for number in 0..IMAGES {
        let class = folder.join(format!("class-{}", number % 3));
        std::fs::create_dir_all(&class).expect("the test's folder can be written");
        let mut file = Vec::new();
        if broken.contains(&number) {
            file.extend(b"not a picture");
        } else {
            let mut encoder = png::Encoder::new(&mut file, SIDE as u32, SIDE as u32);
            encoder.set_color(png::ColorType::Rgb);
            let pixels: Vec<u8> = (0..3 * SIDE * SIDE)
                .map(|i| (i * (number + 3) % 251) as u8)
                .collect();
            let mut writer = encoder.write_header().expect("a legal header");
            writer.write_image_data(&pixels).expect("a whole picture");
        }
        std::fs::write(class.join(format!("{number:02}.png")), file)
            .expect("the test's folder can be written");
    }
    DataSpec {
        name: "train".parse().expect("a legal name"),
        url: format!("file://{}", folder.display()),
        format: DataFormat::Folder,
        image_column: None,
        label_column: None,
        classes: None,
        limit: None,
    }
}

fn options(steps: Range<u64>) -> LoaderOptions {
    LoaderOptions {
        seed: 5,
        phase: PhaseIndex::new(1),
        stream: Stream::Main,
        views: 2,
        augment: AugmentSpec {
            crop_area: (0.2, 1.0),
            blur_probability: 0.5,
            // What all ranks share must not depend on how many there are, either.
            blur_sigma: BlurSigma::View,
            ..AugmentSpec::simclr_small(8)
        },
        place: Place::Host,
        shortage: Shortage::Refuse,
        groups_at_once: 2,
        max_bad_images: 0.1,
        threads: 2,
        pinned: false,
        ahead: 2,
        steps,
    }
}

/// Every row of the steps, by what it is: the sample, its label, its pixels.
type Rows = BTreeMap<(u64, u32, u32), (SampleId, i64, Vec<f32>)>;

/// What all ranks of a gang load, and the names that they report as bad.
fn load(source: &Source, world: u32, options: &LoaderOptions) -> (Rows, Vec<String>) {
    let layout = Layout::new(24, 8, 2, world).expect("a legal layout");
    let (mut all, mut bad) = (Rows::new(), Vec::new());
    for rank in 0..world {
        let loader = Loader::start(source, layout, Rank::new(rank), options.clone())
            .expect("the loader starts");
        while let Some(batch) = loader.next_step().expect("a step") {
            bad.extend(batch.bad.into_iter().map(|bad| bad.name));
            for micro in batch.micro_batches {
                let images = micro.images.views(Device::Cpu).expect("views");
                let labels = Vec::<i64>::try_from(micro.labels.expect("the folders are classes"))
                    .expect("i64");
                for (at, row) in micro.rows.iter().enumerate() {
                    let pixels = images.get(at as i64).flatten(0, -1);
                    let value = (
                        micro.samples[at],
                        labels[at],
                        Vec::<f32>::try_from(pixels).expect("f32"),
                    );
                    let before = all.insert((batch.step.get(), row.view, row.position), value);
                    assert!(
                        before.is_none(),
                        "two ranks hold {row:?} of step {}",
                        batch.step
                    );
                }
            }
        }
    }
    bad.sort();
    bad.dedup();
    (all, bad)
}

#[test]
fn any_gang_loads_the_same_rows() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let spec = write(folder.path(), &[4, 5]);
    let open = || Source::open(&spec, &Stop::new()).expect("the data opens");
    let (alone, bad) = load(&open(), 1, &options(0..4));
    assert_eq!(alone.len(), 4 * 2 * 24);
    assert_eq!(bad, ["class-1/04.png", "class-2/05.png"]);
    assert!(
        alone
            .values()
            .all(|(sample, ..)| !bad.contains(&open().index().name(*sample).to_owned()))
    );
    for world in 2..=4 {
        for groups_at_once in [1, 2] {
            let options = LoaderOptions {
                groups_at_once,
                threads: 1,
                ..options(0..4)
            };
            let (shared, found) = load(&open(), world, &options);
            assert!(
                shared == alone,
                "{world} ranks, {groups_at_once} groups at once"
            );
            assert_eq!(found, bad);
        }
    }
}

#[test]
fn views_made_on_the_device_are_the_same_rows() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = Source::open(&write(folder.path(), &[7]), &Stop::new()).expect("the data opens");
    let on_host = options(0..3);
    let made = |place| LoaderOptions {
        place,
        ..on_host.clone()
    };
    let (host, bad) = load(&source, 2, &on_host);
    let (device, also_bad) = load(&source, 3, &made(Place::Device));
    assert_eq!((host.len(), &bad), (device.len(), &also_bad));
    let originals = Originals::settle(&source, settling(0.1)).expect("they settle");
    let resident = Place::Resident(Arc::new(originals));
    for (world, groups_at_once) in [(1, 1), (4, 2)] {
        let [cut, settled] = [Place::Device, resident.clone()].map(|place| {
            let options = LoaderOptions {
                groups_at_once,
                ..made(place)
            };
            load(&source, world, &options)
        });
        assert!(cut == settled, "{world} ranks, {groups_at_once} at once");
        assert_eq!(settled.1, bad);
    }
    for (key, (sample, label, pixels)) in &host {
        let (other_sample, other_label, other) = &device[key];
        assert_eq!((sample, label), (other_sample, other_label));
        let near = pixels.iter().zip(other).all(|(a, b)| (a - b).abs() < 2e-5);
        assert!(near, "{key:?}");
    }
}

fn settling(max_bad_images: f64) -> Settling {
    Settling {
        device: Device::Cpu,
        most: Bytes::new(u64::MAX),
        max_bad_images,
        threads: 2,
    }
}

#[test]
fn resident_images_are_refused_where_they_have_no_room_or_too_many_are_bad() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = |broken: &[usize]| {
        Source::open(&write(folder.path(), broken), &Stop::new()).expect("the data opens")
    };
    let image = 3 * (SIDE * SIDE) as u64;
    let within = |images: u64| Settling {
        most: Bytes::new(images * image),
        ..settling(0.1)
    };
    let source = open(&[2, 9]);
    let settled = Originals::settle(&source, within(28)).expect("28 are good");
    assert_eq!(settled.bytes(), Bytes::new(28 * image));
    let refused = Originals::settle(&source, within(27)).expect_err("one too many");
    assert_eq!(
        refused,
        LoadError::NoRoom {
            images: 30,
            bytes: Bytes::new(28 * image),
            most: Bytes::new(27 * image),
        }
    );
    let refused = Originals::settle(&source, settling(0.05)).expect_err("two are bad");
    assert!(
        matches!(
            refused,
            LoadError::TooManyBad {
                bad: 2,
                most: 1,
                ..
            }
        ),
        "{refused:?}"
    );
    let stop = Stop::new();
    stop.stop();
    let refused = Originals::settle(&source.under(&stop), settling(0.1)).expect_err("stopped");
    assert_eq!(refused, LoadError::Aborted);
}

#[test]
fn a_loader_enters_at_any_step() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = Source::open(&write(folder.path(), &[]), &Stop::new()).expect("the data opens");
    let (whole, _) = load(&source, 2, &options(0..6));
    let (resumed, _) = load(&source, 3, &options(4..6));
    assert!(resumed.iter().all(|(key, row)| whole.get(key) == Some(row)));
    assert_eq!(resumed.len(), 2 * 2 * 24);
}

#[test]
fn the_two_views_and_the_labels_belong_to_one_image() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = Source::open(&write(folder.path(), &[]), &Stop::new()).expect("the data opens");
    let (rows, _) = load(&source, 1, &options(0..2));
    for ((step, view, position), (sample, label, pixels)) in &rows {
        let (partner, _, other) = &rows[&(*step, 1 - view, *position)];
        assert_eq!(sample, partner);
        assert_ne!(pixels, other, "views differ");
        assert_eq!(source.index().label(*sample), u32::try_from(*label).ok());
    }
}

#[test]
fn too_many_bad_images_are_an_error_that_names_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source =
        Source::open(&write(folder.path(), &[0, 1, 2, 3]), &Stop::new()).expect("the data opens");
    let layout = Layout::new(24, 8, 2, 1).expect("a legal layout");
    let loader =
        Loader::start(&source, layout, Rank::new(0), options(0..4)).expect("the loader starts");
    let error = (0..4)
        .find_map(|_| loader.next_step().err())
        .expect("it fails");
    let LoadError::TooManyBad {
        bad: 4,
        samples: 30,
        most: 3,
        examples,
    } = &error
    else {
        panic!("another error: {error}")
    };
    assert!(
        examples
            .iter()
            .any(|example| example.contains("class-0/00.png")),
        "{examples:?}"
    );
    assert!(!error.is_transient());
}

#[test]
fn few_images_are_refused_or_wrap() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = Source::open(&write(folder.path(), &[]), &Stop::new()).expect("the data opens");
    let few = source
        .labelled(&Labels::PerClass { count: 2, seed: 0 })
        .expect("enough labels");
    assert_eq!(few.len(), 6);
    let layout = Layout::new(24, 8, 2, 1).expect("a legal layout");
    let refused =
        Loader::start(&few, layout, Rank::new(0), options(0..1)).expect_err("too few to contrast");
    assert_eq!(
        refused,
        LoadError::Order(OrderError::TooFew {
            samples: 6,
            batch: 24
        })
    );
    let (rows, _) = load(
        &few,
        1,
        &LoaderOptions {
            shortage: Shortage::Wrap,
            ..options(0..1)
        },
    );
    let mut seen = BTreeMap::new();
    for (sample, ..) in rows.values() {
        *seen.entry(*sample).or_insert(0) += 1;
    }
    assert_eq!(
        seen.into_values().collect::<Vec<_>>(),
        [8; 6],
        "four passes of two views"
    );
}

#[test]
fn a_stopped_loader_frees_who_waits() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stop = Stop::new();
    let spec = write(folder.path(), &[]);
    let source = Source::open(&spec, &stop).expect("the data opens");
    let layout = Layout::new(24, 8, 2, 1).expect("a legal layout");
    let loader = Loader::start(&source, layout, Rank::new(0), options(0..u64::MAX))
        .expect("the loader starts");
    let reading = EvalOptions {
        preprocessing: preprocessing(&AugmentSpec::plain(8)),
        batch: 4,
        max_bad_images: 0.1,
        threads: 1,
        ahead: 1,
    };
    let evaluation =
        EvalLoader::start(&source, Rank::new(0), 1, reading).expect("the loader starts");
    stop.stop();
    assert_eq!(loader.next_step().err(), Some(LoadError::Aborted));
    assert_eq!(evaluation.next_batch().err(), Some(LoadError::Aborted));
    assert_eq!(Source::open(&spec, &stop).err(), Some(LoadError::Aborted));
}

#[test]
fn evaluation_takes_every_good_image_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = Source::open(&write(folder.path(), &[7]), &Stop::new()).expect("the data opens");
    let options = EvalOptions {
        preprocessing: preprocessing(&AugmentSpec::plain(8)),
        batch: 4,
        max_bad_images: 0.1,
        threads: 2,
        ahead: 2,
    };
    let (mut seen, mut bad) = (Vec::new(), Vec::new());
    for rank in 0..3 {
        let loader =
            EvalLoader::start(&source, Rank::new(rank), 3, options).expect("the loader starts");
        while let Some(batch) = loader.next_batch().expect("a batch") {
            assert_eq!(batch.images.size(), [batch.samples.len() as i64, 3, 8, 8]);
            let labels = Vec::<i64>::try_from(batch.labels.expect("labelled")).expect("i64");
            for (&sample, label) in batch.samples.iter().zip(labels) {
                assert_eq!(source.index().label(sample), u32::try_from(label).ok());
            }
            seen.extend(batch.samples);
            bad.extend(batch.bad.into_iter().map(|bad| bad.name));
        }
    }
    assert_eq!(seen.len(), IMAGES - 1);
    assert!(seen.is_sorted(), "in the order of the data");
    assert_eq!(bad, ["class-1/07.png"]);
}
