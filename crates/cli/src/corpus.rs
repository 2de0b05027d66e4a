//! Text for training: prepared once, then mapped.

use std::path::{Path, PathBuf};

use anyhow::Context;
use lns_checkpoint::{Checkpoint, Format};
use lns_corpus::{
    Corpus, InstructionOptions, Language, Layout, Limits, Part, PrepareOptions, Validation,
    prepare, prepare_documents, prepare_instructions, text_files, train_tokenizer,
};
use lns_record::{NewFolder, SMALL_FILE, file_sha256, read_regular_text};
use lns_show::{counted, grouped};
use lns_study::StudyConfig;
use lns_tokenizer::{ChatTemplate, Tokenizer};
use lns_train::{RunConfig, SourceConfig, check_memory, path_in_file};

use crate::{
    arguments::{CorpusArgs, TokenizerArgs},
    commands::FinetuneArgs,
    failure::usage,
    model, pipes,
    printer::Printer,
    stop::Stop,
};

/// Share of the documents that is held out when no text is named for it.
const HELD_OUT: f64 = 0.05;
/// Text that a BPE is trained on, at most.
const BPE_BYTES: u64 = 16 << 20;
/// Seed of the built-in language: its texts are the same for everybody.
const LANGUAGE_SEED: u64 = 1;
/// Tokens of the built-in language that are held out.
const LANGUAGE_HELD_OUT: u64 = 50_000;
/// Tokens of it that are written at most.
const LANGUAGE_MOST: u64 = 200_000_000;
/// What the text in a run's folder was made from: a file in it (earlier versions: beside it).
const ORIGIN: &str = "text.from";
/// The origin of the built-in language's text.
const LANGUAGE: &str = "the built-in language\n";

/// A path as the settings of a run hold it.
pub(crate) fn path_in_settings(path: &Path) -> anyhow::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    path_in_file(&path)?;
    Ok(path)
}

/// What a run is trained on.
pub(crate) struct Supply {
    pub(crate) sources: Vec<SourceConfig>,
    /// Loss on the held-out part of a reader who knows the built-in language's grammar.
    pub(crate) ideal_loss: Option<f64>,
}

/// The text that the settings name, or the one that the flags name: `--corpus`, or `text` in `out`,
/// made now unless it is there. `sequences` is how many the run will draw.
pub(crate) fn supply(
    config: &RunConfig,
    sequences: u64,
    args: &CorpusArgs,
    out: &Path,
    printer: &Printer,
    stop: &Stop,
) -> anyhow::Result<Supply> {
    let named = &config.data.sources;
    let folder = path_in_settings(&out.join("text"))?;
    let asked = args.corpus.is_some() || !args.text.is_empty();
    if !named.is_empty() && !asked {
        let ours = named.iter().all(|source| source.corpus == folder);
        let ideal = ours && read_origin(&folder).as_deref() == Some(LANGUAGE);
        let ideal_loss = ideal.then(|| ideal_loss(config.data.layout));
        return Ok(Supply { sources: named.clone(), ideal_loss });
    }
    let corpus = match &args.corpus {
        Some(corpus) => named_corpus(corpus)?,
        None => folder.clone(),
    };
    let source = match &named[..] {
        [] => SourceConfig::new(corpus),
        [source] if source.corpus == corpus || may_have_moved(source, &corpus) => {
            SourceConfig { corpus, ..source.clone() }
        }
        [source] if !source.fingerprint.is_empty() => {
            return Err(usage(format!(
                "the run was begun on the text in {}; leave --text out to go on with that, or name \
                 another folder",
                source.corpus.display()
            )));
        }
        _ => {
            return Err(usage(
                "the settings name their text in data.sources, and --text or --corpus another; leave \
                 one of them out",
            ));
        }
    };
    let mut language = false;
    if args.corpus.is_none() {
        // What is wrong with the model is said before its text is prepared.
        let spec = config.model.spec(config.model.vocab_size.max(1), config.data.length)?;
        check_memory(config, &spec, None)?;
        language = prepared(config, sequences, args, &source, printer, stop)?;
    }
    let ideal_loss = language.then(|| ideal_loss(config.data.layout));
    Ok(Supply { sources: vec![source], ideal_loss })
}

