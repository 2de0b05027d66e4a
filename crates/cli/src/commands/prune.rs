//! `lns prune`: a model without some of its layers or branches.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use lns_checkpoint::{Checkpoint, Conversion, StorageType};
use lns_convert::{ConvertError, Effect, Made, chosen_plan, effect, given_plan, read_plan};
use lns_corpus::Windows;
use lns_diagnose::{Choice, Chosen, PruneRule, TaskCosts, TaskMeasure, choose};
use lns_kernels::Compute;
use lns_model::{LayerSource, f32_bytes};
use lns_record::{PrunePlan, PruneStep, pretty_json, replace_file};
use lns_show::{block_in_words, signed, with_prefix};
use lns_spec::{LayerSelection, ModelSpec, Removal, Site};
use lns_train::ranges::LAYERS;

use super::{Verb, convert};
use crate::{
    arguments::{
        ComputeArgs, CutArgs, OutputArgs,
        names::any_of,
        numbers::{NOT_NEGATIVE, real, whole},
        stored_type,
    },
    failure::usage,
    model::{self, bytes},
    pipes,
    printer::Printer,
    text,
};

/// Remove layers, or single attentions and MLPs, that were named or that are chosen by evidence
#[derive(Debug, Args)]
#[command(after_long_help = help())]
pub(crate) struct PruneArgs {
    /// Folder, .gguf file, or .safetensors file
    pub(crate) model: PathBuf,

    /// Remove these layers: 21..25 or 3,7,11
    #[arg(long, value_name = "LAYERS")]
    pub(crate) layers: Option<LayerSelection>,

    /// Remove the attention of these layers
    #[arg(long, value_name = "LAYERS")]
    pub(crate) attention: Option<LayerSelection>,

    /// Remove the MLP of these layers
    #[arg(long, value_name = "LAYERS")]
    pub(crate) mlp: Option<LayerSelection>,

    /// Remove this many layers, chosen by --by on --text (1–4096)
    #[arg(
        long, value_name = "N", conflicts_with_all = ["layers", "attention", "mlp", "plan"],
        requires = "files", value_parser = whole::<u64>(LAYERS)
    )]
    pub(crate) drop: Option<u64>,

    /// Do again what a plan says
    #[arg(long, value_name = "FILE", conflicts_with_all = ["layers", "attention", "mlp"])]
    pub(crate) plan: Option<PathBuf>,

    #[arg(
        long, value_name = "RULE", requires = "drop", value_parser = prune_rule,
        help = format!("The rule for --drop: {}", any_of(PruneRule::ALL.map(PruneRule::name)))
    )]
    pub(crate) by: Option<PruneRule>,

    /// The diagnosis that --by task reads: a folder that `lns diagnose MODEL --tasks … --out DIR` wrote
    #[arg(long, value_name = "DIR", requires = "by")]
    pub(crate) diagnosis: Option<PathBuf>,

    /// The task whose costs count for --by task, where the diagnosis asked several
    #[arg(long, value_name = "TASK", requires = "diagnosis")]
    pub(crate) task: Option<String>,

    #[arg(
        long, value_name = "MEASURE", requires = "diagnosis", value_parser = measure(),
        help = "By which of its costs: gold, the right answer's log-probability (if not given, because every \
                document says something); acc or acc_norm, accuracy, which is coarse"
    )]
    pub(crate) measure: Option<TaskMeasure>,

    /// Choose single attentions and MLPs instead of whole layers
    #[arg(long, requires = "drop")]
    pub(crate) branches: bool,

    /// Choose in so many rounds, each on the model as it is by then; as many as --drop for the rule
    /// removal, 1 for the others (1–4096)
    #[arg(long, value_name = "N", requires = "drop", value_parser = whole::<u64>(LAYERS))]
    pub(crate) rounds: Option<u64>,

    /// Stop before the perplexity on --text rises by more than this many percent (0 or more)
    #[arg(
        long, value_name = "PERCENT", requires = "drop", value_parser = real(NOT_NEGATIVE)
    )]
    pub(crate) max_ppl_increase: Option<f64>,

    /// Write the plan here too; with --dry-run nothing else is written
    #[arg(long, value_name = "FILE")]
    pub(crate) save_plan: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,

    /// Store the result so; as the source does if not given, GGUF blocks as f32
    #[arg(long, value_name = "TYPE", value_parser = stored_type())]
    pub(crate) dtype: Option<StorageType>,

    /// Text to choose on, and to measure the loss on before and after
    #[arg(long = "text", value_name = "FILE", num_args = 1..)]
    pub(crate) files: Vec<PathBuf>,

    /// Measure the loss before and after on this text instead, which the choice has not seen
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) held_out: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) cut: CutArgs,

    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

