//! `diagnose.json`: what a diagnosis found, and what it says of it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    HeavyToken, MaskingRecord, ProbeDescription, Quantity, SMALL_FILE, TaskCostRecord,
    TaskRemovalRecord, read_regular,
};

/// `diagnose.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiagnoseRecord {
    /// The model as it was named on the command line.
    pub name: String,
    /// The model's `config.json`, as understood.
    pub model: Value,
    /// The text that the model was fed.
    pub text: TextRecord,
    /// Where the windows of a removal were spent as needed: the half-width in nats per token at which the
    /// interval of a cost was narrow enough. Absent where every removal was measured on all windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal_error: Option<f64>,
    /// Loss of the untouched model on the text; absent where the model has no head and so no loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<BaselineRecord>,
    /// The residual stream, L + 1 entries.
    pub stream: Vec<StreamRecord>,
    /// Tokens whose variance is more than [`HeavyToken::FACTOR`] times the median token's somewhere
    /// in the stream: massive activations. In the order of the text; separators and first tokens are
    /// among them.
    #[serde(default)]
    pub heavy_tokens: Vec<HeavyToken>,
    /// One entry per layer.
    pub layers: Vec<LayerRecord>,
    /// `[i][n - 1]` = mean angular distance of `stream[i]` and `stream[i + n]`, in [0, 1] (arccos/π),
    /// over content tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub angular_distance: Vec<Vec<f64>>,
    /// For each n, the block of n layers whose ends are closest: the most redundant one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<BlockRecord>,
    /// Logit lens by stream index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lens: Vec<LensRecord>,
    /// Tasks that were asked of the model and of it without each layer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskRemovalRecord>,
    /// What the evidence comes to.
    pub verdict: VerdictRecord,
    /// Probes that ran, with what each cost.
    pub probes: Vec<ProbeRecord>,
    /// Every probe that there was, and what the numbers of those that ran are; absent in files of
    /// earlier versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub described: Vec<ProbeDescription>,
    /// How well the quantities that estimate another one rank its layers, where both were measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub estimates: Vec<EstimateRecord>,
}

/// How well one quantity estimates another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EstimateRecord {
    /// Field of the estimate: see [`Quantity::field`].
    pub quantity: String,
    /// Field of what it estimates.
    pub of: String,
    /// Spearman's rank correlation over `entries`, −1 to 1.
    pub rank_correlation: f64,
    /// Layers, or points of the stream, where both were measured.
    pub entries: usize,
}

/// The text of a diagnosis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextRecord {
    /// Files, or a description of generated tokens.
    pub files: Vec<String>,
    /// Tokens fed, windows × window_len.
    pub tokens: u64,
    /// Number of windows.
    pub windows: u64,
    /// Tokens per window.
    pub window_len: u64,
    /// How the predicted tokens were chosen, of a model of masked tokens, which were masked in the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masking: Option<MaskingRecord>,
}

/// Loss of the untouched model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaselineRecord {
    /// Nats per predicted token: every one but a window's first, or those that were masked.
    pub nll: f64,
    /// The perplexity e^nll.
    pub perplexity: f64,
    /// Standard error of `nll` over windows; absent with fewer than two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nll_stderr: Option<f64>,
}

/// The residual stream at one point. Variance is over features.
///
/// Content tokens are those that are neither a window's first nor a separator (the tokens that stand
/// between documents or begin them): either often carries a massive activation, and one such token
/// can outweigh all others in a mean. A text without any content token counts whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamRecord {
    /// 0 enters layer 0; L leaves the last layer.
    pub index: usize,
    /// Mean over all tokens.
    pub variance: f64,
    /// Mean over all tokens but each window's first.
    pub variance_without_first: f64,
    /// Mean over content tokens; absent in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variance_content: Option<f64>,
    /// Median over content tokens; absent in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variance_median: Option<f64>,
    /// √(mean of squares over tokens and features).
    pub rms: f64,
    /// What later probes measure here, by name; `described` says what it is.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