/// The text of a run that has begun may have moved to a place where one is: it is known by its
/// fingerprint.
fn may_have_moved(source: &SourceConfig, to: &Path) -> bool {
    !source.fingerprint.is_empty() && to.exists()
}

/// Makes the text of a source unless it is there; whether it is of the built-in language.
fn prepared(
    config: &RunConfig,
    sequences: u64,
    args: &CorpusArgs,
    source: &SourceConfig,
    printer: &Printer,
    stop: &Stop,
) -> anyhow::Result<bool> {
    let origin = origin(args)?;
    let folder = &source.corpus;
    if args.text.is_empty() && folder.exists() {
        printer.note(&format!("Text: what was prepared in {}.", folder.display()));
        return Ok(read_origin(folder).as_deref() == Some(LANGUAGE));
    }
    made_once(&origin, source, printer, stop, |folder| {
        if args.text.is_empty() {
            printer.note("No --text: training on the built-in language.");
            // A row holds one document at most, a window one more token than it has inputs.
            let tokens = match config.data.layout {
                Layout::Rows => sequences.saturating_mul(Language::MAX_TOKENS as u64),
                Layout::Packed | Layout::PackedMasked => {
                    sequences.saturating_mul(config.data.length as u64) + 1
                }
            };
            if tokens > LANGUAGE_MOST {
                return Err(usage(format!(
                    "the run needs {}, and the built-in language is for small ones \
                     ({} at most); give --text",
                    counted(tokens, "token"),
                    grouped(LANGUAGE_MOST)
                )));
            }
            printer.note(&format!("Preparing {} of it …", counted(tokens, "token")));
            write_language(folder, tokens, printer, stop)
        } else {
            tokenized(&args.text, &args.validation, &args.tokenizer, folder, printer, stop)
        }
    })?;
    Ok(args.text.is_empty())
}

/// Makes the text of a source, unless it is there: then it must have been made from the same. Text and
/// origin appear together, or not at all.
fn made_once(
    origin: &str,
    source: &SourceConfig,
    printer: &Printer,
    stop: &Stop,
    make: impl FnOnce(&Path) -> anyhow::Result<Corpus>,
) -> anyhow::Result<()> {
    const TEXT: &str = "text";
    let folder = &source.corpus;
    let failed = || format!("{} cannot be written", folder.display());
    if folder.exists() {
        let there = read_origin(folder);
        if there.as_deref() != Some(origin) {
            // What a run was begun on stays.
            let begun = !source.fingerprint.is_empty()
                || folder.with_file_name(StudyConfig::FILE_NAME).is_file();
            let remedy = match begun {
                true => "Leave these out to go on, or name another folder with --out.",
                false => "Name another folder with --out, or delete this text.",
            };
            return Err(usage(format!(
                "{} was prepared from something else:\n{}{remedy}",
                folder.display(),
                differences(there.as_deref(), origin)
            )));
        }
        printer.note(&format!("Text: what was prepared in {}.", folder.display()));
        return Ok(());
    }
    let new = NewFolder::create(folder).with_context(failed)?;
    let text = new.path().join(TEXT);
    stop.ends_after(Stop::AFTER_THESE_TOKENS);
    let made = make(&text);
    stop.check()?;
    stop.ends_after(Stop::AFTER_THIS_STEP);
    let corpus = made?;
    if !source.fingerprint.is_empty() && source.fingerprint != corpus.fingerprint() {
        return Err(usage(
            "the text that --text makes now is not the one that the run was begun with; name another \
             folder with --out",
        ));
    }
    drop(corpus);
    std::fs::write(text.join(ORIGIN), origin).with_context(failed)?;
    new.commit_inner(TEXT).with_context(failed)
}

/// In which lines two origins differ.
fn differences(there: Option<&str>, asked: &str) -> String {
    let Some(there) = there else { return "  it is not known from what\n".to_owned() };
    let only = |of: &str, other: &str, who: &str| -> String {
        let lines = of.lines().filter(|line| !other.lines().any(|known| known == *line));
        lines.map(|line| format!("  {who} {line}\n")).collect()
    };
    only(there, asked, "there:    ") + &only(asked, there, "asked for:")
}

