//! A thousand checkpoints damaged while they are written, while they lie in the store and while they are read: each is
//! either loaded exactly as it was or refused by an error that names the object, and the one before it still loads.
//!
//! `TORN_SEED=n` plays another thousand.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use diptych_common::checkpoint::{
    CheckpointReader, CheckpointRef, Dtype, LoadError, Manifest, NetworkDescription, PhaseWord,
    Preprocessing, Role, StoredObject, TensorMeta, partition, shard,
};
use diptych_common::digest::Digest;
use diptych_common::ids::{Attempt, PhaseIndex, Rank, Step};
use diptych_common::spec::{Depth, EncoderSpec, Resampling};
use diptych_common::store::{self, PART, StoreError};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::faulty::{Calls, Fault, Faulty};

const TRIALS: usize = 1000;
/// Of them, those with shards that go up in parts.
const LARGE: usize = 24;

/// A checkpoint as its writer means it.
struct Meant {
    manifest: Manifest,
    shards: Vec<(String, Bytes)>,
    contents: BTreeMap<String, Vec<u8>>,
    encoded: Bytes,
    reference: CheckpointRef,
}

impl Meant {
    fn new(dice: &mut ChaCha8Rng, job: &str, step: u64, large: bool) -> Self {
        let world = dice.random_range(1..=3);
        let tensors = tensors(dice, large);
        let contents: BTreeMap<String, Vec<u8>> = tensors
            .iter()
            .map(|tensor| {
                let mut bytes = vec![0; tensor.bytes() as usize];
                dice.fill(bytes.as_mut_slice());
                (tensor.name.clone(), bytes)
            })
            .collect();
        let mut manifest = manifest(job, step, world, &tensors);
        let ranks = partition::assign(&tensors, world);
        let mut shards = Vec::new();
        for rank in 0..world {
            let part: Vec<(&TensorMeta, &[u8])> = tensors
                .iter()
                .zip(&ranks)
                .filter(|(_, owner)| **owner == rank)
                .map(|(tensor, _)| (tensor, contents[&tensor.name].as_slice()))
                .collect();
            let file = Bytes::from(shard::encode(&part).expect("encodes"));
            let key = manifest.key().shard(Rank::new(rank));
            manifest.objects.push(StoredObject {
                key: key.clone(),
                size: file.len() as u64,
                digest: Digest::of(&file),
            });
            shards.push((key, file));
        }
        let (bytes, digest) = manifest.encode().expect("consistent");
        Self {
            reference: manifest.reference(digest),
            manifest,
            shards,
            contents,
            encoded: bytes.into(),
        }
    }

    /// As trainers do: every shard, then the manifest; nothing after a failure. Whether all was said to be written.
    async fn write(&self, store: &Faulty) -> Result<(), StoreError> {
        for (key, bytes) in &self.shards {
            store::put_create(store, &Path::from(key.as_str()), bytes.clone()).await?;
        }
        let manifest = Path::from(self.reference.manifest.to_string());
        store::put_create(store, &manifest, self.encoded.clone()).await
    }

    async fn load(&self, store: &Faulty) -> Result<(), LoadError> {
        let store: Arc<dyn ObjectStore> = Arc::new(store.clone());
        let reader = CheckpointReader::open(store, Path::default(), &self.reference).await?;
        assert_eq!(reader.manifest(), &self.manifest);
        let loaded = reader.load(|_| true).await?;
        assert_eq!(loaded.len(), self.contents.len());
        for (name, tensor) in loaded {
            assert!(
                tensor.bytes == self.contents[&name],
                "{name} has other bytes"
            );
        }
        Ok(())
    }

    fn keys(&self) -> Vec<String> {
        let shards = self.shards.iter().map(|(key, _)| key.clone());
        shards
            .chain([self.reference.manifest.to_string()])
            .collect()
    }
}

