//! `lns inspect`: what a model is.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use clap::Args;
use lns_checkpoint::{Checkpoint, Format, TensorInfo, TokenizerSource};
use lns_model::f32_bytes;
use lns_show::{counted, layers_in_words, with_prefix};
use lns_spec::{LatentSpec, ModelSpec, Prediction, Removal, RopeScaling, RopeSpec, Rotary, Site};
use serde_json::json;

use super::{Verb, stranger};
use crate::{
    model::{self, bytes},
    printer::Printer,
};

/// Say what a model is: sizes, norm scheme, tensors, memory needed
#[derive(Debug, Args)]
#[command(
    after_long_help = "Of a model that is not supported it tells everything that stops it, which family is \
nearest, and in which keys and tensors the two differ."
)]
pub(crate) struct InspectArgs {
    /// Folder, .gguf file, or .safetensors file
    pub(crate) model: PathBuf,

    /// List every tensor
    #[arg(long)]
    pub(crate) tensors: bool,

    /// Print machine-readable JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Verb for InspectArgs {
    fn prints_json(&self) -> bool {
        self.json
    }

    fn run(&self, printer: &Printer) -> anyhow::Result<ExitCode> {
        run(self, printer).map(|()| ExitCode::SUCCESS)
    }
}

fn run(args: &InspectArgs, printer: &Printer) -> anyhow::Result<()> {
    let models = model::places(&args.model)?;
    let open = |path: &PathBuf| {
        Checkpoint::open(path).map_err(|error| stranger::told(path, error, printer))
    };
    let models: Vec<Checkpoint> = models.iter().map(open).collect::<Result<_, _>>()?;
    match &models[..] {
        [model] => printer.json(&as_json(model))?,
        models => printer.json(&models.iter().map(as_json).collect::<Vec<_>>())?,
    }
    let texts: Vec<String> = models.iter().map(|model| as_text(model, args.tensors)).collect();
    printer.result(&texts.join("\n"))?;
    for checkpoint in &models {
        let audit = checkpoint.audit();
        if !audit.is_clean() {
            let path = checkpoint.path().display().to_string();
            return Err(lns_model::LoadError::Audit { path, audit: Box::new(audit) }.into());
        }
    }
    Ok(())
}

/// Bytes in memory when layers are read from disk: a layer or the head, as f32; streams come on top. Of a
/// mixture's layer first with the experts of one token, then with all.
fn streaming_bytes(spec: &ModelSpec) -> [u64; 2] {
    let count = spec.parameter_count();
    let idle = count.total() - spec.active_parameters();
    [count.layers - idle, count.layers]
        .map(|layers| 4 * (layers / spec.num_hidden_layers as u64).max(count.embedding))
}

/// Stored bytes and number of tensors by storage type.
fn by_type<'a>(tensors: impl Iterator<Item = &'a TensorInfo>) -> BTreeMap<String, (usize, u64)> {
    let mut types = BTreeMap::new();
    for tensor in tensors {
        let entry: &mut (usize, u64) = types.entry(tensor.dtype.to_string()).or_default();
        entry.0 += 1;
        entry.1 += tensor.bytes() as u64;
    }
    types
}

fn tokenizer_name(checkpoint: &Checkpoint) -> String {
    match checkpoint.tokenizer() {
        TokenizerSource::Json(path) => path.display().to_string(),
        TokenizerSource::Gguf(gguf) => format!(
            "in the GGUF: {} tokens, model {}{}",
            gguf.tokens.len(),
            gguf.model,
            gguf.pre.map(|pre| format!(", pre-tokenizer {pre}")).unwrap_or_default()
        ),
        TokenizerSource::None => "none".to_owned(),
    }
}

fn as_json(checkpoint: &Checkpoint) -> serde_json::Value {
    let tensors: Vec<_> = checkpoint
        .tensors()
        .map(|t| json!({"name": t.name, "dtype": t.dtype.to_string(), "shape": t.shape}))
        .collect();
    let audit = checkpoint.audit();
    let files: Vec<_> = checkpoint.files().iter().map(|file| file.display().to_string()).collect();
    json!({
        "model": checkpoint.path().display().to_string(),
        "config": checkpoint.spec().to_config(),
        "norm_scheme": checkpoint.spec().norm_scheme,
        "parameters": checkpoint.spec().parameter_count(),
        "parameters_total": checkpoint.spec().parameter_count().total(),
        "parameters_active": checkpoint.spec().active_parameters(),
        "memory_bytes": f32_bytes(checkpoint.spec()),
        "streaming_memory_bytes": streaming_bytes(checkpoint.spec())[1],
        "streaming_memory_bytes_of_a_token": streaming_bytes(checkpoint.spec())[0],
        "files": files,
        "tokenizer": tokenizer_name(checkpoint),
        "complete": audit.is_clean(),
        "predicts": checkpoint.spec().prediction,
        "left_out": checkpoint.left_out(),
        "tensors": tensors,
    })
}

/// What queries, keys and values are made of where it is not the stream.
fn latents(spec: &ModelSpec) -> String {
    let Some(latent) = spec.latent else { return String::new() };
    let LatentSpec { q_lora_rank, kv_lora_rank, v_head_dim } = latent;
    let queries = q_lora_rank.map(|rank| format!("{rank} for queries and "));
    format!(
        " of {v_head_dim}, made of latents of {}{kv_lora_rank} for keys and values",
        queries.unwrap_or_default()
    )
}