impl Verb for PruneArgs {
    fn texts(&mut self) -> Vec<&mut Vec<PathBuf>> {
        vec![&mut self.files, &mut self.held_out]
    }

    fn prints_json(&self) -> bool {
        self.output.json
    }

    fn run(&self, printer: &Printer) -> anyhow::Result<ExitCode> {
        run(self, printer).map(|()| ExitCode::SUCCESS)
    }
}

/// A rule by its name.
fn prune_rule(name: &str) -> Result<PruneRule, String> {
    let rule = PruneRule::ALL.into_iter().find(|rule| rule.name() == name);
    rule.ok_or_else(|| format!("expected {}", any_of(PruneRule::ALL.map(PruneRule::name))))
}

/// A measure by its name.
fn measure() -> impl TypedValueParser<Value = TaskMeasure> {
    PossibleValuesParser::new(TaskMeasure::ALL.map(TaskMeasure::name))
        .try_map(|name| TaskMeasure::named(&name).ok_or("this is no measure"))
}

fn help() -> String {
    let rules = PruneRule::ALL.map(|rule| format!("  {:<9}  {}\n", rule.name(), rule.takes()));
    format!(
        "Layers are numbered from 0, as in every table of this program and in model.layers.N; 21..25 is \
         21, 22, 23, 24.\n\nRules for --drop:\n{}\nExamples:\n  lns prune MODEL --drop 3 --text book.txt \
         --out pruned\n  lns prune MODEL --layers 21..25 --mlp 3 --out pruned\n  lns prune MODEL --plan \
         pruned/prune.json --out again",
        rules.concat()
    )
}

