//! Text for training: prepared once, then mapped.

use std::path::{Path, PathBuf};

use lns_checkpoint::{Checkpoint, TokenizerSource};
use lns_data::{
    Corpus, Language, Limits, Part, PrepareOptions, Tokenizer, Validation, prepare,
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

/// The folder of the prepared text: the one named, or `text` in `out`, made now unless it is there.
/// `tokens` is how many the run will draw.
pub(crate) fn folder(
    args: &CorpusArgs,
    out: &Path,
    tokens: u64,
    printer: &Printer,
) -> anyhow::Result<PathBuf> {
    if let Some(corpus) = &args.corpus {
        return Ok(std::path::absolute(corpus)?);
    }
    let folder = std::path::absolute(out.join("text"))?;
    if folder.exists() {
        printer.note(&format!("Text: what was prepared in {}.", folder.display()));
    } else if args.text.is_empty() {
        printer.note("No --text: training on the built-in language.");
        std::fs::create_dir_all(out)?;
        language(&folder, tokens)?;
    } else {
        std::fs::create_dir_all(out)?;
        tokenized(&args.text, &args.validation, &args.tokenizer, &folder, printer)?;
    }
    Ok(folder)
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

/// Enough of the built-in language that no text is seen twice.
fn language(folder: &Path, tokens: u64) -> anyhow::Result<Corpus> {
    let language = Language::new(LANGUAGE_SEED);
    let limits = Limits { train: Some(tokens), validation: Some(LANGUAGE_HELD_OUT) };
    let enough = |part, limit: u64| {
        // A document has at least one token, so a part's limit ends it at the latest.
        let mut made = 0;
        language
            .documents(part)
            .take_while(move |document| {
                let wanted = made < limit;
                made += document.nll.len() as u64;
                wanted
            })
            .map(move |document| (part, document.text))
    };
    let mut documents =
        enough(Part::Train, tokens).chain(enough(Part::Validation, LANGUAGE_HELD_OUT));
    let tokenizer = language.tokenizer();
    let name = "the built-in language";
    Ok(prepare_documents(&mut documents, name, &tokenizer, limits, folder, &|_| {})?)
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
