//! Data sets, and the URLs that specs may hold.

use std::collections::{BTreeMap, BTreeSet};

use url::Url;

use crate::ids::DataName;

use super::super::draft::DataDraft;
use super::super::{DataFormat, DataSpec};
use super::check::{At, Check};

const SCHEMES: &str =
    "`file:///dir`, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`";

/// What is wrong with a URL, if anything. `pattern` allows one `*` in the last part.
fn problem(text: &str, pattern: bool) -> Option<String> {
    if text.is_empty() {
        return Some(format!("is required: {SCHEMES}"));
    }
    if text.contains("${") {
        return Some(format!("`{text}` holds a variable that was not filled in"));
    }
    let Ok(url) = Url::parse(text) else {
        return Some(format!("`{text}` is not a URL: {SCHEMES}"));
    };
    match url.scheme() {
        "file" if url.host_str().is_some_and(|host| !host.is_empty()) => {
            return Some(format!(
                "`{text}` names a host: a file URL has three slashes, `file:///dir`"
            ));
        }
        "file" => {}
        "s3" | "gs" | "az" if url.host_str().is_none_or(str::is_empty) => {
            return Some(format!("`{text}` names no bucket: {SCHEMES}"));
        }
        "s3" | "gs" | "az" => {}
        scheme => return Some(format!("`{scheme}://` is not supported: {SCHEMES}")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Some("holds credentials: put them into the environment of each process".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Some(format!(
            "`{text}` has a `?` or `#`: only scheme, bucket and path are read"
        ));
    }
    let stars = text.matches('*').count();
    let last = text.rsplit('/').next().unwrap_or_default();
    match stars {
        0 => None,
        _ if !pattern => Some(format!("`{text}` holds a `*`: it must name one place")),
        1 if last.contains('*') => None,
        _ => Some(format!("`{text}`: one `*` is allowed, in the last part")),
    }
}

/// A place: a folder or one object.
pub(super) fn url(check: &mut Check, at: &At, text: &str) {
    if let Some(problem) = problem(text, false) {
        check.refuse(at, problem);
    }
}

/// Every data set, by name.
pub(super) fn data_sets(
    check: &mut Check,
    at: &At,
    drafts: &BTreeMap<String, DataDraft>,
) -> BTreeMap<DataName, DataSpec> {
    check.require(at, !drafts.is_empty(), || {
        "is required: at least one data set, e.g. `train: {url: file:///images}`".to_owned()
    });
    drafts
        .iter()
        .filter_map(|(name, draft)| data_set(check, &at.field(name), name, draft))
        .map(|d| (d.name.clone(), d))
        .collect()
}

fn data_set(check: &mut Check, at: &At, name: &str, draft: &DataDraft) -> Option<DataSpec> {
    if let Some(problem) = problem(&draft.url, true) {
        check.refuse(&at.field("url"), problem);
    }
    let formats = [
        ("auto", DataFormat::Auto),
        ("parquet", DataFormat::Parquet),
        ("tar", DataFormat::Tar),
        ("folder", DataFormat::Folder),
    ];
    let format = draft.format.as_deref();
    let format = format.map_or(DataFormat::Auto, |word| {
        check.choice(&at.field("format"), word, &formats)
    });
    for (field, column) in [
        ("image_column", &draft.image_column),
        ("label_column", &draft.label_column),
    ] {
        let Some(column) = column else { continue };
        let at = at.field(field);
        check.require(&at, !column.is_empty(), || {
            "is empty: name a column, or leave it out".to_owned()
        });
        let columns = matches!(format, DataFormat::Auto | DataFormat::Parquet);
        check.require(&at, columns, || {
            "belongs to `format: parquet` only".to_owned()
        });
    }
    if let Some(classes) = &draft.classes {
        class_names(check, &at.field("classes"), classes);
    }
    if let Some(limit) = draft.limit {
        check.count(&at.field("limit"), limit, 1, u64::MAX);
    }
    Some(DataSpec {
        name: check.name(at, name)?,
        url: draft.url.clone(),
        format,
        image_column: draft.image_column.clone(),
        label_column: draft.label_column.clone(),
        classes: draft.classes.clone(),
        limit: draft.limit,
    })
}

fn class_names(check: &mut Check, at: &At, classes: &[String]) {
    check.require(at, !classes.is_empty(), || {
        "is empty: list every class name, or leave it out".to_owned()
    });
    let mut seen = BTreeSet::new();
    for (index, class) in classes.iter().enumerate() {
        let at = at.item(index);
        check.require(&at, !class.is_empty(), || {
            "is empty: every class has a name".to_owned()
        });
        check.require(&at, seen.insert(class), || {
            format!("`{class}` is listed twice")
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_in_words() {
        for good in [
            "file:///data/x",
            "s3://bucket",
            "gs://b/p/q",
            "az://c/x.parquet",
        ] {
            assert_eq!(problem(good, false), None, "{good}");
        }
        assert_eq!(problem("file:///data/train-*.parquet", true), None);
        let bad = [
            ("", "required"),
            ("/data", "not a URL"),
            ("file://data/x", "host"),
            ("s3:///x", "bucket"),
            ("http://x/y", "not supported"),
            ("s3://key:secret@bucket/x", "credentials"),
            ("file:///a?b", "?"),
            ("file:///*/x", "last part"),
            ("file:///${HOME}/x", "variable"),
        ];
        for (text, word) in bad {
            let found = problem(text, true).unwrap_or_default();
            assert!(found.contains(word), "{text}: {found}");
        }
        assert!(problem("file:///x/*.tar", false).is_some());
    }
}
