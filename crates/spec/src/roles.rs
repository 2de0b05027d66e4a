//! Every tensor of a model, by what it is for.
//!
//! This is the one inventory: loading, initialisation, weight decay, adapters, conversion and both file
//! formats read it. What a tensor is called on disk is its family's business
//! ([`StoredName`](crate::families::StoredName)).

use std::fmt;

use serde::{Serialize, Serializer};

use crate::{
    BranchGate, ExpertsSpec, LatentSpec, LayerIndex, ModelSpec, NormKind, Prediction, QkNorm, Site,
};

/// What a tensor is for. N, F and the gates are those of [`Branch`](crate::Branch)'s formula.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The token embedding, \[vocab_size, H\].
    Embedding,
    /// The learned vectors of positions, \[max_position_embeddings, H\].
    PositionEmbedding,
    /// The learned vectors of token types, \[type_vocab_size, H\].
    TokenTypeEmbedding,
    /// The norm between the embedding and layer 0.
    EmbeddingNorm,
    /// The norm before the head's matrix: after the last layer, in an encoder's head after its transform.
    FinalNorm,
    /// The matrix with which an encoder's head begins, \[H, H\].
    HeadTransform,
    /// The output head, \[vocab_size, H\].
    Head,
    /// What an encoder's head adds to its logits, \[vocab_size\].
    HeadBias,
    /// The norm N_in of a branch.
    InputNorm(Site),
    /// The norm N_out of a branch.
    OutputNorm(Site),
    /// The norm N_join of a branch.
    JoinNorm(Site),
    /// The learned λ of a branch.
    BranchGate(Site),
    /// The learned a by which a layer's sums are damped.
    StreamGate,
    /// The projection to queries, `q_proj` in a Llama.
    Query,
    /// The projection to keys, `k_proj`; in latent attention to the part of each that is not turned.
    Key,
    /// The projection to values, `v_proj`.
    Value,
    /// In latent attention, the projection to what queries are made of, `q_a_proj`.
    QueryLatent,
    /// The norm on that, `q_a_layernorm`.
    QueryLatentNorm,
    /// The name of [`Query`](Self::Query) where it starts from a latent, `q_b_proj`. No tensor has this role.
    QueryOfLatent,
    /// The name that a GGUF file has for [`Key`](Self::Key) where it starts from a latent. No tensor has this role.
    KeyOfLatent,
    /// The name that a GGUF file has for [`Value`](Self::Value) there. No tensor has this role.
    ValueOfLatent,
    /// In latent attention, the projection to what keys and values are made of: the first rows of
    /// `kv_a_proj_with_mqa`.
    KeyValueLatent,
    /// The norm on that, `kv_a_layernorm`.
    KeyValueLatentNorm,
    /// In latent attention, the projection to the part of a key that is turned and that all heads share: the
    /// last rows of `kv_a_proj_with_mqa`.
    RotaryKey,
    /// The attention's output projection, `o_proj`.
    AttentionOutput,
    /// For each head the score of what every softmax has beside its keys and that has no value, \[heads\].
    Sinks,
    /// The norm on the queries, of each head or of all.
    QueryNorm,
    /// The norm on the keys, of each head or of all.
    KeyNorm,
    /// The projection that the activation is taken of, `gate_proj`.
    MlpGate,
    /// The projection that the activated gate multiplies, or without a gate what is activated, `up_proj`.
    MlpUp,
    /// The MLP's output projection, `down_proj`.
    MlpDown,
    /// What scores a layer's experts for a token, \[experts, H\]. Their own matrices have the MLP's roles.
    Router,
    /// What is added to the scores while experts are chosen, \[experts\]: set by the load during training,
    /// not learned.
    RouterCorrection,
    /// As [`MlpGate`](Self::MlpGate), of the MLP that computes every token beside a layer's experts.
    SharedMlpGate,
    /// As [`MlpUp`](Self::MlpUp), of that MLP.
    SharedMlpUp,
    /// As [`MlpDown`](Self::MlpDown), of that MLP.
    SharedMlpDown,
}

