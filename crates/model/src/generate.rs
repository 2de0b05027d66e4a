//! Streaming generation with a key/value cache.

use burn::tensor::DType;
use layernorm_scaling::rotary_table;
use lns_kernels::RotaryTable;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::{Decoder, KvCache, ids_tensor};

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 always takes the most likely token.
    pub temperature: f64,
    /// Keeps the fewest tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f64,
    /// Keeps this many most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Seed of the choices.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0, top_k: 0, seed: 0 }
    }
}

/// The next tokens, one at a time. It ends at its limit, when the context is full, or when the logits
/// are no numbers.
#[derive(Debug)]
pub struct Generation<'a> {
    model: &'a Decoder,
    left: usize,
    rotary: RotaryTable,
    cache: KvCache,
    pending: Vec<u32>,
    sampling: Sampling,
    rng: ChaCha8Rng,
}

impl Decoder {
    /// Continues `prompt`, at least one token, by up to `limit` new ones, to the end of the context at most.
    pub fn generate(&self, prompt: &[u32], limit: usize, sampling: Sampling) -> Generation<'_> {
        let context = self.spec().max_position_embeddings;
        let positions = prompt.len().saturating_add(limit).min(context);
        Generation {
            model: self,
            left: limit,
            rotary: rotary_table(self.spec(), positions),
            cache: KvCache::new(self.layers.len()),
            pending: prompt.to_vec(),
            rng: ChaCha8Rng::seed_from_u64(sampling.seed),
            sampling,
        }
    }
}

impl Iterator for Generation<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let end = self.cache.len() + self.pending.len();
        if self.left == 0 || self.pending.is_empty() || end > self.rotary.positions() {
            return None;
        }
        let tokens = ids_tensor(&self.pending, &self.model.device());
        let logits = self.model.next_logits(tokens, &self.rotary, &mut self.cache);
        let logits: Vec<f32> = logits.cast(DType::F32).into_data().iter::<f32>().collect();
        let token = choose(&logits, &self.sampling, &mut self.rng)?;
        self.pending = vec![token];
        self.left -= 1;
        Some(token)
    }
}

/// The chosen token; `None` when the logits hold no number.
fn choose(logits: &[f32], sampling: &Sampling, rng: &mut ChaCha8Rng) -> Option<u32> {
    let numbers = || (0u32..).zip(logits.iter().copied()).filter(|(_, logit)| !logit.is_nan());
    if sampling.temperature <= 0.0 {
        // The first of equals.
        let best = numbers().reduce(|best, next| if next.1 > best.1 { next } else { best });
        return best.map(|(id, _)| id);
    }
    let mut ranked: Vec<(u32, f32)> = numbers().collect();
    // Stable, so that equal logits keep the order of their ids.
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    let largest = f64::from(ranked.first()?.1);
    let weight = |logit: f32| ((f64::from(logit) - largest) / sampling.temperature).exp();
    if sampling.top_k > 0 {
        ranked.truncate(sampling.top_k);
    }
    let total: f64 = ranked.iter().map(|(_, logit)| weight(*logit)).sum();
    let mut kept = 0.0;
    let within = ranked.iter().take_while(|(_, logit)| {
        let more = kept < sampling.top_p * total;
        kept += weight(*logit);
        more
    });
    let candidates: Vec<(u32, f64)> = within.map(|(id, logit)| (*id, weight(*logit))).collect();
    let sum: f64 = candidates.iter().map(|(_, weight)| weight).sum();
    // 53 random bits: a number in [0, 1).
    let mut left = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * sum;
    for (id, weight) in &candidates {
        left -= weight;
        if left < 0.0 {
            return Some(*id);
        }
    }
    candidates.last().map(|(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(logits: &[f32], sampling: &Sampling, draws: usize) -> Vec<u32> {
        let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
        (0..draws).filter_map(|_| choose(logits, sampling, &mut rng)).collect()
    }

    #[test]
    fn temperature_zero_takes_the_most_likely_token_and_the_first_of_equals() {
        assert_eq!(chosen(&[0.0, 3.0, f32::NAN, 3.0], &Sampling::default(), 1), [1]);
        assert_eq!(chosen(&[f32::NAN], &Sampling::default(), 1), [0u32; 0]);
    }

    #[test]
    fn samples_follow_the_softmax_and_the_cuts() {
        let logits = [0.0, 2f32.ln(), 5f32.ln()]; // probabilities 1/8, 2/8, 5/8
        let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
        let draws = chosen(&logits, &sampling, 8000);
        for (id, expected) in [(0, 1000.0), (1, 2000.0), (2, 5000.0)] {
            let count = draws.iter().filter(|draw| **draw == id).count() as f64;
            assert!((count - expected).abs() < 150.0, "{id}: {count} of 8000");
        }
        let top_k = Sampling { top_k: 2, ..sampling.clone() };
        assert!(chosen(&logits, &top_k, 500).iter().all(|id| *id > 0));
        let top_p = Sampling { top_p: 0.6, ..sampling };
        assert!(chosen(&logits, &top_p, 500).iter().all(|id| *id == 2));
    }
}
