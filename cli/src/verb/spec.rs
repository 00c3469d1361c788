//! `validate`, `spec`, `completion`.

use std::io::{self, Write};

use clap::CommandFactory as _;
use clap_complete::Shell;
use diptych_common::spec::{JobSpec, Length, PhaseSpec, schema};
use serde::Serialize;

use crate::args::Args;
use crate::args::settings::SpecVerb;
use crate::failure::Failure;
use crate::output::{Format, Output, Printer};

const EXAMPLE: &str = include_str!("example.yaml");

/// What a valid spec holds.
#[derive(Debug, Serialize)]
struct Valid {
    name: String,
    valid: bool,
    phases: Vec<ValidPhase>,
}

#[derive(Debug, Serialize)]
struct ValidPhase {
    name: String,
    kind: &'static str,
    batch: u32,
    epochs: Option<f64>,
    steps: Option<u64>,
    min_ranks: u32,
    max_ranks: u32,
}

pub(super) fn validate<W: Write>(spec: &JobSpec, out: &mut Printer<W>) -> Result<(), Failure> {
    let phases = spec.phases().iter().map(ValidPhase::from).collect();
    out.print(&Valid {
        name: spec.name().to_owned(),
        valid: true,
        phases,
    })
}

pub(super) fn print<W: Write>(verb: &SpecVerb, out: &mut Printer<W>) -> Result<(), Failure> {
    match (verb, out.format()) {
        (SpecVerb::Example, _) => out.text(EXAMPLE),
        (SpecVerb::Schema, Format::Yaml) => {
            out.text(&serde_norway::to_string(schema()).map_err(anyhow::Error::from)?)
        }
        (SpecVerb::Schema, _) => {
            let text = serde_json::to_string_pretty(schema()).map_err(anyhow::Error::from)?;
            out.text(&(text + "\n"))
        }
    }
}

pub(super) fn completion<W: Write>(shell: Shell, out: &mut Printer<W>) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "diptych", &mut script);
    out.text(&String::from_utf8_lossy(&script))
}

impl From<&PhaseSpec> for ValidPhase {
    fn from(phase: &PhaseSpec) -> Self {
        let (epochs, steps) = match phase.length {
            Length::Epochs(epochs) => (Some(epochs), None),
            Length::Steps(steps) => (None, Some(steps)),
        };
        Self {
            name: phase.name.to_string(),
            kind: phase.kind.word(),
            batch: phase.batch,
            epochs,
            steps,
            min_ranks: phase.gang.min,
            max_ranks: phase.gang.max,
        }
    }
}

impl Output for Valid {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let name = |phase: &ValidPhase| {
            if phase.name == phase.kind {
                phase.name.clone()
            } else {
                format!("{} ({})", phase.name, phase.kind)
            }
        };
        let phases: Vec<_> = self.phases.iter().map(name).collect();
        writeln!(out, "{} is valid: {}", self.name, phases.join(", "))
    }
}
