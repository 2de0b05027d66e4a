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

use std::time::Instant;

use layernorm_scaling::LayerSource;
use lns_data::Window;
use lns_eval::{Progress, RunError, mean, standard_error, window_length};
use lns_kernels::Workers;
use lns_record::{BaselineRecord, BlockRecord, DiagnoseRecord, ProbeRecord, TextRecord};
use lns_spec::ModelSpec;

/// Runs the probes on `windows`, each of the same length and at least two tokens long.
///
/// `name` and `files` go into the record as they are.
///
/// # Errors
/// [`RunError`] when there is no window, a layer cannot be read, or a number is not finite.
pub fn diagnose(
    source: &dyn LayerSource,
    windows: &[Window],
    probes: &Probes,
    workers: &Workers,
    progress: Progress<'_>,
    (name, files): (String, Vec<String>),
) -> Result<DiagnoseRecord, RunError> {
    let length = window_length(windows)?;
    let mut ran = Vec::new();
    let mut timed = |name: &str, start: Instant| {
        ran.push(ProbeRecord { name: name.to_owned(), seconds: start.elapsed().as_secs_f64() });
    };

    let start = Instant::now();
    let pass::Findings { baseline, stream, mut layers, angular, lens } =
        pass::run(source, windows, probes, workers, progress)?;
    timed(&probes.of_one_pass(), start);

    if probes.has(Probe::Gradients) {
        let start = Instant::now();
        let norms = gradients::gradient_norms(source, windows, workers, progress)?;
        for (layer, norms) in layers.iter_mut().zip(norms) {
            layer.gradient_norm = Some(norms.parameters);
            layer.stream_gradient_norm = Some(norms.stream);
        }
        timed(Probe::Gradients.name(), start);
    }
    if probes.has(Probe::Jacobian) {
        let start = Instant::now();
        let distances = gradients::jacobian_distances(source, windows, workers, progress)?;
        for (layer, (distance, stderr)) in layers.iter_mut().zip(distances) {
            layer.jacobian_identity_distance = Some(distance);
            layer.jacobian_stderr = stderr;
        }
        timed(Probe::Jacobian.name(), start);
    }

    let (nll, nll_stderr) = (mean(&baseline), standard_error(&baseline));
    let blocks = most_redundant(&angular);
    let verdict = judge(&stream, &layers, &blocks);
    Ok(DiagnoseRecord {
        name,
        model: source.spec().to_config(),
        text: TextRecord {
            files,
            tokens: (windows.len() * length) as u64,
            windows: windows.len() as u64,
            window_len: length as u64,
        },
        baseline: BaselineRecord { nll, perplexity: nll.exp(), nll_stderr },
        stream,
        layers,
        angular_distance: angular,
        blocks,
        lens,
        verdict,
        probes: ran,
    })
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