impl Role {
    /// The matrices of most layers, which adapters are for, in the order of a forward pass.
    pub const PROJECTIONS: [Self; 7] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::AttentionOutput,
        Self::MlpGate,
        Self::MlpUp,
        Self::MlpDown,
    ];

    /// The matrices of an MLP: of its gate, up and down.
    pub const MLP: [Self; 3] = [Self::MlpGate, Self::MlpUp, Self::MlpDown];

    /// Those of the MLP beside a layer's experts.
    pub const SHARED_MLP: [Self; 3] = [Self::SharedMlpGate, Self::SharedMlpUp, Self::SharedMlpDown];

    /// Whether it is one of a layer's matrices.
    pub fn is_projection(self) -> bool {
        Self::PROJECTIONS.contains(&self)
            || Self::SHARED_MLP.contains(&self)
            || matches!(self, Self::QueryLatent | Self::KeyValueLatent | Self::RotaryKey)
    }

    /// Whether a branch ends with it: such matrices are divided by scaled initialisations.
    pub fn is_output_projection(self) -> bool {
        matches!(self, Self::AttentionOutput | Self::MlpDown | Self::SharedMlpDown)
    }

    /// Whether it is the gain of a norm.
    pub fn is_gain(self) -> bool {
        match self {
            Self::EmbeddingNorm
            | Self::FinalNorm
            | Self::InputNorm(_)
            | Self::OutputNorm(_)
            | Self::JoinNorm(_)
            | Self::QueryNorm
            | Self::KeyNorm
            | Self::QueryLatentNorm
            | Self::KeyValueLatentNorm => true,
            Self::Embedding
            | Self::PositionEmbedding
            | Self::TokenTypeEmbedding
            | Self::HeadTransform
            | Self::Head
            | Self::HeadBias
            | Self::BranchGate(_)
            | Self::StreamGate
            | Self::Query
            | Self::Key
            | Self::Value
            | Self::QueryLatent
            | Self::QueryOfLatent
            | Self::KeyOfLatent
            | Self::ValueOfLatent
            | Self::KeyValueLatent
            | Self::RotaryKey
            | Self::AttentionOutput
            | Self::Sinks
            | Self::MlpGate
            | Self::MlpUp
            | Self::MlpDown
            | Self::Router
            | Self::RouterCorrection
            | Self::SharedMlpGate
            | Self::SharedMlpUp
            | Self::SharedMlpDown => false,
        }
    }

    /// Whether it is a learned number on a branch or the stream.
    pub fn is_gate(self) -> bool {
        matches!(self, Self::BranchGate(_) | Self::StreamGate)
    }

    /// Whether its name is all of what the tensor is called, without `.weight` or `.bias`.
    pub fn is_named_whole(self) -> bool {
        self.is_gate() || matches!(self, Self::Sinks | Self::RouterCorrection | Self::HeadBias)
    }

    /// Whether only latent attention and shared experts have it.
    fn is_deepseeks(self) -> bool {
        Self::SHARED_MLP.contains(&self)
            || matches!(
                self,
                Self::QueryLatent
                    | Self::QueryLatentNorm
                    | Self::QueryOfLatent
                    | Self::KeyOfLatent
                    | Self::ValueOfLatent
                    | Self::KeyValueLatent
                    | Self::KeyValueLatentNorm
                    | Self::RotaryKey
                    | Self::RouterCorrection
            )
    }
}

/// The matrix or gain of a role, or the bias beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The matrix or gain that multiplies.
    Weight,
    /// The bias that is added.
    Bias,
}

/// Which tensor: a role, of a layer or outside the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorId {
    /// The layer; none for a tensor outside the layers.
    pub layer: Option<LayerIndex>,
    /// The expert of that layer; none for what all tokens meet.
    pub expert: Option<usize>,
    /// The role it plays.
    pub role: Role,
    /// Weight or bias.
    pub part: Part,
}

impl TensorId {
    /// The weight of a role outside the layers.
    pub const fn outer(role: Role) -> Self {
        Self { layer: None, expert: None, role, part: Part::Weight }
    }

    /// The weight of a role of a layer.
    pub const fn of_layer(layer: LayerIndex, role: Role) -> Self {
        Self { layer: Some(layer), expert: None, role, part: Part::Weight }
    }

    /// Whether it is an expert's, or what chooses among experts.
    pub fn is_of_experts(self) -> bool {
        self.expert.is_some() || self.role == Role::Router
    }

