//! Which coordinator: flags, environment, and the named contexts of the configuration file.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use diptych_common::ids::{JobId, NameError};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::args::Globals;
use crate::failure::{Code, Failure};
use crate::view::cluster::ContextView;

/// Where a coordinator listens unless it was told otherwise.
pub(crate) const DEFAULT_PORT: u16 = 7654;

/// The environment variables, read once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

/// A coordinator's address, e.g. `http://coordinator:7654`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Server(String);

/// Why a text is not a coordinator's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a coordinator's address: {reason}; write e.g. http://coordinator:{DEFAULT_PORT}"
)]
pub(crate) struct ServerError {
    text: String,
    reason: String,
}

/// The name of a context: letters, digits and '-', as a job id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ContextName(JobId);

/// The configuration file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// The context that commands use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<ContextName>,
    /// Coordinators by name.
    pub(crate) contexts: BTreeMap<ContextName, Context>,
}

/// One named coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// Its address.
    pub(crate) server: Server,
}

impl Environment {
    /// This process's variables; those that are not text are left out.
    pub(crate) fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    /// A variable that is set and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// The same environment with one more variable, where it is not set.
    pub(crate) fn or_set(mut self, name: &str, value: String) -> Self {
        if self.get(name).is_none() {
            self.0.insert(name.to_owned(), value);
        }
        self
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        Self(
            variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        )
    }
}

impl Server {
    /// The address as a URL.
    pub(crate) fn url(&self) -> &str {
        &self.0
    }
}

impl FromStr for Server {
    type Err = ServerError;

    fn from_str(text: &str) -> Result<Self, ServerError> {
        let error = |reason: &str| ServerError {
            text: text.to_owned(),
            reason: reason.to_owned(),
        };
        let full = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let url = Url::parse(&full).map_err(|parse| error(&parse.to_string()))?;
        if url.scheme() != "http" {
            return Err(error("only http:// is spoken"));
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || !url.username().is_empty() {
            return Err(error("only a host and a port may stand in it"));
        }
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| error("it names no host"))?;
        // A URL drops port 80, the scheme's own; nobody means that one by leaving the port out.
        let port = url
            .port()
            .or(full.trim_end_matches('/').ends_with(":80").then_some(80))
            .unwrap_or(DEFAULT_PORT);
        Ok(Self(format!("http://{host}:{port}")))
    }
}

impl TryFrom<String> for Server {
    type Error = ServerError;

    fn try_from(text: String) -> Result<Self, ServerError> {
        text.parse()
    }
}

impl From<Server> for String {
    fn from(server: Server) -> String {
        server.0
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ContextName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        text.parse()
            .map(Self)
            .map_err(|error: NameError| NameError {
                what: "context name",
                ..error
            })
    }
}

impl fmt::Display for ContextName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Where the configuration file is, if anywhere.
pub(crate) fn config_path(globals: &Globals, environment: &Environment) -> Option<PathBuf> {
    let beside_home = || {
        let folder = environment.get("XDG_CONFIG_HOME").map(PathBuf::from);
        let home = || {
            environment
                .get("HOME")
                .map(|home| Path::new(home).join(".config"))
        };
        Some(folder.or_else(home)?.join("diptych/config.yaml"))
    };
    globals
        .config
        .clone()
        .or_else(|| environment.get("DIPTYCH_CLI_CONFIG").map(PathBuf::from))
        .or_else(beside_home)
}

/// Which coordinator to talk to: the flag, the named context, the environment, the context in use, the default.
pub(crate) fn resolve(
    globals: &Globals,
    environment: &Environment,
    config: &Config,
) -> Result<Server, Failure> {
    let usage = |error: String| Failure::new(Code::Usage, error);
    let parse = |text: &str, from: &str| {
        text.parse()
            .map_err(|error| usage(format!("{from}: {error}")))
    };
    let named = |name: &str, from: &str| {
        let name = name
            .parse::<ContextName>()
            .map_err(|error| usage(format!("{from}: {error}")))?;
        config
            .server_of(&name)
            .map_err(|failure| failure.while_doing(from))
    };
    if let Some(text) = &globals.server {
        return parse(text, "--server");
    }
    if let Some(name) = &globals.context {
        return named(name, "--context");
    }
    if let Some(text) = environment.get("DIPTYCH_SERVER") {
        return parse(text, "DIPTYCH_SERVER");
    }
    if let Some(name) = environment.get("DIPTYCH_CONTEXT") {
        return named(name, "DIPTYCH_CONTEXT");
    }
    match &config.current {
        Some(name) => config.server_of(name),
        None => Ok(Server(format!("http://127.0.0.1:{DEFAULT_PORT}"))),
    }
}

