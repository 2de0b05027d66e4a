//! Model families: how each says what it is in `config.json` and in GGUF, what its tensors are called,
//! and what it cannot say.
//!
//! A family is one file of this folder and one line of [`REGISTRY`]. The arithmetic is shared: a family
//! only describes.

mod bert;
mod common;
mod deepseek;
mod deepseek_v2;
mod deepseek_v3;
mod gemma2;
mod gemma3;
mod glm4;
mod gpt2;
mod gpt_neox;
mod gpt_oss;
mod granite;
mod llama;
mod mistral;
mod mixtral;
mod olmo2;
mod olmo3;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod smollm3;

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::{
    LayerIndex, ModelSpec, NormScheme, Part, Role, Site, SpecError, StoredLayout, TensorId,
    config::keys::Keys, roles::gguf_stack,
};

/// Every family, in the order in which people are told of them.
static REGISTRY: [&Description; 20] = [
    &llama::FAMILY,
    &mistral::FAMILY,
    &qwen2::FAMILY,
    &qwen3::FAMILY,
    &phi3::FAMILY,
    &gemma2::FAMILY,
    &gemma3::FAMILY,
    &olmo2::FAMILY,
    &olmo3::FAMILY,
    &gpt2::FAMILY,
    &gpt_neox::FAMILY,
    &smollm3::FAMILY,
    &glm4::FAMILY,
    &granite::FAMILY,
    &mixtral::FAMILY,
    &qwen3_moe::FAMILY,
    &gpt_oss::FAMILY,
    &deepseek_v2::FAMILY,
    &deepseek_v3::FAMILY,
    &bert::FAMILY,
];

/// Everything in which families differ.
pub(crate) struct Description {
    /// `model_type` of a stock model.
    model_type: &'static str,
    /// The class name that goes into `architectures`.
    architecture: &'static str,
    /// Whether attention sees both ways.
    is_encoder: bool,
    /// The class of a model without a head; none where there is no such model.
    headless: Option<&'static str>,
    /// What its tensors are called. Roles that are not listed are those that only schemes bring
    /// ([`SCHEME_NAMES`]).
    names: &'static [StoredName],
    /// What a layer's router is called, and the matrices of its expert number `{expert}`.
    expert_names: &'static [StoredName],
    /// The scheme that a stock model has.
    own_scheme: fn() -> NormScheme,
    /// Whether a stock model has a norm on the embedding.
    norms_embedding: bool,
    /// What stands before a layer's number in the names of its tensors.
    layer_prefix: &'static str,
    /// What the names in some folders lack: GPT-2's first files have no `transformer.`.
    optional_prefix: &'static str,
    /// How the names of tensors begin that some folders hold and that are no part of what is computed: heads
    /// for other tasks, towers for other modalities.
    left_out: &'static [&'static str],
    /// The `model_type` of models with other modalities beside, this family's being their `text_config`.
    inside: Option<&'static str>,
    /// Keys that change the function of other families and are computed in this one.
    computes: &'static [&'static str],
    /// Reads a model from a `config.json`, taking the keys it understands out of it.
    read: fn(&mut Keys) -> Result<ModelSpec, SpecError>,
    /// Writes the keys that [`read`](Self::read) takes beyond those that all families share.
    write: fn(&ModelSpec, &mut Map<String, Value>),
    /// The family's place in GGUF files; `None` if they are neither read nor written.
    gguf: Option<Gguf>,
}

/// What most families have.
const USUAL: Description = Description {
    model_type: "",
    architecture: "",
    is_encoder: false,
    headless: None,
    names: &[],
    expert_names: &[],
    own_scheme: NormScheme::pre,
    norms_embedding: false,
    layer_prefix: "model.layers.",
    optional_prefix: "",
    left_out: &[],
    inside: None,
    computes: &[],
    read: llama::read,
    write: llama::write,
    gguf: None,
};

/// A family's place in GGUF files, as llama.cpp reads and writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gguf {
    /// The value of `general.architecture`.
    pub architecture: &'static str,
    /// Whether files of that architecture are this family's only if they have a sliding window.
    pub sliding_window: bool,
    /// Whether files of that architecture are this family's only if they have experts.
    pub experts: bool,
    /// Whether files of that architecture are this family's only if the scores of their experts go through a
    /// sigmoid.
    pub sigmoid_experts: bool,
    /// Whether the rows of queries and keys are in interleaved rotary order.
    pub interleaved_rotary: bool,
    /// Whether it has biases of the attention's output and the MLP, and of queries, keys and values
    /// where the family does not always have them.
    pub optional_biases: bool,
    /// Whether Llama 3's table of rotary factors is read.
    pub llama3_rope: bool,
    /// Whether LongRoPE's tables of rotary factors are read.
    pub long_rope: bool,
    /// Whether the heads must together be as wide as the stream.
    pub heads_fill_stream: bool,
    /// Whether llama.cpp passes over the sliding window that a file names.
    pub window_is_ignored: bool,
    /// Keys of the architecture and what `config.json` calls them, beside those of all architectures.
    pub keys: &'static [(&'static str, &'static str)],
    /// Flags of `config.json` that the file does not hold because llama.cpp computes every model so.
    pub takes_for_granted: &'static [(&'static str, bool)],
    /// Whether YaRN's range is not rounded to whole features.
    pub exact_yarn: bool,
    /// Whether models have biases of queries, keys and values unless their `config.json` says otherwise.
    pub usually_biased: bool,
    /// The key of `config.json` for the number whose root divides the scores. It is not in the file:
    /// llama.cpp takes a head's size, but for models of so many layers hidden_size / heads.
    pub scale_by_head: Option<(&'static str, usize)>,
}

