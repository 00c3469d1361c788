//! What to do: arguments that make sense together, files read, the coordinator chosen.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap_complete::Shell;
use diptych_common::ids::{JobId, PhaseName, WorkerId};
use diptych_common::spec::{self, JobSpec};

use crate::args::admin::{AdminVerb, DebugBundle, Restore};
use crate::args::checkpoint::{CheckpointVerb, Export, Inspect, Which};
use crate::args::job::{Logs, Metrics, SpecFile, Wait};
use crate::args::local::{DatasetVerb, Local};
use crate::args::settings::{ContextVerb, SpecVerb};
use crate::args::worker::{Drain, WorkerVerb};
use crate::args::{Args, Verb};
use crate::binaries::{Binaries, Program};
use crate::context::{self, Config, ContextName, Environment, Server};
use crate::failure::{Code, Failure};
use crate::output::Format;
use crate::verb::dataset::Inspection;
use crate::verb::plan::Planning;
use crate::view::JobState;

/// A command that can run.
#[derive(Debug)]
pub(crate) enum Command {
    /// Asks a coordinator.
    Remote(Server, Remote),
    /// Says what a valid spec holds; an invalid one does not get here.
    Validate(Box<JobSpec>),
    /// Says what a job takes.
    Plan(Box<Planning>),
    /// Prints an example or the schema.
    Spec(SpecVerb),
    /// Prints a completion script.
    Completion(Shell),
    /// Reads or changes the configuration file.
    Contexts {
        path: Option<PathBuf>,
        change: ContextChange,
    },
    /// Prints versions; the coordinator's too, where one is given.
    Version(Option<Server>),
    /// Becomes another program.
    Become(Program, Vec<std::ffi::OsString>),
    /// Looks at a file of weights.
    Weights(String),
    /// Looks at a data set.
    Inspect(Box<Inspection>),
    /// Runs a cluster on this machine.
    Local {
        args: Local,
        environment: Environment,
        binaries: Binaries,
    },
}

/// What to ask a coordinator.
#[derive(Debug)]
pub(crate) enum Remote {
    Submit(Submit),
    List(Vec<JobState>),
    Describe(JobId),
    Watch(JobId),
    Logs(Logs),
    Events { job: JobId, follow: bool },
    Explain(JobId),
    Cancel { job: JobId, reason: String },
    Wait(Wait),
    Retry(JobId),
    Delete { job: JobId, objects: bool },
    Metrics(Metrics),
    Checkpoints(JobId),
    Checkpoint(Which),
    Verify(Which),
    Export(Export),
    Pin { which: Which, pinned: bool },
    Scale(Scale),
    Worker(OfWorkers),
    Backup { to: PathBuf },
    DebugBundle(DebugBundle),
}

/// What to ask about workers, or of one.
#[derive(Debug)]
pub(crate) enum OfWorkers {
    List,
    Describe(WorkerId),
    Cordon { worker: WorkerId, reason: String },
    Uncordon(WorkerId),
    Drain(Drain),
    Top { once: bool },
}

/// How many ranks phases may have.
#[derive(Debug)]
pub(crate) struct Scale {
    pub(crate) job: JobId,
    /// Absent: every phase that is not done.
    pub(crate) phase: Option<PhaseName>,
    /// Absent: as it is.
    pub(crate) min: Option<u32>,
    /// Absent: as it is. Not below `min`.
    pub(crate) max: Option<u32>,
}

/// A job to queue.
#[derive(Debug)]
pub(crate) struct Submit {
    pub(crate) spec: Box<JobSpec>,
    pub(crate) request_id: String,
    pub(crate) then: Then,
}

/// What to do once the coordinator has the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// It only validates.
    DryRun,
    /// Nothing.
    Leave,
    /// Wait quietly for its end.
    Wait,
    /// Show its progress to its end.
    Follow,
}

/// What to do with the configuration file.
#[derive(Debug)]
pub(crate) enum ContextChange {
    List,
    Use(ContextName),
    Set(ContextName, Server),
}