    /// Whether weight decay is usual for it: for matrices of layers and the head, and for no gain, gate,
    /// bias or embedding.
    pub fn decays(self) -> bool {
        self.part == Part::Weight
            && (self.role.is_projection()
                || matches!(self.role, Role::Head | Role::HeadTransform | Role::Router))
    }
}

impl fmt::Display for TensorId {
    /// The name in a Hugging Face folder of a Llama, of a Qwen 3 where there are experts, or of a DeepSeek
    /// where only that has the role: what seeds the tensor's random weights, whatever its family.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.role.is_deepseeks() {
            crate::Family::DEEPSEEK_V3
        } else if self.is_of_experts() {
            crate::Family::QWEN3_MOE
        } else {
            crate::Family::LLAMA
        };
        let name = family.stored_name(*self);
        match (self.role, self.part, self.layer) {
            (Role::PositionEmbedding, ..) => f.write_str("model.embed_positions.weight"),
            (Role::TokenTypeEmbedding, ..) => f.write_str("model.embed_token_types.weight"),
            (Role::HeadTransform, Part::Weight, _) => f.write_str("lm_head.transform.weight"),
            (Role::HeadTransform, Part::Bias, _) => f.write_str("lm_head.transform.bias"),
            (Role::HeadBias, ..) => f.write_str("lm_head.bias"),
            (Role::Sinks, _, Some(layer)) => write!(f, "model.layers.{layer}.self_attn.sinks"),
            // It shares a tensor with the latent.
            (Role::RotaryKey, ..) => write!(f, "{name}.rotary"),
            _ => f.write_str(&name),
        }
    }
}

/// One tensor of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelTensor {
    /// Its role and its layer.
    pub id: TensorId,
    /// Dimensions, outermost first (`[out, in]`).
    pub shape: Vec<usize>,
    /// The tensor of a Hugging Face folder that holds it.
    pub name: String,
    /// Which matrix or vector of that tensor holds it, where the experts' are stored as a stack.
    pub stack: Option<StackPlace>,
    /// Its rows in that matrix, where several tensors of the model are stored as one.
    pub rows: Option<StoredRows>,
    /// Whether the stored matrix is \[in, out\].
    pub transposed: bool,
    /// What is added to the stored numbers: 1 for a gain that is stored as γ − 1.
    pub offset: f32,
}

/// Where the rows of a tensor are among those of a stored one: row r at
/// first + (r / run) · stride + r % run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredRows {
    /// Where the first row is.
    pub first: usize,
    /// Rows that stand together.
    pub run: usize,
    /// Distance from one run of rows to the next.
    pub stride: usize,
}

impl StoredRows {
    /// Where a row is.
    pub const fn of(self, row: usize) -> usize {
        self.first + row / self.run * self.stride + row % self.run
    }
}

/// Which of the matrices or vectors of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StackPlace {
    /// Its place among them.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

/// How a stored tensor is made of those of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredLayout {
    /// One after the other along the rows, \[out, in\].
    Rows,
    /// The same, stored as \[in, out\].
    Transposed,
    /// Taking turns head by head: the rows of head 0 of each, then those of head 1.
    HeadByHead,
    /// One matrix for each expert, \[experts, in, out\], in which roles that share it take turns feature by
    /// feature; biases are \[experts, out\]. As transformers keeps gpt_oss's.
    Stacked,
}