fn run(args: &PruneArgs, printer: &Printer) -> anyhow::Result<()> {
    let asked = Asked::valid(args)?;
    let checkpoint = model::open(&args.model)?;
    if !(args.files.is_empty() && args.held_out.is_empty()) {
        let instead = "name what is to go with --layers, --attention or --mlp and leave --text and --held-out \
                       out; `lns diagnose` shows what each layer does to its hidden states";
        model::require_head(&checkpoint, instead)?;
    }
    let costs = args.diagnosis.as_deref().map(|folder| costs(args, folder, &checkpoint));
    let costs = costs.transpose()?;
    let output = &args.output;
    let existing = convert::under_force(output.force);
    if let Some(out) = output.out.as_ref().filter(|_| !output.dry_run) {
        convert::check_place(&checkpoint, out, existing, Made::Folder)?;
    }
    if let Some(path) = &args.save_plan
        && path.exists()
        && PrunePlan::read(path).is_err()
    {
        return Err(usage(format!(
            "--save-plan {}: there is something else than a plan; name another file",
            path.display()
        )));
    }
    if args.files.is_empty() && args.held_out.is_empty() {
        convert::refuse_idle(&args.cut, &args.compute)?;
    }
    // What is wrong with the files is said before anything is measured.
    Conversion::of(&checkpoint)?;
    let read = |files: &[_]| match files {
        [] => Ok(None),
        files => text::for_model(&checkpoint, files, &args.cut, printer).map(Some),
    };
    let (chosen_on, held_out) = (read(&args.files)?, read(&args.held_out)?);
    let measured_on = held_out.as_ref().or(chosen_on.as_ref());
    // The model is loaded only if something is measured.
    let measured = match measured_on {
        None => None,
        Some(text) => {
            let compute = args.compute.compute()?;
            let checkpoint = model::open(&args.model)?;
            let source = model::load(checkpoint, &compute, args.compute.layers(), printer)?;
            let (flag, files) = match args.held_out.is_empty() {
                true => ("--text", &args.files),
                false => ("--held-out", &args.held_out),
            };
            let files: Vec<String> =
                files.iter().map(|file| pipes::shown(file).display().to_string()).collect();
            let from = format!("{flag} {}", files.join(" "));
            Some(Measured { source, text, from, compute })
        }
    };
    let (plan, chosen) =
        plan(asked, costs.as_ref(), &checkpoint, chosen_on.as_ref(), measured.as_ref(), printer)?;
    let removals = plan.removals();
    if removals.is_empty() {
        printer.json(&plan)?;
        // What was to be made is not there: what follows && is not to go on.
        anyhow::bail!(match args.plan {
            Some(_) => "the plan is empty; nothing is written",
            None => "nothing can go within --max-ppl-increase; nothing is written",
        });
    }
    let job = lns_convert::prune(&checkpoint, &plan)?.stored_as(args.dtype);
    printer.note(&described(checkpoint.spec(), &removals));
    if let Some(path) = &args.save_plan {
        replace_file(path, &pretty_json(&plan)?).with_context(|| convert::not_written(path))?;
        printer.note(&format!("Plan: {}", path.display()));
    }
    let Some(out) = output.out.as_ref().filter(|_| !output.dry_run) else {
        return convert::show_edits(&job.conversion, printer);
    };
    let effect = match &measured {
        None => None,
        Some(Measured { source, text, from, compute }) => {
            // The choice measured both, if it was made on this text.
            let known = chosen.as_ref().filter(|_| held_out.is_none());
            let known = known.and_then(|chosen| Some([&chosen.baseline, chosen.pruned.as_ref()?]));
            Some((effect(&**source, &removals, text, known, &compute.workers)?, from))
        }
    };
    let mut gained = size(&job.conversion);
    if let Some((effect, from)) = &effect {
        gained += &cost(effect, from);
    }
    let mut written = convert::write(&job, out, existing, printer)?;
    written.record.measured = effect.map(|(effect, _)| effect.record());
    let record = written.commit()?;
    printer.result(&gained)?;
    convert::show_result(out, &record, printer)
}

/// The model in memory or on disk, and the text it is measured on.
struct Measured<'a> {
    source: Box<dyn LayerSource>,
    text: &'a Windows,
    /// The flag and the files that it was read from.
    from: String,
    compute: Compute,
}

/// What is to go: named, planned before, or chosen; then with what the choice measured.
fn plan(
    asked: Asked<'_>,
    costs: Option<&TaskCosts>,
    checkpoint: &Checkpoint,
    chosen_on: Option<&Windows>,
    measured: Option<&Measured<'_>>,
    printer: &Printer,
) -> anyhow::Result<(PrunePlan, Option<Chosen>)> {
    match asked {
        Asked::Planned(path) => match read_plan(path, checkpoint) {
            Err(error @ ConvertError::OtherPlan { .. }) => Err(usage(format!(
                "{error}; choose anew with --drop, or name the layers with --layers"
            ))),
            plan => Ok((plan?, None)),
        },
        Asked::Chosen(choice) => {
            // clap takes --drop only with --text.
            let (Some(text), Some(measured)) = (chosen_on, measured) else {
                return Err(usage("--drop chooses on a text: give --text FILE"));
            };
            let known = costs.map_or(&[][..], |costs| &costs.costs);
            let choice = Choice { costs: known, ..choice };
            let chosen = chosen(&choice, text, measured, printer)?;
            let plan = chosen_plan(checkpoint, choice.rule, &chosen)?;
            let task = costs.map(|costs| format!("{}, {}", costs.task, costs.measure.name()));
            Ok((PrunePlan { task, ..plan }, Some(chosen)))
        }
        Asked::Named(selections) => {
            let mut removals = Vec::new();
            for (selection, branch) in selections {
                let layers = selection.resolve(checkpoint.spec().num_hidden_layers)?;
                removals.extend(layers.into_iter().map(|layer| Removal { layer, branch }));
            }
            Ok((given_plan(checkpoint, removals)?, None))
        }
    }
}

