//! Optimisers: how parameters follow their gradients.
//!
//! Each is one file of this folder and one line of [`optimisers!`]. The file says what the optimiser may be
//! set to, what it keeps of a parameter from step to step, and how one step changes a parameter. The
//! learning rate comes with each step.

mod adam;
mod adamw;
mod muon;
mod state;

use lns_spec::TensorId;
use serde::{Deserialize, Deserializer, Serialize, de::Error};

pub use adam::Adam;
pub use adamw::AdamW;
pub use muon::Muon;
pub(crate) use state::{CHUNK, Job, Moments, Parameter, ParameterUpdate, Step};

use crate::ranges::Real;

/// Which parameters decay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Every one.
    All,
    /// Projections only: no norm's gain, no bias, no embedding (nor a head tied to it).
    #[default]
    Projections,
}

/// A setting of an optimiser that is a number.
pub(crate) struct Number<'a> {
    /// Its key in the settings of a run.
    pub(crate) key: &'static str,
    /// What it may be.
    pub(crate) range: Real,
    /// Where the optimiser keeps it.
    pub(crate) value: &'a mut f64,
}

impl<'a> Number<'a> {
    fn new(key: &'static str, range: Real, value: &'a mut f64) -> Self {
        Self { key, range, value }
    }
}

/// What one optimiser says. Only the first three have no usual answer.
trait Rule {
    /// Its settings that are numbers, under their keys `optimiser.NAME`. One that several optimisers have
    /// means the same in all of them.
    fn numbers(&mut self) -> Vec<Number<'_>>;

    /// What it keeps of a parameter: a name for each of the moments, which are as long as the parameter,
    /// start from 0 and stand in snapshots under these names. The tensor is `None` for a factor of an adapter.
    fn moments(&self, tensor: Option<TensorId>) -> &'static [&'static str];

    /// The work of one step on one parameter, in pieces that any thread may do in any order.
    fn update<'a>(&self, update: ParameterUpdate<'a>) -> Vec<Job<'a>>;

    /// Which parameters its weight decay is for, if it has one.
    fn decay(&mut self) -> Option<&mut Decay> {
        None
    }

    /// Why settings of other optimisers, which it lacks, change nothing: for the person who set one.
    fn fixed(&self) -> Option<&'static str> {
        None
    }
}

macro_rules! optimisers {
    ($($(#[$doc:meta])* $variant:ident($rule:path) = $name:literal),+ $(,)?) => {
        /// How parameters follow their gradients.
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub enum Optimiser {
            $($(#[$doc])* $variant($rule)),+
        }

        impl Optimiser {
            /// Every optimiser's name in settings.
            pub const NAMES: &[&str] = &[$($name),+];

            /// Every optimiser with its usual settings, in the order of [`NAMES`](Self::NAMES).
            pub fn all() -> Vec<Self> {
                vec![$(Self::$variant(<$rule>::default())),+]
            }

            fn rule(&self) -> &dyn Rule {
                match self { $(Self::$variant(rule) => rule),+ }
            }

            fn rule_mut(&mut self) -> &mut dyn Rule {
                match self { $(Self::$variant(rule) => rule),+ }
            }

            /// Its name in settings: `adamw`.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name),+ }
            }

            /// Its name in prose: `AdamW`.
            pub fn title(&self) -> &'static str {
                match self { $(Self::$variant(_) => stringify!($variant)),+ }
            }
        }
    };
}

optimisers! {
    /// Adam, which has no weight decay.
    Adam(Adam) = "adam",
    /// AdamW.
    AdamW(AdamW) = "adamw",
    /// Muon for the layers' matrices, AdamW for the rest.
    Muon(Muon) = "muon",
}

impl Default for Optimiser {
    fn default() -> Self {
        Self::AdamW(AdamW::default())
    }
}

impl Optimiser {
    /// Its settings that are numbers.
    pub(crate) fn numbers(&mut self) -> Vec<Number<'_>> {
        self.rule_mut().numbers()
    }

    /// Which parameters its weight decay is for, if it has one.
    pub(crate) fn decay(&mut self) -> Option<&mut Decay> {
        self.rule_mut().decay()
    }

    /// The value of a setting that is a number, by its key: `optimiser.weight_decay`. `None` if it has no
    /// such setting.
    pub fn number(&self, key: &str) -> Option<f64> {
        let mut own = *self;
        own.numbers().into_iter().find(|number| number.key == key).map(|number| *number.value)
    }

    /// Why settings that it lacks change nothing.
    pub(crate) fn fixed(&self) -> Option<&'static str> {
        self.rule().fixed()
    }

    /// What it keeps of a tensor; `None` stands for a factor of an adapter.
    pub(crate) fn moments(&self, tensor: Option<TensorId>) -> &'static [&'static str] {
        self.rule().moments(tensor)
    }

    fn update<'a>(&self, update: ParameterUpdate<'a>) -> Vec<Job<'a>> {
        self.rule().update(update)
    }
}

/// An optimiser by its name, with its usual settings.
impl<'de> Deserialize<'de> for Optimiser {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let found = Self::all().into_iter().find(|optimiser| optimiser.name() == name);
        found.ok_or_else(|| D::Error::unknown_variant(&name, Self::NAMES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_of_several_optimisers_has_one_range_and_one_usual_value() {
        let mut seen: Vec<(&str, Real, f64)> = Vec::new();
        for mut optimiser in Optimiser::all() {
            for Number { key, range, value } in optimiser.numbers() {
                assert!(key.starts_with("optimiser.") && range.contains(*value), "{key}");
                match seen.iter().find(|(known, ..)| *known == key) {
                    Some(known) => assert_eq!((known.1, known.2), (range, *value), "{key}"),
                    None => seen.push((key, range, *value)),
                }
            }
        }
        assert!(seen.len() >= 5);
    }
}
