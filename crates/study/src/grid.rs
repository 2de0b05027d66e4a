//! Groups as a factorial grid: every level of one factor with every level of the others.

use lns_spec::Initialisation;
use serde::Deserialize;
use toml::{Table, Value};

use crate::{Group, StudyError};

/// One dimension of a grid.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Factor {
    /// Its levels, in the order in which they are run.
    pub levels: Vec<Level>,
}

/// What one level of a factor gives to the groups that have it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    /// Its part of a group's name.
    pub name: String,
    /// The norm scheme, of one of the factors.
    pub scheme: Option<Value>,
    /// How weights start.
    pub initialisation: Option<Initialisation>,
    /// Any other settings of a run.
    #[serde(default)]
    pub settings: Table,
}

/// The groups of a grid, the last factor's levels varying fastest: `pre 0.02`, `pre 0.632`, `lns 0.02`, ….
///
/// # Errors
/// [`StudyError::Grid`] for a group without a scheme, and for a setting that two factors give.
pub(crate) fn groups(grid: &[Factor]) -> Result<Vec<Group>, StudyError> {
    let mut combinations: Vec<Vec<&Level>> = vec![Vec::new()];
    for factor in grid {
        let mut longer = Vec::new();
        for levels in &combinations {
            longer.extend(factor.levels.iter().map(|level| [&levels[..], &[level]].concat()));
        }
        combinations = longer;
    }
    if grid.is_empty() { Ok(Vec::new()) } else { combinations.iter().map(|of| group(of)).collect() }
}

fn group(levels: &[&Level]) -> Result<Group, StudyError> {
    let name = levels.iter().map(|level| level.name.as_str()).collect::<Vec<_>>().join(" ");
    let fault = |reason: String| StudyError::Grid { group: name.clone(), reason };
    let one = |what: &str, given: usize| match given {
        0 | 1 => Ok(()),
        _ => Err(fault(format!("two of its factors give {what}"))),
    };
    let schemes: Vec<&Value> = levels.iter().filter_map(|level| level.scheme.as_ref()).collect();
    let starts: Vec<Initialisation> =
        levels.iter().filter_map(|level| level.initialisation).collect();
    one("a `scheme`", schemes.len())?;
    one("an `initialisation`", starts.len())?;
    let Some(scheme) = schemes.first() else {
        return Err(fault("none of its factors gives a `scheme`".to_owned()));
    };
    let mut settings = Table::new();
    for level in levels {
        merge(&mut settings, &level.settings, "")
            .map_err(|key| fault(format!("two of its factors give the setting {key}")))?;
    }
    let initialisation = starts.first().copied().unwrap_or_default();
    let scheme = (*scheme).clone();
    Ok(Group { name: Some(name), scheme, initialisation, seeds: None, settings })
}

/// Lays tables over each other; the key that both have is the error.
fn merge(into: &mut Table, from: &Table, path: &str) -> Result<(), String> {
    for (key, value) in from {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (into.get_mut(key), value) {
            (None, value) => drop(into.insert(key.clone(), value.clone())),
            (Some(Value::Table(there)), Value::Table(more)) => merge(there, more, &path)?,
            (Some(_), _) => return Err(path),
        }
    }
    Ok(())
}
