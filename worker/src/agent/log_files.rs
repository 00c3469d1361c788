//! Where trainers' output lies on this disk: `{job}/attempt-{attempt:06}/phase-{phase:02}-rank-{rank:05}.log`, with
//! `.sent` behind it once the coordinator has it all.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use diptych_common::ids::{Attempt, Rank};

use super::core::RankKey;

/// One file that is there.
#[derive(Debug)]
pub struct Found {
    /// Whose.
    pub key: RankKey,
    /// Of which phase.
    pub phase: u32,
    /// The file.
    pub path: PathBuf,
    /// Whether the coordinator has it all.
    pub sent: bool,
    /// When it was last written.
    pub written: SystemTime,
}

/// The file of one rank.
pub fn path(root: &Path, key: &RankKey, phase: u32) -> PathBuf {
    root.join(key.job.as_str())
        .join(format!("attempt-{:06}", key.attempt.get()))
        .join(format!("phase-{phase:02}-rank-{:05}.log", key.rank.get()))
}

/// All files under a root. What has another name is somebody else's.
///
/// # Errors
/// A folder that cannot be read; one that is not there holds nothing.
pub fn find(root: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for job in entries(root)? {
        for attempt in entries(&job)? {
            for path in entries(&attempt)? {
                found.extend(parse(path));
            }
        }
    }
    Ok(found)
}

/// What the coordinator has of a file.
#[derive(Debug, Default)]
pub struct Sent {
    /// Its lines.
    pub lines: u64,
    /// Their length in the file.
    pub bytes: u64,
}

/// Notes that more will come after what the coordinator has; nothing where it has nothing.
///
/// # Errors
/// As the file system answers.
pub fn take_back(path: &Path) -> io::Result<Sent> {
    match std::fs::rename(sent_path(path), path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Sent::default()),
        other => other?,
    }
    Ok(Sent {
        lines: count_lines(path)?,
        bytes: path.metadata()?.len(),
    })
}

/// Notes that the coordinator has all of a file, or wants none of it.
///
/// # Errors
/// As the file system answers.
pub fn mark_sent(path: &Path) -> io::Result<()> {
    std::fs::rename(path, sent_path(path))
}

/// Removes a file, and its folders once they are empty.
///
/// # Errors
/// As the file system answers.
pub fn remove(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path)?;
    for folder in path.ancestors().skip(1).take(2) {
        // One that is not empty stays.
        if std::fs::remove_dir(folder).is_err() {
            break;
        }
    }
    Ok(())
}

/// How many lines a file holds whose trainer has died; a torn last line is ended.
///
/// # Errors
/// As the file system answers.
pub fn count_lines(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let (mut lines, mut last) = (0, b'\n');
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = file.read(&mut buffer)?;
        let Some(end) = buffer[..count].last() else {
            break;
        };
        last = *end;
        lines += buffer[..count]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count() as u64;
    }
    if last != b'\n' {
        OpenOptions::new()
            .append(true)
            .open(path)?
            .write_all(b"\n")?;
        lines += 1;
    }
    Ok(lines)
}

fn sent_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sent");
    name.into()
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let list = match std::fs::read_dir(folder) {
        Ok(list) => list,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(Vec::new()),
                _ => Err(error),
            };
        }
    };
    list.map(|entry| entry.map(|entry| entry.path())).collect()
}

fn parse(path: PathBuf) -> Option<Found> {
    let name = path.file_name()?.to_str()?;
    let (name, sent) = match name.strip_suffix(".sent") {
        Some(name) => (name, true),
        None => (name, false),
    };
    let (phase, rank) = name
        .strip_prefix("phase-")?
        .strip_suffix(".log")?
        .split_once("-rank-")?;
    let attempt = path.parent()?;
    let job = attempt.parent()?.file_name()?.to_str()?;
    let number = attempt.file_name()?.to_str()?.strip_prefix("attempt-")?;
    let key = RankKey {
        job: job.parse().ok()?,
        attempt: Attempt::new(number.parse().ok()?),
        rank: Rank::new(rank.parse().ok()?),
    };
    let phase = phase.parse().ok()?;
    let written = path.metadata().and_then(|found| found.modified()).ok()?;
    Some(Found {
        key,
        phase,
        path,
        sent,
        written,
    })
}
