//! A shuffle without memory: where each of `0..n` goes is computed, never stored.
//!
//! A balanced Feistel network permutes the numbers of 2·`half_bits` bits, whatever its round
//! function is; numbers that fall outside `0..n` are sent through it again until they fall inside
//! ("cycle walking": Black and Rogaway, *Ciphers with Arbitrary Finite Domains*, 2002). As the
//! network's domain is less than 4·n, a number needs fewer than four passes on average. The round
//! function is splitmix64 (Steele, Lea and Flood, 2014), so the order is the same on every machine.

/// Enough that no trace of the order is left: four would do for a random round function.
const ROUNDS: usize = 6;

/// The output function of splitmix64, behind its increment.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A bijection of `0..n`, chosen by a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Permutation {
    n: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// # Panics
    /// If `n` is 0 or above 2⁶².
    pub(crate) fn new(n: u64, key: u64) -> Self {
        assert!((1..=1 << 62).contains(&n), "0 < {n} <= 2^62");
        let bits = u64::BITS - (n - 1).leading_zeros();
        let mut keys = [0; ROUNDS];
        keys.iter_mut().fold(mix(key), |state, key| {
            *key = state;
            mix(state)
        });
        Self { n, half_bits: bits.div_ceil(2), keys }
    }

    /// Where `index`, which must be below `n`, goes.
    pub(crate) fn of(&self, index: u64) -> u64 {
        let mut value = self.network(index);
        while value >= self.n {
            value = self.network(value);
        }
        value
    }

    fn network(&self, value: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(n: u64, key: u64) -> Vec<u64> {
        let permutation = Permutation::new(n, key);
        (0..n).map(|index| permutation.of(index)).collect()
    }

    proptest! {
        #[test]
        fn every_number_is_met_once(n in 1..3000u64, key: u64) {
            let mut sorted = order(n, key);
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..n).collect::<Vec<_>>());
        }

        #[test]
        fn large_sets_stay_within_themselves(n in 1..=1u64 << 62, key: u64, index: u64) {
            prop_assert!(Permutation::new(n, key).of(index % n) < n);
        }
    }

    #[test]
    fn the_round_function_is_splitmix64() {
        // The first numbers of the reference implementation with seed 0.
        let state = [0, 0x9E37_79B9_7F4A_7C15];
        assert_eq!(state.map(mix), [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4]);
    }

    #[test]
    fn the_order_never_changes() {
        assert_eq!(order(10, 7), [2, 7, 6, 8, 5, 4, 3, 0, 9, 1]);
    }

    #[test]
    fn every_place_is_about_equally_likely() {
        // 10 places, 10,000 keys: χ² with 9 degrees of freedom exceeds 27.9 once in a thousand.
        for index in 0..10 {
            let mut counts = [0.0f64; 10];
            (0..10_000).for_each(|key| counts[Permutation::new(10, key).of(index) as usize] += 1.0);
            let chi_squared: f64 = counts.iter().map(|n| (n - 1e3) * (n - 1e3) / 1e3).sum();
            assert!(chi_squared < 27.9, "{index}: {chi_squared}");
        }
    }

    #[test]
    fn neighbours_are_parted() {
        let order = order(100_000, 1);
        let steps = order.windows(2).map(|pair| pair[0].abs_diff(pair[1]) as f64);
        let mean = steps.sum::<f64>() / 99_999.0;
        // A third of the range, give or take five standard errors.
        assert!((mean - 33_333.0).abs() < 400.0, "{mean}");
    }
}
