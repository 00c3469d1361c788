//! Object stores by URL: the only place that knows file, S3, GCS and Azure apart.
//!
//! Credentials, endpoint and region come from the environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`; for an S3-compatible
//! store `AWS_ENDPOINT_URL`, and `AWS_ALLOW_HTTP=true` where it has no TLS).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, RetryConfig,
};
use url::Url;

/// An opened place: the store, and the path under which its URL points.
pub type Opened = (Arc<dyn ObjectStore>, Path);

/// What went wrong with a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The URL is malformed or of an unknown kind.
    #[error("{url}: {problem}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// Another object has this key.
    #[error("{key} exists already, with other content")]
    AlreadyExists {
        /// Its key.
        key: String,
    },
    /// There is no such object.
    #[error("{key} does not exist")]
    NotFound {
        /// Its key.
        key: String,
    },
    /// The store refuses the credentials or their rights.
    #[error(
        "{key}: the store refuses access; check the credentials in this process's environment: {reason}"
    )]
    Denied {
        /// The key.
        key: String,
        /// What the store said.
        reason: String,
    },
    /// The store failed; later it may not.
    #[error("{key}: {reason}")]
    Failed {
        /// The key.
        key: String,
        /// What the store said.
        reason: String,
    },
}

impl StoreError {
    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }

    /// Puts a store's own error into words.
    pub fn from_store(key: &Path, error: &object_store::Error) -> Self {
        let key = key.to_string();
        match error {
            object_store::Error::NotFound { .. } => Self::NotFound { key },
            object_store::Error::AlreadyExists { .. }
            | object_store::Error::Precondition { .. } => Self::AlreadyExists { key },
            object_store::Error::PermissionDenied { .. }
            | object_store::Error::Unauthenticated { .. } => Self::Denied {
                key,
                reason: error.to_string(),
            },
            other => Self::Failed {
                key,
                reason: other.to_string(),
            },
        }
    }
}

/// Opens a place to read. Nothing is created and nothing is asked of the store yet.
///
/// # Errors
/// [`StoreError::Url`] for a URL that names no place, or settings that the environment lacks.
pub fn open(url: &str) -> Result<Opened, StoreError> {
    let refuse = |problem: String| StoreError::Url {
        url: url.to_owned(),
        problem,
    };
    let parsed = Url::parse(url).map_err(|error| {
        refuse(format!(
            "is not a URL ({error}); use file:///dir or s3://bucket/prefix"
        ))
    })?;
    let (kind, hint) = match parsed.scheme() {
        "file" => ("", ""),
        "s3" => (
            "S3",
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and, for another endpoint, AWS_ENDPOINT_URL",
        ),
        "gs" => ("Google Cloud Storage", "GOOGLE_SERVICE_ACCOUNT"),
        "az" => (
            "Azure",
            "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
        ),
        other => {
            return Err(refuse(format!(
                "{other}:// is not supported; use file, s3, gs or az"
            )));
        }
    };
    let unusable = |error: object_store::Error| {
        refuse(format!("cannot be opened as {kind} ({error}); set {hint}"))
    };
    let store: Arc<dyn ObjectStore> = match parsed.scheme() {
        "file" => return local(&parsed, refuse),
        "s3" => Arc::new(
            AmazonS3Builder::from_env()
                .with_url(url)
                .with_retry(retry())
                .with_client_options(s3_client())
                .build()
                .map_err(unusable)?,
        ),
        "gs" => Arc::new(
            GoogleCloudStorageBuilder::from_env()
                .with_url(url)
                .with_retry(retry())
                .with_client_options(client())
                .build()
                .map_err(unusable)?,
        ),
        _ => Arc::new(
            MicrosoftAzureBuilder::from_env()
                .with_url(url)
                .with_retry(retry())
                .with_client_options(client())
                .build()
                .map_err(unusable)?,
        ),
    };
    let path = Path::from_url_path(parsed.path())
        .map_err(|error| refuse(format!("has a path that no object can have: {error}")))?;
    Ok((store, path))
}

