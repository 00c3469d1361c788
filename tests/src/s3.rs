//! An S3 server over a folder, in the test's own process.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Its only bucket.
pub const BUCKET: &str = "diptych";
const KEY: &str = "test";
const SECRET: &str = "secret";

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub struct S3 {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl S3 {
    /// Serves `folder` on a free port of `host`.
    ///
    /// # Errors
    /// When the folder cannot be made or the system gives no port.
    pub async fn start(host: &str, folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder.join(BUCKET)).context("make the bucket")?;
        let files = s3s_fs::FileSystem::new(folder)
            .map_err(|error| anyhow::anyhow!("open the bucket: {error:?}"))?;
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = service.build();
        let listener = TcpListener::bind((host, 0)).await.context("bind S3")?;
        let address = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                connections.spawn(async move {
                    let http = Builder::new(TokioExecutor::new());
                    // A connection that breaks is the client's to see.
                    drop(http.serve_connection(TokioIo::new(socket), service).await);
                });
            }
        });
        Ok(Self {
            address,
            _tasks: tasks,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// The environment of a program that is to find the bucket at `endpoint`.
pub fn environment(endpoint: SocketAddr) -> Vec<(String, String)> {
    let endpoint = format!("http://{endpoint}");
    [
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ENDPOINT_URL", &endpoint),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}
