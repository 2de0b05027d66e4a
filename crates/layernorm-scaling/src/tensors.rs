//! The decoder's parameters under their Hugging Face names.

use std::{borrow::Cow, path::Path};

use burn::{
    module::{Module, ModuleVisitor, Param},
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

impl Decoder {
    /// Every parameter, copied, in the order in which the module is visited.
    pub fn tensors(&self) -> Vec<NamedTensor<'static>> {
        struct Copied {
            path: Vec<String>,
            tensors: Vec<NamedTensor<'static>>,
        }
        impl ModuleVisitor for Copied {
            fn enter_module(&mut self, name: &str, _: &str) {
                self.path.push(name.to_owned());
            }

            fn exit_module(&mut self, _: &str, _: &str) {
                self.path.pop();
            }

            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let tensor = param.val();
                let shape = tensor.dims().to_vec();
                let count = shape.iter().product::<usize>();
                let values = with_slices([&tensor.reshape([count])], |[values]| values.to_vec());
                let name = tensor_name(&self.path.join("."));
                self.tensors.push(NamedTensor { name, shape, values: Cow::Owned(values) });
            }
        }
        let mut copied = Copied { path: Vec::new(), tensors: Vec::new() };
        self.visit(&mut copied);
        copied.tensors
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