impl ModelTensor {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|n| *n as u64).product()
    }

    /// Whether the stored tensor is this one, number by number.
    pub fn is_stored_whole(&self) -> bool {
        self.stack.is_none() && self.rows.is_none() && !self.transposed && self.offset == 0.0
    }

    /// Whether its numbers stand together in the stored tensor as they are.
    pub fn is_stored_in_a_row(&self) -> bool {
        let count = self.shape.first().copied().unwrap_or(1);
        !self.transposed && self.offset == 0.0 && self.rows.is_none_or(|rows| rows.run == count)
    }

    /// How many rows the stored matrix has at least.
    pub fn stored_rows_end(&self) -> usize {
        let count = self.shape.first().copied().unwrap_or(1);
        self.rows.map_or(count, |rows| rows.of(count.saturating_sub(1)) + 1)
    }

    /// Its rows where what is stored as one tensor stands one after the other, whatever the family's layout.
    fn rows_in_order(&self) -> Option<StoredRows> {
        let (rows, count) = (self.rows?, self.shape.first().copied().unwrap_or(1));
        let first = match rows.run {
            run if run == count || run == 0 => rows.first,
            // Head by head: as many turns of as many rows each.
            run => rows.first / run * count,
        };
        Some(StoredRows { first, run: count, stride: count })
    }

    /// The tensor's numbers, out of all those of the stored tensor.
    pub fn taken_from(&self, stored: &[f32]) -> Vec<f32> {
        let mut values = vec![0.0; self.shape.iter().product()];
        self.places(stored.len(), |at, stored_at| values[at] = stored[stored_at] + self.offset);
        values
    }

    /// Puts its numbers where they belong in the stored tensor.
    pub fn put_into(&self, values: &[f32], stored: &mut [f32]) {
        self.places(stored.len(), |at, stored_at| stored[stored_at] = values[at] - self.offset);
    }

    /// For each element, where it is in a stored tensor of so many.
    fn places(&self, stored: usize, mut each: impl FnMut(usize, usize)) {
        let count = self.shape.first().copied().unwrap_or(1);
        let width: usize = self.shape.iter().skip(1).product();
        let stack = self.stack.unwrap_or(StackPlace { index: 0, count: 1 });
        let of_matrix = stored / stack.count.max(1);
        let before = stack.index * of_matrix;
        let stored_rows = of_matrix / width.max(1);
        for row in 0..count {
            let place = self.rows.map_or(row, |rows| rows.of(row));
            for column in 0..width {
                let at = if self.transposed {
                    column * stored_rows + place
                } else {
                    place * width + column
                };
                each(row * width + column, before + at);
            }
        }
    }
}

/// One tensor of a file: one of the model's, or several of them.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredTensor {
    /// Its name, e.g. `model.layers.3.mlp.up_proj.weight`.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The tensors of the model that it holds, in order; of a stack, those of the first matrix come first.
    pub parts: Vec<ModelTensor>,
}

impl StoredTensor {
    /// Whether its numbers are those of its parts, one after the other.
    pub fn is_plain(&self) -> bool {
        self.parts.iter().all(ModelTensor::is_stored_in_a_row)
    }

    /// What is added to its numbers: 1 for a gain that is stored as γ − 1.
    pub fn offset(&self) -> f32 {
        self.parts.first().map_or(0.0, |part| part.offset)
    }

    /// Which tensors it holds.
    pub fn ids(&self) -> Vec<TensorId> {
        self.parts.iter().map(|part| part.id).collect()
    }

    /// What `tensors` are stored as, in order.
    fn all(tensors: impl Iterator<Item = ModelTensor>) -> Vec<Self> {
        let mut stored: Vec<Self> = Vec::new();
        for tensor in tensors {
            let shared = tensor.rows.is_some() || tensor.stack.is_some();
            let begun = stored.iter_mut().rev().filter(|_| shared);
            match { begun }.find(|begun| begun.name == tensor.name) {
                Some(begun) => begun.parts.push(tensor),
                None => {
                    let name = tensor.name.clone();
                    stored.push(Self { name, shape: Vec::new(), parts: vec![tensor] });
                }
            }
        }
        for tensor in &mut stored {
            tensor.shape = tensor.shape_of_parts();
        }
        stored
    }

    fn shape_of_parts(&self) -> Vec<usize> {
        let Some(first) = self.parts.first() else { return Vec::new() };
        let together = self.parts.iter().take_while(|part| part.stack == first.stack);
        let mut shape = first.shape.clone();
        shape[0] = together.map(|part| part.shape[0]).sum();
        if first.transposed {
            shape.reverse();
        }
        shape.splice(0..0, first.stack.map(|stack| stack.count));
        shape
    }
}

impl Serialize for StoredTensor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Named<'a> {
            name: &'a str,
            shape: &'a [usize],
        }
        Named { name: &self.name, shape: &self.shape }.serialize(serializer)
    }
}

