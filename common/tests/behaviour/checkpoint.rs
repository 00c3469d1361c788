use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use diptych_common::checkpoint::{
    CheckpointReader, CheckpointRef, Classifier, Dtype, Keep, LoadError, Manifest,
    NetworkDescription, PhaseWord, Preprocessing, Role, StoredObject, TensorMeta, export,
    partition, shard,
};
use diptych_common::digest::Digest;
use diptych_common::ids::{Attempt, PhaseIndex, Rank, Step};
use diptych_common::network::{classifier_tensors, encoder_tensors, features, head_tensors};
use diptych_common::spec::{Depth, EncoderSpec, HeadSpec, Resampling, Stem};
use diptych_common::store;
use object_store::ObjectStore;
use object_store::path::Path;

const ENCODER: EncoderSpec = EncoderSpec {
    width: 0.0625,
    stem: Stem::Cifar,
    ..EncoderSpec::torchvision(Depth::D18)
};
const HEAD: HeadSpec = HeadSpec { layers: 2, dim: 8 };

/// A checkpoint of two shards in a temporary folder.
struct Saved {
    directory: tempfile::TempDir,
    store: Arc<dyn ObjectStore>,
    root: Path,
    manifest: Manifest,
    reference: CheckpointRef,
}

/// The state of a fine-tuned network whose classifier reads the head's first layer.
fn state() -> Vec<TensorMeta> {
    let mut network = encoder_tensors(&ENCODER);
    network.extend(head_tensors(&ENCODER, &HEAD));
    network.extend(classifier_tensors(features(&ENCODER), 3));
    let meta = |name: String, shape: &[u64], role| TensorMeta {
        name,
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        role,
    };
    let momentum: Vec<TensorMeta> = network
        .iter()
        .map(|t| meta(format!("momentum.{}", t.name), &t.shape, Role::Momentum))
        .collect();
    network
        .into_iter()
        .map(|t| meta(t.name, &t.shape, t.role))
        .chain(momentum)
        .collect()
}

/// Bytes that tell tensors apart.
fn content(tensor: &TensorMeta) -> Vec<u8> {
    let seed = Digest::of(tensor.name.as_bytes());
    seed.as_bytes()
        .iter()
        .copied()
        .cycle()
        .take(tensor.bytes() as usize)
        .collect()
}

async fn save(world: u32) -> Saved {
    let directory = tempfile::tempdir().expect("temporary folder");
    let url = format!("file://{}", directory.path().display());
    let (store, root) = store::open_writable(&url).expect("opens");
    let state = state();
    let mut manifest = Manifest {
        version: Manifest::VERSION,
        job: "job-000000".parse().expect("a name"),
        phase: PhaseIndex::new(1),
        name: "tuned".parse().expect("a name"),
        kind: PhaseWord::Finetune,
        attempt: Attempt::new(1),
        step: Step::new(9),
        world,
        spec: Digest::of(b"spec"),
        data: Digest::of(b"data"),
        parent: None,
        network: NetworkDescription {
            encoder: ENCODER,
            head: Some(HEAD),
            classifier: Some(Classifier {
                classes: ["a", "b", "c"].map(str::to_owned).to_vec(),
                head_layer: 1,
            }),
        },
        preprocessing: Preprocessing {
            image_size: 16,
            crop_proportion: 1.0,
            resampling: Resampling::AntialiasedBilinear,
        },
        results: BTreeMap::from([("eval_top1".to_owned(), 0.5)]),
        tensors: partition::table(&state, world),
        objects: Vec::new(),
    };
    let ranks = partition::assign(&state, world);
    for rank in 0..world {
        let part: Vec<(&TensorMeta, Vec<u8>)> = state
            .iter()
            .zip(&ranks)
            .filter(|(_, r)| **r == rank)
            .map(|(t, _)| (t, content(t)))
            .collect();
        let part: Vec<(&TensorMeta, &[u8])> = part
            .iter()
            .map(|(t, bytes)| (*t, bytes.as_slice()))
            .collect();
        let file = Bytes::from(shard::encode(&part).expect("encodes"));
        let key = manifest.key().shard(Rank::new(rank));
        manifest.objects.push(StoredObject {
            key: key.clone(),
            size: file.len() as u64,
            digest: Digest::of(&file),
        });
        store::put_create(&*store, &store::join(&root, &key), file)
            .await
            .expect("writes");
    }
    let (bytes, digest) = manifest.encode().expect("consistent");
    let reference = manifest.reference(digest);
    let key = store::join(&root, &reference.manifest.to_string());
    store::put_create(&*store, &key, bytes.into())
        .await
        .expect("writes");
    Saved {
        directory,
        store,
        root,
        manifest,
        reference,
    }
}

impl Saved {
    async fn open(&self) -> Result<CheckpointReader, LoadError> {
        CheckpointReader::open(Arc::clone(&self.store), self.root.clone(), &self.reference).await
    }

    fn file(&self, key: &str) -> PathBuf {
        self.directory.path().join(key)
    }

    fn damage(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(self.file(key)).expect("reads");
        change(&mut bytes);
        std::fs::write(self.file(key), bytes).expect("writes");
    }
}

