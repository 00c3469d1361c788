//! Settings of the process: a file, then the environment, then flags; the later wins.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use diptych_common::telemetry::LogFormat;
use diptych_common::units::parse_duration;
use serde::Deserialize;

use crate::core::Settings;

/// Where the coordinator listens unless told otherwise: this machine only.
const LISTEN: &str = "127.0.0.1:7654";

/// Flags and environment. What is left out comes from the file, then from the defaults.
#[derive(Debug, Clone, Default, Args)]
pub struct Flags {
    /// A TOML or YAML file with these settings (`listen = "…"`, `data_dir = "…"`).
    #[arg(long, env = "DIPTYCH_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:7654].
    #[arg(long, env = "DIPTYCH_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Directory of the database and the logs; made if it is not there [default: ./diptych-data].
    #[arg(long, env = "DIPTYCH_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Write the bound port to this file, once listening.
    #[arg(long, env = "DIPTYCH_PORT_FILE", value_name = "FILE")]
    pub port_file: Option<PathBuf>,
    /// `text` or `json` [default: text].
    #[arg(long, env = "DIPTYCH_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Log filter, e.g. `info` or `info,diptych_coordinator=debug` [default: info].
    #[arg(long, env = "DIPTYCH_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// How often an agent must be heard [default: 1s].
    #[arg(long, env = "DIPTYCH_HEARTBEAT", value_name = "DURATION")]
    pub heartbeat: Option<String>,
    /// A silent agent is lost after this [default: 5s].
    #[arg(long, env = "DIPTYCH_DEAD_AFTER", value_name = "DURATION")]
    pub dead_after: Option<String>,
    /// An agent whose connection was reset is lost after this [default: 1s].
    #[arg(long, env = "DIPTYCH_RECONNECT", value_name = "DURATION")]
    pub reconnect: Option<String>,
    /// How long ranks may take to come back after a restart of the coordinator [default: 30s].
    #[arg(long, env = "DIPTYCH_REATTACH_GRACE", value_name = "DURATION")]
    pub reattach_grace: Option<String>,
    /// How long a gang may take to load before it begins [default: 10m].
    #[arg(long, env = "DIPTYCH_PREPARE_DEADLINE", value_name = "DURATION")]
    pub prepare_deadline: Option<String>,
    /// How long a gang that could be larger stays as it is before it grows [default: 10s].
    #[arg(long, env = "DIPTYCH_GROW_AFTER", value_name = "DURATION")]
    pub grow_after: Option<String>,
    /// How long a gang may go without a step, at least, before it counts as stuck [default: 60s].
    #[arg(long, env = "DIPTYCH_STALL", value_name = "DURATION")]
    pub stall: Option<String>,
    /// Failures within an hour that were a worker's own and keep new ranks off it; 0 never does [default: 5].
    #[arg(long, env = "DIPTYCH_SUSPECT_AFTER", value_name = "N")]
    pub suspect_after: Option<u32>,
}

/// The file's form of [`Flags`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    listen: Option<String>,
    data_dir: Option<PathBuf>,
    port_file: Option<PathBuf>,
    log_format: Option<String>,
    log: Option<String>,
    heartbeat: Option<String>,
    dead_after: Option<String>,
    reconnect: Option<String>,
    reattach_grace: Option<String>,
    prepare_deadline: Option<String>,
    grow_after: Option<String>,
    stall: Option<String>,
    suspect_after: Option<u32>,
}

/// Settings that hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Where to write the bound port.
    pub port_file: Option<PathBuf>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines there are.
    pub log: String,
    /// How long to wait for what.
    pub settings: Settings,
}