impl ModelSpec {
    /// Tensors outside the layers.
    pub fn outer_tensors(&self) -> Vec<ModelTensor> {
        let table = [self.vocab_size, self.hidden_size];
        let mut list = List { spec: self, layer: None, expert: None, tensors: Vec::new() };
        list.push(Role::Embedding, &table);
        if self.learned_positions {
            list.push(Role::PositionEmbedding, &[self.max_position_embeddings, self.hidden_size]);
        }
        if self.token_types > 0 {
            list.push(Role::TokenTypeEmbedding, &[self.token_types, self.hidden_size]);
        }
        if self.norms_embedding() {
            list.push_norm(Role::EmbeddingNorm, self.hidden_size);
        }
        if self.prediction == Prediction::MaskedToken {
            list.push_with_bias(Role::HeadTransform, [self.hidden_size; 2], true);
        }
        if self.has_head() {
            list.push_norm(Role::FinalNorm, self.hidden_size);
            if !self.tie_word_embeddings {
                list.push(Role::Head, &table);
            }
        }
        if self.prediction == Prediction::MaskedToken {
            list.push(Role::HeadBias, &[self.vocab_size]);
        }
        list.tensors
    }

    /// Tensors of one layer.
    pub fn layer_tensors(&self, layer: LayerIndex) -> Vec<ModelTensor> {
        let hidden = self.hidden_size;
        let (queries, keys) = (self.query_size(), self.key_value_size());
        let tensors = Vec::with_capacity(16);
        let mut list = List { spec: self, layer: Some(layer), expert: None, tensors };
        let sites: Vec<Site> = [Site::Attention, Site::Mlp]
            .into_iter()
            .filter(|site| self.has_branch(layer, *site))
            .collect();
        for site in &sites {
            let branch = self.branch(layer, *site);
            if branch.input_norm.is_some() {
                list.push_norm(Role::InputNorm(*site), hidden);
            }
            if branch.join.norm {
                list.push_norm(Role::JoinNorm(*site), hidden);
            }
            match site {
                Site::Attention => {
                    match self.latent {
                        None => {
                            list.push_with_bias(Role::Query, [queries, hidden], self.qkv_bias);
                            list.push_with_bias(Role::Key, [keys, hidden], self.qkv_bias);
                            list.push_with_bias(Role::Value, [keys, hidden], self.qkv_bias);
                        }
                        Some(latent) => list.push_latent(latent),
                    }
                    let normed = match self.qk_norm {
                        QkNorm::None => None,
                        QkNorm::PerHead => Some([self.head_dim; 2]),
                        QkNorm::FullWidth => Some([queries, keys]),
                    };
                    if let Some([queries, keys]) = normed {
                        list.push_norm(Role::QueryNorm, queries);
                        list.push_norm(Role::KeyNorm, keys);
                    }
                    let (bias, values) = (self.attention_output_bias, self.value_size());
                    list.push_with_bias(Role::AttentionOutput, [hidden, values], bias);
                    if self.attention_sinks {
                        list.push(Role::Sinks, &[self.num_attention_heads]);
                    }
                }
                Site::Mlp => match self.experts(layer) {
                    None => list.push_mlp(Role::MLP, self.intermediate_size),
                    Some(experts) => list.push_experts(experts),
                },
            }
        }
        for site in &sites {
            let branch = self.branch(layer, *site);
            if branch.output_norm {
                list.push_norm(Role::OutputNorm(*site), hidden);
            }
            if let BranchGate::Learned { scalar, .. } = branch.gate {
                list.push(Role::BranchGate(*site), &[if scalar { 1 } else { hidden }]);
            }
        }
        if sites.iter().any(|site| self.branch(layer, *site).join.damped) {
            list.push(Role::StreamGate, &[1]);
        }
        list.tensors
    }

    /// Every tensor of the model.
    pub fn tensors(&self) -> Vec<ModelTensor> {
        let mut tensors = self.outer_tensors();
        for layer in self.layers() {
            tensors.extend(self.layer_tensors(layer));
        }
        tensors
    }

    /// Every tensor that a Hugging Face folder of this model holds.
    pub fn stored_tensors(&self) -> Vec<StoredTensor> {
        StoredTensor::all(self.tensors().into_iter())
    }

