//! What was typed.

use std::{ffi::OsStr, path::PathBuf};

use clap::{
    Arg, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand,
    builder::{PossibleValue, TypedValueParser},
};
use clap_complete::Shell;
use lns_diagnose::Probes;
use lns_kernels::{Device, Precision};
use lns_spec::{Family, NormScheme};
use lns_train::ranges::{HIDDEN, LAYERS, LENGTH, SEED, SEQUENCES, STEPS, THREADS, TOKENS};

use crate::numbers::{
    self, EXPONENT, NEW_TOKENS, NOT_NEGATIVE, RANK, VOCABULARY, WINDOW, positive, real, whole,
};

/// What is the depth of your language model worth?
///
/// In Pre-LN transformers the residual stream's variance grows with depth until deep layers barely
/// change it: "the curse of depth" (arXiv 2502.05795). `lns` shows which layers of a checkpoint work
/// and which idle, on a CPU, without Python.
///
/// MODEL is a Hugging Face folder, a .gguf file, or a .safetensors file with its config.json beside
/// it, of one of the families (`model_type`) that are listed below.
#[derive(Debug, Parser)]
#[command(after_long_help = families())]
#[command(name = "lns", version, max_term_width = 100, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,

    /// Only results and errors: no notes, no progress bar
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Fetch a small real model and a text, diagnose it, train a small Pre-LN / LNS pair, write a report
    Quickstart(QuickstartArgs),
    /// Say what a model is: sizes, norm scheme, tensors, memory needed
    Inspect(InspectArgs),
    /// Show which layers of a model work and which idle
    Diagnose(DiagnoseArgs),
    /// Measure a model's loss, perplexity and bits per byte on text
    Eval(EvalArgs),
    /// Continue a text, or talk with a model for chat
    Generate(GenerateArgs),
    /// Train a model from scratch under any norm scheme
    Train(Box<TrainArgs>),
    /// Train norm schemes over seeds on the same tokens and compare them
    Study(Box<StudyArgs>),
    /// Follow a training run in the terminal
    Watch(WatchArgs),
    /// Continue a checkpoint's training: on text, or on instructions; in full, or by LoRA
    Finetune(Box<FinetuneArgs>),
    /// Give a trained Pre-LN model LayerNorm Scaling
    Retrofit(RetrofitArgs),
    /// Fold LayerNorm Scaling into the gains: a plain model that every runtime loads, the same function
    Fold(FoldArgs),
    /// Take LayerNorm Scaling out of the gains again: the opposite of fold
    Unfold(UnfoldArgs),
    /// Remove layers, or single attentions and MLPs, that were named or that are chosen by evidence
    Prune(Box<PruneArgs>),
    /// Write a model as safetensors or GGUF, for other programs
    Export(ExportArgs),
    /// Prepare text for training once, to be used by many runs
    Tokenize(TokenizeArgs),
    /// Make the page of a study, or of finished diagnoses side by side
    Report(ReportArgs),
    /// Measure how fast this machine trains and runs models, and what share of its peak that is
    Bench(BenchArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell to write for
        shell: Shell,
    },
}

/// What can be typed. What follows a flag for numbers is its value, however wrong: −1e−3 is no flag.
pub(crate) fn command() -> Command {
    Cli::command().mut_subcommands(|verb| {
        verb.mut_args(|argument| match numbers::are_of(&argument) {
            true => argument.allow_hyphen_values(true),
            false => argument,
        })
    })
}

/// What was typed.
///
/// # Errors
/// What is wrong with it; or the help or version that was asked for.
pub(crate) fn parse() -> Result<Cli, clap::Error> {
    let matches = command().try_get_matches()?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command()))
}

impl Verb {
    /// Whether standard output is for a program.
    pub(crate) fn prints_json(&self) -> bool {
        match self {
            Self::Inspect(args) => args.json,
            Self::Diagnose(args) => args.json,
            Self::Eval(args) => args.json,
            Self::Bench(args) => args.json,
            Self::Train(args) => args.json,
            Self::Study(args) => args.json,
            Self::Finetune(args) => args.json,
            Self::Retrofit(args) => args.conversion.output.json,
            Self::Fold(args) => args.conversion.output.json,
            Self::Unfold(args) => args.conversion.output.json,
            Self::Prune(args) => args.output.json,
            Self::Export(args) => args.output.json,
            Self::Generate(args) => args.json,
            Self::Quickstart(_)
            | Self::Watch(_)
            | Self::Tokenize(_)
            | Self::Report(_)
            | Self::Completions { .. } => false,
        }
    }
}