impl Gguf {
    /// What most architectures have.
    const USUAL: Self = Self {
        architecture: "",
        sliding_window: false,
        experts: false,
        sigmoid_experts: false,
        interleaved_rotary: false,
        optional_biases: false,
        llama3_rope: false,
        long_rope: false,
        heads_fill_stream: false,
        window_is_ignored: false,
        keys: &[],
        takes_for_granted: &[],
        exact_yarn: false,
        usually_biased: false,
        scale_by_head: None,
    };
}

/// What a tensor is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredName {
    /// The roles it holds, one after the other along the rows: usually one.
    pub roles: &'static [Role],
    /// The name in a Hugging Face folder, without `.weight` and, in a layer, without
    /// `model.layers.3.`.
    pub hugging_face: &'static str,
    /// The name in a GGUF file, without `.weight` and, in a layer, without `blk.3.`. Empty if GGUF
    /// has no name for it.
    pub gguf: &'static str,
    /// How the roles stand in a Hugging Face folder's matrix. A GGUF file has the matrices [out, in] and
    /// the roles one after the other.
    pub layout: StoredLayout,
}

impl StoredName {
    const fn new(roles: &'static [Role], hugging_face: &'static str, gguf: &'static str) -> Self {
        Self { roles, hugging_face, gguf, layout: StoredLayout::Rows }
    }

    const fn laid_out(self, layout: StoredLayout) -> Self {
        Self { layout, ..self }
    }
}

/// What the tensors are called that a family has only under a scheme that is not its own.
const SCHEME_NAMES: [StoredName; 8] = [
    StoredName::new(&[Role::EmbeddingNorm], "model.embed_norm", ""),
    StoredName::new(&[Role::OutputNorm(Site::Attention)], "attention_output_layernorm", ""),
    StoredName::new(&[Role::OutputNorm(Site::Mlp)], "mlp_output_layernorm", ""),
    StoredName::new(&[Role::JoinNorm(Site::Attention)], "attention_join_layernorm", ""),
    StoredName::new(&[Role::JoinNorm(Site::Mlp)], "mlp_join_layernorm", ""),
    StoredName::new(&[Role::BranchGate(Site::Attention)], "attention_branch_scale", ""),
    StoredName::new(&[Role::BranchGate(Site::Mlp)], "mlp_branch_scale", ""),
    StoredName::new(&[Role::StreamGate], "stream_gate", ""),
];

