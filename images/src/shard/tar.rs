//! WebDataset tar shards: `key.jpg` (or `.png`) beside `key.cls`, which holds the label as text.

use std::collections::BTreeMap;

use bytes::Bytes;
use object_store::ObjectMeta;
use tar::{EntryType, Header};

use super::DataError;
use super::index::{Entry, Place};
use super::source::{IMAGES, Source};

/// A tar header and every member's padding are multiples of this.
const BLOCK: u64 = 512;
/// Headers are read through a window of this size: small members cost no read of their own.
const WINDOW: u64 = 1 << 20;
/// A `.cls` or long-name member is never larger.
const TEXT_LIMIT: u64 = 64 << 10;

/// Every image of one shard, in the shard's order.
pub(super) async fn entries(
    source: &Source,
    object: u32,
    meta: &ObjectMeta,
) -> Result<Vec<Entry>, DataError> {
    let mut walk = Walk {
        source,
        meta,
        window: (0, Bytes::new()),
    };
    let mut images: Vec<Entry> = Vec::new();
    let mut labels: BTreeMap<String, i64> = BTreeMap::new();
    let mut long_name = None;
    let mut offset = 0;
    while offset + BLOCK <= meta.size {
        let block = walk.bytes(offset, BLOCK).await?;
        if block.iter().all(|&byte| byte == 0) {
            break;
        }
        let header = Header::from_byte_slice(&block);
        let bad = |error: std::io::Error| {
            DataError::shard(
                &meta.location,
                format!("bad tar header at byte {offset}: {error}"),
            )
        };
        let size = header.entry_size().map_err(bad)?;
        let start = offset + BLOCK;
        let end = start.checked_add(size).filter(|&end| end <= meta.size).ok_or_else(|| {
            DataError::shard(&meta.location, format!("cut short: the member at byte {offset} says {size} bytes, the shard ends at {}", meta.size))
        })?;
        match header.entry_type() {
            EntryType::GNULongName => {
                long_name = Some(
                    walk.text(start, size)
                        .await?
                        .trim_end_matches('\0')
                        .to_owned(),
                )
            }
            EntryType::XHeader => {
                long_name = pax_path(&walk.text(start, size).await?).or(long_name)
            }
            kind => {
                let name = match long_name.take() {
                    Some(name) => name,
                    None => String::from_utf8_lossy(&header.path_bytes()).into_owned(),
                };
                if kind.is_file() {
                    let (key, extension) = split(&name);
                    if IMAGES.contains(&extension.as_str()) {
                        images.push(Entry {
                            name: key,
                            label: None,
                            place: Place::Bytes {
                                object,
                                start,
                                length: size,
                            },
                        });
                    } else if extension == "cls" {
                        let text = walk.text(start, size).await?;
                        let label = text.trim().parse().map_err(|_| {
                            DataError::shard(
                                &meta.location,
                                format!("{name} holds {:?}, which is no label number", text.trim()),
                            )
                        })?;
                        labels.insert(key, label);
                    }
                }
            }
        }
        offset = end.div_ceil(BLOCK) * BLOCK;
    }
    if offset > meta.size {
        return Err(DataError::shard(
            &meta.location,
            format!(
                "cut short: the next member starts at byte {offset}, the shard ends at {}",
                meta.size
            ),
        ));
    }
    for image in &mut images {
        image.label = labels.get(&image.name).copied();
    }
    Ok(images)
}

/// Reads a shard front to back through a window.
struct Walk<'a> {
    source: &'a Source,
    meta: &'a ObjectMeta,
    window: (u64, Bytes),
}

impl Walk<'_> {
    async fn bytes(&mut self, start: u64, length: u64) -> Result<Bytes, DataError> {
        let inside =
            |(at, bytes): &(u64, Bytes)| *at <= start && start + length <= at + bytes.len() as u64;
        if !inside(&self.window) {
            let end = (start + length.max(WINDOW)).min(self.meta.size);
            self.window = (
                start,
                self.source.range(&self.meta.location, start..end).await?,
            );
            if !inside(&self.window) {
                return Err(DataError::shard(
                    &self.meta.location,
                    format!("cut short at byte {start}"),
                ));
            }
        }
        let from = (start - self.window.0) as usize;
        Ok(self.window.1.slice(from..from + length as usize))
    }

    async fn text(&mut self, start: u64, size: u64) -> Result<String, DataError> {
        if size > TEXT_LIMIT {
            return Err(DataError::shard(
                &self.meta.location,
                format!("the text member at byte {start} has {size} bytes"),
            ));
        }
        Ok(String::from_utf8_lossy(&self.bytes(start, size).await?).into_owned())
    }
}

/// WebDataset's rule: the key ends at the first dot of the last path part.
fn split(name: &str) -> (String, String) {
    let name = name.trim_start_matches("./");
    let part = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[part..].find('.') {
        Some(dot) => (
            name[..part + dot].to_owned(),
            name[part + dot + 1..].to_ascii_lowercase(),
        ),
        None => (name.to_owned(), String::new()),
    }
}

/// The `path` record of a PAX header: lines of `length key=value`.
fn pax_path(text: &str) -> Option<String> {
    text.lines()
        .find_map(|line| Some(line.split_once(' ')?.1.strip_prefix("path=")?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_end_at_the_first_dot_of_the_last_part() {
        let pair = |key: &str, extension: &str| (key.to_owned(), extension.to_owned());
        assert_eq!(split("./a.b/c.JPG"), pair("a.b/c", "jpg"));
        assert_eq!(split("x.seg.png"), pair("x", "seg.png"));
        assert_eq!(split("plain"), pair("plain", ""));
        assert_eq!(
            pax_path("30 mtime=1\n18 path=long/name\n").as_deref(),
            Some("long/name")
        );
    }
}