impl Verb {
    /// The files of text that were given.
    pub(crate) fn texts(&mut self) -> Vec<&mut PathBuf> {
        fn of_corpus(args: &mut CorpusArgs) -> Vec<&mut Vec<PathBuf>> {
            vec![&mut args.text, &mut args.validation]
        }
        let lists = match self {
            Self::Quickstart(args) => vec![&mut args.text],
            Self::Diagnose(args) => vec![&mut args.text.files],
            Self::Eval(args) => vec![&mut args.text.files],
            Self::Train(args) => of_corpus(&mut args.corpus),
            Self::Study(args) => of_corpus(&mut args.corpus),
            Self::Finetune(args) => {
                vec![&mut args.text, &mut args.instructions, &mut args.validation]
            }
            Self::Retrofit(args) => vec![&mut args.conversion.files],
            Self::Fold(args) => vec![&mut args.conversion.files],
            Self::Unfold(args) => vec![&mut args.conversion.files],
            Self::Prune(args) => vec![&mut args.files, &mut args.held_out],
            Self::Tokenize(args) => vec![&mut args.text, &mut args.validation],
            Self::Inspect(_)
            | Self::Generate(_)
            | Self::Watch(_)
            | Self::Export(_)
            | Self::Report(_)
            | Self::Bench(_)
            | Self::Completions { .. } => Vec::new(),
        };
        lists.into_iter().flatten().collect()
    }
}

/// Text to read: the same for every verb that reads text.
#[derive(Debug, Clone, Args)]
pub(crate) struct TextArgs {
    /// Text: .txt, .jsonl (one {"text": …} a line), either also as .gz or .zst, .parquet (a column `text`),
    /// or folders of them; - is standard input
    #[arg(long = "text", value_name = "FILE", num_args = 1.., required = true)]
    pub(crate) files: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) cut: CutArgs,
}

/// How text is cut.
#[derive(Debug, Clone, Args)]
pub(crate) struct CutArgs {
    /// Tokens per window; 512, or the model's context where that is shorter (2–1048576)
    #[arg(long, value_name = "N", value_parser = whole::<usize>(WINDOW))]
    pub(crate) window: Option<usize>,

    /// Read at most this many tokens, in whole windows. `diagnose` reads 2048 if not given (four
    /// windows, where those are longer), other verbs all (1–1000000000000000)
    #[arg(long, value_name = "N", value_parser = whole::<u64>(TOKENS))]
    pub(crate) max_tokens: Option<u64>,

    /// Begin every window with the model's begin-of-text token
    #[arg(long)]
    pub(crate) bos: bool,
}

/// Where and how to compute.
#[derive(Debug, Clone, Args)]
pub(crate) struct ComputeArgs {
    /// Worker threads; all cores if not given (1–1024)
    #[arg(long, value_name = "N", value_parser = whole::<usize>(THREADS))]
    pub(crate) threads: Option<usize>,

    #[command(flatten)]
    pub(crate) place: PlaceArgs,

    /// Read layers from disk one at a time, in memory for one layer. Chosen by itself when the model
    /// would fill more than half of the free memory
    #[arg(long)]
    pub(crate) stream: bool,
}

/// On what, and how exactly.
#[derive(Debug, Clone, Args)]
pub(crate) struct PlaceArgs {
    /// Where to compute: cpu, and cuda[:i] or wgpu[:i] in builds with that feature
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device)]
    pub(crate) device: Device,

    /// What matrix products compute in; bf16 is for GPUs, parameters stay f32
    #[arg(long, value_name = "PRECISION", default_value = "f32", value_parser = precision)]
    pub(crate) precision: Precision,
}

