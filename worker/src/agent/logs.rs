//! Trainers' output: kept in files by attempt and rank, uploaded from there, so that a long outage costs disk and no
//! memory.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use diptych_proto::v1;

use super::core::RankKey;
use super::log_files;

/// The logs of all ranks that still have something to upload.
#[derive(Debug, Clone)]
pub struct LogBook {
    root: PathBuf,
    open: Arc<Mutex<BTreeMap<RankKey, Arc<Mutex<Tail>>>>>,
}

/// One rank's log while its trainer writes it.
#[derive(Debug)]
pub struct RankLog {
    file: Mutex<BufWriter<File>>,
    tail: Arc<Mutex<Tail>>,
}

/// How much of a file is written, and how much of that the coordinator has.
#[derive(Debug)]
struct Tail {
    path: PathBuf,
    phase: u32,
    /// Lines on this disk.
    written: u64,
    /// Lines that the coordinator has on its disk, and where the next one starts.
    received: u64,
    offset: u64,
    /// Processes that may still write.
    writers: u32,
}

/// Lines to upload, and where the file stands after them.
#[derive(Debug)]
pub struct Batch {
    /// Whose lines.
    pub key: RankKey,
    /// The message.
    pub chunk: v1::LogChunk,
    offset: u64,
}

/// How long a log stays on this disk once the coordinator has it.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Bytes of one rank in one upload.
const BATCH_BYTES: usize = 512 << 10;

impl LogBook {
    /// Logs under `root`.
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            open: Arc::default(),
        }
    }

    /// Takes over what a former agent of this directory left: what did not reach the coordinator is uploaded, and what
    /// did is removed when it is old.
    pub fn recover(&self, now: SystemTime) {
        let found = log_files::find(&self.root).unwrap_or_else(|error| {
            tracing::warn!(%error, path = %self.root.display(), "former logs not readable");
            Vec::new()
        });
        for file in found {
            let age = now.duration_since(file.written).unwrap_or_default();
            let done = match file.sent {
                true if age >= KEPT => log_files::remove(&file.path),
                true => Ok(()),
                false => log_files::count_lines(&file.path).map(|written| {
                    let tail = Tail {
                        path: file.path.clone(),
                        phase: file.phase,
                        written,
                        received: 0,
                        offset: 0,
                        writers: 0,
                    };
                    lock(&self.open).insert(file.key, Arc::new(Mutex::new(tail)));
                }),
            };
            if let Err(error) = done {
                tracing::warn!(%error, path = %file.path.display(), "former log left alone");
            }
        }
    }

    /// Starts the log of a rank, or goes on with it where another process has begun it.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn open(&self, key: &RankKey, phase: u32) -> io::Result<RankLog> {
        let path = log_files::path(&self.root, key, phase);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut open = lock(&self.open);
        let begun = open.get(key).map(Arc::clone);
        let tail = match begun {
            Some(tail) => tail,
            None => {
                let sent = log_files::take_back(&path)?;
                let tail = Tail {
                    path: path.clone(),
                    phase,
                    written: sent.lines,
                    received: sent.lines,
                    offset: sent.bytes,
                    writers: 0,
                };
                Arc::new(Mutex::new(tail))
            }
        };
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        lock(&tail).writers += 1;
        open.insert(key.clone(), Arc::clone(&tail));
        Ok(RankLog {
            file: Mutex::new(BufWriter::new(file)),
            tail,
        })
    }

    /// What is to be uploaded now, at most one bounded batch a rank.
    pub fn batches(&self) -> Vec<Batch> {
        let open = {
            let mut open = lock(&self.open);
            open.retain(|_, tail| {
                let tail = lock(tail);
                if tail.is_done() {
                    tail.mark_sent();
                }
                !tail.is_done()
            });
            open.clone()
        };
        let read = |(key, tail): (RankKey, Arc<Mutex<Tail>>)| {
            let tail = lock(&tail);
            match tail.next() {
                Ok((lines, _)) if lines.is_empty() => None,
                Ok((lines, offset)) => Some(Batch {
                    chunk: v1::LogChunk {
                        job: key.job.to_string(),
                        phase: tail.phase,
                        attempt: key.attempt.get(),
                        rank: key.rank.get(),
                        lines,
                        first_line: tail.received,
                    },
                    key,
                    offset,
                }),
                Err(error) => {
                    tracing::warn!(job = %key.job, attempt = %key.attempt, rank = %key.rank, %error, path = %tail.path.display(), "log not readable");
                    None
                }
            }
        };
        open.into_iter().filter_map(read).collect()
    }

    /// The coordinator has `lines` lines of the batch's rank on its disk.
    pub fn received(&self, batch: &Batch, lines: u64) {
        let Some(tail) = lock(&self.open).get(&batch.key).cloned() else {
            return;
        };
        let mut tail = lock(&tail);
        let end = batch.chunk.first_line + batch.chunk.lines.len() as u64;
        if lines >= end {
            (tail.received, tail.offset) = (end, batch.offset);
        } else if lines < batch.chunk.first_line {
            // It has lost some: from the start, once more.
            (tail.received, tail.offset) = (0, 0);
        }
    }

    /// The coordinator does not want this rank's lines: they stay on this disk only, until they are old.
    pub fn give_up(&self, batch: &Batch) {
        if let Some(tail) = lock(&self.open).remove(&batch.key) {
            lock(&tail).mark_sent();
        }
    }

    /// The ranks whose logs have not reached the coordinator.
    pub fn late(&self) -> Vec<RankKey> {
        lock(&self.open)
            .iter()
            .filter(|(_, tail)| lock(tail).is_late())
            .map(|(key, _)| key.clone())
            .collect()
    }
}

