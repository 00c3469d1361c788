//! Small jobs on the pictures made here: a ResNet-18 of width 1/8 on 16-pixel images.

use std::path::Path;

use anyhow::Result;

use crate::pictures;

/// What differs between the jobs of these tests.
#[derive(Debug, Clone)]
pub struct Small {
    /// Ranks of every phase.
    pub ranks: u32,
    /// `fp32` or `fp64`.
    pub precision: &'static str,
    /// Pretraining steps.
    pub steps: u64,
    /// Batch-norm groups, and how many are held at once.
    pub groups: (u32, u32),
    /// Save every this many steps.
    pub save_every: u64,
}

impl Default for Small {
    fn default() -> Self {
        Self {
            ranks: 2,
            precision: "fp32",
            steps: 12,
            groups: (1, 1),
            save_every: 4,
        }
    }
}

/// Writes the images once: 4 classes, 24 training and 8 test images each.
///
/// # Errors
/// When they cannot be written.
pub fn images(dir: &Path) -> Result<()> {
    pictures::write(&dir.join("images/train"), 4, 24, 1)?;
    pictures::write(&dir.join("images/test"), 4, 8, 2)
}

impl Small {
    /// Long enough that what is killed in its first half still runs.
    pub const LONG: Self = Self {
        ranks: 2,
        precision: "fp32",
        steps: 120,
        groups: (1, 1),
        save_every: 10,
    };

    fn header(&self, dir: &Path) -> String {
        format!(
            "apiVersion: diptych/v1
name: small
seed: 7
storage: file://{dir}/store
resources: {{ device: cpu, ranks: {ranks}, precision: {precision} }}
data:
  train: {{ url: 'file://{dir}/images/train' }}
  test: {{ url: 'file://{dir}/images/test' }}
encoder: {{ depth: 18, width: 0.125, stem: cifar }}
head: {{ layers: 2, dim: 16 }}
phases:
",
            dir = dir.display(),
            ranks = self.ranks,
            precision = self.precision,
        )
    }

    fn pretrain(&self) -> String {
        format!(
            "- name: pretrain
  kind: pretrain
  batch: 24
  steps: {steps}
  lanes: 12
  groups: {groups}
  micro_batch_groups: {held}
  optimizer: {{ kind: lars, learning_rate: 0.3, warmup_epochs: 1, weight_decay: 1.0e-6 }}
  augment: {{ image_size: 16, color_strength: 0.5 }}
  loss: {{ temperature: 0.5 }}
  checkpoint: {{ every_steps: {save} }}
  evaluate: {{ knn_k: 5 }}
",
            steps = self.steps,
            groups = self.groups.0,
            held = self.groups.1,
            save = self.save_every,
        )
    }

    /// Pretraining alone.
    pub fn pretraining(&self, dir: &Path) -> String {
        self.header(dir) + &self.pretrain()
    }

    /// All four phases.
    pub fn pipeline(&self, dir: &Path) -> String {
        self.header(dir)
            + &self.pretrain()
            + "- name: linear
  kind: linear_eval
  from: pretrain
  batch: 24
  epochs: 8
  optimizer: { kind: sgd, learning_rate: 5.0 }
  augment: { image_size: 16, crop_area: [0.6, 1] }
- name: tuned
  kind: finetune
  from: pretrain
  batch: 24
  epochs: 20
  labels: { per_class: 12 }
  head_layer: 1
  optimizer: { kind: sgd, learning_rate: 1.0 }
  augment: { image_size: 16, crop_area: [0.6, 1] }
- name: student
  kind: distill
  teacher: tuned
  student: { depth: 18, width: 0.0625, stem: cifar }
  temperature: 1.0
  batch: 24
  epochs: 12
  optimizer: { kind: sgd, learning_rate: 1.0 }
  augment: { image_size: 16, crop_area: [0.6, 1] }
"
    }
}
