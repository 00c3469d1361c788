//! Plain images: one object each, in one folder per class or unlabelled.

use super::index::{Entry, Place};
use super::source::Source;

/// Every image with its class's folder name: the first part of its path, where all images lie in two or more folders.
pub(super) fn entries(source: &Source) -> (Vec<Entry>, Vec<String>) {
    let names: Vec<String> = source
        .objects
        .iter()
        .map(|object| source.name(object))
        .collect();
    let folders: Option<Vec<&str>> = names
        .iter()
        .map(|name| Some(name.split_once('/')?.0))
        .collect();
    let mut classes: Vec<String> = folders
        .iter()
        .flatten()
        .map(|folder| (*folder).to_owned())
        .collect();
    classes.sort_unstable();
    classes.dedup();
    if classes.len() < 2 {
        classes.clear();
    }
    let entries = source
        .objects
        .iter()
        .zip(&names)
        .enumerate()
        .map(|(number, (object, name))| Entry {
            label: name
                .split_once('/')
                .and_then(|(folder, _)| {
                    classes
                        .binary_search_by(|class| class.as_str().cmp(folder))
                        .ok()
                })
                .map(|label| label as i64),
            name: name.clone(),
            place: Place::Bytes {
                object: number as u32,
                start: 0,
                length: object.size,
            },
        })
        .collect();
    (entries, classes)
}