impl Config {
    /// Reads the file; an absent one is empty.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let invalid = |error: String| {
            Failure::new(
                Code::Usage,
                format!("configuration file {}: {error}", path.display()),
            )
        };
        match std::fs::read_to_string(path) {
            Ok(text) if text.trim().is_empty() => Ok(Self::default()),
            Ok(text) => serde_norway::from_str(&text).map_err(|error| invalid(error.to_string())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(invalid(error.to_string())),
        }
    }

    /// Replaces the file in one step, so that a crash leaves the old one or the new one.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        let save = || -> anyhow::Result<()> {
            let folder = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty())
                .unwrap_or(Path::new("."));
            std::fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(serde_norway::to_string(self)?.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            Ok(())
        };
        save().map_err(|error| Failure::from(error.context(format!("write {}", path.display()))))
    }

    /// The server of a named context.
    pub(crate) fn server_of(&self, name: &ContextName) -> Result<Server, Failure> {
        self.contexts
            .get(name)
            .map(|context| context.server.clone())
            .ok_or_else(|| {
                let known: Vec<_> = self.contexts.keys().map(ToString::to_string).collect();
                let known = if known.is_empty() {
                    "none is set".to_owned()
                } else {
                    format!("known: {}", known.join(", "))
                };
                let hint = format!("add it with `diptych context set {name} --server URL`");
                Failure::new(
                    Code::NotFound,
                    format!("there is no context {name} ({known}); {hint}"),
                )
            })
    }

    /// All contexts, by name.
    pub(crate) fn views(&self) -> Vec<ContextView> {
        let view = |(name, context): (&ContextName, &Context)| ContextView {
            name: name.to_string(),
            server: context.server.to_string(),
            current: self.current.as_ref() == Some(name),
        };
        self.contexts.iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    fn globals(server: Option<&str>, context: Option<&str>) -> Globals {
        Globals {
            output: Format::Table,
            server: server.map(str::to_owned),
            context: context.map(str::to_owned),
            config: None,
        }
    }

    fn config() -> Config {
        serde_norway::from_str(
            "current: lab\ncontexts:\n  lab: {server: 'lab:1'}\n  far: {server: 'http://far'}\n",
        )
        .unwrap()
    }

    #[test]
    fn addresses_parse_in_the_forms_that_people_type() {
        for (text, url) in [
            ("localhost:9", "http://localhost:9"),
            ("http://h", "http://h:7654"),
            ("http://h:80", "http://h:80"),
            ("http://10.0.0.1:5/", "http://10.0.0.1:5"),
            ("[::1]:5", "http://[::1]:5"),
        ] {
            assert_eq!(text.parse::<Server>().unwrap().url(), url);
        }
        for bad in [
            "",
            "https://h:1",
            "http://",
            "h:1/path",
            "h:99999",
            "user@h:1",
        ] {
            assert!(bad.parse::<Server>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_nearest_choice_wins() {
        let environment =
            Environment::from([("DIPTYCH_SERVER", "env:3"), ("DIPTYCH_CONTEXT", "far")]);
        let none = Environment::default();
        let table = [
            (
                globals(Some("flag:2"), Some("far")),
                &environment,
                "http://flag:2",
            ),
            (globals(None, Some("far")), &environment, "http://far:7654"),
            (globals(None, None), &environment, "http://env:3"),
            (globals(None, None), &none, "http://lab:1"),
        ];
        for (globals, environment, url) in table {
            assert_eq!(
                resolve(&globals, environment, &config()).unwrap().url(),
                url,
                "{globals:?}"
            );
        }
        assert_eq!(
            resolve(&globals(None, None), &none, &Config::default())
                .unwrap()
                .url(),
            "http://127.0.0.1:7654"
        );
        let missing = resolve(&globals(None, Some("moon")), &none, &config()).unwrap_err();
        assert_eq!(missing.code, Code::NotFound);
        assert!(missing.message.contains("far, lab"), "{missing}");
    }

    #[test]
    fn the_file_survives_a_round_trip_and_refuses_what_it_does_not_know() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/config.yaml");
        assert_eq!(Config::read(Some(&path)).unwrap(), Config::default());
        config().write(&path).unwrap();
        assert_eq!(Config::read(Some(&path)).unwrap(), config());
        std::fs::write(&path, "contexts: {}\ncurent: lab\n").unwrap();
        let failure = Config::read(Some(&path)).unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.message.contains("curent"), "{failure}");
    }

    #[test]
    fn the_file_is_where_the_environment_says() {
        let from = |pairs: &[(&str, &str)]| {
            let environment = Environment(
                pairs
                    .iter()
                    .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
                    .collect(),
            );
            config_path(&globals(None, None), &environment)
        };
        assert_eq!(
            from(&[("HOME", "/h")]),
            Some(PathBuf::from("/h/.config/diptych/config.yaml"))
        );
        assert_eq!(
            from(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")]),
            Some(PathBuf::from("/x/diptych/config.yaml"))
        );
        assert_eq!(
            from(&[("HOME", "/h"), ("DIPTYCH_CLI_CONFIG", "/c.yaml")]),
            Some(PathBuf::from("/c.yaml"))
        );
        assert_eq!(from(&[]), None);
    }
}
