//! Decoding token by token, for generation: text comes out as soon as it is certain, and never half
//! a UTF-8 character.
//!
//! How a token decodes can depend on those before it (a leading space, the bytes of one character),
//! so each new token is decoded behind the tokens of the last text given out, and only what is new
//! is given out.

use crate::{Tokenizer, TokenizerError};

/// Turns tokens that come one at a time into text; made by [`Tokenizer::stream_decoder`].
#[derive(Debug)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    /// Tokens of the last text given out, then those that wait.
    ids: Vec<u32>,
    /// How many of `ids` have been given out.
    given: usize,
}

impl Tokenizer {
    /// A decoder for tokens that come one at a time.
    pub fn stream_decoder(&self) -> StreamDecoder<'_> {
        StreamDecoder { tokenizer: self, ids: Vec::new(), given: 0 }
    }
}

impl StreamDecoder<'_> {
    /// The same decoder, as if `prompt` had been given out: a word that goes on after it keeps its
    /// leading space.
    #[must_use]
    pub fn after(self, prompt: &[u32]) -> Self {
        Self { ids: prompt.to_vec(), given: prompt.len(), ..self }
    }

    /// Takes the next token; gives the text that is now certain, if there is any.
    pub fn push(&mut self, id: u32) -> Option<String> {
        self.ids.push(id);
        // A text that ends in U+FFFD may be the beginning of a character whose other bytes come.
        let text = self.pending().ok()?;
        if text.is_empty() || text.ends_with('\u{FFFD}') {
            return None;
        }
        self.ids.drain(..self.given);
        self.given = self.ids.len();
        Some(text)
    }

    /// Gives the text still held back: what it lacked did not come, so it ends in U+FFFD.
    pub fn finish(self) -> Option<String> {
        self.pending().ok().filter(|text| !text.is_empty())
    }

    fn pending(&self) -> Result<String, TokenizerError> {
        let (given, waiting) = self.ids.split_at(self.given);
        let before = self.tokenizer.decode(given)?;
        let all = self.tokenizer.decode(&self.ids)?;
        match all.strip_prefix(&before) {
            Some(text) => Ok(text.to_owned()),
            // A stray byte can spoil its neighbours' decoding in a byte-fallback vocabulary.
            None => self.tokenizer.decode(waiting),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::tiny::{build, tokenizers};
    use lns_testing::vocabularies::{byte_level, sentencepiece, text};

    proptest! {
        #[test]
        fn what_streams_out_is_the_text(text in text()) {
            for tokenizer in tokenizers() {
                let ids = tokenizer.encode(&text).unwrap().ids;
                let mut decoder = tokenizer.stream_decoder();
                let mut streamed: String = ids.iter().filter_map(|&id| decoder.push(id)).collect();
                streamed.extend(decoder.finish());
                prop_assert_eq!(streamed, tokenizer.decode(&ids).unwrap());
            }
        }

        #[test]
        fn any_ids_stream_without_panicking(ids in prop::collection::vec(0..600u32, 0..40)) {
            for tokenizer in tokenizers() {
                let mut decoder = tokenizer.stream_decoder();
                for &id in &ids {
                    let half = decoder.push(id).is_some_and(|text| text.ends_with('\u{FFFD}'));
                    prop_assert!(!half);
                }
                decoder.finish();
            }
        }
    }

    #[test]
    fn a_character_comes_out_whole_when_its_last_byte_has_come() {
        for gguf in [byte_level("smollm"), sentencepiece()] {
            let tokenizer = build(&gguf);
            let ids = tokenizer.encode("😀").unwrap().ids;
            let bytes = &ids[ids.len() - 4..];
            let mut decoder = tokenizer.stream_decoder();
            let given: Vec<_> = bytes.iter().map(|&id| decoder.push(id)).collect();
            assert_eq!(given, [None, None, None, Some("😀".to_owned())]);
            assert_eq!(decoder.finish(), None);
        }
    }

    #[test]
    fn a_character_that_never_ends_comes_out_at_the_finish() {
        let tokenizer = build(&byte_level("smollm"));
        let ids = tokenizer.encode("😀").unwrap().ids;
        let mut decoder = tokenizer.stream_decoder();
        assert_eq!(decoder.push(ids[0]), None);
        assert_eq!(decoder.finish(), Some("\u{FFFD}".to_owned()));
    }

    #[test]
    fn a_word_after_the_prompt_keeps_its_space() {
        let tokenizer = build(&sentencepiece());
        let prompt = tokenizer.encode("The").unwrap().ids;
        let word = tokenizer.encode("river").unwrap().ids;
        let mut decoder = tokenizer.stream_decoder().after(&prompt);
        let text: String = word.iter().filter_map(|&id| decoder.push(id)).collect();
        assert_eq!(text, " river");
    }
}
