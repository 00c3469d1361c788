//! "Did you mean …?"

/// The option nearest to a word, if it is near enough to be a slip of the finger.
pub(super) fn nearest<'a>(
    word: &str,
    options: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let limit = word.chars().count().div_ceil(3);
    options
        .into_iter()
        .map(|option| {
            (
                distance(&word.to_lowercase(), &option.to_lowercase()),
                option,
            )
        })
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, option)| option)
}

/// `; did you mean …?`, or nothing.
pub(super) fn hint<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, options).map_or_else(String::new, |option| format!("; did you mean `{option}`?"))
}

/// Levenshtein distance.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        assert_eq!(nearest("epoch", ["epochs", "steps"]), Some("epochs"));
        assert_eq!(
            nearest("learning-rate", ["kind", "learning_rate"]),
            Some("learning_rate")
        );
        assert_eq!(nearest("apiversion", ["apiVersion"]), Some("apiVersion"));
        assert_eq!(nearest("zebra", ["epochs", "steps"]), None);
    }
}
