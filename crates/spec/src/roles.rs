//! Every tensor of a model, by what it is for.
//!
//! This is the one inventory: loading, initialisation, weight decay, adapters, conversion and both file
//! formats read it. What a tensor is called on disk is its family's business
//! ([`StoredName`](crate::families::StoredName)).

use std::{fmt, ops::Range};

use serde::{Serialize, Serializer};

use crate::{BranchGate, LayerIndex, ModelSpec, Site};

/// What a tensor is for. N, F and the gates are those of [`Branch`](crate::Branch)'s formula.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The token embedding, \[vocab_size, H\].
    Embedding,
    /// The norm between the embedding and layer 0.
    EmbeddingNorm,
    /// The norm after the last layer.
    FinalNorm,
    /// The output head, \[vocab_size, H\].
    Head,
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
    /// The projection to keys, `k_proj`.
    Key,
    /// The projection to values, `v_proj`.
    Value,
    /// The attention's output projection, `o_proj`.
    AttentionOutput,
    /// The norm on each head of the queries.
    QueryNorm,
    /// The norm on each head of the keys.
    KeyNorm,
    /// The projection that the activation is taken of, `gate_proj`.
    MlpGate,
    /// The projection that the activated gate multiplies, `up_proj`.
    MlpUp,
    /// The MLP's output projection, `down_proj`.
    MlpDown,
}

impl Role {
    /// The matrices of a layer, which adapters and Muon are for, in the order of a forward pass.
    pub const PROJECTIONS: [Self; 7] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::AttentionOutput,
        Self::MlpGate,
        Self::MlpUp,
        Self::MlpDown,
    ];

    /// Whether it is one of a layer's matrices.
    pub fn is_projection(self) -> bool {
        Self::PROJECTIONS.contains(&self)
    }

    /// Whether a branch ends with it: such matrices are divided by scaled initialisations.
    pub fn is_output_projection(self) -> bool {
        matches!(self, Self::AttentionOutput | Self::MlpDown)
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
            | Self::KeyNorm => true,
            Self::Embedding
            | Self::Head
            | Self::BranchGate(_)
            | Self::StreamGate
            | Self::Query
            | Self::Key
            | Self::Value
            | Self::AttentionOutput
            | Self::MlpGate
            | Self::MlpUp
            | Self::MlpDown => false,
        }
    }

    /// Whether it is a learned number on a branch or the stream, which has no bias beside it.
    pub fn is_gate(self) -> bool {
        matches!(self, Self::BranchGate(_) | Self::StreamGate)
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
    /// The role it plays.
    pub role: Role,
    /// Weight or bias.
    pub part: Part,
}

impl TensorId {
    /// The weight of a role outside the layers.
    pub const fn outer(role: Role) -> Self {
        Self { layer: None, role, part: Part::Weight }
    }

    /// The weight of a role of a layer.
    pub const fn of_layer(layer: LayerIndex, role: Role) -> Self {
        Self { layer: Some(layer), role, part: Part::Weight }
    }

    /// Whether weight decay is usual for it: for matrices of layers and the head, and for no gain, gate,
    /// bias or embedding.
    pub fn decays(self) -> bool {
        self.part == Part::Weight && (self.role.is_projection() || self.role == Role::Head)
    }
}

impl fmt::Display for TensorId {
    /// The name in a Hugging Face folder of a Llama: what seeds the tensor's random weights, whatever
    /// its family.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::Family::LLAMA.stored_name(*self))
    }
}

/// One tensor of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelTensor {
    /// Its role and its layer.
    pub id: TensorId,
    /// Dimensions, outermost first (`[out, in]`).
    pub shape: Vec<usize>,
    /// The tensor of a Hugging Face folder that holds it.
    pub name: String,
    /// Its rows in that tensor, where several tensors of the model are stored as one.
    pub rows: Option<Range<usize>>,
}

impl ModelTensor {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|n| *n as u64).product()
    }
}

