//! `lns train`: a model from scratch.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use lns_model::available_memory;
use lns_record::{Claim, FolderKind, Outcome};
use lns_show::{counted, grouped, with_prefix};
use lns_spec::{Initialisation, ModelSpec};
use lns_train::{
    Compute, Estimate, RUN_PRESETS, RunConfig, RunPreset, Settings,
    ranges::{SEED, THREADS},
    run_preset,
};
use serde::Serialize;
use toml::Value;

use super::{Verb, output};
use crate::{
    arguments::{
        CorpusArgs, SettingArgs, ShapeArgs,
        names::{SchemeName, any_of},
        numbers::whole,
        settings,
    },
    corpus,
    failure::usage,
    model,
    printer::Printer,
    progress::RunProgress,
    stop::Stop,
};

/// Train a model from scratch under any norm scheme
#[derive(Debug, Args)]
#[command(
    after_long_help = "The folder of a run: config.toml (all settings, resolved), events.jsonl \
(what happened), snapshots/ (to resume from; each is a checkpoint of its own), tensorboard/, and at the \
end model/, a Hugging Face folder.\n\nCtrl-C writes a snapshot and stops (while text is prepared it keeps nothing). The same command, or just \
`lns train --out DIR`, goes on to the same bits, even after a kill. With more --steps a run is taken on: \
the steps beyond its schedule are taken at the learning rate of its end.\n\nExit: 130 when Ctrl-C \
stopped it, 143 after SIGTERM."
)]
pub(crate) struct TrainArgs {
    /// Folder of the run; a run that is there already is continued
    #[arg(long, value_name = "DIR", required_unless_present = "estimate")]
    pub(crate) out: Option<PathBuf>,

    /// Norm scheme (docs/schemes.md)
    #[arg(long, value_name = "NAME", value_parser = SchemeName)]
    pub(crate) scheme: Option<String>,

    #[arg(
        long, value_name = "NAME",
        help = format!("How weights start: {}", any_of(Initialisation::ALL.map(Initialisation::name)))
    )]
    pub(crate) initialisation: Option<String>,

    /// Seed of the weights and of the order of the text (0–9223372036854775807)
    #[arg(long, value_name = "N", value_parser = whole::<u64>(SEED))]
    pub(crate) seed: Option<u64>,

    #[arg(long, value_name = "NAME", help = presets())]
    pub(crate) preset: Option<String>,

    /// Settings from a TOML file, over the preset's
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) shape: ShapeArgs,

    #[command(flatten)]
    pub(crate) settings: SettingArgs,

    #[command(flatten)]
    pub(crate) corpus: CorpusArgs,

    /// Worker threads; all cores if not given. A run repeats to the bit with the same number only (1–1024)
    #[arg(long, value_name = "N", value_parser = whole::<usize>(THREADS))]
    pub(crate) threads: Option<usize>,

    /// Print parameters, memory, work and expected time, and train nothing
    #[arg(long)]
    pub(crate) estimate: bool,

    /// Print how the run ended as JSON; with --estimate what it needs
    #[arg(long)]
    pub(crate) json: bool,
}

impl Verb for TrainArgs {
    fn texts(&mut self) -> Vec<&mut Vec<PathBuf>> {
        vec![&mut self.corpus.text, &mut self.corpus.validation]
    }

    fn prints_json(&self) -> bool {
        self.json
    }

    fn run(&self, printer: &Printer) -> anyhow::Result<ExitCode> {
        run(self, printer)
    }
}

/// Share of the measured peak that training reached on the machines it was measured on
/// (docs/performance.md).
const TYPICAL_SHARE_OF_PEAK: f64 = 0.75;

/// The preset where none is named.
const DEFAULT_PRESET: &str = "laptop";

/// What help says of the presets, the default first.
fn presets() -> String {
    let others = RUN_PRESETS.into_iter().filter(|name| *name != DEFAULT_PRESET);
    let names: Vec<&str> = others.collect();
    format!("Begin from these settings: {DEFAULT_PRESET} (if none is named), {}", names.join(", "))
}

/// `train --json`.
#[derive(Serialize)]
struct TrainRecord {
    folder: String,
    outcome: Outcome,
    steps: u64,
    tokens: u64,
    loss: Option<f64>,
    perplexity: Option<f64>,
}

