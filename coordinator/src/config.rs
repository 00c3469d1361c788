//! Settings of the process: a file, then the environment, then flags; the later wins.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use diptych_common::settings::{
    DurationText, Effective, Environment, Layers, Problems, without_password,
};
use diptych_common::telemetry::{LogFormat, parse_filter};
use schemars::JsonSchema;
use serde::Serialize;
use tonic::codegen::http::Uri;

use crate::core::Settings;

/// Where the coordinator listens unless told otherwise: this machine only.
const LISTEN: &str = "127.0.0.1:7654";
const METRICS: &str = "0.0.0.0:9464";
const OTLP: &str = "http://collector:4317";

/// Flags. Each setting may also stand in the file by the same word, and in the environment as `DIPTYCH_` and that word in
/// capitals: `--data-dir`, `data-dir = "…"`, `DIPTYCH_DATA_DIR`.
#[derive(Debug, Clone, Default, Args, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(deny_unknown_fields)]
pub struct Flags {
    /// A TOML or YAML file with these settings (`listen = "…"`, `data-dir = "…"`).
    #[arg(long, value_name = "FILE")]
    #[schemars(skip)]
    pub config: Option<PathBuf>,
    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:7654].
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Address of `/healthz`, `/readyz` and `/metrics` [default: they are not served].
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics_listen: Option<String>,
    /// OTLP/gRPC collector that is sent a trace of every job, e.g. `http://collector:4317` [default: there are no traces].
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// Directory of the database and the logs; made if it is not there [default: ./diptych-data].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Write the bound port to this file, once listening.
    #[arg(long, value_name = "FILE")]
    pub port_file: Option<PathBuf>,
    /// `text` or `json` [default: text].
    #[arg(long, value_name = "FORMAT")]
    #[schemars(with = "Option<LogFormat>")]
    pub log_format: Option<String>,
    /// Log filter, e.g. `info` or `info,diptych_coordinator=debug` [default: info].
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// How often an agent must be heard [default: 1s].
    #[arg(long, value_name = "DURATION")]
    #[schemars(with = "Option<DurationText>")]
    pub heartbeat: Option<String>,
    /// A silent agent is lost after this [default: 5s].
    #[arg(long, value_name = "DURATION")]
    #[schemars(with = "Option<DurationText>")]
    pub dead_after: Option<String>,
    /// An agent whose connection was reset is lost after this [default: 1s].
    #[arg(long, value_name = "DURATION")]
    #[schemars(with = "Option<DurationText>")]
    pub reconnect: Option<String>,
    /// How long ranks may take to come back after a restart of the coordinator [default: 30s].
    #[arg(long, value_name = "DURATION")]
    #[schemars(with = "Option<DurationText>")]
    pub reattach_grace: Option<String>,
    /// How long a gang may take to load before it begins [default: 10m].
    #[arg(long, value_name = "DURATION")]
    #[schemars(with = "Option<DurationText>")]
    pub prepare_deadline: Option<String>,
    /// How long a gang that could be larger stays as it is before it grows [default: 10s].
    #[arg(long, value_name = "DURATION")]
    #[schemars(with = "Option<DurationText>")]
    pub grow_after: Option<String>,
    /// How long a gang may go without a step, at least, before it counts as stuck [default: 60s].
    #[arg(long, value_name = "DURATION")]
    #[schemars(with = "Option<DurationText>")]
    pub stall: Option<String>,
    /// Failures in a row without progress that end a phase [default: 3].
    #[arg(long, value_name = "N")]
    #[schemars(with = "Option<u32>")]
    pub failures: Option<String>,
    /// Failures within an hour that were a worker's own and keep new ranks off it; 0 never does [default: 5].
    #[arg(long, value_name = "N")]
    #[schemars(with = "Option<u32>")]
    pub suspect_after: Option<String>,
}

/// Settings that hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where to answer those who watch the process.
    pub metrics_listen: Option<SocketAddr>,
    /// Where the jobs' traces go.
    pub otlp_endpoint: Option<Uri>,
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
    /// All of it, to be shown.
    pub effective: Effective,
}

