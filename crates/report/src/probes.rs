//! Which probes left no numbers in a record, and what they would have measured.

use lns_record::DiagnoseRecord;

/// A probe of `lns diagnose`.
pub(crate) struct Probe {
    /// As `--probes` knows it.
    pub(crate) name: &'static str,
    pub(crate) measures: &'static str,
    ran: fn(&DiagnoseRecord) -> bool,
}

/// How many there are.
pub(crate) const ALL_PROBES: usize = 8;

const PROBES: [Probe; ALL_PROBES] = [
    Probe {
        name: "stream",
        measures: "Variance of the residual stream",
        ran: |record| !record.stream.is_empty(),
    },
    Probe {
        name: "branches",
        measures: "Branch variances and ratios, block influence",
        ran: |record| record.layers.iter().any(|layer| layer.block_influence.is_some()),
    },
    Probe {
        name: "angular",
        measures: "Angular distances and redundant blocks",
        ran: |record| !record.angular_distance.is_empty(),
    },
    Probe {
        name: "removal",
        measures: "Cost of removing each layer, effective depth, idle layers",
        ran: |record| record.layers.iter().any(|layer| layer.removal.is_some()),
    },
    Probe {
        name: "sublayers",
        measures: "Cost of removing attention or MLP alone",
        ran: |record| record.layers.iter().any(|layer| layer.removal_attention.is_some()),
    },
    Probe {
        name: "gradients",
        measures: "Gradient norms by layer",
        ran: |record| record.layers.iter().any(|layer| layer.gradient_norm.is_some()),
    },
    Probe {
        name: "jacobian",
        measures: "Distance of each layer's Jacobian from the identity",
        ran: |record| record.layers.iter().any(|layer| layer.jacobian_identity_distance.is_some()),
    },
    Probe {
        name: "lens",
        measures: "Logit lens: at which depth the prediction is settled",
        ran: |record| !record.lens.is_empty(),
    },
];

/// Probes that `record` has nothing of.
pub(crate) fn missing_probes(record: &DiagnoseRecord) -> Vec<&'static Probe> {
    PROBES.iter().filter(|probe| !(probe.ran)(record)).collect()
}
