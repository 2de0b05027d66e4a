//! `lns finetune`: a checkpoint's training continued.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Args;
use lns_checkpoint::Checkpoint;
use lns_model::LoraConfig;
use lns_record::{Claim, FolderKind};
use lns_tokenizer::begins_with_bos;
use lns_train::{
    RunConfig, Settings, TeacherConfig, check_checkpoint, check_memory, check_teacher,
    finetune_defaults,
    ranges::{SEED, THREADS, TOKENS},
};
use toml::{Table, Value};

use super::{Verb, output, train};
use crate::{
    arguments::{
        SettingArgs,
        numbers::{RANK, SHARE, positive, real, whole},
        settings,
    },
    corpus,
    failure::usage,
    model,
    printer::Printer,
    stop::Stop,
};

/// Continue a checkpoint's training: on text, or on instructions; in full, or by LoRA
#[derive(Debug, Args)]
#[command(
    after_long_help = "The folder of a run is that of `lns train`; snapshots of a LoRA run hold its \
adapters as PEFT reads them, and model/ has them merged.\n\nInstructions are a line each of a .jsonl \
(.gz, .zst) file: {\"prompt\": …, \"response\": …}, {\"instruction\": …, \"input\": …, \"output\": \
…}, or {\"messages\": [{\"role\": …, \"content\": …}, …]}, put into the model's own chat template; only \
responses are learned.\n\nDefaults: 100 steps of 8 \
sequences of 512 tokens, AdamW at a peak of 1e-4 after 10 steps.\n\nExamples:\n  lns \
finetune pruned --text books/ --out healed\n  lns finetune pruned --teacher MODEL --text books/ --out \
healed\n  lns finetune MODEL --instructions chats.jsonl --lora 16 --out tuned"
)]
pub(crate) struct FinetuneArgs {
    /// Folder, .gguf file, or .safetensors file; may be left out to continue the run in --out
    pub(crate) model: Option<PathBuf>,

    /// Folder of the run; a run that is there already is continued
    #[arg(long, value_name = "DIR", required_unless_present = "estimate")]
    pub(crate) out: Option<PathBuf>,

    /// Text to train on: .txt, .jsonl (one {"text": …} a line), either also as .gz or .zst, .parquet (a
    /// column `text`), or folders of them; - is standard input
    #[arg(
        long, value_name = "FILE", num_args = 1.., group = "learned",
        conflicts_with_all = ["corpus", "instructions"]
    )]
    pub(crate) text: Vec<PathBuf>,

    /// Instructions to train on; only the responses are learned
    #[arg(long, value_name = "FILE", num_args = 1.., group = "learned", conflicts_with = "corpus")]
    pub(crate) instructions: Vec<PathBuf>,

    /// Text or instructions to hold out; 5 % if not given
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "learned")]
    pub(crate) validation: Vec<PathBuf>,

    /// Text that `lns tokenize --tokenizer MODEL` prepared
    #[arg(long, value_name = "DIR")]
    pub(crate) corpus: Option<PathBuf>,

    /// Prepare at most this many tokens to train on (1–1000000000000000)
    #[arg(long, value_name = "N", requires = "learned", value_parser = whole::<u64>(TOKENS))]
    pub(crate) max_train_tokens: Option<u64>,

    /// Train low-rank adapters of this rank and leave the rest as it is (1–4096)
    #[arg(long, value_name = "RANK", value_parser = whole::<u64>(RANK))]
    pub(crate) lora: Option<u64>,

    /// The adapters' sum is multiplied by this over the rank; twice the rank if not given
    /// (above 0)
    #[arg(
        long, value_name = "ALPHA", requires = "lora", value_parser = positive(f64::MAX)
    )]
    pub(crate) lora_alpha: Option<f64>,

    #[arg(
        long, value_name = "NAMES", value_delimiter = ',', requires = "lora",
        help = format!(
            "Matrices with adapters, separated by commas: {}; all of them if not given",
            LoraConfig::default().targets.join(", ")
        )
    )]
    pub(crate) lora_targets: Vec<String>,

    /// Learn from the predictions of this model too, of the same vocabulary; a pruned model's own whole one
    /// heals it towards what it was
    #[arg(long, value_name = "MODEL")]
    pub(crate) teacher: Option<PathBuf>,

    #[arg(
        long, value_name = "W", requires = "teacher", value_parser = real(SHARE),
        help = format!(
            "Weight w of the teacher in the objective, (1 − w) · loss of the text + w · T² · KL(teacher ‖ \
             model); {} if not given (0–1)", TeacherConfig::WEIGHT
        )
    )]
    pub(crate) teacher_weight: Option<f64>,

    /// The temperature T that both models' logits are divided by before they are compared; 1 if not given
    /// (0.01–100)
    #[arg(
        long, value_name = "T", requires = "teacher",
        value_parser = real(TeacherConfig::TEMPERATURE)
    )]
    pub(crate) temperature: Option<f64>,

    /// Seed of the adapters and of the order of the text (0–9223372036854775807)
    #[arg(long, value_name = "N", value_parser = whole::<u64>(SEED))]
    pub(crate) seed: Option<u64>,

    /// Settings from a TOML file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) settings: SettingArgs,

    /// Worker threads; all cores if not given. A run repeats to the bit with the same number only (1–1024)
    #[arg(long, value_name = "N", value_parser = whole::<usize>(THREADS))]
    pub(crate) threads: Option<usize>,

    /// Print parameters, memory, work and expected time, and train nothing
    #[arg(long, visible_alias = "dry-run")]
    pub(crate) estimate: bool,

    /// Print how the run ended as JSON; with --estimate what it needs
    #[arg(long)]
    pub(crate) json: bool,
}