/// A setting that does not work.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read or holds something unknown.
    #[error("{}: {error}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        error: config::ConfigError,
    },
    /// A setting makes no sense.
    #[error("{setting}: {problem}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl Config {
    /// What holds, of flags (with the environment) over the file over the defaults.
    ///
    /// # Errors
    /// The first setting that does not work.
    pub fn load(flags: Flags) -> Result<Self, ConfigError> {
        let file = flags
            .config
            .as_deref()
            .map(read)
            .transpose()?
            .unwrap_or_default();
        let text = |flag: Option<String>, file: Option<String>, default: &str| {
            flag.or(file).unwrap_or_else(|| default.to_owned())
        };
        let listen = text(flags.listen, file.listen, LISTEN);
        let log_format = text(flags.log_format, file.log_format, "text");
        let wrong = |setting, problem: String| ConfigError::Setting { setting, problem };
        let defaults = Settings::default();
        let settings = Settings {
            heartbeat: wait(
                "heartbeat",
                flags.heartbeat.or(file.heartbeat),
                defaults.heartbeat,
            )?,
            dead_after: wait(
                "dead-after",
                flags.dead_after.or(file.dead_after),
                defaults.dead_after,
            )?,
            reconnect: wait(
                "reconnect",
                flags.reconnect.or(file.reconnect),
                defaults.reconnect,
            )?,
            reattach_grace: wait(
                "reattach-grace",
                flags.reattach_grace.or(file.reattach_grace),
                defaults.reattach_grace,
            )?,
            prepare_deadline: wait(
                "prepare-deadline",
                flags.prepare_deadline.or(file.prepare_deadline),
                defaults.prepare_deadline,
            )?,
            grow_after: wait(
                "grow-after",
                flags.grow_after.or(file.grow_after),
                defaults.grow_after,
            )?,
            stall: wait("stall", flags.stall.or(file.stall), defaults.stall)?,
            suspect_after: flags
                .suspect_after
                .or(file.suspect_after)
                .unwrap_or(defaults.suspect_after),
            ..defaults
        };
        if settings.dead_after < settings.heartbeat * 2 {
            let problem =
                "must be at least twice the heartbeat, or healthy agents are taken for dead"
                    .to_owned();
            return Err(wrong("dead-after", problem));
        }
        Ok(Self {
            listen: listen.parse().map_err(|_| {
                wrong(
                    "listen",
                    format!("{listen:?} is not an address such as {LISTEN}"),
                )
            })?,
            data_dir: flags
                .data_dir
                .or(file.data_dir)
                .unwrap_or_else(|| PathBuf::from("diptych-data")),
            port_file: flags.port_file.or(file.port_file),
            log_format: log_format
                .parse()
                .map_err(|problem| wrong("log-format", problem))?,
            log: text(flags.log, file.log, "info"),
            settings,
        })
    }
}

fn read(path: &Path) -> Result<File, ConfigError> {
    let source = config::File::from(path);
    let file = config::Config::builder()
        .add_source(source)
        .build()
        .and_then(config::Config::try_deserialize);
    file.map_err(|error| ConfigError::File {
        path: path.to_owned(),
        error,
    })
}

fn wait(
    setting: &'static str,
    given: Option<String>,
    default: Duration,
) -> Result<Duration, ConfigError> {
    let Some(text) = given else {
        return Ok(default);
    };
    let wait = parse_duration(&text).map_err(|error| ConfigError::Setting {
        setting,
        problem: error.to_string(),
    })?;
    if wait.is_zero() {
        return Err(ConfigError::Setting {
            setting,
            problem: "must be longer than nothing".to_owned(),
        });
    }
    Ok(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, Flags) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("coordinator.toml");
        std::fs::write(&path, text).unwrap();
        (
            dir,
            Flags {
                config: Some(path),
                ..Flags::default()
            },
        )
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let (_dir, flags) = file("listen = \"127.0.0.1:1\"\nreconnect = \"3s\"\n");
        let flags = Flags {
            listen: Some("127.0.0.1:2".to_owned()),
            ..flags
        };
        let config = Config::load(flags).unwrap();
        assert_eq!(config.listen, "127.0.0.1:2".parse().unwrap());
        assert_eq!(config.settings.reconnect, Duration::from_secs(3));
        assert_eq!(config.settings.heartbeat, Duration::from_secs(1));
    }

    #[test]
    fn what_does_not_work_is_named() {
        let (_dir, flags) = file("lisen = \"x\"\n");
        assert!(
            Config::load(flags)
                .unwrap_err()
                .to_string()
                .contains("lisen")
        );
        let flags = Flags {
            dead_after: Some("1s".to_owned()),
            ..Flags::default()
        };
        assert!(
            Config::load(flags)
                .unwrap_err()
                .to_string()
                .starts_with("dead-after: must be at least twice")
        );
        let flags = Flags {
            listen: Some("nowhere".to_owned()),
            ..Flags::default()
        };
        assert!(
            Config::load(flags)
                .unwrap_err()
                .to_string()
                .starts_with("listen: \"nowhere\" is not an address")
        );
    }
}