/// `cpu`, `cuda`, `cuda:1`, …
fn device(name: &str) -> Result<Device, String> {
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => {
            (kind, index.parse().map_err(|_| format!("{index:?} is not a device's number"))?)
        }
        None => (name, 0usize),
    };
    match kind {
        "cpu" if index == 0 => Ok(Device::flex()),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(index)),
        #[cfg(feature = "wgpu")]
        "wgpu" if !name.contains(':') => Ok(Device::wgpu(lns_kernels::DeviceKind::DefaultDevice)),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(Device::wgpu(lns_kernels::DeviceKind::DiscreteGpu(index))),
        "cuda" | "wgpu" => {
            Err(format!("this build lacks {kind}; build lns with `--features {kind}`"))
        }
        _ => Err("expected cpu, cuda[:i] or wgpu[:i]".to_owned()),
    }
}

/// The families that are read.
fn families() -> String {
    let names: Vec<&str> = Family::all().map(Family::model_type).collect();
    format!("Families: {}; DeepSeek's dense models are llama.", names.join(", "))
}

/// The name of a norm scheme. Help and completions list all of them.
#[derive(Debug, Clone)]
struct SchemeName;

impl TypedValueParser for SchemeName {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        let known = |name: &str| name.parse::<NormScheme>().map(|_| name.to_owned());
        known.parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(NormScheme::names().into_iter().map(PossibleValue::new)))
    }
}

fn precision(name: &str) -> Result<Precision, String> {
    match name {
        "f32" => Ok(Precision::F32),
        "bf16" => Ok(Precision::Bf16),
        _ => Err("expected f32 or bf16".to_owned()),
    }
}

/// What a model is trained on.
#[derive(Debug, Clone, Args)]
pub(crate) struct CorpusArgs {
    /// Text to train on: .txt, .jsonl (one {"text": …} a line), either also as .gz or .zst, .parquet (a
    /// column `text`), or folders of them; - is standard input. Without --text and --corpus: the built-in language
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "corpus")]
    pub(crate) text: Vec<PathBuf>,

    /// Text to hold out; 5 % of the documents of --text if not given. If they are fewer than 20, the last
    /// 5 % of each, or more where that is under 8 KiB in all, a quarter at most
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "text")]
    pub(crate) validation: Vec<PathBuf>,

    /// Text that `lns tokenize` prepared
    #[arg(long, value_name = "DIR")]
    pub(crate) corpus: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,
}

/// How text becomes tokens.
#[derive(Debug, Clone, Args)]
pub(crate) struct TokenizerArgs {
    /// A tokenizer.json, or a model: its own tokenizer
    #[arg(long, value_name = "FILE", conflicts_with = "vocab")]
    pub(crate) tokenizer: Option<PathBuf>,

    /// Train a byte-level BPE of this many tokens on the text, if no --tokenizer is given
    /// (257–1048576)
    #[arg(
        long, value_name = "N", default_value_t = 2048, value_parser = whole::<usize>(VOCABULARY)
    )]
    pub(crate) vocab: usize,

    /// Prepare at most this many tokens to train on (1–1000000000000000)
    #[arg(long, value_name = "N", requires = "text", value_parser = whole::<u64>(TOKENS))]
    pub(crate) max_train_tokens: Option<u64>,
}

/// Settings of a training run, over those of a preset and a file.
#[derive(Debug, Clone, Args)]
pub(crate) struct SettingArgs {
    /// Steps of the run (1–1000000000)
    #[arg(
        long, value_name = "N", conflicts_with = "tokens", value_parser = whole::<u64>(STEPS)
    )]
    pub(crate) steps: Option<u64>,

    /// Instead of --steps: tokens of the run (1–1000000000000000)
    #[arg(long, value_name = "N", value_parser = whole::<u64>(TOKENS))]
    pub(crate) tokens: Option<u64>,

    /// Sequences of a step (1–1048576)
    #[arg(long, value_name = "N", value_parser = whole::<u64>(SEQUENCES))]
    pub(crate) batch: Option<u64>,

    /// Tokens of a sequence (1–1048576)
    #[arg(long, value_name = "N", value_parser = whole::<u64>(LENGTH))]
    pub(crate) length: Option<u64>,

    /// Peak learning rate (0 or more)
    #[arg(long, value_name = "RATE", value_parser = real(NOT_NEGATIVE))]
    pub(crate) lr: Option<f64>,

    /// Any other setting, e.g. --set optimiser.clip=0 --set schedule.shape=linear; config.toml in a
    /// run's folder has them all
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<String>,
}

