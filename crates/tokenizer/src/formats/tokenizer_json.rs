//! Hugging Face's `tokenizer.json`.

use std::path::Path;

use lns_record::read_regular;
use tokenizers::ModelWrapper;

use super::tokenizer_config::TokenizerConfig;
use crate::guard::guarded;
use crate::limits;
use crate::tokenizer::{BEGIN_OF_TEXT, END_OF_TEXT};
use crate::{Tokenizer, TokenizerError};

/// The file's name in a model's folder.
pub(crate) const FILE: &str = "tokenizer.json";
/// The largest file that is read; Gemma's, with 262,144 tokens, has 33 MB.
pub(crate) const MAX_BYTES: u64 = 512 << 20;
/// Far beyond any vocabulary: the library takes time and memory for ids that are not used.
const MAX_VOCAB: usize = 1 << 24;

impl Tokenizer {
    /// Reads a Hugging Face `tokenizer.json`. Truncation and padding that it asks for are dropped.
    ///
    /// The end-of-text token is the one that [`Tokenizer::save`] noted, if it did. Else that one and
    /// the beginning-of-sequence token are found by their usual names; the model's `config.json`
    /// knows better ([`Tokenizer::with_bos`], [`Tokenizer::with_end_of_text`]).
    pub fn from_json_file(path: &Path) -> Result<Self, TokenizerError> {
        let failed = |source| TokenizerError::Io { path: path.to_owned(), source };
        let json = read_regular(path, MAX_BYTES).map_err(failed)?;
        let mut tokenizer = Self::from_json(&json, path)?;
        let config = TokenizerConfig::beside(path)?;
        if let Some(token) = config.end_of_text()? {
            tokenizer.end_of_text = tokenizer.inner.token_to_id(token);
        }
        Ok(tokenizer)
    }

    /// The same from the text of a `tokenizer.json`, with nothing beside it; `source` names it in
    /// messages.
    pub fn from_json(json: &[u8], source: &Path) -> Result<Self, TokenizerError> {
        let refused = |reason| TokenizerError::TokenizerJson { path: source.to_owned(), reason };
        limits::check(json).map_err(refused)?;
        let inner = guarded(|| tokenizers::Tokenizer::from_bytes(json)).map_err(refused)?;
        if let ModelWrapper::BPE(bpe) = inner.get_model()
            && bpe.dropout.is_some_and(|dropout| dropout > 0.0)
        {
            return Err(refused("model.dropout makes tokens random; set it to null".to_owned()));
        }
        let vocab = inner.get_vocab(true);
        let vocab_size = vocab.values().max().map_or(0, |&id| id as usize + 1);
        if vocab_size == 0 {
            return Err(refused("the vocabulary is empty".to_owned()));
        }
        if vocab_size > MAX_VOCAB {
            return Err(refused(format!("a token has id {}", vocab_size - 1)));
        }
        let added = inner.get_added_vocabulary().get_vocab();
        let named = |names: &[&str]| names.iter().find_map(|name| added.get(*name).copied());
        let bos = named(&BEGIN_OF_TEXT);
        let end_of_text = named(&END_OF_TEXT);
        Self::new(inner, vocab_size, bos, end_of_text).map_err(refused)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;

    /// A `tokenizer.json` of five tokens, changed.
    pub(crate) fn from_json(change: impl FnOnce(&mut Value)) -> Result<Tokenizer, TokenizerError> {
        let special = |id: u32, content: &str| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        };
        let mut json = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [special(3, "<s>"), special(5, "</s>")],
            "normalizer": null, "post_processor": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<s>": 3, "Ġ": 4},
                      "merges": [["a", "b"]]},
        });
        change(&mut json);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        fs::write(&path, json.to_string()).unwrap();
        Tokenizer::from_json_file(&path)
    }

    #[test]
    fn a_tokenizer_json_is_read() {
        let tokenizer = from_json(|_| ()).unwrap();
        assert_eq!(tokenizer.vocab_size(), 6, "</s> has id 5");
        assert_eq!((tokenizer.bos_id(), tokenizer.end_of_text_id()), (Some(3), Some(5)));
        let encoding = tokenizer.encode("ab ab</s>").unwrap();
        assert_eq!(encoding.ids, [2, 4, 2, 5]);
        assert_eq!(encoding.bytes, [2, 1, 2, 4]);
        assert_eq!(tokenizer.decode(&encoding.ids).unwrap(), "ab ab</s>");
    }

    #[test]
    fn nothing_is_added_cut_off_or_filled_up() {
        let tokenizer = from_json(|json| {
            json["truncation"] = json!({"max_length": 1, "strategy": "LongestFirst", "stride": 0,
                                        "direction": "Right"});
            json["padding"] = json!({"strategy": {"Fixed": 8}, "direction": "Right",
                "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"});
            json["post_processor"] = json!({"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}}});
        })
        .unwrap();
        assert_eq!(tokenizer.encode("ab ab").unwrap().ids, [2, 4, 2]);
    }

    #[test]
    fn a_bad_tokenizer_json_is_an_error() {
        let message = |change: fn(&mut Value)| from_json(change).unwrap_err().to_string();
        assert!(message(|json| *json = json!([1])).contains("not a usable tokenizer.json"));
        assert!(message(|json| json["model"]["dropout"] = json!(0.5)).contains("dropout"));
        assert!(
            message(|json| {
                json["model"] = json!({"type": "BPE", "vocab": {}, "merges": []});
                json["added_tokens"] = json!([]);
            })
            .contains("the vocabulary is empty")
        );
        assert!(message(|json| json["model"]["vocab"]["Ġ"] = json!(u32::MAX)).contains("has id"));
        let absent = Tokenizer::from_json_file(Path::new("no/such/tokenizer.json")).unwrap_err();
        assert!(absent.to_string().contains("no/such/tokenizer.json: cannot be read"));
    }

    #[test]
    fn a_vocabulary_that_makes_the_library_panic_is_an_error() {
        // The library keeps room for the longest token only, and this merge makes a longer one.
        let error = from_json(|json| json["model"]["merges"] = json!([["<s>", "ab"]])).unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
    }

    #[test]
    fn files_that_take_all_memory_are_refused_before_they_do() {
        let charsmap = json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="});
        let error = from_json(|json| json["normalizer"] = charsmap).unwrap_err().to_string();
        assert!(error.contains("its trie has 4294967295 bytes"), "{error}");
        let step = json!({"type": "Replace", "pattern": {"String": "a"},
            "content": "a".repeat(100)});
        let bomb = |count| json!({"type": "Sequence", "normalizers": vec![step.clone(); count]});
        let error = from_json(|json| json["normalizer"] = bomb(6)).unwrap_err().to_string();
        assert!(error.contains("of its added tokens"), "{error}");
        let tokenizer = from_json(|json| json["normalizer"] = bomb(3)).unwrap();
        let error = tokenizer.encode(&"a".repeat(1000)).unwrap_err().to_string();
        assert!(error.contains("split the text into several documents"), "{error}");
    }
}