impl Verb for FinetuneArgs {
    fn texts(&mut self) -> Vec<&mut Vec<PathBuf>> {
        vec![&mut self.text, &mut self.instructions, &mut self.validation]
    }

    fn prints_json(&self) -> bool {
        self.json
    }

    fn run(&self, printer: &Printer) -> anyhow::Result<ExitCode> {
        run(self, printer)
    }
}

fn run(args: &FinetuneArgs, printer: &Printer) -> anyhow::Result<ExitCode> {
    let stop = Stop::listen(printer, Stop::AFTER_THIS_STEP)?;
    let claim = match &args.out {
        Some(out) if !args.estimate => {
            output::check_folder_name(out)?;
            Some(Claim::take(out, FolderKind::Run, None)?)
        }
        _ => None,
    };
    let there = args.out.as_deref().map(train::run_in).transpose()?.flatten();
    let config = resolve(args, there.as_ref())?;
    let Some(from) = &config.finetune else {
        return Err(usage("--out holds a run of `lns train`; continue it with that"));
    };
    let opened = Checkpoint::open(&from.base);
    let checkpoint = match (&args.out, &args.model) {
        (Some(out), None) => opened.with_context(|| {
            format!(
                "the checkpoint that the run in {0} was begun from cannot be opened; if it was moved, \
                 name it again: lns finetune MODEL --out {0}",
                out.display()
            )
        })?,
        _ => opened?,
    };
    let mut config = config.clone();
    let context = checkpoint.spec().max_position_embeddings;
    if there.is_none() && args.settings.length.is_none() && args.config.is_none() {
        config.data.length = config.data.length.min(context);
    }
    // What is wrong with the settings is said before any text is prepared.
    check_checkpoint(&config, from, checkpoint.spec())?;
    let teacher = teacher(args, &config, &checkpoint)?;
    let taught = teacher.as_ref().map(Checkpoint::spec);
    if args.estimate {
        let files = args.text.iter().chain(&args.instructions).chain(&args.validation);
        corpus::check_named(files, args.corpus.as_deref())?;
        train::estimate(&config, checkpoint.spec(), taught, printer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (Some(out), Some(mut claim)) = (&args.out, claim) else {
        return Err(usage("--out DIR: where the run goes"));
    };
    if there.is_none() {
        check_memory(&config, checkpoint.spec(), taught)?;
    }
    let models = [Some((&checkpoint, "checkpoint")), teacher.as_ref().map(|it| (it, "teacher"))];
    for (model, what) in models.into_iter().flatten() {
        if lns_convert::holds(out, model) {
            return Err(usage(format!(
                "--out {} holds the {what}, which is never changed in place; name another folder",
                out.display()
            )));
        }
    }
    let named = args.corpus.is_some() || !args.text.is_empty() || !args.instructions.is_empty();
    if named {
        let source = corpus::supply_finetune(&config, &checkpoint, args, out, printer, &stop)?;
        config.data.sources = vec![source];
    } else if config.data.sources.is_empty() {
        return Err(usage("give --text FILE, --instructions FILE or --corpus DIR to train on"));
    }
    if there.is_none() {
        printer.note(&format!("Going on from {}: {}.", from.base.display(), checkpoint.spec()));
        if args.instructions.is_empty() && begins_with_bos(&checkpoint)? {
            printer.note(
                "Sequences of a packed text begin anywhere, without the begin-of-text token that the \
                 model's own files ask for: measure what comes of it with --no-bos.",
            );
        }
        if let (Some(teacher), Some(spec)) = (&from.teacher, taught) {
            printer.note(&format!(
                "Learning from {}, {spec}: {} of the objective at temperature {}.",
                teacher.model.display(),
                teacher.weight,
                teacher.temperature
            ));
        }
    }
    // The weights are opened again by the run, which checks them against its settings.
    drop((checkpoint, teacher));
    train::train(&config, &mut claim, &stop, printer)
}

/// The teacher that the settings name, if they name one, fit for the model that is trained.
fn teacher(
    args: &FinetuneArgs,
    config: &RunConfig,
    checkpoint: &Checkpoint,
) -> anyhow::Result<Option<Checkpoint>> {
    let Some(settings) = config.finetune.as_ref().and_then(|from| from.teacher.as_ref()) else {
        return Ok(None);
    };
    let opened = Checkpoint::open(&settings.model);
    let teacher = match (&args.out, &args.teacher) {
        (Some(out), None) if !settings.fingerprint.is_empty() => opened.with_context(|| {
            format!(
                "the teacher that the run in {0} was begun with cannot be opened; if it was moved, name \
                 it again: lns finetune --out {0} --teacher MODEL",
                out.display()
            )
        })?,
        _ => opened.context("the teacher cannot be used")?,
    };
    check_teacher(settings, &teacher, &model::tokenizer(checkpoint)?, config.data.length)?;
    Ok(Some(teacher))
}

/// The settings that were asked for. Of a run that is there those that were not typed are its own.
fn resolve(args: &FinetuneArgs, there: Option<&RunConfig>) -> anyhow::Result<RunConfig> {
    if args.model.is_none() && there.is_none() {
        return Err(usage(match &args.out {
            Some(out) => format!("give MODEL: there is no run in {} to continue", out.display()),
            None => "give MODEL: the checkpoint to go on from".to_owned(),
        }));
    }
    let layout = (!args.instructions.is_empty()).then(|| Value::String("rows".to_owned()));
    let flags = [
        ("finetune", finetune(args, there)?.map(Value::Table)),
        ("seed", args.seed.map(settings::integer)),
        ("data.layout", layout),
    ];
    let flags = settings::given(&args.settings, None, &flags)?;
    let file = args.config.as_deref().map(Settings::from_file).transpose()?;
    let threads_set = file.iter().chain(&flags).any(|given| given.sets("threads"));
    let given: Vec<Settings> = file.into_iter().chain(flags).collect();
    let base = there.map_or_else(finetune_defaults, RunConfig::clone);
    let config = base.with(&given)?;
    let threads = if threads_set { Some(config.threads) } else { None };
    match there {
        Some(there) => train::going_on(config, there, args.threads),
        None => Ok(RunConfig { threads: train::thread_count(args.threads, threads), ..config }),
    }
}

/// What was typed of the model, its adapters and its teacher.
fn finetune(args: &FinetuneArgs, there: Option<&RunConfig>) -> anyhow::Result<Option<Table>> {
    let mut finetune = Table::new();
    if let Some(model) = &args.model {
        let base = corpus::path_in_settings(model::open(model)?.path())?;
        finetune.insert("base".to_owned(), Value::String(base.display().to_string()));
    }
    if let Some(rank) = args.lora {
        let mut lora = Table::new();
        lora.insert("rank".to_owned(), settings::integer(rank));
        let begun = there.and_then(|there| there.finetune.as_ref()?.lora.as_ref()).is_some();
        let alpha = args.lora_alpha.or_else(|| (!begun).then_some(2.0 * rank as f64));
        lora.extend(alpha.map(|alpha| ("alpha".to_owned(), Value::Float(alpha))));
        if !args.lora_targets.is_empty() {
            let names = args.lora_targets.iter().cloned().map(Value::String).collect();
            lora.insert("targets".to_owned(), Value::Array(names));
        }
        finetune.insert("lora".to_owned(), Value::Table(lora));
    }
    if let Some(model) = &args.teacher {
        let opened = model::open(model).context("the teacher cannot be used")?;
        let model = corpus::path_in_settings(opened.path())?;
        let mut teacher = Table::new();
        teacher.insert("model".to_owned(), Value::String(model.display().to_string()));
        let numbers = [("weight", args.teacher_weight), ("temperature", args.temperature)];
        for (key, number) in numbers {
            teacher.extend(number.map(|number| (key.to_owned(), Value::Float(number))));
        }
        finetune.insert("teacher".to_owned(), Value::Table(teacher));
    }
    Ok((!finetune.is_empty()).then_some(finetune))
}
