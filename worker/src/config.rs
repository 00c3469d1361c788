//! What an agent is told: a file, over it the environment (`DIPTYCH_*`), over it the command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use diptych_common::ids::WorkerId;
use diptych_common::telemetry::LogFormat;
use diptych_common::units::parse_duration;
use serde::{Deserialize, Serialize};
use tonic::transport::Endpoint;

use crate::agent::core::Patience;
use crate::agent::devices::GpuWish;

/// Settings of an agent. Each may also stand in the file as the same word with `_`, and in the environment as
/// `DIPTYCH_` and that word in capitals.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentArgs {
    /// TOML or YAML file with settings.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
    /// The coordinator [default: http://127.0.0.1:7654].
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coordinator: Option<String>,
    /// Name of this worker, the same at every start [default: made from the host name and kept in the data directory].
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// GPUs to lend: `auto` for all that CUDA_VISIBLE_DEVICES does not hide, `none`, or a list of the numbers that
    /// nvidia-smi gives them, such as 0,1 [default: auto].
    #[arg(long, value_name = "GPUS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<String>,
    /// CPU slots: ranks that may run here on the CPU at once [default: 1 where no GPU is lent, else none].
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<u32>,
    /// Threads of each device [default: the machine's cores divided by the slots; of a GPU, its share of the cores near
    /// it].
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads_per_device: Option<usize>,
    /// Host or address under which other workers reach this one [default: the local address of the route to the
    /// coordinator].
    #[arg(long, value_name = "HOST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_address: Option<String>,
    /// Identity and logs of this worker [default: ~/.local/state/diptych/worker, with `-ID` where an id is given].
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// How long an aborted trainer may take before it is killed [default: 500ms].
    #[arg(long, value_name = "DURATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort_grace: Option<String>,
    /// As `--abort-grace`, for a trainer that is to keep its state: its step in flight may have to come to its end
    /// [default: 30s].
    #[arg(long, value_name = "DURATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_grace: Option<String>,
    /// How long trainers go on without a coordinator before they save and wait for it [default: 10m].
    #[arg(long, value_name = "DURATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orphan_limit: Option<String>,
    /// How long a trainer may leave its agent without an answer before it is killed [default: 3s].
    #[arg(long, value_name = "DURATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unresponsive: Option<String>,
    /// How long a worker that is told to stop stays for what it runs to be moved or saved; a second signal ends it at
    /// once [default: 2m].
    #[arg(long, value_name = "DURATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace: Option<String>,
    /// Where the agents of other workers reach this one [default: the data address, any free port].
    #[arg(long, value_name = "ADDRESS:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_listen: Option<String>,
    /// `text` or `json` [default: text].
    #[arg(long, value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<String>,
    /// Level, or filter by module, of the log [default: info].
    #[arg(long, value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

/// Valid settings.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The coordinator.
    pub coordinator: Endpoint,
    /// The given id.
    pub id: Option<WorkerId>,
    /// GPUs to lend.
    pub gpus: GpuWish,
    /// CPU slots, at least 1 where given.
    pub devices: Option<u32>,
    /// Threads of each device, where given.
    pub threads: Option<usize>,
    /// Where peers reach this machine; `None` to find out.
    pub data_address: Option<String>,
    /// This worker's own directory.
    pub data_dir: PathBuf,
    /// How long it waits for what.
    pub patience: Patience,
    /// Where it listens for other agents; `None` for any port of the data address.
    pub peer_listen: Option<SocketAddr>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which of them there are.
    pub log: String,
}

const MOST_DEVICES: u32 = 1024;
const LEAST_UNRESPONSIVE: Duration = Duration::from_secs(1);
const KEYS: [&str; 15] = [
    "coordinator",
    "id",
    "gpus",
    "devices",
    "threads_per_device",
    "data_address",
    "data_dir",
    "abort_grace",
    "hold_grace",
    "orphan_limit",
    "unresponsive",
    "grace",
    "peer_listen",
    "log_format",
    "log",
];