/// A model family. DeepSeek's dense models are [`LLAMA`](Self::LLAMA)s.
#[derive(Clone, Copy)]
pub struct Family(&'static Description);

impl Family {
    /// Llama 1 to 3, SmolLM, DeepSeek (dense), Yi, TinyLlama
    pub const LLAMA: Self = Self(&llama::FAMILY);
    /// Mistral 7B: a Llama whose attention may see only a window
    pub const MISTRAL: Self = Self(&mistral::FAMILY);
    /// Qwen 2 and 2.5: bias on q, k and v
    pub const QWEN2: Self = Self(&qwen2::FAMILY);
    /// Qwen 3 (dense): norms on the heads of q and k
    pub const QWEN3: Self = Self(&qwen3::FAMILY);
    /// BERT: an encoder, Post-LN
    pub const BERT: Self = Self(&bert::FAMILY);
    /// Qwen 3 with experts
    pub const QWEN3_MOE: Self = Self(&qwen3_moe::FAMILY);
    /// DeepSeek-V3
    pub const DEEPSEEK_V3: Self = Self(&deepseek_v3::FAMILY);

    /// Every family, in the order in which people are told of them.
    pub fn all() -> impl ExactSizeIterator<Item = Self> + DoubleEndedIterator {
        REGISTRY.into_iter().map(Self)
    }

    /// The family whose `model_type` this is.
    pub fn named(model_type: &str) -> Option<Self> {
        Self::all().find(|family| family.model_type() == model_type)
    }

    /// The family of a GGUF file of that architecture, with or without a sliding window, experts, and a sigmoid
    /// of their scores.
    pub fn of_gguf(
        architecture: &str,
        sliding_window: bool,
        experts: bool,
        sigmoid: bool,
    ) -> Option<(Self, Gguf)> {
        let known = Self::all().filter_map(|family| Some((family, family.gguf()?)));
        let mut found: Vec<(Self, Gguf)> =
            known.filter(|(_, gguf)| gguf.architecture == architecture).collect();
        if found.iter().any(|(_, gguf)| gguf.experts == experts) {
            found.retain(|(_, gguf)| gguf.experts == experts);
        }
        if found.iter().any(|(_, gguf)| gguf.sigmoid_experts == sigmoid) {
            found.retain(|(_, gguf)| gguf.sigmoid_experts == sigmoid);
        }
        let with_window = found.iter().find(|(_, gguf)| gguf.sliding_window == sliding_window);
        with_window.or(found.first()).copied()
    }

    /// `model_type` of a stock model of this family.
    pub fn model_type(self) -> &'static str {
        self.0.model_type
    }

    /// The class name that goes into `architectures` of a model with or without a head.
    pub fn architecture(self, has_head: bool) -> &'static str {
        match self.0.headless {
            Some(class) if !has_head => class,
            _ => self.0.architecture,
        }
    }

    /// Whether its models are encoders, whose attention sees both ways, instead of decoders.
    pub fn is_encoder(self) -> bool {
        self.0.is_encoder
    }

    /// Whether a stock model has a norm on the embedding.
    pub fn norms_embedding(self) -> bool {
        self.0.norms_embedding
    }

    /// The scheme that a stock model has.
    pub fn own_scheme(self) -> NormScheme {
        (self.0.own_scheme)()
    }

    /// Its place in GGUF files, if they are read and written.
    pub fn gguf(self) -> Option<Gguf> {
        self.0.gguf
    }

    /// What its tensors are called, those of schemes included.
    pub fn names(self) -> impl Iterator<Item = &'static StoredName> {
        self.0.names.iter().chain(&SCHEME_NAMES)
    }

    /// The name of a tensor in a Hugging Face folder of this family.
    pub fn stored_name(self, id: TensorId) -> String {
        let stem = self.name_of(id).map_or("", |name| name.hugging_face);
        let stem = match id.expert {
            Some(expert) => &stem.replace("{expert}", &expert.to_string()),
            None => stem,
        };
        let stacked = id.expert.is_some() && self.layout(id) == StoredLayout::Stacked;
        let suffix = match id.part {
            _ if id.role.is_named_whole() => "",
            Part::Weight if stacked => "",
            Part::Bias if stacked => "_bias",
            Part::Weight => ".weight",
            Part::Bias => ".bias",
        };
        match id.layer {
            Some(layer) => format!("{}{layer}.{stem}{suffix}", self.0.layer_prefix),
            None => format!("{stem}{suffix}"),
        }
    }

    /// The names of its tensors that `wanted` picks, without `.weight`; `0` for a layer's number and an expert's.
    /// Those that only other schemes than its own bring are not among them.
    pub(crate) fn stored_stems<'a>(
        self,
        gguf: bool,
        wanted: &'a dyn Fn(&StoredName) -> bool,
    ) -> impl Iterator<Item = String> + 'a {
        let names = self.0.names.iter().chain(self.0.expert_names);
        names.filter(move |name| wanted(name)).filter_map(move |name| {
            let stem = if gguf { name.gguf } else { name.hugging_face };
            let stem = stem.replace("{expert}", "0");
            match is_of_layer(name) {
                _ if stem.is_empty() => None,
                true if gguf => Some(format!("blk.0.{stem}")),
                true => Some(format!("{}0.{stem}", self.0.layer_prefix)),
                false => Some(stem),
            }
        })
    }

    /// Whether its layers may have experts.
    pub(crate) fn has_expert_names(self) -> bool {
        !self.0.expert_names.is_empty()
    }

    /// The name of the tensor that holds this one.
    fn name_of(self, id: TensorId) -> Option<&'static StoredName> {
        let holds = |name: &&StoredName| name.roles.contains(&id.role);
        if id.is_of_experts() {
            self.0.expert_names.iter().find(holds)
        } else {
            self.names().find(holds)
        }
    }

    /// The roles that are stored as one tensor with that one, itself included.
    pub(crate) fn parts_of(self, id: TensorId) -> &'static [Role] {
        self.name_of(id).map_or(&[], |name| name.roles)
    }

    /// How the stored tensor is made of its parts. A vector has no columns to be transposed.
    pub(crate) fn layout(self, id: TensorId) -> StoredLayout {
        match self.name_of(id).map_or(StoredLayout::Rows, |name| name.layout) {
            StoredLayout::Transposed if id.part == Part::Bias => StoredLayout::Rows,
            layout => layout,
        }
    }

    /// The name that this project has for a tensor of a folder: without what stands before it in models
    /// with other modalities, and with the prefix that some folders lack. `None` for a tensor of a part
    /// that is left out: another modality's, or a head for another task.
    pub fn name_in_folder(self, name: &str) -> Option<String> {
        if self.0.inside.is_some() {
            if let Some(rest) = name.strip_prefix("language_model.") {
                return Some(rest.to_owned());
            }
            if let Some(rest) = name.strip_prefix("model.language_model.") {
                return Some(format!("model.{rest}"));
            }
        }
        // What TensorFlow called the gain and the bias of a norm.
        let newer = [(".LayerNorm.gamma", ".weight"), (".LayerNorm.beta", ".bias")];
        let newer = newer.into_iter().find_map(|(older, part)| {
            Some(format!("{}.LayerNorm{part}", name.strip_suffix(older)?))
        });
        let name = newer.as_deref().unwrap_or(name);
        let prefix = self.0.optional_prefix;
        let own = name.strip_prefix("model.").unwrap_or(name);
        let own = own.strip_prefix(prefix).unwrap_or(own);
        if self.0.left_out.iter().any(|beginning| own.starts_with(beginning)) {
            return None;
        }
        let lacks = !prefix.is_empty()
            && !name.starts_with(prefix)
            && self.names().any(|stored| {
                let outer = !is_of_layer(stored) && stored.hugging_face.starts_with(prefix);
                let layer = self.0.layer_prefix.strip_prefix(prefix);
                layer.is_some_and(|layer| name.starts_with(layer))
                    || outer
                        && stored.hugging_face.strip_prefix(prefix)
                            == name.rsplit_once('.').map(|(stem, _)| stem)
            });
        Some(if lacks { format!("{prefix}{name}") } else { name.to_owned() })
    }

    /// Keys that change the function of other families and are computed in this one.
    pub fn computes(self, key: &str) -> bool {
        self.0.computes.contains(&key)
    }

    /// The family whose `config.json` is the `text_config` of that `model_type`.
    pub(crate) fn inside(model_type: &str) -> Option<Self> {
        Self::all().find(|family| family.0.inside == Some(model_type))
    }

    /// The name in a Hugging Face folder of the tensor that a GGUF file calls `gguf`; `None` if
    /// there is no such tensor.
    pub fn hugging_face_name(self, gguf: &str) -> Option<String> {
        let (stem, suffix) = gguf.rsplit_once('.')?;
        if !matches!(suffix, "weight" | "bias") {
            return None;
        }
        let part = if suffix == "bias" { Part::Bias } else { Part::Weight };
        let named = |layer: Option<LayerIndex>, stem: &str| {
            let mut names = self.names().chain(self.0.expert_names);
            let role = names
                .find(|name| {
                    is_of_layer(name) == layer.is_some() && !stem.is_empty() && name.gguf == stem
                })?
                .roles[0];
            Some(self.stored_name(TensorId { layer, expert: None, role, part }))
        };
        let Some(rest) = stem.strip_prefix("blk.") else { return named(None, stem) };
        let (layer, stem) = rest.split_once('.')?;
        if !layer.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        named(Some(LayerIndex::new(layer.parse().ok()?)), stem)
    }

    /// The name of a tensor in a GGUF file of this family; `None` if GGUF has none for it.
    pub(crate) fn gguf_name(self, id: TensorId) -> Option<String> {
        if let Some(stack) = gguf_stack(id) {
            return Some(stack);
        }
        let name = self.name_of(id)?;
        let suffix = if id.part == Part::Bias { "bias" } else { "weight" };
        match (name.gguf, id.layer) {
            ("", _) => None,
            (stem, Some(layer)) => Some(format!("blk.{layer}.{stem}.{suffix}")),
            (stem, None) => Some(format!("{stem}.{suffix}")),
        }
    }

    pub(crate) fn read(self, keys: &mut Keys) -> Result<ModelSpec, SpecError> {
        (self.0.read)(keys)
    }

    pub(crate) fn write(self, spec: &ModelSpec, config: &mut Map<String, Value>) {
        (self.0.write)(spec, config);
    }
}

fn is_of_layer(name: &StoredName) -> bool {
    !name.roles.iter().any(|role| {
        matches!(
            role,
            Role::Embedding
                | Role::PositionEmbedding
                | Role::TokenTypeEmbedding
                | Role::EmbeddingNorm
                | Role::FinalNorm
                | Role::HeadTransform
                | Role::Head
                | Role::HeadBias
        )
    })
}

impl PartialEq for Family {
    fn eq(&self, other: &Self) -> bool {
        self.model_type() == other.model_type()
    }
}

impl Eq for Family {}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.model_type())
    }
}

impl Serialize for Family {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.model_type().serialize(serializer)
    }
}
