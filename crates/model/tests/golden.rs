//! The decoder against PyTorch: golden/tiny holds tiny random checkpoints of every family, number
//! format, RoPE variant and norm scheme, with what the reference computes on them.

use std::path::PathBuf;

use burn::tensor::{Device, Int, Tensor, TensorData};
use lns_checkpoint::Checkpoint;
use lns_model::{Decoder, LayerSource, StreamingDecoder};
use lns_spec::Family;
use safetensors::SafeTensors;

fn tiny() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../golden/tiny")
}

fn folders() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(tiny())
        .expect("the golden folder is in the repository")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 40, "golden/tiny is not whole: {names:?}");
    names
}

struct Expected(Vec<u8>);

impl Expected {
    fn of(folder: &str) -> Self {
        let path = tiny().join(folder).join("expected.safetensors");
        Self(std::fs::read(path).expect("expected values are in the repository"))
    }

    fn tensor(&self, name: &str) -> Option<(Vec<usize>, Vec<f32>)> {
        let file = SafeTensors::deserialize(&self.0).expect("a valid file");
        let view = file.tensor(name).ok()?;
        let values = view
            .data()
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")))
            .collect();
        Some((view.shape().to_vec(), values))
    }

    fn ids(&self) -> ([usize; 2], Vec<i32>) {
        let (shape, values) = self.tensor("input_ids").expect("every file has its ids");
        ([shape[0], shape[1]], values.into_iter().map(|id| id as i32).collect())
    }
}

fn load(folder: &str) -> Decoder {
    let checkpoint = Checkpoint::open(&tiny().join(folder)).expect(folder);
    Decoder::from_checkpoint(&checkpoint, &Device::flex()).expect(folder)
}

fn tokens(expected: &Expected) -> Tensor<2, Int> {
    let (shape, ids) = expected.ids();
    Tensor::from_data(TensorData::new(ids, shape), &Device::flex())
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// Largest difference, relative to the largest expected value.
fn relative(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |a, b| a.max(b.abs()));
    let difference = found.iter().zip(expected).fold(0f32, |a, (x, y)| a.max((x - y).abs()));
    assert!(!found.iter().any(|x| x.is_nan()), "NaN");
    difference / largest
}

#[test]
fn logits_equal_pytorchs_for_every_family_format_rope_variant_and_scheme() {
    for folder in folders() {
        let expected = Expected::of(&folder);
        let (_, logits) = expected.tensor("logits").expect("every file has logits");
        let found = values(load(&folder).forward(tokens(&expected)));
        let worst = found.iter().zip(&logits).fold(0f32, |a, (x, y)| a.max((x - y).abs()));
        assert!(worst < 1e-4 && relative(&found, &logits) < 1e-4, "{folder}: {worst:e}");
    }
}

#[test]
fn every_stream_equals_pytorchs_the_last_one_before_the_final_norm() {
    let mut compared = 0;
    for folder in folders() {
        let expected = Expected::of(&folder);
        let streams = load(&folder).streams(tokens(&expected));
        for (index, stream) in streams.into_iter().enumerate() {
            let Some((_, reference)) = expected.tensor(&format!("stream.{index}")) else {
                continue;
            };
            let difference = relative(&values(stream), &reference);
            assert!(difference < 1e-4, "{folder}, stream {index}: {difference:e}");
            compared += 1;
        }
    }
    assert!(compared > 80, "only {compared} streams were compared");
}

#[test]
fn losses_equal_pytorchs() {
    for folder in Family::all().map(Family::model_type) {
        let expected = Expected::of(folder);
        let (shape, reference) = expected.tensor("nll").expect("these have losses");
        let (ids_shape, ids) = expected.ids();
        let model = load(folder);
        let streams = model.streams(tokens(&expected));
        let last = &streams[streams.len() - 1];
        let mut found = Vec::new();
        for sequence in 0..shape[0] {
            let stream = last.clone().narrow(0, sequence, 1).narrow(1, 0, shape[1]).squeeze_dim(0);
            let row = &ids[sequence * ids_shape[1]..][..ids_shape[1]];
            let targets: Vec<u32> = row[1..].iter().map(|id| *id as u32).collect();
            found.extend(values(Decoder::head(&model).nll(stream, &targets)));
        }
        let difference = relative(&found, &reference);
        assert!(difference < 1e-5, "{folder}: {difference:e}");
    }
}

#[test]
fn layers_read_from_disk_one_at_a_time_compute_the_same_bits() {
    for folder in ["llama-bf16-sharded", "qwen3", "scheme-peri"] {
        let checkpoint = Checkpoint::open(&tiny().join(folder)).expect(folder);
        let streaming = StreamingDecoder::new(checkpoint, Device::flex()).expect(folder);
        let model = load(folder);
        let ids = [3u32, 1, 4, 1, 5, 9, 2, 6];
        let rotary = layernorm_scaling::rotary_table(model.spec(), ids.len());
        let mut results = Vec::new();
        for source in [&model as &dyn LayerSource, &streaming] {
            let mut stream = source.embed_ids(&ids).expect(folder);
            for layer in source.spec().layers() {
                stream = source.layer(layer).expect(folder).forward(stream, &rotary);
            }
            let head = source.head().expect(folder);
            results.push(values(head.logits(stream)));
        }
        assert_eq!(results[0], results[1], "{folder}");
    }
}

#[test]
fn generation_with_a_cache_equals_recomputing_every_prefix() {
    use lns_model::Sampling;
    let schemes =
        ["scheme-lns", "scheme-deepnorm", "scheme-keel", "scheme-gpas", "scheme-output-norm"];
    for folder in Family::all().map(Family::model_type).chain(schemes) {
        let model = load(folder);
        let prompt = vec![5u32, 17, 3];
        let generated: Vec<u32> = model.generate(&prompt, 12, Sampling::default()).collect();
        let mut ids = prompt;
        for expected in &generated {
            let tokens = lns_model::ids_tensor(&ids, &Device::flex());
            let logits = model.forward(tokens);
            let last = values(logits.narrow(1, ids.len() - 1, 1));
            let best =
                (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b])).expect("logits");
            assert_eq!(best as u32, *expected, "{folder} after {} tokens", ids.len());
            ids.push(*expected);
        }
        assert_eq!(generated.len(), 12);
        assert_eq!(model.generate(&ids, 0, Sampling::default()).count(), 0);
    }
}