impl StreamRecord {
    /// Mean over content tokens; of an earlier version's file, over all but first tokens.
    pub fn content(&self) -> f64 {
        self.variance_content.unwrap_or(self.variance_without_first)
    }

    /// What a single token does not move: the median over content tokens; of an earlier version's
    /// file, the mean over all but first tokens.
    pub fn typical(&self) -> f64 {
        self.variance_median.unwrap_or(self.variance_without_first)
    }
}

/// A measured difference with its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RemovalRecord {
    /// Loss without the part, minus the loss with it; above 0 means the part helps.
    pub delta_nll: f64,
    /// Standard error over windows of the paired difference; absent with fewer than two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<f64>,
    /// Half the 95 % confidence interval, Student's t(0.975, windows − 1) · `stderr`; absent with
    /// fewer than two windows, and in files of earlier versions. Where windows were spent as needed
    /// ([`DiagnoseRecord::removal_error`]) it is wider, so that it holds whichever look was the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// Windows that it was measured on, from the text's first; absent in files of earlier versions,
    /// which measured all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<u64>,
}

impl RemovalRecord {
    /// Half the interval that is drawn around it: the 95 % one, and two standard errors in a file of
    /// an earlier version.
    pub fn reach(&self) -> Option<f64> {
        self.margin.or_else(|| Some(2.0 * self.stderr?))
    }
}

/// What one layer does. Variances, ratios and cosines are over the content tokens (see
/// [`StreamRecord`]).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Index of the layer, from 0.
    pub layer: usize,
    /// Variance of what attention adds to the stream, mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_variance: Option<f64>,
    /// Variance of what the MLP adds, mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlp_variance: Option<f64>,
    /// Variance of what attention adds for the median token; absent in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_variance_median: Option<f64>,
    /// Variance of what the MLP adds for the median token; absent in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlp_variance_median: Option<f64>,
    /// `attention_variance` over the variance of stream\[i\], both over content tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_to_stream: Option<f64>,
    /// `mlp_variance` over the variance of stream\[i\].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlp_to_stream: Option<f64>,
    /// Mean over tokens of ‖stream\[i+1\] − stream\[i\]‖ / ‖stream\[i\]‖.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch_to_stream: Option<f64>,
    /// Mean cosine of stream\[i\] and stream\[i+1\].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f64>,
    /// 1 − cosine (ShortGPT, arXiv 2403.03853).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_influence: Option<f64>,
    /// The whole layer removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal: Option<RemovalRecord>,
    /// Only its attention removed: the stream passes the site as it came, under Post-LN without the
    /// site's norm too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal_attention: Option<RemovalRecord>,
    /// Only its MLP removed: the stream passes the site as it came, under Post-LN without the
    /// site's norm too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal_mlp: Option<RemovalRecord>,
    /// ‖∂loss/∂θ‖₂ over the layer's parameters θ; loss is the mean over all predicted tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<f64>,
    /// ‖∂loss/∂stream\[i\]‖₂ over all tokens and features.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_gradient_norm: Option<f64>,
    /// ‖J − I‖_F / ‖I‖_F of the layer's Jacobian ∂stream\[i+1\]/∂stream\[i\].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jacobian_identity_distance: Option<f64>,
    /// Standard error of `jacobian_identity_distance` over random vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jacobian_stderr: Option<f64>,
    /// What the tasks lose without the layer, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<String, TaskCostRecord>,
    /// What later probes measure here, by name; `described` says what it is.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

impl LayerRecord {
    /// Adds `value` under `name`, for a quantity that has no field of its own.
    pub fn note(&mut self, name: &str, value: &impl Serialize) {
        self.more.insert(name.to_owned(), serde_json::to_value(value).unwrap_or_default());
    }

    /// The median token's variance of the attention branch; of an earlier version's file, the mean.
    pub fn typical_attention(&self) -> Option<f64> {
        self.attention_variance_median.or(self.attention_variance)
    }

