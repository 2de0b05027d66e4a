//! The plan of a pruning, and the job that does what it says.

use std::path::Path;

use lns_checkpoint::{Checkpoint, CheckpointError, Conversion};
use lns_diagnose::{Chosen, PruneRule};
use lns_record::{PrunePlan, PruneStep, pretty_json};
use lns_spec::Removal;
use serde_json::json;

use crate::{ConvertError, Job};

/// A plan of what was chosen by `rule`.
///
/// # Errors
/// [`CheckpointError::Io`] when the model cannot be hashed.
pub fn chosen_plan(
    source: &Checkpoint,
    rule: PruneRule,
    chosen: &Chosen,
) -> Result<PrunePlan, CheckpointError> {
    Ok(PrunePlan {
        rule: rule.to_string(),
        baseline_nll: Some(chosen.baseline.nll()),
        steps: chosen.steps.clone(),
        ..given_plan(source, Vec::new())?
    })
}

/// A plan of what was named.
///
/// # Errors
/// [`CheckpointError::Io`] when the model cannot be hashed.
pub fn given_plan(
    source: &Checkpoint,
    removals: Vec<Removal>,
) -> Result<PrunePlan, CheckpointError> {
    let step = |removal| PruneStep {
        removal,
        score: None,
        score_stderr: None,
        nll: None,
        rise_stderr: None,
    };
    Ok(PrunePlan {
        format: PrunePlan::FORMAT.to_owned(),
        model: source.spec().to_string(),
        fingerprint: source.fingerprint()?,
        rule: "given".to_owned(),
        task: None,
        baseline_nll: None,
        steps: removals.into_iter().map(step).collect(),
    })
}

/// The plan at `path`, if it was made for this model.
///
/// # Errors
/// [`ConvertError::Record`] for what is no plan, [`ConvertError::OtherPlan`] for one of another model.
pub fn read_plan(path: &Path, source: &Checkpoint) -> Result<PrunePlan, ConvertError> {
    let plan = PrunePlan::read(path)?;
    if plan.fingerprint != source.fingerprint()? {
        return Err(ConvertError::OtherPlan {
            plan: path.to_owned(),
            made_for: plan.model,
            path: source.path().to_owned(),
            model: source.spec().to_string(),
        });
    }
    Ok(plan)
}

/// The model without what a plan says goes; the plan is written beside it.
///
/// # Errors
/// [`ConvertError`] when the checkpoint is not whole, or cannot lose that.
pub fn prune<'a>(source: &'a Checkpoint, plan: &PrunePlan) -> Result<Job<'a>, ConvertError> {
    let removals = plan.removals();
    let conversion = Conversion::of(source)?.without(&removals)?;
    let options = json!({"rule": plan.rule, "removals": removals});
    let json = pretty_json(plan).map_err(|error| ConvertError::Io {
        path: PrunePlan::FILE_NAME.into(),
        what: "was not written",
        source: error.into(),
    })?;
    let more = vec![(PrunePlan::FILE_NAME, json)];
    Ok(Job { more, ..Job::new("prune", conversion, options) })
}