fn tensors(dice: &mut ChaCha8Rng, large: bool) -> Vec<TensorMeta> {
    let count = dice.random_range(3..9);
    let tensor = |n: usize| TensorMeta {
        name: format!("layer.{n}"),
        dtype: Dtype::ALL[dice.random_range(0..Dtype::ALL.len())],
        shape: vec![dice.random_range(1..40), dice.random_range(1..12)],
        role: Role::Weight,
    };
    let mut tensors: Vec<TensorMeta> = (0..count).map(tensor).collect();
    if large {
        tensors.push(TensorMeta {
            name: "large".to_owned(),
            dtype: Dtype::U8,
            shape: vec![PART as u64 + 77],
            role: Role::Weight,
        });
    }
    tensors
}

fn manifest(job: &str, step: u64, world: u32, tensors: &[TensorMeta]) -> Manifest {
    Manifest {
        version: Manifest::VERSION,
        job: job.parse().expect("a name"),
        phase: PhaseIndex::new(0),
        name: "pretrain".parse().expect("a name"),
        kind: PhaseWord::Pretrain,
        attempt: Attempt::new(1),
        step: Step::new(step),
        world,
        spec: Digest::of(b"spec"),
        data: Digest::of(b"data"),
        parent: None,
        network: NetworkDescription {
            encoder: EncoderSpec::torchvision(Depth::D18),
            head: None,
            classifier: None,
        },
        preprocessing: Preprocessing {
            image_size: 32,
            crop_proportion: 1.0,
            resampling: Resampling::AntialiasedBilinear,
        },
        results: BTreeMap::new(),
        tensors: partition::table(tensors, world),
        objects: Vec::new(),
    }
}

/// What can be wrong with bytes, at `place` of the eight kinds.
fn fault(dice: &mut ChaCha8Rng, kind: usize, other: &Bytes) -> Fault {
    match kind % 8 {
        0 => Fault::Truncated(dice.random()),
        1 => Fault::Flipped(dice.random()),
        2 => Fault::Vanished,
        3 => Fault::Replaced(other.clone()),
        4 => Fault::LostAnswer,
        5 => Fault::Torn(dice.random()),
        6 => Fault::Refused,
        _ => Fault::Full,
    }
}

