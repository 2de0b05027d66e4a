//! `lns study commonsense`: finished models fine-tuned on the same instructions, asked before and after.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use lns_kernels::Compute;
use lns_model::LoraConfig;
use lns_record::{Claim, FinetuningRecord, FolderKind};
use lns_show::{counted, grouped};
use lns_study::{
    FinetuningConfig, FinetuningProgress, ModelEntry, StudyConfig, StudyOutcome, finetune,
};
use lns_tasks::{Split, TaskFormat};
use toml::{Table, Value};

use super::StudyArgs;
use crate::{
    arguments::{
        TokenizerArgs,
        numbers::{RANK, positive, whole},
        settings, split_named,
    },
    commands::output,
    failure::usage,
    model,
    printer::Printer,
    progress::RunProgress,
    stop::Stop,
};

/// What a study that fine-tunes is told.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Of studies that fine-tune (commonsense)")]
pub(crate) struct FinetuningArgs {
    /// Finished models: folders of studies, of which every finished run counts; or GROUP=PATH or
    /// GROUP:SEED=PATH, a model by itself
    #[arg(long, value_name = "[GROUP[:SEED]=]PATH", num_args = 1..)]
    pub(crate) models: Vec<String>,

    /// Where training sets and tasks lie: folders with data sets as the Hugging Face hub has them, or
    /// OLMo's ready requests, or TASK=PATH for the folder or file of one task
    #[arg(long, value_name = "[TASK=]PATH", num_args = 1..)]
    pub(crate) data: Vec<String>,

    #[arg(
        long, value_name = "FORMAT", value_parser = format_named(),
        help = "How examples are put: as lm-evaluation-harness asks (context, then the right choice), or \
                as LLM-Adapters does (an instruction with the choices listed, then a sentence that names \
                the right one)"
    )]
    pub(crate) format: Option<TaskFormat>,

    /// Training sets, separated by commas; those of Commonsense170K if not given: boolq, piqa, siqa,
    /// hellaswag, winogrande, arc_easy, arc_challenge, openbookqa
    #[arg(long, value_name = "TASKS", value_delimiter = ',')]
    pub(crate) sets: Vec<String>,

    /// Examples of each set at most, drawn by the seed of the order (1–1000000000)
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..=1_000_000_000))]
    pub(crate) examples: Option<usize>,

    /// How often every example is seen, instead of --steps; 3 if neither is given (above 0, at most 1000000)
    #[arg(long, value_name = "N", conflicts_with_all = ["steps", "tokens"], value_parser = positive(1e6))]
    pub(crate) epochs: Option<f64>,

    /// Train low-rank adapters of this rank and leave the rest as it is (1–4096)
    #[arg(long, value_name = "RANK", value_parser = whole::<u64>(RANK))]
    pub(crate) lora: Option<u64>,

    /// Tasks to ask, separated by commas, or files of questions; those of the paper's Table 2 if not
    /// given: mmlu, boolq, arc_easy, piqa, hellaswag, openbookqa, winogrande
    #[arg(long, value_name = "TASKS", value_delimiter = ',')]
    pub(crate) tasks: Vec<String>,

    /// Ask another split than the tasks' own, of tasks that have splits
    #[arg(long, value_name = "SPLIT", value_parser = split_named())]
    pub(crate) split: Option<Split>,

    /// Ask at most this many documents of each task (1–1000000000)
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..=1_000_000_000))]
    pub(crate) limit: Option<usize>,
}

/// A parser of the formats' names.
fn format_named() -> impl TypedValueParser<Value = TaskFormat> {
    PossibleValuesParser::new(TaskFormat::ALL.map(TaskFormat::name)).try_map(|given| {
        let known = TaskFormat::ALL.into_iter().find(|format| format.name() == given);
        known.ok_or("this is no format")
    })
}

impl FinetuningArgs {
    /// Flags that were typed, by name.
    fn typed(&self) -> impl Iterator<Item = &'static str> {
        [
            ("--models", !self.models.is_empty()),
            ("--data", !self.data.is_empty()),
            ("--format", self.format.is_some()),
            ("--sets", !self.sets.is_empty()),
            ("--examples", self.examples.is_some()),
            ("--epochs", self.epochs.is_some()),
            ("--lora", self.lora.is_some()),
            ("--tasks", !self.tasks.is_empty()),
            ("--split", self.split.is_some()),
            ("--limit", self.limit.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, typed)| typed.then_some(name))
    }

    /// A study that trains from scratch has none of these.
    pub(super) fn refuse(&self) -> anyhow::Result<()> {
        match self.typed().next() {
            None => Ok(()),
            Some(flag) => Err(usage(format!(
                "{flag} is for studies that fine-tune finished models: lns study {}",
                FinetuningConfig::PRESET
            ))),
        }
    }
}