/// Opens a place to write: a `file://` folder is created first, so that a place that cannot be written is refused
/// early.
///
/// # Errors
/// As [`open`]; also when the folder cannot be made.
pub fn open_writable(url: &str) -> Result<Opened, StoreError> {
    let opened = open(url)?;
    if let Some(directory) = local_path(url) {
        std::fs::create_dir_all(&directory).map_err(|error| StoreError::Url {
            url: url.to_owned(),
            problem: format!("the folder {} cannot be made: {error}", directory.display()),
        })?;
    }
    Ok(opened)
}

/// The path that a `file://` URL names; `None` for any other.
pub fn local_path(url: &str) -> Option<PathBuf> {
    let url = Url::parse(url).ok()?;
    (url.scheme() == "file").then(|| url.to_file_path().ok())?
}

/// The `file://` URL of an absolute path, whatever characters it holds.
///
/// # Errors
/// [`StoreError::Url`] where the path is relative.
pub fn file_url(path: &std::path::Path) -> Result<String, StoreError> {
    Url::from_file_path(path)
        .map(String::from)
        .map_err(|()| StoreError::Url {
            url: path.display().to_string(),
            problem: "is not an absolute path".to_owned(),
        })
}

/// Writes an object that nobody may have written before. A retry of the same bytes succeeds: the first try may have
/// arrived although its answer was lost.
///
/// # Errors
/// [`StoreError::AlreadyExists`] when the key holds something else.
pub async fn put_create(
    store: &dyn ObjectStore,
    key: &Path,
    bytes: Bytes,
) -> Result<(), StoreError> {
    let options = PutOptions {
        mode: PutMode::Create,
        ..PutOptions::default()
    };
    let words = |error: object_store::Error| StoreError::from_store(key, &error);
    match store
        .put_opts(key, bytes.clone().into(), options)
        .await
        .map_err(words)
    {
        Err(StoreError::AlreadyExists { key: name }) => {
            let there = store
                .get(key)
                .await
                .map_err(words)?
                .bytes()
                .await
                .map_err(words)?;
            if there == bytes {
                Ok(())
            } else {
                Err(StoreError::AlreadyExists { key: name })
            }
        }
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// Reads a whole object.
///
/// # Errors
/// As the store answers.
pub async fn get(store: &dyn ObjectStore, key: &Path) -> Result<Bytes, StoreError> {
    let words = |error: object_store::Error| StoreError::from_store(key, &error);
    store
        .get(key)
        .await
        .map_err(words)?
        .bytes()
        .await
        .map_err(words)
}

/// A key under an opened place's path: `relative` may hold slashes.
pub fn join(root: &Path, relative: &str) -> Path {
    Path::from_iter(
        root.parts()
            .chain(Path::from(relative).parts())
            .map(|part| part.as_ref().to_owned()),
    )
}

fn local(url: &Url, refuse: impl Fn(String) -> StoreError) -> Result<Opened, StoreError> {
    let file = url
        .to_file_path()
        .map_err(|()| refuse("names no local path; use file:///dir".to_owned()))?;
    let path = Path::from_absolute_path(&file)
        .map_err(|error| refuse(format!("is not a usable path: {error}")))?;
    // A manifest must not outlive the shards that it names when the power fails.
    Ok((Arc::new(LocalFileSystem::new().with_fsync(true)), path))
}

fn retry() -> RetryConfig {
    RetryConfig {
        max_retries: 8,
        retry_timeout: Duration::from_secs(120),
        ..RetryConfig::default()
    }
}

fn client() -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(5))
        .with_timeout(Duration::from_secs(120))
}

/// Client options replace what the environment set, so plain HTTP must be allowed here.
fn s3_client() -> ClientOptions {
    let plain = std::env::var("AWS_ALLOW_HTTP")
        .is_ok_and(|value| value.eq_ignore_ascii_case("true") || value == "1");
    client().with_allow_http(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(
            open("s3://bucket/some/prefix").is_ok_and(|(_, path)| path.as_ref() == "some/prefix")
        );
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
}
