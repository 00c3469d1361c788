//! Who gave what. The later layer wins; what does not work is collected, with who gave it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use super::effective::Effective;
use crate::units::parse_duration;

/// Variables by name; a process's own, or a test's.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Who gave a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody.
    Default,
    /// This file.
    File(PathBuf),
    /// The environment, by this variable.
    Variable(String),
    /// The command line.
    Flag,
}

/// A setting that does not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its key, or the file that cannot be read.
    pub setting: String,
    /// Who gave it.
    pub origin: Origin,
    /// What is wrong with it, and what would do.
    pub problem: String,
}

/// All that does not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

/// What was given, and what came of it so far.
#[derive(Debug)]
pub struct Layers {
    given: BTreeMap<String, (String, Origin)>,
    effective: Effective,
    problems: Vec<Problem>,
}

impl Layers {
    /// Puts the layers over each other. `flags` serializes to the values of the command line under the settings' keys,
    /// absent ones included: these are the settings that there are. One of them, `config`, names the file.
    pub fn read(flags: &impl Serialize, environment: Environment<'_>) -> Self {
        let mut layers = Self {
            given: BTreeMap::new(),
            effective: Effective::default(),
            problems: Vec::new(),
        };
        let flags = match serde_json::to_value(flags) {
            Ok(Value::Object(flags)) => flags,
            Ok(_) | Err(_) => Map::new(),
        };
        let of_flag = |key: &str| flags.get(key).and_then(scalar);
        let of_variable = environment(&variable("config")).filter(|path| !path.is_empty());
        let file = of_flag("config").or(of_variable);
        if let Some(path) = file {
            layers.read_file(Path::new(&path), &flags);
        }
        for key in flags.keys().filter(|key| *key != "config") {
            let name = variable(key);
            // An empty variable is how some give none.
            if let Some(value) = environment(&name).filter(|value| !value.is_empty()) {
                let origin = Origin::Variable(name);
                layers.given.insert(key.clone(), (value, origin));
            }
            if let Some(value) = of_flag(key) {
                layers.given.insert(key.clone(), (value, Origin::Flag));
            }
        }
        layers
    }

    fn read_file(&mut self, path: &Path, known: &Map<String, Value>) {
        let origin = Origin::File(path.to_owned());
        let mut wrong = |setting: String, problem: String| {
            let origin = origin.clone();
            self.problems.push(Problem {
                setting,
                origin,
                problem,
            });
        };
        let read = config::Config::builder()
            .add_source(config::File::from(path))
            .build()
            .and_then(config::Config::try_deserialize::<BTreeMap<String, Value>>);
        let values = match read {
            Ok(values) => values,
            Err(error) => return wrong("config".to_owned(), error.to_string()),
        };
        for (written, value) in values {
            // `data_dir` means what `data-dir` does.
            let key = written.replace('_', "-");
            if key == "config" || !known.contains_key(&key) {
                let keys: Vec<&str> = known
                    .keys()
                    .map(String::as_str)
                    .filter(|key| *key != "config")
                    .collect();
                wrong(
                    written,
                    format!("is no setting; known: {}", keys.join(", ")),
                );
            } else if let Some(value) = scalar(&value) {
                self.given.insert(key, (value, origin.clone()));
            } else {
                wrong(key, "must be one text, number or truth value".to_owned());
            }
        }
    }

    /// A setting that need not be given.
    pub fn optional<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let Some((text, origin)) = self.given.get(key).cloned() else {
            self.effective.put(key, None, Origin::Default);
            return None;
        };
        self.effective.put(key, Some(text.clone()), origin.clone());
        match parse(&text) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.problems.push(Problem {
                    setting: key.to_owned(),
                    origin,
                    problem,
                });
                None
            }
        }
    }

    /// A setting, or its default. What cannot be read is a problem, and the default stands in for it meanwhile.
    pub fn value<T: fmt::Display>(
        &mut self,
        key: &str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        let given = self.given.contains_key(key);
        let value = self.optional(key, parse);
        if !given {
            let text = Some(default.to_string());
            self.effective.put(key, text, Origin::Default);
        }
        value.unwrap_or(default)
    }

    /// A text, or its default.
    pub fn text(&mut self, key: &str, default: &str) -> String {
        self.value(key, default.to_owned(), |text| Ok(text.to_owned()))
    }

    /// A duration longer than nothing, or its default.
    pub fn duration(&mut self, key: &str, default: Duration) -> Duration {
        let shown = humantime::format_duration(default);
        let read = self.value(key, shown, |text| {
            let duration = parse_duration(text).map_err(|error| error.to_string())?;
            if duration.is_zero() {
                return Err("must be longer than nothing".to_owned());
            }
            Ok(humantime::format_duration(duration))
        });
        *read.get_ref()
    }

    /// An address to listen on, e.g. `example`.
    pub fn address(&mut self, key: &str, example: &str) -> Option<SocketAddr> {
        self.optional(key, |text| {
            text.parse()
                .map_err(|_| format!("{text:?} is not an address and port such as {example}"))
        })
    }

    /// Settings that are valid each for itself, and are not together.
    pub fn refuse(&mut self, key: &str, problem: impl Into<String>) {
        let origin = self.given.get(key).map(|(_, origin)| origin.clone());
        self.problems.push(Problem {
            setting: key.to_owned(),
            origin: origin.unwrap_or(Origin::Default),
            problem: problem.into(),
        });
    }

    /// What holds, where nothing is wrong.
    ///
    /// # Errors
    /// Every problem.
    pub fn finish(self) -> Result<Effective, Problems> {
        if self.problems.is_empty() {
            Ok(self.effective)
        } else {
            Err(Problems(self.problems))
        }
    }
}

