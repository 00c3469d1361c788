//! Leaving by plan: all ranks after the same step, where asked for with that step saved.

use diptych_common::checkpoint::StoredObject;
use diptych_proto::{convert, v1};
use prost::Message as _;
use tch::{Kind, Tensor};

use super::PhaseError;
use super::evaluation::gather;
use super::train_loop::{Evaluation, Session};
use crate::collective::{Collective, Gang};
use crate::trainer::{Activity, Control, Ended, Report};

/// How the ranks have agreed to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leaving {
    /// Save the step first.
    pub(super) save: bool,
    /// Nobody is there to gather the parts and to commit.
    pub(super) alone: bool,
}

/// What is said of ranks that leave because another one was told to.
const BY_PLAN: &str = "the gang leaves by plan";

impl Session<'_> {
    /// Saves the step where that is asked for; the state stays in memory whatever becomes of it.
    pub(super) fn leave(
        mut self,
        how: Leaving,
        evaluation: Evaluation,
        control: &Control,
    ) -> Result<Ended, PhaseError> {
        let mut reason = control
            .leave()
            .map_or_else(|| BY_PLAN.to_owned(), |leave| leave.reason);
        if how.save {
            control.report(Report::Activity(Activity::Saving));
            if !self.save_to_leave(how.alone, evaluation, control)? {
                reason.push_str("; its state could not be saved, and is in memory only");
            }
        }
        if !how.alone {
            let step = self.prepared.learner.step;
            self.keeper.settle_best(step, control)?;
        }
        self.prepared.learner.best_at_risk = self.keeper.best_at_risk();
        self.board.publish(control);
        Ok(Ended::Left(reason))
    }

    /// Whether the checkpoint is complete.
    fn save_to_leave(
        &mut self,
        alone: bool,
        (results, best): Evaluation,
        control: &Control,
    ) -> Result<bool, PhaseError> {
        let learner = &*self.prepared.learner;
        let step = learner.step;
        let saved = self
            .keeper
            .save_leaving(learner, (&results, best), alone, control)?;
        // Nobody waits for a commit that cannot come.
        if any(&self.gang, !saved)? {
            return Ok(false);
        }
        if !alone {
            return self.keeper.committed_or_failed(step, control);
        }
        let parts = exchange(self.keeper.part(), &*self.gang.statistics)?;
        let written = match self.gang.rank().get() {
            0 => self.keeper.close_alone(step, parts, control)?,
            _ => true,
        };
        Ok(!any(&self.gang, !written)?)
    }
}

/// Whether any rank says so; all ranks call together.
pub(super) fn any(gang: &Gang, own: bool) -> Result<bool, PhaseError> {
    let mut sum = Tensor::f_from_slice(&[f64::from(u8::from(own))])?;
    gang.statistics.all_reduce(&mut sum)?;
    Ok(sum.f_double_value(&[0])? > 0.0)
}

/// Every rank's part, in rank order.
fn exchange(
    own: Option<&StoredObject>,
    channel: &dyn Collective,
) -> Result<Vec<StoredObject>, PhaseError> {
    let own = own.ok_or_else(|| PhaseError::Internal("a part has no description".to_owned()))?;
    let encoded = v1::StoredObject::from(own.clone()).encode_length_delimited_to_vec();
    let bytes = gather(&Tensor::f_from_slice(&encoded)?, channel)?;
    let bytes = Vec::<u8>::try_from(bytes.f_to_kind(Kind::Uint8)?)?;
    let (mut rest, mut parts) = (bytes.as_slice(), Vec::new());
    let malformed =
        |what: String| PhaseError::Diverged(format!("a rank described its part: {what}"));
    while !rest.is_empty() {
        let part = v1::StoredObject::decode_length_delimited(&mut rest)
            .map_err(|error| malformed(error.to_string()))?;
        let part = StoredObject::try_from(part);
        parts.push(part.map_err(|error: convert::WireError| malformed(error.to_string()))?);
    }
    Ok(parts)
}