fn run(args: &TrainArgs, printer: &Printer) -> anyhow::Result<ExitCode> {
    if args.estimate {
        let there = args.out.as_deref().map(run_in).transpose()?.flatten();
        let config = resolve(args, there.as_ref(), printer)?;
        let vocabulary = corpus::vocabulary_of(&config, &args.corpus)?;
        let spec = config.model.spec(vocabulary, config.data.length)?;
        estimate(&config, &spec, None, printer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(out) = &args.out else { return Err(usage("--out DIR: where the run goes")) };
    output::check_folder_name(out)?;
    let stop = Stop::listen(printer, Stop::AFTER_THIS_STEP)?;
    let mut claim = Claim::take(out, FolderKind::Run, None)?;
    let there = run_in(out)?;
    if there.is_none() && !claim.is_new() && names_nothing(args)? {
        return Err(usage(format!(
            "there is nothing to continue in {}: what began here ended before it had settings; repeat \
             its whole command, or begin with the default settings with --preset {DEFAULT_PRESET}",
            out.display()
        )));
    }
    let mut config = resolve(args, there.as_ref(), printer)?;
    let sequences = config.steps * config.batch.sequences as u64;
    let text = corpus::supply(&config, sequences, &args.corpus, out, printer, &stop)?;
    if let Some(ideal) = text.ideal_loss {
        printer
            .note(&format!("A reader who knows the language's grammar has a loss of {ideal:.4}."));
    }
    config.data.sources = text.sources;
    train(&config, &mut claim, &stop, printer)
}

/// Whether no setting and no text was typed.
fn names_nothing(args: &TrainArgs) -> anyhow::Result<bool> {
    let text = args.corpus.corpus.is_some() || !args.corpus.text.is_empty();
    let settings = args.preset.is_some() || args.config.is_some() || flags(args)?.is_some();
    Ok(!text && !settings)
}

/// The settings that were typed.
fn flags(args: &TrainArgs) -> anyhow::Result<Option<Settings>> {
    let name = |value: &Option<String>| value.clone().map(Value::String);
    let flags = [
        ("model.scheme", name(&args.scheme)),
        ("model.initialisation", name(&args.initialisation)),
        ("seed", args.seed.map(settings::integer)),
    ];
    settings::given(&args.settings, Some(&args.shape), &flags)
}

/// The settings of the run that a folder holds, if it holds one.
pub(crate) fn run_in(out: &Path) -> anyhow::Result<Option<RunConfig>> {
    let begun = out.join(RunConfig::FILE_NAME).exists();
    Ok(begun.then(|| RunConfig::read(out)).transpose()?)
}

/// The settings that were asked for. Of a run that is there those that were not typed are its own.
fn resolve(
    args: &TrainArgs,
    there: Option<&RunConfig>,
    printer: &Printer,
) -> anyhow::Result<RunConfig> {
    let flags = flags(args)?;
    let file = args.config.as_deref().map(Settings::from_file).transpose()?;
    let threads_set = file.iter().chain(&flags).any(|given| given.sets("threads"));
    let given: Vec<Settings> = file.into_iter().chain(flags).collect();
    let base = match (there, &args.preset) {
        (Some(there), None) => there.clone(),
        (_, name) => {
            let name = name.as_deref().unwrap_or(DEFAULT_PRESET);
            let RunPreset { config, notes } = preset(name)?;
            for note in notes {
                printer.note(&format!("{name}: {note}."));
            }
            config
        }
    };
    let config = base.with(&given)?;
    let threads = if threads_set { Some(config.threads) } else { None };
    match there {
        Some(there) => going_on(config, there, args.threads),
        None => Ok(RunConfig { threads: thread_count(args.threads, threads), ..config }),
    }
}

/// As many as asked for; else those of the settings; else one per core.
pub(crate) fn thread_count(asked: Option<usize>, set: Option<usize>) -> usize {
    match (asked, set) {
        (None, Some(set)) => set,
        (asked, _) => model::thread_count(asked),
    }
}

/// The settings of a run that goes on: with its own text, the threads it began with (with others its
/// last bits would differ), and the schedule it began with where more steps are asked for.
pub(crate) fn going_on(
    mut config: RunConfig,
    there: &RunConfig,
    threads: Option<usize>,
) -> anyhow::Result<RunConfig> {
    config.threads = thread_count(threads, Some(there.threads));
    if config.data.sources.is_empty() {
        config.data.sources.clone_from(&there.data.sources);
    }
    if config.steps > there.steps && config.schedule.steps == there.schedule.steps {
        config.schedule.steps = there.extended(config.steps)?.schedule.steps;
    }
    Ok(config)
}

fn preset(name: &str) -> anyhow::Result<RunPreset> {
    run_preset(name)
        .ok_or_else(|| usage(format!("--preset {name}: there are {}", RUN_PRESETS.join(", "))))
}

/// Trains in the claimed folder, and says how it ended.
pub(crate) fn train(
    config: &RunConfig,
    claim: &mut Claim,
    stop: &Stop,
    printer: &Printer,
) -> anyhow::Result<ExitCode> {
    let out = &claim.folder().to_owned();
    let mut at_work = false;
    let mut progress = RunProgress::new(config, out, printer);
    let compute = compute(config)?;
    let summary = lns_train::train(config, out, &compute, &stop.asked, &mut |event| {
        // Everything was accepted.
        claim.keep();
        at_work = true;
        progress.show(event);
    })?;
    if !at_work {
        printer.note(&format!(
            "{} is already finished after {} steps; --steps with more, as in --steps {}, takes it on.",
            out.display(),
            summary.step,
            summary.step.saturating_mul(2)
        ));
    }
    let perplexity = summary.loss.map(f64::exp);
    printer.json(&TrainRecord {
        folder: out.display().to_string(),
        outcome: summary.outcome,
        steps: summary.step,
        tokens: summary.tokens,
        loss: summary.loss,
        perplexity,
    })?;
    match summary.outcome {
        Outcome::Finished => printer.result(&format!(
            "loss        {:.4} nats per token, held out\nperplexity  {:.3}\ntrained on  {} in {}\n\
             model       {}\n",
            summary.loss.unwrap_or(f64::NAN),
            perplexity.unwrap_or(f64::NAN),
            counted(summary.tokens, "token"),
            counted(summary.step, "step"),
            out.join(RunConfig::MODEL).display()
        ))?,
        Outcome::Interrupted => return Ok(stop.exit_code()),
        Outcome::Diverged => anyhow::bail!(
            "the run diverged after step {}; the last note in {} says how",
            summary.step,
            out.join(lns_record::Event::FILE_NAME).display()
        ),
    }
    Ok(ExitCode::SUCCESS)
}

/// What a run needs, in memory and time.
#[derive(Serialize)]
pub(crate) struct Needs {
    #[serde(flatten)]
    estimate: Estimate,
    memory_bytes: u64,
    memory_available_bytes: Option<u64>,
    steps: u64,
    tokens: u64,
    flops: f64,
    peak_gflops: f64,
    hours: f64,
}

impl Needs {
    /// Of a run on a model, on a machine of so many GFLOP/s at most.
    pub(crate) fn of(
        config: &RunConfig,
        spec: &ModelSpec,
        teacher: Option<&ModelSpec>,
        peak_gflops: f64,
    ) -> Self {
        let estimate = Estimate::of(config, spec, teacher);
        let flops = estimate.flops * config.steps as f64;
        Self {
            memory_bytes: estimate.total(),
            memory_available_bytes: available_memory(),
            steps: config.steps,
            tokens: config.steps * config.tokens_per_step(),
            flops,
            peak_gflops,
            hours: flops / (peak_gflops * 1e9 * TYPICAL_SHARE_OF_PEAK) / 3600.0,
            estimate,
        }
    }

    pub(crate) fn memory(&self) -> u64 {
        self.memory_bytes
    }

    pub(crate) fn flops(&self) -> f64 {
        self.flops
    }

    pub(crate) fn hours(&self) -> f64 {
        self.hours
    }
}

/// GFLOP/s that this machine reaches at most, as a run would use it.
pub(crate) fn peak(config: &RunConfig) -> anyhow::Result<f64> {
    Ok(lns_bench::peak_gflops(&compute(config)?))
}

/// Where and how a run computes.
pub(crate) fn compute(config: &RunConfig) -> anyhow::Result<Compute> {
    Ok(Compute::on_cpu(config.threads)?.with_precision(config.precision))
}

/// Says what a run needs.
pub(crate) fn estimate(
    config: &RunConfig,
    spec: &ModelSpec,
    teacher: Option<&ModelSpec>,
    printer: &Printer,
) -> anyhow::Result<()> {
    let needs = Needs::of(config, spec, teacher, peak(config)?);
    printer.json(&needs)?;
    printer.result(&format!(
        "{spec}\n{}\n{}  steps        {}, {}\n{}",
        needs.estimate,
        free(needs.memory_bytes),
        grouped(needs.steps),
        counted(needs.tokens, "token"),
        expected(needs.flops, needs.hours, needs.peak_gflops, "without evaluations"),
    ))
}

/// How much memory is free, and whether that is enough.
pub(crate) fn free(needed: u64) -> String {
    let Some(available) = available_memory() else { return String::new() };
    let enough = if needed > available { ", which is not enough: it would be refused" } else { "" };
    format!("  free now     {}{enough}\n", with_prefix(available as f64, "B"))
}

/// How much work it is, and how long it takes.
pub(crate) fn expected(flops: f64, hours: f64, peak: f64, without: &str) -> String {
    format!(
        "  in all       {}\n  expected     {} at {:.0} % of this machine's measured {peak:.0} \
         GFLOP/s, {without}\n",
        with_prefix(flops, "FLOP"),
        duration(hours),
        100.0 * TYPICAL_SHARE_OF_PEAK,
    )
}

fn duration(hours: f64) -> String {
    const YEAR: f64 = 24.0 * 365.25;
    match hours {
        h if h >= 2.0 * YEAR => format!("{:.0} years", h / YEAR),
        h if h >= 48.0 => format!("{:.0} days", h / 24.0),
        h if h >= 1.0 => format!("{h:.1} hours"),
        h => counted((60.0 * h).ceil().max(1.0) as u64, "minute"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_and_time_are_told_in_units_that_fit() {
        let told = expected(3.2e9, 0.0, 50.0, "without evaluations");
        assert!(
            told.contains("3.20 GFLOP\n") && told.contains("expected     1 minute at"),
            "{told}"
        );
        assert!(expected(7e17, 4.0, 50.0, "").contains("700 PFLOP\n"));
        assert_eq!(duration(0.4), "24 minutes");
    }
}