impl RankLog {
    /// Adds one line. A full disk loses lines, not the trainer.
    pub fn append(&self, line: &str) {
        let mut file = lock(&self.file);
        // In one piece: two processes may write the same log, the former one to its end.
        if let Err(error) = file.write_all(format!("{line}\n").as_bytes()) {
            tracing::warn!(%error, path = %lock(&self.tail).path.display(), "line lost");
            return;
        }
        drop(file);
        lock(&self.tail).written += 1;
    }

    /// Makes the lines so far visible to the uploader.
    pub fn flush(&self) {
        if let Err(error) = lock(&self.file).flush() {
            tracing::warn!(%error, path = %lock(&self.tail).path.display(), "log not flushed");
        }
    }
}

impl Drop for RankLog {
    /// No more lines will come from here.
    fn drop(&mut self) {
        self.flush();
        lock(&self.tail).writers -= 1;
    }
}

impl Tail {
    /// Whole lines after what was received, and the offset behind them.
    fn next(&self) -> io::Result<(Vec<String>, u64)> {
        if !self.is_late() {
            return Ok((Vec::new(), self.offset));
        }
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut file = BufReader::new(file);
        let (mut lines, mut offset, mut bytes) = (Vec::new(), self.offset, Vec::new());
        while offset - self.offset < BATCH_BYTES as u64 {
            bytes.clear();
            let count = file.read_until(b'\n', &mut bytes)?;
            // Without its end the line is still being written.
            let Some(line) = bytes.strip_suffix(b"\n") else {
                break;
            };
            lines.push(String::from_utf8_lossy(line).into_owned());
            offset += count as u64;
        }
        Ok((lines, offset))
    }

    fn mark_sent(&self) {
        if let Err(error) = log_files::mark_sent(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "an uploaded log is not marked: it will be sent again");
        }
    }

    fn is_done(&self) -> bool {
        self.writers == 0 && !self.is_late()
    }

    fn is_late(&self) -> bool {
        self.received < self.written
    }
}

/// A task that panicked holds no half-made tail: every update is a few assignments.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use diptych_common::ids::{Attempt, Rank};

    use super::*;

    fn key() -> RankKey {
        RankKey {
            job: "digits-0a1b2c".parse().expect("a name"),
            attempt: Attempt::new(2),
            rank: Rank::new(0),
        }
    }

    #[test]
    fn uploads_go_on_from_the_last_receipt() {
        let dir = tempfile::tempdir().expect("a directory");
        let book = LogBook::new(dir.path().to_owned());
        let log = book.open(&key(), 1).expect("made");
        log.append("a");
        log.append("b");
        log.flush();
        let first = book.batches().pop().expect("two lines");
        assert_eq!(
            (first.chunk.first_line, first.chunk.lines.as_slice()),
            (0, ["a".into(), "b".into()].as_slice())
        );
        assert_eq!(book.batches().len(), 1, "no receipt: the same again");
        book.received(&first, 2);
        assert!(book.batches().is_empty());
        log.append("c");
        drop(log);
        let second = book.batches().pop().expect("one line");
        assert_eq!(
            (second.chunk.first_line, second.chunk.lines.as_slice()),
            (2, ["c".into()].as_slice())
        );
        book.received(&second, 1);
        let again = book.batches().pop().expect("everything");
        assert_eq!(
            (again.chunk.first_line, again.chunk.lines.len()),
            (0, 3),
            "the coordinator had lost lines"
        );
        assert_eq!(book.late(), [key()]);
        book.received(&again, 3);
        assert!(book.batches().is_empty() && book.late().is_empty());
    }

    #[test]
    fn a_log_that_another_process_began_goes_on_with_its_numbers() {
        let dir = tempfile::tempdir().expect("a directory");
        let book = LogBook::new(dir.path().to_owned());
        let first = book.open(&key(), 1).expect("made");
        let second = book.open(&key(), 1).expect("open");
        first.append("a");
        drop(first);
        second.append("b");
        drop(second);
        let both = book.batches().pop().expect("two lines");
        assert_eq!(both.chunk.lines, ["a", "b"]);
        book.received(&both, 2);
        assert!(book.batches().is_empty());
        let third = book.open(&key(), 1).expect("taken back");
        third.append("c");
        drop(third);
        let last = book.batches().pop().expect("one line");
        assert_eq!(
            (last.chunk.first_line, last.chunk.lines.as_slice()),
            (2, ["c".into()].as_slice())
        );
    }

    #[test]
    fn a_restarted_agent_uploads_what_its_former_self_could_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let book = LogBook::new(dir.path().to_owned());
        let log = book.open(&key(), 3).expect("made");
        log.append("a");
        log.append("b");
        log.flush();
        let path = log_files::path(dir.path(), &key(), 3);
        let torn = std::fs::read_to_string(&path).expect("written") + "torn";
        std::fs::write(&path, torn).expect("written");

        let book = LogBook::new(dir.path().to_owned());
        let now = path
            .metadata()
            .and_then(|file| file.modified())
            .expect("a file");
        book.recover(now);
        let all = book.batches().pop().expect("three lines");
        assert_eq!((all.chunk.phase, all.chunk.first_line), (3, 0));
        assert_eq!(all.chunk.lines, ["a", "b", "torn"]);
        book.received(&all, 3);
        assert!(book.batches().is_empty());

        let left = || log_files::find(dir.path()).expect("read").len();
        LogBook::new(dir.path().to_owned()).recover(now + KEPT / 2);
        assert_eq!(left(), 1, "kept for a while");
        LogBook::new(dir.path().to_owned()).recover(now + KEPT * 2);
        assert_eq!(left(), 0);
        assert!(!dir.path().join("digits-0a1b2c").exists());
    }
}