/// The study that was asked for, if it is one that fine-tunes; of one that is there what is not typed stays.
pub(super) fn asked_for(args: &StudyArgs) -> anyhow::Result<Option<FinetuningConfig>> {
    let path = Path::new(&args.study);
    let asked = match &*args.study {
        FinetuningConfig::PRESET => Some(FinetuningConfig::preset()),
        _ if path.is_file() => FinetuningConfig::read(path)?,
        _ => None,
    };
    let Some(asked) = asked else { return Ok(None) };
    let there = match &args.out {
        Some(out) => FinetuningConfig::read_in(out)?,
        None => None,
    };
    let from_file = args.study != FinetuningConfig::PRESET;
    Ok(Some(match there {
        Some(there) if there.name != asked.name => {
            let out = args.out.as_deref().unwrap_or(path);
            return Err(usage(format!(
                "{} holds the study {}, not {}; name another folder",
                out.display(),
                there.name,
                asked.name
            )));
        }
        Some(there) if !from_file => there,
        _ => asked,
    }))
}

/// Runs it.
pub(super) fn run(
    args: &StudyArgs,
    config: FinetuningConfig,
    printer: &Printer,
) -> anyhow::Result<ExitCode> {
    refuse_others(args)?;
    let Some(out) = &args.out else { return Err(usage("--out DIR: where the study goes")) };
    output::check_folder_name(out)?;
    let stop = Stop::listen(printer, Stop::AFTER_THIS_STEP)?;
    let mut claim = Claim::take(out, FolderKind::Study, None)?;
    let config = resolve(args, config)?;
    let threads = model::thread_count(args.threads);
    let compute = Compute::on_cpu(threads)?;
    match conduct(&config, threads, &compute, &mut claim, &stop, printer)? {
        Some(record) => {
            printer.json(&record)?;
            show(out, &record, printer)?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            printer.note("Stopped; the same command goes on.");
            Ok(stop.exit_code())
        }
    }
}

/// Flags of studies that train from scratch.
fn refuse_others(args: &StudyArgs) -> anyhow::Result<()> {
    let (corpus, shape) = (&args.corpus, &args.shape);
    let tokenizer = &corpus.tokenizer;
    let others = [
        ("--text", !corpus.text.is_empty()),
        ("--validation", !corpus.validation.is_empty()),
        ("--corpus", corpus.corpus.is_some()),
        ("--tokenizer", tokenizer.tokenizer.is_some()),
        ("--vocab", tokenizer.vocab != TokenizerArgs::VOCAB),
        ("--max-train-tokens", tokenizer.max_train_tokens.is_some()),
        ("--layers", shape.layers.is_some()),
        ("--hidden", shape.hidden.is_some()),
        ("--estimate", args.estimate),
    ];
    match others.into_iter().find(|(_, typed)| *typed) {
        None => Ok(()),
        Some(("--estimate", _)) => Err(usage(
            "--estimate is for studies that train from scratch; `lns finetune MODEL --estimate` says what \
             one run needs",
        )),
        Some((flag, _)) => Err(usage(format!(
            "{flag} is for studies that train from scratch; {} takes finished models (--models) and the \
             tasks' own data (--data)",
            args.study
        ))),
    }
}

/// What was typed over what the file, the folder or the preset says.
fn resolve(args: &StudyArgs, mut config: FinetuningConfig) -> anyhow::Result<FinetuningConfig> {
    let own = &args.finetuning;
    if !own.models.is_empty() {
        config.models = own.models.iter().map(|given| entry(given)).collect::<Result<_, _>>()?;
    }
    if config.models.is_empty() {
        return Err(usage(
            "--models: the folder of a study with finished runs, or GROUP:SEED=PATH for each model",
        ));
    }
    if !args.groups.is_empty() || !args.seeds.is_empty() {
        for entry in config.models.iter_mut().filter(|entry| entry.study.is_some()) {
            if !args.groups.is_empty() {
                entry.groups = Some(args.groups.clone());
            }
            if !args.seeds.is_empty() {
                entry.seeds = Some(args.seeds.clone());
            }
        }
        if config.models.iter().all(|entry| entry.study.is_none()) {
            return Err(usage(
                "--groups and --seeds choose among the runs of a study, and --models names none",
            ));
        }
    }
    if config.baseline.is_none() {
        config.baseline = baseline(&config)?;
    }
    if !own.data.is_empty() {
        config.data.folders = own.data.clone();
    }
    config.data.folders =
        config.data.folders.iter().map(|given| whole_path(given)).collect::<Result<_, _>>()?;
    config.data.format = own.format.unwrap_or(config.data.format);
    if !own.sets.is_empty() {
        config.data.sets.clone_from(&own.sets);
    }
    config.data.examples = own.examples.unwrap_or(config.data.examples);
    if !own.tasks.is_empty() {
        config.tasks.names.clone_from(&own.tasks);
    }
    config.tasks.split = own.split.or(config.tasks.split);
    config.tasks.limit = own.limit.unwrap_or(config.tasks.limit);
    if let Some(rank) = own.lora {
        let rank = rank as usize;
        config.finetune.lora =
            Some(LoraConfig { rank, alpha: 2.0 * rank as f64, ..LoraConfig::default() });
    }
    if let Some(epochs) = own.epochs {
        config.finetune.epochs = Some(epochs);
        config.finetune.settings.remove("steps");
        config.finetune.settings.remove("tokens");
    }
    if let Some(given) = settings::given(&args.settings, None, &[])? {
        for (key, other) in [("steps", "tokens"), ("tokens", "steps")] {
            if given.sets(key) {
                config.finetune.epochs = None;
                config.finetune.settings.remove(other);
            }
        }
        lay_over(&mut config.finetune.settings, given.table());
    }
    Ok(config)
}