/// The variable of a setting.
fn variable(key: &str) -> String {
    format!("DIPTYCH_{}", key.replace('-', "_").to_uppercase())
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag => f.write_str("command line"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.problem)?;
        match self.origin {
            Origin::Default => Ok(()),
            _ => write!(f, " (from {})", self.origin),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [problem] => write!(f, "{problem}"),
            problems => {
                write!(f, "{} settings do not work", problems.len())?;
                problems
                    .iter()
                    .try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Default)]
    #[serde(rename_all = "kebab-case")]
    struct Flags {
        config: Option<PathBuf>,
        listen: Option<String>,
        data_dir: Option<String>,
        wait: Option<String>,
        devices: Option<String>,
    }

    fn file(text: &str, ending: &str) -> (tempfile::TempDir, Option<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(format!("settings.{ending}"));
        std::fs::write(&path, text).unwrap();
        (dir, Some(path))
    }

    fn nothing(_: &str) -> Option<String> {
        None
    }

    fn number(text: &str) -> Result<u32, String> {
        text.parse()
            .map_err(|_| format!("{text:?} is not a number"))
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        for (text, ending) in [
            (
                "listen = \"file\"\ndata-dir = \"file\"\nwait = \"1s\"\ndevices = 7\n",
                "toml",
            ),
            (
                "listen: file\ndata_dir: file\nwait: 1s\ndevices: 7\n",
                "yaml",
            ),
        ] {
            let (_dir, config) = file(text, ending);
            let flags = Flags {
                config,
                listen: Some("flag".to_owned()),
                ..Flags::default()
            };
            let environment = |name: &str| {
                let given = ["DIPTYCH_LISTEN", "DIPTYCH_DATA_DIR", "DIPTYCH_OTHER"];
                given.contains(&name).then(|| "variable".to_owned())
            };
            let mut layers = Layers::read(&flags, &environment);
            assert_eq!(layers.text("listen", "x"), "flag");
            assert_eq!(layers.text("data-dir", "x"), "variable");
            assert_eq!(layers.duration("wait", Duration::ZERO).as_secs(), 1);
            assert_eq!(layers.value("devices", 1, number), 7);
            assert_eq!(
                layers
                    .finish()
                    .unwrap()
                    .to_string()
                    .replace(&flags.config.unwrap().display().to_string(), "FILE"),
                "listen = \"flag\" # command line\n\
                 data-dir = \"variable\" # DIPTYCH_DATA_DIR\n\
                 wait = \"1s\" # FILE\n\
                 devices = \"7\" # FILE\n"
            );
        }
    }

    #[test]
    fn every_problem_is_found_at_once_and_says_who_gave_it() {
        let (_dir, config) = file("lisen = \"x\"\nwait = \"soon\"\nlisten = [1]\n", "toml");
        let path = config.clone().unwrap().display().to_string();
        let flags = Flags {
            config,
            ..Flags::default()
        };
        let environment = |name: &str| (name == "DIPTYCH_DEVICES").then(|| "many".to_owned());
        let mut layers = Layers::read(&flags, &environment);
        assert_eq!(layers.duration("wait", Duration::from_secs(5)).as_secs(), 5);
        assert_eq!(layers.value("devices", 1, number), 1);
        layers.refuse("devices", "are too few");
        let problems = layers
            .finish()
            .unwrap_err()
            .to_string()
            .replace(&path, "FILE");
        assert_eq!(
            problems,
            "5 settings do not work\n  \
             lisen: is no setting; known: data-dir, devices, listen, wait (from FILE)\n  \
             listen: must be one text, number or truth value (from FILE)\n  \
             wait: \"soon\" is not a duration such as 30s, 5m or 1h (from FILE)\n  \
             devices: \"many\" is not a number (from DIPTYCH_DEVICES)\n  \
             devices: are too few (from DIPTYCH_DEVICES)"
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_a_problem() {
        let environment =
            |name: &str| (name == "DIPTYCH_CONFIG").then(|| "/nowhere/x.toml".to_owned());
        let layers = Layers::read(&Flags::default(), &environment);
        let problems = layers.finish().unwrap_err().to_string();
        assert!(problems.contains("/nowhere/x.toml"), "{problems}");
    }

    #[test]
    fn what_holds_is_a_file_that_gives_the_same_again() {
        let read = |flags: &Flags| {
            let mut layers = Layers::read(flags, &nothing);
            let read = (
                layers.text("listen", "a \"quoted\"\\ path"),
                layers.optional("data-dir", |text| Ok(text.to_owned())),
                layers.duration("wait", Duration::from_millis(1500)),
            );
            (read, layers.finish().unwrap())
        };
        let (first, effective) = read(&Flags::default());
        let (_dir, config) = file(&effective.to_string(), "toml");
        let flags = Flags {
            config,
            ..Flags::default()
        };
        assert_eq!(read(&flags).0, first);
    }
}