/// The text of a fine-tune, with the checkpoint's own tokenizer and template: `--corpus`, or `text` in
/// `out`, made now unless it is there.
pub(crate) fn supply_finetune(
    config: &RunConfig,
    checkpoint: &Checkpoint,
    args: &FinetuneArgs,
    out: &Path,
    printer: &Printer,
    stop: &Stop,
) -> anyhow::Result<SourceConfig> {
    if let Some(corpus) = &args.corpus {
        return Ok(SourceConfig::new(named_corpus(corpus)?));
    }
    let folder = path_in_settings(&out.join("text"))?;
    let source = match &config.data.sources[..] {
        [] => SourceConfig::new(folder),
        [source] if source.corpus == folder || may_have_moved(source, &folder) => {
            SourceConfig { corpus: folder, ..source.clone() }
        }
        sources => {
            let named: Vec<String> =
                sources.iter().map(|source| source.corpus.display().to_string()).collect();
            return Err(usage(format!(
                "the text is that in {}; leave --text and --instructions out to train on it, or name \
                 another folder",
                named.join(", ")
            )));
        }
    };
    let mut lines = named_files(&[
        ("text", &args.text),
        ("instructions", &args.instructions),
        ("validation", &args.validation),
    ])?;
    lines.push(format!("tokenizer {}", std::path::absolute(checkpoint.path())?.display()));
    lines.extend(args.max_train_tokens.map(|tokens| format!("max-train-tokens {tokens}")));
    let responses_only = !args.instructions.is_empty();
    if responses_only {
        lines.push(format!("sequence length {}", config.data.length));
    }
    // Another tokenizer or template makes another text.
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        let file = checkpoint.folder().join(name);
        if checkpoint.format() == Format::Safetensors && file.is_file() {
            let sum =
                file_sha256(&file).with_context(|| format!("{} cannot be read", file.display()))?;
            lines.push(format!("{name} {sum}"));
        }
    }
    made_once(&(lines.join("\n") + "\n"), &source, printer, stop, |folder| {
        let tokenizer = model::tokenizer(checkpoint)?;
        let options = options(&args.validation, args.max_train_tokens);
        let progress = printer.count("Tokenizing");
        let tell = |tokens| {
            progress.set(tokens);
            stop.flow()
        };
        let corpus = if responses_only {
            let template = ChatTemplate::of(checkpoint, &crate::chat::rendering()?)?;
            if template.is_none() {
                printer.note(
                    "The model has no chat template: responses follow their prompts as they are.",
                );
            }
            let sequence_length = config.data.length;
            let options = InstructionOptions { corpus: options, sequence_length };
            let (files, template) = (&args.instructions, template.as_ref());
            prepare_instructions(files, &tokenizer, template, &options, folder, &tell)?
        } else {
            prepare(&args.text, &tokenizer, &options, folder, &tell)?
        };
        drop(progress);
        printer.note(&format!("Text: {}.", corpus.description()));
        Ok(corpus)
    })?;
    Ok(source)
}

/// The prepared text that `--corpus` names, as settings hold it.
fn named_corpus(corpus: &Path) -> anyhow::Result<PathBuf> {
    let shown = corpus.display();
    if !corpus.exists() {
        return Err(usage(format!(
            "--corpus {shown} does not exist; name a folder that `lns tokenize` made"
        )));
    }
    let text = corpus.join("text");
    if !Corpus::is_in(corpus) && Corpus::is_in(&text) {
        return Err(usage(format!(
            "--corpus {shown} is a run or a study, whose text is in {0}; give --corpus {0}",
            text.display()
        )));
    }
    path_in_settings(corpus)
}

/// Refuses text to train on that is not there, where nothing else would notice.
pub(crate) fn check_named<'a>(
    files: impl IntoIterator<Item = &'a PathBuf>,
    corpus: Option<&Path>,
) -> anyhow::Result<()> {
    for file in files {
        file.metadata().map_err(|error| usage(format!("{}: {error}", file.display())))?;
    }
    corpus.map(named_corpus).transpose()?;
    Ok(())
}

/// `what file`, a line each.
fn named_files(files: &[(&str, &Vec<PathBuf>)]) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    for (what, files) in files {
        for file in *files {
            lines.push(format!("{what} {}", pipes::identity(file)?.display()));
        }
    }
    Ok(lines)
}

/// Files to hold out, or a share.
fn options(validation: &[PathBuf], max_train_tokens: Option<u64>) -> PrepareOptions {
    let validation = match validation {
        [] => Validation::Share(HELD_OUT),
        files => Validation::Files(files.to_vec()),
    };
    PrepareOptions { validation, max_train_tokens, max_validation_tokens: None }
}

