//! Runs of numbered shards: which of them are missing.

use std::collections::{BTreeMap, BTreeSet};

/// Larger totals are no shard counts.
const MOST_SHARDS: u64 = 1_000_000;

/// Shards that the others prove: `name-00003-of-00005.ext` states how many there are, and with `numbered` a gap in
/// `name-{000000..}.ext` counts as well. Names in order.
pub(super) fn missing(names: &[String], numbered: bool) -> Vec<String> {
    let mut stated: BTreeMap<Stated<'_>, BTreeSet<u64>> = BTreeMap::new();
    let mut counted: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for name in names {
        if let Some((run, number)) = Stated::of(name) {
            stated.entry(run).or_default().insert(number);
        } else if let Some((before, digits, after)) = last_number(name).filter(|_| numbered) {
            counted.entry((before, after)).or_default().insert(digits);
        }
    }
    let mut missing: Vec<String> = stated
        .iter()
        .flat_map(|(run, have)| run.missing(have))
        .chain(
            counted
                .iter()
                .flat_map(|(&(before, after), have)| gaps(before, after, have)),
        )
        .collect();
    missing.sort_unstable();
    missing
}

/// A run that states its length.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stated<'a> {
    before: &'a str,
    width: usize,
    /// As it is written.
    total: &'a str,
    after: &'a str,
}

impl<'a> Stated<'a> {
    fn of(name: &'a str) -> Option<(Self, u64)> {
        let (head, tail) = name.rsplit_once("-of-")?;
        let digits = tail.len() - tail.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (total, after) = tail.split_at(digits);
        let before = head.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = &head[before.len()..];
        let run = Self {
            before,
            width: number.len(),
            total,
            after,
        };
        total
            .parse()
            .is_ok_and(|total: u64| (1..=MOST_SHARDS).contains(&total))
            .then_some((run, number.parse().ok()?))
    }

    fn missing(&self, have: &BTreeSet<u64>) -> Vec<String> {
        let total: u64 = self.total.parse().unwrap_or(0);
        // Hubs count from 0, some writers from 1.
        let first = u64::from(have.contains(&total) && !have.contains(&0));
        (first..first + total)
            .filter(|number| !have.contains(number))
            .map(|number| {
                format!(
                    "{}{number:0width$}-of-{}{}",
                    self.before,
                    self.total,
                    self.after,
                    width = self.width
                )
            })
            .collect()
    }
}

/// A name around the last number of its last part.
fn last_number(name: &str) -> Option<(&str, &str, &str)> {
    let end = name.rfind(|c: char| c.is_ascii_digit())? + 1;
    let start = name[..end]
        .trim_end_matches(|c: char| c.is_ascii_digit())
        .len();
    (!name[end..].contains('/')).then_some((&name[..start], &name[start..end], &name[end..]))
}

/// Holes between the first and the last number. Only numbers that are padded or start at 0 count shards; dates and
/// hashes may skip.
fn gaps(before: &str, after: &str, have: &BTreeSet<&str>) -> Vec<String> {
    let width = have.iter().map(|digits| digits.len()).min().unwrap_or(0);
    let padded = have.iter().any(|digits| digits.starts_with('0'));
    let numbers: BTreeSet<u64> = have
        .iter()
        .filter_map(|digits| digits.parse().ok())
        .collect();
    match (numbers.first(), numbers.last()) {
        (Some(&first), Some(&last)) if padded && last - first <= MOST_SHARDS => (first..last)
            .filter(|number| !numbers.contains(number))
            .map(|number| format!("{before}{number:0width$}{after}"))
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing_of(names: &[&str], numbered: bool) -> Vec<String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        missing(&names, numbered)
    }

    #[test]
    fn a_stated_total_names_what_is_not_there() {
        let names = [
            "a/train-00000-of-00004.parquet",
            "a/train-00002-of-00004.parquet",
            "a/test-00000-of-00001.parquet",
            "b/model-00001-of-00002.parquet",
            "b/model-00002-of-00002.parquet",
        ];
        assert_eq!(
            missing_of(&names, false),
            [
                "a/train-00001-of-00004.parquet",
                "a/train-00003-of-00004.parquet"
            ]
        );
        assert!(missing_of(&["x-1-of-99999999999.tar", "one-of-us.tar"], true).is_empty());
    }

    #[test]
    fn a_gap_in_padded_numbers_is_a_missing_shard() {
        let names = [
            "s-000009.tar",
            "s-000010.tar",
            "s-000012.tar",
            "t-000000.tar",
        ];
        assert_eq!(missing_of(&names, true), ["s-000011.tar"]);
        assert!(missing_of(&names, false).is_empty());
        assert_eq!(missing_of(&["s0.tar", "s2.tar"], true), ["s1.tar"]);
        assert!(missing_of(&["day-20240131.tar", "day-20240201.tar"], true).is_empty());
    }
}