    /// Every tensor that a GGUF file of this model holds, those that GGUF calls something else than any
    /// folder by GGUF's name.
    pub fn stored_in_gguf(&self) -> Vec<StoredTensor> {
        StoredTensor::all(self.tensors().iter().map(|tensor| self.in_gguf(tensor)))
    }

    /// Where a GGUF file has a tensor: matrices are \[out, in\], gains themselves, what is stored as one
    /// stands one after the other, and each matrix of an expert is in a stack of its own.
    pub fn in_gguf(&self, tensor: &ModelTensor) -> ModelTensor {
        let plain = ModelTensor { transposed: false, offset: 0.0, ..tensor.clone() };
        let experts = tensor.id.layer.and_then(|layer| self.experts(layer));
        match (gguf_stack(tensor.id), tensor.id.expert, experts) {
            (Some(name), Some(index), Some(experts)) => {
                let stack = Some(StackPlace { index, count: experts.count });
                ModelTensor { name, stack, rows: None, ..plain }
            }
            _ if matches!(tensor.id.role, Role::Key | Role::Value) && self.latent.is_some() => {
                let name = self.family.stored_name(self.named_in_gguf(tensor.id));
                ModelTensor { name, rows: None, ..plain }
            }
            _ => ModelTensor { rows: tensor.rows_in_order(), ..plain },
        }
    }

    /// The name of the tensor of a GGUF file that holds this one; `None` if GGUF has none for it.
    pub fn gguf_name(&self, id: TensorId) -> Option<String> {
        self.family.gguf_name(self.named_in_gguf(id))
    }

    /// What has the name of a tensor in a GGUF file.
    fn named_in_gguf(&self, id: TensorId) -> TensorId {
        let Some(latent) = self.latent else { return id };
        let role = match id.role {
            Role::Query if latent.q_lora_rank.is_some() => Role::QueryOfLatent,
            Role::Key => Role::KeyOfLatent,
            Role::Value => Role::ValueOfLatent,
            role => role,
        };
        TensorId { role, ..id }
    }
}

/// The tensor of a GGUF file that holds an expert's matrix or bias and those of the layer's others; `None` of
/// what is no expert's.
pub(crate) fn gguf_stack(id: TensorId) -> Option<String> {
    let (layer, _) = (id.layer?, id.expert?);
    let stem = match id.role {
        Role::MlpGate => "ffn_gate_exps",
        Role::MlpUp => "ffn_up_exps",
        Role::MlpDown => "ffn_down_exps",
        _ => return None,
    };
    Some(format!("blk.{layer}.{stem}.{}", if id.part == Part::Bias { "bias" } else { "weight" }))
}

/// The inventory while it is being put together.
struct List<'a> {
    spec: &'a ModelSpec,
    layer: Option<LayerIndex>,
    expert: Option<usize>,
    tensors: Vec<ModelTensor>,
}

