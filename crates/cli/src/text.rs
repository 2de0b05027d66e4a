//! A model and its text, resolved: the checkpoint opened, the text cut into windows of its token ids.

use std::path::{Path, PathBuf};

use lns_checkpoint::Checkpoint;
use lns_corpus::{CorpusError, Language, TextOptions, Windows, cut_windows, read_windows};
use lns_record::MaskingRecord;
use lns_show::counted;
use lns_spec::{ModelSpec, Prediction};
use lns_tasks::Asked;
use lns_tokenizer::{Tokenizer, TokenizerError};

use crate::{arguments::CutArgs, failure::usage, model, printer::Printer};

/// A model whose files and text were found to be in order; its weights are not read yet.
pub(crate) struct Opened {
    pub(crate) name: String,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) text: Windows,
}

/// Where a text comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum From<'a> {
    Files(&'a [PathBuf]),
    /// The documents of tasks with their right answers.
    Tasks(&'a [Asked]),
}

/// Opens the model at `path` and reads a text with its tokenizer.
pub(crate) fn open(
    path: &Path,
    from: From<'_>,
    cut: &CutArgs,
    printer: &Printer,
) -> anyhow::Result<Opened> {
    let checkpoint = model::open(path)?;
    let (tokenizer, text) = tokenised(&checkpoint, from, cut, printer)?;
    Ok(Opened { name: path.display().to_string(), checkpoint, tokenizer, text })
}

/// Reads `files` with the tokenizer of a model that is open.
pub(crate) fn for_model(
    checkpoint: &Checkpoint,
    files: &[PathBuf],
    cut: &CutArgs,
    printer: &Printer,
) -> anyhow::Result<Windows> {
    Ok(tokenised(checkpoint, From::Files(files), cut, printer)?.1)
}

fn tokenised(
    checkpoint: &Checkpoint,
    from: From<'_>,
    cut: &CutArgs,
    printer: &Printer,
) -> anyhow::Result<(Tokenizer, Windows)> {
    let tokenizer = model::tokenizer(checkpoint)?;
    model::compare_vocabularies(checkpoint.spec(), &tokenizer, printer);
    let bos = cut.bos.of(checkpoint, &tokenizer)?;
    // An encoder's windows always do.
    if bos && cut.bos.given().is_none() && !checkpoint.spec().family.is_encoder() {
        let token = tokenizer.bos_id().and_then(|id| tokenizer.token(id)).unwrap_or_default();
        printer.note(&format!(
            "Every window begins with {token}, as the model's own files ask; --no-bos leaves it out."
        ));
    }
    let windows = windows(from, cut, bos, checkpoint.spec(), &tokenizer)?;
    Ok((tokenizer, windows))
}

/// Tokens in a window where nothing else is said and the model's context allows it.
pub(crate) const WINDOW: usize = 512;

/// Reads a text for a model, refusing windows beyond its context.
fn windows(
    from: From<'_>,
    cut: &CutArgs,
    bos: bool,
    spec: &ModelSpec,
    tokenizer: &Tokenizer,
) -> anyhow::Result<Windows> {
    let context = spec.max_position_embeddings;
    let window = cut.window.unwrap_or(WINDOW.min(context));
    if window > context {
        return Err(usage(format!(
            "--window {window} is longer than the model's context of {context} tokens; use --window \
             {context} or less"
        )));
    }
    // An encoder was trained on texts between the token that begins them and the one that ends them.
    let encoder = spec.family.is_encoder();
    let files = match from {
        From::Files(files) => files.to_vec(),
        From::Tasks(asked) => {
            asked.iter().map(|asked| format!("documents of {}", asked.task).into()).collect()
        }
    };
    let options = TextOptions {
        files,
        window,
        max_tokens: cut.max_tokens,
        bos: bos || encoder,
        closed: encoder,
    };
    let read = match from {
        From::Files(_) => read_windows(tokenizer, &options, spec.vocab_size),
        From::Tasks(asked) => {
            let answered: Vec<String> = asked
                .iter()
                .flat_map(|asked| &asked.documents)
                .map(|document| document.question.answered())
                .collect();
            let answered = answered.iter().map(String::as_str);
            cut_windows(tokenizer, answered, &options, spec.vocab_size)
        }
    };
    let windows = read.map_err(|error| match error {
        CorpusError::Tokenizer(TokenizerError::UnknownWord { word })
            if tokenizer.fingerprint() == language() => usage(format!(
            "the model was trained on the built-in language and reads only its words; \"{word}\" is none \
             of them. Give text in that language, as `lns generate MODEL --prompt 'anna leads' \
             --temperature 1` writes it, or a model that was trained on text (lns train --text)"
        )),
        other => other.into(),
    })?;
    if spec.prediction != Prediction::MaskedToken {
        return Ok(windows);
    }
    let mask = tokenizer.mask_id().ok_or_else(|| {
        usage(
            "the model predicts masked tokens, and its tokenizer names no [MASK] to put in their places; put \
             the tokenizer.json that it was trained with beside its weights",
        )
    })?;
    tokenizer.check_id(mask, spec.vocab_size)?;
    Ok(windows.masked(mask, MASKING))
}

/// Which tokens a model of masked tokens is asked for: as many as in its training (Devlin et al., arXiv
/// 1810.04805, §3.1), always the same.
const MASKING: MaskingRecord = MaskingRecord { share: 0.15, seed: 0 };

/// The fingerprint of the built-in language's tokenizer, which has the same words for every seed.
fn language() -> String {
    Language::new(0).tokenizer().fingerprint()
}

/// How much text there is, for a person.
pub(crate) fn described(text: &Windows) -> String {
    let windows = text.windows.len();
    let masked = text.masking.map_or_else(String::new, |masking| {
        let share = 100.0 * masking.share;
        format!(" {share:.0} % of each are masked (seed {}), and what is predicted.", masking.seed)
    });
    format!("Text: {} of {} tokens.{masked}", counted(windows, "window"), text.window)
}
