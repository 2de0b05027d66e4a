//! A checkpoint opened for computing: in memory, or layer by layer from disk.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use lns_checkpoint::Checkpoint;
use lns_kernels::Compute;
use lns_model::{
    Decoder, ExpertsOnDisk, LayerSource, Layers, f32_bytes, f32_bytes_without_experts, fits,
    fits_without_experts, open_layers, room_for_experts,
};
use lns_record::{Event, FolderKind, FolderMarker};
use lns_show::{clean, counted, with_prefix};
use lns_spec::ModelSpec;
use lns_study::StudyConfig;
use lns_tokenizer::{Tokenizer, model_tokenizer};
use lns_train::{RunConfig, ranges::THREADS};

use crate::{arguments::PlaceArgs, failure::usage, printer::Printer};

/// Opens the model that a path names: a checkpoint, or the one that a run, a study or a quickstart
/// holds.
pub(crate) fn open(path: &Path) -> anyhow::Result<Checkpoint> {
    let models = places(path)?;
    match &models[..] {
        [model] => Ok(Checkpoint::open(model)?),
        models => {
            let list: String = models.iter().map(|m| format!("\n  {}", m.display())).collect();
            Err(usage(format!("{} holds several models; name one:{list}", path.display())))
        }
    }
}

/// The checkpoints that a path names, at least one: itself, or those of a run, a study or a quickstart.
pub(crate) fn places(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let has = |name: &str| path.join(name).is_file();
    if has("config.json") {
        return Ok(vec![path.to_owned()]);
    }
    let is_run = || {
        let marker = FolderMarker::read(path).ok().flatten();
        marker.is_some_and(|marker| marker.kind == FolderKind::Run)
    };
    if has(RunConfig::FILE_NAME) && has(Event::FILE_NAME) || is_run() {
        return finished_model(path).map(|model| vec![model]);
    }
    let inside = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    // A quickstart's studies are its pairs.
    let pair = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("pair-") && path.join(StudyConfig::FILE_NAME).is_file()
    };
    let studies: Vec<PathBuf> = if has(StudyConfig::FILE_NAME) {
        vec![path.to_owned()]
    } else {
        inside(path).into_iter().filter(pair).collect()
    };
    if studies.is_empty() {
        return Ok(vec![path.to_owned()]);
    }
    let mut models: Vec<PathBuf> = studies
        .iter()
        .flat_map(|study| inside(&study.join("runs")))
        .map(|run| run.join(RunConfig::MODEL))
        .filter(|model| model.is_dir())
        .collect();
    models.sort();
    if models.is_empty() {
        return Err(usage(format!(
            "no run in {} is finished, so there is no model",
            path.display()
        )));
    }
    Ok(models)
}

/// The model of a run, which is there when it is finished.
fn finished_model(run: &Path) -> anyhow::Result<PathBuf> {
    let model = run.join(RunConfig::MODEL);
    if model.is_dir() {
        return Ok(model);
    }
    let snapshots = std::fs::read_dir(run.join("snapshots")).into_iter().flatten().flatten();
    let snapshots = snapshots.map(|entry| entry.path());
    let latest = snapshots.filter(|snapshot| snapshot.join("config.json").is_file()).max();
    let instead = latest.map_or(String::new(), |snapshot| {
        format!(", or name its latest snapshot, {}", snapshot.display())
    });
    let go_on = match run.join(RunConfig::FILE_NAME).is_file() {
        true => format!("go on with `lns train --out {}`", run.display()),
        false => {
            "no step was taken yet; wait for it, or repeat the command that began it".to_owned()
        }
    };
    Err(usage(format!(
        "{} holds a run that is not finished, so there is no model yet; {go_on}{instead}",
        run.display()
    )))
}

/// Refuses an encoder, for what only a model that predicts the next token can do.
pub(crate) fn require_decoder(checkpoint: &Checkpoint, doing: &str) -> anyhow::Result<()> {
    let family = checkpoint.spec().family;
    if !family.is_encoder() {
        return Ok(());
    }
    Err(usage(format!(
        "{} is an encoder (model_type \"{}\"): it sees a text from both sides and predicts no next token, so \
         {doing}. `lns inspect`, `lns diagnose`, `lns prune`, and where it has a head `lns eval --text`, take \
         encoders",
        checkpoint.path().display(),
        family.model_type()
    )))
}

