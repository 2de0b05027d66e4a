//! How this program shows things to people: strangers' text made harmless ([`clean`] and its like), and
//! numbers, units and layers in one spelling ([`grouped`], [`figure`], [`with_prefix`], …).
//!
//! Whatever prints, draws or writes a page takes both from here.

mod numbers;
mod text;

pub use numbers::{
    block_in_words, counted, figure, grouped, layers_in_words, noun, signed, with_minus,
    with_prefix,
};
pub use text::{clean, clean_coloured, clean_json, clean_lines, clean_prose};
