/// What is asked of labels.
pub(super) const CORRUPTIONS: &[(&str, &str, &str)] = &[
    (
        "phases[2].labels.share=0.1",
        "phases[2].labels",
        "exactly one",
    ),
    ("phases[2].labels={}", "phases[2].labels", "exactly one"),
    (
        "phases[2].labels={share: 1.5}",
        "phases[2].labels.share",
        "at most 1",
    ),
    (
        "phases[2].labels.per_class=0",
        "phases[2].labels.per_class",
        "less than 1",
    ),
    ("phases[2].labels={list: x}", "phases[2].labels.list", "URL"),
    (
        "phases[2].labels={list: 'file:///x', seed: 1}",
        "phases[2].labels.seed",
        "list",
    ),
];
