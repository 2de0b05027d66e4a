//! Tokens cut into windows: consecutive, without overlap, the incomplete last one dropped.

use std::path::PathBuf;

use lns_record::MaskingRecord;
use lns_spec::IGNORED;
use lns_tokenizer::{Encoding, Tokenizer};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::documents::{Piece, Pieces, text_files};
use crate::{Corpus, CorpusError, Layout, Part, evaluation_sequences};

/// Which text to read, and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextOptions {
    /// Files (`.txt`, `.jsonl`, `.parquet`; `.txt`, `.jsonl` and `.json` with `.gz` or `.zst` behind), read
    /// in this order. A folder stands for the files directly in it that end so, in the order of
    /// their names.
    pub files: Vec<PathBuf>,
    /// Tokens in a window, 2 or more.
    pub window: usize,
    /// At most this many tokens, in whole windows; all of the text if `None`.
    pub max_tokens: Option<u64>,
    /// Whether every window begins with the beginning-of-sequence token, which counts as one of
    /// its tokens.
    pub bos: bool,
    /// Whether every window ends with the end-of-text token, which counts as one of its tokens: as
    /// encoders read text.
    pub closed: bool,
}

/// A stretch of tokens for the model to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The token to predict at each place, [`IGNORED`] where there is none; `None` is the one that follows.
    pub targets: Option<Vec<u32>>,
    /// Bytes of text that each token stands for, 0 for the tokens that begin a window and that stand
    /// between documents; `None` where that was not kept, as in a prepared text.
    pub text_bytes: Option<Vec<u32>>,
}

/// A text, ready for the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Windows {
    /// Tokens in each window.
    pub window: usize,
    /// The windows in the order of the text; at least one.
    pub windows: Vec<Window>,
    /// The files that were read; those after the last window wanted were not.
    pub files: Vec<PathBuf>,
    /// Ids of [`Tokenizer::separators`].
    pub separators: Vec<u32>,
    /// How tokens were chosen for a model that predicts masked ones.
    pub masking: Option<MaskingRecord>,
}

impl Windows {
    /// The beginning of the held-out part of a prepared text, cut into windows of `window` tokens, at
    /// most `max_tokens` of them in all.
    ///
    /// # Errors
    /// A text or a limit too short for one window.
    pub fn held_out(corpus: &Corpus, window: usize, max_tokens: u64) -> Result<Self, CorpusError> {
        let padding = corpus.tokenizer().end_of_text_id().unwrap_or(0);
        let part = corpus.tokens(Part::Validation);
        let sequences =
            evaluation_sequences(part, Layout::Packed, window, Some(max_tokens), padding)?;
        let windows = sequences.inputs.chunks_exact(window);
        Ok(Self {
            window,
            windows: windows
                .map(|ids| Window { ids: ids.to_vec(), targets: None, text_bytes: None })
                .collect(),
            files: Vec::new(),
            separators: corpus.tokenizer().separators(),
            masking: None,
        })
    }

    /// As it is shown to a model that predicts masked tokens: in every window the same number of tokens, this
    /// share of those between its first and its last, at least one, give way to the token `mask` and are what
    /// is predicted. Which ones, the seed and the window's index decide; separators only where all else is
    /// taken.
    #[must_use]
    pub fn masked(mut self, mask: u32, masking: MaskingRecord) -> Self {
        for (index, window) in self.windows.iter_mut().enumerate() {
            let mut random = ChaCha8Rng::seed_from_u64(masking.seed);
            random.set_stream(index as u64);
            let inner = 1..window.ids.len().saturating_sub(1);
            let count = (masking.share * inner.len() as f64).round().max(1.0) as usize;
            let mut places: Vec<(bool, u64, usize)> = inner
                .map(|at| (self.separators.contains(&window.ids[at]), random.next_u64(), at))
                .collect();
            places.sort_unstable();
            let mut targets = vec![IGNORED; window.ids.len()];
            for (_, _, at) in places.into_iter().take(count) {
                targets[at] = std::mem::replace(&mut window.ids[at], mask);
            }
            window.targets = Some(targets);
        }
        Self { masking: Some(masking), ..self }
    }
}