/// One tensor as a Hugging Face folder has it: one of the model's, or several of them one after the
/// other along the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// Its name, e.g. `model.layers.3.mlp.up_proj.weight`.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The tensors of the model that it holds, in order.
    pub parts: Vec<TensorId>,
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
        let mut list = List { spec: self, layer: None, tensors: Vec::new() };
        list.push(Role::Embedding, &table);
        if self.norms_embedding() {
            list.push(Role::EmbeddingNorm, &[self.hidden_size]);
        }
        list.push(Role::FinalNorm, &[self.hidden_size]);
        if !self.tie_word_embeddings {
            list.push(Role::Head, &table);
        }
        list.tensors
    }

    /// Tensors of one layer.
    pub fn layer_tensors(&self, layer: LayerIndex) -> Vec<ModelTensor> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (queries, keys) = (self.query_size(), self.key_value_size());
        let mut list = List { spec: self, layer: Some(layer), tensors: Vec::with_capacity(16) };
        let sites: Vec<Site> = [Site::Attention, Site::Mlp]
            .into_iter()
            .filter(|site| self.has_branch(layer, *site))
            .collect();
        for site in &sites {
            let branch = self.branch(layer, *site);
            if branch.input_norm.is_some() {
                list.push(Role::InputNorm(*site), &[hidden]);
            }
            if branch.join.norm {
                list.push(Role::JoinNorm(*site), &[hidden]);
            }
            match site {
                Site::Attention => {
                    list.push_with_bias(Role::Query, [queries, hidden], self.qkv_bias);
                    list.push_with_bias(Role::Key, [keys, hidden], self.qkv_bias);
                    list.push_with_bias(Role::Value, [keys, hidden], self.qkv_bias);
                    if self.qk_norm {
                        list.push(Role::QueryNorm, &[self.head_dim]);
                        list.push(Role::KeyNorm, &[self.head_dim]);
                    }
                    let bias = self.attention_output_bias;
                    list.push_with_bias(Role::AttentionOutput, [hidden, queries], bias);
                }
                Site::Mlp => {
                    list.push_with_bias(Role::MlpGate, [inner, hidden], self.mlp_bias);
                    list.push_with_bias(Role::MlpUp, [inner, hidden], self.mlp_bias);
                    list.push_with_bias(Role::MlpDown, [hidden, inner], self.mlp_bias);
                }
            }
        }
        for site in &sites {
            let branch = self.branch(layer, *site);
            if branch.output_norm {
                list.push(Role::OutputNorm(*site), &[hidden]);
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
        let mut stored: Vec<StoredTensor> = Vec::new();
        for ModelTensor { id, shape, name, rows } in self.tensors() {
            let begun = stored.iter_mut().rev().find(|begun| rows.is_some() && begun.name == name);
            match begun {
                Some(begun) => {
                    begun.shape[0] += shape[0];
                    begun.parts.push(id);
                }
                None => stored.push(StoredTensor { name, shape, parts: vec![id] }),
            }
        }
        stored
    }
}

/// The inventory while it is being put together.
struct List<'a> {
    spec: &'a ModelSpec,
    layer: Option<LayerIndex>,
    tensors: Vec<ModelTensor>,
}

impl List<'_> {
    fn push(&mut self, role: Role, shape: &[usize]) {
        self.add(TensorId { layer: self.layer, role, part: Part::Weight }, shape);
    }

    fn push_with_bias(&mut self, role: Role, shape: [usize; 2], bias: bool) {
        self.push(role, &shape);
        if bias {
            self.add(TensorId { layer: self.layer, role, part: Part::Bias }, &shape[..1]);
        }
    }

    fn add(&mut self, id: TensorId, shape: &[usize]) {
        let family = self.spec.family;
        let name = family.stored_name(self.named_as(id));
        // Parts of one stored tensor stand one after the other, in the order of its name's roles.
        let first = family.shares_its_name(id.role).then(|| {
            let before = self.tensors.iter().filter(|tensor| tensor.name == name);
            before.map(|tensor| tensor.shape[0]).sum::<usize>()
        });
        let rows = first.map(|first| first..first + shape[0]);
        self.tensors.push(ModelTensor { id, shape: shape.to_vec(), name, rows });
    }

    /// Post-LN's norm is called on disk what the site's usual norm is called, as every implementation
    /// has it; only where a branch has both does the norm on the sum need a name of its own.
    fn named_as(&self, id: TensorId) -> TensorId {
        match (id.role, id.layer) {
            (Role::JoinNorm(site), Some(layer))
                if self.spec.branch(layer, site).input_norm.is_none() =>
            {
                TensorId { role: Role::InputNorm(site), ..id }
            }
            _ => id,
        }
    }
}
