//! Trainers' output: `logs/{job}/{phase}-a{attempt}-r{rank}.log` under the data directory, line k of a file being the
//! rank's k-th line.

use std::collections::HashMap;
use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diptych_common::ids::{Attempt, JobId, PhaseIndex, Rank};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::sync::Mutex;

use super::StoreError;

/// A line longer than this is cut.
const LINE: usize = 16 * 1024;
/// A file longer than this takes no more lines.
const FILE: u64 = 512 * 1024 * 1024;
/// Lines that may be missing before new ones are taken; more are asked for again.
const GAP: u64 = 10_000;
/// Files whose length is remembered.
const REMEMBERED: usize = 4096;

/// The output of one rank.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogFile {
    /// Of which phase.
    pub phase: PhaseIndex,
    /// Of which attempt.
    pub attempt: Attempt,
    /// Of which rank.
    pub rank: Rank,
}

/// All output. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Logs {
    root: Arc<PathBuf>,
    lengths: Arc<Mutex<HashMap<PathBuf, Length>>>,
}

/// How much a file holds.
#[derive(Debug, Clone, Copy, Default)]
struct Length {
    lines: u64,
    bytes: u64,
}

impl Logs {
    /// The output under a data directory.
    pub fn new(data_dir: &Path) -> Self {
        Self {
            root: Arc::new(data_dir.join("logs")),
            lengths: Arc::default(),
        }
    }

    /// Appends lines, the first of which is the rank's `first`-th. Those that are there already are left out; a gap
    /// (the agent lost some) is filled with marks, and a large one refused by taking nothing. Returns how many lines the file then holds.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn append(
        &self,
        job: &JobId,
        file: &LogFile,
        first: u64,
        lines: &[String],
    ) -> Result<u64, StoreError> {
        let path = self.path(job, file);
        let mut lengths = self.lengths.lock().await;
        if lengths.len() >= REMEMBERED {
            lengths.clear();
        }
        let length = match lengths.get(&path) {
            Some(length) => *length,
            None => measure(&path).await.map_err(StoreError::file(&path))?,
        };
        let mut text = String::new();
        let gap = first.saturating_sub(length.lines);
        if gap > GAP {
            // The receipt says how many there are; the agent then starts over.
            return Ok(length.lines);
        }
        for _ in 0..gap {
            text.push_str("[line lost]\n");
        }
        let known = length.lines.saturating_sub(first) as usize;
        let fresh = lines.get(known..).unwrap_or_default();
        for line in fresh {
            let end = line.floor_char_boundary(LINE.min(line.len()));
            text.extend(line[..end].chars().map(|c| if c == '\n' { ' ' } else { c }));
            text.push('\n');
        }
        let mut next = Length {
            lines: length.lines + gap + fresh.len() as u64,
            bytes: length.bytes,
        };
        if !text.is_empty() && length.bytes < FILE {
            write(&path, &text).await.map_err(StoreError::file(&path))?;
            next.bytes += text.len() as u64;
        }
        lengths.insert(path, next);
        Ok(next.lines)
    }

    /// Which ranks of a job have output, by phase, attempt and rank.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub async fn files(&self, job: &JobId) -> Result<Vec<LogFile>, StoreError> {
        let folder = self.root.join(job.as_str());
        let mut entries = match fs::read_dir(&folder).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::file(&folder)(error)),
        };
        let mut files = Vec::new();
        while let Some(entry) = entries
            .next_entry()
            .await
            .map_err(StoreError::file(&folder))?
        {
            files.extend(entry.file_name().to_str().and_then(parse));
        }
        files.sort();
        Ok(files)
    }

    /// Whole lines of a file from a byte on, at most about 256 KiB, and the byte after the last of them.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn read(
        &self,
        job: &JobId,
        file: &LogFile,
        from: u64,
    ) -> Result<(Vec<String>, u64), StoreError> {
        let path = self.path(job, file);
        let read = async {
            let mut file = File::open(&path).await?;
            file.seek(SeekFrom::Start(from)).await?;
            let mut lines = Vec::new();
            let mut at = from;
            let mut reader = BufReader::new(file);
            while at - from < 256 * 1024 {
                let mut line = Vec::new();
                let read = reader.read_until(b'\n', &mut line).await?;
                if line.pop_if(|last| *last == b'\n').is_none() {
                    break;
                }
                at += read as u64;
                lines.push(String::from_utf8_lossy(&line).into_owned());
            }
            Ok((lines, at))
        };
        read.await.map_err(StoreError::file(&path))
    }

    /// How many lines a file holds.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn lines(&self, job: &JobId, file: &LogFile) -> Result<u64, StoreError> {
        let path = self.path(job, file);
        if let Some(length) = self.lengths.lock().await.get(&path) {
            return Ok(length.lines);
        }
        Ok(measure(&path).await.map_err(StoreError::file(&path))?.lines)
    }

    /// Forgets a job's output.
    ///
    /// # Errors
    /// The folder cannot be removed.
    pub async fn remove(&self, job: &JobId) -> Result<(), StoreError> {
        let folder = self.root.join(job.as_str());
        self.lengths
            .lock()
            .await
            .retain(|path, _| !path.starts_with(&folder));
        match fs::remove_dir_all(&folder).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::file(&folder)(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn path(&self, job: &JobId, file: &LogFile) -> PathBuf {
        let LogFile {
            phase,
            attempt,
            rank,
        } = file;
        self.root
            .join(job.as_str())
            .join(format!("{phase:02}-a{attempt:06}-r{rank:05}.log"))
    }
}

fn parse(name: &str) -> Option<LogFile> {
    let (phase, rest) = name.strip_suffix(".log")?.split_once("-a")?;
    let (attempt, rank) = rest.split_once("-r")?;
    Some(LogFile {
        phase: PhaseIndex::new(phase.parse().ok()?),
        attempt: Attempt::new(attempt.parse().ok()?),
        rank: Rank::new(rank.parse().ok()?),
    })
}

/// Counts whole lines, and cuts off a torn last one.
async fn measure(path: &Path) -> std::io::Result<Length> {
    let file = match OpenOptions::new().read(true).write(true).open(path).await {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Length::default()),
        Err(error) => return Err(error),
    };
    let mut reader = BufReader::new(file);
    let (mut lines, mut whole, mut read) = (0, 0, 0_u64);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = reader.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        for (at, byte) in buffer[..count].iter().enumerate() {
            if *byte == b'\n' {
                lines += 1;
                whole = read + at as u64 + 1;
            }
        }
        read += count as u64;
    }
    if whole < read {
        reader.into_inner().set_len(whole).await?;
    }
    Ok(Length {
        lines,
        bytes: whole,
    })
}

async fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).await?;
    }
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .await?;
    file.write_all(text.as_bytes()).await?;
    file.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn repeated_lines_are_not_stored_twice() {
        let dir = tempfile::tempdir().unwrap();
        let job: JobId = "digits-000001".parse().unwrap();
        let file = LogFile {
            phase: PhaseIndex::new(1),
            attempt: Attempt::new(2),
            rank: Rank::new(3),
        };
        let lines = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        let logs = Logs::new(dir.path());
        assert_eq!(
            logs.append(&job, &file, 0, &lines(&["a", "b"]))
                .await
                .unwrap(),
            2
        );
        assert_eq!(
            logs.append(&job, &file, 1, &lines(&["b", "c\nd"]))
                .await
                .unwrap(),
            3
        );
        // A later process counts again, and cuts off a torn line.
        let path = dir.path().join("logs/digits-000001/01-a000002-r00003.log");
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + "torn").unwrap();
        let logs = Logs::new(dir.path());
        assert_eq!(
            logs.append(&job, &file, 4, &lines(&["e"])).await.unwrap(),
            5
        );
        for far in [GAP + 6, u64::MAX] {
            let held = logs.append(&job, &file, far, &lines(&["far"])).await;
            assert_eq!(held.unwrap(), 5, "nothing is taken from {far} on");
        }
        let (read, end) = logs.read(&job, &file, 0).await.unwrap();
        assert_eq!(read, ["a", "b", "c d", "[line lost]", "e"]);
        assert_eq!(logs.read(&job, &file, end).await.unwrap().0, [""; 0]);
        assert_eq!(logs.files(&job).await.unwrap(), [file]);
    }
}
