//! A data set's URL to the objects that it means, and ranged reads of them.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use diptych_common::spec::{DataFormat, DataSpec};
use diptych_common::store::{self, StoreError};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{
    OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta, ObjectStore, ObjectStoreExt, coalesce_ranges,
};

use super::{DataError, runs};

/// The objects of a data set, in order of their keys.
#[derive(Debug, Clone)]
pub(super) struct Source {
    store: Arc<dyn ObjectStore>,
    /// What keys are shown and classed relative to.
    root: Path,
    /// Every object that the URL selects.
    pub(super) objects: Vec<ObjectMeta>,
    selection: Selection,
}

/// How the URL selects objects.
#[derive(Debug, Clone)]
enum Selection {
    /// It names one.
    One,
    /// Everything below a folder.
    Folder,
    /// Names below a folder that start and end like this.
    Pattern { before: String, after: String },
}

/// Missing shards that an error names.
const MISSING_SHOWN: usize = 10;

/// File name extensions of images.
pub(super) const IMAGES: [&str; 3] = ["jpg", "jpeg", "png"];

impl Source {
    /// Lists what the URL means: one object, everything below a folder, or what a `*` in the last part selects.
    pub(super) async fn list(url: &str) -> Result<Self, DataError> {
        let trimmed = url.trim_end_matches('/');
        let (parent, last) = trimmed.rsplit_once('/').unwrap_or((trimmed, ""));
        let missing = || DataError::Missing {
            url: url.to_owned(),
        };
        if let Some((before, after)) = last.split_once('*') {
            let (store, root) = store::open(parent)?;
            let plain = |part: &str| {
                Path::from_url_path(part).map_or_else(|_| part.to_owned(), |path| path.to_string())
            };
            let selection = Selection::Pattern {
                before: plain(before),
                after: plain(after),
            };
            let mut objects = list_below(store.as_ref(), &root).await?;
            objects.retain(|object| selection.takes(&relative(&root, &object.location)));
            return if objects.is_empty() {
                Err(missing())
            } else {
                Ok(Self {
                    store,
                    root,
                    objects,
                    selection,
                })
            };
        }
        let (store, root) = store::open(trimmed)?;
        if let Ok(object) = store.head(&root).await {
            let root = Path::from_iter(root.parts().take(root.parts_count().saturating_sub(1)));
            return Ok(Self {
                store,
                root,
                objects: vec![object],
                selection: Selection::One,
            });
        }
        let objects = list_below(store.as_ref(), &root).await?;
        if objects.is_empty() && !is_empty_folder(url) {
            return Err(missing());
        }
        Ok(Self {
            store,
            root,
            objects,
            selection: Selection::Folder,
        })
    }

    /// Keeps the objects of one format, found out from their names where the spec leaves it open. Refuses a numbered
    /// run of shards with holes.
    pub(super) fn select(mut self, spec: &DataSpec) -> Result<(DataFormat, Self), DataError> {
        let has = |extensions: &[&str]| {
            self.objects
                .iter()
                .any(|object| ends_in(&object.location, extensions))
        };
        let format = match spec.format {
            DataFormat::Auto if has(&["parquet"]) => DataFormat::Parquet,
            DataFormat::Auto if has(&["tar"]) => DataFormat::Tar,
            DataFormat::Auto => DataFormat::Folder,
            stated => stated,
        };
        let (extensions, wanted): (&[&str], _) = match format {
            DataFormat::Parquet => (&["parquet"], "Parquet files"),
            DataFormat::Tar => (&["tar"], "tar shards"),
            DataFormat::Folder | DataFormat::Auto => {
                (&IMAGES, "JPEG or PNG images, Parquet files or tar shards")
            }
        };
        self.objects
            .retain(|object| ends_in(&object.location, extensions));
        if self.objects.is_empty() {
            return Err(DataError::Empty {
                url: spec.url.clone(),
                wanted,
            });
        }
        if matches!(format, DataFormat::Parquet | DataFormat::Tar) {
            self.whole(&spec.url)?;
        }
        Ok((format, self))
    }

    /// Refuses shards whose numbers prove that others, which the URL selects too, are missing.
    fn whole(&self, url: &str) -> Result<(), DataError> {
        let names: Vec<String> = self
            .objects
            .iter()
            .map(|object| self.name(object))
            .collect();
        let numbered = matches!(self.selection, Selection::Pattern { .. });
        let mut missing = runs::missing(&names, numbered);
        missing.retain(|name| self.selection.takes(name));
        if missing.is_empty() {
            return Ok(());
        }
        let count = missing.len();
        missing.truncate(MISSING_SHOWN);
        Err(DataError::MissingShards {
            url: url.to_owned(),
            count,
            names: missing,
        })
    }

    /// A key as people see it: below the data set's folder.
    pub(super) fn name(&self, object: &ObjectMeta) -> String {
        relative(&self.root, &object.location)
    }

    /// Some bytes of one object.
    pub(super) async fn range(&self, key: &Path, range: Range<u64>) -> Result<Bytes, DataError> {
        self.store
            .get_range(key, range)
            .await
            .map_err(|error| StoreError::from_store(key, &error).into())
    }

    /// Several ranges of one object; near ones are fetched together.
    pub(super) async fn ranges(
        &self,
        key: &Path,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>, DataError> {
        let whole = |range: Range<u64>| async move {
            let wanted = range.end - range.start;
            let bytes = self.range(key, range).await?;
            // Stores answer with less, not with an error, where an object ends inside the range.
            if bytes.len() as u64 == wanted {
                Ok(bytes)
            } else {
                Err(DataError::Store(StoreError::Failed {
                    key: key.to_string(),
                    reason: format!("{wanted} bytes were asked for and {} came", bytes.len()),
                }))
            }
        };
        coalesce_ranges(ranges, whole, OBJECT_STORE_COALESCE_DEFAULT).await
    }

    /// How large an object is by now; `None` where it is gone.
    pub(super) async fn size(&self, key: &Path) -> Result<Option<u64>, DataError> {
        match self.store.head(key).await {
            Ok(object) => Ok(Some(object.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(StoreError::from_store(key, &error).into()),
        }
    }
}

impl Selection {
    fn takes(&self, name: &str) -> bool {
        match self {
            Self::One => false,
            Self::Folder => true,
            Self::Pattern { before, after } => {
                name.len() >= before.len() + after.len()
                    && name.starts_with(before)
                    && name.ends_with(after)
            }
        }
    }
}

async fn list_below(store: &dyn ObjectStore, root: &Path) -> Result<Vec<ObjectMeta>, DataError> {
    let mut objects: Vec<ObjectMeta> = store
        .list(Some(root))
        .try_collect()
        .await
        .map_err(|error| StoreError::from_store(root, &error))?;
    objects.sort_by(|a, b| a.location.cmp(&b.location));
    Ok(objects)
}

/// Object stores know no empty folders, a file system does.
fn is_empty_folder(url: &str) -> bool {
    store::local_path(url).is_some_and(|path| path.is_dir())
}

/// Whether a key ends in one of these extensions, in any case.
pub(super) fn ends_in(key: &Path, extensions: &[&str]) -> bool {
    key.extension().is_some_and(|found| {
        extensions
            .iter()
            .any(|wanted| found.eq_ignore_ascii_case(wanted))
    })
}

fn relative(root: &Path, key: &Path) -> String {
    match key.prefix_match(root) {
        Some(parts) => parts
            .map(|part| part.as_ref().to_owned())
            .collect::<Vec<_>>()
            .join("/"),
        None => key.to_string(),
    }
}
