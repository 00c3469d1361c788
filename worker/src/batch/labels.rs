//! Which labels of the training data a phase may use: pure draws over labels and names.
//!
//! Draws are stratified: each class is put in an order of its own by (seed, class), and a share or a count takes the
//! first of it. So a smaller share of the same seed is part of a larger one.

use std::collections::{HashMap, HashSet};

use diptych_common::spec::Labels;
use diptych_common::store::{self, StoreError};
use diptych_images::draw::Draws;
use diptych_images::shard::{Index, SampleId};

/// Names shown before the rest is only counted.
const SHOWN: usize = 10;

/// Why labels cannot be chosen as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// The phase learns from labels, and there are none.
    #[error("the training data has no labels; this phase needs them")]
    Unlabelled,
    /// Classes with fewer samples than asked for.
    #[error("{wanted} labels per class are asked for, but {}", shortages.join(", "))]
    TooFew {
        /// Labels asked for in each class.
        wanted: u32,
        /// Each with the class and what it has.
        shortages: Vec<String>,
    },
    /// The list names samples that do not exist.
    #[error("{url} names {count} samples that the training data does not have, e.g. {}", names.join(", "))]
    UnknownNames {
        /// The list.
        url: String,
        /// How many.
        count: usize,
        /// The first of them.
        names: Vec<String>,
    },
    /// The list names what several samples are called.
    #[error(
        "{url} names {name}, which {count} samples of the training data are called: give them names of their own"
    )]
    Ambiguous {
        /// The list.
        url: String,
        /// The first such name.
        name: String,
        /// How many samples have it.
        count: u64,
    },
    /// The list is empty.
    #[error("{url} names no samples; write one name a line")]
    EmptyList {
        /// The list.
        url: String,
    },
    /// The list cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The samples whose labels a phase may use, ascending.
///
/// # Errors
/// When there are no labels, not enough of them, or the list is missing, empty or names unknown samples.
pub async fn choose(rule: &Labels, index: &Index) -> Result<Vec<SampleId>, LabelError> {
    if !index.labelled() {
        return Err(LabelError::Unlabelled);
    }
    let ids = || (0..index.len()).map(SampleId::new);
    let chosen = match rule {
        Labels::All => (0..index.len()).collect(),
        Labels::Share { share, seed } => {
            draw_share(&by_class(ids().map(|id| index.label(id))), *share, *seed)
        }
        Labels::PerClass { count, seed } => {
            let classes = by_class(ids().map(|id| index.label(id)));
            draw_count(&classes, index.classes(), *count, *seed)?
        }
        Labels::List { url } => {
            let (store, path) = store::open(url)?;
            let list = store::get(store.as_ref(), &path).await?;
            by_name(
                ids().map(|id| index.name(id)),
                &String::from_utf8_lossy(&list),
                url,
            )?
        }
    };
    Ok(chosen.into_iter().map(SampleId::new).collect())
}

/// The samples of each class, ascending.
fn by_class(labels: impl Iterator<Item = Option<u32>>) -> Vec<Vec<u64>> {
    let mut classes: Vec<Vec<u64>> = Vec::new();
    for (sample, label) in labels.enumerate() {
        if let Some(class) = label.map(|label| label as usize) {
            if classes.len() <= class {
                classes.resize(class + 1, Vec::new());
            }
            classes[class].push(sample as u64);
        }
    }
    classes
}

/// A share of each class, rounded, but at least one sample of a class that has any.
fn draw_share(classes: &[Vec<u64>], share: f64, seed: u64) -> Vec<u64> {
    take(classes, seed, |class| {
        Labels::share_of(class.len() as u64, share) as usize
    })
}

/// A number of each class.
fn draw_count(
    classes: &[Vec<u64>],
    names: &[String],
    wanted: u32,
    seed: u64,
) -> Result<Vec<u64>, LabelError> {
    let have = |class: usize| classes.get(class).map_or(0, Vec::len);
    let shortages: Vec<String> = names
        .iter()
        .enumerate()
        .filter(|(class, _)| have(*class) < wanted as usize)
        .map(|(class, name)| format!("class {name} has {}", have(class)))
        .collect();
    if shortages.is_empty() {
        Ok(take(classes, seed, |_| wanted as usize))
    } else {
        Err(LabelError::TooFew { wanted, shortages })
    }
}