impl List<'_> {
    fn push(&mut self, role: Role, shape: &[usize]) {
        self.add(self.id(role, Part::Weight), shape);
    }

    const fn id(&self, role: Role, part: Part) -> TensorId {
        TensorId { layer: self.layer, expert: self.expert, role, part }
    }

    /// The matrices of an MLP.
    fn push_mlp(&mut self, [gate, up, down]: [Role; 3], inner: usize) {
        let (hidden, bias) = (self.spec.hidden_size, self.spec.mlp_bias);
        if self.spec.gated_mlp {
            self.push_with_bias(gate, [inner, hidden], bias);
        }
        self.push_with_bias(up, [inner, hidden], bias);
        self.push_with_bias(down, [hidden, inner], bias);
    }

    /// A layer's router and experts.
    fn push_experts(&mut self, experts: ExpertsSpec) {
        let (hidden, bias) = (self.spec.hidden_size, self.spec.mlp_bias);
        self.push_with_bias(Role::Router, [experts.count, hidden], bias);
        if experts.router.is_corrected() {
            self.add(self.id(Role::RouterCorrection, Part::Bias), &[experts.count]);
        }
        for expert in 0..experts.count {
            self.expert = Some(expert);
            self.push_mlp(Role::MLP, experts.intermediate_size);
        }
        self.expert = None;
        if let Some(inner) = experts.shared_intermediate_size {
            self.push_mlp(Role::SHARED_MLP, inner);
        }
    }

    /// What makes queries, keys and values by way of latents, and the norms on these.
    fn push_latent(&mut self, latent: LatentSpec) {
        let spec = self.spec;
        let (hidden, bias, heads) = (spec.hidden_size, spec.qkv_bias, spec.num_attention_heads);
        match latent.q_lora_rank {
            None => self.push(Role::Query, &[spec.query_size(), hidden]),
            Some(rank) => {
                self.push_with_bias(Role::QueryLatent, [rank, hidden], bias);
                self.push_norm(Role::QueryLatentNorm, rank);
                self.push(Role::Query, &[spec.query_size(), rank]);
            }
        }
        let rank = latent.kv_lora_rank;
        self.push_with_bias(Role::KeyValueLatent, [rank, hidden], bias);
        self.push_with_bias(Role::RotaryKey, [spec.rotary_dim, hidden], bias);
        self.push_norm(Role::KeyValueLatentNorm, rank);
        self.push(Role::Key, &[heads * spec.unturned_dim(), rank]);
        self.push(Role::Value, &[heads * latent.v_head_dim, rank]);
    }

    /// A norm's gain, and its bias where norms have one.
    fn push_norm(&mut self, role: Role, width: usize) {
        self.push(role, &[width]);
        if self.spec.norm == NormKind::LayerNorm {
            self.add(self.id(role, Part::Bias), &[width]);
        }
    }

    fn push_with_bias(&mut self, role: Role, shape: [usize; 2], bias: bool) {
        self.push(role, &shape);
        if bias {
            self.add(self.id(role, Part::Bias), &shape[..1]);
        }
    }

    fn add(&mut self, id: TensorId, shape: &[usize]) {
        let family = self.spec.family;
        let name = family.stored_name(self.named_as(id));
        let layout = family.layout(id);
        let parts = family.parts_of(id);
        let turn = parts.iter().position(|role| *role == id.role).unwrap_or(0);
        let rows = (parts.len() > 1).then(|| match layout {
            StoredLayout::Stacked => StoredRows { first: turn, run: 1, stride: parts.len() },
            StoredLayout::Rows | StoredLayout::Transposed => {
                let before = self.tensors.iter().filter(|tensor| tensor.name == name);
                let first = before.map(|tensor| tensor.shape[0]).sum::<usize>();
                StoredRows { first, run: shape[0].max(1), stride: shape[0] }
            }
            StoredLayout::HeadByHead => {
                let run = |role: &Role| self.spec.rows_of_a_head(*role).max(1);
                let before = parts.iter().take_while(|role| **role != id.role);
                let (first, stride) = (before.map(run).sum(), parts.iter().map(run).sum());
                StoredRows { first, run: run(&id.role), stride }
            }
        });
        let transposed = match layout {
            StoredLayout::Rows | StoredLayout::HeadByHead => false,
            StoredLayout::Transposed => true,
            StoredLayout::Stacked => id.part == Part::Weight,
        };
        let stacked = layout == StoredLayout::Stacked;
        let stack = id.expert.filter(|_| stacked).and_then(|index| {
            let count = self.spec.experts(self.layer?)?.count;
            Some(StackPlace { index, count })
        });
        let is_gain = id.role.is_gain() && id.part == Part::Weight;
        let plus_one = self.spec.norm == NormKind::RmsPlusOne && is_gain;
        let (shape, offset) = (shape.to_vec(), if plus_one { 1.0 } else { 0.0 });
        self.tensors.push(ModelTensor { id, shape, name, stack, rows, transposed, offset });
    }

    /// Post-LN's norm is called on disk what the site's usual norm is called, as every implementation
    /// has it; only where a branch has both does the norm on the sum need a name of its own.
    fn named_as(&self, id: TensorId) -> TensorId {
        let of_latent = self.spec.latent.is_some_and(|latent| latent.q_lora_rank.is_some());
        match (id.role, id.layer) {
            (Role::Query, _) if of_latent => TensorId { role: Role::QueryOfLatent, ..id },
            (Role::JoinNorm(site), Some(layer))
                if self.spec.branch(layer, site).input_norm.is_none() =>
            {
                TensorId { role: Role::InputNorm(site), ..id }
            }
            _ => id,
        }
    }
}
