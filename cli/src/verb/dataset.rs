//! `dataset inspect`.

use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use diptych_common::ids::{DataName, NameError, PhaseName};
use diptych_common::spec::{AugmentSpec, DataSpec, JobSpec};
use diptych_common::units::Bytes;
use diptych_images::inspect::{
    Picture, Report, Sides, Views, contact_sheet, inspect as examine, operations_sheet,
};
use diptych_images::shard::{DataError, Index};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::args::job::SpecFile;
use crate::args::local::Inspect;
use crate::command::read_spec;
use crate::context::Environment;
use crate::failure::{Code, Failure};
use crate::output::table::{columns, properties};
use crate::output::{Output, Printer};

/// Samples on a contact sheet.
const ON_THE_SHEET: u64 = 32;

/// What was found, and where the picture is.
#[derive(Debug, Serialize)]
struct Inspected {
    url: String,
    #[serde(flatten)]
    report: Report,
    contact_sheet: Option<PathBuf>,
    operations_sheet: Option<PathBuf>,
}

/// What to look at, and as whose views.
#[derive(Debug)]
pub(crate) struct Inspection {
    data: DataSpec,
    views: Views,
    limit: u64,
    contact_sheet: Option<PathBuf>,
    operations_sheet: Option<PathBuf>,
}

impl Inspection {
    /// Reads the spec, where one is named.
    pub(crate) fn from_args(args: Inspect, environment: &Environment) -> Result<Self, Failure> {
        let (data, views) = match (&args.file, &args.url) {
            (Some(file), _) => {
                let file = SpecFile {
                    file: file.clone(),
                    set: args.set.clone(),
                };
                of_phase(&read_spec(&file, environment)?, args.phase.as_ref())?
            }
            (None, Some(url)) => {
                let views = Views {
                    augment: AugmentSpec::simclr(args.augment_size.get()),
                    seed: 0,
                    phase: 0,
                };
                (data(&args, url)?, views)
            }
            (None, None) => return Err(Failure::new(Code::Usage, "name a URL, or a spec with -f")),
        };
        Ok(Self {
            data,
            views,
            limit: args.limit,
            contact_sheet: args.contact_sheet,
            operations_sheet: args.operations_sheet,
        })
    }
}

/// The training data and the views of one phase.
fn of_phase(spec: &JobSpec, name: Option<&PhaseName>) -> Result<(DataSpec, Views), Failure> {
    let phase = match name {
        Some(name) => spec.phase_named(name),
        None => spec.phases().first(),
    };
    let names = || {
        let names: Vec<_> = spec
            .phases()
            .iter()
            .map(|phase| phase.name.to_string())
            .collect();
        names.join(", ")
    };
    let phase = phase
        .ok_or_else(|| Failure::new(Code::Usage, format!("--phase: the spec has {}", names())))?;
    let data = spec.data().get(&phase.train).cloned().ok_or_else(|| {
        Failure::new(
            Code::Invalid,
            format!("the spec has no data {}", phase.train),
        )
    })?;
    let views = Views {
        augment: phase.augment.clone(),
        seed: spec.seed(),
        phase: phase.index.get(),
    };
    Ok((data, views))
}

pub(super) async fn inspect<W: Write>(
    args: Inspection,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let index = Index::open(&args.data).await?;
    let bar = progress();
    let report = examine(&index, args.limit, |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })
    .await?;
    bar.finish_and_clear();
    if let Some(path) = &args.contact_sheet {
        let png = contact_sheet(&index, &args.views, ON_THE_SHEET).await;
        write(path, png.map_err(anyhow::Error::from)?)?;
    }
    if let Some(path) = &args.operations_sheet {
        let png = operations_sheet(&index, &args.views).await;
        write(path, png.map_err(anyhow::Error::from)?)?;
    }
    out.print(&Inspected {
        url: args.data.url,
        report,
        contact_sheet: args.contact_sheet,
        operations_sheet: args.operations_sheet,
    })
}

fn write(path: &Path, picture: Picture) -> Result<(), Failure> {
    std::fs::write(path, picture.png)
        .map_err(|error| Failure::from(error).while_doing(&format!("write {}", path.display())))
}

fn data(args: &Inspect, url: &str) -> Result<DataSpec, Failure> {
    let name: DataName = "inspected"
        .parse()
        .map_err(|error: NameError| Failure::new(Code::Failed, error.to_string()))?;
    Ok(DataSpec {
        name,
        url: url.to_owned(),
        format: args.format.into(),
        image_column: args.image_column.clone(),
        label_column: args.label_column.clone(),
        classes: args.classes.clone(),
        limit: None,
    })
}

fn progress() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("decoding {bar:24.cyan/dim} {pos}/{len}");
    ProgressBar::new(1).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        let code = match error {
            DataError::Store(error) => return Failure::from(error),
            DataError::Missing { .. } | DataError::MissingShards { .. } => Code::NotFound,
            DataError::Empty { .. }
            | DataError::Shard { .. }
            | DataError::Labels { .. }
            | DataError::Sample { .. } => Code::Invalid,
        };
        Failure::new(code, error.to_string())
    }
}

impl Output for Inspected {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let Report {
            samples,
            decoded,
            bad,
            ..
        } = &self.report;
        let sides = |sides: Option<Sides>| {
            sides
                .map(|Sides { min, median, max }| format!("{min} to {max} pixels, median {median}"))
        };
        let picture = |path: Option<&PathBuf>| path.map(|path| path.display().to_string());
        let formats: Vec<_> = self
            .report
            .formats
            .iter()
            .map(|(format, count)| format!("{count} {format}"))
            .collect();
        properties(
            out,
            &[
                ("url", Some(self.url.clone())),
                ("samples", Some(samples.to_string())),
                (
                    "decoded",
                    Some(format!("{decoded}, of which {bad} are unusable")),
                ),
                (
                    "formats",
                    Some(formats.join(", ")).filter(|text| !text.is_empty()),
                ),
                ("width", sides(self.report.width)),
                ("height", sides(self.report.height)),
                (
                    "mean size",
                    Some(Bytes::new(self.report.mean_bytes).to_string()),
                ),
                (
                    "labels",
                    self.report.classes.is_empty().then(|| "none".to_owned()),
                ),
                ("digest", Some(self.report.digest.clone())),
                ("sheet", picture(self.contact_sheet.as_ref())),
                ("operations", picture(self.operations_sheet.as_ref())),
            ],
        )?;
        if !self.report.classes.is_empty() {
            writeln!(out)?;
            let rows = self
                .report
                .classes
                .iter()
                .map(|class| vec![class.name.clone(), class.samples.to_string()]);
            columns(out, &["CLASS", "SAMPLES"], rows)?;
        }
        if !self.report.problems.is_empty() {
            writeln!(out)?;
            let rows = self
                .report
                .problems
                .iter()
                .map(|problem| vec![problem.sample.clone(), problem.problem.clone()]);
            columns(out, &["UNUSABLE", "WHY"], rows)?;
        }
        Ok(())
    }
}