fn take(classes: &[Vec<u64>], seed: u64, count: impl Fn(&[u64]) -> usize) -> Vec<u64> {
    const LABELS: u64 = 0x6c61_6265_6c73;
    let mut chosen = Vec::new();
    for (number, class) in classes.iter().enumerate() {
        let mut order = class.clone();
        Draws::keyed([seed, number as u64, 0, LABELS], 0).shuffle(&mut order);
        order.truncate(count(class));
        chosen.extend(order);
    }
    chosen.sort_unstable();
    chosen
}

/// The samples that a list names: by their whole names, else by their file names, else by either without what follows
/// the first dot of the file name, which members of tar shards do not have (so that the lists of 1 % and 10 % of ImageNet
/// work for any layout). A name must mean one sample.
fn by_name<'a>(
    names: impl Iterator<Item = &'a str>,
    list: &str,
    url: &str,
) -> Result<Vec<u64>, LabelError> {
    let lines = list.lines().map(str::trim);
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    let known: HashSet<&str> = lines.iter().copied().collect();
    let mut stems: HashMap<&str, Vec<&str>> = HashMap::new();
    for line in &known {
        stems.entry(stem(line)).or_default().push(line);
    }
    let mut found: HashMap<&str, Found> = HashMap::new();
    for (sample, name) in (0..).zip(names) {
        let file = file_name(name);
        for (how, text) in [(Found::WHOLE, name), (Found::FILE, file)] {
            if let Some(line) = known.get(text) {
                found.entry(line).or_default().add(how, sample);
            }
        }
        let whole = [stem(name)].into_iter();
        let alone = [stem(file)].into_iter().filter(|_| file.len() < name.len());
        for line in whole
            .chain(alone)
            .filter_map(|text| stems.get(text))
            .flatten()
        {
            found.entry(line).or_default().add(Found::STEM, sample);
        }
    }
    let (mut chosen, mut unknown) = (Vec::new(), Vec::new());
    for line in &lines {
        match found.get(line).and_then(Found::closest) {
            Some((sample, 1)) => chosen.push(sample),
            Some((_, count)) => {
                return Err(LabelError::Ambiguous {
                    url: url.to_owned(),
                    name: (*line).to_owned(),
                    count,
                });
            }
            None => unknown.push((*line).to_owned()),
        }
    }
    if !unknown.is_empty() {
        let count = unknown.len();
        unknown.truncate(SHOWN);
        return Err(LabelError::UnknownNames {
            url: url.to_owned(),
            count,
            names: unknown,
        });
    }
    if chosen.is_empty() {
        return Err(LabelError::EmptyList {
            url: url.to_owned(),
        });
    }
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

/// The samples that one line of a list may mean: the last one of each way to read it, and how many there are.
#[derive(Debug, Default)]
struct Found([(u64, u64); 3]);

impl Found {
    const WHOLE: usize = 0;
    const FILE: usize = 1;
    const STEM: usize = 2;

    fn add(&mut self, how: usize, sample: u64) {
        let (last, count) = &mut self.0[how];
        (*last, *count) = (sample, *count + 1);
    }

    fn closest(&self) -> Option<(u64, u64)> {
        self.0.into_iter().find(|(_, count)| *count > 0)
    }
}

fn file_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// A name up to the first dot of its last part.
fn stem(name: &str) -> &str {
    let start = name.len() - file_name(name).len();
    let end = name[start..]
        .find('.')
        .map_or(name.len(), |dot| start + dot);
    &name[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_are_stratified_and_nested(
            sizes in prop::collection::vec(1usize..40, 1..6), small in 0.01f64..1.0, more in 0.0f64..1.0, seed: u64,
        ) {
            let labels = sizes.iter().enumerate().flat_map(|(class, &n)| vec![Some(class as u32); n]);
            let classes = by_class(labels);
            let large = small + (1.0 - small) * more;
            let (few, many) = (draw_share(&classes, small, seed), draw_share(&classes, large, seed));
            prop_assert!(few.iter().all(|sample| many.contains(sample)));
            for class in &classes {
                let drawn = few.iter().filter(|sample| class.contains(sample)).count();
                prop_assert!(drawn >= 1);
                prop_assert!((drawn as f64 - small * class.len() as f64).abs() < 1.0);
            }
        }
    }

    #[test]
    fn one_percent_is_part_of_ten_percent() {
        // ImageNet's classes have 732 to 1300 images.
        let sizes = [1300_usize, 732, 1012, 50, 7];
        let labels = sizes.iter().enumerate();
        let labels = labels.flat_map(|(class, &n)| vec![Some(class as u32); n]);
        let classes = by_class(labels);
        for seed in 0..20 {
            let draw = |share| draw_share(&classes, share, seed);
            let (one, ten) = (draw(0.01), draw(0.1));
            assert!(one.iter().all(|sample| ten.binary_search(sample).is_ok()));
            let of_each = |drawn: &[u64]| {
                let of = |class: &Vec<u64>| drawn.iter().filter(|it| class.contains(it)).count();
                classes.iter().map(of).collect::<Vec<_>>()
            };
            assert_eq!(of_each(&one), [13, 7, 10, 1, 1]);
            assert_eq!(of_each(&ten), [130, 73, 101, 5, 1]);
        }
    }

    #[test]
    fn the_official_lists_name_samples_of_any_layout() {
        let list = "n01440764_10043.JPEG\nn01443537_22563.JPEG\n";
        let names = [
            // A folder of classes, tar members (their keys have no extension), a Parquet file's paths.
            [
                "n01440764/n01440764_10043.JPEG",
                "n01440764/n01440764_1.JPEG",
                "n01443537/n01443537_22563.JPEG",
            ],
            ["n01440764_10043", "n01440764_1", "n01443537_22563"],
            [
                "train/n01440764_10043",
                "train/n01440764_1",
                "train/n01443537_22563",
            ],
            [
                "n01440764_10043.JPEG",
                "n01440764_1.JPEG",
                "n01443537_22563.JPEG",
            ],
        ];
        for names in names {
            let chosen = by_name(names.into_iter(), list, "file:///list");
            assert_eq!(chosen, Ok(vec![0, 2]), "{names:?}");
        }
        let both = ["a/x.png", "a/x.jpg", "b/y"];
        let read = |list: &str| by_name(both.into_iter(), list, "file:///list");
        assert_eq!(
            read("x.jpg\na/y.png"),
            Err(LabelError::UnknownNames {
                url: "file:///list".to_owned(),
                count: 1,
                names: vec!["a/y.png".to_owned()],
            })
        );
        assert_eq!(
            read("x.jpg\nb/y.png"),
            Ok(vec![1, 2]),
            "the exact name counts first"
        );
        let twice = LabelError::Ambiguous {
            url: "file:///list".to_owned(),
            name: "x.webp".to_owned(),
            count: 2,
        };
        assert_eq!(read("x.webp"), Err(twice));
    }

    #[test]
    fn counts_are_exact_and_depend_on_the_seed() {
        let classes = by_class((0..60).map(|i| Some(i % 3)));
        let names: Vec<String> = (0..3).map(|c| c.to_string()).collect();
        let draw = |seed| draw_count(&classes, &names, 5, seed).expect("enough of each");
        for class in &classes {
            assert_eq!(
                draw(0)
                    .iter()
                    .filter(|sample| class.contains(sample))
                    .count(),
                5
            );
        }
        assert_eq!(draw(0), draw(0));
        assert_ne!(draw(0), draw(1));
    }

    #[test]
    fn every_short_class_is_named() {
        let classes = by_class([Some(0), Some(0), Some(2)].into_iter());
        let names = ["cat", "dog", "owl"].map(str::to_owned);
        let error = draw_count(&classes, &names, 2, 0).expect_err("two classes are short");
        let shortages = ["class dog has 0", "class owl has 1"]
            .map(str::to_owned)
            .to_vec();
        assert_eq!(
            error,
            LabelError::TooFew {
                wanted: 2,
                shortages
            }
        );
    }

    #[test]
    fn lists_name_samples() {
        let names = ["a/1.png", "a/2.png", "b/2.png"];
        let read = |list: &str| by_name(names.into_iter(), list, "file:///list");
        assert_eq!(read("b/2.png\n\n 1.png \nb/2.png\n"), Ok(vec![0, 2]));
        assert_eq!(
            read(" \n"),
            Err(LabelError::EmptyList {
                url: "file:///list".to_owned()
            })
        );
        assert_eq!(
            read("d.png\nc.png"),
            Err(LabelError::UnknownNames {
                url: "file:///list".to_owned(),
                count: 2,
                names: vec!["d.png".to_owned(), "c.png".to_owned()],
            })
        );
        let ambiguous = |name: &str, count| {
            Err(LabelError::Ambiguous {
                url: "file:///list".to_owned(),
                name: name.to_owned(),
                count,
            })
        };
        // `2.png` alone could be either.
        assert_eq!(read("2.png"), ambiguous("2.png", 2));
        let twice = ["a", "b", "a", "a"];
        let read = |list: &str| by_name(twice.into_iter(), list, "file:///list");
        assert_eq!(read("b"), Ok(vec![1]));
        assert_eq!(read("b\na"), ambiguous("a", 3));
    }
}
