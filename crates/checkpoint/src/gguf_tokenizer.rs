//! The tokenizer inside a GGUF file, as plain data; `lns-tokenizer` makes a tokenizer of it.

/// The `tokenizer.*` metadata of a GGUF file, checked only for type and size.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GgufTokenizer {
    /// `tokenizer.ggml.model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece).
    pub model: String,
    /// `tokenizer.ggml.pre`: how text is cut before BPE, e.g. `smollm`.
    pub pre: Option<String>,
    /// Token texts by id.
    pub tokens: Vec<String>,
    /// Token kinds by id (1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte); empty
    /// or as long as `tokens`.
    pub token_types: Vec<i32>,
    /// SentencePiece scores by id; empty or as long as `tokens`.
    pub scores: Vec<f32>,
    /// BPE merges, best first, each two pieces joined by a space.
    pub merges: Vec<String>,
    /// Token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Token that ends a text.
    pub eos_token_id: Option<u32>,
    /// Token for what the vocabulary lacks.
    pub unknown_token_id: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos_token: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// Jinja template of a conversation.
    pub chat_template: Option<String>,
}