/// Sizes of a model that is trained from scratch.
#[derive(Debug, Clone, Args)]
pub(crate) struct ShapeArgs {
    /// Layers of the model (1–4096)
    #[arg(long, value_name = "N", value_parser = whole::<u64>(LAYERS))]
    pub(crate) layers: Option<u64>,

    /// Features of the stream (1–1048576). The MLP's and the number of heads stay as they are: --set
    /// model.intermediate_size=N, --set model.num_attention_heads=N
    #[arg(long, value_name = "N", value_parser = whole::<u64>(HIDDEN))]
    pub(crate) hidden: Option<u64>,
}

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

    /// How weights start: normal, scaled or depth-scaled
    #[arg(long, value_name = "NAME")]
    pub(crate) initialisation: Option<String>,

    /// Seed of the weights and of the order of the text (0–9223372036854775807)
    #[arg(long, value_name = "N", value_parser = whole::<u64>(SEED))]
    pub(crate) seed: Option<u64>,

    /// Begin from these settings: laptop (if none is named), smoke, paper-130m, paper-250m, paper-350m,
    /// paper-1b
    #[arg(long, value_name = "NAME")]
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

#[derive(Debug, Args)]
#[command(
    after_long_help = "Presets: smoke (about two minutes on two cores), laptop (about an hour on two \
cores), paper-130m, paper-250m, paper-350m, paper-1b (the paper's sizes and hyper-parameters; these \
need far more than a laptop).\n\nA study's file is TOML: name, baseline, seeds, a table [run] of \
settings as in a run's config.toml, and [[groups]], each with a scheme, an initialisation, and if wanted \
a name, seeds of its own and any other settings. `study.toml` in a study's folder is an example.\n\n\
The folder of a study: study.toml, runs/, study.json, report.html and charts/. An interrupted study \
goes on with the same command."
)]
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
}

/// A model that is made from another.
#[derive(Debug, Clone, Args)]
pub(crate) struct OutputArgs {
    /// Folder to make; the source is never changed
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    pub(crate) out: Option<PathBuf>,

    /// Replace what is at --out
    #[arg(long)]
    pub(crate) force: bool,

    /// Say what would be done, every edit with names, factors and shapes, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print the record of where the model came from as JSON; with --dry-run the edits
    #[arg(long)]
    pub(crate) json: bool,
}

/// How numbers are stored in safetensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum StoredAs {
    /// 4 bytes a number
    F32,
    /// 2 bytes, the range of f32, 8 bits of precision
    Bf16,
    /// 2 bytes, up to 65,504, 11 bits of precision
    F16,
}

/// What both of retrofit and fold take.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConversionArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,

    /// Store the result so; as the source does if not given, GGUF blocks as f32
    #[arg(long, value_name = "TYPE")]
    pub(crate) dtype: Option<StoredAs>,

    /// Measure what the conversion did to loss and logits on this text
    #[arg(long = "text", value_name = "FILE", num_args = 1..)]
    pub(crate) files: Vec<PathBuf>,

    /// Fail, and write nothing, if the logits on --text differ by more than rounding explains
    #[arg(long, requires = "files")]
    pub(crate) verify: bool,

    #[command(flatten)]
    pub(crate) cut: CutArgs,

    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

/// Which LayerNorm Scaling.
#[derive(Debug, Clone, Args)]
pub(crate) struct ScaleArgs {
    /// Power of the depth: 0.5 is the paper's 1/√ℓ (−8 to 8)
    #[arg(long, value_name = "E", value_parser = real(EXPONENT))]
    pub(crate) exponent: Option<f64>,

    /// Which norms are scaled, separated by commas
    #[arg(long, value_name = "SITES", value_delimiter = ',')]
    pub(crate) sites: Vec<SiteArg>,

    /// Leave the layers before this one (0-based, counted before any pruning) unscaled
    /// (0–4096)
    #[arg(long, value_name = "I", value_parser = whole::<u32>(0..=*LAYERS.end()))]
    pub(crate) first_layer: Option<u32>,
}