impl Command {
    /// Reads the files that the arguments name and refuses what cannot run.
    pub(crate) fn from_args(args: Args, environment: Environment) -> Result<Self, Failure> {
        let Args { globals, verb } = args;
        if globals.output == Format::Csv && !matches!(verb, Verb::Metrics(_)) {
            return Err(Failure::new(
                Code::Usage,
                "only `metrics` prints csv; use table, json or yaml",
            ));
        }
        let path = context::config_path(&globals, &environment);
        let server = || context::resolve(&globals, &environment, &Config::read(path.as_deref())?);
        let remote = |remote| Ok(Self::Remote(server()?, remote));
        match verb {
            Verb::Submit(submit) => {
                remote(Remote::Submit(Submit::from_args(submit, &environment)?))
            }
            Verb::Validate(validate) => Ok(Self::Validate(Box::new(read_spec(
                &validate.spec,
                &environment,
            )?))),
            Verb::Plan(plan) => Ok(Self::Plan(Box::new(Planning::from_args(
                plan,
                &environment,
            )?))),
            Verb::List(list) => remote(Remote::List(list.state)),
            Verb::Describe(describe) => remote(Remote::Describe(describe.job)),
            Verb::Watch(watch) => remote(Remote::Watch(watch.job)),
            Verb::Logs(logs) => remote(Remote::Logs(logs)),
            Verb::Events(events) => remote(Remote::Events {
                job: events.job,
                follow: events.follow,
            }),
            Verb::Explain(explain) => remote(Remote::Explain(explain.job)),
            Verb::Cancel(cancel) => remote(Remote::Cancel {
                job: cancel.job,
                reason: cancel.reason,
            }),
            Verb::Wait(wait) => remote(Remote::Wait(wait)),
            Verb::Retry(retry) => remote(Remote::Retry(retry.job)),
            Verb::Delete(delete) => remote(Remote::Delete {
                job: delete.job,
                objects: delete.objects,
            }),
            Verb::Metrics(metrics) => remote(Remote::Metrics(metrics)),
            Verb::Checkpoint(checkpoint) => match Remote::of_checkpoint(checkpoint.verb) {
                Ok(request) => remote(request),
                Err(inspect) => Ok(Self::Weights(inspect.file)),
            },
            Verb::Scale(scale) => remote(Remote::Scale(Scale::from_args(scale)?)),
            Verb::Worker(worker) => remote(Remote::Worker(worker.verb.into())),
            Verb::Admin(admin) => match admin.verb {
                AdminVerb::Backup(backup) => remote(Remote::Backup { to: backup.to }),
                AdminVerb::DebugBundle(bundle) => remote(Remote::DebugBundle(bundle)),
                AdminVerb::Restore(restore) => Self::restore(restore, &environment),
            },
            Verb::Predict(predict) => {
                Self::worker("predict", predict.args, globals.output, &environment)
            }
            Verb::Embed(embed) => Self::worker("embed", embed.args, globals.output, &environment),
            Verb::Dataset(dataset) => match dataset.verb {
                DatasetVerb::Inspect(inspect) => Ok(Self::Inspect(Box::new(
                    Inspection::from_args(inspect, &environment)?,
                ))),
            },
            Verb::Local(args) => {
                let binaries = Binaries::find(&environment)?;
                Ok(Self::Local {
                    args,
                    environment,
                    binaries,
                })
            }
            Verb::Spec(spec) => Ok(Self::Spec(spec.verb)),
            Verb::Completion(completion) => Ok(Self::Completion(completion.shell)),
            Verb::Context(verb) => {
                let change = ContextChange::from_args(verb.verb, globals.server.as_deref())?;
                Ok(Self::Contexts { path, change })
            }
            Verb::Version(version) => Ok(Self::Version(if version.client {
                None
            } else {
                Some(server()?)
            })),
        }
    }

    /// The coordinator's own program does it, because it knows the database.
    fn restore(restore: Restore, environment: &Environment) -> Result<Self, Failure> {
        let mut args = vec![
            "restore".into(),
            "--from".into(),
            restore.from.into_os_string(),
            "--data-dir".into(),
            restore.data_dir.into_os_string(),
        ];
        if restore.force {
            args.push("--force".into());
        }
        Ok(Self::Become(Program::coordinator(environment)?, args))
    }

