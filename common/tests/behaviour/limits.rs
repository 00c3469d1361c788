//! `resources.memory`: how many batch-norm groups are held at once.

use diptych_common::spec::{JobDraft, JobSpec, SpecErrors};

/// One pretraining of 8 groups with these resources and fields more.
fn draft(memory: &str, fields: &str) -> JobDraft {
    let text = format!(
        "apiVersion: diptych/v1\nname: job\nstorage: file:///store\n\
         resources: {{ device: cuda, ranks: {{ min: 1, max: 4 }}{memory} }}\n\
         data:\n  train: {{ url: 'file:///train' }}\nencoder: {{ depth: 18, stem: cifar }}\n\
         phases:\n- {{ name: one, kind: pretrain, batch: 1024, steps: 2, lanes: 64, groups: 8, probe: false, \
         augment: {{ image_size: 32 }}, optimizer: {{ kind: lars, learning_rate: 0.3 }}{fields} }}\n"
    );
    JobDraft::from_yaml(&text).unwrap_or_else(|error| panic!("{error}"))
}

fn within(memory: &str, fields: &str) -> Result<JobSpec, SpecErrors> {
    JobSpec::try_from(draft(&format!(", memory: {memory}"), fields))
}

fn held(spec: &JobSpec) -> u32 {
    spec.phases()[0].micro_batch_groups
}

#[test]
fn as_many_groups_are_held_at_once_as_fit() {
    // Reckoned once; the table moves with the plan's reckoning.
    let mut last = 9;
    for (memory, expected) in [("64GiB", 8), ("8GiB", 4), ("5GiB", 2), ("3GiB", 1)] {
        let spec = within(memory, "").unwrap_or_else(|errors| panic!("{memory}: {errors}"));
        assert_eq!(held(&spec), expected, "{memory}");
        assert!(expected < last);
        last = expected;
    }
}

#[test]
fn what_was_chosen_is_sent_along_and_stays() {
    let chosen = within("5GiB", "").expect("it fits");
    assert_eq!(
        chosen.draft().phases[0].micro_batch_groups,
        Some(held(&chosen))
    );
    let again = JobSpec::try_from(chosen.draft().clone()).expect("it is valid");
    assert_eq!(again, chosen);
    // Another limit would have given another number; who was sent this one keeps it.
    let mut roomy = chosen.draft().clone();
    roomy.resources.as_mut().expect("given").memory = Some("64GiB".to_owned());
    assert_eq!(
        held(&JobSpec::try_from(roomy).expect("it is valid")),
        held(&chosen)
    );
    // Without a limit nothing is written into the draft.
    let free = JobSpec::try_from(draft("", "")).expect("it is valid");
    assert_eq!(
        (held(&free), free.draft().phases[0].micro_batch_groups),
        (8, None)
    );
}

#[test]
fn the_number_of_ranks_that_a_phase_may_have_at_least_decides() {
    let one = within("3GiB", "").expect("it fits");
    let four = within("3GiB", ", resources: { ranks: 4 }").expect("it fits");
    assert!(held(&four) > held(&one), "{} {}", held(&four), held(&one));
}

#[test]
fn what_cannot_fit_is_refused_with_what_to_change() {
    let errors = within("1500MiB", "").expect_err("it cannot fit");
    assert_eq!(errors.0.len(), 1);
    assert_eq!(errors.0[0].path, "phases[0]");
    let message = &errors.0[0].message;
    assert!(
        message.starts_with("1 rank with 1 batch-norm group at once need ")
            && message.contains("more than `resources.memory` (1.5 GiB)"),
        "{message}"
    );
    let given = within("5GiB", ", micro_batch_groups: 8").expect_err("it cannot fit");
    let message = &given.0[0].message;
    assert!(
        message.contains("it would fit with `micro_batch_groups: 2`"),
        "{message}"
    );
    let errors = within("lots", "").expect_err("no size");
    assert_eq!(errors.0[0].path, "resources.memory");
}
