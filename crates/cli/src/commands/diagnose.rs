//! `lns diagnose`: which layers work, which idle.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::Ordering,
};

use clap::Args;
use lns_checkpoint::Checkpoint;
use lns_corpus::Windows;
use lns_diagnose::{Control, Labels, Probes, Questioned};
use lns_kernels::Compute;
use lns_model::{LayerSource, Layers};
use lns_record::{Claim, ClaimError, DiagnoseRecord, FolderKind};
use lns_score::Reading;
use lns_show::counted;
use lns_spec::ModelSpec;
use lns_tasks::Asked;
use lns_tokenizer::Tokenizer;

use super::{Verb, output};
use crate::{
    arguments::{ComputeArgs, CutArgs, QuestionCut, TaskArgs, numbers::positive, text_help},
    failure::usage,
    model, pipes,
    printer::Printer,
    stop::Stop,
    text::{self, Opened},
};

/// Show which layers of a model work and which idle
#[derive(Debug, Args)]
#[command(override_usage = "lns diagnose <MODEL> --text <FILE>... [OPTIONS]\n       \
                      lns diagnose <MODEL> --tasks <TASK>,... --data <FOLDER> [--text <FILE>...] [OPTIONS]")]
#[command(after_long_help = probe_help())]
pub(crate) struct DiagnoseArgs {
    /// Folder, .gguf file, or .safetensors file
    pub(crate) model: PathBuf,

    #[arg(
        long = "text", value_name = "FILE", num_args = 1.., help = text_help(),
        required_unless_present = "tasks"
    )]
    pub(crate) files: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) cut: CutArgs,

    #[command(flatten)]
    pub(crate) tasks: TaskArgs,

    /// What to measure: names separated by commas, `default`, or `all`; see below for the prices
    #[arg(long, value_name = "NAMES", default_value = "default")]
    pub(crate) probes: Probes,

    /// Leave a layer out in no more windows once the 95 % interval of what that costs is narrower than ± NATS
    /// per token (above 0), or lies beside the threshold of 0.02 below which a layer is idle; looks after 4
    /// windows, 8, 16, …, and reads 8192 tokens at most if --max-tokens is not given. Useful: 0.005
    #[arg(long, value_name = "NATS", value_parser = positive(f64::MAX))]
    pub(crate) removal_error: Option<f64>,

    /// Put another model, or the folder of a finished diagnosis, beside this one
    #[arg(long, value_name = "OTHER")]
    pub(crate) against: Option<PathBuf>,

    /// Folder for diagnose.json, report.html and charts/ (and against.json); if not given,
    /// `diagnosis-NAME`, where NAME is that of the file or of the nearest folder that tells the model
    /// from others
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) compute: ComputeArgs,

    /// Print diagnose.json (an array of two with --against), and write files only with --out
    #[arg(long)]
    pub(crate) json: bool,
}

impl Verb for DiagnoseArgs {
    fn texts(&mut self) -> Vec<&mut Vec<PathBuf>> {
        vec![&mut self.files]
    }

    fn prints_json(&self) -> bool {
        self.json
    }

    fn run(&self, printer: &Printer) -> anyhow::Result<ExitCode> {
        run(self, printer)
    }
}

/// The probes and their prices for a 30-layer model.
fn probe_help() -> String {
    const LAYERS: f64 = 30.0;
    let wide = lns_diagnose::probes().map(|probe| probe.name().len()).max().unwrap_or(0);
    let mut help = format!("Probes, with their price in forward passes for {LAYERS} layers:\n");
    for probe in lns_diagnose::probes() {
        let price = match probe.price(LAYERS) {
            0.0 => "free".to_owned(),
            price => format!("{price:.0}"),
        };
        let mark = if probe.is_default() { "*" } else { " " };
        help += &format!("  {mark} {:<wide$} {price:>5}  {}\n", probe.name(), probe.measures());
    }
    help + "  * in the default set. \"free\" shares the one pass that every diagnosis makes. The probe tasks \
            runs where --tasks is given; its price is in passes over the documents."
}

/// Tokens that are measured where nothing else is said: four windows show the shape of a model.
const TOKENS: u64 = 2048;