/// Reads documents, puts the end-of-text token between them and cuts their tokens into windows. No
/// more is read than `max_tokens` needs. Empty documents are left out.
///
/// `vocab_size` is the model's: a token that it has no embedding for is an error.
pub fn read_windows(
    tokenizer: &Tokenizer,
    options: &TextOptions,
    vocab_size: usize,
) -> Result<Windows, CorpusError> {
    let files = text_files(&options.files)?;
    let mut cutter = Cutter::new(tokenizer, options, vocab_size)?;
    let mut read = Vec::new();
    for file in &files {
        if cutter.is_full() {
            break;
        }
        read.push(file.clone());
        for piece in Pieces::open(file, tokenizer.cut())? {
            cutter.add(&piece?)?;
            if cutter.is_full() {
                break;
            }
        }
    }
    let windows = cutter.finish(&files)?;
    let separators = tokenizer.separators();
    Ok(Windows { window: options.window, windows, files: read, separators, masking: None })
}

/// The same of documents that are in memory, each short enough to be tokenised at once; `options.files`
/// says in an error, and in what is returned, where they are from.
pub fn cut_windows<'a>(
    tokenizer: &Tokenizer,
    documents: impl IntoIterator<Item = &'a str>,
    options: &TextOptions,
    vocab_size: usize,
) -> Result<Windows, CorpusError> {
    let mut cutter = Cutter::new(tokenizer, options, vocab_size)?;
    for text in documents.into_iter().filter(|text| !text.is_empty()) {
        if cutter.is_full() {
            break;
        }
        cutter.add(&Piece { text: text.to_owned(), continues: false, id: None, learned: None })?;
    }
    let windows = cutter.finish(&options.files)?;
    let separators = tokenizer.separators();
    let files = options.files.clone();
    Ok(Windows { window: options.window, windows, files, separators, masking: None })
}

/// Collects tokens and cuts them.
struct Cutter<'a> {
    tokenizer: &'a Tokenizer,
    vocab_size: usize,
    window: usize,
    /// The number of windows wanted.
    wanted: u64,
    /// What every window begins with.
    bos: Option<u32>,
    /// What every window ends with.
    end: Option<u32>,
    /// The ids of the window that is being filled, and the bytes each stands for.
    current: Encoding,
    windows: Vec<Window>,
    /// A document has begun, so that the next one is to be set off from it.
    begun: bool,
}

impl<'a> Cutter<'a> {
    fn new(
        tokenizer: &'a Tokenizer,
        options: &TextOptions,
        vocab_size: usize,
    ) -> Result<Self, CorpusError> {
        let window = options.window;
        // A window that is closed holds a token between its first and its last.
        if window < if options.closed { 3 } else { 2 } {
            return Err(CorpusError::WindowTooShort { window });
        }
        let wanted = options.max_tokens.map_or(u64::MAX, |tokens| tokens / window as u64);
        if let (0, Some(max_tokens)) = (wanted, options.max_tokens) {
            return Err(CorpusError::MaxTokensBelowWindow { max_tokens, window });
        }
        let bos = match (options.bos, tokenizer.bos_id()) {
            (false, _) => None,
            (true, None) => return Err(CorpusError::NoBos),
            (true, Some(id)) => Some(id),
        };
        let end = match (options.closed, tokenizer.end_of_text_id()) {
            (false, _) => None,
            (true, None) => return Err(CorpusError::NoEndOfText),
            (true, Some(id)) => Some(id),
        };
        let mut cutter = Self {
            tokenizer,
            vocab_size,
            window,
            wanted,
            bos,
            end,
            current: Encoding::default(),
            windows: Vec::new(),
            begun: false,
        };
        cutter.begin_window()?;
        Ok(cutter)
    }

