//! Which layers to prune, by evidence.
//!
//! | rule | takes | source |
//! |---|---|---|
//! | `removal` | the layer whose removal raises the loss least, measured | |
//! | `angular` | the block of layers whose ends are at the smallest angle | arXiv 2403.17887 |
//! | `influence` | the layers of least block influence, 1 − cos of stream in and out | arXiv 2403.03853 |
//! | `deepest` | the deepest layers but the last | the baseline of arXiv 2403.17887 |
//!
//! A choice is made in rounds: each measures the model as it is by then and takes its share.

use std::fmt;

use layernorm_scaling::{LayerSource, Pruned};
use lns_data::Window;
use lns_eval::{RunError, evaluate};
use lns_kernels::Workers;
use lns_record::{DiagnoseRecord, Probe, PruneStep};
use lns_spec::{LayerIndex, Removal, Site, SpecError};

use crate::diagnose;

/// How layers are chosen; see the module's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the module's table says what each does")]
pub enum PruneRule {
    Removal,
    Angular,
    Influence,
    Deepest,
}

impl PruneRule {
    /// Every rule, the default first.
    pub const ALL: [Self; 4] = [Self::Removal, Self::Angular, Self::Influence, Self::Deepest];

    /// Its name on the command line and in plans.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Removal => "removal",
            Self::Angular => "angular",
            Self::Influence => "influence",
            Self::Deepest => "deepest",
        }
    }
}

impl fmt::Display for PruneRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What to choose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// By which rule.
    pub rule: PruneRule,
    /// How many layers, or branches.
    pub count: usize,
    /// In how many rounds, from 1 to `count`: each measures anew.
    pub rounds: usize,
    /// Single branches (an attention or an MLP) instead of whole layers; by measured removal only.
    pub branches: bool,
    /// Stop before the loss on the windows rises by more than this, in nats per token.
    pub max_increase: Option<f64>,
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// Loss before.
    pub baseline_nll: f64,
    /// What goes, in order, by index in the model before any pruning.
    pub steps: Vec<PruneStep>,
    /// The step that would have raised the loss too far, if one stopped the choice.
    pub refused: Option<PruneStep>,
}

/// Why no choice could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum ChooseError {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("there are {there} {what} to choose from; {count} cannot be dropped")]
    TooMany { what: &'static str, there: usize, count: usize },
}

/// Chooses on `windows`; `observe` sees each step as it is taken.
///
/// # Errors
/// [`ChooseError`] when more is to be dropped than can be, or the model cannot be measured.
pub fn choose(
    source: &dyn LayerSource,
    windows: &[Window],
    choice: &Choice,
    workers: &Workers,
    observe: &mut dyn FnMut(&PruneStep),
) -> Result<Chosen, ChooseError> {
    let nll = |model: &dyn LayerSource| -> Result<f64, RunError> {
        Ok(evaluate(model, windows, workers, &|_| {})?.nll())
    };
    let spec = source.spec();
    let (what, there) = match choice.branches {
        // One layer must stay; of branches, all but one of them.
        false => ("layers", spec.num_hidden_layers.saturating_sub(1)),
        true => ("branches", branches(source).len().saturating_sub(1)),
    };
    if choice.count > there {
        return Err(ChooseError::TooMany { what, there, count: choice.count });
    }
    let baseline_nll = nll(source)?;
    let mut chosen = Chosen { baseline_nll, steps: Vec::new(), refused: None };
    let mut removals: Vec<Removal> = Vec::new();
    for round in 0..choice.rounds {
        let share = (choice.count - removals.len()).div_ceil(choice.rounds - round);
        let model = Pruned::new(source, &removals)?;
        for (removal, score) in ranked(&model, windows, choice, share, workers)? {
            let removal = Removal { layer: model.original(removal.layer), ..removal };
            removals.push(removal);
            let nll = nll(&Pruned::new(source, &removals)?)?;
            let step = PruneStep { removal, score, nll: Some(nll) };
            if choice.max_increase.is_some_and(|most| nll - baseline_nll > most) {
                chosen.refused = Some(step);
                return Ok(chosen);
            }
            observe(&step);
            chosen.steps.push(step);
        }
    }
    Ok(chosen)
}

/// The branches that can be taken out alone.
fn branches(model: &dyn LayerSource) -> Vec<Removal> {
    let spec = model.spec();
    let of = |layer: LayerIndex| {
        [Site::Attention, Site::Mlp]
            .into_iter()
            .filter(move |site| spec.can_lose_branch(layer, *site))
            .map(move |site| Removal { layer, branch: Some(site) })
    };
    spec.layers().flat_map(of).collect()
}

/// The next `share` removals of a model, by its own indices, and the rule's number for each.
fn ranked(
    model: &dyn LayerSource,
    windows: &[Window],
    choice: &Choice,
    share: usize,
    workers: &Workers,
) -> Result<Vec<(Removal, Option<f64>)>, RunError> {
    let measured = |probe: Probe| -> Result<DiagnoseRecord, RunError> {
        let probes = [probe].into_iter().collect();
        diagnose(model, windows, &probes, workers, &|_| {}, (String::new(), Vec::new()))
    };
    let whole = |layer: usize| Removal { layer: LayerIndex::new(layer), branch: None };
    let lowest = |mut scored: Vec<(Removal, f64)>| {
        scored.sort_by(|a, b| a.1.total_cmp(&b.1));
        scored.into_iter().take(share).map(|(removal, score)| (removal, Some(score))).collect()
    };
    Ok(match choice.rule {
        PruneRule::Removal if choice.branches => {
            let record = measured(Probe::Sublayers)?;
            let score = |removal: Removal| {
                let layer = &record.layers[removal.layer.get()];
                let delta = match removal.branch? {
                    Site::Attention => layer.removal_attention.as_ref()?,
                    Site::Mlp => layer.removal_mlp.as_ref()?,
                };
                Some((removal, delta.delta_nll))
            };
            lowest(branches(model).into_iter().filter_map(score).collect())
        }
        PruneRule::Removal => {
            let record = measured(Probe::Removal)?;
            let score = |layer: &lns_record::LayerRecord| {
                Some((whole(layer.layer), layer.removal.as_ref()?.delta_nll))
            };
            lowest(record.layers.iter().filter_map(score).collect())
        }
        PruneRule::Influence => {
            let record = measured(Probe::Branches)?;
            let score = |layer: &lns_record::LayerRecord| {
                Some((whole(layer.layer), layer.block_influence?))
            };
            lowest(record.layers.iter().filter_map(score).collect())
        }
        PruneRule::Angular => {
            let record = measured(Probe::Angular)?;
            let block = record.blocks.iter().find(|block| block.n == share);
            let layers = |block: &lns_record::BlockRecord| block.start..block.start + block.n;
            let taken = |layer| (whole(layer), block.map(|block| block.distance));
            block.map(layers).unwrap_or_default().map(taken).collect()
        }
        PruneRule::Deepest => {
            let last = model.spec().num_hidden_layers - 1;
            (last - share..last).rev().map(|layer| (whole(layer), None)).collect()
        }
    })
}