#[tokio::test]
async fn what_was_saved_by_any_number_of_ranks_is_loaded() {
    for world in [1, 2, 3] {
        let saved = save(world).await;
        let reader = saved.open().await.expect("opens");
        assert_eq!(reader.manifest(), &saved.manifest);
        reader.verify().await.expect("is whole");
        let all = reader.load(|_| true).await.expect("loads");
        assert_eq!(all.len(), state().len());
        for tensor in state() {
            assert_eq!(all[&tensor.name].bytes, content(&tensor), "{}", tensor.name);
        }
        let one = reader
            .load(|tensor| tensor.name == "fc.bias")
            .await
            .expect("loads");
        assert_eq!(one.keys().collect::<Vec<_>>(), ["fc.bias"]);
    }
}

#[tokio::test]
async fn damaged_objects_are_named() {
    let shard = |saved: &Saved| saved.manifest.objects[1].key.clone();
    let missing = save(2).await;
    std::fs::remove_file(missing.file(&shard(&missing))).expect("removes");
    let truncated = save(2).await;
    truncated.damage(&shard(&truncated), |bytes| bytes.truncate(bytes.len() - 1));
    let flipped = save(2).await;
    flipped.damage(&shard(&flipped), |bytes| bytes[4000] ^= 1);
    type IsKind = fn(&LoadError) -> bool;
    let cases: [(Saved, IsKind); 3] = [
        (missing, |error| matches!(error, LoadError::Missing { .. })),
        (truncated, |error| matches!(error, LoadError::Size { .. })),
        (flipped, |error| matches!(error, LoadError::Digest { .. })),
    ];
    for (saved, is_kind) in cases {
        let reader = saved.open().await.expect("the manifest is whole");
        let verify = reader.verify().await.expect_err("is damaged");
        let load = reader.load(|_| true).await.expect_err("is damaged");
        for error in [verify, load] {
            assert!(is_kind(&error) && error.is_damage(), "{error}");
            assert!(error.to_string().contains("shard-00001"), "{error}");
        }
    }
}

#[tokio::test]
async fn manifests_that_are_not_the_one_meant_are_refused() {
    let saved = save(1).await;
    let key = saved.reference.manifest.to_string();
    let wrong_step = CheckpointRef {
        step: Step::new(8),
        ..saved.reference.clone()
    };
    let opened =
        CheckpointReader::open(Arc::clone(&saved.store), saved.root.clone(), &wrong_step).await;
    assert!(
        matches!(opened, Err(LoadError::Manifest { .. })),
        "{opened:?}"
    );
    saved.damage(&key, |bytes| bytes.push(b' '));
    assert!(matches!(saved.open().await, Err(LoadError::Digest { .. })));
    std::fs::remove_file(saved.file(&key)).expect("removes");
    let error = saved.open().await.expect_err("is gone");
    assert!(
        matches!(&error, LoadError::Missing { key } if key.ends_with("manifest.json")),
        "{error}"
    );
}

#[tokio::test]
async fn an_export_holds_what_torchvision_wants_and_says_where_it_is_from() {
    let saved = save(2).await;
    let reader = saved.open().await.expect("opens");
    let tensors = reader
        .load(|tensor| export::wanted(&saved.manifest, tensor, Keep::Network))
        .await
        .expect("loads");
    let file = Bytes::from(
        export::write(&saved.manifest, saved.reference.digest, &tensors).expect("writes"),
    );
    let names = safetensors::SafeTensors::deserialize(&file)
        .expect("reads")
        .names()
        .len();
    let norms = tensors
        .keys()
        .filter(|name| name.ends_with("running_mean"))
        .count();
    assert_eq!(names, tensors.len() + norms);
    assert!(tensors.contains_key("head.0.weight") && !tensors.contains_key("head.1.weight"));
    assert!(!tensors.keys().any(|name| name.starts_with("momentum.")));

    let imported = export::read(&file).expect("reads");
    assert_eq!(imported.tensors, tensors);
    let info = imported.info.expect("is described");
    assert_eq!(
        (&info.network, info.checkpoint),
        (&saved.manifest.network, saved.reference.digest)
    );
    assert_eq!(info.preprocessing, saved.manifest.preprocessing);
    assert!(export::read(&file.slice(..100)).is_err());
}

#[tokio::test]
async fn a_pretrained_head_is_exported_on_demand_only() {
    let saved = save(1).await;
    let mut manifest = saved.manifest.clone();
    manifest.network.classifier = None;
    let reader = saved.open().await.expect("opens");
    for (keep, layers) in [(Keep::Network, 0), (Keep::NetworkAndHead, 2)] {
        let tensors = reader
            .load(|tensor| export::wanted(&manifest, tensor, keep))
            .await
            .expect("loads");
        let file = export::write(&manifest, saved.reference.digest, &tensors).expect("writes");
        let imported = export::read(&file.into()).expect("reads");
        assert_eq!(export::head_layers(imported.tensors.keys()), layers);
        let info = imported.info.expect("is described");
        assert_eq!(info.network.head.is_some(), layers > 0);
        assert!(!imported.tensors.contains_key("fc.weight"));
    }
}
