//! The coordinator's own data: copies of it, and its settings.

use std::io::Read as _;
use std::pin::Pin;

use diptych_proto::v1;
use diptych_proto::v1::admin_service_server::AdminService;
use diptych_proto::v1::backup_chunk::Part;
use futures::Stream;
use tempfile::TempPath;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::driver::Handle;

/// Bytes of a part.
const PART: usize = 256 << 10;
/// Parts that wait for a slow reader.
const WAITING: usize = 4;

/// The coordinator's own data.
#[derive(Debug, Clone)]
pub struct Admin(pub Handle);

type Parts = Pin<Box<dyn Stream<Item = Result<v1::BackupChunk, Status>> + Send>>;

#[tonic::async_trait]
impl AdminService for Admin {
    type BackupStream = Parts;

    async fn backup(
        &self,
        _: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let dir = self.0.data_dir();
        let unmade = |error: String| {
            let place = dir.display();
            Status::unavailable(format!(
                "no copy of the database can be made in {place}: {error}"
            ))
        };
        // Gone with the stream, however that ends.
        let copy = tempfile::Builder::new()
            .prefix("backup-")
            .suffix(".part")
            .tempfile_in(dir)
            .map_err(|error| unmade(error.to_string()))?
            .into_temp_path();
        let copied = self.0.reader().copy_to(&copy).await;
        copied.map_err(|error| unmade(error.to_string()))?;
        tracing::info!("a backup is being sent");
        let (sender, parts) = mpsc::channel(WAITING);
        tokio::task::spawn_blocking(move || send(copy, &sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(parts))))
    }

    async fn settings(
        &self,
        _: Request<v1::SettingsRequest>,
    ) -> Result<Response<v1::SettingsResponse>, Status> {
        let toml = self.0.shown().to_string();
        Ok(Response::new(v1::SettingsResponse { toml }))
    }
}

/// Sends a file, and what it was, until nobody listens.
fn send(copy: TempPath, to: &mpsc::Sender<Result<v1::BackupChunk, Status>>) {
    let part = |part| Ok(v1::BackupChunk { part: Some(part) });
    let mut hasher = blake3::Hasher::new();
    let mut size = 0;
    let mut read = || -> std::io::Result<()> {
        let mut file = std::fs::File::open(&copy)?;
        loop {
            let mut data = Vec::with_capacity(PART);
            (&mut file).take(PART as u64).read_to_end(&mut data)?;
            if data.is_empty() {
                return Ok(());
            }
            hasher.update(&data);
            size += data.len() as u64;
            if to.blocking_send(part(Part::Data(data))).is_err() {
                return Ok(());
            }
        }
    };
    let last = match read() {
        Ok(()) => part(Part::End(v1::BackupEnd {
            size,
            digest: hasher.finalize().to_hex().to_string(),
            coordinator_version: env!("CARGO_PKG_VERSION").to_owned(),
        })),
        Err(error) => Err(Status::unavailable(format!(
            "the copy cannot be read: {error}"
        ))),
    };
    // Whoever asked may be gone.
    let _ = to.blocking_send(last);
}
