//! The way back from a copy of the database. Its making is [`History::copy_to`](super::History::copy_to).

use std::path::{Path, PathBuf};

use diptych_common::clock;
use diptych_common::ids::Attempt;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection};

use super::StoreError;
use super::lock::Lock;
use crate::core::{JobRecord, JobState};

/// The database within its directory.
pub(super) const DATABASE: &str = "coordinator.db";

/// Attempt numbers that a restored job skips. Those that were given out after the backup stand in object keys and in
/// workers' fences, and must never come again; nobody knows how many there were.
const SKIPPED: u64 = 10_000;

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Jobs in it.
    pub jobs: usize,
    /// Those of them that go on.
    pub active: usize,
    /// Where the database that was in its place is now.
    pub former: Option<PathBuf>,
}

/// Puts a backup in the place of a data directory's database, after it was checked whole. Every job's attempt numbers go
/// on far behind those of the backup.
///
/// # Errors
/// A coordinator uses the directory; a database is there and `force` is not given; the backup is damaged, or of a newer
/// coordinator. Then nothing has changed.
pub async fn restore(backup: &Path, dir: &Path, force: bool) -> Result<Restored, StoreError> {
    std::fs::create_dir_all(dir).map_err(StoreError::file(dir))?;
    let _lock = Lock::take(dir)?;
    let database = dir.join(DATABASE);
    let occupied = database.try_exists().map_err(StoreError::file(&database))?;
    if occupied && !force {
        return Err(StoreError::Occupied {
            dir: dir.to_owned(),
        });
    }
    let copy = tempfile::Builder::new()
        .prefix("restore-")
        .suffix(".part")
        .tempdir_in(dir)
        .map_err(StoreError::file(dir))?;
    let whole = copy.path().join(DATABASE);
    std::fs::copy(backup, &whole).map_err(StoreError::file(backup))?;
    // A database that was put aside, or copied by hand, has its last commits beside it.
    let log = with(backup, "-wal");
    if log.try_exists().map_err(StoreError::file(&log))? {
        std::fs::copy(&log, with(&whole, "-wal")).map_err(StoreError::file(&log))?;
    }
    let (jobs, active) = prepare(backup, &whole).await?;
    std::fs::File::open(&whole)
        .and_then(|file| file.sync_all())
        .map_err(StoreError::file(&whole))?;
    let former = occupied.then(|| put_aside(&database)).transpose()?;
    std::fs::rename(&whole, &database).map_err(StoreError::file(&database))?;
    std::fs::File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(StoreError::file(dir))?;
    Ok(Restored {
        jobs,
        active,
        former,
    })
}

/// Checks a copy of a backup, brings it to this version and moves attempt numbers on. How many jobs there are, and how
/// many of them go on.
async fn prepare(backup: &Path, copy: &Path) -> Result<(usize, usize), StoreError> {
    let none = |problem: String| StoreError::NoBackup {
        path: backup.to_owned(),
        problem,
    };
    let options = SqliteConnectOptions::new()
        .filename(copy)
        // One file, with nothing beside it, when it is closed.
        .journal_mode(SqliteJournalMode::Delete)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .disable_statement_logging();
    let opened = options.connect().await;
    let mut connection = opened.map_err(|error| none(error.to_string()))?;
    let found = sqlx::query("PRAGMA integrity_check")
        .fetch_one(&mut connection)
        .await
        .and_then(|row| row.try_get::<String, _>(0));
    match found {
        Ok(verdict) if verdict == "ok" => {}
        Ok(verdict) => return Err(none(verdict)),
        Err(error) => return Err(none(error.to_string())),
    }
    let tables = sqlx::query("SELECT 1 FROM sqlite_master WHERE name = 'jobs'")
        .fetch_optional(&mut connection)
        .await?;
    if tables.is_none() {
        return Err(none("it holds no table of jobs".to_owned()));
    }
    sqlx::migrate!("./migrations").run(&mut connection).await?;
    let counts = move_on(&mut connection).await?;
    connection.close().await?;
    Ok(counts)
}

/// Numbers that were given out after the backup are never given out again.
async fn move_on(connection: &mut SqliteConnection) -> Result<(usize, usize), StoreError> {
    let mut transaction = connection.begin().await?;
    let rows = sqlx::query("SELECT id, body FROM jobs")
        .fetch_all(&mut *transaction)
        .await?;
    let (jobs, mut active) = (rows.len(), 0);
    for row in rows {
        let (id, body): (String, String) = (row.try_get("id")?, row.try_get("body")?);
        let wrong = |problem: serde_json::Error| StoreError::Row {
            job: id.clone(),
            problem: problem.to_string(),
        };
        let mut record: JobRecord = serde_json::from_str(&body).map_err(wrong)?;
        let next = record.last_attempt.get() + SKIPPED;
        record.last_attempt = Attempt::new(next);
        sqlx::query("UPDATE jobs SET body = ? WHERE id = ?")
            .bind(serde_json::to_string(&record).map_err(wrong)?)
            .bind(&id)
            .execute(&mut *transaction)
            .await?;
        if !matches!(record.state, JobState::Active) {
            continue;
        }
        active += 1;
        let message = format!(
            "the coordinator's database was restored from a backup: what happened since it was made is not in it, and attempts go on after number {next}"
        );
        sqlx::query(
            "INSERT INTO events (job, at_ms, kind, phase, attempt, message) VALUES (?, ?, 'restored', NULL, 0, ?)",
        )
        .bind(&id)
        .bind(clock::unix_millis(clock::now()) as i64)
        .bind(message)
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await?;
    Ok((jobs, active))
}

/// What a killed process left of copies on their way.
pub(super) fn clear(dir: &Path) -> Result<(), StoreError> {
    let entries = std::fs::read_dir(dir).map_err(StoreError::file(dir))?;
    for entry in entries {
        let path = entry.map_err(StoreError::file(dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.ends_with(".part") {
            continue;
        }
        if name.starts_with("backup-") {
            std::fs::remove_file(&path).map_err(StoreError::file(&path))?;
        } else if name.starts_with("restore-") {
            std::fs::remove_dir_all(&path).map_err(StoreError::file(&path))?;
        }
    }
    Ok(())
}

/// Gives a database, and what SQLite keeps beside it, another name, too. It stays where it is until the new one takes its
/// place: a machine that fails meanwhile never leaves none.
fn put_aside(database: &Path) -> Result<PathBuf, StoreError> {
    let name = format!(
        "{DATABASE}.before-restore-{}",
        clock::unix_millis(clock::now())
    );
    let aside = database.with_file_name(name);
    std::fs::hard_link(database, &aside).map_err(StoreError::file(database))?;
    let log = with(database, "-wal");
    match std::fs::rename(&log, with(&aside, "-wal")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        moved => moved.map_err(StoreError::file(&log))?,
    }
    // An index of the log, which is made anew.
    let index = with(database, "-shm");
    match std::fs::remove_file(&index) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        removed => removed.map_err(StoreError::file(&index))?,
    }
    Ok(aside)
}

fn with(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
