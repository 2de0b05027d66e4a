//! The decoder's parameters under their Hugging Face names.

use std::{borrow::Cow, path::Path};

use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    tensor::Tensor,
};
use lns_checkpoint::{CheckpointError, NamedTensor, write_model};
use lns_kernels::with_slices;

use crate::Decoder;

/// A parameter's name in a checkpoint, from its path of fields in [`Decoder`]:
/// `layers.3.input_layernorm.gamma` is `model.layers.3.input_layernorm.weight`.
pub fn tensor_name(path: &str) -> String {
    let name = match path {
        "lm_head" => return "lm_head.weight".to_owned(),
        "embed_tokens" => "embed_tokens.weight".to_owned(),
        _ => path
            .replace("_output.norm.gamma", "_output_layernorm.weight")
            .replace("_output.scale", "_branch_scale")
            .replace(".gamma", ".weight"),
    };
    format!("model.{name}")
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
    /// Every parameter, copied, in the order in which the module is visited, adapters merged.
    pub fn tensors(&self) -> Vec<NamedTensor<'static>> {
        let mut tensors = Vec::new();
        visit_parameters(&self.merged(), &mut |parameter| {
            let name = tensor_name(parameter.path);
            tensors.push(parameter.copied(name));
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

    use super::*;

    #[test]
    fn parameters_have_the_names_and_shapes_of_the_specification_under_every_scheme() {
        for name in NormScheme::NAMES {
            let preset = Preset {
                name: "tiny",
                hidden_size: 8,
                intermediate_size: 12,
                num_attention_heads: 2,
                num_hidden_layers: 4,
                vocab_size: 11,
                max_position_embeddings: 16,
            };
            let mut spec = preset.spec(name.parse().expect(name));
            spec.qk_norm = true;
            spec.qkv_bias = true;
            let model = Decoder::new(&spec, 1, &lns_kernels::Device::flex());
            let sorted = |mut tensors: Vec<(String, Vec<usize>)>| {
                tensors.sort();
                tensors
            };
            let found = model.tensors().into_iter().map(|t| (t.name, t.shape)).collect();
            let expected = spec.tensors().into_iter().map(|t| (t.name, t.shape)).collect();
            assert_eq!(sorted(found), sorted(expected), "{name}");
        }
    }
}
