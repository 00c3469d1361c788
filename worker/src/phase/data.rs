//! The data that phases use, each set opened once.

use std::collections::BTreeMap;

use diptych_common::digest::Digest;
use diptych_common::ids::DataName;
use diptych_common::spec::{JobSpec, Labels, PhaseKind, PhaseSpec};

use super::PhaseError;
use super::refuse::{self, Split};
use crate::batch::{Source, Stop};

/// Data sets of a job, opened when they are first asked for.
#[derive(Debug)]
pub struct Sets<'a> {
    spec: &'a JobSpec,
    stop: Stop,
    open: &'a mut Opened,
}

/// Data sets that are open, for as long as the process lives.
pub type Opened = BTreeMap<DataName, Source>;

/// The data of one phase.
#[derive(Debug, Clone)]
pub struct Data {
    /// All training images.
    pub train: Source,
    /// The training images that the main stream takes.
    pub used: Source,
    /// Those that the labelled stream takes, where there is one.
    pub labelled: Option<Source>,
    /// The images to evaluate on.
    pub eval: Option<Source>,
}

// === impl Sets ===

impl<'a> Sets<'a> {
    /// Goes on from what is `open`. `stop` frees whoever waits for a store, and stops all loaders.
    pub fn new(spec: &'a JobSpec, stop: Stop, open: &'a mut Opened) -> Self {
        Self { spec, stop, open }
    }

    /// One of the job's data sets.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn get(&mut self, name: &DataName) -> Result<Source, PhaseError> {
        if let Some(open) = self.open.get(name) {
            return Ok(open.under(&self.stop));
        }
        let spec = self.spec.data().get(name);
        let spec =
            spec.ok_or_else(|| PhaseError::Internal(format!("the job has no data {name}")))?;
        let source = Source::open(spec, &self.stop)?;
        self.open.insert(name.clone(), source.clone());
        Ok(source)
    }
}

// === impl Data ===

impl Data {
    /// Opens what a phase names and draws its labels.
    ///
    /// # Errors
    /// Bad data, or labels that cannot be chosen as asked.
    pub fn open(sets: &mut Sets<'_>, phase: &PhaseSpec) -> Result<Self, PhaseError> {
        let train = sets.get(&phase.train)?;
        let eval = phase.eval.as_ref().map(|name| sets.get(name)).transpose()?;
        let (main, beside) = rules(phase);
        let draw = |rule: &Labels| train.labelled(rule);
        let used = main.map(draw).transpose()?;
        let labelled = beside.map(draw).transpose()?;
        Ok(Self {
            used: used.unwrap_or_else(|| train.clone()),
            train,
            labelled,
            eval,
        })
    }

    /// The same data, for an attempt that `stop` ends.
    #[must_use]
    pub fn under(&self, stop: &Stop) -> Self {
        let some = |source: &Option<Source>| source.as_ref().map(|source| source.under(stop));
        Self {
            train: self.train.under(stop),
            used: self.used.under(stop),
            labelled: some(&self.labelled),
            eval: some(&self.eval),
        }
    }

    /// Everything that a rank sees of its data: both indices, and which labels were drawn.
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"diptych data of a phase 1");
        let parts = [
            Some(self.train.index().digest()),
            self.eval.as_ref().map(|eval| eval.index().digest()),
            self.used.chosen(),
            self.labelled.as_ref().and_then(Source::chosen),
        ];
        for part in parts {
            match part {
                Some(digest) => hasher.update(&[1]).update(digest.as_bytes()),
                None => hasher.update(&[0]),
            };
        }
        Digest::new(hasher.finalize().into())
    }

    /// Whether a checkpoint was written over this data. Those of before held the digest of the training index alone.
    pub fn is(&self, stated: Digest) -> bool {
        stated == self.digest() || stated == self.train.index().digest()
    }

    /// What does not fit; `teacher` as in [`refuse::problems`].
    pub fn problems(&self, phase: &PhaseSpec, teacher: Option<&[String]>) -> Vec<PhaseError> {
        problems(phase, (&self.train, self.eval.as_ref()), teacher)
    }
}

/// What does not fit between a phase and its opened data.
pub fn problems(
    phase: &PhaseSpec,
    (train, eval): (&Source, Option<&Source>),
    teacher: Option<&[String]>,
) -> Vec<PhaseError> {
    let eval = phase.eval.as_ref().zip(eval);
    refuse::problems(
        phase,
        split(&phase.train, train),
        eval.map(|(name, source)| split(name, source)),
        teacher,
    )
}

fn split<'a>(name: &'a DataName, source: &'a Source) -> Split<'a> {
    let index = source.index();
    Split {
        name,
        images: source.len(),
        classes: index.labelled().then(|| index.classes()),
    }
}

/// Which labels the main stream and the labelled stream draw.
pub fn rules(phase: &PhaseSpec) -> (Option<&Labels>, Option<&Labels>) {
    match &phase.kind {
        PhaseKind::Pretrain(_) => (None, None),
        PhaseKind::LinearEval(spec) => (Some(&spec.labels), None),
        PhaseKind::Finetune(spec) => (Some(&spec.labels), None),
        PhaseKind::Distill(spec) => (None, spec.labelled.as_ref().map(|stream| &stream.labels)),
    }
}
