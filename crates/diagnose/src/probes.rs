//! The probes by name, and what each costs.

use std::{fmt, str::FromStr};

/// One kind of evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Variance and rms of the residual stream.
    Stream,
    /// Branch variances, their ratio to the stream, cosine, block influence.
    Branches,
    /// The whole angular matrix and the most redundant blocks.
    Angular,
    /// Loss without each layer.
    Removal,
    /// Loss without each layer's attention, and without its MLP.
    Sublayers,
    /// Gradient norms.
    Gradients,
    /// Distance of each layer's Jacobian from the identity.
    Jacobian,
    /// Logit lens.
    Lens,
}

impl Probe {
    /// Every probe, cheap ones first.
    pub const ALL: [Self; 8] = [
        Self::Stream,
        Self::Branches,
        Self::Angular,
        Self::Removal,
        Self::Sublayers,
        Self::Gradients,
        Self::Jacobian,
        Self::Lens,
    ];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Branches => "branches",
            Self::Angular => "angular",
            Self::Removal => "removal",
            Self::Sublayers => "sublayers",
            Self::Gradients => "gradients",
            Self::Jacobian => "jacobian",
            Self::Lens => "lens",
        }
    }

    /// What it measures, in a few words.
    pub const fn measures(self) -> &'static str {
        match self {
            Self::Stream => "variance and rms of the residual stream",
            Self::Branches => "what attention and MLP add, cosine, block influence",
            Self::Angular => "angular distance of every pair of layers, most redundant blocks",
            Self::Removal => "loss without each layer",
            Self::Sublayers => "loss without each layer's attention, and without its MLP",
            Self::Gradients => "gradient norm of each layer's parameters and input",
            Self::Jacobian => "distance of each layer's Jacobian from the identity",
            Self::Lens => "how far the final prediction is already there after each layer",
        }
    }

    /// Its price in forward passes of a model of `layers` layers, beyond the one pass that every
    /// diagnosis makes. The factors were measured on SmolLM2-135M.
    pub fn price(self, layers: usize) -> f64 {
        let layers = layers as f64;
        match self {
            Self::Stream | Self::Branches | Self::Angular => 0.0,
            // Variant i runs layers i + 1.. and the head.
            Self::Removal => layers * 0.52,
            Self::Sublayers => layers * 1.1,
            Self::Gradients => 5.0,
            Self::Jacobian => 6.0,
            Self::Lens => layers * 0.5,
        }
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
