//! Models small enough to be trained in a test.

use lns_spec::Preset;

/// A model of a few thousand parameters; a test says what it needs to be otherwise:
/// `Preset { num_hidden_layers: 5, ..TINY }`.
pub const TINY: Preset = Preset {
    name: "tiny",
    hidden_size: 16,
    intermediate_size: 24,
    num_attention_heads: 2,
    num_hidden_layers: 3,
    vocab_size: 40,
    max_position_embeddings: 64,
};

/// A model of some megabytes, so that writing it takes a while.
pub const LARGE: Preset = Preset {
    name: "large",
    hidden_size: 128,
    intermediate_size: 352,
    num_attention_heads: 4,
    num_hidden_layers: 8,
    vocab_size: 4000,
    max_position_embeddings: 64,
};
