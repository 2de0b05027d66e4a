//! Everything that can be wrong with a tokenizer, a text or the way it is to be cut.

use std::path::PathBuf;

/// Why text did not become windows.
#[expect(missing_docs, reason = "each variant's message names its fields")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused.
    #[error("{}: cannot be read: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },

    /// `tokenizer.json` is not one, or is one that the tokenizers library refuses.
    #[error("{}: not a usable tokenizer.json: {reason}", path.display())]
    TokenizerJson { path: PathBuf, reason: String },
    /// A kind of GGUF vocabulary that is not read.
    #[error(
        "{}: the GGUF's tokenizer model is \"{model}\"; gpt2 and llama are read. Put the model's \
         tokenizer.json beside the file", path.display()
    )]
    GgufModel { path: PathBuf, model: String },
    /// The way the vocabulary's text was split before BPE is not known.
    #[error(
        "{}: the GGUF's pre-tokenizer is {given}; known: {known}. Put the model's tokenizer.json \
         beside the file", path.display()
    )]
    GgufPreTokenizer { path: PathBuf, given: String, known: String },
    /// The vocabulary inside a GGUF file contradicts itself.
    #[error("{}: the GGUF's tokenizer: {what}", path.display())]
    GgufVocabulary { path: PathBuf, what: String },

    /// The tokenizers library failed on a text.
    #[error("{bytes} bytes of text cannot be tokenised: {reason}")]
    Encode { bytes: usize, reason: String },
    /// The tokenizers library failed on ids.
    #[error("{count} token ids cannot be decoded: {reason}")]
    Decode { count: usize, reason: String },

    /// A file whose name says nothing that is read.
    #[error(
        "{}: this name ends in none of .txt, .jsonl, .jsonl.gz, .json.gz; rename or convert it",
        path.display()
    )]
    UnknownExtension { path: PathBuf },
    /// A known format that is not read.
    #[error("{}: {format} is not read yet; {remedy}", path.display())]
    UnsupportedFormat { path: PathBuf, format: &'static str, remedy: &'static str },
    /// A folder without texts.
    #[error("{}: no .txt, .jsonl, .jsonl.gz or .json.gz file in this folder", path.display())]
    EmptyFolder { path: PathBuf },
    /// Bytes that are not text.
    #[error(
        "{}: not UTF-8 at byte {offset} of the (decompressed) text; convert the file to UTF-8",
        path.display()
    )]
    InvalidUtf8 { path: PathBuf, offset: u64 },
    /// Compressed bytes that do not decompress.
    #[error("{}: damaged gzip data: {reason}; fetch the file again", path.display())]
    Gzip { path: PathBuf, reason: String },
    /// A line of a jsonl file that is not a JSON object.
    #[error("{}, line {line}: {reason}; every line must be an object {{\"text\": …}}", path.display())]
    JsonLine { path: PathBuf, line: u64, reason: String },
    /// A line of a jsonl file without a text.
    #[error("{}, line {line}: the object has no \"text\"", path.display())]
    MissingText { path: PathBuf, line: u64 },
    /// A line of a jsonl file that would not fit in memory, as a gzip bomb has.
    #[error("{}, line {line}: longer than {limit} bytes; split it into several documents", path.display())]
    LineTooLong { path: PathBuf, line: u64, limit: u64 },
    /// A document with no place where it may be tokenised in pieces.
    #[error(
        "{}: more than {limit} bytes in which this tokenizer offers no place to cut; split the \
         text into several documents", path.display()
    )]
    DocumentTooLong { path: PathBuf, limit: usize },

    /// A window in which nothing is predicted.
    #[error("a window of {window} tokens predicts nothing; give 2 or more")]
    WindowTooShort { window: usize },
    /// Fewer tokens allowed than one window needs.
    #[error(
        "{max_tokens} tokens do not fill one window of {window}; give --max-tokens {window} or \
         more, or a shorter --window"
    )]
    MaxTokensBelowWindow { max_tokens: u64, window: usize },
    /// Files were given, and all are empty.
    #[error("no text in {}", .files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", "))]
    NoText { files: Vec<PathBuf> },
    /// The text ended before the first window was full.
    #[error(
        "the text has {tokens} tokens, one window needs {needed}; give more text{}",
        if *.largest < 2 { String::new() } else { format!(" or --window {largest}") }
    )]
    TextTooShort { tokens: usize, needed: usize, largest: usize },
    /// Several documents, and no token to put between them.
    #[error(
        "the tokenizer names no end-of-text token to put between documents; the model's \
         config.json should have eos_token_id, or give one document"
    )]
    NoEndOfText,
    /// A beginning-of-sequence token was asked for and there is none.
    #[error("--bos: the tokenizer names no beginning-of-sequence token; leave --bos out")]
    NoBos,
    /// A token the model has no embedding for.
    #[error(
        "token id {id} (\"{token}\") is outside the model's vocabulary of {model_vocab}; the \
         tokenizer has {tokenizer_vocab}: it belongs to another model"
    )]
    IdBeyondVocabulary { id: u32, token: String, tokenizer_vocab: usize, model_vocab: usize },
}
