//! What an agent is told: a file, over it the environment (`DIPTYCH_*`), over it the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use diptych_common::ids::WorkerId;
use diptych_common::settings::{DurationText, Effective, Environment, Layers, Problems};
use diptych_common::telemetry::{LogFormat, parse_filter};
use schemars::JsonSchema;
use serde::Serialize;
use tonic::transport::Endpoint;

use crate::agent::core::Patience;
use crate::agent::devices::GpuWish;

/// Settings of an agent. Each may also stand in the file by the same word, and in the environment as `DIPTYCH_` and that
/// word in capitals: `--data-dir`, `data-dir = "…"`, `DIPTYCH_DATA_DIR`.
#[derive(Debug, Clone, Default, clap::Args, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct AgentArgs {
    /// TOML or YAML file with settings (`coordinator = "…"`, `data-dir = "…"`).
    #[arg(long, value_name = "FILE")]
    #[schemars(skip)]
    pub config: Option<PathBuf>,
    /// The coordinator [default: http://127.0.0.1:7654].
    #[arg(long, value_name = "URL")]
    pub coordinator: Option<String>,
    /// Name of this worker, the same at every start [default: made from the host name and kept in the data directory].
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,
    /// GPUs to lend: `auto` for all that CUDA_VISIBLE_DEVICES does not hide, `none`, or a list of the numbers that
    /// nvidia-smi gives them, such as 0,1 [default: auto].
    #[arg(long, value_name = "GPUS")]
    pub gpus: Option<String>,
    /// CPU slots: ranks that may run here on the CPU at once [default: 1 where no GPU is lent, else none].
    #[arg(long, value_name = "N")]
    #[schemars(with = "Option<u32>")]
    pub devices: Option<String>,
    /// Threads of each device [default: the machine's cores divided by the slots; of a GPU, its share of the cores near
    /// it].
    #[arg(long, value_name = "N")]
    #[schemars(with = "Option<u32>")]
    pub threads_per_device: Option<String>,
    /// Host or address under which other workers reach this one [default: the local address of the route to the
    /// coordinator].
    #[arg(long, value_name = "HOST")]
    pub data_address: Option<String>,
    /// Identity and logs of this worker [default: ~/.local/state/diptych/worker, with `-ID` where an id is given].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How long an aborted trainer may take before it is killed [default: 500ms].
    #[arg(long, value_name = "DURATION")]
    #[schemars(with = "Option<DurationText>")]
    pub abort_grace: Option<String>,
    /// As `--abort-grace`, for a trainer that is to keep its state: its step in flight may have to come to its end
    /// [default: 30s].
    #[arg(long, value_name = "DURATION")]
    #[schemars(with = "Option<DurationText>")]
    pub hold_grace: Option<String>,
    /// How long trainers go on without a coordinator before they save and wait for it [default: 10m].
    #[arg(long, value_name = "DURATION")]
    #[schemars(with = "Option<DurationText>")]
    pub orphan_limit: Option<String>,
    /// How long a trainer may leave its agent without an answer before it is killed [default: 3s].
    #[arg(long, value_name = "DURATION")]
    #[schemars(with = "Option<DurationText>")]
    pub unresponsive: Option<String>,
    /// How long a worker that is told to stop stays for what it runs to be moved or saved; a second signal ends it at
    /// once [default: 2m].
    #[arg(long, value_name = "DURATION")]
    #[schemars(with = "Option<DurationText>")]
    pub grace: Option<String>,
    /// Where the agents of other workers reach this one [default: the data address, any free port].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub peer_listen: Option<String>,
    /// Address of `/healthz`, `/readyz` and `/metrics` [default: they are not served].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<String>,
    /// `text` or `json` [default: text].
    #[arg(long, value_name = "FORMAT")]
    #[schemars(with = "Option<LogFormat>")]
    pub log_format: Option<String>,
    /// Level, or filter by module, of the log [default: info].
    #[arg(long, value_name = "FILTER")]
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
    /// Where to answer those who watch the process.
    pub metrics_listen: Option<SocketAddr>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which of them there are.
    pub log: String,
    /// All of it, to be shown.
    pub effective: Effective,
}

