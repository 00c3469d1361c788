//! Every step that a rank has committed, from the logs that agents keep: who, when, in which attempt.
//!
//! Agents must run with `--log info,diptych_worker=debug`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

const TICK: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(120);

/// What a rank has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// It has committed a step.
    Committed,
    /// It has left its gang and waits with its state.
    Held,
}

/// One line of the ledger.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    /// Seconds since 1970.
    pub at: f64,
    /// The attempt.
    pub attempt: u64,
    /// The rank.
    pub rank: u32,
    /// Its worker, by position in the cluster.
    pub worker: usize,
    /// What it did.
    pub deed: Deed,
    /// Steps in its state then.
    pub step: u64,
}

/// The logs of one job, read on from where they were.
#[derive(Debug)]
pub struct Ledger {
    folders: Vec<PathBuf>,
    read: BTreeMap<PathBuf, u64>,
    entries: Vec<Entry>,
}

impl Ledger {
    /// The ledger of a job on workers `worker-0` … under `dir`.
    pub fn new(dir: &Path, workers: usize, job: &str) -> Self {
        let folder = |n| dir.join(format!("worker-{n}/logs/{job}"));
        Self {
            folders: (0..workers).map(folder).collect(),
            read: BTreeMap::new(),
            entries: Vec::new(),
        }
    }

    /// As [`Ledger::new`], with all that is there.
    ///
    /// # Errors
    /// When a log cannot be read.
    pub fn read(dir: &Path, workers: usize, job: &str) -> Result<Self> {
        let mut ledger = Self::new(dir, workers, job);
        ledger.refresh()?;
        Ok(ledger)
    }

    /// Reads what is new.
    ///
    /// # Errors
    /// When a log cannot be read.
    pub fn refresh(&mut self) -> Result<()> {
        let mut fresh = Vec::new();
        for (worker, folder) in self.folders.iter().enumerate() {
            for attempt in list(folder) {
                let Some(number) = number_after(&attempt, "attempt-") else {
                    continue;
                };
                for log in list(&attempt) {
                    let Some(rank) = rank_of(&log) else { continue };
                    // A log that was sent is renamed.
                    let from = self.read.entry(attempt.join(rank.to_string())).or_default();
                    let text = read_lines(&log, from)?;
                    let lines = text.lines().filter_map(parse);
                    fresh.extend(lines.map(|(at, deed, step)| Entry {
                        at,
                        attempt: number,
                        rank,
                        worker,
                        deed,
                        step,
                    }));
                }
            }
        }
        if !fresh.is_empty() {
            self.entries.append(&mut fresh);
            self.entries.sort_by(|a, b| a.at.total_cmp(&b.at));
        }
        Ok(())
    }

    /// Everything so far, in the order of time.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Commits so far, in the order of time.
    pub fn commits(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        let committed = |entry: &&Entry| entry.deed == Deed::Committed;
        self.entries.iter().filter(committed)
    }

    /// The most advanced step.
    pub fn step(&self) -> u64 {
        self.commits().map(|entry| entry.step).max().unwrap_or(0)
    }

    /// The newest attempt that committed.
    pub fn attempt(&self) -> u64 {
        let attempts = self.commits().map(|entry| entry.attempt);
        attempts.max().unwrap_or(0)
    }

    /// Ranks that committed in the newest attempt.
    pub fn ranks(&self) -> usize {
        let worlds = self.worlds();
        worlds.values().next_back().copied().unwrap_or(0)
    }

    /// Steps that were taken again: those by which a new attempt began behind the one before.
    pub fn taken_again(&self) -> u64 {
        let (mut attempt, mut reached, mut lost) = (0, 0_u64, 0);
        for entry in self.commits() {
            if entry.attempt > attempt {
                attempt = entry.attempt;
                lost += (reached + 1).saturating_sub(entry.step);
            }
            reached = reached.max(entry.step);
        }
        lost
    }

    /// Reads on until `ready` holds.
    ///
    /// # Errors
    /// When it does not within two minutes.
    pub async fn until(&mut self, ready: impl Fn(&Self) -> bool) -> Result<()> {
        let started = Instant::now();
        loop {
            self.refresh()?;
            if ready(self) {
                return Ok(());
            }
            ensure!(started.elapsed() < PATIENCE, "training stands still");
            tokio::time::sleep(TICK).await;
        }
    }

    /// Ranks that committed in each attempt.
    pub fn worlds(&self) -> BTreeMap<u64, usize> {
        let mut ranks: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
        for entry in self.commits() {
            ranks.entry(entry.attempt).or_default().insert(entry.rank);
        }
        let count = |(attempt, ranks): (u64, BTreeSet<u32>)| (attempt, ranks.len());
        ranks.into_iter().map(count).collect()
    }
}

fn list(folder: &Path) -> Vec<PathBuf> {
    // Not there yet, or just removed: both mean that there is nothing to read.
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn number_after(path: &Path, prefix: &str) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix(prefix)?.parse().ok()
}

fn rank_of(log: &Path) -> Option<u32> {
    let name = log.file_name()?.to_str()?;
    let (_, rest) = name.split_once("-rank-")?;
    rest.get(..5)?.parse().ok()
}

/// The whole lines behind `from`, which moves to their end.
fn read_lines(log: &Path, from: &mut u64) -> Result<String> {
    let Ok(mut file) = File::open(log) else {
        return Ok(String::new());
    };
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(*from))
        .and_then(|_| file.read_to_end(&mut bytes))
        .with_context(|| format!("read {}", log.display()))?;
    let end = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |n| n + 1);
    bytes.truncate(end);
    *from += end as u64;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `2026-01-02T03:04:05.678901Z DEBUG target: committed step=7`.
fn parse(line: &str) -> Option<(f64, Deed, u64)> {
    let (stamp, rest) = line.split_once(' ')?;
    let (head, step) = rest.rsplit_once(" step=")?;
    let deed = match head.rsplit_once(": ")?.1 {
        "committed" => Deed::Committed,
        "held" => Deed::Held,
        _ => return None,
    };
    Some((seconds(stamp)?, deed, step.trim().parse().ok()?))
}

/// Seconds since 1970 of a time in UTC.
fn seconds(stamp: &str) -> Option<f64> {
    let (date, time) = stamp.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let mut time = time.splitn(3, ':');
    let hours: f64 = time.next()?.parse().ok()?;
    let minutes: f64 = time.next()?.parse().ok()?;
    let seconds: f64 = time.next()?.parse().ok()?;
    // Years that begin in March have their leap day last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    let since_1970 = days - 719_469;
    Some(since_1970 as f64 * 86_400.0 + hours * 3600.0 + minutes * 60.0 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let line = "2026-03-01T00:00:01.250000Z DEBUG diptych_worker::phase: committed step=7";
        let (at, deed, step) = parse(line).expect("a line of the ledger");
        assert_eq!((deed, step), (Deed::Committed, 7));
        assert_eq!(at, 1_772_323_201.25);
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0.0));
        assert_eq!(parse("anything else"), None);
    }
}
