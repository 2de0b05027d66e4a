//! Two evaluations of the same windows, window by window: what is common to both models, the text's
//! own ease or difficulty, drops out of the difference and of its error.

use lns_record::DifferenceRecord;

use crate::{Evaluation, margin, mean, standard_error};

/// The loss of `second` minus that of `first`, over the windows; `None` when they were not measured on
/// as many windows of as many tokens. That these hold the same tokens is the caller's to know.
pub fn paired(first: &Evaluation, second: &Evaluation) -> Option<DifferenceRecord> {
    let alike = |evaluation: &Evaluation| (evaluation.window_nll.len(), evaluation.predicted);
    if alike(first) != alike(second) || first.window_nll.is_empty() {
        return None;
    }
    let differences: Vec<f64> =
        second.window_nll.iter().zip(&first.window_nll).map(|(b, a)| b - a).collect();
    let nll = mean(&differences);
    let margin = margin(&differences);
    Some(DifferenceRecord {
        nll,
        stderr: standard_error(&differences),
        low: margin.map(|margin| nll - margin),
        high: margin.map(|margin| nll + margin),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(window_nll: &[f64]) -> Evaluation {
        Evaluation { window_nll: window_nll.to_vec(), predicted: 511, bytes: 0, seconds: 1.0 }
    }

    #[test]
    fn what_both_models_find_hard_does_not_blur_the_difference() {
        let first = evaluation(&[1.0, 5.0, 3.0, 9.0]);
        let second = evaluation(&[1.1, 5.3, 3.1, 9.3]);
        let found = paired(&first, &second).expect("the same windows");
        assert!((found.nll - 0.2).abs() < 1e-12);
        // s = 0.1155 over 4 windows; t(0.975, 3) = 3.182.
        let stderr = found.stderr.expect("four windows");
        assert!((stderr - 0.057_735).abs() < 1e-6, "{stderr}");
        assert!(second.stderr().expect("four windows") > 20.0 * stderr, "unpaired it is blurred");
        let (low, high) = (found.low.expect("a margin"), found.high.expect("a margin"));
        assert!((low - (0.2 - 3.182_446 * stderr)).abs() < 1e-6, "{low}");
        assert!((high + low - 0.4).abs() < 1e-12);
    }

    #[test]
    fn one_window_has_a_difference_and_no_error_and_other_windows_have_none() {
        let found = paired(&evaluation(&[1.0]), &evaluation(&[1.5])).expect("the same window");
        assert_eq!((found.nll, found.stderr, found.low), (0.5, None, None));
        assert_eq!(paired(&evaluation(&[1.0]), &evaluation(&[1.0, 2.0])), None);
        assert_eq!(paired(&evaluation(&[]), &evaluation(&[])), None);
    }
}
