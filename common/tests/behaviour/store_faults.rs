//! Writing through stores that fail, answer too late, run full or ignore what they are asked.

use std::sync::Arc;

use bytes::Bytes;
use diptych_common::store::{
    self, Conditional, PART, Preconditions, StoreError, put_create, remove_leftovers,
};
use futures::TryStreamExt as _;
use object_store::ObjectStore;
use object_store::path::Path;

use super::faulty::{Calls, Fault, Faulty};

const SMALL: Bytes = Bytes::from_static(b"a manifest");

fn large() -> Bytes {
    let bytes: Vec<u8> = (0..2 * PART + 9).map(|n| (n / 7 % 251) as u8).collect();
    bytes.into()
}

fn key() -> Path {
    Path::from("job/shard")
}

async fn stored(store: &Faulty) -> Option<Bytes> {
    match store::get(store.below(), &key()).await {
        Ok(bytes) => Some(bytes),
        Err(StoreError::NotFound { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_lost_answer_is_our_own_write() {
    // A small object is one call; a large one its parts and the end of the upload.
    for (bytes, call) in [(SMALL, 0), (large(), 3)] {
        let store = Faulty::default();
        store.plan(vec![(Calls::Writes, call, Fault::LostAnswer)]);
        put_create(&store, &key(), bytes.clone())
            .await
            .expect("the object is there");
        assert_eq!(stored(&store).await, Some(bytes));
        assert_eq!(store.hit().len(), 1);
    }
}

#[tokio::test]
async fn another_writers_object_is_never_taken_for_our_own() {
    for bytes in [SMALL, large()] {
        let store = Faulty::default();
        let mut other = bytes.to_vec();
        other[1] ^= 1;
        put_create(&store, &key(), Bytes::from(other.clone()))
            .await
            .expect("creates");
        store.plan(vec![(Calls::Writes, 0, Fault::Refused)]);
        let refused = put_create(&store, &key(), bytes).await;
        assert!(
            matches!(refused, Err(StoreError::AlreadyExists { .. })),
            "{refused:?}"
        );
        assert_eq!(stored(&store).await, Some(Bytes::from(other)));
    }
}

#[tokio::test]
async fn a_store_that_recovers_in_time_costs_nothing_but_time() {
    let store = Faulty::default();
    let down = |n| (Calls::Writes, n, Fault::Refused);
    store.plan(vec![down(0), down(1)]);
    put_create(&store, &key(), SMALL).await.expect("writes");
    assert_eq!(store.calls().0, 3);
    assert_eq!(stored(&store).await, Some(SMALL));
}

#[tokio::test]
async fn tries_end() {
    let store = Faulty::default();
    store.plan(
        (0..100)
            .map(|n| (Calls::Writes, n, Fault::Refused))
            .collect(),
    );
    let error = put_create(&store, &key(), SMALL)
        .await
        .expect_err("is down");
    assert!(
        matches!(&error, StoreError::Failed { key, .. } if key == "job/shard"),
        "{error}"
    );
    assert!(error.is_transient() && store.calls().0 < 10);
}

#[tokio::test]
async fn a_full_disk_is_said_at_once_and_leaves_nothing() {
    for (bytes, call) in [(SMALL, 0), (large(), 1), (large(), 3)] {
        let store = Faulty::default();
        store.plan(vec![(Calls::Writes, call, Fault::Full)]);
        let error = put_create(&store, &key(), bytes)
            .await
            .expect_err("is full");
        assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
        assert!(error.is_transient());
        let words = error.to_string();
        assert!(
            words.contains("job/shard") && words.contains("no space is left"),
            "{words}"
        );
        assert_eq!(stored(&store).await, None);
    }
}

#[tokio::test]
async fn conditional_writes_are_tried_once_and_the_trial_is_removed() {
    for (store, expected) in [
        (Faulty::default(), Preconditions::Honoured),
        (Faulty::ignoring_conditions(), Preconditions::Ignored),
    ] {
        let careful = Conditional::new(Arc::new(store.clone()), Path::from("root"));
        store.plan(Vec::new());
        for n in 0..3 {
            let key = Path::from(format!("root/{n}"));
            put_create(&careful, &key, SMALL).await.expect("creates");
        }
        assert_eq!(careful.preconditions().await.expect("known"), expected);
        assert_eq!(store.calls().0, 2 + 3, "two trials, three objects");
        let left: Vec<_> = store.below().list(None).try_collect().await.expect("lists");
        assert_eq!(left.len(), 3, "{left:?}");
        let again = put_create(&careful, &Path::from("root/0"), Bytes::from_static(b"x")).await;
        assert!(
            matches!(again, Err(StoreError::AlreadyExists { .. })),
            "{expected:?}: {again:?}"
        );
        let kept = store::get(&careful, &Path::from("root/0")).await;
        assert_eq!(kept, Ok(SMALL), "{expected:?}");
    }
}

#[tokio::test]
async fn what_could_not_be_tried_is_tried_again() {
    let store = Faulty::default();
    let careful = Conditional::new(Arc::new(store.clone()), Path::default());
    for call in [0, 1] {
        store.plan(vec![(Calls::Writes, call, Fault::Refused)]);
        assert!(careful.preconditions().await.is_err());
    }
    let left: Vec<_> = store.below().list(None).try_collect().await.expect("lists");
    assert!(left.is_empty(), "{left:?}");
    // The answer to the first write of a trial is lost, and the store repeats it by itself.
    store.plan(vec![(Calls::Writes, 0, Fault::LostAnswer)]);
    assert!(careful.preconditions().await.is_err());
    assert_eq!(
        careful.preconditions().await.expect("answers"),
        Preconditions::Honoured
    );
}

#[tokio::test]
async fn stores_of_one_place_share_what_is_known() {
    let (first, second) = (Faulty::default(), Faulty::default());
    let shared = |store: &Faulty| {
        Conditional::shared(
            Arc::new(store.clone()),
            Path::default(),
            "s3://shared-place",
        )
    };
    shared(&first).preconditions().await.expect("answers");
    shared(&second).preconditions().await.expect("is known");
    assert_eq!((first.calls().0, second.calls().0), (2, 0));
}

#[tokio::test]
async fn a_killed_writers_staged_files_are_removed() {
    let directory = tempfile::tempdir().expect("temporary folder");
    let url = format!("file://{}", directory.path().display());
    let (store, root) = store::open_writable(&url).expect("opens");
    let object = store::join(&root, "job/00-p/step-1/shard-00000.safetensors");
    put_create(&*store, &object, SMALL).await.expect("writes");
    let save = directory.path().join("job/00-p/step-1");
    let dead = directory.path().join("job/00-p/step-2");
    std::fs::create_dir(&dead).expect("makes");
    std::fs::write(save.join("shard-00001.safetensors#1"), b"half").expect("writes");
    std::fs::write(dead.join("shard-00000.safetensors#12"), b"half").expect("writes");
    std::fs::write(save.join("not#staged"), b"ours").expect("writes");
    remove_leftovers(&url, "job").await.expect("removes");
    remove_leftovers(&url, "nobody")
        .await
        .expect("nothing to do");
    assert!(!dead.exists() && !save.join("shard-00001.safetensors#1").exists());
    assert!(save.join("not#staged").exists());
    assert_eq!(store::get(&*store, &object).await, Ok(SMALL));
}