impl Config {
    /// What holds, of flags over the process's environment over the file over the defaults.
    ///
    /// # Errors
    /// Every setting that does not work.
    pub fn load(flags: &Flags) -> Result<Self, Problems> {
        Self::from_layers(flags, &|name| std::env::var(name).ok())
    }

    fn from_layers(flags: &Flags, environment: Environment<'_>) -> Result<Self, Problems> {
        let mut layers = Layers::read(flags, environment);
        let defaults = Settings::default();
        let default_listen = SocketAddr::from(([127, 0, 0, 1], 7654));
        let listen = layers.value("listen", default_listen, |text| {
            text.parse()
                .map_err(|_| format!("{text:?} is not an address such as {LISTEN}"))
        });
        let metrics_listen = layers.address("metrics-listen", METRICS);
        let otlp_endpoint = layers.optional("otlp-endpoint", collector);
        let data_dir = layers.text("data-dir", "diptych-data").into();
        let port_file = layers.optional("port-file", |text| Ok(text.into()));
        let log_format = layers.value("log-format", LogFormat::default(), str::parse);
        let log = layers.value("log", "info".to_owned(), |text| {
            let valid = parse_filter(text).map(|_| text.to_owned());
            valid.map_err(|error| error.to_string())
        });
        let settings = Settings {
            heartbeat: layers.duration("heartbeat", defaults.heartbeat),
            dead_after: layers.duration("dead-after", defaults.dead_after),
            reconnect: layers.duration("reconnect", defaults.reconnect),
            reattach_grace: layers.duration("reattach-grace", defaults.reattach_grace),
            prepare_deadline: layers.duration("prepare-deadline", defaults.prepare_deadline),
            grow_after: layers.duration("grow-after", defaults.grow_after),
            stall: layers.duration("stall", defaults.stall),
            failures: layers.value("failures", defaults.failures, |text| {
                let known = text.parse().ok().filter(|failures| *failures > 0);
                known.ok_or_else(|| format!("{text:?} is not a number of failures, 1 or more"))
            }),
            suspect_after: layers.value("suspect-after", defaults.suspect_after, |text| {
                text.parse()
                    .map_err(|_| format!("{text:?} is not a number of failures, 0 or more"))
            }),
            ..defaults
        };
        if settings.dead_after < settings.heartbeat * 2 {
            let problem =
                "must be at least twice the heartbeat, or healthy agents are taken for dead";
            layers.refuse("dead-after", problem);
        }
        if metrics_listen.is_some_and(|metrics| metrics.port() != 0 && metrics == listen) {
            layers.refuse(
                "metrics-listen",
                format!("is {listen}, which `listen` is, too"),
            );
        }
        let effective = layers.finish()?;
        Ok(Self {
            listen,
            metrics_listen,
            otlp_endpoint,
            data_dir,
            port_file,
            log_format,
            log,
            settings,
            effective,
        })
    }
}

