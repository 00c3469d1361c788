//! The commands themselves.

pub(crate) mod submit; // submit
pub(crate) mod job; // list, describe, explain, cancel, retry, scale, delete, metrics
pub(crate) mod follow; // a job's progress to its end
mod stream; // logs, events
pub(crate) mod watch; // watch, wait
mod checkpoint; // checkpoint list … unpin
pub(crate) mod export; // checkpoint export
mod weights; // checkpoint inspect
mod worker; // worker list … drain
mod top; // worker top
mod admin; // admin backup
mod bundle; // admin debug-bundle
mod cluster; // version, context
mod spec; // validate, spec, completion
pub(crate) mod plan; // plan
pub(crate) mod dataset; // dataset inspect
mod program; // predict, embed, admin restore

use std::io::Write;

use crate::client::Client;
use crate::command::{Command, OfWorkers, Remote};
use crate::failure::{Code, Failure};
use crate::local;
use crate::output::Printer;

/// Runs a command.
pub(crate) async fn run<W: Write>(
    command: Command,
    mut printer: Printer<W>,
) -> Result<(), Failure> {
    let out = &mut printer;
    match command {
        Command::Remote(server, request) => remote(&Client::new(&server)?, request, out).await,
        Command::Validate(spec) => spec::validate(&spec, out),
        Command::Plan(planning) => plan::plan(*planning, out).await,
        Command::Spec(verb) => spec::print(&verb, out),
        Command::Completion(shell) => spec::completion(shell, out),
        Command::Contexts { path, change } => cluster::contexts(path, change, out),
        Command::Version(server) => cluster::version(server.as_ref(), out).await,
        Command::Become(program, args) => program::become_program(&program, &args),
        Command::Weights(file) => weights::inspect(&file, out).await,
        Command::Inspect(args) => dataset::inspect(*args, out).await,
        Command::Local {
            args,
            environment,
            binaries,
        } => local::run(args, environment, &binaries, out).await,
    }
}

async fn remote<W: Write>(
    client: &Client,
    request: Remote,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    match request {
        Remote::Submit(submit) => submit::submit(client, submit, out).await,
        Remote::List(states) => job::list(client, &states, out).await,
        Remote::Describe(job) => job::describe(client, &job, out).await,
        Remote::Watch(job) => watch::watch(client, &job, out).await,
        Remote::Logs(logs) => stream::logs(client, &logs, out).await,
        Remote::Events { job, follow } => stream::events(client, &job, follow, out).await,
        Remote::Explain(job) => job::explain(client, &job, out).await,
        Remote::Cancel { job, reason } => job::cancel(client, &job, reason, out).await,
        Remote::Wait(wait) => watch::wait(client, &wait.job, wait.timeout, out).await,
        Remote::Retry(job) => job::retry(client, &job, out).await,
        Remote::Delete { job, objects } => job::delete(client, &job, objects, out).await,
        Remote::Metrics(metrics) => job::metrics(client, &metrics, out).await,
        Remote::Checkpoints(job) => checkpoint::list(client, &job, out).await,
        Remote::Checkpoint(which) => checkpoint::describe(client, &which, out).await,
        Remote::Verify(which) => checkpoint::verify(client, &which, out).await,
        Remote::Export(export) => export::export(client, &export, out).await,
        Remote::Pin { which, pinned } => checkpoint::pin(client, &which, pinned, out).await,
        Remote::Scale(scale) => job::scale(client, &scale, out).await,
        Remote::Worker(request) => of_workers(client, request, out).await,
        Remote::Backup { to } => admin::backup(client, &to, out).await,
        Remote::DebugBundle(args) => bundle::bundle(client, args, out).await,
    }
}

async fn of_workers<W: Write>(
    client: &Client,
    request: OfWorkers,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    match request {
        OfWorkers::List => worker::list(client, out).await,
        OfWorkers::Describe(worker) => worker::describe(client, &worker, out).await,
        OfWorkers::Cordon { worker, reason } => worker::cordon(client, &worker, reason, out).await,
        OfWorkers::Uncordon(worker) => worker::uncordon(client, &worker, out).await,
        OfWorkers::Drain(drain) => worker::drain(client, &drain, out).await,
        OfWorkers::Top { once } => top::top(client, once, out).await,
    }
}

/// Runs a follow that Ctrl-C leaves: the job goes on, and `come_back` is the command that returns to it.
pub(crate) async fn until_interrupted<T>(
    work: impl Future<Output = Result<T, Failure>>,
    come_back: &str,
) -> Result<T, Failure> {
    let words = format!("detached; the job goes on. Come back with: {come_back}");
    unless_interrupted(Box::pin(work), &words).await
}

/// Runs what Ctrl-C ends, with these last words.
async fn unless_interrupted<T>(
    work: impl Future<Output = Result<T, Failure>>,
    words: &str,
) -> Result<T, Failure> {
    tokio::select! {
        result = work => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Code::Interrupted, words)),
    }
}
