//! Features and classes for one's own images, from an export.

pub mod pictures; // files, folders and data sets → images
pub mod network; // an export as a network
pub mod output; // answers as tables, JSON, CSV or safetensors

use std::path::PathBuf;

pub use network::Network;
pub use pictures::Picture;

/// Classes for images.
#[derive(Debug, Clone, clap::Args)]
pub struct PredictArgs {
    /// The network: an export, or weights that `diptych checkpoint inspect` recognises; a file or its URL.
    #[arg(long)]
    pub model: String,
    /// How many classes to print for each image.
    #[arg(long, default_value_t = 3)]
    pub top: usize,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = output::Form::Table)]
    pub output: output::Form,
    /// Image files, or one URL of a data set.
    #[arg(required = true)]
    pub images: Vec<String>,
}

/// Features for images.
#[derive(Debug, Clone, clap::Args)]
pub struct EmbedArgs {
    /// The network: an export, or weights that `diptych checkpoint inspect` recognises; a file or its URL.
    #[arg(long)]
    pub model: String,
    /// Where the features go: a `.safetensors`, `.csv` or `.json` file.
    #[arg(long)]
    pub out: PathBuf,
    /// How to print what was written.
    #[arg(short, long, value_enum, default_value_t = output::Form::Table)]
    pub output: output::Form,
    /// Image files, or one URL of a data set.
    #[arg(required = true)]
    pub images: Vec<String>,
}

/// Prints the classes of every image. Images that cannot be read are named on standard error; the rest go on.
///
/// # Errors
/// An export that cannot be used, or, at the end, images that could not be read.
pub fn predict(args: &PredictArgs) -> anyhow::Result<()> {
    let network = Network::open(&args.model)?;
    let classes = network.classes()?.to_vec();
    let mut bad = 0;
    let mut answers = Vec::new();
    pictures::each_batch(&args.images, network::BATCH, |batch| {
        let (names, images) = good(batch, &mut bad);
        answers.extend(names.into_iter().zip(network.predict(&images, args.top)?));
        Ok(())
    })?;
    output::print_classes(&answers, &classes, args.output)?;
    none_bad(bad)
}

/// Writes the features of every image. Images that cannot be read are named on standard error; the rest go on.
///
/// # Errors
/// An export that cannot be used, a file that cannot be written, or, at the end, images that could not be read.
pub fn embed(args: &EmbedArgs) -> anyhow::Result<()> {
    let form = output::FeatureForm::of(&args.out)?;
    let network = Network::open(&args.model)?;
    let (mut bad, mut names, mut rows) = (0, Vec::new(), Vec::new());
    pictures::each_batch(&args.images, network::BATCH, |batch| {
        let (batch_names, images) = good(batch, &mut bad);
        rows.extend(network.features(&images)?);
        names.extend(batch_names);
        Ok(())
    })?;
    output::write_features(&args.out, form, &names, &rows)?;
    let width = rows.first().map_or(0, Vec::len);
    output::print_written(&args.out, (names.len(), width), args.output)?;
    none_bad(bad)
}

/// The images of a batch that could be read; the others are named and counted.
fn good<'a>(
    batch: &'a [Picture],
    bad: &mut usize,
) -> (Vec<String>, Vec<&'a diptych_images::decode::Image>) {
    let (mut names, mut images) = (Vec::new(), Vec::new());
    for picture in batch {
        match &picture.image {
            Ok(image) => {
                names.push(picture.name.clone());
                images.push(image);
            }
            Err(reason) => {
                *bad += 1;
                eprintln!("{}: {reason}", picture.name);
            }
        }
    }
    (names, images)
}

fn none_bad(bad: usize) -> anyhow::Result<()> {
    anyhow::ensure!(
        bad == 0,
        "{bad} images could not be read; they are named above"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        embed: EmbedArgs,
    }

    #[test]
    fn embed_takes_the_form_that_the_command_line_passes_on() {
        let line = [
            "embed",
            "--model",
            "m.safetensors",
            "--out",
            "f.csv",
            "a.png",
            "-o",
            "json",
        ];
        let line = Line::try_parse_from(line).unwrap();
        assert_eq!(line.embed.output, output::Form::Json);
        assert_eq!(line.embed.images, ["a.png"]);
    }
}
