//! The probes: one file each, and the registry. A probe says what it measures, number by number, and the
//! report tabulates and draws it from that alone.

pub(crate) mod angular;
mod attribution;
pub(crate) mod branches;
mod experts;
mod gradients;
mod jacobian;
mod lens;
pub(crate) mod removal;
pub(crate) mod stream;
pub(crate) mod sublayers;
pub(crate) mod tasks;

use std::{fmt, str::FromStr};

use lns_record::{ChartDescription, DiagnoseRecord, Group, Numbers, ProbeDescription, Quantity};
use lns_score::ScoreError;
use lns_spec::ModelSpec;

use crate::{Questioned, derivative::Examined, observer::Observer};

/// Every probe, cheap ones first.
const REGISTRY: &[&dyn Probe] = &[
    &stream::Stream,
    &branches::Branches,
    &angular::Angular,
    &experts::Experts,
    &removal::Removal,
    &sublayers::Sublayers,
    &attribution::Attribution,
    &gradients::Gradients,
    &jacobian::Jacobian,
    &lens::Lens,
    &tasks::Tasks,
];

/// One measurement of a diagnosis.
pub trait Probe: Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// What it measures, in a few words.
    fn measures(&self) -> &'static str;

    /// Whether it belongs to the default set.
    fn is_default(&self) -> bool {
        false
    }

    /// What a model lacks that it would measure; `None` where it means something.
    fn lacks(&self, _model: &ModelSpec) -> Option<&'static str> {
        None
    }

    /// Its price in forward passes of a model of that many layers, beyond the one pass that every
    /// diagnosis makes, as measured on SmolLM2-135M.
    fn price(&self, layers: f64) -> f64;

    /// What its numbers are about.
    fn group(&self) -> Group;

    /// Its numbers: the names they have in `diagnose.json`, and what they are.
    fn quantities(&self) -> Vec<Quantity>;

    /// Charts of its numbers.
    fn charts(&self) -> Vec<ChartDescription> {
        Vec::new()
    }

    /// Its numbers in a record, where which there are depends on what was asked.
    fn quantities_in(&self, _record: &DiagnoseRecord) -> Vec<Quantity> {
        self.quantities()
    }

    /// Charts of its numbers in a record.
    fn charts_in(&self, _record: &DiagnoseRecord) -> Vec<ChartDescription> {
        self.charts()
    }

    /// How it runs.
    fn course(&self) -> Course;

    /// What its numbers come to, in sentences; none where they were not measured.
    fn evidence(&self, _record: &DiagnoseRecord) -> Vec<String> {
        Vec::new()
    }
}

/// How a probe runs.
pub enum Course {
    /// It watches the one pass that every diagnosis makes.
    Shared(Box<dyn Observer>),
    /// It makes passes of its own after that one, from the streams of a forward pass that such probes share.
    Own {
        /// How often every window passes every layer beyond that one, as it is reported to the progress.
        passes: u64,
        /// Measures, and writes its numbers into the record's layers.
        run: fn(&Examined<'_>, &mut DiagnoseRecord) -> Result<(), ScoreError>,
    },
    /// It asks tasks, and runs where some were given ([`diagnose_tasks`](crate::diagnose_tasks)).
    Questions {
        /// Asks, and writes its numbers into the record and its layers.
        run: fn(&Questioned<'_>, &mut DiagnoseRecord) -> Result<(), ScoreError>,
    },
}

/// Whether a probe asks tasks: which it measures then is not said by its name alone.
fn asks_tasks(probe: &dyn Probe) -> bool {
    matches!(probe.course(), Course::Questions { .. })
}

/// Every probe, cheap ones first.
pub fn probes() -> impl Iterator<Item = &'static dyn Probe> {
    REGISTRY.iter().copied()
}

/// Those that can be asked for by name: they read text.
fn of_text() -> impl Iterator<Item = &'static dyn Probe> {
    probes().filter(|probe| !asks_tasks(*probe))
}

