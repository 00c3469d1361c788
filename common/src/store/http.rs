//! How requests go out: what each may take, and which threads carry them.

use std::io;
use std::sync::LazyLock;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::azure::{MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::client::SpawnedReqwestConnector;
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};
use object_store::{ClientOptions, Error, Result, RetryConfig};
use tokio::runtime::{Builder, Runtime};

/// The time limit is that of one request: of a range of an object, or of one of its parts. The parts under way at once
/// ([`PART`](super::PART) bytes each) get through it at 0.3 MB/s.
const REQUEST: Duration = Duration::from_secs(120);

/// Carries all requests of this process. A connection lives in the runtime that made it, and whoever asks next is given it:
/// in one that rests between two writes, as those of a trainer's threads do, that request would stand still until its limit.
static THREADS: LazyLock<io::Result<Runtime>> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("store")
        .enable_all()
        .build()
});

/// Whether the environment allows HTTP without TLS.
pub(super) fn plain() -> bool {
    std::env::var("AWS_ALLOW_HTTP")
        .is_ok_and(|value| value.eq_ignore_ascii_case("true") || value == "1")
}

/// A bucket of S3. Client options replace what the environment set, so `plain` HTTP must be allowed here.
pub(super) fn s3(settings: AmazonS3Builder, plain: bool) -> Result<AmazonS3> {
    settings
        .with_retry(retry())
        .with_client_options(client().with_allow_http(plain))
        .with_http_connector(threads()?)
        .build()
}

/// A bucket of Google Cloud Storage.
pub(super) fn gcs(settings: GoogleCloudStorageBuilder) -> Result<GoogleCloudStorage> {
    settings
        .with_retry(retry())
        .with_client_options(client())
        .with_http_connector(threads()?)
        .build()
}

/// A container of Azure.
pub(super) fn azure(settings: MicrosoftAzureBuilder) -> Result<MicrosoftAzure> {
    settings
        .with_retry(retry())
        .with_client_options(client())
        .with_http_connector(threads()?)
        .build()
}

fn threads() -> Result<SpawnedReqwestConnector> {
    match &*THREADS {
        Ok(runtime) => Ok(SpawnedReqwestConnector::new(runtime.handle().clone())),
        Err(error) => Err(Error::Generic {
            store: "HTTP",
            source: format!("the threads that carry requests cannot be started: {error}").into(),
        }),
    }
}

/// The budget of one request, of a part of an upload too: a store that refuses connections is given up after half a
/// minute, one that is silent after two requests.
fn retry() -> RetryConfig {
    RetryConfig {
        max_retries: 8,
        retry_timeout: REQUEST * 2,
        ..RetryConfig::default()
    }
}

fn client() -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(5))
        .with_timeout(REQUEST)
}