/// What is to go, as it was asked for.
enum Asked<'a> {
    /// What a plan says.
    Planned(&'a Path),
    /// What evidence chooses.
    Chosen(Choice<'static>),
    /// These layers, or their branches at a site.
    Named(Vec<(&'a LayerSelection, Option<Site>)>),
}

impl<'a> Asked<'a> {
    /// What the flags ask for, if they make sense together.
    fn valid(args: &'a PruneArgs) -> anyhow::Result<Self> {
        if let Some(path) = &args.plan {
            return Ok(Self::Planned(path));
        }
        if let Some(count) = args.drop {
            return Ok(Self::Chosen(choice(args, count as usize)?));
        }
        let selections = [
            (&args.layers, None),
            (&args.attention, Some(Site::Attention)),
            (&args.mlp, Some(Site::Mlp)),
        ];
        let named = |(selection, site): (&'a Option<LayerSelection>, _)| {
            selection.as_ref().map(|selection| (selection, site))
        };
        let named: Vec<_> = selections.into_iter().filter_map(named).collect();
        if named.is_empty() {
            return Err(usage(
                "say what goes: --drop N --text FILE chooses by evidence; --layers, --attention and \
                 --mlp name it; --plan FILE does again what was done before",
            ));
        }
        Ok(Self::Named(named))
    }
}

/// The choice that --drop and the flags beside it ask for.
fn choice(args: &PruneArgs, count: usize) -> anyhow::Result<Choice<'static>> {
    let rule = args.by.unwrap_or(PruneRule::Removal);
    if args.branches && rule != PruneRule::Removal {
        return Err(usage(format!(
            "--branches: attentions and MLPs are chosen by measured removal, not by {rule}"
        )));
    }
    let most = if rule == PruneRule::Removal { count } else { 1 };
    let rounds = args.rounds.map_or(most, |rounds| rounds as usize);
    if rounds > count {
        return Err(usage(format!("--rounds {rounds}: there are {count} to drop, one a round")));
    }
    if (rule == PruneRule::Task) != args.diagnosis.is_some() {
        return Err(usage(
            "--by task and --diagnosis DIR go together: layers are chosen by what a diagnosis found that they \
             cost a task; `lns diagnose MODEL --tasks TASK --data FOLDER --out DIR` makes one",
        ));
    }
    if rule == PruneRule::Task && rounds > 1 {
        return Err(usage(
            "--rounds: the diagnosis knows what each layer costs the whole model; prune in steps and \
             diagnose between them",
        ));
    }
    if rule == PruneRule::Deepest && rounds > 1 {
        return Err(usage("--rounds: the deepest layers are the same however often one looks"));
    }
    Ok(Choice {
        rule,
        count,
        rounds,
        branches: args.branches,
        max_increase: args.max_ppl_increase.map(|percent| (percent / 100.0).ln_1p()),
        costs: &[],
    })
}

/// What each layer costs the task that --by task goes by.
fn costs(args: &PruneArgs, folder: &Path, checkpoint: &Checkpoint) -> anyhow::Result<TaskCosts> {
    let record = lns_diagnose::read(folder)?;
    let measure = args.measure.unwrap_or(TaskMeasure::Gold);
    TaskCosts::of(&record, checkpoint.spec(), args.task.as_deref(), measure)
        .with_context(|| format!("--diagnosis {}", folder.display()))
}

fn chosen(
    choice: &Choice,
    text: &Windows,
    measured: &Measured<'_>,
    printer: &Printer,
) -> anyhow::Result<Chosen> {
    printer.note(&text::described(text));
    let what = if choice.branches { "branch" } else { "layer" };
    let mut observe = |step: &PruneStep, baseline: f64| {
        printer.note(&format!("  {what} {}", step_line(step, choice.rule, baseline)));
    };
    let chosen = choose(&*measured.source, text, choice, &measured.compute.workers, &mut observe)?;
    if let Some(step) = &chosen.refused {
        printer.note(&format!(
            "Stopped: without {} the perplexity would be {} %.",
            named(step.removal),
            signed(100.0 * (step.nll.unwrap_or(f64::NAN) - chosen.baseline.nll()).exp_m1(), 1)
        ));
    }
    Ok(chosen)
}

/// What goes, in words.
fn named(removal: Removal) -> String {
    match removal.branch {
        None => format!("layer {}", removal.layer),
        Some(Site::Attention) => format!("the attention of layer {}", removal.layer),
        Some(Site::Mlp) => format!("the MLP of layer {}", removal.layer),
    }
}

/// A step with its numbers, each with its standard error over windows where there is one.
fn step_line(step: &PruneStep, rule: PruneRule, baseline: f64) -> String {
    let error = |stderr: Option<f64>| stderr.map_or(String::new(), |e| format!(" ± {e:.4}"));
    let mut line = format!("{:<12}", step.removal.to_string());
    if let Some(score) = step.score {
        line += &format!("  {rule} {}{}", signed(score, 4), error(step.score_stderr));
    }
    if let Some(nll) = step.nll {
        let rise = signed(nll - baseline, 4);
        line += &format!("  loss then {nll:.4} ({rise}{})", error(step.rise_stderr));
    }
    line
}

/// Every index spelt out.
fn described(spec: &ModelSpec, removals: &[Removal]) -> String {
    let mut sorted = removals.to_vec();
    sorted.sort_by_key(|removal| (removal.layer, removal.branch.map(|site| site as u8)));
    let names: Vec<String> = sorted.iter().map(ToString::to_string).collect();
    format!(
        "Of layers {}, these go: {}.",
        block_in_words(0, spec.num_hidden_layers),
        names.join(", ")
    )
}

/// Layers, parameters and memory, before and after.
fn size(conversion: &Conversion<'_>) -> String {
    let (before, after) = (conversion.source().spec(), conversion.spec());
    let count = |spec: &ModelSpec| spec.parameter_count().total();
    let active = match before.is_mixture() {
        true => format!(
            "; for each token {} → {}",
            with_prefix(before.active_parameters() as f64, ""),
            with_prefix(after.active_parameters() as f64, "")
        ),
        false => String::new(),
    };
    format!(
        "layers       {} → {}\nparameters   {} → {} ({} %{active})\nmemory       {} → {} as \
         f32; {} stored\n",
        before.num_hidden_layers,
        after.num_hidden_layers,
        with_prefix(count(before) as f64, ""),
        with_prefix(count(after) as f64, ""),
        change(count(before) as f64, count(after) as f64),
        bytes(f32_bytes(before)),
        bytes(f32_bytes(after)),
        bytes(conversion.bytes()),
    )
}

/// Speed, loss and perplexity on the text that was read `from` a flag's files, before and after.
fn cost(effect: &Effect, from: &str) -> String {
    let ([before, after], [slow, fast]) = (effect.nll, effect.tokens_per_second);
    let error = effect.rise_stderr.map_or(String::new(), |stderr| format!(" ± {stderr:.4}"));
    format!(
        "speed        {slow:.0} → {fast:.0} tokens/s, losses of whole windows ({} %)\nmeasured on  \
         {from}\nnll          {before:.4} → {after:.4} nats per token ({}{error})\nperplexity   {:.3} → \
         {:.3} ({} %)\n",
        change(slow, fast),
        signed(after - before, 4),
        before.exp(),
        after.exp(),
        change(before.exp(), after.exp()),
    )
}

/// From one number to another, in percent of the first.
fn change(before: f64, after: f64) -> String {
    signed(100.0 * (after / before - 1.0), 1)
}