/// The baseline of the first study that models are from, if it is among those that were asked for.
fn baseline(config: &FinetuningConfig) -> anyhow::Result<Option<String>> {
    let Some(entry) = config.models.iter().find(|entry| entry.study.is_some()) else {
        return Ok(None);
    };
    let Some(folder) = &entry.study else { return Ok(None) };
    let study = StudyConfig::read(&folder.join(StudyConfig::FILE_NAME))?;
    let wanted = |name: &String| entry.groups.as_ref().is_none_or(|groups| groups.contains(name));
    Ok(Some(study.baseline).filter(wanted))
}

/// Values of a table over those of another, key by key.
fn lay_over(under: &mut Table, over: &Table) {
    for (key, value) in over {
        match (under.get_mut(key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => lay_over(under, over),
            _ => drop(under.insert(key.clone(), value.clone())),
        }
    }
}

/// A study's folder, or `GROUP[:SEED]=PATH`.
fn entry(given: &str) -> anyhow::Result<ModelEntry> {
    let path = PathBuf::from(given);
    if path.join(StudyConfig::FILE_NAME).is_file() {
        return Ok(ModelEntry::of_study(std::path::absolute(path)?));
    }
    let Some((name, place)) = given.split_once('=') else {
        return Err(usage(format!(
            "--models {given}: no study is there; name a model with its group: pre={given}, or \
             pre:2={given} for seed 2"
        )));
    };
    let (group, seed) = match name.rsplit_once(':').map(|(group, seed)| (group, seed.parse())) {
        Some((group, Ok(seed))) => (group, seed),
        _ => (name, 1),
    };
    if group.trim().is_empty() {
        return Err(usage(format!("--models {given}: the group has no name")));
    }
    let place = model::open(Path::new(place))?.path().to_owned();
    Ok(ModelEntry::named(group.to_owned(), seed, std::path::absolute(place)?))
}

/// A folder or `TASK=PATH` with a path that is right from everywhere.
fn whole_path(given: &str) -> anyhow::Result<String> {
    let lns_tasks::Data { task, path } = lns_tasks::Data::named(given);
    let path = std::path::absolute(path)?.display().to_string();
    Ok(task.map_or(path.clone(), |task| format!("{task}={path}")))
}

/// Runs it to its end in the claimed folder; what it found, or `None` when it was stopped.
fn conduct(
    config: &FinetuningConfig,
    threads: usize,
    compute: &Compute,
    claim: &mut Claim,
    stop: &Stop,
    printer: &Printer,
) -> anyhow::Result<Option<FinetuningRecord>> {
    let out = &claim.folder().to_owned();
    let mut run: Option<RunProgress<'_>> = None;
    let mut found = None;
    let mut failed = None;
    let mut tell = |progress: FinetuningProgress<'_>| match progress {
        FinetuningProgress::Data(data) => {
            claim.keep();
            printer.note(&format!(
                "Instruction data: {} of {} to learn from, {} held out, {} left out.",
                counted(data.train, "example"),
                counted(data.sets.len(), "set"),
                grouped(data.held_out),
                counted(data.sets.iter().map(|set| set.duplicates).sum::<u64>(), "duplicate"),
            ));
        }
        FinetuningProgress::Tokenizing => printer.note("Tokenizing …"),
        FinetuningProgress::Model { index, count, model } => printer.note(&format!(
            "Model {} of {count}: {}, seed {}.",
            index + 1,
            model.group,
            model.seed
        )),
        FinetuningProgress::Asking { moment, asked } => printer.note(&format!(
            "Asking {} {moment} tuning: {}.",
            asked.task,
            counted(asked.documents.len(), "document")
        )),
        FinetuningProgress::Run { folder, config } => {
            run = Some(RunProgress::new(config, folder, printer));
        }
        FinetuningProgress::Event(event) => {
            if let Some(run) = &mut run {
                run.show(event);
            }
        }
        FinetuningProgress::Found(record) => {
            if let Err(error) = lns_report::write_finetuning(out, record) {
                failed = Some(error);
            }
            found = Some(record.clone());
        }
        _ => {}
    };
    let outcome = finetune(config, out, threads, compute, &stop.asked, &mut tell)?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    Ok(found.filter(|_| outcome == StudyOutcome::Finished))
}

/// The table, and where the page is.
pub(crate) fn show(out: &Path, record: &FinetuningRecord, printer: &Printer) -> anyhow::Result<()> {
    printer.table(&lns_report::finetuning_table(record, printer.table_style()))?;
    printer.note(&format!("Report: {}", out.join("report.html").display()));
    Ok(())
}
