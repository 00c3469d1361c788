//! `admin backup`.

use std::io::Write;
use std::path::Path;

use diptych_common::digest::Hasher;
use diptych_proto::v1;
use diptych_proto::v1::backup_chunk::Part;
use tonic::Streaming;

use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::output::Printer;
use crate::view::admin::Backup;

pub(super) async fn backup<W: Write>(
    client: &Client,
    to: &Path,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let file = NewFile::beside(to)?;
    let mut admin = client.admin();
    let parts = client.once(admin.backup(v1::BackupRequest {})).await?;
    let mut writer = std::io::BufWriter::new(file.file());
    let end = receive(client, parts, &mut writer).await?;
    writer.flush()?;
    drop(writer);
    file.keep(to)?;
    out.print(&Backup {
        file: to.display().to_string(),
        bytes: end.size,
        digest: end.digest,
        coordinator_version: end.coordinator_version,
    })
}

/// Writes all parts, and makes sure that they are what was sent.
async fn receive(
    client: &Client,
    mut parts: Streaming<v1::BackupChunk>,
    to: &mut impl Write,
) -> Result<v1::BackupEnd, Failure> {
    let (mut hasher, mut size) = (Hasher::default(), 0);
    loop {
        let part = parts
            .message()
            .await
            .map_err(|status| client.failure(status))?;
        match part.and_then(|chunk| chunk.part) {
            Some(Part::Data(data)) => {
                to.write_all(&data)?;
                size += data.len() as u64;
                hasher = hasher.then(&data);
            }
            Some(Part::End(end)) => {
                let digest = hasher.finish().to_string();
                if (end.size, &end.digest) == (size, &digest) {
                    return Ok(end);
                }
                let text = format!(
                    "the backup arrived damaged: {size} bytes with digest {digest}, sent were {} bytes with digest {}; \
                     nothing was kept, run it again",
                    end.size, end.digest
                );
                return Err(Failure::new(Code::Failed, text));
            }
            None => {
                let text = "the backup broke off; nothing was kept, run it again";
                return Err(Failure::new(Code::Unavailable, text));
            }
        }
    }
}

/// A file that appears under its name when it is whole, and never takes another's place.
pub(super) struct NewFile(tempfile::NamedTempFile);

impl NewFile {
    /// A file that is to appear there.
    pub(super) fn beside(to: &Path) -> Result<Self, Failure> {
        if to.try_exists()? {
            return Err(taken(to));
        }
        let made = tempfile::Builder::new()
            .prefix(".diptych-")
            .suffix(".part")
            .tempfile_in(folder(to));
        made.map(Self)
            .map_err(|error| Failure::from(error).while_doing(&format!("write {}", to.display())))
    }

    pub(super) fn file(&self) -> &std::fs::File {
        self.0.as_file()
    }

    /// It is whole.
    pub(super) fn keep(self, to: &Path) -> Result<(), Failure> {
        self.0.as_file().sync_all()?;
        self.0
            .persist_noclobber(to)
            .map_err(|error| match error.error.kind() {
                std::io::ErrorKind::AlreadyExists => taken(to),
                _ => error.error.into(),
            })?;
        Ok(std::fs::File::open(folder(to))?.sync_all()?)
    }
}

fn folder(to: &Path) -> &Path {
    to.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn taken(to: &Path) -> Failure {
    let text = format!(
        "{} is there already, and is not overwritten: name another file",
        to.display()
    );
    Failure::new(Code::Conflict, text)
}
