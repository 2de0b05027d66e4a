//! A tokenizer as the metadata of a GGUF file: the way back from [`gguf`](crate::gguf).
//!
//! Byte-level BPE is a `gpt2` vocabulary, whose way to split text must have a name. SentencePiece BPE
//! is a `llama` vocabulary: its merges follow from scores, which are made so that they do. Tokens are
//! filled up to the model's rows as llama.cpp's `convert_hf_to_gguf.py` does it.

use std::collections::HashMap;
use std::path::Path;

use lns_checkpoint::GgufTokenizer;
use serde::Deserialize;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, ModelWrapper, NormalizedString, Normalizer};

use crate::gguf::{BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, is_prefixed};
use crate::tokenizer::guarded;
use crate::{DataError, Tokenizer, pre_tokenizer};

/// What BPE is, as the library writes it.
#[derive(Deserialize, PartialEq)]
struct Bpe {
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    byte_fallback: bool,
    ignore_merges: bool,
    merges: Vec<(String, String)>,
}

impl Tokenizer {
    /// The metadata of a GGUF file with this tokenizer, for a model of `vocab_size` embeddings; ids
    /// without a token become unused ones. The beginning of a text and its end are
    /// [`Tokenizer::bos_id`] and [`Tokenizer::end_of_text_id`]; whether the former is to be added is
    /// not known here.
    ///
    /// Text becomes the same tokens, with one exception: where a SentencePiece tokenizer splits with
    /// `Metaspace`, text that begins with a space (or follows a special token) gets one more space in
    /// front in a GGUF file, as SentencePiece itself has it.
    ///
    /// # Errors
    /// A tokenizer that a GGUF file cannot say, and one with more tokens than embeddings.
    pub fn to_gguf(
        &self,
        vocab_size: usize,
        chat_template: Option<String>,
    ) -> Result<GgufTokenizer, DataError> {
        if self.vocab_size() > vocab_size {
            let id = self.vocab_size() as u32 - 1;
            return Err(DataError::IdBeyondVocabulary {
                id,
                token: self.token(id).unwrap_or_default(),
                tokenizer_vocab: self.vocab_size(),
                model_vocab: vocab_size,
            });
        }
        let gguf = self.metadata(vocab_size).map_err(|what| DataError::NotForGguf { what })?;
        Ok(GgufTokenizer { chat_template, ..gguf })
    }

    fn metadata(&self, vocab_size: usize) -> Result<GgufTokenizer, String> {
        let ModelWrapper::BPE(_) = self.inner.get_model() else {
            return Err("its model is not BPE".to_owned());
        };
        let bpe = bpe(&self.inner)?;
        let has_affix =
            |affix: &Option<String>| affix.as_ref().is_some_and(|text| !text.is_empty());
        if has_affix(&bpe.continuing_subword_prefix) || has_affix(&bpe.end_of_word_suffix) {
            return Err("it marks where words go on or end".to_owned());
        }
        self.refuse_added_tokens()?;
        let id = |token: &String| self.inner.token_to_id(token);
        let mut gguf = GgufTokenizer {
            bos_token_id: self.bos_id(),
            eos_token_id: self.end_of_text_id(),
            unknown_token_id: bpe.unk_token.as_ref().and_then(id),
            ..GgufTokenizer::default()
        };
        (gguf.tokens, gguf.token_types) = self.tokens_and_types(&bpe, vocab_size);
        if bpe.byte_fallback {
            self.describe_sentencepiece(&bpe, &mut gguf)?;
        } else {
            self.describe_byte_level(&bpe, &mut gguf)?;
        }
        // What is read from the file must be what was put into it.
        let again = crate::gguf::tokenizer(&gguf, Path::new("the tokenizer"))
            .map_err(|error| error.to_string())?;
        let read = self::bpe(&again)?;
        match bpe.merges.iter().zip(&read.merges).position(|(one, other)| one != other) {
            None if bpe.merges.len() == read.merges.len() => Ok(gguf),
            difference => {
                let index = difference.unwrap_or(bpe.merges.len().min(read.merges.len()));
                Err(format!("its merges do not follow from scores, from merge {index} on"))
            }
        }
    }

