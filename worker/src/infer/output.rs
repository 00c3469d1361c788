//! Answers for people and programs.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use safetensors::tensor::TensorView;

/// How classes are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// One line an image.
    Table,
    /// One JSON array.
    Json,
}

/// How features are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureForm {
    /// Tensor `features`, `[images, d]`, and the names in the metadata.
    Safetensors,
    /// A name and d numbers a line.
    Csv,
    /// An array of `{image, features}`.
    Json,
}

/// An image's name, and its classes with their probabilities.
pub type Classified = (String, Vec<(usize, f64)>);

impl FeatureForm {
    /// By the file's ending.
    ///
    /// # Errors
    /// For any other ending.
    pub fn of(path: &Path) -> anyhow::Result<Self> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("safetensors") => Ok(Self::Safetensors),
            Some("csv") => Ok(Self::Csv),
            Some("json") => Ok(Self::Json),
            _ => bail!(
                "--out {}: end it in .safetensors, .csv or .json",
                path.display()
            ),
        }
    }
}

/// Prints classes on standard output.
///
/// # Errors
/// Where JSON cannot be written.
pub fn print_classes(answers: &[Classified], classes: &[String], form: Form) -> anyhow::Result<()> {
    let name = |class: usize| classes.get(class).map_or("?", String::as_str);
    match form {
        Form::Table => {
            let width = answers
                .iter()
                .map(|(image, _)| image.chars().count())
                .max()
                .unwrap_or(0);
            for (image, found) in answers {
                let found = found
                    .iter()
                    .fold(String::new(), |mut text, (class, probability)| {
                        // Writing to a String cannot fail.
                        let _ = write!(text, "  {} {:.1}%", name(*class), 100.0 * probability);
                        text
                    });
                println!("{image:width$}{found}");
            }
        }
        Form::Json => {
            let class = |(class, probability): &(usize, f64)| serde_json::json!({ "class": name(*class), "label": class, "probability": probability });
            let answer = |(image, found): &Classified| serde_json::json!({ "image": image, "classes": found.iter().map(class).collect::<Vec<_>>() });
            println!(
                "{}",
                serde_json::to_string_pretty(&answers.iter().map(answer).collect::<Vec<_>>())?
            );
        }
    }
    Ok(())
}

/// Prints what [`write_features`] wrote: how many images, and how many features each.
///
/// # Errors
/// Where JSON cannot be written.
pub fn print_written(
    path: &Path,
    (images, features): (usize, usize),
    form: Form,
) -> anyhow::Result<()> {
    match form {
        Form::Table => println!(
            "{images} images, {features} features each: {}",
            path.display()
        ),
        Form::Json => {
            let written =
                serde_json::json!({ "images": images, "features": features, "out": path });
            println!("{}", serde_json::to_string_pretty(&written)?);
        }
    }
    Ok(())
}

/// Writes features to a file.
///
/// # Errors
/// Where the file cannot be written.
pub fn write_features(
    path: &Path,
    form: FeatureForm,
    names: &[String],
    rows: &[Vec<f32>],
) -> anyhow::Result<()> {
    let bytes = match form {
        FeatureForm::Safetensors => {
            let data: Vec<u8> = rows
                .iter()
                .flatten()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            let shape = vec![rows.len(), rows.first().map_or(0, Vec::len)];
            let view = TensorView::new(safetensors::Dtype::F32, shape, &data)?;
            let metadata = [("images".to_owned(), serde_json::to_string(names)?)].into();
            safetensors::serialize([("features", view)], Some(metadata))?
        }
        FeatureForm::Csv => {
            let mut text = String::new();
            for (name, row) in names.iter().zip(rows) {
                let numbers: Vec<String> = row.iter().map(ToString::to_string).collect();
                writeln!(
                    text,
                    "\"{}\",{}",
                    name.replace('"', "\"\""),
                    numbers.join(",")
                )?;
            }
            text.into_bytes()
        }
        FeatureForm::Json => {
            let row = |(name, row): (&String, &Vec<f32>)| serde_json::json!({ "image": name, "features": row });
            serde_json::to_vec(&names.iter().zip(rows).map(row).collect::<Vec<_>>())?
        }
    };
    std::fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}