fn run(args: &DiagnoseArgs, printer: &Printer) -> anyhow::Result<ExitCode> {
    let cut = with_default(&args.cut, args.removal_error.is_some());
    let asked = args.tasks.ask()?;
    if args.files.is_empty() && args.tasks.shots > 0 {
        return Err(usage(
            "--shots puts the same examples before every question, and that is no text to measure a loss \
             on; give --text FILE too",
        ));
    }
    let stop = Stop::listen(printer, Stop::AFTER_THIS_LAYER)?;
    let request = Request {
        files: &args.files,
        asked: &asked,
        cut: &cut,
        probes: &args.probes.clone().with_removal_error(args.removal_error),
        compute: &args.compute.compute()?,
        layers: args.compute.layers(),
        stop: &stop,
    };
    // Everything is opened before anything is measured: a wrong path should not cost a diagnosis.
    let subject = request.open(&args.model, printer)?;
    if args.files.is_empty() {
        printer.note(
            "Without --text, losses are measured on the tasks' own documents with their right answers.",
        );
    }
    if args.cut.max_tokens.is_none() && args.removal_error.is_none() {
        offer_more(&subject.text, &cut, printer);
    }
    let windows = subject.text.windows.len();
    let other = args.against.as_deref().map(|path| Other::open(path, &request, printer));
    let other = other.transpose()?;
    let claim = match (&args.out, args.json) {
        (Some(dir), _) => {
            let of = output::whole_path(subject.checkpoint.path());
            Some(output::claim(dir, FolderKind::Diagnosis, Some(&of))?)
        }
        (None, true) => None,
        (None, false) => Some(claim_for(subject.checkpoint.path())?),
    };
    let mut records: Vec<DiagnoseRecord> = request.measure(subject, printer)?.into_iter().collect();
    if !stop.asked.load(Ordering::Relaxed) {
        match other {
            Some(Other::Finished(record)) => records.push(*record),
            Some(Other::Model(opened)) => records.extend(request.measure(*opened, printer)?),
            None => {}
        }
    }
    if let Some(claim) = claim.as_ref().filter(|_| !records.is_empty()) {
        output::finish_diagnosis(claim.folder(), &records, printer)?;
    }
    match &records[..] {
        [] => {}
        [record] => printer.json(record)?,
        records => printer.json(&records)?,
    }
    if stop.asked.load(Ordering::Relaxed) {
        printer.note(&match records.first() {
            None => "Stopped before a window was whole; nothing is written.".to_owned(),
            Some(record) => format!(
                "Stopped after {} of {}; what they gave is kept.",
                record.text.windows,
                counted(windows, "window")
            ),
        });
        return Ok(stop.exit_code());
    }
    Ok(ExitCode::SUCCESS)
}

/// The cut, with as many tokens as are measured by default: four times as many where removals may end
/// early, for the first look is after as many windows as are measured otherwise.
fn with_default(cut: &CutArgs, ends_early: bool) -> CutArgs {
    let four_windows = 4 * cut.window.unwrap_or(text::WINDOW) as u64;
    let times = if ends_early { 4 } else { 1 };
    let max_tokens = cut.max_tokens.unwrap_or(times * TOKENS.max(four_windows));
    CutArgs { max_tokens: Some(max_tokens), ..cut.clone() }
}

/// Says what more text would buy, where the default left some of it out.
fn offer_more(text: &Windows, cut: &CutArgs, printer: &Printer) {
    let read = (text.windows.len() * text.window) as u64;
    if cut.max_tokens.is_some_and(|most| read + text.window as u64 > most) {
        printer.note(&format!(
            "Measured are the first {read} tokens; --max-tokens {} takes four times as long and halves \
             the errors.",
            4 * read
        ));
    }
}

/// The folder that a diagnosis is written to if none is named: that of this model and no other's.
fn claim_for(model: &Path) -> anyhow::Result<Claim> {
    let (name, of) = (model::short_name(model), output::whole_path(model));
    let mut dir = PathBuf::from(format!("diagnosis-{name}"));
    for number in 2.. {
        match output::claim(&dir, FolderKind::Diagnosis, Some(&of)) {
            Err(error) if matches!(error.downcast_ref(), Some(ClaimError::OfAnother { .. })) => {}
            claim => return claim,
        }
        dir = PathBuf::from(format!("diagnosis-{name}-{number}"));
    }
    unreachable!("numbers do not end")
}

/// What `--against` names.
enum Other {
    Finished(Box<DiagnoseRecord>),
    Model(Box<Opened>),
}

impl Other {
    fn open(path: &Path, request: &Request<'_>, printer: &Printer) -> anyhow::Result<Self> {
        if !path.exists() {
            return Err(usage(format!(
                "--against {} does not exist; name a model or the folder of a finished diagnosis",
                path.display()
            )));
        }
        // A model folder may also hold the diagnosis of it.
        let is_model = path.join("config.json").is_file();
        let is_finished = path.join(DiagnoseRecord::FILE_NAME).is_file()
            || path.extension().is_some_and(|extension| extension == "json");
        if is_finished && !is_model {
            return Ok(Self::Finished(Box::new(lns_diagnose::read(path)?)));
        }
        Ok(Self::Model(Box::new(request.open(path, printer)?)))
    }
}

/// What to measure, for any model.
pub(crate) struct Request<'a> {
    /// Text; the documents of the tasks with their right answers if there is none.
    pub(crate) files: &'a [PathBuf],
    /// Tasks, if any are asked.
    pub(crate) asked: &'a [Asked],
    pub(crate) cut: &'a CutArgs,
    pub(crate) probes: &'a Probes,
    pub(crate) compute: &'a Compute,
    /// Where the model's layers are.
    pub(crate) layers: Layers,
    /// Set when the program is asked to stop.
    pub(crate) stop: &'a Stop,
}