/// A norm of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SiteArg {
    /// The norm before the attention
    Attention,
    /// The norm before the MLP
    Mlp,
}

/// How a model takes LayerNorm Scaling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RetrofitMode {
    /// Gains times √ℓ together with the scale: the function stays
    Preserve,
    /// The scale alone: the function changes, which --text measures
    Replace,
    /// The scale is brought in over the first steps of `lns finetune`
    Anneal,
}

#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  lns retrofit SmolLM2 --out SmolLM2-lns --dry-run\n  lns retrofit \
SmolLM2 --out SmolLM2-lns --verify --text book.txt\n  lns retrofit SmolLM2 --out annealed --mode anneal \
--steps 50 && lns finetune annealed --text books/ --out healed"
)]
pub(crate) struct RetrofitArgs {
    /// Folder, .gguf file, or .safetensors file of a plain Pre-LN model
    pub(crate) model: PathBuf,

    /// How the model takes the scale
    #[arg(long, value_name = "MODE", default_value = "preserve")]
    pub(crate) mode: RetrofitMode,

    /// Steps of a fine-tune over which `anneal` brings the scale in (1–1000000000)
    #[arg(long, value_name = "N", value_parser = whole::<u64>(STEPS))]
    pub(crate) steps: Option<u64>,

    #[command(flatten)]
    pub(crate) scale: ScaleArgs,

    #[command(flatten)]
    pub(crate) conversion: ConversionArgs,
}

#[derive(Debug, Args)]
pub(crate) struct FoldArgs {
    /// Folder of a model with LayerNorm Scaling, or of one that lacks branches
    pub(crate) model: PathBuf,

    #[command(flatten)]
    pub(crate) conversion: ConversionArgs,
}

#[derive(Debug, Args)]
#[command(
    after_long_help = "Without options the scale is the one that `lns fold` noted in the model's \
lns-provenance.json; if there is none, the paper's."
)]
pub(crate) struct UnfoldArgs {
    /// Folder, .gguf file, or .safetensors file of a plain model
    pub(crate) model: PathBuf,

    #[command(flatten)]
    pub(crate) scale: ScaleArgs,

    #[command(flatten)]
    pub(crate) conversion: ConversionArgs,
}

#[derive(Debug, Args)]
#[command(
    after_long_help = "Layers are numbered from 0, as in every table of this program and in \
model.layers.N; 21..25 is 21, 22, 23, 24.\n\nRules for --drop:\n  removal    what raises the loss on \
--text least when it is removed, measured again after every removal (the default)\n  angular    the \
block of N layers whose ends are at the smallest angle (arXiv 2403.17887)\n  influence  the layers of \
least block influence (ShortGPT, arXiv 2403.03853)\n  deepest    the deepest layers but the last, the \
baseline\n\nExamples:\n  lns prune MODEL --drop 3 --text book.txt --out pruned\n  lns prune MODEL \
--layers 21..25 --mlp 3 --out pruned\n  lns prune MODEL --plan pruned/prune.json --out again"
)]
pub(crate) struct PruneArgs {
    /// Folder, .gguf file, or .safetensors file
    pub(crate) model: PathBuf,

    /// Remove these layers: 21..25 or 3,7,11
    #[arg(long, value_name = "LAYERS")]
    pub(crate) layers: Option<lns_spec::LayerSelection>,

    /// Remove the attention of these layers
    #[arg(long, value_name = "LAYERS")]
    pub(crate) attention: Option<lns_spec::LayerSelection>,

    /// Remove the MLP of these layers
    #[arg(long, value_name = "LAYERS")]
    pub(crate) mlp: Option<lns_spec::LayerSelection>,

    /// Remove this many layers, chosen by --by on --text (1–4096)
    #[arg(
        long, value_name = "N", conflicts_with_all = ["layers", "attention", "mlp", "plan"],
        requires = "files", value_parser = whole::<u64>(LAYERS)
    )]
    pub(crate) drop: Option<u64>,

    /// Do again what a plan says
    #[arg(long, value_name = "FILE", conflicts_with_all = ["layers", "attention", "mlp"])]
    pub(crate) plan: Option<PathBuf>,

    /// The rule for --drop: removal, angular, influence or deepest
    #[arg(long, value_name = "RULE", requires = "drop", value_parser = prune_rule)]
    pub(crate) by: Option<lns_diagnose::PruneRule>,

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
    #[arg(long, value_name = "TYPE")]
    pub(crate) dtype: Option<StoredAs>,

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

