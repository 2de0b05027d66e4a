//! A tokenizer trained on the text of files.

use std::iter::once;
use std::path::{Path, PathBuf};

use lns_tokenizer::Tokenizer;

use crate::CorpusError;
use crate::documents::{Pieces, text_files};

/// Trains a tokenizer ([`Tokenizer::train_bpe`]) on the first `max_bytes` (at most 1 GiB) of the
/// texts in these files (a folder stands for the texts in it).
///
/// # Errors
/// Text that cannot be read or is none, and what [`Tokenizer::train_bpe`] says.
pub fn train_tokenizer(
    texts: &[PathBuf],
    vocab_size: usize,
    max_bytes: u64,
) -> Result<Tokenizer, CorpusError> {
    let files = text_files(texts)?;
    let mut pieces = files.iter().flat_map(|file| pieces(file)).peekable();
    if pieces.peek().is_none() {
        return Err(CorpusError::NoText { files: files.clone() });
    }
    Tokenizer::train_bpe(pieces, vocab_size, max_bytes)
}

/// The text of a file; an error ends it.
fn pieces(file: &Path) -> Box<dyn Iterator<Item = Result<String, CorpusError>> + Send> {
    match Pieces::open(file, Some(Tokenizer::TRAINING_CUT)) {
        Ok(pieces) => Box::new(pieces.map(|piece| Ok(piece?.text))),
        Err(error) => Box::new(once(Err(error))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::{TempDir, tempdir};

    use super::*;

    fn prose() -> (TempDir, Vec<PathBuf>) {
        let folder = tempdir().unwrap();
        let [first, second] = ["a.txt", "b.jsonl"].map(|name| folder.path().join(name));
        let more: String = (0..2000).map(|n| format!("It rose {n} feet {}. ", n % 7)).collect();
        fs::write(&first, more).unwrap();
        let line = serde_json::json!({ "text": "Nobody had seen such a morning." });
        fs::write(&second, format!("{line}\n").repeat(2000)).unwrap();
        (folder, vec![first, second])
    }

    #[test]
    fn the_text_of_all_files_is_learned_from() {
        let (folder, files) = prose();
        let both = train_tokenizer(&files, 300, u64::MAX).unwrap();
        assert_eq!(both.encode(" morning").unwrap().ids.len(), 1);
        let first = train_tokenizer(&files[..1], 300, u64::MAX).unwrap();
        assert!(first.encode(" morning").unwrap().ids.len() > 1);
        let of_folder = train_tokenizer(&[folder.path().to_owned()], 300, u64::MAX).unwrap();
        assert_eq!(of_folder.to_json(), both.to_json());
    }

    #[test]
    fn no_more_text_is_looked_at_than_allowed() {
        let (_folder, files) = prose();
        let some = train_tokenizer(&files, 280, 1000).unwrap();
        fs::write(&files[1], "not json").unwrap();
        assert_eq!(train_tokenizer(&files, 280, 1000).unwrap().to_json(), some.to_json());
        let error = train_tokenizer(&files, 280, u64::MAX).unwrap_err().to_string();
        assert!(error.contains("b.jsonl, line 1"), "{error}");
    }

    #[test]
    fn files_without_text_are_an_error() {
        let (_folder, files) = prose();
        files.iter().for_each(|file| fs::write(file, "").unwrap());
        let error = train_tokenizer(&files, 280, u64::MAX).unwrap_err().to_string();
        assert!(error.starts_with("no text in "), "{error}");
    }
}