/// What a model without a head lacks, in words.
fn lacks_head(model: &ModelSpec) -> Option<&'static str> {
    (!model.has_head()).then_some(HEAD)
}

const HEAD: &str = "head and so no loss";

/// The probes that mean nothing for a model because it has no head; none of a model with one.
pub(crate) fn that_take_a_loss(model: &ModelSpec) -> Vec<&'static str> {
    let lack = |probe: &&dyn Probe| probe.lacks(model) == Some(HEAD);
    of_text().filter(lack).map(Probe::name).collect()
}

/// Says in the record what its numbers are, and which probes would measure more of this model.
pub(crate) fn describe(record: &mut DiagnoseRecord) {
    let numbers = Numbers::of(record);
    let described = |probe: &dyn Probe| {
        let description = ProbeDescription {
            name: probe.name().to_owned(),
            measures: probe.measures().to_owned(),
            group: probe.group(),
            quantities: probe.quantities_in(record),
            charts: probe.charts_in(record),
        };
        match description.is_in(&numbers) {
            true => description,
            false => ProbeDescription { quantities: vec![], charts: vec![], ..description },
        }
    };
    let model = ModelSpec::from_config(&record.model).ok();
    let suits =
        |probe: &&dyn Probe| model.as_ref().is_none_or(|model| probe.lacks(model).is_none());
    let described = probes().filter(suits).filter_map(|probe| {
        let description = described(probe);
        // Probes that were not run are named for people to run them; this one takes tasks.
        (!asks_tasks(probe) || !description.quantities.is_empty()).then_some(description)
    });
    record.described = described.collect();
}

/// A set of probes, written `a,b,c`, `default` or `all`.
#[derive(Clone)]
pub struct Probes {
    chosen: Vec<&'static dyn Probe>,
    /// Those that were asked for by their names.
    named: Vec<&'static str>,
    removal_error: Option<f64>,
}

impl Default for Probes {
    fn default() -> Self {
        let chosen = probes().filter(|probe| probe.is_default()).collect();
        Self { chosen, named: Vec::new(), removal_error: None }
    }
}

impl Probes {
    /// These probes, in this order.
    pub(crate) fn of(probes: &[&'static dyn Probe]) -> Self {
        Self { chosen: probes.to_vec(), named: Vec::new(), removal_error: None }
    }

    /// The probes, cheap ones first.
    pub fn iter(&self) -> impl Iterator<Item = &'static dyn Probe> + '_ {
        self.chosen.iter().copied()
    }

    /// The same, with windows of removals spent as needed: a part is left out in no more windows once
    /// the 95 % interval of its cost in nats per token is not wider than ±`removal_error`, or lies on one
    /// side of the threshold below which a layer is idle. Without it every window counts.
    #[must_use]
    pub fn with_removal_error(self, removal_error: Option<f64>) -> Self {
        Self { removal_error, ..self }
    }

    /// The half-width at which the interval of a removal's cost is narrow enough, if one is.
    pub fn removal_error(&self) -> Option<f64> {
        self.removal_error
    }

    /// Whether any of them leaves parts of a model out, so that a removal error has a meaning.
    pub fn leave_parts_out(&self) -> bool {
        self.iter().any(|probe| match probe.course() {
            Course::Shared(observer) => observer.variants() > 0,
            Course::Own { .. } | Course::Questions { .. } => false,
        })
    }

    /// The names of those that mean nothing for a model because it has no head and so no loss.
    pub fn that_take_a_loss(&self, model: &ModelSpec) -> Vec<&'static str> {
        let names = that_take_a_loss(model);
        self.iter().map(Probe::name).filter(|name| names.contains(name)).collect()
    }

    /// Those that mean something for a model.
    ///
    /// # Errors
    /// [`UnsuitedProbe`] when another was asked for by its name.
    pub fn for_model(&self, model: &ModelSpec) -> Result<Self, UnsuitedProbe> {
        let named = self.iter().filter(|probe| self.named.contains(&probe.name()));
        for probe in named {
            if let Some(lacks) = probe.lacks(model) {
                let (name, measures) = (probe.name(), probe.measures());
                return Err(UnsuitedProbe { name, measures, lacks });
            }
        }
        let chosen = self.iter().filter(|probe| probe.lacks(model).is_none()).collect();
        Ok(Self { chosen, named: self.named.clone(), removal_error: self.removal_error })
    }
}

