use bytes::Bytes;

use super::*;
use watched::Watched;

mod requests; // over real connections
mod watched; // a store that counts, and fails when told to

const LARGE: usize = 2 * PART + 5;

fn large(fill: u8) -> Bytes {
    let mut bytes = vec![fill; LARGE];
    bytes[PART] = 7;
    bytes.into()
}

#[test]
fn wrong_urls_are_refused_in_words() {
    for (url, word) in [
        ("/tmp/x", "not a URL"),
        ("ftp://x/y", "not supported"),
        ("file://host/x", "local path"),
    ] {
        let error = open(url).expect_err(url).to_string();
        assert!(
            error.contains(word) && error.contains(url),
            "{url}: {error}"
        );
    }
    assert!(open("s3://bucket/some/prefix").is_ok_and(|(_, path)| path.as_ref() == "some/prefix"));
}

#[test]
fn paths_of_any_characters_survive_as_urls() {
    for path in ["/data/100% #1? ü.png", "/a b/c+d&e"] {
        let url = file_url(std::path::Path::new(path)).expect("absolute");
        assert_eq!(local_path(&url).as_deref(), Some(path.as_ref()), "{url}");
        assert_eq!(
            open(&url).expect("opens").1.filename(),
            path.rsplit('/').next()
        );
    }
    assert!(file_url("a/b".as_ref()).is_err());
}

#[test]
fn opening_to_read_creates_nothing_and_opening_to_write_does() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let place = directory.path().join("a/b");
    let url = format!("file://{}", place.display());
    open(&url).expect("opens");
    assert!(!place.exists());
    open_writable(&url).expect("opens");
    assert!(place.is_dir());
    std::fs::write(directory.path().join("file"), b"").expect("writes");
    let error = open_writable(&format!("file://{}/file/x", directory.path().display()))
        .expect_err("a file is in the way");
    assert!(error.to_string().contains("cannot be made"), "{error}");
}

#[tokio::test]
async fn an_object_is_created_once() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (store, root) =
        open_writable(&format!("file://{}", directory.path().display())).expect("opens");
    let key = join(&root, "job/manifest.json");
    put_create(&*store, &key, Bytes::from_static(b"one"))
        .await
        .expect("creates");
    put_create(&*store, &key, Bytes::from_static(b"one"))
        .await
        .expect("a retry of the same bytes");
    let other = put_create(&*store, &key, Bytes::from_static(b"two")).await;
    assert!(
        matches!(other, Err(StoreError::AlreadyExists { .. })),
        "{other:?}"
    );
    assert_eq!(
        get(&*store, &key).await.expect("reads"),
        Bytes::from_static(b"one")
    );
    let missing = get(&*store, &join(&root, "nothing")).await;
    assert!(
        matches!(missing, Err(StoreError::NotFound { .. })),
        "{missing:?}"
    );
}

#[tokio::test]
async fn a_large_object_is_created_once_too() {
    let (store, key) = (Watched::default(), Path::from("job/shard"));
    put_create(&store, &key, large(1)).await.expect("creates");
    put_create(&store, &key, large(1))
        .await
        .expect("a retry of the same bytes");
    let shorter = large(1).slice(..LARGE - 1);
    for other in [large(2), shorter] {
        let refused = put_create(&store, &key, other).await;
        assert!(
            matches!(&refused, Err(StoreError::AlreadyExists { key }) if key == "job/shard"),
            "{refused:?}"
        );
    }
    assert_eq!(get(&store, &key).await.expect("reads"), large(1));
}

#[tokio::test]
async fn a_failed_upload_leaves_nothing() {
    let store = Watched::failing_at_part(2);
    let key = Path::from("job/shard");
    let failed = put_create(&store, &key, large(1)).await;
    assert!(
        matches!(&failed, Err(StoreError::Failed { key, .. }) if key == "job/shard"),
        "{failed:?}"
    );
    assert_eq!((store.uploads_begun(), store.uploads_aborted()), (1, 1));
    assert!(matches!(
        get(&store, &key).await,
        Err(StoreError::NotFound { .. })
    ));
}

#[tokio::test]
async fn large_objects_are_read_range_by_range() {
    let (store, key) = (Watched::default(), Path::from("job/shard"));
    put_create(&store, &key, large(1)).await.expect("creates");
    assert_eq!(get(&store, &key).await.expect("reads"), large(1));
    let size = LARGE as u64;
    assert_eq!(
        store.ranges_read(),
        [0..RANGE, RANGE..2 * RANGE, 2 * RANGE..size]
    );
    let longer = get_all(&store, &key, size + RANGE).await;
    assert!(
        matches!(longer, Err(StoreError::Failed { .. })),
        "{longer:?}"
    );
}

async fn get_all(store: &Watched, key: &Path, size: u64) -> Result<usize, StoreError> {
    use futures::TryStreamExt as _;
    let pieces: Vec<Bytes> = ranges(store, key, size).try_collect().await?;
    Ok(pieces.iter().map(Bytes::len).sum())
}
