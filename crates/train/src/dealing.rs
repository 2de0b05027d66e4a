//! Which worker takes which sequences of a batch.

/// The sequences of each of `workers` workers, at most as many as there are sequences: in their order,
/// if they are of one length, otherwise each to the worker with the fewest tokens, the longest first.
pub(crate) fn dealt(lengths: &[usize], workers: usize) -> Vec<Vec<usize>> {
    if lengths.windows(2).all(|pair| pair[0] == pair[1]) {
        let first = |worker: usize| worker * lengths.len() / workers;
        return (0..workers).map(|worker| (first(worker)..first(worker + 1)).collect()).collect();
    }
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    // Stable: a batch is dealt in the same way every time.
    order.sort_by_key(|&sequence| std::cmp::Reverse(lengths[sequence]));
    let mut hands = vec![Vec::new(); workers];
    let mut tokens = vec![0; workers];
    for sequence in order {
        let Some(least) = (0..workers).min_by_key(|&worker| tokens[worker]) else { break };
        hands[least].push(sequence);
        tokens[least] += lengths[sequence];
    }
    hands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_of_one_length_are_dealt_in_their_order_and_others_by_their_tokens() {
        assert_eq!(dealt(&[4; 5], 2), [vec![0, 1], vec![2, 3, 4]]);
        assert_eq!(dealt(&[1, 9, 2, 3, 4], 2), [vec![1, 0], vec![4, 3, 2]]);
        assert_eq!(dealt(&[7, 0, 1], 3), [vec![0], vec![2], vec![1]]);
    }
}
