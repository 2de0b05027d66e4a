//! `lns study`: norm schemes over seeds, compared; and what fine-tuning leaves of the differences.

mod finetuning;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use lns_model::available_memory;
use lns_record::{Claim, FolderKind, StudyRecord};
use lns_show::{counted, with_prefix};
use lns_study::{
    FinetuningConfig, PRESET_NAMES, Planned, StudyConfig, StudyOutcome, StudyProgress, preset,
};
use lns_train::{
    ranges::{SEED, THREADS},
    run_preset,
};
use serde::Serialize;

use self::finetuning::FinetuningArgs;
pub(crate) use self::finetuning::show as show_finetuning;
use super::{
    Verb, output,
    train::{self, Needs},
};
use crate::{
    arguments::{CorpusArgs, SettingArgs, ShapeArgs, numbers::whole, settings},
    corpus,
    failure::usage,
    model,
    printer::Printer,
    progress::RunProgress,
    stop::Stop,
};

/// Train norm schemes over seeds on the same tokens and compare them
#[derive(Debug, Args)]
#[command(after_long_help = help())]
pub(crate) struct StudyArgs {
    /// A preset's name or a TOML file; see below
    #[arg(value_name = "STUDY")]
    pub(crate) study: String,

    /// Folder of the study; a study that is there already is continued
    #[arg(long, value_name = "DIR", required_unless_present = "estimate")]
    pub(crate) out: Option<PathBuf>,

    /// Seeds of every group, separated by commas, instead of the study's (0–9223372036854775807)
    #[arg(
        long, value_name = "SEEDS", value_delimiter = ',', value_parser = whole::<u64>(SEED)
    )]
    pub(crate) seeds: Vec<u64>,

    /// Only these groups, separated by commas, and the baseline
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) groups: Vec<String>,

    #[command(flatten)]
    pub(crate) shape: ShapeArgs,

    #[command(flatten)]
    pub(crate) settings: SettingArgs,

    #[command(flatten)]
    pub(crate) corpus: CorpusArgs,

    /// Worker threads; all cores if not given (1–1024)
    #[arg(long, value_name = "N", value_parser = whole::<usize>(THREADS))]
    pub(crate) threads: Option<usize>,

    /// Print the runs, memory, work and expected time, and train nothing
    #[arg(long)]
    pub(crate) estimate: bool,

    /// Print study.json; with --estimate what the study needs
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) finetuning: FinetuningArgs,
}