    /// The median token's variance of the MLP branch; of an earlier version's file, the mean.
    pub fn typical_mlp(&self) -> Option<f64> {
        self.mlp_variance_median.or(self.mlp_variance)
    }
}

/// The most redundant block of n layers: layers `start..start + n`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockRecord {
    /// Number of layers in the block.
    pub n: usize,
    /// The first layer of the block.
    pub start: usize,
    /// Angular distance across it.
    pub distance: f64,
}

/// The final norm and head applied to `stream[index]` as if the model ended there, averaged over
/// every token of every window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LensRecord {
    /// Stream index.
    pub index: usize,
    /// KL(final prediction ‖ this prediction), nats per token.
    pub kl: f64,
    /// Share of tokens whose most likely next token is already the final one.
    pub agreement: f64,
}

/// What the evidence comes to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VerdictRecord {
    /// e^(entropy of the layers' shares of the total removal cost): L when all layers matter
    /// equally, 1 when one does everything. Removals that lower the loss count as 0, and if all do,
    /// so does the depth. Absent without the `removal` probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_depth: Option<f64>,
    /// Layers whose removal surely costs less than `idle_threshold` nats: the upper end of the 95 %
    /// interval (Student's t over windows) lies below it.
    #[serde(default)]
    pub idle_layers: Vec<usize>,
    /// The threshold, in nats per token; absent when there were too few windows to judge
    /// ([`VerdictRecord::WINDOWS_TO_JUDGE`]), so that no idle layer means nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_threshold: Option<f64>,
    /// How the stream's variance grows with depth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variance_growth: Option<VarianceGrowth>,
    /// A paragraph for a person.
    pub text: String,
    /// One sentence per finding, each with its numbers.
    #[serde(default)]
    pub evidence: Vec<String>,
}

impl VerdictRecord {
    /// Windows from which on idle layers are judged: with fewer, Student's t makes the interval so
    /// wide (t = 12.7 for two windows, 4.3 for three, 3.2 for four) that hardly anything is said.
    pub const WINDOWS_TO_JUDGE: u64 = 4;
}

/// The best of four curves through `variance_median` against depth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VarianceGrowth {
    /// The curve that fits best.
    pub model: GrowthModel,
    /// `linear`: variance per layer. `polynomial`: the exponent. `exponential`: growth of the
    /// logarithm per layer. `flat`: 0.
    pub rate: f64,
    /// Share of the evidence for this curve among the four (Schwarz weights), 0 to 1.
    pub confidence: f64,
    /// Variance leaving the last layer over variance leaving the first.
    pub ratio: f64,
}

impl VarianceGrowth {
    /// Whether the best curve has enough of the evidence to be named without its rivals: at 0.6 it
    /// is half again as likely as all others together.
    pub fn is_decided(&self) -> bool {
        self.confidence >= 0.6
    }
}

/// The curves that a growth can follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GrowthModel {
    /// A constant.
    Flat,
    /// A line, a + bℓ.
    Linear,
    /// A power of the depth, aℓ^p.
    Polynomial,
    /// An exponential of the depth, a·e^(kℓ).
    Exponential,
}

/// A probe that ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeRecord {
    /// The probe's name.
    pub name: String,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum RecordError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error(
        "{} holds no diagnosis ({}) and is no study: name the folder of a study, or one that \
         `lns diagnose MODEL --out DIR` wrote",
        folder.display(), DiagnoseRecord::FILE_NAME
    )]
    Absent { folder: PathBuf },
    #[error("{}: not a diagnosis: {source}; `lns diagnose MODEL --out DIR` writes one", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{}: {what}", path.display())]
    Inconsistent { path: PathBuf, what: String },
}

impl DiagnoseRecord {
    /// File name inside an output folder.
    pub const FILE_NAME: &str = "diagnose.json";

