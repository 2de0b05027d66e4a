//! A tokenizer of one's own: byte-level BPE with GPT-2's way to split text, and `<|endoftext|>` as
//! token 0. Like every tokenizer it can be saved as Hugging Face's two files.
//!
//! The library's trainer breaks ties between pairs by their ids and counts words in whole numbers,
//! so the same text gives the same tokenizer, whatever the number of threads.

use std::path::{Path, PathBuf};

use lns_record::replace_file;
use serde_json::{Map, Value};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer,
};

use crate::cut::Cut;
use crate::documents::{Pieces, text_files};
use crate::tokenizer::{CONFIG_FILE, END_OF_TEXT_KEY, guarded};
use crate::{DataError, Tokenizer};

const END_OF_TEXT: &str = "<|endoftext|>";
/// The library counts pairs in 32 bits.
const MAX_TEXT_BYTES: u64 = 1 << 30;
/// A longer word is learned from in parts. A merge moves the rest of its word for each pair, so the
/// library takes time in the square of a word's length: 17 s for 160 kB of one letter, against a
/// tenth of a second in parts. The longest word of prose has some dozens of bytes.
const MAX_WORD_BYTES: usize = 4096;

impl Tokenizer {
    /// Trains a byte-level BPE of `vocab_size` tokens on the first `max_bytes` (at most 1 GiB) of the
    /// texts in these files. Every text can be tokenised with it, and `<|endoftext|>` ends texts.
    ///
    /// # Errors
    /// Text that cannot be read or is none, a vocabulary of fewer than 257 tokens (bytes and the end
    /// of text), or text too short to find so many.
    pub fn train_bpe(
        texts: &[PathBuf],
        vocab_size: usize,
        max_bytes: u64,
    ) -> Result<Self, DataError> {
        let alphabet = ByteLevel::alphabet();
        let smallest = alphabet.len() + 1;
        if vocab_size < smallest {
            return Err(DataError::VocabularyTooSmall { wanted: vocab_size, smallest });
        }
        let files = text_files(texts)?;
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocab_size)
            .show_progress(false)
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .initial_alphabet(alphabet.into_iter().collect())
            .build();
        let bytes = ByteLevel::new(false, true, true);
        let mut failure = None;
        let pieces = Texts {
            all: &files,
            files: files.iter(),
            pieces: None,
            given: false,
            left: max_bytes.min(MAX_TEXT_BYTES),
            failure: &mut failure,
        };
        let trained = guarded(|| {
            trainer.feed(pieces, |text| words(bytes, text))?;
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
        let tokenizer = trained.map_err(|reason| DataError::TrainTokenizer { reason })?;
        let reached = tokenizer.get_vocab_size(true);
        if reached < vocab_size {
            return Err(DataError::VocabularyNotReached { wanted: vocab_size, reached });
        }
        let end_of_text = tokenizer.token_to_id(END_OF_TEXT);
        Self::new(tokenizer, vocab_size, None, end_of_text)
            .map_err(|reason| DataError::TrainTokenizer { reason })
    }

    /// Writes `tokenizer.json` and a `tokenizer_config.json` that names the end-of-text token, for
    /// transformers and for [`Tokenizer::from_json_file`].
    ///
    /// # Errors
    /// What the operating system says.
    pub fn save(&self, folder: &Path) -> Result<(), DataError> {
        let name = |id: Option<u32>| id.and_then(|id| self.token(id)).map(Value::String);
        let mut config = Map::new();
        config.insert("tokenizer_class".to_owned(), "PreTrainedTokenizerFast".into());
        config.insert("clean_up_tokenization_spaces".to_owned(), false.into());
        let names = [
            ("bos_token", name(self.bos_id())),
            ("eos_token", name(self.end_of_text_id())),
            (END_OF_TEXT_KEY, name(self.end_of_text_id())),
        ];
        for (key, name) in names {
            config.extend(name.map(|name| (key.to_owned(), name)));
        }
        let config = format!("{:#}\n", Value::Object(config));
        for (file, text) in [("tokenizer.json", self.to_json()), (CONFIG_FILE, config)] {
            let path = folder.join(file);
            replace_file(&path, text.as_bytes())
                .map_err(|source| DataError::Write { path, source })?;
        }
        Ok(())
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

/// The text of files, piece by piece, up to a number of bytes.
struct Texts<'a> {
    all: &'a [PathBuf],
    files: std::slice::Iter<'a, PathBuf>,
    pieces: Option<Pieces>,
    left: u64,
    /// There was some text.
    given: bool,
    /// Where an error goes, which ends the text.
    failure: &'a mut Option<DataError>,
}

impl Texts<'_> {
    fn next_piece(&mut self) -> Result<Option<String>, DataError> {
        loop {
            if let Some(piece) = self.pieces.as_mut().and_then(Iterator::next) {
                return piece.map(|piece| Some(piece.text));
            }
            match self.files.next() {
                // Pieces may be cut where the tokenizer that is to be may be cut.
                Some(file) => self.pieces = Some(Pieces::open(file, Some(Cut::Split))?),
                None => return Ok(None),
            }
        }
    }
}

impl Iterator for Texts<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if self.left == 0 {
            return None;
        }
        match self.next_piece() {
            Ok(Some(mut text)) => {
                let end =
                    text.floor_char_boundary(usize::try_from(self.left).unwrap_or(usize::MAX));
                text.truncate(end);
                self.left = self.left.saturating_sub(text.len() as u64);
                self.given = true;
                Some(text)
            }
            Ok(None) => {
                if !self.given {
                    *self.failure = Some(DataError::NoText { files: self.all.to_vec() });
                }
                None
            }
            Err(error) => {
                *self.failure = Some(error);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use tempfile::{TempDir, tempdir};
    use tokenizers::models::TrainerWrapper;

    use super::*;
    use crate::golden::{text, tokenizers};

    fn prose() -> (TempDir, Vec<PathBuf>) {
        let folder = tempdir().unwrap();
        let [first, second] = ["a.txt", "b.jsonl"].map(|name| folder.path().join(name));
        let prose = "The river rose in the night, and by morning the barns were lost. ";
        let more: String = (0..2000).map(|n| format!("It rose {n} feet {}. ", n % 7)).collect();
        fs::write(&first, prose.repeat(50) + &more).unwrap();
        let line = serde_json::json!({ "text": "Nobody had seen such a morning." });
        fs::write(&second, format!("{line}\n").repeat(20)).unwrap();
        (folder, vec![first, second])
    }

    fn trained() -> &'static Tokenizer {
        static TRAINED: LazyLock<Tokenizer> =
            LazyLock::new(|| Tokenizer::train_bpe(&prose().1, 400, u64::MAX).unwrap());
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
        let (_folder, files) = prose();
        for _ in 0..3 {
            let again = Tokenizer::train_bpe(&files, 400, u64::MAX).unwrap();
            assert_eq!(again.to_json(), trained().to_json());
            assert_eq!(again.fingerprint(), trained().fingerprint());
        }
        let other = Tokenizer::train_bpe(&files, 399, u64::MAX).unwrap();
        assert_ne!(other.fingerprint(), trained().fingerprint());
    }

    #[test]
    fn ordinary_text_gives_the_tokenizer_that_the_library_trains_by_itself() {
        let (_folder, files) = prose();
        let mut whole = String::new();
        for piece in Pieces::open(&files[0], Some(Cut::Split)).unwrap() {
            whole += &piece.unwrap().text;
        }
        let ours = Tokenizer::train_bpe(&files[..1], 400, u64::MAX).unwrap();
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
        theirs.train(&mut trainer, [whole].iter()).unwrap();
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
        let folder = tempdir().unwrap();
        let file = folder.path().join("a.txt");
        fs::write(&file, "a".repeat(160_000)).unwrap();
        let tokenizer = Tokenizer::train_bpe(&[file], 266, u64::MAX).unwrap();
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
        let (_folder, files) = prose();
        let some = Tokenizer::train_bpe(&files, 280, 1000).unwrap();
        fs::write(&files[1], "not json").unwrap();
        assert_eq!(Tokenizer::train_bpe(&files, 280, 1000).unwrap().to_json(), some.to_json());
        let error = Tokenizer::train_bpe(&files, 280, u64::MAX).unwrap_err().to_string();
        assert!(error.contains("b.jsonl, line 1"), "{error}");
    }

    #[test]
    fn a_vocabulary_out_of_reach_is_an_error_with_what_can_be_reached() {
        let folder = tempdir().unwrap();
        let file = folder.path().join("a.txt");
        fs::write(&file, "ab ab").unwrap();
        let train = |size| Tokenizer::train_bpe(std::slice::from_ref(&file), size, u64::MAX);
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
            fs::write(folder.path().join(CONFIG_FILE), config).unwrap();
            Tokenizer::from_json_file(&folder.path().join("tokenizer.json"))
        };
        let message = read("[").unwrap_err().to_string();
        assert!(message.contains("not a usable tokenizer_config.json"), "{message}");
        assert_eq!(read("{\"eos_token\": {\"content\": 1}}").unwrap().end_of_text_id(), Some(0));
        assert_eq!(read("{\"lns_end_of_text\": \"<gone>\"}").unwrap().end_of_text_id(), None);
    }
}