impl Verb for StudyArgs {
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

fn help() -> String {
    let paper: Vec<&str> =
        PRESET_NAMES.into_iter().filter(|name| name.starts_with("paper-")).collect();
    format!(
        "Presets: smoke (about two minutes on two cores), laptop (about an hour on two cores), {} (the \
         paper's sizes and hyper-parameters; these need far more than a laptop).\n\nA study's file is TOML: \
         name, baseline, seeds, a table [run] of settings as in a run's config.toml, and [[groups]], each \
         with a scheme, an initialisation, and if wanted a name, seeds of its own and any other settings; a \
         [[grid]] of groups, [tuning] of a setting and [[contrasts]] are in docs/training.md. \
         `study.toml` in a study's folder is an example.\n\n{} fine-tunes finished models on the same \
         instructions in the same order and asks them the same questions before and after: --models, \
         --data, and what else stands under that heading; its file is TOML too ([[models]], [data], \
         [finetune], [tasks]).\n\nThe folder of a study: study.toml, runs/, \
         study.json, report.html and charts/. An interrupted study goes on with the same command.\n\n\
         Examples:\n  lns study laptop --text books/ --out study\n  lns study commonsense --models study \
         --data DATA --out tuned",
        paper.join(", "),
        FinetuningConfig::PRESET,
    )
}

fn run(args: &StudyArgs, printer: &Printer) -> anyhow::Result<ExitCode> {
    if let Some(config) = finetuning::asked_for(args)? {
        return finetuning::run(args, config, printer);
    }
    args.finetuning.refuse()?;
    if args.estimate {
        estimate(&resolve(args, printer)?, &args.corpus, printer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(out) = &args.out else { return Err(usage("--out DIR: where the study goes")) };
    output::check_folder_name(out)?;
    let stop = Stop::listen(printer, Stop::AFTER_THIS_STEP)?;
    let mut claim = Claim::take(out, FolderKind::Study, None)?;
    let mut config = resolve(args, printer)?;
    // A study that goes on, or grows, has its text.
    let there = out.join(StudyConfig::FILE_NAME);
    if there.is_file() {
        let there = StudyConfig::read(&there)?;
        if there.name != config.name {
            return Err(usage(format!(
                "{} holds the study {}, not {}; name another folder",
                out.display(),
                there.name,
                config.name
            )));
        }
        if config.run.data.sources.is_empty() {
            config.run.data.sources = there.run.data.sources;
        }
    }
    let sequences = config.most_sequences()?;
    let text = corpus::supply(&config.run, sequences, &args.corpus, out, printer, &stop)?;
    config.ideal_loss = text.ideal_loss;
    config.run.data.sources = text.sources;
    let record = conduct(&config, &mut claim, &stop, printer)?;
    match record {
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

/// The study as it was asked for; its text is still to be prepared.
fn resolve(args: &StudyArgs, printer: &Printer) -> anyhow::Result<StudyConfig> {
    let mut config = match preset(&args.study) {
        Some(config) => config,
        None if Path::new(&args.study).is_file() => StudyConfig::read(Path::new(&args.study))?,
        None => {
            return Err(usage(format!(
                "{} is neither a preset ({}, {}) nor a file",
                args.study,
                PRESET_NAMES.join(", "),
                FinetuningConfig::PRESET,
            )));
        }
    };
    if !args.seeds.is_empty() {
        config.seeds.clone_from(&args.seeds);
        config.groups.iter_mut().for_each(|group| group.seeds = None);
    }
    if !args.groups.is_empty() {
        config.keep_groups(&args.groups).map_err(|(unknown, titles)| {
            usage(format!("--groups {unknown}: the study's groups are {}", titles.join(", ")))
        })?;
    }
    let flags = settings::given(&args.settings, Some(&args.shape), &[])?;
    config.run = config.run.with(&flags.into_iter().collect::<Vec<_>>())?;
    config.run.threads = model::thread_count(args.threads);
    for note in run_preset(&config.name).map_or_else(Vec::new, |preset| preset.notes) {
        printer.note(&format!("{}: {note}.", config.name));
    }
    Ok(config)
}

/// What one run of a study needs.
#[derive(Serialize)]
struct RunNeeds {
    group: String,
    seed: u64,
    #[serde(flatten)]
    needs: Needs,
}

/// `study --estimate --json`.
#[derive(Serialize)]
struct StudyNeeds {
    runs: Vec<RunNeeds>,
    memory_bytes: u64,
    memory_available_bytes: Option<u64>,
    flops: f64,
    hours: f64,
}

/// Says what the study needs; its runs follow each other.
fn estimate(config: &StudyConfig, text: &CorpusArgs, printer: &Printer) -> anyhow::Result<()> {
    let peak = train::peak(&config.run)?;
    let mut runs = Vec::new();
    for Planned { group, seed, config, .. } in config.plan()? {
        let spec = config.model.spec(corpus::vocabulary_of(&config, text)?, config.data.length)?;
        runs.push(RunNeeds { group, seed, needs: Needs::of(&config, &spec, None, peak) });
    }
    let of_largest = runs.iter().map(|run| run.needs.memory()).max().unwrap_or(0);
    let flops: f64 = runs.iter().map(|run| run.needs.flops()).sum();
    let hours: f64 = runs.iter().map(|run| run.needs.hours()).sum();
    let mut lines: String = config
        .groups
        .iter()
        .map(|group| {
            let title = group.title();
            let own = || runs.iter().filter(|run| run.group == title);
            let memory = own().map(|run| run.needs.memory()).max().unwrap_or(0);
            format!(
                "  {title:<24} {:>8} {:>12} {:>12}\n",
                counted(own().count(), "run"),
                with_prefix(memory as f64, "B"),
                with_prefix(own().map(|run| run.needs.flops()).sum(), "FLOP"),
            )
        })
        .collect();
    lines += &format!(
        "  runs         {}, one after another\n  memory       {} at most\n{}{}",
        runs.len(),
        with_prefix(of_largest as f64, "B"),
        train::free(of_largest),
        train::expected(flops, hours, peak, "without evaluations and diagnoses"),
    );
    printer.result(&lines)?;
    printer.json(&StudyNeeds {
        runs,
        memory_bytes: of_largest,
        memory_available_bytes: available_memory(),
        flops,
        hours,
    })
}

/// Runs it to its end in the claimed folder; what it found, or `None` when it was stopped.
pub(crate) fn conduct(
    config: &StudyConfig,
    claim: &mut Claim,
    stop: &Stop,
    printer: &Printer,
) -> anyhow::Result<Option<StudyRecord>> {
    let out = &claim.folder().to_owned();
    let mut run: Option<RunProgress<'_>> = None;
    let mut found = None;
    let mut failed = None;
    let compute = train::compute(&config.run)?;
    let outcome =
        lns_study::run(config, out, &compute, &stop.asked, &mut |progress| match progress {
            StudyProgress::Run { index, count, group, seed, folder, config } => {
                claim.keep();
                printer.note(&format!("Run {} of {count}: {group}, seed {seed}.", index + 1));
                run = Some(RunProgress::new(config, folder, printer));
            }
            StudyProgress::Event(event) => {
                if let Some(run) = &mut run {
                    run.show(event);
                }
            }
            StudyProgress::Diagnosing => printer.note("Diagnosing …"),
            StudyProgress::Theory => printer.note("Measuring the lemmas …"),
            StudyProgress::Found(record) => {
                if let Err(error) = lns_report::write_study(out, record) {
                    failed = Some(error);
                }
                found = Some(record.clone());
            }
            _ => {}
        })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    Ok(found.filter(|_| outcome == StudyOutcome::Finished))
}

/// The table, and where the page is.
pub(crate) fn show(out: &Path, record: &StudyRecord, printer: &Printer) -> anyhow::Result<()> {
    printer.table(&lns_report::study_table(record, printer.table_style()))?;
    printer.note(&format!("Report: {}", out.join("report.html").display()));
    Ok(())
}
