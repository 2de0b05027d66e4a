//! Sets of probes, and what each probe costs.

use std::{fmt, str::FromStr};

use lns_record::Probe;

/// The price of a probe in forward passes of a model of `layers` layers, beyond the one pass that every
/// diagnosis makes. The factors were measured on SmolLM2-135M.
pub fn price(probe: Probe, layers: usize) -> f64 {
    let layers = layers as f64;
    match probe {
        Probe::Stream | Probe::Branches | Probe::Angular => 0.0,
        // Variant i runs layers i + 1.. and the head.
        Probe::Removal => layers * 0.52,
        Probe::Sublayers => layers * 1.1,
        Probe::Gradients => 5.0,
        Probe::Jacobian => 6.0,
        Probe::Lens => layers * 0.5,
    }
}

/// A set of probes, written `a,b,c`, `default` or `all`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probes(Vec<Probe>);

impl Default for Probes {
    fn default() -> Self {
        [Probe::Stream, Probe::Branches, Probe::Angular, Probe::Removal].into_iter().collect()
    }
}

impl FromIterator<Probe> for Probes {
    fn from_iter<I: IntoIterator<Item = Probe>>(probes: I) -> Self {
        let chosen: Vec<Probe> = probes.into_iter().collect();
        Self(Probe::ALL.into_iter().filter(|probe| chosen.contains(probe)).collect())
    }
}

impl Probes {
    /// Whether `probe` is in the set.
    pub fn has(&self, probe: Probe) -> bool {
        self.0.contains(&probe)
    }

    /// The probes, cheap ones first.
    pub fn iter(&self) -> impl Iterator<Item = Probe> + '_ {
        self.0.iter().copied()
    }

    /// Names of those that share the one pass through the layers.
    pub(crate) fn of_one_pass(&self) -> String {
        let shared = self.iter().filter(|p| !matches!(p, Probe::Gradients | Probe::Jacobian));
        let names: Vec<_> = std::iter::once("baseline").chain(shared.map(Probe::name)).collect();
        names.join("+")
    }
}

/// A name that is no probe's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownProbe(String);

impl fmt::Display for UnknownProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Probe::ALL.map(Probe::name).join(", ");
        write!(f, "\"{}\" is not a probe; the probes are {names}, default, all", self.0)
    }
}

impl std::error::Error for UnknownProbe {}

impl FromStr for Probes {
    type Err = UnknownProbe;

    fn from_str(text: &str) -> Result<Self, UnknownProbe> {
        let mut chosen = Vec::new();
        for name in text.split(',').map(str::trim) {
            match name {
                "all" => chosen.extend(Probe::ALL),
                "default" => chosen.extend(Self::default().0),
                _ => chosen.push(
                    Probe::ALL
                        .into_iter()
                        .find(|probe| probe.name() == name)
                        .ok_or_else(|| UnknownProbe(name.to_owned()))?,
                ),
            }
        }
        Ok(chosen.into_iter().collect())
    }
}

impl fmt::Display for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(Probe::name).collect();
        f.write_str(&names.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_chosen_by_name_and_kept_in_order() {
        let parse = |text: &str| text.parse::<Probes>().map(|probes| probes.to_string());
        assert_eq!(parse("lens, stream"), Ok("stream,lens".to_owned()));
        assert_eq!(
            parse("default,sublayers"),
            Ok("stream,branches,angular,removal,sublayers".into())
        );
        assert_eq!(parse("all").map(|all| all.split(',').count()), Ok(8));
        assert!(parse("Stream").is_err() && parse("").is_err());
    }
}