/// What a text is made from, to tell whether it is the one asked for.
fn origin(args: &CorpusArgs) -> anyhow::Result<String> {
    if args.text.is_empty() {
        return Ok(LANGUAGE.to_owned());
    }
    let mut lines = named_files(&[("text", &args.text), ("validation", &args.validation)])?;
    let TokenizerArgs { tokenizer, vocab, max_train_tokens } = &args.tokenizer;
    lines.push(match tokenizer {
        Some(path) => format!("tokenizer {}", std::path::absolute(path)?.display()),
        None => format!("vocab {vocab}"),
    });
    lines.extend(max_train_tokens.map(|tokens| format!("max-train-tokens {tokens}")));
    Ok(lines.join("\n") + "\n")
}

fn read_origin(text: &Path) -> Option<String> {
    let places = [Some(text), text.parent()];
    places.into_iter().flatten().find_map(|at| read_regular_text(&at.join(ORIGIN), SMALL_FILE).ok())
}

/// Rows of the embedding of a run: those of the settings, or tokens of the text that the flags name,
/// which must be there.
pub(crate) fn vocabulary_of(config: &RunConfig, args: &CorpusArgs) -> anyhow::Result<usize> {
    check_named(args.text.iter().chain(&args.validation), args.corpus.as_deref())?;
    Ok(match (config.model.vocab_size, &args.corpus, &args.tokenizer.tokenizer) {
        (0, Some(corpus), _) => Corpus::open(corpus)?.vocab_size(),
        (0, None, Some(path)) => tokenizer(path)?.vocab_size(),
        (0, None, None) => args.tokenizer.vocab,
        (rows, ..) => rows,
    })
}

/// Prepares files.
pub(crate) fn tokenized(
    text: &[PathBuf],
    validation: &[PathBuf],
    args: &TokenizerArgs,
    folder: &Path,
    printer: &Printer,
    stop: &Stop,
) -> anyhow::Result<Corpus> {
    // A wrong path is said before a tokenizer is trained.
    for files in [text, validation] {
        text_files(files)?;
    }
    let tokenizer = match &args.tokenizer {
        Some(path) => tokenizer(path)?,
        None => {
            printer.note(&format!("Training a BPE of {} tokens …", args.vocab));
            train_tokenizer(text, args.vocab, BPE_BYTES)?
        }
    };
    stop.check()?;
    let options = options(validation, args.max_train_tokens);
    let progress = printer.count("Tokenizing");
    let tell = |tokens| {
        progress.set(tokens);
        stop.flow()
    };
    let corpus = prepare(text, &tokenizer, &options, folder, &tell)?;
    drop(progress);
    printer.note(&format!("Text: {}.", corpus.description()));
    Ok(corpus)
}

/// Enough of the built-in language that no text is seen twice.
fn write_language(
    folder: &Path,
    tokens: u64,
    printer: &Printer,
    stop: &Stop,
) -> anyhow::Result<Corpus> {
    let language = Language::new(LANGUAGE_SEED);
    let limits = Limits { train: Some(tokens), validation: Some(LANGUAGE_HELD_OUT) };
    let of = |part, tokens| {
        language.first_documents(part, tokens).map(move |document| (part, document.text))
    };
    let mut texts = of(Part::Train, tokens).chain(of(Part::Validation, LANGUAGE_HELD_OUT));
    let name = "the built-in language";
    let progress = printer.count("Preparing");
    let tell = |tokens| {
        progress.set(tokens);
        stop.flow()
    };
    Ok(prepare_documents(&mut texts, name, &language.tokenizer(), limits, folder, &tell)?)
}

/// What no model does better than on the held-out text of the built-in language.
fn ideal_loss(layout: Layout) -> f64 {
    Language::new(LANGUAGE_SEED).ideal_loss(Part::Validation, LANGUAGE_HELD_OUT, layout)
}

/// A `tokenizer.json`, or the tokenizer of a model.
fn tokenizer(path: &Path) -> anyhow::Result<Tokenizer> {
    if path.extension().is_some_and(|extension| extension == "gguf") || path.is_dir() {
        return model::tokenizer(&model::open(path)?);
    }
    Ok(Tokenizer::from_json_file(path)?)
}