/// A probe that means nothing for a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the probe \"{name}\" measures {measures}, and this model has no {lacks}; leave it out")]
pub struct UnsuitedProbe {
    name: &'static str,
    measures: &'static str,
    lacks: &'static str,
}

/// A name that is no probe's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownProbe(String);

impl fmt::Display for UnknownProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if probes().any(|probe| asks_tasks(probe) && probe.name() == self.0) {
            return write!(
                f,
                "the probe \"{}\" runs where --tasks names some; leave it out here",
                self.0
            );
        }
        let names: Vec<_> = of_text().map(Probe::name).collect();
        let names = names.join(", ");
        write!(f, "\"{}\" is not a probe; the probes are {names}, default, all", self.0)
    }
}

impl std::error::Error for UnknownProbe {}

impl FromStr for Probes {
    type Err = UnknownProbe;

    fn from_str(text: &str) -> Result<Self, UnknownProbe> {
        let asked: Vec<&str> = text.split(',').map(str::trim).collect();
        let is_known =
            |name: &str| matches!(name, "all" | "default") || of_text().any(|p| p.name() == name);
        if let Some(unknown) = asked.iter().find(|name| !is_known(name)) {
            return Err(UnknownProbe((*unknown).to_owned()));
        }
        let is_asked = |probe: &&dyn Probe| {
            asked.contains(&"all")
                || asked.contains(&"default") && probe.is_default()
                || asked.contains(&probe.name())
        };
        let named = probes().map(|probe| probe.name()).filter(|name| asked.contains(name));
        let (chosen, named) = (of_text().filter(is_asked).collect(), named.collect());
        Ok(Self { chosen, named, removal_error: None })
    }
}

impl fmt::Display for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(Probe::name).collect();
        f.write_str(&names.join(","))
    }
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Probes({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn probes_are_chosen_by_name_and_kept_in_order() {
        let parse = |text: &str| {
            text.parse::<Probes>().map(|probes| probes.to_string()).map_err(|error| error.0)
        };
        assert_eq!(parse("lens, stream"), Ok("stream,lens".to_owned()));
        assert_eq!(
            parse("default,sublayers"),
            Ok("stream,branches,angular,removal,sublayers".into())
        );
        assert_eq!(parse("all").map(|all| all.split(',').count()), Ok(REGISTRY.len() - 1));
        assert!(parse("Stream").is_err() && parse("").is_err());
        let of_tasks = "stream,tasks".parse::<Probes>().map_err(|error| error.to_string());
        assert!(of_tasks.is_err_and(|said| said.contains("where --tasks names some")));
    }

    #[test]
    fn no_two_probes_share_a_name_a_field_or_a_chart() {
        let mut seen = HashSet::new();
        for probe in probes() {
            assert!(seen.insert(format!("probe {}", probe.name())), "{}", probe.name());
            for Quantity { field, .. } in probe.quantities() {
                assert!(seen.insert(field.clone()), "{field}");
            }
            for ChartDescription { name, .. } in probe.charts() {
                assert!(seen.insert(format!("chart {name}")), "{name}");
            }
        }
    }

    #[test]
    fn charts_and_estimates_are_of_quantities_that_are_measured() {
        let quantities: Vec<Quantity> = probes().flat_map(Probe::quantities).collect();
        let known = |field: &str| quantities.iter().any(|quantity| quantity.field == field);
        for probe in probes() {
            let charts = probe.charts();
            let drawn = charts.iter().flat_map(|chart| &chart.series).map(|s| s.field.clone());
            let estimated = probe.quantities().into_iter().filter_map(|q| q.estimates);
            for field in drawn.chain(estimated) {
                assert!(known(&field), "{}: {field}", probe.name());
            }
        }
    }
}
