//! Object stores by URL: the only place that knows file, S3, GCS and Azure apart.
//!
//! Credentials, endpoint and region come from the environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`; for an S3-compatible
//! store `AWS_ENDPOINT_URL`, and `AWS_ALLOW_HTTP=true` where it has no TLS).

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use url::Url;

mod http; // how requests go out
mod create; // conditional creation, tried before it is trusted
mod read; // whole objects, and ranges of large ones
mod write; // each key once
mod leftovers; // what writers that died left behind

pub use create::{Conditional, Preconditions};
pub use leftovers::remove_leftovers;
pub use read::{RANGE, get, ranges};
pub use write::{PART, put_create};

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
    /// There is no room for it; later there may be.
    #[error("{key}: no space is left where it is to be stored: {reason}")]
    Full {
        /// The key.
        key: String,
        /// What the system said.
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
        matches!(self, Self::Failed { .. } | Self::Full { .. })
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
            other => {
                let reason = other.to_string();
                if is_full(other) {
                    Self::Full { key, reason }
                } else {
                    Self::Failed { key, reason }
                }
            }
        }
    }
}

/// Whether a full disk or a used-up quota is what an error comes from.
fn is_full(error: &object_store::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if let Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) = kind {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Who opens places. Decisions about objects do not know what they lie in.
pub trait Stores: std::fmt::Debug + Send + Sync {
    /// Opens a place to read and to delete from. Nothing is created and nothing is asked of the store yet.
    ///
    /// # Errors
    /// [`StoreError::Url`] for a URL that names no place, or settings that the environment lacks.
    fn open(&self, url: &str) -> Result<Opened, StoreError>;
}

/// By [`open`].
#[derive(Debug, Clone, Copy, Default)]
pub struct ByUrl;

impl Stores for ByUrl {
    fn open(&self, url: &str) -> Result<Opened, StoreError> {
        open(url)
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
        "s3" => {
            let settings = AmazonS3Builder::from_env().with_url(url);
            Arc::new(http::s3(settings, http::plain()).map_err(unusable)?)
        }
        "gs" => {
            let settings = GoogleCloudStorageBuilder::from_env().with_url(url);
            Arc::new(http::gcs(settings).map_err(unusable)?)
        }
        _ => {
            let settings = MicrosoftAzureBuilder::from_env().with_url(url);
            Arc::new(http::azure(settings).map_err(unusable)?)
        }
    };
    let path = Path::from_url_path(parsed.path())
        .map_err(|error| refuse(format!("has a path that no object can have: {error}")))?;
    let store = Conditional::shared(store, path.clone(), &place(&parsed));
    Ok((Arc::new(store), path))
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

/// The URL of what a command line names: a URL as it is, or a path of a file that exists.
///
/// # Errors
/// [`StoreError::Url`] where there is no such file.
pub fn url_of(place: &str) -> Result<String, StoreError> {
    if place.contains("://") {
        return Ok(place.to_owned());
    }
    let path = std::path::Path::new(place).canonicalize();
    let path = path.map_err(|error| StoreError::Url {
        url: place.to_owned(),
        problem: error.to_string(),
    })?;
    file_url(&path)
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

/// What a bucket's answers are remembered by: its endpoint decides how it behaves.
fn place(url: &Url) -> String {
    let endpoint = std::env::var("AWS_ENDPOINT_URL").unwrap_or_default();
    let bucket = url.host_str().unwrap_or_default();
    format!("{}://{bucket} {endpoint}", url.scheme())
}

#[cfg(test)]
mod tests;
