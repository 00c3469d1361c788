//! `dataset inspect`.

use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;

use diptych_common::ids::{DataName, NameError};
use diptych_common::spec::{AugmentSpec, ColorSpec, DataSpec};
use diptych_common::units::Bytes;
use diptych_images::inspect::{Report, Sides, contact_sheet, inspect as examine};
use diptych_images::shard::{DataError, Index};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::args::local::Inspect;
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
}

pub(super) async fn inspect<W: Write>(args: Inspect, out: &mut Printer<W>) -> Result<(), Failure> {
    let index = Index::open(&data(&args)?).await?;
    let bar = progress();
    let report = examine(&index, args.limit, |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })
    .await?;
    bar.finish_and_clear();
    if let Some(path) = &args.contact_sheet {
        let png = contact_sheet(&index, &views(args.augment_size.get()), 0, ON_THE_SHEET)
            .await
            .map_err(anyhow::Error::from)?;
        std::fs::write(path, png).map_err(|error| {
            Failure::from(error).while_doing(&format!("write {}", path.display()))
        })?;
    }
    out.print(&Inspected {
        url: args.url,
        report,
        contact_sheet: args.contact_sheet,
    })
}

fn data(args: &Inspect) -> Result<DataSpec, Failure> {
    let name: DataName = "inspected"
        .parse()
        .map_err(|error: NameError| Failure::new(Code::Failed, error.to_string()))?;
    Ok(DataSpec {
        name,
        url: args.url.clone(),
        format: args.format.into(),
        image_column: None,
        label_column: None,
        classes: None,
        limit: None,
    })
}

/// The views of pretraining by default, with blur at any size so that all parts can be seen.
fn views(image_size: u32) -> AugmentSpec {
    AugmentSpec {
        image_size,
        crop_area: (0.08, 1.0),
        crop_aspect: (0.75, 4.0 / 3.0),
        flip: true,
        color: Some(ColorSpec {
            strength: 1.0,
            probability: 0.8,
            hue_saturation: true,
        }),
        grayscale_probability: 0.2,
        blur_probability: 0.5,
    }
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
            DataError::Missing { .. } => Code::NotFound,
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
                (
                    "sheet",
                    self.contact_sheet
                        .as_ref()
                        .map(|path| path.display().to_string()),
                ),
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
