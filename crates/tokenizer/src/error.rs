//! Everything that can be wrong with a tokenizer or a chat template.

use std::path::PathBuf;

/// Why text did not become tokens, or a conversation text.
#[expect(missing_docs, reason = "each variant's message names its fields")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The operating system refused to read.
    #[error("{}: cannot be read: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// The operating system refused to write.
    #[error("{}: cannot be written: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },

    /// `tokenizer.json` is not one, or is one that the tokenizers library refuses.
    #[error("{}: not a usable tokenizer.json: {reason}", path.display())]
    TokenizerJson { path: PathBuf, reason: String },
    /// `tokenizer_config.json` is no JSON object.
    #[error("{}: not a usable tokenizer_config.json: {reason}", path.display())]
    TokenizerConfig { path: PathBuf, reason: String },
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
    /// A tokenizer that would become another one.
    #[error(
        "the tokenizer cannot be put into a GGUF file: {what}. Keep the model as a folder, with its \
         tokenizer.json"
    )]
    NotForGguf { what: String },

    /// The tokenizers library failed on a text.
    #[error("{bytes} bytes of text cannot be tokenised: {reason}")]
    Encode { bytes: usize, reason: String },
    /// A vocabulary of whole words, without a token for all others.
    #[error(
        "the tokenizer knows only the words of its vocabulary, and \"{word}\" is none of them; give text \
         in its words"
    )]
    UnknownWord { word: String },
    /// The tokenizers library failed on ids.
    #[error("{count} token ids cannot be decoded: {reason}")]
    Decode { count: usize, reason: String },

    /// Bytes that are not text.
    #[error(
        "{}: not UTF-8 at byte {offset} of the (decompressed) text; convert the file to UTF-8",
        path.display()
    )]
    InvalidUtf8 { path: PathBuf, offset: u64 },
    /// A chat template that is no Jinja.
    #[error(
        "{}: the chat template does not compile: line {line}: {reason}; put one that does into \
         chat_template.jinja beside the weights", path.display()
    )]
    ChatTemplate { path: PathBuf, line: usize, reason: String },
    /// A chat template that refuses a conversation, or fails on it.
    #[error("the chat template of {} does not render: {reason}", path.display())]
    Render { path: PathBuf, reason: String },

    /// A token the model has no embedding for.
    #[error(
        "token id {id} (\"{token}\") is outside the model's vocabulary of {model_vocab}; the \
         tokenizer has {tokenizer_vocab}: it belongs to another model"
    )]
    IdBeyondVocabulary { id: u32, token: String, tokenizer_vocab: usize, model_vocab: usize },

    /// A vocabulary that cannot even spell every byte.
    #[error("a byte-level vocabulary has at least {smallest} tokens; {wanted} were asked for")]
    VocabularyTooSmall { wanted: usize, smallest: usize },
    /// Text that has not enough pairs of tokens to merge.
    #[error(
        "the text is enough for a vocabulary of {reached} tokens, not of {wanted}; give more text \
         or ask for at most {reached}"
    )]
    VocabularyNotReached { wanted: usize, reached: usize },
    /// The tokenizers library failed to train.
    #[error("the tokenizer cannot be trained: {reason}")]
    TrainTokenizer { reason: String },
}