    /// Every quantity that is described.
    pub fn quantities(&self) -> impl Iterator<Item = &Quantity> {
        self.described.iter().flat_map(|probe| &probe.quantities)
    }

    /// What `field` is called; its own name where nothing describes it.
    pub fn label<'a>(&'a self, field: &'a str) -> &'a str {
        let described = self.quantities().find(|quantity| quantity.field == field);
        described.map_or(field, |quantity| &quantity.label)
    }

    /// Reads `path`, a `diagnose.json` or a folder that holds one.
    ///
    /// # Errors
    /// [`RecordError`], naming the file.
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let folder = path;
        let path = if path.is_dir() { path.join(Self::FILE_NAME) } else { path.to_owned() };
        if folder.is_dir() && !path.exists() {
            return Err(RecordError::Absent { folder: folder.to_owned() });
        }
        let bytes = read_regular(&path, SMALL_FILE)
            .map_err(|source| RecordError::Io { path: path.clone(), source })?;
        let record: Self = serde_json::from_slice(&bytes)
            .map_err(|source| RecordError::Json { path: path.clone(), source })?;
        record.check().map_err(|what| RecordError::Inconsistent { path, what })?;
        Ok(record)
    }

    /// Whether the tables agree with each other in size, so that readers may index them.
    fn check(&self) -> Result<(), String> {
        let layers = self.layers.len();
        if !self.stream.is_empty() && self.stream.len() != layers + 1 {
            return Err(format!("`stream` has {} entries for {layers} layers", self.stream.len()));
        }
        if let Some(at) = self.layers.iter().enumerate().find(|(i, l)| l.layer != *i) {
            return Err(format!("`layers[{}]` is layer {}", at.0, at.1.layer));
        }
        if !self.angular_distance.is_empty() {
            let rows = self.angular_distance.len();
            let ragged = self
                .angular_distance
                .iter()
                .enumerate()
                .any(|(i, r)| r.len() != layers - i.min(layers));
            if rows != layers || ragged {
                return Err(format!("`angular_distance` is not a triangle of {layers} layers"));
            }
        }
        let outside =
            |block: &BlockRecord| block.start.checked_add(block.n).is_none_or(|end| end > layers);
        if let Some(block) = self.blocks.iter().find(|block| outside(block)) {
            return Err(format!("`blocks` names layers {}.. of {layers}", block.start));
        }
        if let Some(layer) = self.verdict.idle_layers.iter().find(|layer| **layer >= layers) {
            return Err(format!("`idle_layers` names layer {layer} of {layers}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnosis_of_an_earlier_version_is_read_and_its_numbers_stand_in_for_medians() {
        let json = r#"{"name": "m", "model": {}, "text": {"files": [], "tokens": 8, "windows": 1,
            "window_len": 8}, "baseline": {"nll": 3.0, "perplexity": 20.1},
            "stream": [{"index": 0, "variance": 9.0, "variance_without_first": 2.0, "rms": 3.0},
                       {"index": 1, "variance": 9.0, "variance_without_first": 4.0, "rms": 3.0}],
            "layers": [{"layer": 0, "mlp_variance": 1.5, "removal": {"delta_nll": 0.5, "stderr": 0.1}}],
            "verdict": {"idle_threshold": 0.02, "text": ""}, "probes": []}"#;
        let record: DiagnoseRecord = serde_json::from_str(json).expect("an earlier version's");
        assert_eq!((record.stream[1].typical(), record.stream[1].content()), (4.0, 4.0));
        assert_eq!(record.layers[0].typical_mlp(), Some(1.5));
        assert_eq!(record.layers[0].removal.and_then(|removal| removal.reach()), Some(0.2));
        assert!(record.heavy_tokens.is_empty());
        let newer = StreamRecord {
            variance_content: Some(3.0),
            variance_median: Some(2.5),
            ..record.stream[1].clone()
        };
        assert_eq!((newer.content(), newer.typical()), (3.0, 2.5));
    }
}
