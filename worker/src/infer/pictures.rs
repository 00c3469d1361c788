//! Images by file name or data-set URL.

use std::path::Path;

use anyhow::Context as _;
use diptych_common::ids::DataName;
use diptych_common::spec::{DataFormat, DataSpec};
use diptych_common::store::file_url;
use diptych_images::decode::{Image, decode};
use diptych_images::shard::{Index, SampleId};

/// One image, or why there is none.
#[derive(Debug)]
pub struct Picture {
    /// The file, or the sample's name.
    pub name: String,
    /// The pixels.
    pub image: Result<Image, String>,
}

/// Shows the images of files, or all samples of data sets where an argument is a URL or a folder, `at_once` at a time:
/// no more are in memory.
///
/// # Errors
/// Fails where a data set cannot be opened, or `visit` does; single images that cannot be read are shown as such.
pub fn each_batch(
    arguments: &[String],
    at_once: usize,
    mut visit: impl FnMut(&[Picture]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut waiting = Vec::new();
    for argument in arguments {
        let path = Path::new(argument);
        let url = if argument.contains("://") {
            Some(argument.clone())
        } else if path.is_dir() {
            let whole = path
                .canonicalize()
                .with_context(|| format!("open {argument}"))?;
            Some(file_url(&whole)?)
        } else {
            None
        };
        if let Some(url) = url {
            // Batches do not mix arguments: a data set is read in batches of its own.
            flush(&mut waiting, &mut visit)?;
            data_set(&url, at_once, &mut visit)?;
            continue;
        }
        let bytes = std::fs::read(path).map_err(|error| error.to_string());
        waiting.push(Picture {
            name: argument.clone(),
            image: bytes.and_then(|bytes| decode(&bytes).map_err(|error| error.to_string())),
        });
        if waiting.len() == at_once {
            flush(&mut waiting, &mut visit)?;
        }
    }
    flush(&mut waiting, &mut visit)
}

fn flush(
    waiting: &mut Vec<Picture>,
    visit: &mut impl FnMut(&[Picture]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if !waiting.is_empty() {
        visit(waiting)?;
        waiting.clear();
    }
    Ok(())
}

fn data_set(
    url: &str,
    at_once: usize,
    visit: &mut impl FnMut(&[Picture]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let name: DataName = "images".parse()?;
    let spec = DataSpec {
        name,
        url: url.to_owned(),
        format: DataFormat::Auto,
        image_column: None,
        label_column: None,
        classes: None,
        limit: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    let index = runtime
        .block_on(Index::open(&spec))
        .with_context(|| format!("open {url}"))?;
    for start in (0..index.len()).step_by(at_once) {
        let ids: Vec<SampleId> = (start..index.len().min(start + at_once as u64))
            .map(SampleId::new)
            .collect();
        let read = runtime.block_on(index.read(&ids));
        let pictures: Vec<Picture> = ids
            .iter()
            .zip(read)
            .map(|(id, bytes)| {
                let bytes = bytes.map_err(|error| error.to_string());
                Picture {
                    name: index.name(*id).to_owned(),
                    image: bytes
                        .and_then(|bytes| decode(&bytes).map_err(|error| error.to_string())),
                }
            })
            .collect();
        visit(&pictures)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_read_as_they_are_needed() {
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("100% #1?");
        std::fs::create_dir(&odd).unwrap();
        for number in 0..7 {
            let file = std::fs::File::create(odd.join(format!("{number}.png"))).unwrap();
            let mut encoder = png::Encoder::new(file, 2, 2);
            encoder.set_color(png::ColorType::Rgb);
            let mut writer = encoder.write_header().unwrap();
            writer.write_image_data(&[7; 12]).unwrap();
        }
        let mut batches = Vec::new();
        let arguments = [odd.display().to_string()];
        each_batch(&arguments, 3, |batch| {
            // What is removed now has not been read yet.
            for number in 3..7 {
                drop(std::fs::remove_file(odd.join(format!("{number}.png"))));
            }
            batches.push(batch.iter().filter(|found| found.image.is_ok()).count());
            Ok(())
        })
        .unwrap();
        assert_eq!(batches, [3, 0, 0]);
    }
}