/// Refuses a model without a head, for what takes a loss.
pub(crate) fn require_head(checkpoint: &Checkpoint, instead: &str) -> anyhow::Result<()> {
    if checkpoint.spec().has_head() {
        return Ok(());
    }
    Err(usage(format!(
        "{} has no head: it gives hidden states and predicts no token, so there is no loss; {instead}",
        checkpoint.path().display()
    )))
}

/// `2 tensors of other heads or towers, which are not run: pooler.dense.bias, pooler.dense.weight`; `None` if all
/// that the files hold is of the model.
pub(crate) fn left_out(checkpoint: &Checkpoint) -> Option<String> {
    const SHOWN: usize = 4;
    let names = checkpoint.left_out();
    let shown = names.iter().take(SHOWN).map(|name| clean(name)).collect::<Vec<_>>().join(", ");
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let count = counted(names.len(), "tensor");
    let said = format!("{count} of other heads or towers, which are not run: {shown}{more}");
    (!names.is_empty()).then_some(said)
}

/// The model's own tokenizer.
pub(crate) fn tokenizer(checkpoint: &Checkpoint) -> anyhow::Result<Tokenizer> {
    model_tokenizer(checkpoint)?.ok_or_else(|| {
        usage(format!(
            "{} has no tokenizer; put the model's tokenizer.json beside its weights",
            checkpoint.path().display()
        ))
    })
}

/// A note when the tokenizer knows more tokens than the model: such ids are refused where they occur.
pub(crate) fn compare_vocabularies(spec: &ModelSpec, tokenizer: &Tokenizer, printer: &Printer) {
    let (known, rows) = (tokenizer.vocab_size(), spec.vocab_size);
    if known > rows {
        printer.note(&format!(
            "The tokenizer has {known} tokens, the model's embedding {rows} rows; text that needs one \
             of the others is refused."
        ));
    }
}

/// Loads the model, or arranges to read it layer by layer when it is too large or `--stream` says so.
pub(crate) fn load(
    checkpoint: Checkpoint,
    compute: &Compute,
    layers: Layers,
    printer: &Printer,
) -> anyhow::Result<Box<dyn LayerSource>> {
    let (path, spec) = (checkpoint.path().to_owned(), checkpoint.spec().clone());
    let needed = bytes(f32_bytes(&spec));
    if let Some(said) = left_out(&checkpoint) {
        printer.note(&format!("Left out: {said}."));
    }
    let on_disk = layers.are_on_disk(&spec);
    if on_disk {
        let why = match layers {
            Layers::OnDisk => "as asked",
            Layers::WhereTheyFit | Layers::InMemory => "it would fill half of the free memory",
        };
        let experts = match spec.is_mixture() {
            true => ", and of their experts those that tokens are sent to",
            false => "",
        };
        printer.note(&format!(
            "Reading layers from disk one at a time{experts} ({why}; all at once would take {needed})."
        ));
    }
    let start = Instant::now();
    // What is said is what is done, whatever becomes of the free memory.
    let layers = if on_disk { Layers::OnDisk } else { Layers::InMemory };
    let source = open_layers(checkpoint, layers, &compute.device, compute.precision)?;
    if !on_disk {
        printer.note(&format!(
            "Loaded {} ({spec}, {needed} in memory) in {:.1} s.",
            path.display(),
            start.elapsed().as_secs_f64()
        ));
    }
    Ok(source)
}