fn prune_rule(name: &str) -> Result<lns_diagnose::PruneRule, String> {
    let rule = lns_diagnose::PruneRule::ALL.into_iter().find(|rule| rule.name() == name);
    rule.ok_or_else(|| "expected removal, angular, influence or deepest".to_owned())
}

/// How numbers are stored in an exported file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ExportType {
    /// 4 bytes a number
    F32,
    /// 2 bytes, 11 bits of precision; GGUF's default
    F16,
    /// 2 bytes, the range of f32, 8 bits of precision
    Bf16,
    /// GGUF only: 8 bits and a scale for 32 numbers
    #[value(name = "q8_0")]
    Q8_0,
}

#[derive(Debug, Args)]
#[command(
    after_long_help = "A model with LayerNorm Scaling is folded, and branches that were pruned become \
zeros: what is written runs everywhere.\n\nExamples:\n  lns export MODEL --out model.gguf --dtype \
q8_0\n  lns export MODEL.gguf --out folder --dtype bf16"
)]
pub(crate) struct ExportArgs {
    /// Folder, .gguf file, or .safetensors file
    pub(crate) model: PathBuf,

    /// A file that ends in .gguf, or a folder for safetensors
    #[arg(long, value_name = "PATH", required_unless_present = "dry_run")]
    pub(crate) out: Option<PathBuf>,

    /// Type of the numbers; f16 for GGUF and the source's for safetensors if not given
    #[arg(long, value_name = "TYPE")]
    pub(crate) dtype: Option<ExportType>,

    /// Largest safetensors file, in GB (above 0)
    #[arg(long, value_name = "GB", default_value_t = 5.0, value_parser = positive(f64::MAX))]
    pub(crate) shard_size: f64,

    #[command(flatten)]
    pub(crate) output: ExportOutputArgs,
}

/// As [`OutputArgs`], for a file or a folder.
#[derive(Debug, Clone, Args)]
pub(crate) struct ExportOutputArgs {
    /// Replace what is at --out
    #[arg(long)]
    pub(crate) force: bool,

    /// Say what would be written, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print the record of where the model came from as JSON; with --dry-run the tensors
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_long_help = "The folder of a run is that of `lns train`; snapshots of a LoRA run hold its \
adapters as PEFT reads them, and model/ has them merged.\n\nInstructions are a line each of a .jsonl \
(.gz, .zst) file: {\"prompt\": …, \"response\": …}, {\"instruction\": …, \"input\": …, \"output\": \
…}, or {\"messages\": [{\"role\": …, \"content\": …}, …]}, put into the model's own chat template; only \
responses are learned.\n\nDefaults: 100 steps of 8 \
sequences of 512 tokens, AdamW at a peak of 1e-4 after 10 steps.\n\nExamples:\n  lns \
finetune pruned --text books/ --out healed\n  lns finetune MODEL --instructions chats.jsonl --lora 16 \
--out tuned"
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

