//! A prompt on its way through a model, layer by layer: what enters, what each branch adds to it, and which
//! token the stream would end in already (the logit lens).
//!
//! `cargo run --release --example layers -- MODEL "The capital of France is"`

#![expect(clippy::print_stdout, reason = "what an example shows")]

use std::{error::Error, path::Path};

use burn::tensor::{Device, Tensor};
use layernorm_scaling::rotary_table;
use lns_checkpoint::{Checkpoint, TokenizerSource};
use lns_model::{LayerSource, StreamingDecoder};
use lns_spec::{LayerIndex, Site};
use lns_tokenizer::Tokenizer;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, prompt] = arguments.as_slice() else {
        return Err("usage: layers MODEL TEXT".into());
    };
    let checkpoint = Checkpoint::open(Path::new(model))?;
    let tokenizer = match checkpoint.tokenizer() {
        TokenizerSource::Json(path) => Tokenizer::from_json_file(&path)?,
        TokenizerSource::Gguf(gguf) => Tokenizer::from_gguf(&gguf, checkpoint.path())?,
        TokenizerSource::None => return Err("the model has no tokenizer".into()),
    };
    let ids = tokenizer.encode(prompt)?.ids;
    // Layers are read one at a time; a `Decoder` would hold them all and is a `LayerSource` too.
    let model = StreamingDecoder::new(checkpoint, Device::flex())?;
    let (spec, head) = (model.spec(), model.head()?);
    let rotary = rotary_table(spec, ids.len());

    println!("layer  variance  attention/stream  MLP/stream  ends in");
    let mut stream = model.embed_ids(&ids)?;
    for layer in (0..spec.num_hidden_layers).map(LayerIndex::new) {
        let weights = model.layer(layer)?;
        let attention = weights.branch(Site::Attention, stream.clone(), &rotary);
        let joined = weights.join(Site::Attention, stream.clone(), attention.clone());
        let read = weights.mlp_reads(stream.clone(), joined.clone());
        let mlp = weights.branch(Site::Mlp, read, &rotary);
        let [entered, attention, added] = [&stream, &attention, &mlp].map(last_token_size);
        println!(
            "{:5}  {:8.3}  {:16.3}  {:10.3}  {:?}",
            layer.get(),
            entered * entered / spec.hidden_size as f64,
            attention / entered,
            added / entered,
            tokenizer.decode(&[likeliest(head.logits(stream))])?,
        );
        stream = weights.join(Site::Mlp, joined, mlp);
    }
    println!("  out  {:?}", tokenizer.decode(&[likeliest(head.logits(stream))])?);
    Ok(())
}

/// The numbers of the last token of \[1, T, N\].
fn last_token(x: Tensor<3>) -> Vec<f64> {
    let [_, tokens, _] = x.dims();
    x.narrow(1, tokens - 1, 1).into_data().iter::<f64>().collect()
}

fn last_token_size(x: &Tensor<3>) -> f64 {
    last_token(x.clone()).iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn likeliest(logits: Tensor<3>) -> u32 {
    let logits = last_token(logits);
    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
    best.unwrap_or_default() as u32
}
