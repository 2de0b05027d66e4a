//! Which layers to prune, by evidence.
//!
//! | rule | takes | source |
//! |---|---|---|
//! | `removal` | the layer whose removal raises the loss least, measured | |
//! | `task` | the layers that a task loses least without, by a finished diagnosis | |
//! | `angular` | the block of layers whose ends are at the smallest angle | arXiv 2403.17887 |
//! | `influence` | the layers of least block influence, 1 − cos of stream in and out | arXiv 2403.03853 |
//! | `deepest` | the deepest layers but the last | the baseline of arXiv 2403.17887 |
//!
//! A choice is made in rounds: each measures the model as it is by then and takes its share. By task there is
//! one: its costs are those of the whole model.

use std::fmt;

use lns_corpus::Windows;
use lns_kernels::Workers;
use lns_model::{LayerSource, Pruned};
use lns_record::{BlockRecord, CostRecord, LayerRecord, PruneStep, RemovalRecord};
use lns_score::{Evaluation, ScoreError, evaluate, paired};
use lns_spec::{LayerIndex, Removal, Site, SpecError};

use crate::{
    Probe, Probes, measure,
    probes::{angular, branches, removal, sublayers},
};

/// How layers are chosen; see the module's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the module's table says what each does")]
pub enum PruneRule {
    Removal,
    Task,
    Angular,
    Influence,
    Deepest,
}

impl PruneRule {
    /// Every rule, the default first.
    pub const ALL: [Self; 5] =
        [Self::Removal, Self::Task, Self::Angular, Self::Influence, Self::Deepest];

    /// Its name on the command line and in plans.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Removal => "removal",
            Self::Task => "task",
            Self::Angular => "angular",
            Self::Influence => "influence",
            Self::Deepest => "deepest",
        }
    }

    /// What it takes, for a person who is to choose one.
    pub const fn takes(self) -> &'static str {
        match self {
            Self::Removal => {
                "what raises the loss on --text least when it is removed, measured again after every \
                 removal (the default)"
            }
            Self::Task => {
                "the layers that a task of a finished diagnosis (--diagnosis) loses least without"
            }
            Self::Angular => {
                "the block of N layers whose ends are at the smallest angle (arXiv 2403.17887)"
            }
            Self::Influence => "the layers of least block influence (ShortGPT, arXiv 2403.03853)",
            Self::Deepest => "the deepest layers but the last, the baseline",
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
pub struct Choice<'a> {
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
    /// What each layer of the whole model costs a task, for the rule that takes the least of them; of
    /// no use to the others.
    pub costs: &'a [CostRecord],
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// The model before, on the text.
    pub baseline: Evaluation,
    /// The model without what is to go, on the text; `None` if nothing goes.
    pub pruned: Option<Evaluation>,
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
    Run(#[from] ScoreError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(
        "{count} cannot be dropped: there are {there} {what}, and at least one must stay; drop {} at most",
        there.saturating_sub(1)
    )]
    TooMany { what: &'static str, there: usize, count: usize },
    #[error(
        "by task, layers are chosen in one round by what each of {layers} costs; there are {costs} costs"
    )]
    Costs { layers: usize, costs: usize },
}

