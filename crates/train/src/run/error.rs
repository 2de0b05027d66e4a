//! Why a run could not begin or go on.

use std::path::PathBuf;

use lns_corpus::CorpusError;
use lns_model::{LoadError, LoraError};
use lns_record::EventsError;
use lns_score::ScoreError;
use lns_tokenizer::TokenizerError;

use crate::{BatchError, ConfigError, SnapshotError};

/// Why a run could not begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Score(#[from] ScoreError),
    #[error(transparent)]
    Lora(#[from] LoraError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Events(#[from] EventsError),
    #[error("the run has no text: name at least one prepared text in `data.sources`")]
    NoText,
    #[error(
        "{first} and {second} were made with different tokenizers; prepare them with the same one"
    )]
    Tokenizers { first: PathBuf, second: PathBuf },
    #[error(
        "{folder} holds a run with other settings:\n{differences}\nContinue it without these \
         settings, or name another folder."
    )]
    AnotherRun { folder: PathBuf, differences: String },
    #[error(
        "{folder} is not the folder of a run, but holds {found}: name another folder, or a new one"
    )]
    NotARun { folder: PathBuf, found: &'static str },
    #[error("{folder}: another lns is training here; wait for it, or name another folder")]
    InUse { folder: PathBuf },
    #[error("{corpus} holds other tokens than those the settings were made with")]
    OtherText { corpus: PathBuf },
    #[error("{base} is not the checkpoint that this run was begun with")]
    OtherBase { base: PathBuf },
    #[error(
        "{corpus} was prepared with another tokenizer than that of {base}; prepare it with --tokenizer \
         {base}"
    )]
    OtherTokenizer { corpus: PathBuf, base: PathBuf },
    #[error(
        "the tokenizer of {corpus} has {tokens} tokens and the embedding of {base} {rows} rows: text \
         with the others cannot be learned"
    )]
    TokenizerTooLarge { corpus: PathBuf, base: PathBuf, tokens: usize, rows: usize },
    #[error(
        "{base}: the scale is to be annealed over {anneal} steps and the run has {steps}; give --steps \
         {anneal} or more, or make the retrofit with fewer"
    )]
    AnnealTooLong { base: PathBuf, anneal: u64, steps: u64 },
    #[error(
        "{corpus} holds instructions of which only the responses are learned: use it with --set \
         data.layout=rows, which keeps each example whole"
    )]
    CutInstructions { corpus: PathBuf },
    #[error(
        "{base} was trained for {context} tokens, and a sequence has {length}; use --length {context} \
         or less"
    )]
    BeyondContext { base: PathBuf, context: usize, length: usize },
    #[error(
        "{base} is an encoder, which sees the tokens that training would have it predict; lns measures and \
         prunes encoders and does not train them"
    )]
    Encoder { base: PathBuf },
    #[error(
        "the teacher {teacher} is an encoder, which sees the tokens that it would have to predict; name a \
         model that predicts the next token"
    )]
    TeacherEncoder { teacher: PathBuf },
    #[error(
        "{base} is a mixture of experts, which lns runs, diagnoses and converts but does not train: nothing \
         here keeps the experts' load even"
    )]
    Mixture { base: PathBuf },
    #[error("the teacher {teacher} cannot be used")]
    Teacher { teacher: PathBuf, source: Box<LoadError> },
    #[error("{teacher} is not the teacher that this run was begun with")]
    OtherTeacher { teacher: PathBuf },
    #[error(
        "the teacher {teacher} has no tokenizer, so nobody knows what its predictions are of; put the \
         model's tokenizer.json beside its weights"
    )]
    TeacherWithoutTokenizer { teacher: PathBuf },
    #[error(
        "the teacher {teacher} has another vocabulary: id {id} is {theirs} there and {own} in the model \
         that is trained; what one says of an id means nothing to the other. Name a teacher of the same \
         tokenizer"
    )]
    TeacherVocabulary { teacher: PathBuf, id: u32, theirs: String, own: String },
    #[error(
        "the teacher {teacher} has {rows} rows in its embedding for the {tokens} tokens of the text's \
         tokenizer: it cannot read them all"
    )]
    TeacherTooSmall { teacher: PathBuf, rows: usize, tokens: usize },
    #[error(
        "the teacher {teacher} was trained for {context} tokens, and a sequence has {length}; use \
         --length {context} or less"
    )]
    TeacherContext { teacher: PathBuf, context: usize, length: usize },
    #[error(
        "{path}: {source}; what snapshots hold is safe, and the same command goes on from there"
    )]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path} was not written: {reason}")]
    Model { path: PathBuf, reason: String },
    #[error("the run needs up to {needed} of memory and {available} are free: {cure}")]
    Memory { needed: String, available: String, cure: String },
    #[error("{threads} threads cannot be started: {reason}")]
    Threads { threads: usize, reason: String },
}
