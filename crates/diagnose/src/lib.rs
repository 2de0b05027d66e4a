//! Which layers of a model work and which idle: probes over a running decoder, and what they say.
//!
//! One pass through the layers yields every statistic of the default set; the layers may come from
//! memory or from disk, one at a time. Definitions stand with the fields of
//! [`DiagnoseRecord`].

mod angular;
mod choose;
mod gradients;
mod lens;
mod pass;
mod probes;
mod statistics;
mod theory;
mod verdict;

pub use choose::{Choice, ChooseError, Chosen, PruneRule, choose};
pub use lns_record::Probe;
pub use probes::{Probes, UnknownProbe, price};
pub use theory::{Moment, Subject, theory};
pub use verdict::{fit_growth, judge};

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use lns_corpus::Windows;
use lns_kernels::Workers;
use lns_model::LayerSource;
use lns_record::{
    BaselineRecord, BlockRecord, DiagnoseRecord, ProbeRecord, TextRecord, VerdictRecord,
};
use lns_score::{CountPasses, ScoreError, mean, standard_error, window_length};
use lns_spec::ModelSpec;

/// Who watches a diagnosis and may end it.
#[derive(Clone, Copy)]
pub struct Control<'a> {
    /// Told of the layer passes that are done; [`work`] in all.
    pub progress: CountPasses<'a>,
    /// Set from elsewhere to end early, with the windows that are whole by then.
    pub stop: &'a AtomicBool,
}

impl Control<'_> {
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What the record calls things.
pub struct Labels<'a> {
    /// The model.
    pub name: String,
    /// The text.
    pub files: Vec<String>,
    /// The text of a token.
    pub spell: &'a dyn Fn(u32) -> String,
}

/// Runs the probes on a text whose windows are of the same length and at least two tokens long.
///
/// When it is stopped, the record is of the windows that were whole by then, and without the probes
/// that were not; `None` when there was no such window.
///
/// # Errors
/// [`ScoreError`] when there is no window, a layer cannot be read, or a number is not finite.
pub fn diagnose(
    source: &dyn LayerSource,
    text: &Windows,
    probes: &Probes,
    workers: &Workers,
    control: Control<'_>,
    labels: Labels<'_>,
) -> Result<Option<DiagnoseRecord>, ScoreError> {
    let length = window_length(&text.windows)?;
    let mut ran = Vec::new();
    let mut timed = |name: &str, start: Instant| {
        ran.push(ProbeRecord { name: name.to_owned(), seconds: start.elapsed().as_secs_f64() });
    };

    let start = Instant::now();
    let pass::Findings { baseline, stream, heavy_tokens, mut layers, angular, lens } =
        pass::run(source, text, probes, workers, control, labels.spell)?;
    timed(&probes.of_one_pass(), start);
    if baseline.is_empty() {
        return Ok(None);
    }

    let windows = &text.windows[..baseline.len()];
    if probes.has(Probe::Gradients) {
        let start = Instant::now();
        let norms = gradients::gradient_norms(source, windows, workers, control)?;
        for (layer, norms) in layers.iter_mut().zip(norms) {
            layer.gradient_norm = Some(norms.parameters);
            layer.stream_gradient_norm = Some(norms.stream);
        }
        timed(Probe::Gradients.name(), start);
    }
    if probes.has(Probe::Jacobian) {
        let start = Instant::now();
        let distances = gradients::jacobian_distances(source, windows, workers, control)?;
        for (layer, (distance, stderr)) in layers.iter_mut().zip(distances) {
            layer.jacobian_identity_distance = Some(distance);
            layer.jacobian_stderr = stderr;
        }
        timed(Probe::Jacobian.name(), start);
    }

    let (nll, nll_stderr) = (mean(&baseline), standard_error(&baseline));
    let text = TextRecord {
        files: labels.files,
        tokens: (windows.len() * length) as u64,
        windows: windows.len() as u64,
        window_len: length as u64,
    };
    let mut record = DiagnoseRecord {
        name: labels.name,
        model: source.spec().to_config(),
        text,
        baseline: BaselineRecord { nll, perplexity: nll.exp(), nll_stderr },
        stream,
        heavy_tokens,
        layers,
        blocks: most_redundant(&angular),
        angular_distance: angular,
        lens,
        verdict: VerdictRecord::default(),
        probes: ran,
    };
    record.verdict = judge(&record);
    Ok(Some(record))
}

/// Layer passes over one window that [`diagnose`] will report to its progress; a head counts as the
/// layers it costs as much as.
pub fn work(spec: &ModelSpec, windows: usize, probes: &Probes) -> u64 {
    let differentiated = [Probe::Gradients, Probe::Jacobian];
    let dear = differentiated.into_iter().filter(|probe| probes.has(*probe)).count() as u64;
    pass::work(spec, windows, probes) + dear * gradients::work(spec.num_hidden_layers, windows)
}

/// For each n, the block of n layers whose ends are closest (Gromov et al., arXiv 2403.17887):
/// argmin over i of d(stream\[i\], stream\[i + n\]), the first of equals.
fn most_redundant(angular: &[Vec<f64>]) -> Vec<BlockRecord> {
    (1..=angular.len())
        .filter_map(|n| {
            let distances =
                angular.iter().enumerate().filter_map(|(i, row)| Some((i, *row.get(n - 1)?)));
            let (start, distance) = distances.min_by(|a, b| a.1.total_cmp(&b.1))?;
            Some(BlockRecord { n, start, distance })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_redundant_block_is_the_closest_pair_of_its_length() {
        let angular = vec![vec![0.3, 0.5, 0.6], vec![0.1, 0.4], vec![0.1]];
        let blocks: Vec<_> =
            most_redundant(&angular).iter().map(|b| (b.n, b.start, b.distance)).collect();
        assert_eq!(blocks, [(1, 1, 0.1), (2, 1, 0.4), (3, 0, 0.6)]);
    }
}