impl AgentConfig {
    /// Puts file, environment and command line together and checks the result.
    ///
    /// # Errors
    /// A file that cannot be read or has an unknown setting; any setting that makes no sense, by name.
    pub fn load(flags: AgentArgs) -> anyhow::Result<Self> {
        let environment = config::Environment::with_prefix("DIPTYCH")
            .prefix_separator("_")
            .try_parsing(true);
        Self::from_layers(flags, environment)
    }

    fn from_layers(flags: AgentArgs, environment: config::Environment) -> anyhow::Result<Self> {
        let mut layers = config::Config::builder();
        if let Some(path) = &flags.config {
            layers = layers.add_source(read_file(path)?);
        }
        let flags = config::Config::try_from(&flags).context("read flags")?;
        let merged = layers
            .add_source(environment)
            .add_source(flags)
            .build()
            .context("read settings")?;
        Self::check(merged.try_deserialize().context("read settings")?)
    }

    fn check(args: AgentArgs) -> anyhow::Result<Self> {
        let url = args
            .coordinator
            .unwrap_or_else(|| "http://127.0.0.1:7654".to_owned());
        let coordinator = Endpoint::from_shared(url.clone())
            .ok()
            .filter(|endpoint| endpoint.uri().host().is_some())
            .with_context(|| {
                format!("coordinator: {url:?} is not a URL such as http://coordinator.example:7654")
            })?;
        let id = args
            .id
            .map(|id| id.parse::<WorkerId>().context("id"))
            .transpose()?;
        let gpus = args
            .gpus
            .map(|gpus| gpus.parse::<GpuWish>().context("gpus"));
        if let Some(devices) = args.devices {
            ensure!(
                (1..=MOST_DEVICES).contains(&devices),
                "devices: {devices} is not between 1 and {MOST_DEVICES}"
            );
        }
        let data_dir = match args.data_dir {
            Some(dir) => std::path::absolute(dir).context("data_dir")?,
            None => default_data_dir(id.as_ref())?,
        };
        let duration = |name: &'static str, text: Option<String>, default: Duration| {
            text.map_or(Ok(default), |text| parse_duration(&text))
                .context(name)
        };
        let patience = Patience {
            abort_grace: duration("abort_grace", args.abort_grace, Duration::from_millis(500))?,
            hold_grace: duration("hold_grace", args.hold_grace, Duration::from_secs(30))?,
            orphan_limit: duration("orphan_limit", args.orphan_limit, Duration::from_secs(600))?,
            unresponsive: duration("unresponsive", args.unresponsive, Duration::from_secs(3))?,
            leave_grace: duration("grace", args.grace, Duration::from_secs(120))?,
        };
        ensure!(
            patience.unresponsive >= LEAST_UNRESPONSIVE,
            "unresponsive: {:?} is less than {LEAST_UNRESPONSIVE:?}: trainers are asked twice a second",
            patience.unresponsive
        );
        let peer_listen = args
            .peer_listen
            .map(|text| {
                text.parse().with_context(|| {
                    format!("peer_listen: {text:?} is not an address and port such as 0.0.0.0:7655")
                })
            })
            .transpose()?;
        let format = args.log_format.unwrap_or_else(|| "text".to_owned());
        Ok(Self {
            coordinator,
            id,
            gpus: gpus.transpose()?.unwrap_or_default(),
            devices: args.devices,
            threads: args.threads_per_device,
            data_address: args.data_address,
            data_dir,
            patience,
            peer_listen,
            log_format: format
                .parse()
                .map_err(anyhow::Error::msg)
                .context("log_format")?,
            log: args.log.unwrap_or_else(|| "info".to_owned()),
        })
    }
}

