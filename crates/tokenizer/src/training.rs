//! A tokenizer of one's own: byte-level BPE with GPT-2's way to split text, and `<|endoftext|>` as
//! token 0. Like every tokenizer it can be saved as Hugging Face's two files.
//!
//! The library's trainer breaks ties between pairs by their ids and counts words in whole numbers,
//! so the same text gives the same tokenizer, whatever the number of threads.

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer,
};

use crate::guard::guarded;
use crate::{Cut, Tokenizer, TokenizerError};

const END_OF_TEXT: &str = "<|endoftext|>";
/// The library counts pairs in 32 bits.
const MAX_TEXT_BYTES: u64 = 1 << 30;
/// A longer word is learned from in parts. A merge moves the rest of its word for each pair, so the
/// library takes time in the square of a word's length: 17 s for 160 kB of one letter, against a
/// tenth of a second in parts. The longest word of prose has some dozens of bytes.
const MAX_WORD_BYTES: usize = 4096;

impl Tokenizer {
    /// Where the text that a BPE is trained on may be cut: where the tokenizer that is to be may.
    pub const TRAINING_CUT: Cut = Cut::Split;

    /// Trains a byte-level BPE of `vocab_size` tokens on the first `max_bytes` (at most 1 GiB) of
    /// these texts. A text with [places to cut](Self::TRAINING_CUT) may come in pieces. Every text
    /// can be tokenised with what comes out, and `<|endoftext|>` ends texts.
    ///
    /// # Errors
    /// What a text's place says, a vocabulary of fewer than 257 tokens (bytes and the end of text),
    /// or text too short to find so many.
    pub fn train_bpe<E: From<TokenizerError> + Send>(
        texts: impl Iterator<Item = Result<String, E>> + Send,
        vocab_size: usize,
        max_bytes: u64,
    ) -> Result<Self, E> {
        let alphabet = ByteLevel::alphabet();
        let smallest = alphabet.len() + 1;
        if vocab_size < smallest {
            return Err(TokenizerError::VocabularyTooSmall { wanted: vocab_size, smallest }.into());
        }
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocab_size)
            .show_progress(false)
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .initial_alphabet(alphabet.into_iter().collect())
            .build();
        let bytes = ByteLevel::new(false, true, true);
        let mut failure = None;
        let texts = Beginning { texts, left: max_bytes.min(MAX_TEXT_BYTES) };
        // The library takes no errors: the text ends at one.
        let texts = texts.map_while(|text| text.map_err(|error| failure = Some(error)).ok());
        let trained = guarded(|| {
            trainer.feed(texts, |text| words(bytes, text))?;
            let mut model = BPE::default();
            let special = trainer.train(&mut model)?;
            let mut tokenizer = tokenizers::Tokenizer::new(model);
            tokenizer.with_pre_tokenizer(Some(bytes)).with_decoder(Some(bytes));
            tokenizer.add_special_tokens(special)?;
            Ok::<_, tokenizers::Error>(tokenizer)
        });
        if let Some(failure) = failure {
            return Err(failure);
        }
        let tokenizer = trained.map_err(|reason| TokenizerError::TrainTokenizer { reason })?;
        let reached = tokenizer.get_vocab_size(true);
        if reached < vocab_size {
            return Err(TokenizerError::VocabularyNotReached { wanted: vocab_size, reached }.into());
        }
        let end_of_text = tokenizer.token_to_id(END_OF_TEXT);
        Self::new(tokenizer, vocab_size, None, end_of_text)
            .map_err(|reason| TokenizerError::TrainTokenizer { reason }.into())
    }
}

/// The words of a text in the letters that stand for bytes, long ones in parts.
fn words(bytes: ByteLevel, text: &str) -> tokenizers::Result<Vec<String>> {
    let mut split = PreTokenizedString::from(text);
    bytes.pre_tokenize(&mut split)?;
    let mut words = Vec::new();
    for (word, _, _) in split.get_splits(OffsetReferential::Original, OffsetType::Byte) {
        let mut rest = word;
        // A letter for a byte has one or two bytes itself.
        while let Some((end, _)) = rest.char_indices().nth(MAX_WORD_BYTES) {
            words.push(rest[..end].to_owned());
            rest = &rest[end..];
        }
        words.push(rest.to_owned());
    }
    Ok(words)
}

