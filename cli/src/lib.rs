//! `diptych`, the command line: what was typed, what it means, what came of it.

mod args; // what was typed
mod context; // which coordinator
mod binaries; // the other programs
mod command; // what to do, validated
mod verb; // one file per verb or small group
mod client; // calls, retries, streams
mod local; // a cluster on this machine
mod progress; // bars and lines
mod onnx; // networks for serving
mod view; // the wire in stable words
mod output; // table, json, yaml
mod failure; // codes and exit codes

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

use args::Args;
use command::Command;
use context::Environment;
use failure::{Code, Failure};
use output::{Format, Printer};

/// Runs one command line: results to standard output, everything else to standard error. Returns the exit code that
/// `diptych --help` documents.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let (format, result) = match Args::try_parse_from(&arguments) {
        Ok(args) => (args.globals.output, execute(args)),
        Err(error) if !error.use_stderr() => {
            // --help and --version; a reader that has gone away is no failure.
            let _printed = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => (typed_format(&arguments), Err(usage(&error))),
    };
    let Err(failure) = result else {
        return ExitCode::SUCCESS;
    };
    if failure.code != Code::PipeClosed {
        eprintln!("{}", output::failure_text(format, &failure));
    }
    ExitCode::from(failure.code.exit())
}

fn execute(args: Args) -> Result<(), Failure> {
    let format = args.globals.output;
    let command = Command::from_args(args, Environment::of_process())?;
    // One thread: children that `local` starts die with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(verb::run(command, Printer::stdout(format)))
}

fn usage(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
    Failure::new(Code::Usage, text)
}

/// The form that a command line asks for although the rest of it does not parse.
fn typed_format(arguments: &[OsString]) -> Format {
    let texts: Vec<&str> = arguments
        .iter()
        .filter_map(|argument| argument.to_str())
        .collect();
    let value = texts
        .iter()
        .enumerate()
        .find_map(|(index, text)| match *text {
            "-o" | "--output" => texts.get(index + 1).copied(),
            _ => text
                .strip_prefix("--output=")
                .or_else(|| text.strip_prefix("-o").filter(|rest| !rest.is_empty())),
        });
    match value.map(|value| value.trim_start_matches('=')) {
        Some("json") => Format::Json,
        Some("yaml") => Format::Yaml,
        _ => Format::Table,
    }
}

#[cfg(test)]
mod tests;