/// A model that generates: all in memory, or a mixture with its experts on disk, where it does not fit or
/// `on_disk` asks for that.
pub(crate) fn load_to_generate(
    checkpoint: &Arc<Checkpoint>,
    place: &PlaceArgs,
    on_disk: bool,
    printer: &Printer,
) -> anyhow::Result<(Decoder, Option<Arc<ExpertsOnDisk>>)> {
    let spec = checkpoint.spec();
    if on_disk && !spec.is_mixture() {
        return Err(usage(format!(
            "--stream leaves experts on disk, and {} has none: every token needs all of it; leave --stream \
             out",
            checkpoint.path().display()
        )));
    }
    let too_large = spec.is_mixture() && !fits(spec) && fits_without_experts(spec);
    if !on_disk && !too_large {
        return Ok((load_whole(checkpoint, place)?, None));
    }
    printer.note(&format!(
        "Reading experts from disk when tokens are sent to them ({}); {} without them are in memory.",
        if on_disk { "as asked" } else { "all would fill half of the free memory" },
        bytes(f32_bytes_without_experts(spec))
    ));
    let experts = ExpertsOnDisk::new(checkpoint.clone(), place.device.clone(), room_for_experts())?;
    let decoder = Decoder::with_experts_on_disk(&experts, &place.device)?;
    Ok((decoder.with_precision(place.precision), Some(experts)))
}

/// The whole model in memory, for what cannot be done layer by layer.
pub(crate) fn load_whole(checkpoint: &Checkpoint, place: &PlaceArgs) -> anyhow::Result<Decoder> {
    let spec = checkpoint.spec();
    if !fits(spec) {
        return Err(usage(format!(
            "{} needs {} in memory, more than half of what is free; use a smaller model or a larger \
             machine",
            checkpoint.path().display(),
            bytes(f32_bytes(spec))
        )));
    }
    let decoder = Decoder::from_checkpoint(checkpoint, &place.device)?;
    Ok(decoder.with_precision(place.precision))
}

/// A short name for a model: that of its file, or of the nearest folder, which tells it from others.
/// Runs call theirs `model`, and model caches theirs by a commit.
pub(crate) fn short_name(path: &Path) -> String {
    const OF_MANY: [&str; 6] = ["model", "models", "ggml-model", "snapshots", "runs", "checkpoint"];
    let resolved = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let file = if resolved.is_dir() { None } else { resolved.file_stem() };
    let folders = resolved.ancestors().skip(usize::from(file.is_some()));
    let names = file.into_iter().chain(folders.filter_map(Path::file_name));
    let mut step = String::new();
    for name in names.map(|name| name.to_string_lossy()) {
        let commit = name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if OF_MANY.contains(&&*name) || commit {
            continue;
        }
        if name.starts_with("step-") && step.is_empty() {
            step = format!("-{name}");
            continue;
        }
        return format!("{name}{step}");
    }
    format!("model{step}")
}

/// Where and how to compute: with as many threads as asked for, or one per core.
pub(crate) fn compute(threads: Option<usize>, place: &PlaceArgs) -> anyhow::Result<Compute> {
    let PlaceArgs { device, precision } = place.clone();
    Ok(Compute::new(device, precision, thread_count(threads))?)
}

/// The number of threads to use.
pub(crate) fn thread_count(threads: Option<usize>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    threads.unwrap_or_else(|| cores().min(*THREADS.end() as usize))
}

/// A size for a person.
pub(crate) fn bytes(count: u64) -> String {
    with_prefix(count as f64, "B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_called_by_what_tells_it_from_others() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        for (path, name) in [
            ("SmolLM2", "SmolLM2"),
            ("healed/model", "healed"),
            ("study/runs/pre-seed1/model", "pre-seed1"),
            ("run/snapshots/step-00000200", "run-step-00000200"),
            (&*format!("models--org--Tiny/snapshots/{commit}"), "models--org--Tiny"),
        ] {
            let folder = dir.path().join(path);
            std::fs::create_dir_all(&folder).expect("makes");
            assert_eq!(short_name(&folder), name);
            for file in ["model.safetensors", "model.gguf"] {
                std::fs::write(folder.join(file), "").expect("writes");
                assert_eq!(short_name(&folder.join(file)), name);
            }
            std::fs::write(folder.join("own.Q4_1.gguf"), "").expect("writes");
            assert_eq!(short_name(&folder.join("own.Q4_1.gguf")), "own.Q4_1");
        }
    }
}