    /// Matrices with adapters, separated by commas: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj,
    /// down_proj; all of them if not given
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "lora")]
    pub(crate) lora_targets: Vec<String>,

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

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Folder of a run or of a study, running or finished; of a study, its runs together: those done,
    /// those to come, the time left
    pub(crate) run: PathBuf,

    /// Print a summary and return; so too when the output is not a terminal
    #[arg(long)]
    pub(crate) summary: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TokenizeArgs {
    /// Text to train on: .txt, .jsonl, either also as .gz or .zst, .parquet, or folders of them; - is
    /// standard input
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub(crate) text: Vec<PathBuf>,

    /// Text to hold out; 5 % of the documents of --text if not given. If they are fewer than 20, the last
    /// 5 % of each, or more where that is under 8 KiB in all, a quarter at most
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) validation: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,

    /// Folder to make
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct QuickstartArgs {
    /// Folder for the report
    #[arg(long, value_name = "DIR", default_value = "quickstart")]
    pub(crate) out: PathBuf,

    /// Diagnose this model instead of fetching SmolLM2-135M
    #[arg(long, value_name = "MODEL", requires = "text")]
    pub(crate) model: Option<PathBuf>,

    /// Use this text instead of fetching the speeches
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) text: Vec<PathBuf>,

    /// Fetch nothing: only train the pair, on the built-in language
    #[arg(long, conflicts_with_all = ["model", "text"])]
    pub(crate) offline: bool,

    /// Steps that the small Pre-LN / LNS pair is trained for: 150 take about a minute each on two cores
    /// (1–1000000000)
    #[arg(long, value_name = "N", default_value_t = 150, value_parser = whole::<u64>(STEPS))]
    pub(crate) steps: u64,

    /// Worker threads; all cores if not given (1–1024)
    #[arg(long, value_name = "N", value_parser = whole::<usize>(THREADS))]
    pub(crate) threads: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Folder, .gguf file, or .safetensors file
    pub(crate) model: PathBuf,

    /// List every tensor
    #[arg(long)]
    pub(crate) tensors: bool,

    /// Print machine-readable JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(override_usage = "lns diagnose <MODEL> --text <FILE>... [OPTIONS]")]
#[command(after_long_help = probe_help())]
pub(crate) struct DiagnoseArgs {
    /// Folder, .gguf file, or .safetensors file
    pub(crate) model: PathBuf,

    #[command(flatten)]
    pub(crate) text: TextArgs,

    /// What to measure: names separated by commas, `default`, or `all`; see below for the prices
    #[arg(long, value_name = "NAMES", default_value = "default")]
    pub(crate) probes: Probes,

    /// Put another model, or the folder of a finished diagnosis, beside this one
    #[arg(long, value_name = "OTHER")]
    pub(crate) against: Option<PathBuf>,

    /// Folder for diagnose.json, report.html and charts/ (and against.json); if not given,
    /// `diagnosis-NAME`, where NAME is that of the file or of the nearest folder that tells the model
    /// from others
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) compute: ComputeArgs,

    /// Print diagnose.json (an array of two with --against), and write files only with --out
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(override_usage = "lns eval <MODEL>... --text <FILE>... [OPTIONS]")]
pub(crate) struct EvalArgs {
    /// Folder, .gguf file, or .safetensors file; of several, each is compared with the first, window
    /// by window, on the same tokens
    #[arg(required = true, value_name = "MODEL", num_args = 1..)]
    pub(crate) models: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) text: TextArgs,

    #[command(flatten)]
    pub(crate) compute: ComputeArgs,

    /// Print machine-readable JSON: an object, or an array of one for each of several models
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  lns generate MODEL --prompt 'The river'\n  lns generate MODEL \
--chat\n  lns generate MODEL --chat --prompt 'How deep is the sea?'\n  lns generate MODEL --stop '\n' \
--json < beginning.txt\n\nIn a conversation, on a terminal, a line is a turn; /clear begins a \
new one; /exit, or Ctrl-D, ends it. What is piped is one prompt with all its lines, and gets one \
answer."
)]
pub(crate) struct GenerateArgs {
    /// Folder, .gguf file, or .safetensors file
    pub(crate) model: PathBuf,

    /// Text to continue, or with --chat what is asked; - is standard input, and so is no --prompt when
    /// something is piped there. One line feed at the end of standard input is left out
    #[arg(long)]
    pub(crate) prompt: Option<String>,

    /// Talk with a model for chat: what is asked is put into its chat template. Without a prompt a
    /// conversation, a line a turn
    #[arg(long)]
    pub(crate) chat: bool,

    /// End before this text; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) stop: Vec<String>,

    /// Begin with the model's begin-of-text token, as Llama and Mistral were trained; a chat template
    /// has its own
    #[arg(long, conflicts_with = "chat")]
    pub(crate) bos: bool,

    /// Print machine-readable JSON when the text has ended
    #[arg(long)]
    pub(crate) json: bool,

