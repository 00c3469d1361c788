//! A save through the real path: snapshot, shard, manifest; then the verified load.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use diptych_common::checkpoint::{
    CheckpointKey, Manifest, NetworkDescription, PhaseWord, Preprocessing, partition,
};
use diptych_common::digest::Digest;
use diptych_common::ids::{Attempt, PhaseIndex, Rank, Step};
use diptych_common::spec::{OptimizerSpec, Precision, Resampling, Rule, Scaling};

use super::gpu;
use super::step::Network;
use crate::checkpoint::flat::describe;
use crate::checkpoint::{FileLayout, Saved, Saver, Storage, load};
use crate::device::{Compute, DeviceChoice};
use crate::optim::Optimizer;
use crate::project::Model;

/// Saves whose stall is measured; the middle one counts.
const SAVES: u64 = 5;

/// What is saved and where.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckpointArgs {
    /// The network, with a classifier of 1000 classes and momentum.
    #[arg(long, value_enum, default_value = "resnet50")]
    model: Network,
    /// Folder for the checkpoints.
    #[arg(long)]
    dir: PathBuf,
    /// Where the network is: `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value_t = DeviceChoice::Cpu)]
    device: DeviceChoice,
}

/// Measures how long training waits for a save, the save itself and the load.
///
/// # Errors
/// A folder that cannot be written.
pub(super) fn run(args: &CheckpointArgs) -> anyhow::Result<()> {
    let device = args.device.open()?;
    std::fs::create_dir_all(&args.dir).with_context(|| format!("make {}", args.dir.display()))?;
    let storage = Storage::open(&format!("file://{}", args.dir.canonicalize()?.display()))?;
    let spec = args.model.spec(224, Some(1000));
    let model = Model::new(&spec, 0, Compute::on(device, Precision::Fp32))?;
    let optimizer = Optimizer::new(&sgd(), &model)?;
    let mut state = model.named_tensors();
    state.extend(optimizer.named_tensors());
    let tensors = describe(&state)?;
    let layout = FileLayout::new(&tensors.iter().collect::<Vec<_>>());
    let mib = layout.size() as f64 / f64::from(1 << 20);
    let mut saver = Saver::start(storage.clone(), layout)?;

    let (mut stalls, mut saves, mut last) = (Vec::new(), Vec::new(), None);
    for step in 1..=SAVES {
        let key = CheckpointKey {
            job: "bench".parse()?,
            phase: PhaseIndex::new(0),
            name: "checkpoint".parse()?,
            step: Step::new(step),
            // Every run writes under an attempt of its own: objects are never written twice.
            attempt: Attempt::new(diptych_common::clock::unix_millis(
                diptych_common::clock::now(),
            )),
        };
        let started = Instant::now();
        stalls.push(
            saver
                .save_part(key.step, key.shard(Rank::new(0)), &state)?
                .as_secs_f64(),
        );
        let object = loop {
            match saver.wait(Duration::from_secs(1))? {
                Some(Saved::Part { object, .. }) => break object,
                Some(Saved::Failed { error, .. }) => return Err(error.into()),
                Some(Saved::Manifest(_)) | None => {}
            }
        };
        let manifest = Manifest {
            version: Manifest::VERSION,
            job: key.job.clone(),
            phase: key.phase,
            name: key.name.clone(),
            kind: PhaseWord::Pretrain,
            attempt: key.attempt,
            step: key.step,
            world: 1,
            spec: Digest::of(b"bench"),
            data: Digest::of(b"bench"),
            parent: None,
            network: NetworkDescription {
                encoder: spec.encoder.clone(),
                head: None,
                classifier: None,
            },
            preprocessing: Preprocessing {
                image_size: 224,
                crop_proportion: 0.875,
                resampling: Resampling::default(),
            },
            results: BTreeMap::new(),
            tensors: partition::table(&tensors, 1),
            objects: vec![object],
        };
        let (bytes, digest) = manifest.encode()?;
        let reference = manifest.reference(digest);
        saver.save_manifest(reference.clone(), Bytes::from(bytes))?;
        loop {
            match saver.wait(Duration::from_secs(1))? {
                Some(Saved::Manifest(_)) => break,
                Some(Saved::Failed { error, .. }) => return Err(error.into()),
                Some(Saved::Part { .. }) | None => {}
            }
        }
        saves.push(started.elapsed().as_secs_f64());
        last = Some(reference);
    }
    let reference = last.context("nothing was saved")?;
    let started = Instant::now();
    let loaded = load::load(&storage, &reference, |_| true)?;
    for tensor in &state {
        tensor.load(&loaded.tensors)?;
    }
    let load_s = started.elapsed().as_secs_f64();
    let figures = serde_json::json!({
        "device": gpu::name(device),
        "mib": mib,
        "stall_s": super::median(stalls),
        "save_s": super::median(saves),
        "load_s": load_s,
    });
    super::report("checkpoint", figures)
}

fn sgd() -> OptimizerSpec {
    OptimizerSpec {
        rule: Rule::Sgd { momentum: 0.9 },
        learning_rate: 0.1,
        scaling: Scaling::None,
        warmup_epochs: 0.0,
        weight_decay: 0.0,
    }
}
