//! The decoder's parameters under their Hugging Face names.

use std::{borrow::Cow, collections::HashMap, path::Path};

use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    tensor::Tensor,
};
use lns_checkpoint::{CheckpointError, NamedTensor, write_model};
use lns_kernels::with_slices;
use lns_spec::{LayerIndex, ModelTensor, Part, Role, Site, TensorId};

use crate::Decoder;

/// The fields of a layer that hold tensors, and what for.
const FIELDS: [(&str, Role); 29] = [
    ("input_layernorm", Role::InputNorm(Site::Attention)),
    ("post_attention_layernorm", Role::InputNorm(Site::Mlp)),
    ("self_attn.q_proj", Role::Query),
    ("self_attn.k_proj", Role::Key),
    ("self_attn.v_proj", Role::Value),
    ("self_attn.o_proj", Role::AttentionOutput),
    ("self_attn.q_norm", Role::QueryNorm),
    ("self_attn.k_norm", Role::KeyNorm),
    ("self_attn.sinks", Role::Sinks),
    ("mlp.gate_proj", Role::MlpGate),
    ("mlp.up_proj", Role::MlpUp),
    ("mlp.down_proj", Role::MlpDown),
    ("self_attn.latents.queries.proj", Role::QueryLatent),
    ("self_attn.latents.queries.norm", Role::QueryLatentNorm),
    ("self_attn.latents.keys_and_values.proj", Role::KeyValueLatent),
    ("self_attn.latents.keys_and_values.norm", Role::KeyValueLatentNorm),
    ("self_attn.latents.rotary_keys", Role::RotaryKey),
    ("experts.router", Role::Router),
    ("experts.correction", Role::RouterCorrection),
    ("experts.shared.gate_proj", Role::SharedMlpGate),
    ("experts.shared.up_proj", Role::SharedMlpUp),
    ("experts.shared.down_proj", Role::SharedMlpDown),
    ("attention_output.norm", Role::OutputNorm(Site::Attention)),
    ("mlp_output.norm", Role::OutputNorm(Site::Mlp)),
    ("attention_output.scale", Role::BranchGate(Site::Attention)),
    ("mlp_output.scale", Role::BranchGate(Site::Mlp)),
    ("attention_join", Role::JoinNorm(Site::Attention)),
    ("mlp_join", Role::JoinNorm(Site::Mlp)),
    ("stream_gate", Role::StreamGate),
];

/// The last field on the way to the tensor of a role in a layer.
pub(crate) fn field_name(role: Role) -> Option<&'static str> {
    let (path, _) = FIELDS.into_iter().find(|(_, known)| *known == role)?;
    path.rsplit('.').next()
}

/// Which tensor the parameter at a path of fields of a [`Decoder`] is: `layers.3.mlp.up_proj.weight` is
/// layer 3's [`Role::MlpUp`], `layers.3.experts.each.5.up_proj.weight` that of its expert 5. The norm on a Post-LN sum stands where the site's usual norm does, and is
/// taken for it. `None` for an adapter's factor.
pub fn tensor_id(path: &str) -> Option<TensorId> {
    let (stem, part) = match path.rsplit_once('.') {
        Some((stem, "weight" | "gamma")) => (stem, Part::Weight),
        Some((stem, "bias" | "beta")) => (stem, Part::Bias),
        _ => (path, Part::Weight),
    };
    let Some(rest) = stem.strip_prefix("layers.") else {
        let role = match stem {
            "embed_tokens" => Role::Embedding,
            "embed_positions" => Role::PositionEmbedding,
            "embed_token_types" => Role::TokenTypeEmbedding,
            "embed_norm" => Role::EmbeddingNorm,
            "head_transform" => Role::HeadTransform,
            "head_bias" => Role::HeadBias,
            "norm" => Role::FinalNorm,
            "lm_head" => Role::Head,
            _ => return None,
        };
        return Some(TensorId { layer: None, expert: None, role, part });
    };
    let (layer, field) = rest.split_once('.')?;
    let layer = Some(LayerIndex::new(layer.parse().ok()?));
    let (expert, field) = match field.strip_prefix("experts.each.") {
        None => (None, field.to_owned()),
        Some(rest) => {
            let (expert, field) = rest.split_once('.')?;
            (Some(expert.parse().ok()?), format!("mlp.{field}"))
        }
    };
    let (_, role) = FIELDS.into_iter().find(|(name, _)| *name == field)?;
    // It is nothing but what is added.
    let part = if role == Role::RouterCorrection { Part::Bias } else { part };
    Some(TensorId { layer, expert, role, part })
}