impl Request<'_> {
    pub(crate) fn open(&self, path: &Path, printer: &Printer) -> anyhow::Result<Opened> {
        let from = match self.files {
            [] => text::From::Tasks(self.asked),
            files => text::From::Files(files),
        };
        let opened = text::open(path, from, self.cut, printer)?;
        if !self.asked.is_empty() {
            model::require_decoder(&opened.checkpoint, "a task's choices have no likelihood")?;
        }
        self.probes.for_model(opened.checkpoint.spec())?;
        self.require_removals(opened.checkpoint.spec())?;
        self.questions(&opened.checkpoint, &opened.tokenizer)?;
        Ok(opened)
    }

    /// Refuses an error of removals where no part is left out, or nothing tells what that costs.
    fn require_removals(&self, spec: &ModelSpec) -> anyhow::Result<()> {
        match self.probes.removal_error() {
            Some(_) if !self.probes.leave_parts_out() => Err(usage(format!(
                "--removal-error is about the probes removal and sublayers, and --probes {} has neither; \
                 leave it out, or ask for one of them",
                self.probes
            ))),
            Some(_) if !spec.has_head() => Err(usage(
                "--removal-error is about the loss without a layer, and this model has no head and so no \
                 loss; leave it out",
            )),
            _ => Ok(()),
        }
    }

    /// How the model reads questions, if there are some.
    fn questions(
        &self,
        checkpoint: &Checkpoint,
        tokenizer: &Tokenizer,
    ) -> anyhow::Result<Option<QuestionCut>> {
        let some = (!self.asked.is_empty()).then_some(self.cut);
        some.map(|cut| QuestionCut::of(cut, checkpoint, tokenizer)).transpose()
    }

    pub(crate) fn measure(
        &self,
        opened: Opened,
        printer: &Printer,
    ) -> anyhow::Result<Option<DiagnoseRecord>> {
        let Opened { name, checkpoint, tokenizer, text } = opened;
        let questions = self.questions(&checkpoint, &tokenizer)?;
        let source = model::load(checkpoint, self.compute, self.layers, printer)?;
        let shown = |file: &PathBuf| pipes::shown(file).display().to_string();
        let files = text.files.iter().map(shown).collect();
        let spell = |id| tokenizer.decode(&[id]).unwrap_or_default();
        let labels = Labels { name, files, spell: &spell };
        let mut record = self.run(&*source, &text, labels, printer)?;
        if let (Some(record), Some(questions)) = (&mut record, questions) {
            self.ask(&*source, questions.reading(&tokenizer), record, printer)?;
        }
        Ok(record)
    }

    /// Asks the tasks with a progress bar, and adds to the record what they come to.
    fn ask(
        &self,
        source: &dyn LayerSource,
        reading: Reading<'_>,
        record: &mut DiagnoseRecord,
        printer: &Printer,
    ) -> anyhow::Result<()> {
        let layers = source.spec().num_hidden_layers as u64;
        for asked in self.asked {
            let documents = counted(asked.documents.len(), "document");
            printer.note(&format!("{}: {documents}, without each layer.", asked.task));
        }
        let work = lns_diagnose::task_work(source.spec(), self.asked);
        let per_pass = 2.0 / (layers * (layers + 1)) as f64;
        let progress = printer.progress_in("choices", "Asking", work, per_pass);
        let questioned = Questioned {
            source,
            asked: self.asked,
            reading,
            workers: &self.compute.workers,
            control: Control {
                progress: &|passes| progress.advance(passes),
                stop: &self.stop.asked,
            },
        };
        Ok(lns_diagnose::diagnose_tasks(&questioned, record)?)
    }

    /// Runs the probes with a progress bar, saying first what the dear ones cost; `None` when it was
    /// stopped before a window was whole.
    fn run(
        &self,
        source: &dyn LayerSource,
        text: &Windows,
        labels: Labels<'_>,
        printer: &Printer,
    ) -> anyhow::Result<Option<DiagnoseRecord>> {
        let layers = source.spec().num_hidden_layers;
        let probes = self.probes.for_model(source.spec())?;
        let others = self.probes.that_take_a_loss(source.spec());
        if !others.is_empty() {
            printer.note(&format!(
                "The model has no head and so no loss; not measured: {}.",
                others.join(", ")
            ));
        }
        printer.note(&text::described(text));
        let dear: Vec<_> = probes
            .iter()
            .filter(|probe| !probe.is_default() && probe.price(layers as f64) > 0.0)
            .map(|probe| format!("{} ≈ {:.0}", probe.name(), probe.price(layers as f64)))
            .collect();
        if !dear.is_empty() {
            printer.note(&format!("Price in forward passes: {}.", dear.join(", ")));
        }
        let work = lns_diagnose::work(source.spec(), text.windows.len(), &probes);
        let progress = printer.progress("Diagnosing", work, text.window as f64 / layers as f64);
        let control =
            Control { progress: &|passes| progress.advance(passes), stop: &self.stop.asked };
        Ok(lns_diagnose::diagnose(source, text, &probes, &self.compute.workers, control, labels)?)
    }
}
