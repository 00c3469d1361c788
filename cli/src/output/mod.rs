//! Results on standard output, in the form that was asked for; everything else goes to standard error.

pub(crate) mod table; // columns for people

use std::io::{self, Write};

use serde::Serialize;

use crate::failure::Failure;

/// The form of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// One document; streams print one document a line.
    Json,
    /// One document; streams print one document after each `---`.
    Yaml,
    /// `metrics` only.
    Csv,
}

/// A result that people can read as text and programs as a document.
pub(crate) trait Output: Serialize {
    /// Writes the form for people.
    fn table(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// Writes results.
pub(crate) struct Printer<W> {
    format: Format,
    out: W,
}

impl Printer<io::Stdout> {
    /// A printer to standard output.
    pub(crate) fn stdout(format: Format) -> Self {
        Self::new(format, io::stdout())
    }
}

impl<W: Write> Printer<W> {
    /// A printer to any writer.
    pub(crate) fn new(format: Format, out: W) -> Self {
        Self { format, out }
    }

    /// The form that was asked for.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Prints a whole result.
    pub(crate) fn print(&mut self, value: &impl Output) -> Result<(), Failure> {
        match self.format {
            Format::Table | Format::Csv => value.table(&mut self.out)?,
            Format::Json => writeln!(self.out, "{}", json_pretty(value)?)?,
            Format::Yaml => write!(self.out, "{}", yaml(value)?)?,
        }
        Ok(self.out.flush()?)
    }

    /// Prints one item of a stream.
    pub(crate) fn item(&mut self, value: &impl Output) -> Result<(), Failure> {
        match self.format {
            Format::Table | Format::Csv => value.table(&mut self.out)?,
            Format::Json => writeln!(self.out, "{}", json_line(value)?)?,
            Format::Yaml => write!(self.out, "---\n{}", yaml(value)?)?,
        }
        Ok(self.out.flush()?)
    }

    /// Prints text that is the result itself, e.g. a schema, whatever the form.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.out.write_all(text.as_bytes())?;
        Ok(self.out.flush()?)
    }
}

/// A failure in the form that was asked for, for standard error.
pub(crate) fn failure_text(format: Format, failure: &Failure) -> String {
    let document = match format {
        Format::Table | Format::Csv => return failure.text(),
        Format::Json => json_line(&failure.view()),
        Format::Yaml => yaml(&failure.view()).map(|text| text.trim_end().to_owned()),
    };
    document.unwrap_or_else(|_| failure.text())
}

fn json_pretty(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map_err(|error| anyhow::Error::new(error).context("write JSON").into())
}

fn json_line(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value)
        .map_err(|error| anyhow::Error::new(error).context("write JSON").into())
}

fn yaml(value: &impl Serialize) -> Result<String, Failure> {
    serde_norway::to_string(value)
        .map_err(|error| anyhow::Error::new(error).context("write YAML").into())
}