    fn describe_byte_level(&self, bpe: &Bpe, gguf: &mut GgufTokenizer) -> Result<(), String> {
        let lacks_bytes = || {
            ByteLevel::alphabet().iter().any(|c| self.inner.token_to_id(&c.to_string()).is_none())
        };
        if bpe.unk_token.is_some() && lacks_bytes() {
            return Err("its vocabulary lacks bytes, and has a token for unknown ones".to_owned());
        }
        let (normalizer, split) = (self.inner.get_normalizer(), self.inner.get_pre_tokenizer());
        let pre = pre_tokenizer::name(normalizer, split, bpe.ignore_merges).ok_or_else(|| {
            format!(
                "the way it splits text before BPE has no name in GGUF files that is known here \
                 (known: {})",
                pre_tokenizer::KNOWN
            )
        })?;
        let has_space =
            |(left, right): &&(String, String)| left.contains(' ') || right.contains(' ');
        if let Some((left, right)) = bpe.merges.iter().find(has_space) {
            return Err(format!("it merges \"{left}\" and \"{right}\", with a space in them"));
        }
        gguf.model = "gpt2".to_owned();
        gguf.pre = Some(pre.to_owned());
        gguf.merges = bpe.merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
        Ok(())
    }

    fn describe_sentencepiece(&self, bpe: &Bpe, gguf: &mut GgufTokenizer) -> Result<(), String> {
        let byte = |byte: u8| self.inner.token_to_id(&format!("<0x{byte:02X}>"));
        if let Some(missing) = (0..=u8::MAX).find(|value| byte(*value).is_none()) {
            return Err(format!("it has no token <0x{missing:02X}> for that byte"));
        }
        if bpe.ignore_merges {
            return Err("it looks words up before it merges (ignore_merges)".to_owned());
        }
        let (normalizer, split) = (self.inner.get_normalizer(), self.inner.get_pre_tokenizer());
        let prefixed = is_prefixed(normalizer, split).ok_or(
            "it neither prepares text as SentencePiece does nor has a name for how it splits it",
        )?;
        gguf.model = "llama".to_owned();
        // What llama.cpp's converter writes; it means nothing for this model.
        gguf.pre = Some("default".to_owned());
        gguf.add_space_prefix = Some(prefixed);
        gguf.scores = scores(&gguf.tokens, &bpe.merges);
        Ok(())
    }

    fn tokens_and_types(&self, bpe: &Bpe, vocab_size: usize) -> (Vec<String>, Vec<i32>) {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let is_byte = |token: &str| {
            token.len() == 6
                && token.starts_with("<0x")
                && token.ends_with('>')
                && u8::from_str_radix(&token[3..5], 16).is_ok()
        };
        let describe = |id: u32| match (self.token(id), added.get(&id)) {
            (None, _) => (format!("[PAD{id}]"), UNUSED),
            (Some(token), Some(added)) => {
                (token, if added.special { CONTROL } else { USER_DEFINED })
            }
            (Some(token), None) if bpe.byte_fallback && is_byte(&token) => (token, BYTE),
            (Some(token), None) if bpe.unk_token.as_ref() == Some(&token) => (token, UNKNOWN),
            (Some(token), None) => (token, NORMAL),
        };
        // A vocabulary has at most 2²⁴ tokens.
        (0..vocab_size as u32).map(describe).unzip()
    }

    /// In a GGUF file an added token is found wherever it stands in the text, and nothing but it.
    fn refuse_added_tokens(&self) -> Result<(), String> {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let normalizer = self.inner.get_normalizer();
        let changes = |token: &AddedToken| {
            let mut text = NormalizedString::from(token.content.as_str());
            let normalized =
                normalizer.map(|normalizer| guarded(|| normalizer.normalize(&mut text)));
            normalized.is_some_and(|result| result.is_err()) || text.get() != token.content
        };
        let mut tokens: Vec<_> = added.iter().collect();
        tokens.sort_unstable_by_key(|(id, _)| **id);
        for (id, token) in tokens {
            let fault = if token.lstrip || token.rstrip {
                "takes the white space beside it"
            } else if token.single_word {
                "is found only as a whole word"
            } else if token.normalized && !token.special && changes(token) {
                "is found only after the text is normalised"
            } else {
                continue;
            };
            return Err(format!("its added token {id}, \"{}\", {fault}", token.content));
        }
        Ok(())
    }
}

fn bpe(tokenizer: &tokenizers::Tokenizer) -> Result<Bpe, String> {
    let text = serde_json::to_string(tokenizer.get_model()).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

/// Scores from which the merges follow: a token's is the lower the later it is first merged.
fn scores(tokens: &[String], merges: &[(String, String)]) -> Vec<f32> {
    let mut places: HashMap<String, usize> = HashMap::new();
    for (left, right) in merges {
        let next = places.len();
        places.entry(format!("{left}{right}")).or_insert(next);
    }
    // Fewer than 2²⁴ places, so each is an f32.
    tokens.iter().map(|token| -(*places.get(token).unwrap_or(&places.len()) as f32)).collect()
}