    fn is_full(&self) -> bool {
        self.windows.len() as u64 >= self.wanted
    }

    fn add(&mut self, piece: &Piece) -> Result<(), CorpusError> {
        let Encoding { ids, bytes } = if piece.continues {
            self.tokenizer.encode_continuation(&piece.text)?
        } else {
            if std::mem::replace(&mut self.begun, true) {
                let id = self.tokenizer.end_of_text_id().ok_or(CorpusError::NoEndOfText)?;
                self.push(id, 0)?;
            }
            self.tokenizer.encode(&piece.text)?
        };
        for (id, bytes) in ids.into_iter().zip(bytes) {
            self.push(id, bytes)?;
        }
        Ok(())
    }

    fn push(&mut self, id: u32, bytes: u32) -> Result<(), CorpusError> {
        if self.is_full() {
            return Ok(());
        }
        self.tokenizer.check_id(id, self.vocab_size)?;
        self.current.ids.push(id);
        self.current.bytes.push(bytes);
        if let Some(end) = self.end.filter(|_| self.current.ids.len() + 1 == self.window) {
            self.current.ids.push(end);
            self.current.bytes.push(0);
        }
        if self.current.ids.len() == self.window {
            let Encoding { ids, bytes } = std::mem::take(&mut self.current);
            self.windows.push(Window { ids, targets: None, text_bytes: Some(bytes) });
            self.begin_window()?;
        }
        Ok(())
    }

    fn begin_window(&mut self) -> Result<(), CorpusError> {
        self.bos.map_or(Ok(()), |bos| self.push(bos, 0))
    }