fn as_text(checkpoint: &Checkpoint, every_tensor: bool) -> String {
    let spec = checkpoint.spec();
    let count = spec.parameter_count();
    let parameters = |count: u64| with_prefix(count as f64, "");
    let format = match checkpoint.format() {
        Format::Safetensors => "safetensors",
        Format::Gguf => "GGUF",
    };
    let stored: Vec<_> = by_type(checkpoint.tensors())
        .into_iter()
        .map(|(dtype, (tensors, size))| format!("{tensors} {dtype} ({})", bytes(size)))
        .collect();
    let head = match (spec.has_head(), spec.tie_word_embeddings) {
        (false, _) => "none".to_owned(),
        (true, true) => "tied".to_owned(),
        (true, false) => parameters(count.head),
    };
    let active = match spec.is_mixture() {
        true => format!(", {} of them for each token", parameters(spec.active_parameters())),
        false => String::new(),
    };
    let streaming = match streaming_bytes(spec) {
        [few, all] if few < all => format!(
            "{} to {} reading layer by layer (--stream), by how many experts the text needs",
            bytes(few),
            bytes(all)
        ),
        [_, all] => format!("{} reading layer by layer (--stream)", bytes(all)),
    };
    let window = match spec.windows().flatten().max() {
        Some(window) => {
            let layers = spec.windows().flatten().count();
            format!(", sliding window {window} in {}", counted(layers, "layer"))
        }
        None => String::new(),
    };
    let mut lines = vec![
        ("model", format!("{} ({format}, {})", checkpoint.path().display(), files(checkpoint))),
        ("family", spec.family.model_type().to_owned()),
        ("predicts", predicts(spec).to_owned()),
        ("norm scheme", spec.norm_scheme.to_string()),
        (
            "layers",
            format!("{} × {}, {}", spec.num_hidden_layers, spec.hidden_size, spec.mlp_in_words()),
        ),
        (
            "attention",
            format!(
                "{} of {}, {} key/value{}{window}",
                counted(spec.num_attention_heads, "head"),
                spec.head_dim,
                spec.num_key_value_heads,
                latents(spec)
            ),
        ),
        ("context", format!("{} tokens, {}", spec.max_position_embeddings, positions(spec))),
        ("vocabulary", format!("{} (tokenizer: {})", spec.vocab_size, tokenizer_name(checkpoint))),
        (
            "parameters",
            format!(
                "{} (layers {}, embedding {}, head {head}){active}",
                parameters(count.total()),
                parameters(count.layers),
                parameters(count.embedding)
            ),
        ),
        ("stored", stored.join(", ")),
        ("memory", format!("{} to compute in f32, or about {streaming}", bytes(f32_bytes(spec)),)),
    ];
    if !spec.is_unpruned() {
        // A layer keeps the depth ℓ = i + 1 that it was trained at, so depths tell which ones are left.
        let kept: Vec<usize> =
            spec.per_layer.iter().map(|layer| layer.depth.get() as usize - 1).collect();
        lines.push((
            "kept",
            format!("layers {} of {} trained", layers_in_words(&kept), spec.trained_layers),
        ));
    }
    let gone: Vec<String> = spec
        .layers()
        .flat_map(|layer| Site::ALL.map(|site| (layer, site)))
        .filter(|(layer, site)| !spec.has_branch(*layer, *site))
        .map(|(layer, site)| Removal { layer, branch: Some(site) }.to_string())
        .collect();
    if !gone.is_empty() {
        lines.push(("pruned", format!("without {}", gone.join(", "))));
    }
    lines.extend(model::left_out(checkpoint).map(|said| ("left out", said)));
    if let Some(record) = checkpoint.own_provenance() {
        lines.push(("made by", format!("lns {} from {}", record.verb, record.source)));
    }
    let mut text: String =
        lines.iter().map(|(key, value)| format!("{key:<12} {value}\n")).collect();
    if every_tensor {
        text.push('\n');
        for tensor in checkpoint.tensors() {
            text += &format!(
                "{:<52} {:<7} {:?}\n",
                tensor.name,
                tensor.dtype.to_string(),
                tensor.shape
            );
        }
    }
    text
}

/// How the model tells positions apart.
fn positions(spec: &ModelSpec) -> String {
    let base = |rope: &RopeSpec| format!("RoPE base {}{}", rope.theta, scaling(rope));
    let turns = |rotary| spec.per_layer.iter().any(|layer| layer.rotary == rotary);
    let mut ways = Vec::new();
    if spec.learned_positions {
        ways.push("learned positions".to_owned());
    }
    if turns(Rotary::Main) {
        ways.push(base(&spec.rope));
    }
    if let Some(local) = spec.local_rope.as_ref().filter(|_| turns(Rotary::Local)) {
        ways.push(format!("in layers with a window {}", base(local)));
    }
    if ways.is_empty() {
        ways.push("no positions".to_owned());
    }
    ways.join(", ")
}

/// What the model predicts, and what its attention sees.
fn predicts(spec: &ModelSpec) -> &'static str {
    match spec.prediction {
        Prediction::NextToken => "the next token",
        Prediction::MaskedToken => "masked tokens (an encoder: attention sees both ways)",
        Prediction::Nothing => "nothing (an encoder without a head: it gives hidden states)",
    }
}

const fn scaling(rope: &RopeSpec) -> &'static str {
    match rope.scaling {
        RopeScaling::Default => "",
        RopeScaling::Linear { .. } => ", scaled (linear)",
        RopeScaling::Dynamic { .. } => ", scaled (dynamic)",
        RopeScaling::Llama3 { .. } => ", scaled (llama3)",
        RopeScaling::Yarn { .. } => ", scaled (yarn)",
        RopeScaling::LongRope { .. } => ", scaled (longrope)",
    }
}

fn files(checkpoint: &Checkpoint) -> String {
    counted(checkpoint.files().len(), "file")
}
