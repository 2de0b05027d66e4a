//! Keys and values of the tokens seen so far, so that generation computes each token once.

use burn::tensor::Tensor;

/// The cache of one layer: \[B, tokens, key_value_heads · head_dim\], of keys and of values.
#[derive(Debug, Clone, Default)]
pub struct LayerCache {
    room: Option<(Tensor<3>, Tensor<3>)>,
    len: usize,
}

impl LayerCache {
    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is cached yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds the keys and values of new tokens and returns those of all tokens.
    pub(crate) fn append(&mut self, k: Tensor<3>, v: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        let [sequences, tokens, _] = k.dims();
        let end = self.len + tokens;
        let (mut keys, mut values) = match self.room.take() {
            Some((keys, values)) if end <= keys.dims()[1] => (keys, values),
            previous => {
                // Room doubles, so that the copies add up to a constant per token.
                let length = end.next_power_of_two().max(64);
                let grown = |new: &Tensor<3>| {
                    Tensor::zeros([sequences, length, new.dims()[2]], &new.device())
                };
                let grown = (grown(&k), grown(&v));
                match previous {
                    Some((keys, values)) => {
                        let filled = |room: Tensor<3>, from: Tensor<3>| {
                            let old = [0..sequences, 0..self.len, 0..from.dims()[2]];
                            room.slice_assign(old.clone(), from.slice(old))
                        };
                        (filled(grown.0, keys), filled(grown.1, values))
                    }
                    None => grown,
                }
            }
        };
        let new = |x: &Tensor<3>| [0..sequences, self.len..end, 0..x.dims()[2]];
        keys = keys.slice_assign(new(&k), k);
        values = values.slice_assign(new(&v), v);
        self.len = end;
        let seen = |room: &Tensor<3>| room.clone().narrow(1, 0, end);
        let result = (seen(&keys), seen(&values));
        self.room = Some((keys, values));
        result
    }
}
