//! Everything that can be wrong with a text, with the way it is to be cut, and with what was prepared
//! of it.

use std::path::PathBuf;

use lns_show::counted;
use lns_tokenizer::TokenizerError;

use crate::Part;

/// Why text did not become windows or batches.
#[expect(missing_docs, reason = "each variant's message names its fields")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CorpusError {
    /// The tokenizer, or the chat template, is at fault.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The operating system refused to read.
    #[error("{}: cannot be read: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// The operating system refused to write.
    #[error("{}: cannot be written: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },

    /// The function that is told of the progress asked for an end.
    #[error("stopped, as asked, before the text was prepared")]
    Stopped,

    /// A file whose name says nothing that is read.
    #[error(
        "{}: this name ends in none of .txt, .jsonl, .parquet, and .txt.gz, .jsonl.gz, .json.gz, \
         .txt.zst, .jsonl.zst, .json.zst; rename or convert it", path.display()
    )]
    UnknownExtension { path: PathBuf },
    /// A folder without texts.
    #[error("{}: no .txt, .jsonl, .parquet, .gz or .zst of text in this folder", path.display())]
    EmptyFolder { path: PathBuf },
    /// Bytes that are not text.
    #[error(
        "{}: not UTF-8 at byte {offset} of the (decompressed) text; convert the file to UTF-8",
        path.display()
    )]
    InvalidUtf8 { path: PathBuf, offset: u64 },
    /// Compressed bytes that do not decompress.
    #[error("{}: damaged {format} data: {reason}; fetch the file again", path.display())]
    Damaged { path: PathBuf, format: &'static str, reason: String },
    /// A parquet file without a column of texts.
    #[error(
        "{}: no column \"text\" of strings; its columns are {columns}", path.display()
    )]
    NoTextColumn { path: PathBuf, columns: String },
    /// A row of a parquet file without a text, or one that would not fit in memory.
    #[error("{}, row {row}: {what}", path.display())]
    ParquetRow { path: PathBuf, row: u64, what: String },
    /// A line of a jsonl file that is not a JSON object.
    #[error("{}, line {line}: {reason}; every line must be an object {{\"text\": …}}", path.display())]
    JsonLine { path: PathBuf, line: u64, reason: String },
    /// A line of a jsonl file without a text.
    #[error("{}, line {line}: the object has no \"text\"", path.display())]
    MissingText { path: PathBuf, line: u64 },
    /// A file that holds no instruction data.
    #[error(
        "{}: instruction data are lines of JSON: .jsonl, .jsonl.gz, .json.gz, .jsonl.zst, .json.zst; \
         convert or rename it", path.display()
    )]
    NotInstructions { path: PathBuf },
    /// A file whose name says nothing that rows are read from.
    #[error(
        "{}: rows are read from .parquet, .arrow, .jsonl, .json, and .jsonl.gz, .json.gz, .jsonl.zst, \
         .json.zst; rename or convert it", path.display()
    )]
    NotRows { path: PathBuf },
    /// A row that is no object.
    #[error("{}, {what} {number}: {reason}", path.display())]
    BadRow { path: PathBuf, what: &'static str, number: u64, reason: String },
    /// A line of instruction data that is no example.
    #[error(
        "{}, line {line}: {reason}; a line is {{\"prompt\": …, \"response\": …}}, \
         {{\"instruction\": …, \"input\": …, \"output\": …}} or \
         {{\"messages\": [{{\"role\": …, \"content\": …}}, …]}}", path.display()
    )]
    ExampleLine { path: PathBuf, line: u64, reason: String },
    /// An example that is well written and yet cannot be learned from.
    #[error("{}, line {line}: {reason}", path.display())]
    Example { path: PathBuf, line: u64, reason: String },
    /// Examples, and nothing to learn in any.
    #[error(
        "all {left_out} examples for {part} are left out: none has a token of a response before \
         its sequence ends; give longer sequences or shorter examples"
    )]
    NothingToLearn { part: Part, left_out: u64 },
    /// Examples are not cut to fit a limit.
    #[error("the first example for {part} has {tokens} tokens and {limit} are allowed; allow more")]
    LimitBelowExample { part: Part, limit: u64, tokens: usize },

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
    #[error("a window of {} predicts nothing; give 2 or more", counted(*window, "token"))]
    WindowTooShort { window: usize },
    /// Fewer tokens allowed than one window needs.
    #[error(
        "{} cannot fill one window of {window}; give --max-tokens {window} or more, or a shorter \
         --window", counted(*max_tokens, "token")
    )]
    MaxTokensBelowWindow { max_tokens: u64, window: usize },
    /// Files were given, and all are empty.
    #[error("no text in {}", .files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", "))]
    NoText { files: Vec<PathBuf> },
    /// The text ended before the first window was full.
    #[error(
        "the text has {}, one window needs {needed}; give more text{}",
        counted(*tokens, "token"),
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
    /// A prepared text is never written over.
    #[error("{}: already there; remove it or choose another place", path.display())]
    AlreadyThere { path: PathBuf },
    /// More text than is kept of a pipe.
    #[error("{name} gives more than {} MiB; put the text into a file and name that", limit >> 20)]
    PipeTooLong { name: String, limit: u64 },
    /// A share that leaves one of the parts empty, or is no number.
    #[error("{share} of the documents cannot be held out; give a share above 0 and below 1")]
    ValidationShare { share: f64 },
    /// A part of a prepared text that would be empty.
    #[error(
        "no document for {part}: give more documents, or name files to hold out, and allow 2 tokens \
         or more"
    )]
    NoDocuments { part: Part },
    /// Everything to train on is also held out.
    #[error(
        "nothing is left to train on: every document of {} is also held out; hold out other text",
        .files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    AllHeldOut { files: Vec<PathBuf> },
    /// Text of which no end can be held out.
    #[error(
        "the text has {}, too few to train on and to hold some out; give {} KiB or more, or name other \
         text to hold out (--validation)", counted(*bytes, "byte"), enough >> 10
    )]
    TooShortToHoldOut { bytes: u64, enough: u64 },
    /// A folder without a manifest.
    #[error(
        "{}: not a prepared text: there is no corpus.json; was its preparation interrupted?",
        path.display()
    )]
    NotPrepared { path: PathBuf },
    /// A manifest that is not as it was written.
    #[error("{}: damaged: {what}; prepare the text again", path.display())]
    Manifest { path: PathBuf, what: String },
    /// A shard that is not as it was written.
    #[error("{}: damaged: {what}; prepare the text again", path.display())]
    Shard { path: PathBuf, what: String },
    /// A tokenizer that did not make the tokens beside it.
    #[error(
        "{}: not the tokenizer that made the tokens beside it: it has {found}; that one had \
         {expected}. Put tokenizer.json and tokenizer_config.json back or prepare the text again",
        path.display()
    )]
    OtherTokenizer { path: PathBuf, expected: String, found: String },

    /// There is no text to draw sequences from.
    #[error("no text to train on; name at least one")]
    NoSource,
    /// A weight that cannot be a share.
    #[error("a text's weight is {weight}; weights are positive numbers")]
    Weight { weight: f64 },
    /// A text that does not fill one sequence.
    #[error(
        "the text has {}, one sequence needs {needed}; give more text or shorter sequences",
        counted(*tokens, "token")
    )]
    SourceTooShort { tokens: u64, needed: usize },
    /// A part that is held out does not fill one sequence.
    #[error(
        "what is held out has {}, one sequence needs {needed}; name more text to hold out \
         (--validation), or give shorter sequences (--length)",
        counted(*tokens, "token")
    )]
    HeldOutTooShort { tokens: u64, needed: usize },
    /// A position of another mixture.
    #[error(
        "the position is one in {given} texts and there are {expected}; go on with the texts that \
         the run began with"
    )]
    Position { given: usize, expected: usize },
}
