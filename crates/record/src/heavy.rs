//! Tokens that carry massive activations.

use serde::{Deserialize, Serialize};

/// A token that carries a massive activation (Sun et al., arXiv 2402.17762).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeavyToken {
    /// The window it stands in, from 0.
    pub window: usize,
    /// Its position in the window, from 0.
    pub position: usize,
    /// Its id in the vocabulary.
    pub id: u32,
    /// What it stands for in the text.
    pub text: String,
    /// The layer after which it first is so heavy; absent when its embedding already is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// Its variance over the median of the content tokens, where that is largest.
    pub ratio: f64,
}

impl HeavyToken {
    /// A token is heavy from this many times the median variance on.
    pub const FACTOR: f64 = 100.0;

    /// The heavy tokens by kind, those with the same id that are heavy from the same layer on; the
    /// heaviest kind first.
    pub fn kinds(tokens: &[Self]) -> Vec<HeavyKind> {
        let mut kinds: Vec<HeavyKind> = Vec::new();
        for token in tokens {
            match kinds.iter_mut().find(|kind| (kind.id, kind.layer) == (token.id, token.layer)) {
                Some(kind) => {
                    kind.count += 1;
                    kind.first += usize::from(token.position == 0);
                    kind.ratio = kind.ratio.max(token.ratio);
                }
                None => kinds.push(HeavyKind {
                    id: token.id,
                    text: token.text.clone(),
                    layer: token.layer,
                    count: 1,
                    first: usize::from(token.position == 0),
                    ratio: token.ratio,
                }),
            }
        }
        kinds.sort_by(|a, b| b.ratio.total_cmp(&a.ratio));
        kinds
    }
}

/// Heavy tokens of one id that are so from one layer on.
#[derive(Debug, Clone, PartialEq)]
pub struct HeavyKind {
    /// The id that they share.
    pub id: u32,
    /// What they stand for in the text.
    pub text: String,
    /// The layer after which they first are so heavy; absent when their embedding already is.
    pub layer: Option<usize>,
    /// How many there are.
    pub count: usize,
    /// How many of them are a window's first token.
    pub first: usize,
    /// The largest of their ratios.
    pub ratio: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heavy_tokens_are_grouped_by_id_and_layer_the_heaviest_first() {
        let heavy = |position, id, layer, ratio| HeavyToken {
            window: 0,
            position,
            id,
            text: format!("t{id}"),
            layer,
            ratio,
        };
        let tokens = [
            heavy(0, 7, Some(3), 150.0),
            heavy(9, 2, Some(3), 6e4),
            heavy(0, 2, Some(3), 7e4),
            heavy(81, 2, None, 101.0),
        ];
        let found: Vec<_> = HeavyToken::kinds(&tokens)
            .into_iter()
            .map(|kind| (kind.id, kind.layer, kind.count, kind.first, kind.ratio))
            .collect();
        assert_eq!(
            found,
            [(2, Some(3), 2, 1, 7e4), (7, Some(3), 1, 1, 150.0), (2, None, 1, 0, 101.0)]
        );
    }
}