    /// Stop after this many tokens (1–1048576)
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = whole::<usize>(NEW_TOKENS))]
    pub(crate) max_new_tokens: usize,

    /// 0 always takes the most likely token; higher is bolder (0 or more)
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = real(NOT_NEGATIVE))]
    pub(crate) temperature: f64,

    /// Keep the fewest tokens whose probabilities reach this sum (above 0, at most 1)
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = positive(1.0))]
    pub(crate) top_p: f64,

    /// Keep this many most likely tokens; 0 keeps all (0–16777216)
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = whole::<usize>(0..=1 << 24))]
    pub(crate) top_k: usize,

    /// Seed of the choices (0–9223372036854775807)
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole::<u64>(SEED))]
    pub(crate) seed: u64,

    /// Threads; all cores if not given (1–1024)
    #[arg(long, value_name = "N", value_parser = whole::<usize>(THREADS))]
    pub(crate) threads: Option<usize>,

    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The folder of a study; or folders that hold a diagnose.json, the first being the subject
    #[arg(value_name = "DIR", required = true)]
    pub(crate) runs: Vec<PathBuf>,

    /// Folder for report.html and charts/; the first DIR if not given
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// What `bench` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BenchMode {
    /// Forward, backward and AdamW
    Train,
    /// Losses without gradients
    Forward,
    /// The RMS norm's forward and backward beside a copy of the same memory
    Norm,
}

#[derive(Debug, Args)]
#[command(
    after_long_help = "Workloads: A, 8 layers × 256, vocabulary 4096, 8 sequences of 256; B, 24 \
layers × 128, vocabulary 2048, 16 sequences of 128; C, the paper's 130M, 8 sequences of 256; D, as A with \
2 key/value heads and LNS. Weights and tokens are the same on every machine."
)]
pub(crate) struct BenchArgs {
    /// Workloads, separated by commas; see below
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "A,B")]
    pub(crate) workload: Vec<String>,

    /// What to measure of each
    #[arg(long, value_name = "MODES", value_delimiter = ',', default_value = "train,forward")]
    pub(crate) mode: Vec<BenchMode>,

    /// Also measure prefill and decode of this model
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<PathBuf>,

    /// Tokens of the prompt for --model (1–1048576)
    #[arg(
        long, value_name = "N", default_value_t = 512, requires = "model",
        value_parser = whole::<usize>(NEW_TOKENS)
    )]
    pub(crate) prompt_tokens: usize,

    /// Tokens to generate for --model (1–1048576)
    #[arg(
        long, value_name = "N", default_value_t = 64, requires = "model",
        value_parser = whole::<usize>(NEW_TOKENS)
    )]
    pub(crate) new_tokens: usize,

    /// Seconds of each measurement, and at least five steps (0 to 86400)
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = real(0.0..=86_400.0))]
    pub(crate) seconds: f64,

    /// Record the losses of the first N steps (--json), to hold against another implementation's
    /// (0–1000000)
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole::<u64>(0..=1_000_000))]
    pub(crate) losses: u64,

    /// Keep only each layer's input and make its activations again: less memory, a third more work
    #[arg(long)]
    pub(crate) recompute: bool,

    /// Sequences that a worker takes through at once; all of its share if not given (1–1048576)
    #[arg(long, value_name = "N", value_parser = whole::<usize>(SEQUENCES))]
    pub(crate) sequences_per_pass: Option<usize>,

    /// Worker threads; all cores if not given (1–1024)
    #[arg(long, value_name = "N", value_parser = whole::<usize>(THREADS))]
    pub(crate) threads: Option<usize>,

    #[command(flatten)]
    pub(crate) place: PlaceArgs,

    /// Say what training each workload needs, and measure nothing
    #[arg(long)]
    pub(crate) estimate: bool,

    /// Print machine-readable JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The probes and their prices for a 30-layer model.
fn probe_help() -> String {
    const LAYERS: usize = 30;
    let default = Probes::default();
    let mut help = format!("Probes, with their price in forward passes for {LAYERS} layers:\n");
    for probe in lns_diagnose::Probe::ALL {
        let price = match lns_diagnose::price(probe, LAYERS) {
            0.0 => "free".to_owned(),
            price => format!("{price:.0}"),
        };
        let mark = if default.has(probe) { "*" } else { " " };
        help += &format!("  {mark} {:<10} {price:>5}  {}\n", probe.name(), probe.measures());
    }
    help + "  * in the default set. \"free\" shares the one pass that every diagnosis makes."
}