/// A collector's address.
fn collector(text: &str) -> Result<Uri, String> {
    let read = text.parse::<Uri>().ok();
    if read.as_ref().and_then(Uri::scheme_str) == Some("https") {
        return Err(format!(
            "this version has no TLS: name a collector on a network that you trust, such as {OTLP}, which may pass traces on"
        ));
    }
    let bare = |uri: &Uri| {
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        uri.scheme_str() == Some("http")
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.port_u16().is_some()
            && !authority.contains('@')
            && matches!(
                uri.path_and_query().map(|path| path.as_str()),
                None | Some("/")
            )
    };
    read.filter(bare).ok_or_else(|| {
        let shown = without_password(text);
        format!("{shown:?} is not the address and port of a collector such as {OTLP}")
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn load(flags: &Flags, given: &[(&str, &str)]) -> Result<Config, String> {
        let environment = |name: &str| {
            let found = given.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Config::from_layers(flags, &environment).map_err(|problems| problems.to_string())
    }

    #[test]
    fn each_layer_wins_over_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("coordinator.toml");
        std::fs::write(
            &path,
            "listen = \"127.0.0.1:1\"\nreconnect = \"3s\"\nstall = \"2m\"\n",
        )
        .unwrap();
        let flags = Flags {
            config: Some(path),
            listen: Some("127.0.0.1:2".to_owned()),
            ..Flags::default()
        };
        let given = [
            ("DIPTYCH_RECONNECT", "4s"),
            ("DIPTYCH_LISTEN", "127.0.0.1:3"),
        ];
        let config = load(&flags, &given).unwrap();
        assert_eq!(config.listen, "127.0.0.1:2".parse().unwrap());
        assert_eq!(config.settings.reconnect, Duration::from_secs(4));
        assert_eq!(config.settings.stall, Duration::from_secs(120));
        assert_eq!(config.settings.heartbeat, Duration::from_secs(1));
        assert_eq!(config.metrics_listen, None);
    }

    #[test]
    fn every_setting_that_does_not_work_is_named() {
        let flags = Flags {
            listen: Some("nowhere".to_owned()),
            dead_after: Some("1s".to_owned()),
            log: Some("a=b=c".to_owned()),
            ..Flags::default()
        };
        let given = [
            ("DIPTYCH_LOG_FORMAT", "xml"),
            ("DIPTYCH_SUSPECT_AFTER", "-1"),
            ("DIPTYCH_FAILURES", "0"),
        ];
        let problems = load(&flags, &given).unwrap_err();
        for words in [
            "6 settings do not work",
            "listen: \"nowhere\" is not an address such as 127.0.0.1:7654 (from command line)",
            "dead-after: must be at least twice the heartbeat",
            "log: log filter \"a=b=c\" is malformed",
            "log-format: \"xml\" is not a log format: text or json (from DIPTYCH_LOG_FORMAT)",
            "suspect-after: \"-1\" is not a number of failures, 0 or more",
            "failures: \"0\" is not a number of failures, 1 or more",
        ] {
            assert!(problems.contains(words), "{words}\n{problems}");
        }
        let flags = Flags {
            listen: Some("127.0.0.1:7654".to_owned()),
            metrics_listen: Some("127.0.0.1:7654".to_owned()),
            ..Flags::default()
        };
        let problems = load(&flags, &[]).unwrap_err();
        assert!(
            problems.starts_with("metrics-listen: is 127.0.0.1:7654"),
            "{problems}"
        );
    }

    #[test]
    fn a_collector_is_an_address_and_a_port_without_tls() {
        for good in [OTLP, "http://10.0.0.1:4317/", "http://[::1]:4317"] {
            let given = [("DIPTYCH_OTLP_ENDPOINT", good)];
            let config = load(&Flags::default(), &given).unwrap();
            assert_eq!(config.otlp_endpoint, Some(good.parse().unwrap()));
        }
        assert_eq!(load(&Flags::default(), &[]).unwrap().otlp_endpoint, None);
        for (bad, words) in [
            ("https://collector:4317", "has no TLS"),
            ("http://collector", "not the address and port"),
            ("collector:4317", "not the address and port"),
            (
                "http://collector:4317/v1/traces",
                "not the address and port",
            ),
            (
                "http://me:secret@collector:4317",
                "\"http://…@collector:4317\"",
            ),
            ("http://:4317", "not the address and port"),
            ("grpc://collector:4317", "not the address and port"),
            ("nowhere", "not the address and port"),
        ] {
            let given = [("DIPTYCH_OTLP_ENDPOINT", bad)];
            let problems = load(&Flags::default(), &given).unwrap_err();
            assert!(problems.starts_with("otlp-endpoint: "), "{problems}");
            assert!(problems.contains(words), "{words}\n{problems}");
        }
    }

    #[test]
    fn every_setting_is_shown_and_has_a_schema() {
        let effective = load(&Flags::default(), &[]).unwrap().effective.to_string();
        let schema = diptych_common::settings::schema::<Flags>("x").to_value();
        let flags = serde_json::to_value(Flags::default()).unwrap();
        for key in flags
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| *key != "config")
        {
            let shown = |line: &str| {
                line.starts_with(&format!("{key} = ")) || line == format!("# {key} is not set")
            };
            assert!(effective.lines().any(shown), "{key}\n{effective}");
            let described = &schema["properties"][key]["description"];
            assert!(described.is_string(), "{key}\n{schema:#}");
        }
        assert_eq!(schema["additionalProperties"], false);
        assert!(schema["properties"]["config"].is_null());
    }
}