/// Chooses on a text; `observe` sees each step as it is taken, and the loss before any.
///
/// # Errors
/// [`ChooseError`] when more is to be dropped than can be, or the model cannot be measured.
pub fn choose(
    source: &dyn LayerSource,
    text: &Windows,
    choice: &Choice<'_>,
    workers: &Workers,
    observe: &mut dyn FnMut(&PruneStep, f64),
) -> Result<Chosen, ChooseError> {
    let loss = |model: &dyn LayerSource| -> Result<Evaluation, ScoreError> {
        evaluate(model, &text.windows, workers, &|_| {})
    };
    let spec = source.spec();
    let (what, there) = match choice.branches {
        false => ("layers", spec.num_hidden_layers),
        true => ("branches to choose from", branches(source).len()),
    };
    if choice.count >= there {
        return Err(ChooseError::TooMany { what, there, count: choice.count });
    }
    if choice.rule == PruneRule::Task
        && (choice.rounds != 1 || choice.costs.len() != spec.num_hidden_layers)
    {
        return Err(ChooseError::Costs {
            layers: spec.num_hidden_layers,
            costs: choice.costs.len(),
        });
    }
    let baseline = loss(source)?;
    let baseline_nll = baseline.nll();
    let mut chosen = Chosen { baseline, pruned: None, steps: Vec::new(), refused: None };
    let mut removals: Vec<Removal> = Vec::new();
    for round in 0..choice.rounds {
        let share = (choice.count - removals.len()).div_ceil(choice.rounds - round);
        let model = Pruned::new(source, &removals)?;
        for Ranked { removal, score, stderr } in ranked(&model, text, choice, share, workers)? {
            let removal = Removal { layer: model.original(removal.layer), ..removal };
            removals.push(removal);
            let pruned = loss(&Pruned::new(source, &removals)?)?;
            let nll = pruned.nll();
            let step = PruneStep {
                removal,
                score,
                score_stderr: stderr,
                nll: Some(nll),
                rise_stderr: paired(&chosen.baseline, &pruned)
                    .and_then(|difference| difference.stderr),
            };
            if choice.max_increase.is_some_and(|most| nll - baseline_nll > most) {
                chosen.refused = Some(step);
                return Ok(chosen);
            }
            observe(&step, baseline_nll);
            chosen.steps.push(step);
            chosen.pruned = Some(pruned);
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
            .filter(move |site| spec.has_branch(layer, *site))
            .map(move |site| Removal { layer, branch: Some(site) })
    };
    spec.layers().flat_map(of).collect()
}

/// A removal, and the rule's number for it.
struct Ranked {
    removal: Removal,
    score: Option<f64>,
    /// Standard error over windows of a score that is a measured rise of the loss.
    stderr: Option<f64>,
}

/// The next `share` removals of a model, by its own indices.
fn ranked(
    model: &dyn LayerSource,
    text: &Windows,
    choice: &Choice<'_>,
    share: usize,
    workers: &Workers,
) -> Result<Vec<Ranked>, ScoreError> {
    let measured = |probe: &'static dyn Probe| -> Result<Vec<LayerRecord>, ScoreError> {
        Ok(measure(model, text, &Probes::of(&[probe]), workers)?.layers)
    };
    let whole = |layer: usize| Removal { layer: LayerIndex::new(layer), branch: None };
    let rise = |removal, rise: &RemovalRecord| Ranked {
        removal,
        score: Some(rise.delta_nll),
        stderr: rise.stderr,
    };
    let lowest = |mut ranked: Vec<Ranked>| {
        let score = |ranked: &Ranked| ranked.score.unwrap_or(f64::INFINITY);
        ranked.sort_by(|a, b| score(a).total_cmp(&score(b)));
        ranked.truncate(share);
        ranked
    };
    Ok(match choice.rule {
        PruneRule::Removal if choice.branches => {
            let layers = measured(&sublayers::Sublayers)?;
            let ranked = |removal: Removal| {
                let layer = &layers[removal.layer.get()];
                let delta = match removal.branch? {
                    Site::Attention => layer.removal_attention.as_ref()?,
                    Site::Mlp => layer.removal_mlp.as_ref()?,
                };
                Some(rise(removal, delta))
            };
            lowest(branches(model).into_iter().filter_map(ranked).collect())
        }
        PruneRule::Removal => {
            let layers = measured(&removal::Removal)?;
            let ranked =
                |layer: &LayerRecord| Some(rise(whole(layer.layer), layer.removal.as_ref()?));
            lowest(layers.iter().filter_map(ranked).collect())
        }
        PruneRule::Task => {
            let ranked = |(layer, cost): (usize, &CostRecord)| Ranked {
                removal: whole(layer),
                score: Some(cost.drop),
                stderr: cost.stderr,
            };
            lowest(choice.costs.iter().enumerate().map(ranked).collect())
        }
        PruneRule::Influence => {
            let layers = measured(&branches::Branches)?;
            let ranked = |layer: &LayerRecord| {
                let score = Some(layer.block_influence?);
                Some(Ranked { removal: whole(layer.layer), score, stderr: None })
            };
            lowest(layers.iter().filter_map(ranked).collect())
        }
        PruneRule::Angular => {
            let record = measure(model, text, &Probes::of(&[&angular::Angular]), workers)?;
            let block = record.blocks.iter().find(|block| block.n == share);
            let layers = |block: &BlockRecord| block.start..block.start + block.n;
            let score = block.map(|block| block.distance);
            let taken = |layer| Ranked { removal: whole(layer), score, stderr: None };
            block.map(layers).unwrap_or_default().map(taken).collect()
        }
        PruneRule::Deepest => {
            let last = model.spec().num_hidden_layers - 1;
            let taken = |layer| Ranked { removal: whole(layer), score: None, stderr: None };
            (last - share..last).rev().map(taken).collect()
        }
    })
}
