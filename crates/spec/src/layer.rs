//! Layers: their index (0-based, as in `model.layers.{i}`) and their depth (ℓ = i + 1), as two
//! types that cannot be mixed up.

use std::{fmt, num::NonZeroU32, ops::Range};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::SpecError;

/// 0-based position of a layer in the checkpoint: the `i` of `model.layers.{i}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayerIndex(usize);

impl LayerIndex {
    /// The layer at 0-based position `index`.
    pub const fn new(index: usize) -> Self {
        Self(index)
    }

    /// The 0-based position.
    pub const fn get(self) -> usize {
        self.0
    }

    /// The depth ℓ = i + 1 that the layer has unless the model was pruned.
    pub fn depth(self) -> Depth {
        let depth = u32::try_from(self.0 + 1).unwrap_or(u32::MAX);
        Depth(NonZeroU32::new(depth).unwrap_or(NonZeroU32::MIN))
    }
}

impl fmt::Display for LayerIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// 1-based depth ℓ of a layer, the number the scale 1/√ℓ is made of.
///
/// A pruned model keeps the depth each remaining layer was trained at, so this is not always the
/// index plus one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Depth(NonZeroU32);

impl Depth {
    /// The depth ℓ, or `None` for 0.
    pub fn new(depth: u32) -> Option<Self> {
        NonZeroU32::new(depth).map(Self)
    }

    /// ℓ as an integer.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// ℓ as a number to compute with.
    pub fn value(self) -> f64 {
        f64::from(self.0.get())
    }
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One of the two places of a layer where a branch leaves the stream and joins it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Site {
    /// The self-attention.
    Attention,
    /// The MLP, or the experts in its place.
    Mlp,
}

impl Site {
    /// Both sites, in the order in which the stream meets them.
    pub const ALL: [Self; 2] = [Self::Attention, Self::Mlp];

    /// The site's name in files and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Mlp => "mlp",
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Some of a layer's two sites, written `["attention", "mlp"]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sites {
    /// The attention takes part.
    pub attention: bool,
    /// The MLP takes part.
    pub mlp: bool,
}

impl Sites {
    /// Both sites, as in the paper.
    pub const BOTH: Self = Self { attention: true, mlp: true };

    /// Whether `site` is in the set.
    pub const fn contains(self, site: Site) -> bool {
        match site {
            Site::Attention => self.attention,
            Site::Mlp => self.mlp,
        }
    }

    /// Whether the set has any site.
    pub const fn any(self) -> bool {
        self.attention || self.mlp
    }

    fn list(self) -> Vec<Site> {
        Site::ALL.into_iter().filter(|site| self.contains(*site)).collect()
    }
}

impl FromIterator<Site> for Sites {
    fn from_iter<I: IntoIterator<Item = Site>>(sites: I) -> Self {
        let sites: Vec<Site> = sites.into_iter().collect();
        Self { attention: sites.contains(&Site::Attention), mlp: sites.contains(&Site::Mlp) }
    }
}

impl Serialize for Sites {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.list().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Sites {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let list = Vec::<Site>::deserialize(deserializer)?;
        if list.is_empty() {
            return Err(serde::de::Error::custom(
                "`sites` names no site; use attention, mlp or both",
            ));
        }
        Ok(list.into_iter().collect())
    }
}

/// Layers as a person writes them: `21..25` is 21, 22, 23, 24; `3,7,11`; or both, `0,21..25`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSelection(Vec<Range<usize>>);

impl LayerSelection {
    /// The selected layers of a model with `layers` layers: ascending, each once.
    ///
    /// # Errors
    /// [`SpecError::Selection`] when an index is not in `0..layers`.
    pub fn resolve(&self, layers: usize) -> Result<Vec<LayerIndex>, SpecError> {
        let mut chosen = Vec::new();
        for range in &self.0 {
            if range.end > layers {
                return Err(SpecError::Selection {
                    given: self.to_string(),
                    reason: format!(
                        "layer {} does not exist; the layers are 0–{}",
                        range.end - 1,
                        layers.saturating_sub(1)
                    ),
                });
            }
            chosen.extend(range.clone());
        }
        chosen.sort_unstable();
        chosen.dedup();
        Ok(chosen.into_iter().map(LayerIndex::new).collect())
    }
}

impl fmt::Display for LayerSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            if range.len() == 1 {
                write!(f, "{}", range.start)?;
            } else {
                write!(f, "{}..{}", range.start, range.end)?;
            }
        }
        Ok(())
    }
}

impl std::str::FromStr for LayerSelection {
    type Err = SpecError;

    fn from_str(given: &str) -> Result<Self, SpecError> {
        let fail = |reason: String| SpecError::Selection { given: given.to_owned(), reason };
        let number = |text: &str| {
            text.trim().parse::<usize>().ok().filter(|n| *n < usize::MAX).ok_or_else(|| {
                fail(format!("\"{}\" is not a layer number; write 3,7,11 or 21..25", text.trim()))
            })
        };
        let mut ranges = Vec::new();
        for part in given.split(',') {
            let range = match part.split_once("..") {
                Some((_, end)) if end.starts_with('=') => {
                    return Err(fail("ranges are half-open: 21..25 is 21, 22, 23, 24".to_owned()));
                }
                Some((start, end)) => number(start)?..number(end)?,
                None => {
                    let index = number(part)?;
                    index..index + 1
                }
            };
            if range.is_empty() {
                return Err(fail(
                    "a range ends after it begins: 21..25 is 21, 22, 23, 24".to_owned(),
                ));
            }
            ranges.push(range);
        }
        Ok(Self(ranges))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_index_plus_one() {
        assert_eq!(LayerIndex::new(0).depth().get(), 1);
        assert_eq!(LayerIndex::new(29).depth().get(), 30);
        assert_eq!(Depth::new(0), None);
    }

    #[test]
    fn a_name_on_the_command_line_is_the_one_in_files() {
        let written = |value: serde_json::Value| value.as_str().map(str::to_owned);
        for site in Site::ALL {
            let value = serde_json::to_value(site).expect("a string");
            assert_eq!(written(value).as_deref(), Some(site.name()));
        }
        for initialisation in crate::Initialisation::ALL {
            let value = serde_json::to_value(initialisation).expect("a string");
            assert_eq!(written(value).as_deref(), Some(initialisation.name()));
        }
    }

    #[test]
    fn ranges_are_half_open_and_lists_are_merged() {
        let layers = |text: &str| -> Vec<usize> {
            let selection: LayerSelection = text.parse().expect(text);
            selection.resolve(30).expect(text).into_iter().map(LayerIndex::get).collect()
        };
        assert_eq!(layers("21..25"), [21, 22, 23, 24]);
        assert_eq!(layers("3,7,11"), [3, 7, 11]);
        assert_eq!(layers("7, 3..5 ,4"), [3, 4, 7]);
    }

    #[test]
    fn a_selection_outside_the_model_or_misspelt_is_refused() {
        for text in ["", "a", "5..5", "7..3", "1..=3", "-1", "3,,4", "18446744073709551615"] {
            assert!(text.parse::<LayerSelection>().is_err(), "{text:?} was accepted");
        }
        let error = "3..2".parse::<LayerSelection>().expect_err("holds none").to_string();
        assert_eq!(
            error,
            "layer selection \"3..2\": a range ends after it begins: 21..25 is 21, 22, 23, 24"
        );
        let selection: LayerSelection = "28..31".parse().expect("syntax is fine");
        let error = selection.resolve(30).expect_err("30 does not exist");
        assert!(error.to_string().contains("0–29"), "{error}");
    }
}