    fn worker(
        subcommand: &str,
        args: Vec<std::ffi::OsString>,
        format: Format,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let program = Program::worker(environment)?;
        let mut full = vec![subcommand.into()];
        full.extend(args);
        match format {
            Format::Table | Format::Csv => {}
            Format::Json => full.extend(["-o".into(), "json".into()]),
            Format::Yaml => {
                return Err(Failure::new(
                    Code::Usage,
                    format!("`{subcommand}` prints table or json"),
                ));
            }
        }
        Ok(Self::Become(program, full))
    }
}

impl Submit {
    fn from_args(
        args: crate::args::job::Submit,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let then = match (args.dry_run, args.wait, args.follow) {
            (true, _, _) => Then::DryRun,
            (_, true, _) => Then::Wait,
            (_, _, true) => Then::Follow,
            _ => Then::Leave,
        };
        let request_id = args.request_id.unwrap_or_else(new_request_id);
        Ok(Self {
            spec: Box::new(read_spec(&args.spec, environment)?),
            request_id,
            then,
        })
    }
}

impl Scale {
    fn from_args(args: crate::args::job::Scale) -> Result<Self, Failure> {
        let crate::args::job::Scale {
            job,
            phase,
            min,
            max,
        } = args;
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            let text = format!("--min {min} is more than --max {max}");
            return Err(Failure::new(Code::Usage, text));
        }
        Ok(Self {
            job,
            phase,
            min,
            max,
        })
    }
}

impl From<WorkerVerb> for OfWorkers {
    fn from(verb: WorkerVerb) -> Self {
        match verb {
            WorkerVerb::List => Self::List,
            WorkerVerb::Describe(describe) => Self::Describe(describe.worker),
            WorkerVerb::Cordon(cordon) => Self::Cordon {
                worker: cordon.worker,
                reason: cordon.reason,
            },
            WorkerVerb::Uncordon(uncordon) => Self::Uncordon(uncordon.worker),
            WorkerVerb::Drain(drain) => Self::Drain(drain),
            WorkerVerb::Top(top) => Self::Top { once: top.once },
        }
    }
}

impl ContextChange {
    fn from_args(verb: ContextVerb, server: Option<&str>) -> Result<Self, Failure> {
        let usage = |error: String| Failure::new(Code::Usage, error);
        let name = |text: String| {
            text.parse::<ContextName>()
                .map_err(|error| usage(error.to_string()))
        };
        match verb {
            ContextVerb::List => Ok(Self::List),
            ContextVerb::Use { name: text } => Ok(Self::Use(name(text)?)),
            ContextVerb::Set { name: text } => {
                let url = server.ok_or_else(|| {
                    usage("say which server: --server http://HOST:PORT".to_owned())
                })?;
                Ok(Self::Set(
                    name(text)?,
                    url.parse()
                        .map_err(|error| usage(format!("--server: {error}")))?,
                ))
            }
        }
    }
}

impl Remote {
    /// What to ask about checkpoints; `inspect` asks nobody.
    fn of_checkpoint(verb: CheckpointVerb) -> Result<Self, Inspect> {
        Ok(match verb {
            CheckpointVerb::Inspect(inspect) => return Err(inspect),
            CheckpointVerb::List(list) => Self::Checkpoints(list.job),
            CheckpointVerb::Describe(describe) => Self::Checkpoint(describe.which),
            CheckpointVerb::Verify(verify) => Self::Verify(verify.which),
            CheckpointVerb::Export(export) => Self::Export(export),
            CheckpointVerb::Pin(pin) => Self::Pin {
                which: pin.which,
                pinned: true,
            },
            CheckpointVerb::Unpin(unpin) => Self::Pin {
                which: unpin.which,
                pinned: false,
            },
        })
    }
}

/// A name that no other submit has.
pub(crate) fn new_request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Reads, changes, expands and validates a spec: every error at once.
pub(crate) fn read_spec(file: &SpecFile, environment: &Environment) -> Result<JobSpec, Failure> {
    let text = read_text(&file.file)?;
    let lookup = |name: &str| environment.get(name).map(str::to_owned);
    let draft = spec::load(&text, &file.set, &lookup)?;
    Ok(JobSpec::try_from(draft)?)
}

fn read_text(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin().read_to_string(&mut text).map(|_| ()),
        false => std::fs::read_to_string(path).map(|read| text = read),
    };
    read.map_err(|error| {
        Failure::from(error).while_doing(&format!("read spec {}", path.display()))
    })?;
    Ok(text)
}