const COORDINATOR: &str = "http://127.0.0.1:7654";
const MOST_DEVICES: u32 = 1024;
const LEAST_UNRESPONSIVE: Duration = Duration::from_secs(1);

impl AgentConfig {
    /// Puts file, environment and command line together and checks the result.
    ///
    /// # Errors
    /// Every setting that does not work.
    pub fn load(flags: &AgentArgs) -> Result<Self, Problems> {
        Self::from_layers(flags, &|name| std::env::var(name).ok())
    }

    fn from_layers(flags: &AgentArgs, environment: Environment<'_>) -> Result<Self, Problems> {
        let mut layers = Layers::read(flags, environment);
        let url = layers.text("coordinator", COORDINATOR);
        let coordinator = endpoint(&url).unwrap_or_else(|problem| {
            layers.refuse("coordinator", problem);
            Endpoint::from_static(COORDINATOR)
        });
        let id = layers.optional("id", |text| {
            text.parse::<WorkerId>().map_err(|error| error.to_string())
        });
        let gpus = layers.optional("gpus", |text| {
            text.parse::<GpuWish>().map_err(|error| error.to_string())
        });
        let devices = layers.optional("devices", |text| {
            let devices = text.parse().ok();
            devices
                .filter(|devices| (1..=MOST_DEVICES).contains(devices))
                .ok_or_else(|| format!("{text:?} is not a number between 1 and {MOST_DEVICES}"))
        });
        let threads = layers.optional("threads-per-device", |text| {
            let threads = text.parse().ok().filter(|threads| *threads > 0);
            threads.ok_or_else(|| format!("{text:?} is not a number of threads, at least 1"))
        });
        let data_address = layers.optional("data-address", |text| Ok(text.to_owned()));
        let data_dir = data_dir(&mut layers, id.as_ref());
        let patience = Patience {
            abort_grace: layers.duration("abort-grace", Duration::from_millis(500)),
            hold_grace: layers.duration("hold-grace", Duration::from_secs(30)),
            orphan_limit: layers.duration("orphan-limit", Duration::from_secs(600)),
            unresponsive: layers.duration("unresponsive", Duration::from_secs(3)),
            leave_grace: layers.duration("grace", Duration::from_secs(120)),
        };
        if patience.unresponsive < LEAST_UNRESPONSIVE {
            let problem = format!(
                "{:?} is less than {LEAST_UNRESPONSIVE:?}: trainers are asked twice a second",
                patience.unresponsive
            );
            layers.refuse("unresponsive", problem);
        }
        let peer_listen = layers.address("peer-listen", "0.0.0.0:7655");
        let metrics_listen = layers.address("metrics-listen", "0.0.0.0:9464");
        if metrics_listen.is_some_and(|metrics| metrics.port() != 0)
            && metrics_listen == peer_listen
        {
            layers.refuse("metrics-listen", "is what `peer-listen` is, too");
        }
        let log_format = layers.value("log-format", LogFormat::default(), str::parse);
        let log = layers.value("log", "info".to_owned(), |text| {
            let valid = parse_filter(text).map(|_| text.to_owned());
            valid.map_err(|error| error.to_string())
        });
        let effective = layers.finish()?;
        Ok(Self {
            coordinator,
            id,
            gpus: gpus.unwrap_or_default(),
            devices,
            threads,
            data_address,
            data_dir,
            patience,
            peer_listen,
            metrics_listen,
            log_format,
            log,
            effective,
        })
    }
}

fn endpoint(url: &str) -> Result<Endpoint, String> {
    Endpoint::from_shared(url.to_owned())
        .ok()
        .filter(|endpoint| endpoint.uri().host().is_some())
        .ok_or_else(|| format!("{url:?} is not a URL such as http://coordinator.example:7654"))
}

fn data_dir(layers: &mut Layers, id: Option<&WorkerId>) -> PathBuf {
    let given = layers.optional("data-dir", |text| {
        std::path::absolute(text).map_err(|error| error.to_string())
    });
    match given.map_or_else(|| default_data_dir(id), Ok) {
        Ok(dir) => dir,
        Err(problem) => {
            layers.refuse("data-dir", problem);
            PathBuf::new()
        }
    }
}