    fn finish(self, files: &[PathBuf]) -> Result<Vec<Window>, CorpusError> {
        if !self.windows.is_empty() {
            return Ok(self.windows);
        }
        let begun = usize::from(self.bos.is_some());
        let tokens = self.current.ids.len() - begun;
        if tokens == 0 {
            return Err(CorpusError::NoText { files: files.to_vec() });
        }
        Err(CorpusError::TextTooShort {
            tokens,
            needed: self.window - begun - usize::from(self.end.is_some()),
            largest: self.current.ids.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use lns_testing::vocabularies::{byte_level, text};
    use proptest::prelude::*;
    use tempfile::{TempDir, tempdir};

    use super::*;
    use crate::Limits;
    use crate::corpus::tests::words;
    use crate::preparation::tests::prepare_small;
    use crate::tiny::{build, tokenizers};

    struct Texts {
        folder: TempDir,
        options: TextOptions,
    }

    /// Files with these texts, to be cut into windows of this length.
    fn texts(files: &[(&str, &str)], window: usize) -> Texts {
        let folder = tempdir().unwrap();
        let write = |(name, text): &(&str, &str)| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let files = files.iter().map(write).collect();
        let options = TextOptions { files, window, max_tokens: None, bos: false, closed: false };
        Texts { folder, options }
    }

    fn read(texts: &Texts) -> Result<Windows, CorpusError> {
        read_windows(&build(&byte_level("smollm")), &texts.options, 1000)
    }

    fn refusal(texts: &Texts) -> String {
        read(texts).unwrap_err().to_string()
    }

    /// The tokens of all windows in a row.
    fn ids(windows: &Windows) -> Vec<u32> {
        windows.windows.iter().flat_map(|window| window.ids.clone()).collect()
    }

    #[test]
    fn what_is_held_out_is_cut_from_its_beginning_and_has_no_bytes() {
        let folder = tempdir().unwrap();
        let place = folder.path().join("corpus");
        let tokenizer = words(&["a", "b", "c"], 3);
        let documents =
            [(Part::Train, "a b"), (Part::Validation, "a b c a"), (Part::Validation, "c")];
        prepare_small(&documents, &tokenizer, Limits::default(), 40, &place).unwrap();
        let corpus = Corpus::open(&place).unwrap();
        let held_out = |most| Windows::held_out(&corpus, 2, most).unwrap();
        assert_eq!(ids(&held_out(100)), [0, 1, 2, 0, 3, 2]);
        assert_eq!(ids(&held_out(5)), [0, 1, 2, 0]);
        assert!(held_out(5).windows.iter().all(|window| window.text_bytes.is_none()));
        assert_eq!(held_out(5).separators, tokenizer.separators());
        let message = Windows::held_out(&corpus, 7, 100).unwrap_err().to_string();
        assert!(message.contains("what is held out has 7 tokens"), "{message}");
    }

    #[test]
    fn windows_follow_each_other_and_the_incomplete_one_is_dropped() {
        let text = "The river rose in the night and by morning";
        let whole = build(&byte_level("smollm")).encode(text).unwrap();
        let texts = texts(&[("a.txt", text)], 4);
        let windows = read(&texts).unwrap();
        assert_ne!(whole.ids.len() % 4, 0);
        assert_eq!(windows.windows.len(), whole.ids.len() / 4);
        for (index, window) in windows.windows.iter().enumerate() {
            assert_eq!(window.ids, whole.ids[4 * index..][..4]);
            assert_eq!(window.text_bytes.as_deref().unwrap(), &whole.bytes[4 * index..][..4]);
        }
        assert_eq!((windows.window, &windows.files), (4, &texts.options.files));
    }

    #[test]
    fn closed_windows_stand_between_the_token_that_begins_a_text_and_the_one_that_ends_it() {
        let text = "The river rose in the night and by morning";
        let mut texts = texts(&[("a.txt", text)], 6);
        (texts.options.bos, texts.options.closed) = (true, true);
        let tokenizer = build(&byte_level("smollm")).with_bos(1).with_end_of_text(2);
        let whole = tokenizer.encode(text).unwrap();
        let windows = read_windows(&tokenizer, &texts.options, 1000).unwrap();
        assert_eq!(windows.windows.len(), whole.ids.len() / 4);
        for (window, inner) in windows.windows.iter().zip(whole.ids.chunks(4)) {
            assert_eq!(window.ids, [&[1], inner, &[2]].concat());
        }
        texts.options.window = 2;
        assert!(read_windows(&tokenizer, &texts.options, 1000).is_err());
    }

    #[test]
    fn every_window_hides_the_same_share_of_its_text_and_the_seed_says_which_tokens() {
        let window = |ids: Vec<u32>| Window { ids, targets: None, text_bytes: None };
        let windows = vec![
            window((100..120).collect()),
            window((100..120).collect()),
            window([vec![7; 15], (200..205).collect()].concat()),
            window(vec![7; 20]),
        ];
        let text =
            Windows { window: 20, windows, files: vec![], separators: vec![7], masking: None };
        let masked = |seed| text.clone().masked(3, MaskingRecord { share: 0.15, seed });
        let places = |windows: &Windows| -> Vec<Vec<usize>> {
            let of = |window: &Window| {
                (0..20).filter(|at| window.targets.as_ref().unwrap()[*at] != IGNORED).collect()
            };
            windows.windows.iter().map(of).collect()
        };
        let once = masked(1);
        assert_eq!(once, masked(1));
        assert_ne!(places(&once), places(&masked(2)));
        assert_ne!(places(&once)[0], places(&once)[1], "windows of the same text differ");
        for (window, whole) in once.windows.iter().zip(&text.windows) {
            let targets = window.targets.as_ref().unwrap();
            let hidden: Vec<usize> = (0..20).filter(|at| targets[*at] != IGNORED).collect();
            assert_eq!(hidden.len(), 3, "15 % of 18");
            assert!(hidden.iter().all(|at| window.ids[*at] == 3 && targets[*at] == whole.ids[*at]));
            assert!(!hidden.contains(&0) && !hidden.contains(&19));
            let kept = (0..20).filter(|at| !hidden.contains(at));
            assert!(kept.into_iter().all(|at| window.ids[at] == whole.ids[at]));
        }
        assert!(places(&once)[2].iter().all(|at| *at > 14), "separators come last");
    }

    #[test]
    fn max_tokens_gives_whole_windows_of_the_same_text() {
        let text = "The river rose in the night, 12 barns lost. ".repeat(50);
        let mut texts = texts(&[("a.txt", &text)], 16);
        let all = read(&texts).unwrap();
        for (max_tokens, count) in [(16, 1), (31, 1), (64, 4), (79, 4), (80, 5)] {
            texts.options.max_tokens = Some(max_tokens);
            assert_eq!(read(&texts).unwrap().windows, all.windows[..count]);
        }
        texts.options.max_tokens = Some(u64::MAX);
        assert_eq!(read(&texts).unwrap(), all);
    }

    #[test]
    fn no_more_is_read_than_max_tokens_needs() {
        let long = "word ".repeat(100_000) + "\0";
        let mut texts = texts(&[("a.txt", &long), ("b.jsonl", "not json")], 8);
        // The second file would be refused, and so would the end of the first.
        let mut bytes = long.into_bytes();
        *bytes.last_mut().unwrap() = 0xFF;
        fs::write(&texts.options.files[0], bytes).unwrap();
        texts.options.max_tokens = Some(80);
        let windows = read(&texts).unwrap();
        assert_eq!(windows.windows.len(), 10);
        assert_eq!(windows.files, texts.options.files[..1]);
        texts.options.max_tokens = None;
        assert!(refusal(&texts).contains("not UTF-8"));
    }

    #[test]
    fn documents_are_joined_by_the_end_of_text_token() {
        let lines = "{\"text\": \"a b\"}\n{\"text\": \"\"}\n{\"text\": \"c\"}\n";
        let texts = texts(&[("x.jsonl", lines), ("empty.txt", ""), ("y.txt", "d b")], 7);
        let tokenizer = build(&byte_level("smollm"));
        let encode = |text| tokenizer.encode(text).unwrap().ids;
        let expected = [encode("a b"), vec![0], encode("c"), vec![0], encode("d b")].concat();
        let windows = read(&texts).unwrap();
        assert_eq!(ids(&windows), expected);
        assert_eq!(windows.windows[0].text_bytes.as_deref().unwrap(), [1, 2, 0, 1, 0, 1, 2]);
    }

    #[test]
    fn documents_in_memory_are_cut_as_those_of_files() {
        let lines = "{\"text\": \"a b\"}\n{\"text\": \"\"}\n{\"text\": \"c d\"}\n";
        let texts = texts(&[("x.jsonl", lines)], 2);
        let tokenizer = build(&byte_level("smollm"));
        let cut = |most| {
            let options = TextOptions { max_tokens: most, ..texts.options.clone() };
            cut_windows(&tokenizer, ["a b", "", "c d"], &options, 1000).unwrap()
        };
        assert_eq!(cut(None), read(&texts).unwrap());
        assert_eq!(ids(&cut(Some(2))), ids(&cut(None))[..2]);
        let none = cut_windows(&tokenizer, [], &texts.options, 1000).unwrap_err().to_string();
        assert!(none.starts_with("no text in "), "{none}");
    }

    #[test]
    fn a_preferred_end_of_text_token_is_used() {
        let texts = texts(&[("a.txt", "a"), ("b.txt", "b")], 3);
        let tokenizer = build(&byte_level("smollm")).with_end_of_text(2);
        let windows = read_windows(&tokenizer, &texts.options, 1000).unwrap();
        assert_eq!(windows.windows[0].ids[1], 2);
    }

    #[test]
    fn bos_begins_every_window() {
        let mut texts = texts(&[("a.txt", "a b b b b b b b")], 4);
        let plain = ids(&read(&texts).unwrap());
        texts.options.bos = true;
        let windows = read(&texts).unwrap();
        assert_eq!(windows.windows.len(), 2);
        for (index, window) in windows.windows.iter().enumerate() {
            assert_eq!(window.ids[0], 1);
            assert_eq!(window.text_bytes.as_ref().unwrap()[0], 0);
            assert_eq!(window.ids[1..], plain[3 * index..][..3]);
        }
        texts.options.max_tokens = Some(4);
        assert_eq!(read(&texts).unwrap().windows, windows.windows[..1]);
    }

    #[test]
    fn what_is_missing_is_named_with_its_numbers() {
        let mut few = texts(&[("a.txt", "a b b")], 512);
        let short = "the text has 3 tokens, one window needs 512; give more text or --window 3";
        assert_eq!(refusal(&few), short);
        few.options.bos = true;
        let short = "the text has 3 tokens, one window needs 511; give more text or --window 4";
        assert_eq!(refusal(&few), short);
        few.options.window = 4;
        assert_eq!(read(&few).unwrap().windows.len(), 1, "the remedy works");

        few.options.max_tokens = Some(3);
        let message = refusal(&few);
        assert!(message.starts_with("3 tokens cannot fill one window of 4"), "{message}");
        few.options.window = 1;
        assert!(refusal(&few).contains("a window of 1 token predicts nothing"));

        let one = texts(&[("a.txt", "a")], 2);
        assert_eq!(refusal(&one), "the text has 1 token, one window needs 2; give more text");
        let none = texts(&[("a.txt", ""), ("b.jsonl", "\n")], 2);
        let message = refusal(&none);
        assert!(message.starts_with("no text in ") && message.contains("b.jsonl"), "{message}");
        assert!(message.contains(&none.folder.path().display().to_string()));
    }

    #[test]
    fn a_token_that_is_asked_for_must_exist() {
        let mut gguf = byte_level("smollm");
        gguf.tokens[0] = "<|other|>".to_owned();
        (gguf.bos_token_id, gguf.eos_token_id) = (None, None);
        let tokenizer = build(&gguf);
        let mut texts = texts(&[("a.txt", "a b"), ("b.txt", "c")], 2);
        let error = read_windows(&tokenizer, &texts.options, 1000).unwrap_err();
        assert!(matches!(error, CorpusError::NoEndOfText), "{error}");
        texts.options.bos = true;
        let error = read_windows(&tokenizer, &texts.options, 1000).unwrap_err();
        assert!(matches!(error, CorpusError::NoBos), "{error}");
    }

    #[test]
    fn a_token_beyond_the_models_vocabulary_is_an_error() {
        let tokenizer = build(&byte_level("smollm"));
        let texts = texts(&[("a.txt", "a b <tool> c")], 2);
        let tool = tokenizer.vocab_size() - 1;
        assert!(read_windows(&tokenizer, &texts.options, tool + 1).is_ok());
        let message = read_windows(&tokenizer, &texts.options, tool).unwrap_err().to_string();
        let expected =
            format!("token id {tool} (\"<tool>\") is outside the model's vocabulary of {tool}");
        assert!(message.starts_with(&expected), "{message}");
        assert!(message.contains(&format!("the tokenizer has {}", tool + 1)), "{message}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4))]

        #[test]
        fn a_long_file_has_the_tokens_of_its_text_tokenised_whole(text in text()) {
            let text = format!("{text} river\n").repeat(150_000 / (text.len() + 7));
            let files = texts(&[("a.txt", &text)], 2);
            for tokenizer in tokenizers() {
                let mut whole = tokenizer.encode(&text).unwrap();
                let windows = read_windows(tokenizer, &files.options, 1000).unwrap();
                whole.ids.truncate(whole.ids.len() / 2 * 2);
                prop_assert_eq!(ids(&windows), whole.ids);
            }
        }
    }
}