/// Reads a file on its own first: what the environment may carry for others, a file may not.
fn read_file(path: &Path) -> anyhow::Result<config::Config> {
    let read = config::Config::builder()
        .add_source(config::File::from(path))
        .build();
    let read = read.with_context(|| format!("read {}", path.display()))?;
    let table = read
        .clone()
        .try_deserialize::<std::collections::BTreeMap<String, serde_json::Value>>();
    for key in table
        .with_context(|| format!("read {}", path.display()))?
        .keys()
    {
        ensure!(
            KEYS.contains(&key.as_str()),
            "{}: unknown setting {key:?}; known: {}",
            path.display(),
            KEYS.join(", ")
        );
    }
    Ok(read)
}

fn default_data_dir(id: Option<&WorkerId>) -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    let base = state
        .context("data_dir: neither HOME nor XDG_STATE_HOME is set; give --data-dir")?
        .join("diptych");
    Ok(base.join(id.map_or_else(|| "worker".to_owned(), |id| format!("worker-{id}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> config::Environment {
        let source = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        config::Environment::with_prefix("DIPTYCH")
            .prefix_separator("_")
            .try_parsing(true)
            .source(Some(source))
    }

    fn flags() -> AgentArgs {
        AgentArgs {
            data_dir: Some("/tmp/x".into()),
            ..AgentArgs::default()
        }
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("worker.toml");
        std::fs::write(
            &path,
            "devices = 2\nid = \"from-file\"\nabort_grace = \"1s\"\n",
        )
        .expect("written");
        let flags = AgentArgs {
            config: Some(path),
            id: Some("from-flag".into()),
            ..flags()
        };
        let env = environment(&[
            ("DIPTYCH_DEVICES", "3"),
            ("DIPTYCH_GPUS", "0"),
            ("DIPTYCH_ID", "from-env"),
            ("DIPTYCH_STORAGE", "file:///x"),
        ]);
        let config = AgentConfig::from_layers(flags, env).expect("valid");
        assert_eq!(config.id.expect("given").as_str(), "from-flag");
        assert_eq!(config.devices, Some(3));
        assert_eq!(
            config.gpus,
            GpuWish::These([0].into()),
            "a lone number, too"
        );
        assert_eq!(config.patience.abort_grace, Duration::from_secs(1));
        assert_eq!(config.patience.orphan_limit, Duration::from_secs(600));
        assert_eq!(config.patience.leave_grace, Duration::from_secs(120));
    }

    #[test]
    fn refusals_name_the_setting() {
        let cases = [
            (
                AgentArgs {
                    coordinator: Some("not a url".into()),
                    ..flags()
                },
                "coordinator",
            ),
            (
                AgentArgs {
                    id: Some("Not An Id".into()),
                    ..flags()
                },
                "id",
            ),
            (
                AgentArgs {
                    devices: Some(0),
                    ..flags()
                },
                "devices",
            ),
            (
                AgentArgs {
                    gpus: Some("all".into()),
                    ..flags()
                },
                "gpus",
            ),
            (
                AgentArgs {
                    orphan_limit: Some("soon".into()),
                    ..flags()
                },
                "orphan_limit",
            ),
            (
                AgentArgs {
                    unresponsive: Some("400ms".into()),
                    ..flags()
                },
                "unresponsive",
            ),
            (
                AgentArgs {
                    grace: Some("a while".into()),
                    ..flags()
                },
                "grace",
            ),
            (
                AgentArgs {
                    peer_listen: Some("7655".into()),
                    ..flags()
                },
                "peer_listen",
            ),
            (
                AgentArgs {
                    log_format: Some("xml".into()),
                    ..flags()
                },
                "log_format",
            ),
        ];
        for (args, name) in cases {
            let error = AgentConfig::from_layers(args, environment(&[])).expect_err(name);
            assert!(format!("{error:#}").starts_with(name), "{name}: {error:#}");
        }
    }

    #[test]
    fn a_file_with_an_unknown_setting_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("worker.toml");
        std::fs::write(&path, "device = 2\n").expect("written");
        let flags = AgentArgs {
            config: Some(path),
            ..flags()
        };
        let error = AgentConfig::from_layers(flags, environment(&[])).expect_err("unknown");
        assert!(
            error.to_string().contains("unknown setting \"device\""),
            "{error:#}"
        );
    }
}
