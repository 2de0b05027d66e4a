//! Which tokens of an example are learned.

use std::ops::Range;

use lns_tokenizer::Encoding;

use crate::corpus::UNLEARNED;

/// What is learned of examples besides their learned spans, and how much of one is seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Responses {
    /// An example with nothing to learn in its first so many tokens is left out.
    pub(crate) sequence_length: usize,
    /// Whether the end-of-text token behind an example is learned.
    pub(crate) learn_end_of_text: bool,
    /// What is seen of an example that is longer than a sequence.
    pub(crate) kept: Kept,
}

/// The part of an example that fits in a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It is cut where the sequence ends.
    Beginning,
    /// Its beginning is left out, so that its end and the end-of-text token fit.
    End,
}

/// Marks the tokens that do not lie within one of these spans of the text, which are in their order.
pub(crate) fn marked(mut encoding: Encoding, learned: &[Range<usize>]) -> Encoding {
    let (mut end, mut within) = (0, false);
    for (id, &bytes) in encoding.ids.iter_mut().zip(&encoding.bytes) {
        let start = end;
        end += bytes as usize;
        // A token without bytes ends a character that the token before it began.
        if bytes > 0 {
            let span = learned.partition_point(|span| span.end < end);
            within = learned.get(span).is_some_and(|span| span.start <= start);
        }
        if !within {
            *id |= UNLEARNED;
        }
    }
    encoding
}

/// The last tokens of an example, so many that the end-of-text token fits behind them in a sequence.
pub(crate) fn end_of(mut encoding: Encoding, sequence_length: usize) -> Encoding {
    let left_out = (encoding.ids.len() + 1).saturating_sub(sequence_length);
    encoding.ids.drain(..left_out);
    encoding.bytes.drain(..left_out);
    encoding
}

/// How many examples there are, and what is learned of them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Examples {
    /// How many examples are in the text.
    pub(super) kept: u64,
    /// How many tokens of responses are learned: those that fit in a sequence.
    pub(super) learned: u64,
    /// How many examples are longer than a sequence.
    pub(super) cut: u64,
    /// How many examples have no token to learn before a sequence ends.
    pub(super) left_out: u64,
}

impl Examples {
    pub(super) fn with(self, other: Self) -> Self {
        Self {
            kept: self.kept + other.kept,
            learned: self.learned + other.learned,
            cut: self.cut + other.cut,
            left_out: self.left_out + other.left_out,
        }
    }

    pub(super) fn describe(self, responses: Responses) -> String {
        let Self { kept, learned, cut, left_out } = self;
        let Responses { sequence_length, kept: part, .. } = responses;
        if part == Kept::End {
            return format!(
                "{learned} tokens of responses to learn in {kept} examples, of which {cut} are longer \
                 than {sequence_length} tokens and lost their beginning"
            );
        }
        format!(
            "{learned} tokens of responses to learn in {kept} examples ({cut} longer than \
             {sequence_length} tokens and cut there, {left_out} left out with nothing to learn \
             before it)"
        )
    }
}