/// The norm on a site's sum, which stands in the field of the site's usual norm where that is absent.
fn on_the_sum(id: TensorId) -> Option<TensorId> {
    match id.role {
        Role::InputNorm(site) => Some(TensorId { role: Role::JoinNorm(site), ..id }),
        _ => None,
    }
}

/// A parameter as a visit meets it.
#[derive(Debug)]
pub struct VisitedParameter<'a> {
    /// Path of fields in the module: `layers.0.mlp.up_proj.weight`.
    pub path: &'a str,
    /// What tells it from others, also in clones of the module.
    pub id: ParamId,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Whether gradients are taken of it; known of a module with autodiff only.
    pub requires_gradient: bool,
    /// Its values, \[elements\].
    pub flat: Tensor<1>,
}

impl VisitedParameter<'_> {
    pub(crate) fn copied(self, name: String) -> NamedTensor<'static> {
        let values = with_slices([&self.flat], |[values]| values.to_vec());
        NamedTensor { name, shape: self.shape, values: Cow::Owned(values) }
    }
}

/// Every parameter, in the order in which the module is visited.
pub fn visit_parameters(module: &impl Module, visit: &mut dyn FnMut(VisitedParameter<'_>)) {
    struct Visit<'a> {
        path: Vec<String>,
        visit: &'a mut dyn FnMut(VisitedParameter<'_>),
    }
    impl ModuleVisitor for Visit<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            let shape = tensor.dims().to_vec();
            let requires_gradient = tensor.is_require_grad();
            let flat = tensor.reshape([shape.iter().product::<usize>()]);
            let path = &self.path.join(".");
            (self.visit)(VisitedParameter { path, id: param.id, shape, requires_gradient, flat });
        }
    }
    module.visit(&mut Visit { path: Vec::new(), visit });
}

impl Decoder {
    /// Every tensor as a folder holds it, copied, in the order in which the module is visited, adapters
    /// merged. Parameters that the family stores as one tensor are joined.
    pub fn tensors(&self) -> Vec<NamedTensor<'static>> {
        let parts: HashMap<TensorId, ModelTensor> =
            self.spec().tensors().into_iter().map(|tensor| (tensor.id, tensor)).collect();
        let shapes: HashMap<String, Vec<usize>> = self
            .spec()
            .stored_tensors()
            .into_iter()
            .map(|stored| (stored.name, stored.shape))
            .collect();
        let mut tensors: Vec<NamedTensor<'static>> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        visit_parameters(&self.merged(), &mut |parameter| {
            let Some(id) = tensor_id(parameter.path) else { return };
            let Some(part) = parts.get(&id).or_else(|| parts.get(&on_the_sum(id)?)) else { return };
            let name = part.name.clone();
            if part.is_stored_whole() {
                tensors.push(parameter.copied(name));
                return;
            }
            let shape = shapes.get(&name).cloned().unwrap_or_default();
            let place = *places.entry(name.clone()).or_insert_with(|| {
                let values = vec![0.0; shape.iter().product()];
                tensors.push(NamedTensor { name, shape, values: Cow::Owned(values) });
                tensors.len() - 1
            });
            with_slices([&parameter.flat], |[values]| {
                part.put_into(values, tensors[place].values.to_mut());
            });
        });
        tensors
    }

    /// Writes `config.json` and `model.safetensors` into a folder that its caller will put in place.
    ///
    /// # Errors
    /// [`CheckpointError::Write`].
    pub fn write(&self, folder: &Path) -> Result<(), CheckpointError> {
        write_model(folder, self.spec(), &self.tensors())
    }
}

#[cfg(test)]
mod tests {
    use lns_spec::{NormScheme, Preset};

    use lns_testing::models::TINY;

    use super::*;

    #[test]
    fn parameters_have_the_names_and_shapes_of_the_specification_under_every_scheme() {
        for name in NormScheme::names() {
            let preset = Preset {
                hidden_size: 8,
                intermediate_size: 12,
                num_hidden_layers: 4,
                vocab_size: 11,
                max_position_embeddings: 16,
                ..TINY
            };
            let mut spec = preset.spec(name.parse().expect(name));
            spec.qk_norm = lns_spec::QkNorm::PerHead;
            spec.qkv_bias = true;
            let model = Decoder::new(&spec, 1, &lns_kernels::cpu_device());
            let sorted = |mut tensors: Vec<(String, Vec<usize>)>| {
                tensors.sort();
                tensors
            };
            let found = model.tensors().into_iter().map(|t| (t.name, t.shape)).collect();
            let expected = spec.stored_tensors().into_iter().map(|t| (t.name, t.shape)).collect();
            assert_eq!(sorted(found), sorted(expected), "{name}");
        }
    }
}
