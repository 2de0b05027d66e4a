//! How text is split before byte-level BPE, by the name that GGUF files give it
//! (`tokenizer.ggml.pre`): the pipeline of the model's original `tokenizer.json`. llama.cpp's
//! `llama-vocab.cpp` says which models a name stands for.

use serde_json::Value;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, SplitDelimiterBehavior};

/// Llama 3: digits in threes.
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Qwen 2: digits one by one.
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Mistral's Tekken: a word begins at a capital, digits one by one.
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// SentencePiece's spelling of a space.
pub(crate) const SPACE: char = '▁';

/// Patterns whose matches cover any text, and of which none reaches from a character that is not
/// white space over the space that follows it.
pub(crate) const TILING: [&str; 3] = [LLAMA3, QWEN2, TEKKEN];

/// The names that [`byte_level`] knows.
pub(crate) const KNOWN: &str = "gpt-2, phi-2, default, smollm, starcoder, llama-bpe, llama3, llama-v3, qwen2, \
     deepseek-r1-qwen, tekken";

/// What comes before BPE, and one rule of BPE that goes with it.
pub(crate) struct Pipeline {
    pub(crate) normalizer: Option<NormalizerWrapper>,
    pub(crate) pre_tokenizer: PreTokenizerWrapper,
    /// A word that is in the vocabulary is one token, whatever the merges say.
    pub(crate) ignore_merges: bool,
}

/// The pipeline that `tokenizer.ggml.pre` stands for; `None` for a name that is not known.
pub(crate) fn byte_level(name: &str) -> Option<tokenizers::Result<Pipeline>> {
    let gpt2 = || ByteLevel::new(false, true, true).into();
    Some(match name {
        "gpt-2" | "phi-2" | "default" => Ok(Pipeline::new(gpt2())),
        "smollm" | "starcoder" => {
            let steps = vec![Digits::new(true).into(), gpt2()];
            Ok(Pipeline::new(Sequence::new(steps).into()))
        }
        "llama-bpe" | "llama3" | "llama-v3" => {
            pattern(LLAMA3).map(|split| Pipeline { ignore_merges: true, ..Pipeline::new(split) })
        }
        "qwen2" | "deepseek-r1-qwen" => pattern(QWEN2)
            .map(|split| Pipeline { normalizer: Some(NFC.into()), ..Pipeline::new(split) }),
        "tekken" => {
            pattern(TEKKEN).map(|split| Pipeline { ignore_merges: true, ..Pipeline::new(split) })
        }
        _ => return None,
    })
}

/// The name of a pipeline: the inverse of [`byte_level`].
pub(crate) fn name(
    normalizer: Option<&NormalizerWrapper>,
    pre_tokenizer: Option<&PreTokenizerWrapper>,
    ignore_merges: bool,
) -> Option<&'static str> {
    let given = (described(normalizer, pre_tokenizer)?, ignore_merges);
    ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken"].into_iter().find(|name| {
        let known = byte_level(name).and_then(Result::ok);
        known.is_some_and(|known| {
            let parts = described(known.normalizer.as_ref(), Some(&known.pre_tokenizer));
            parts.is_some_and(|parts| (parts, known.ignore_merges) == given)
        })
    })
}

/// What a pipeline does to text: all but how it counts offsets.
fn described(
    normalizer: Option<&NormalizerWrapper>,
    pre_tokenizer: Option<&PreTokenizerWrapper>,
) -> Option<Value> {
    fn forget_offsets(value: &mut Value) {
        match value {
            Value::Array(values) => values.iter_mut().for_each(forget_offsets),
            Value::Object(entries) => {
                entries.remove("trim_offsets");
                entries.values_mut().for_each(forget_offsets);
            }
            _ => {}
        }
    }
    let mut parts = serde_json::to_value((normalizer, pre_tokenizer)).ok()?;
    forget_offsets(&mut parts);
    Some(parts)
}

impl Pipeline {
    fn new(pre_tokenizer: PreTokenizerWrapper) -> Self {
        Self { normalizer: None, pre_tokenizer, ignore_merges: false }
    }
}

/// Splits by a pattern, then spells each piece in the byte alphabet.
fn pattern(regex: &str) -> tokenizers::Result<PreTokenizerWrapper> {
    let pattern = SplitPattern::Regex(regex.to_owned());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?;
    let bytes = ByteLevel::new(false, true, false);
    Ok(Sequence::new(vec![split.into(), bytes.into()]).into())
}
