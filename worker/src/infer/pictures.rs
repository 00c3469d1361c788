//! Images by file name or data-set URL.

use anyhow::Context as _;
use diptych_common::ids::DataName;
use diptych_common::spec::{DataFormat, DataSpec};
use diptych_images::decode::{Image, decode};
use diptych_images::shard::{Index, SampleId};

/// Samples of a data set read at once.
const AT_ONCE: u64 = 256;

/// One image, or why there is none.
#[derive(Debug)]
pub struct Picture {
    /// The file, or the sample's name.
    pub name: String,
    /// The pixels.
    pub image: Result<Image, String>,
}

/// Reads files, or all samples of data sets where an argument is a URL or a folder.
///
/// # Errors
/// Fails where a data set cannot be opened; single images that cannot be read are part of the answer.
pub fn read(arguments: &[String]) -> anyhow::Result<Vec<Picture>> {
    let mut pictures = Vec::new();
    for argument in arguments {
        let path = std::path::Path::new(argument);
        if argument.contains("://") {
            pictures.extend(data_set(argument)?);
        } else if path.is_dir() {
            let whole = path
                .canonicalize()
                .with_context(|| format!("open {argument}"))?;
            pictures.extend(data_set(&format!("file://{}", whole.display()))?);
        } else {
            let bytes = std::fs::read(path).map_err(|error| error.to_string());
            let image = bytes.and_then(|bytes| decode(&bytes).map_err(|error| error.to_string()));
            pictures.push(Picture {
                name: argument.clone(),
                image,
            });
        }
    }
    Ok(pictures)
}

fn data_set(url: &str) -> anyhow::Result<Vec<Picture>> {
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
    runtime.block_on(async {
        let index = Index::open(&spec)
            .await
            .with_context(|| format!("open {url}"))?;
        let mut pictures = Vec::new();
        for start in (0..index.len()).step_by(AT_ONCE as usize) {
            let ids: Vec<SampleId> = (start..index.len().min(start + AT_ONCE))
                .map(SampleId::new)
                .collect();
            for (id, bytes) in ids.iter().zip(index.read(&ids).await) {
                let bytes = bytes.map_err(|error| error.to_string());
                let image =
                    bytes.and_then(|bytes| decode(&bytes).map_err(|error| error.to_string()));
                pictures.push(Picture {
                    name: index.name(*id).to_owned(),
                    image,
                });
            }
        }
        Ok(pictures)
    })
}
