use super::gang::{Attempted, Job};
use crate::phase::PhaseError;

const AUGMENT: &str = "{image_size: 12, crop_area: [0.5, 1], flip: false}";
const PRETRAIN: &str = "augment: {image_size: 12, crop_area: [0.5, 1], flip: false, grayscale_probability: 0, \
                        color_hue_saturation: false}";

fn sgd(rate: f64) -> String {
    format!("optimizer: {{kind: sgd, learning_rate: {rate}, scaling: none}}")
}

#[test]
fn four_phases_teach_a_student() {
    let phases = format!(
        "  - {{name: pre, kind: pretrain, batch: 24, max_bad_images: 0.1, steps: 6, lanes: 4, {PRETRAIN}, {}, evaluate: {{knn_k: 5}}}}\n\
         \x20 - {{name: linear, kind: linear_eval, from: pre, batch: 20, max_bad_images: 0.1, steps: 10, augment: {AUGMENT}, {}}}\n\
         \x20 - {{name: tune, kind: finetune, from: pre, head_layer: 1, labels: {{per_class: 15}}, batch: 30, max_bad_images: 0.1, steps: 40, augment: {AUGMENT}, {}}}\n\
         \x20 - {{name: student, kind: distill, teacher: tune, batch: 20, max_bad_images: 0.1, steps: 4, alpha: 0.5, labelled_batch: 20, \
         student: {{depth: 18, width: 0.03125, stem: cifar}}, augment: {AUGMENT}, {}}}\n",
        sgd(0.05),
        sgd(0.5),
        sgd(0.05),
        sgd(0.05),
    );
    let mut job = Job::new("fp32", &phases);
    let pre = job.run(0, 1);
    assert_eq!(pre.losses.len(), 6);
    for name in ["knn_top1", "probe_top1", "probe_top5"] {
        assert!(pre.results.contains_key(name), "{:?}", pre.results);
        let steps: Vec<u64> = pre
            .history
            .iter()
            .filter(|(own, _)| own == name)
            .map(|(_, step)| *step)
            .collect();
        assert_eq!(steps, [3, 6], "{name} once an epoch and at the end");
    }
    assert_eq!(pre.results["probe_top5"], 1.0, "of three classes");
    let linear = job.run(1, 2);
    assert!(linear.results.contains_key("eval_top1") && !linear.results.contains_key("knn_top1"));
    let tune = job.run(2, 1);
    assert!(tune.results["eval_top1"] > 0.6, "{:?}", tune.results);
    assert_eq!(tune.results["eval_top5"], 1.0);
    let student = job.run(3, 1);
    assert!(
        student.losses.iter().all(|loss| loss.is_finite())
            && student.results.contains_key("eval_top1")
    );
    let tensors = job.tensors(&student.commits[0]);
    assert!(
        tensors.contains_key("momentum.fc.weight")
            && !tensors.keys().any(|name| name.starts_with("head."))
    );
}

#[test]
fn self_distillation_needs_no_labels_and_no_head() {
    let phases = format!(
        "  - {{name: tune, kind: finetune, from: random, head_layer: 1, batch: 30, max_bad_images: 0.1, steps: 3, augment: {AUGMENT}, {}}}\n\
         \x20 - {{name: student, kind: distill, teacher: tune, temperature: 0.1, batch: 20, max_bad_images: 0.1, steps: 3, augment: {AUGMENT}, {}}}\n",
        sgd(0.05),
        sgd(0.05),
    );
    let mut job = Job::new("fp32", &phases);
    let teacher = job.run(0, 1);
    job.unlabel("train");
    let student = job.run(1, 2);
    assert!(student.results.contains_key("eval_top1"));
    let shapes = |ended: &super::gang::Ended| {
        let tensors = job.tensors(ended.commits.last().unwrap());
        let wanted = tensors.iter().filter(|(name, _)| {
            !name.starts_with("momentum.") && !name.starts_with("head.") && *name != "fc.weight"
        });
        wanted
            .map(|(name, tensor)| (name.clone(), tensor.size()))
            .collect::<Vec<_>>()
    };
    assert_eq!(shapes(&teacher), shapes(&student), "the teacher's encoder");
}

#[test]
fn a_changed_data_set_or_a_damaged_checkpoint_is_refused() {
    let phases = format!(
        "  - {{name: pre, kind: pretrain, batch: 24, max_bad_images: 0.1, steps: 2, lanes: 4, {PRETRAIN}, {}}}\n",
        sgd(0.05)
    );
    let mut job = Job::new("fp32", &phases);
    let resume = job.run(0, 1).commits.pop();
    let again = |job: &mut Job| {
        job.attempt(
            0,
            Attempted {
                world: 1,
                resume: resume.clone(),
                ..Attempted::default()
            },
        )
    };
    let shard = job
        .path()
        .join("checkpoints")
        .join(resume.as_ref().unwrap().manifest.to_string());
    let shard = shard.with_file_name("shard-00000.safetensors");
    let good = std::fs::read(&shard).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    std::fs::write(&shard, &bad).unwrap();
    assert!(matches!(
        again(&mut job).errors[..],
        [PhaseError::BadCheckpoint { .. }]
    ));
    std::fs::write(&shard, &good).unwrap();
    std::fs::remove_file(job.path().join("train/dots/004.png")).unwrap();
    assert!(matches!(
        again(&mut job).errors[..],
        [PhaseError::BadData(_)]
    ));
}