/// Text up to a number of bytes.
struct Beginning<I> {
    texts: I,
    left: u64,
}

impl<E, I: Iterator<Item = Result<String, E>>> Iterator for Beginning<I> {
    type Item = Result<String, E>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        Some(self.texts.next()?.map(|mut text| {
            let left = usize::try_from(self.left).unwrap_or(usize::MAX);
            text.truncate(text.floor_char_boundary(left));
            self.left = self.left.saturating_sub(text.len() as u64);
            text
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::LazyLock;

    use lns_testing::vocabularies::text;
    use proptest::prelude::*;
    use tempfile::tempdir;
    use tokenizers::models::TrainerWrapper;

    use super::*;
    use crate::tiny::tokenizers;

    fn prose() -> Vec<String> {
        let prose = "The river rose in the night, and by morning the barns were lost. ";
        let more: String = (0..2000).map(|n| format!("It rose {n} feet {}. ", n % 7)).collect();
        vec![prose.repeat(50) + &more, "Nobody had seen such a morning.".repeat(20)]
    }

    fn train(texts: &[String], vocab_size: usize) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::train_bpe(texts.iter().cloned().map(Ok), vocab_size, u64::MAX)
    }

    fn trained() -> &'static Tokenizer {
        static TRAINED: LazyLock<Tokenizer> = LazyLock::new(|| train(&prose(), 400).unwrap());
        &TRAINED
    }

    fn reloaded(tokenizer: &Tokenizer) -> Tokenizer {
        let folder = tempdir().unwrap();
        tokenizer.save(folder.path()).unwrap();
        Tokenizer::from_json_file(&folder.path().join("tokenizer.json")).unwrap()
    }

    proptest! {
        #[test]
        fn any_text_comes_back_and_its_ids_are_the_same_after_a_reload(text in text()) {
            static RELOADED: LazyLock<Tokenizer> = LazyLock::new(|| reloaded(trained()));
            let encoding = trained().encode(&text).unwrap();
            prop_assert_eq!(trained().decode(&encoding.ids).unwrap(), &*text);
            prop_assert_eq!(RELOADED.encode(&text).unwrap(), encoding);
        }
    }

    #[test]
    fn the_same_text_gives_the_same_tokenizer() {
        for _ in 0..3 {
            let again = train(&prose(), 400).unwrap();
            assert_eq!(again.to_json(), trained().to_json());
            assert_eq!(again.fingerprint(), trained().fingerprint());
        }
        let other = train(&prose(), 399).unwrap();
        assert_ne!(other.fingerprint(), trained().fingerprint());
    }

    #[test]
    fn ordinary_text_gives_the_tokenizer_that_the_library_trains_by_itself() {
        let ours = train(&prose(), 400).unwrap();
        let alphabet = ByteLevel::alphabet().into_iter().collect();
        let mut trainer: TrainerWrapper = BpeTrainer::builder()
            .vocab_size(400)
            .show_progress(false)
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .initial_alphabet(alphabet)
            .build()
            .into();
        let mut theirs = tokenizers::Tokenizer::new(BPE::default());
        let bytes = ByteLevel::new(false, true, true);
        theirs.with_pre_tokenizer(Some(bytes)).with_decoder(Some(bytes));
        theirs.train(&mut trainer, prose().iter()).unwrap();
        assert_eq!(ours.to_json(), theirs.to_string(false).unwrap());
    }

    #[test]
    fn a_word_without_end_is_learned_from_in_parts() {
        // The words of a text may be told from how often their parts occur.
        let bytes = ByteLevel::new(false, true, true);
        for unbroken in ["a", "e\u{301}", "\u{200d}", "漢", "\u{1f469}\u{200d}"] {
            let text = unbroken.repeat(160_000 / unbroken.len());
            let words = words(bytes, &text).unwrap();
            assert!(words.iter().all(|word| word.chars().count() <= MAX_WORD_BYTES));
            let mut whole = PreTokenizedString::from(&*text);
            bytes.pre_tokenize(&mut whole).unwrap();
            let whole = whole.get_splits(OffsetReferential::Original, OffsetType::Byte);
            let whole: String = whole.into_iter().map(|(word, _, _)| word).collect();
            assert_eq!(words.concat(), whole);
        }
        let tokenizer = train(&["a".repeat(160_000)], 266).unwrap();
        assert_eq!(tokenizer.encode(&"a".repeat(2048)).unwrap().ids.len(), 4);
    }

    #[test]
    fn frequent_words_become_tokens_and_long_texts_can_be_cut() {
        let ids = trained().encode(" river river").unwrap().ids;
        assert_eq!(ids.len(), 2);
        assert!(ids[0] == ids[1] && ids[0] > 256);
        assert_eq!(trained().vocab_size(), 400);
        assert_eq!(trained().cut(), Some(Cut::Split));
    }

    #[test]
    fn no_more_text_is_looked_at_than_allowed() {
        let train = |texts: &[&str], most| {
            let texts = texts.iter().map(|text| Ok::<_, TokenizerError>((*text).to_owned()));
            Tokenizer::train_bpe(texts, 280, most).unwrap().to_json()
        };
        let text = &*prose().concat();
        let some = train(&[text], 1000);
        let (first, rest) = text.split_at(Tokenizer::TRAINING_CUT.last_in(&text[..600]).unwrap());
        assert_eq!(train(&[first, &rest[..1000 - first.len()]], u64::MAX), some);
        assert_eq!(train(&[first, rest], 1000), some);
        assert_ne!(train(&[text], u64::MAX), some);
        // Half a character is none.
        assert_eq!(train(&[&text[..1000], "é"], 1001), some);
    }

    #[test]
    fn an_error_in_the_text_is_the_error_of_the_training() {
        let bad = || TokenizerError::Encode { bytes: 7, reason: "of the text".to_owned() };
        let texts = prose().into_iter().map(Ok).chain([Err(bad()), Ok("more".to_owned())]);
        let error = Tokenizer::train_bpe(texts, 280, u64::MAX).unwrap_err();
        assert_eq!(error.to_string(), bad().to_string());
    }

    #[test]
    fn a_vocabulary_out_of_reach_is_an_error_with_what_can_be_reached() {
        let train = |size| train(&["ab ab".to_owned()], size);
        // a b, and the space with them.
        let message = train(300).unwrap_err().to_string();
        assert!(message.contains("enough for a vocabulary of 259 tokens, not of 300"), "{message}");
        assert_eq!(train(259).unwrap().vocab_size(), 259);
        assert_eq!(train(257).unwrap().vocab_size(), 257);
        let message = train(256).unwrap_err().to_string();
        assert!(message.contains("at least 257 tokens; 256 were asked for"), "{message}");
    }

    #[test]
    fn a_saved_tokenizer_is_the_same_when_it_is_read() {
        let golden = tokenizers().iter().chain([trained()]);
        for tokenizer in golden {
            let again = reloaded(tokenizer);
            assert_eq!(again.to_json(), tokenizer.to_json());
            assert_eq!(again.vocab_size(), tokenizer.vocab_size());
            assert_eq!(again.end_of_text_id(), tokenizer.end_of_text_id());
        }
        assert_eq!(trained().end_of_text_id(), Some(0));
        let other = reloaded(trained()).with_end_of_text(300);
        assert_eq!(reloaded(&other).end_of_text_id(), Some(300));
        assert_eq!(reloaded(&reloaded(&other)).fingerprint(), trained().fingerprint());
    }

    #[test]
    fn a_tokenizer_config_that_is_none_is_named() {
        let folder = tempdir().unwrap();
        trained().save(folder.path()).unwrap();
        let read = |config: &str| {
            fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
            Tokenizer::from_json_file(&folder.path().join("tokenizer.json"))
        };
        let message = read("[").unwrap_err().to_string();
        assert!(message.contains("not a usable tokenizer_config.json"), "{message}");
        assert_eq!(read("{\"eos_token\": {\"content\": 1}}").unwrap().end_of_text_id(), Some(0));
        assert_eq!(read("{\"lns_end_of_text\": \"<gone>\"}").unwrap().end_of_text_id(), None);
    }
}
