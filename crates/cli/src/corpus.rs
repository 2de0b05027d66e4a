//! Text for training: prepared once, then mapped.

use std::path::{Path, PathBuf};

use lns_checkpoint::{Checkpoint, TokenizerSource};
use lns_data::{
    Corpus, Document, Language, Limits, Part, PrepareOptions, Tokenizer, Validation, prepare,
    prepare_documents,
};

use crate::{
    arguments::{CorpusArgs, TokenizerArgs},
    failure::usage,
    printer::Printer,
};

/// Share of the documents that is held out when no text is named for it.
const HELD_OUT: f64 = 0.05;
/// Text that a BPE is trained on, at most.
const BPE_BYTES: u64 = 16 << 20;
/// Seed of the built-in language: its texts are the same for everybody.
const LANGUAGE_SEED: u64 = 1;
/// Tokens of the built-in language that are held out.
const LANGUAGE_HELD_OUT: u64 = 50_000;

/// A text that is ready.
pub(crate) struct Prepared {
    pub(crate) folder: PathBuf,
    /// Loss on the held-out part of a reader who knows the built-in language's grammar.
    pub(crate) ideal_loss: Option<f64>,
}

/// The text named, or that in `text` in `out`, made now unless it is there. `tokens` is how many the
/// run will draw.
pub(crate) fn prepared(
    args: &CorpusArgs,
    out: &Path,
    tokens: u64,
    printer: &Printer,
) -> anyhow::Result<Prepared> {
    if let Some(corpus) = &args.corpus {
        return Ok(Prepared { folder: std::path::absolute(corpus)?, ideal_loss: None });
    }
    let folder = std::path::absolute(out.join("text"))?;
    let language = args.text.is_empty().then(|| Language::new(LANGUAGE_SEED));
    if folder.exists() {
        printer.note(&format!("Text: what was prepared in {}.", folder.display()));
    } else {
        std::fs::create_dir_all(out)?;
        match &language {
            Some(language) => {
                printer.note("No --text: training on the built-in language.");
                write_language(language, &folder, tokens)?;
            }
            None => {
                tokenized(&args.text, &args.validation, &args.tokenizer, &folder, printer)?;
            }
        }
    }
    Ok(Prepared { folder, ideal_loss: language.as_ref().map(ideal_loss) })
}

/// Prepares files.
pub(crate) fn tokenized(
    text: &[PathBuf],
    validation: &[PathBuf],
    args: &TokenizerArgs,
    folder: &Path,
    printer: &Printer,
) -> anyhow::Result<Corpus> {
    let tokenizer = match &args.tokenizer {
        Some(path) => tokenizer(path)?,
        None => {
            printer.note(&format!("Training a BPE of {} tokens …", args.vocab));
            Tokenizer::train_bpe(text, args.vocab, BPE_BYTES)?
        }
    };
    let validation = match validation {
        [] => Validation::Share(HELD_OUT),
        files => Validation::Files(files.to_vec()),
    };
    let options = PrepareOptions {
        validation,
        max_train_tokens: args.max_train_tokens,
        max_validation_tokens: None,
    };
    let progress = printer.count("Tokenizing");
    let corpus = prepare(text, &tokenizer, &options, folder, &|tokens| progress.set(tokens))?;
    drop(progress);
    printer.note(&format!("Text: {}.", corpus.description()));
    Ok(corpus)
}

/// Documents of a part of the language that hold at least `tokens` tokens.
fn documents(language: &Language, part: Part, tokens: u64) -> impl Iterator<Item = Document> {
    let mut made = 0;
    language.documents(part).take_while(move |document| {
        let wanted = made < tokens;
        made += document.nll.len() as u64;
        wanted
    })
}

/// Enough of the built-in language that no text is seen twice.
fn write_language(language: &Language, folder: &Path, tokens: u64) -> anyhow::Result<Corpus> {
    let limits = Limits { train: Some(tokens), validation: Some(LANGUAGE_HELD_OUT) };
    let of =
        |part, tokens| documents(language, part, tokens).map(move |document| (part, document.text));
    let mut texts = of(Part::Train, tokens).chain(of(Part::Validation, LANGUAGE_HELD_OUT));
    let name = "the built-in language";
    Ok(prepare_documents(&mut texts, name, &language.tokenizer(), limits, folder, &|_| {})?)
}

/// Mean loss of the ideal reader, who sees every document from its beginning.
fn ideal_loss(language: &Language) -> f64 {
    let documents = documents(language, Part::Validation, LANGUAGE_HELD_OUT);
    let (nll, tokens) = documents.fold((0.0, 0), |(nll, tokens), document| {
        (nll + document.ideal_nll(), tokens + document.nll.len())
    });
    nll / tokens as f64
}

fn tokenizer(path: &Path) -> anyhow::Result<Tokenizer> {
    if path.extension().is_some_and(|extension| extension == "gguf") {
        let checkpoint = Checkpoint::open(path)?;
        return match checkpoint.tokenizer() {
            TokenizerSource::Gguf(gguf) => Ok(Tokenizer::from_gguf(&gguf, path)?),
            _ => Err(usage(format!("{} holds no tokenizer", path.display()))),
        };
    }
    Ok(Tokenizer::from_json_file(path)?)
}
