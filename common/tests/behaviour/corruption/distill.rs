/// Those of a distillation.
pub(super) const CORRUPTIONS: &[(&str, &str, &str)] = &[
    (
        "phases[3].teacher=pretrain",
        "phases[3].teacher",
        "finetune",
    ),
    ("phases[3].teacher=", "phases[3].teacher", "required"),
    (
        "phases[3].student.depth=20",
        "phases[3].student.depth",
        "34, 50, 101",
    ),
    (
        "phases[3].temperature=0",
        "phases[3].temperature",
        "above 0",
    ),
    ("phases[3].alpha=1.5", "phases[3].alpha", "between"),
    ("phases[3].alpha=1", "phases[3].labels", "alpha"),
    (
        "phases[3].labelled_batch=10",
        "phases[3].labelled_batch",
        "multiple",
    ),
    (
        "phases[3].from=nothing",
        "phases[3].from",
        "no earlier phase",
    ),
    (
        "phases[3].from=pretrain",
        "phases[3].student",
        "another network",
    ),
    ("phases[3].teacher='file:///x/*'", "phases[3].teacher", "*"),
    ("phases[3]=5", "phases[3]", "map of fields"),
];