/// Damages objects that lie in the store; the keys of those that changed.
async fn damage_at_rest(
    dice: &mut ChaCha8Rng,
    store: &Faulty,
    meant: &Meant,
    others: &[&Meant],
) -> Vec<String> {
    let keys = meant.keys();
    let at = |key: &str| Path::from(key);
    let put = async |key: &str, bytes: Bytes| {
        store
            .below()
            .put(&at(key), bytes.into())
            .await
            .expect("writes");
    };
    let key = keys[dice.random_range(0..keys.len())].clone();
    let bytes = store::get(store.below(), &at(&key))
        .await
        .expect("was written");
    let manifest = meant.reference.manifest.to_string();
    match dice.random_range(0..6) {
        0 => put(&key, bytes.slice(..dice.random_range(0..bytes.len()))).await,
        1 => {
            let mut flipped = bytes.to_vec();
            let bit = dice.random_range(0..flipped.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            put(&key, flipped.into()).await;
        }
        2 => store.below().delete(&at(&key)).await.expect("deletes"),
        3 => {
            let mut longer = bytes.to_vec();
            longer.push(dice.random());
            put(&key, longer.into()).await;
        }
        4 => {
            let other = &keys[dice.random_range(0..keys.len())];
            let there = store::get(store.below(), &at(other))
                .await
                .expect("was written");
            put(&key, there).await;
            put(other, bytes).await;
            let swapped = [key.clone(), other.clone()];
            return if key == *other {
                Vec::new()
            } else {
                swapped.to_vec()
            };
        }
        // A stale manifest, and one of another job.
        _ => {
            let other = others[dice.random_range(0..others.len())];
            put(&manifest, other.encoded.clone()).await;
            return vec![manifest];
        }
    }
    vec![key]
}

/// What became of the trials.
#[derive(Debug, Default)]
struct Tally {
    loaded: usize,
    not_written: usize,
    refused: BTreeMap<&'static str, usize>,
}

impl Tally {
    fn count(&mut self, error: &LoadError) {
        let kind = match error {
            LoadError::Missing { .. } => "missing",
            LoadError::Size { .. } => "size",
            LoadError::Digest { .. } => "digest",
            LoadError::Manifest { .. } => "manifest",
            LoadError::Tensor { .. } => "tensor",
            LoadError::Store(_) => "store",
        };
        *self.refused.entry(kind).or_default() += 1;
    }
}

/// When things go wrong.
#[derive(Debug, Clone, Copy)]
enum When {
    Writing,
    Resting,
    Reading,
}

async fn trial(dice: &mut ChaCha8Rng, number: usize, tally: &mut Tally) {
    let large = number < LARGE;
    let store = Faulty::default();
    let before = Meant::new(dice, "job-000000", 1, false);
    let stranger = Meant::new(dice, "other-000000", 2, false);
    let meant = Meant::new(dice, "job-000000", 2, large);
    before.write(&store).await.expect("nothing goes wrong yet");

    let when = [When::Writing, When::Resting, When::Reading][number % 3];
    let other = meant.shards[dice.random_range(0..meant.shards.len())]
        .1
        .clone();
    let mut damaged = Vec::new();
    let written = match when {
        When::Writing => {
            // Every call in turn, each in every way; now and then two at once.
            let calls = meant.shards.len() + 1 + usize::from(large) * 2;
            let one = |dice: &mut ChaCha8Rng, nth: usize| {
                let kind = fault(dice, nth / calls, &other);
                (Calls::Writes, nth % calls, kind)
            };
            let mut faults = vec![one(dice, number / 3)];
            if dice.random_bool(0.2) {
                let nth = dice.random_range(0..calls * 8);
                faults.push(one(dice, nth));
            }
            store.plan(faults);
            let written = meant.write(&store).await;
            damaged = store.hit();
            written
        }
        When::Resting => {
            meant.write(&store).await.expect("nothing goes wrong yet");
            damaged = damage_at_rest(dice, &store, &meant, &[&before, &stranger]).await;
            Ok(())
        }
        When::Reading => meant.write(&store).await,
    };
    let calls = 1 + 2 * meant.shards.len() + usize::from(large);
    store.plan(match when {
        When::Reading => {
            let nth = number / 3;
            vec![(Calls::Reads, nth % calls, fault(dice, nth / calls, &other))]
        }
        When::Writing | When::Resting => Vec::new(),
    });
    // A writer that failed tells nobody; the manifest that it would have written is asked for all the same.
    tally.not_written += usize::from(written.is_err());
    let loaded = meant.load(&store).await;
    damaged.extend(store.hit());
    match &loaded {
        Ok(()) => tally.loaded += 1,
        Err(error) => {
            tally.count(error);
            let words = error.to_string();
            let unwritten = written.is_err() && matches!(error, LoadError::Missing { .. });
            assert!(
                unwritten || damaged.iter().any(|key| words.contains(key.as_str())),
                "{when:?}: {words} names none of {damaged:?}"
            );
            assert!(
                error.is_damage() || matches!(when, When::Reading),
                "{when:?}: {words} is said to be no damage"
            );
        }
    }
    store.plan(Vec::new());
    before.load(&store).await.expect("the one before is whole");
}

#[tokio::test]
async fn a_thousand_torn_writes_and_not_one_is_loaded() {
    let seed: u64 = std::env::var("TORN_SEED").map_or(1, |text| text.parse().expect("a number"));
    println!("TORN_SEED={seed}");
    let mut tally = Tally::default();
    for number in 0..TRIALS {
        let mut dice = ChaCha8Rng::seed_from_u64(seed.wrapping_mul(1_000_003) + number as u64);
        trial(&mut dice, number, &mut tally).await;
    }
    println!("{TRIALS} trials: {tally:?}");
    let refused: usize = tally.refused.values().sum();
    assert!(refused > TRIALS / 2, "most damage is seen: {tally:?}");
    for kind in ["missing", "size", "digest", "store"] {
        assert!(tally.refused.contains_key(kind), "{kind}: {tally:?}");
    }
}