/// Under the user's own state.
fn default_data_dir(id: Option<&WorkerId>) -> Result<PathBuf, &'static str> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    let base = state
        .ok_or("neither HOME nor XDG_STATE_HOME is set; give --data-dir")?
        .join("diptych");
    Ok(base.join(id.map_or_else(|| "worker".to_owned(), |id| format!("worker-{id}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(flags: &AgentArgs, given: &[(&str, &str)]) -> Result<AgentConfig, String> {
        let environment = |name: &str| {
            let found = given.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        AgentConfig::from_layers(flags, &environment).map_err(|problems| problems.to_string())
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
        let file = "devices = 2\nid = \"from-file\"\nabort_grace = \"1s\"\nhold-grace = \"7s\"\n";
        std::fs::write(&path, file).expect("written");
        let flags = AgentArgs {
            config: Some(path),
            id: Some("from-flag".into()),
            ..flags()
        };
        let given = [
            ("DIPTYCH_DEVICES", "3"),
            ("DIPTYCH_GPUS", "0"),
            ("DIPTYCH_ID", "from-env"),
            ("DIPTYCH_STORAGE", "file:///x"),
        ];
        let config = load(&flags, &given).expect("valid");
        assert_eq!(config.id.expect("given").as_str(), "from-flag");
        assert_eq!(config.devices, Some(3));
        assert_eq!(
            config.gpus,
            GpuWish::These([0].into()),
            "a lone number, too"
        );
        assert_eq!(config.patience.abort_grace, Duration::from_secs(1));
        assert_eq!(config.patience.hold_grace, Duration::from_secs(7));
        assert_eq!(config.patience.orphan_limit, Duration::from_secs(600));
        assert_eq!(config.patience.leave_grace, Duration::from_secs(120));
        assert_eq!(config.metrics_listen, None);
    }

    #[test]
    fn every_setting_that_does_not_work_is_named() {
        let wrong = [
            ("DIPTYCH_COORDINATOR", "not a url"),
            ("DIPTYCH_ID", "Not An Id"),
            ("DIPTYCH_GPUS", "all"),
            ("DIPTYCH_DEVICES", "0"),
            ("DIPTYCH_THREADS_PER_DEVICE", "0"),
            ("DIPTYCH_ORPHAN_LIMIT", "soon"),
            ("DIPTYCH_UNRESPONSIVE", "400ms"),
            ("DIPTYCH_GRACE", "a while"),
            ("DIPTYCH_PEER_LISTEN", "7655"),
            ("DIPTYCH_METRICS_LISTEN", "9464"),
            ("DIPTYCH_LOG_FORMAT", "xml"),
            ("DIPTYCH_LOG", "a=b=c"),
        ];
        let problems = load(&flags(), &wrong).expect_err("nothing works");
        assert!(
            problems.starts_with("12 settings do not work"),
            "{problems}"
        );
        for (variable, _) in wrong {
            let key = variable.trim_start_matches("DIPTYCH_").to_lowercase();
            let key = key.replace('_', "-");
            let named = |line: &str| {
                line.starts_with(&format!("  {key}: ")) && line.ends_with(&format!("({variable})"))
            };
            let from = problems.replace("(from ", "(");
            assert!(from.lines().any(named), "{key}\n{problems}");
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
        let problem = load(&flags, &[]).expect_err("unknown");
        assert!(
            problem.starts_with("device: is no setting; known: "),
            "{problem}"
        );
    }

    #[test]
    fn every_setting_is_shown_and_has_a_schema() {
        let effective = load(&flags(), &[]).expect("valid").effective.to_string();
        let schema = diptych_common::settings::schema::<AgentArgs>("x").to_value();
        let flags = serde_json::to_value(AgentArgs::default()).expect("flags");
        let keys = flags.as_object().expect("flags").keys();
        for key in keys.filter(|key| *key != "config") {
            let shown = |line: &str| {
                line.starts_with(&format!("{key} = ")) || line == format!("# {key} is not set")
            };
            assert!(effective.lines().any(shown), "{key}\n{effective}");
            assert!(
                schema["properties"][key]["description"].is_string(),
                "{key}"
            );
        }
    }
}
