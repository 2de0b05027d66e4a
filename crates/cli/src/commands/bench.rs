//! `lns bench`: how fast this machine trains and runs models.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use lns_bench::{Effort, Load, Workload};
use lns_checkpoint::Checkpoint;
use lns_kernels::{InstructionSet, Workers, is_cpu, with_threads};
use lns_model::available_memory;
use lns_record::{BenchRecord, BenchResult, NormRecord};
use lns_show::counted;
use lns_train::{
    Estimate, TrainingOptions,
    ranges::{SEQUENCES, THREADS},
};
use serde::Serialize;

use super::Verb;
use crate::{
    arguments::{
        PlaceArgs,
        numbers::{NEW_TOKENS, real, whole},
    },
    failure::usage,
    model::{self, bytes},
    printer::Printer,
};

/// What `bench` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchMode {
    /// Forward, backward and AdamW
    Train,
    /// Losses without gradients
    Forward,
    /// The RMS norm's forward and backward beside a copy of the same memory
    Norm,
}

/// Measure how fast this machine trains and runs models, and what share of its peak that is
#[derive(Debug, Args)]
#[command(after_long_help = help())]
pub(crate) struct BenchArgs {
    /// Workloads, separated by commas; see below
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "A,B")]
    pub(crate) workload: Vec<String>,

    /// What to measure of each
    #[arg(long, value_name = "MODES", value_delimiter = ',', default_value = "train,forward")]
    pub(crate) mode: Vec<BenchMode>,

    /// Also measure prefill and decode of this model
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<PathBuf>,

    /// Tokens of the prompt for --model (1–1048576)
    #[arg(
        long, value_name = "N", default_value_t = 512, requires = "model",
        value_parser = whole::<usize>(NEW_TOKENS)
    )]
    pub(crate) prompt_tokens: usize,

    /// Tokens to generate for --model (1–1048576)
    #[arg(
        long, value_name = "N", default_value_t = 64, requires = "model",
        value_parser = whole::<usize>(NEW_TOKENS)
    )]
    pub(crate) new_tokens: usize,

    /// Seconds of each measurement, and at least five steps (0 to 86400)
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = real(0.0..=86_400.0))]
    pub(crate) seconds: f64,

    /// Record the losses of the first N steps (--json), to hold against another implementation's
    /// (0–1000000)
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole::<u64>(0..=1_000_000))]
    pub(crate) losses: u64,

    /// Keep only each layer's input and make its activations again: less memory, a third more work
    #[arg(long)]
    pub(crate) recompute: bool,

    /// Sequences that a worker takes through at once; all of its share if not given (1–1048576)
    #[arg(long, value_name = "N", value_parser = whole::<usize>(SEQUENCES))]
    pub(crate) sequences_per_pass: Option<usize>,

    /// Worker threads; all cores if not given (1–1024)
    #[arg(long, value_name = "N", value_parser = whole::<usize>(THREADS))]
    pub(crate) threads: Option<usize>,

    /// Vector instructions of the loops and matrix products on the CPU: baseline, avx2 or avx512; the widest
    /// that the machine has if not given. One machine can so tell what another would do, its clock apart
    #[arg(long, value_name = "SET")]
    pub(crate) isa: Option<InstructionSet>,

    #[command(flatten)]
    pub(crate) place: PlaceArgs,

    /// Say what training each workload needs, and measure nothing
    #[arg(long)]
    pub(crate) estimate: bool,

    /// Print machine-readable JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Verb for BenchArgs {
    fn prints_json(&self) -> bool {
        self.json
    }

    fn run(&self, printer: &Printer) -> anyhow::Result<ExitCode> {
        run(self, printer).map(|()| ExitCode::SUCCESS)
    }
}

fn help() -> String {
    let workloads: Vec<String> = Workload::all()
        .iter()
        .map(|Workload { name, title, sequences, length, .. }| {
            format!("{name}, {title}, {sequences} sequences of {length}")
        })
        .collect();
    format!(
        "Workloads: {}. Weights and tokens are the same on every machine.",
        workloads.join("; ")
    )
}

fn run(args: &BenchArgs, printer: &Printer) -> anyhow::Result<()> {
    let workloads = chosen(&args.workload)?;
    let measures_workloads = args.mode.iter().any(|mode| *mode != BenchMode::Norm);
    let rows = (measures_workloads && !workloads.is_empty()) || args.model.is_some();
    if !args.estimate && !rows && !args.mode.contains(&BenchMode::Norm) {
        return Err(usage("nothing to measure: give --workload, --model or --mode norm"));
    }
    let threads = model::thread_count(args.threads);
    let options = TrainingOptions {
        recompute: args.recompute,
        sequences_per_pass: args.sequences_per_pass.and_then(NonZeroUsize::new),
        ..lns_bench::training_options()
    };
    if args.estimate {
        return estimate(&workloads, threads, &options, printer);
    }
    if let Some(set) = args.isa {
        if !is_cpu(&args.place.device) {
            return Err(usage("--isa is about the CPU's instructions; --device cpu only"));
        }
        set.force().map_err(|error| usage(format!("--isa {set}: {error}")))?;
    }
    if args.mode.contains(&BenchMode::Norm) && !is_cpu(&args.place.device) {
        return Err(usage(
            "--mode norm holds the norm against this machine's memory; --device cpu only",
        ));
    }
    if args.mode.contains(&BenchMode::Train) && is_cpu(&args.place.device) {
        check_memory(&workloads, threads, &options)?;
    }
    let model = args.model.as_deref().map(|path| open(path, args)).transpose()?;
    let compute = model::compute(Some(threads), &args.place)?;
    let instruction_set = is_cpu(&compute.device).then(InstructionSet::in_use);
    let load = Load::now();
    let peak_gflops = lns_bench::peak_gflops(&compute);
    printer.note(&format!(
        "peak of matrix products, {}{}: {peak_gflops:.0} GFLOP/s",
        counted(threads, "thread"),
        instruction_set.map(|set| format!(", {set}")).unwrap_or_default()
    ));
    let effort =
        Effort { seconds: args.seconds, options, losses: args.losses, peak_gflops, compute };
    let mut record = BenchRecord {
        peak_gflops,
        threads: threads as u64,
        instruction_set: instruction_set.map(|set| set.name().to_owned()),
        busy_elsewhere: None,
        workloads: Vec::new(),
        norm: None,
    };
    if rows {
        printer.result(&header())?;
    }
    for workload in &workloads {
        for mode in &args.mode {
            let result = match mode {
                BenchMode::Train => lns_bench::train(workload, &effort)?,
                BenchMode::Forward => lns_bench::forward(workload, &effort)?,
                BenchMode::Norm => continue,
            };
            show(result, &mut record, printer)?;
        }
    }
    if let Some((name, checkpoint)) = &model {
        let decoder = model::load_whole(checkpoint, &args.place)?;
        let results = with_threads(threads, || {
            lns_bench::generate(name, &decoder, args.prompt_tokens, args.new_tokens, &effort)
        })?;
        for result in results {
            show(result, &mut record, printer)?;
        }
    }
    if record.workloads.len() > 1 {
        printer.result(
            "process: the program's greatest memory while it measured a row, with what earlier rows left \
             behind; for a workload's own, measure it alone\n",
        )?;
    }
    if args.mode.contains(&BenchMode::Norm) {
        let norm = norm(&effort.compute.workers);
        printer.result(&format!(
            "{}RMS norm, rows of 4096, forward and backward: {:.1} GB/s, {:.0} % of a copy's {:.1} GB/s; \
             {}\n",
            if rows { "\n" } else { "" },
            norm.norm_gigabytes_per_second,
            100.0 * norm.norm_gigabytes_per_second / norm.copy_gigabytes_per_second,
            norm.copy_gigabytes_per_second,
            lns_over_plain(&norm),
        ))?;
        record.norm = Some(norm);
    }
    if let Some((cores, busy)) = load.and_then(|load| load.elsewhere()) {
        record.busy_elsewhere = Some(busy);
        if let Some(warning) = crowded(cores, busy, threads) {
            printer.note(&warning);
        }
    }
    printer.json(&record)
}

/// What the rounds allow to say of the scale's price.
fn lns_over_plain(norm: &NormRecord) -> String {
    match norm.lns_over_plain_range {
        Some((low, high)) if low > 1.0 || high < 1.0 => format!(
            "with LNS's scale {:.2} times the time ({low:.2} to {high:.2} over {NORM_ROUNDS} rounds)",
            norm.lns_over_plain
        ),
        Some((low, high)) => format!(
            "with LNS's scale no difference in time that {NORM_ROUNDS} rounds can tell (ratios {low:.2} to \
             {high:.2})"
        ),
        None => "the price of LNS's scale was not measured".to_owned(),
    }
}

/// A warning, where other programs took cores that the threads needed.
fn crowded(cores: u64, busy: f64, threads: usize) -> Option<String> {
    let over = busy + threads as f64 - cores as f64;
    // A tenth of a core is what a quiet system does.
    (over > 0.1).then(|| {
        format!(
            "This machine was busy: other programs kept {busy:.1} of {cores} cores at work, beside {threads} \
             threads here. The rates are too low and do not compare with those of a quiet machine."
        )
    })
}

/// The model to generate with, opened before anything is measured and loaded after the workloads.
fn open(path: &Path, args: &BenchArgs) -> anyhow::Result<(String, Checkpoint)> {
    let checkpoint = model::open(path)?;
    model::require_decoder(&checkpoint, "there is no generation to be timed")?;
    let name = model::short_name(path);
    let context = checkpoint.spec().max_position_embeddings;
    if args.prompt_tokens + args.new_tokens >= context {
        return Err(usage(format!(
            "--prompt-tokens {} and --new-tokens {} do not fit into {name}'s context of {context}; \
             give together fewer",
            args.prompt_tokens, args.new_tokens
        )));
    }
    Ok((name, checkpoint))
}

/// Rounds of the norm: an odd number has a middle one.
const NORM_ROUNDS: usize = 5;

fn norm(workers: &Workers) -> NormRecord {
    let traffic = lns_bench::norm_traffic(workers, NORM_ROUNDS);
    NormRecord {
        copy_gigabytes_per_second: traffic.copy,
        norm_gigabytes_per_second: traffic.norm,
        lns_over_plain: traffic.lns_over_plain,
        lns_over_plain_range: Some(traffic.lns_over_plain_range),
    }
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<Workload>> {
    let all = Workload::all();
    let find = |name: &String| {
        let found = all.iter().find(|workload| workload.name.eq_ignore_ascii_case(name)).cloned();
        found.ok_or_else(|| {
            let known: Vec<String> =
                all.iter().map(|known| format!("{} ({})", known.name, known.title)).collect();
            usage(format!("--workload {name}: there are {}", known.join(", ")))
        })
    };
    names.iter().filter(|name| !name.is_empty()).map(find).collect()
}

fn header() -> String {
    format!(
        "{:<16} {:<8} {:>10} {:>7} {:>9} {:>8} {:>9}\n",
        "workload", "mode", "tokens/s", "spread", "GFLOP/s", "of peak", "process"
    )
}

/// A name that leaves the columns after it where they are.
fn named(name: &str) -> String {
    const MOST: usize = 16;
    match name.chars().count() {
        0..=MOST => name.to_owned(),
        _ => name.chars().take(MOST - 1).chain(['…']).collect(),
    }
}

fn show(result: BenchResult, record: &mut BenchRecord, printer: &Printer) -> anyhow::Result<()> {
    let memory = result
        .peak_rss_bytes
        .map_or("unknown".to_owned(), |bytes| format!("{:.2} GB", bytes as f64 / 1e9));
    printer.result(&format!(
        "{:<16} {:<8} {:>10.0} {:>7} {:>9.1} {:>6.0} % {:>9}\n",
        named(&result.name),
        result.mode,
        result.tokens_per_second,
        format!("± {:.0} %", 100.0 * result.spread),
        result.gflops,
        100.0 * result.share_of_peak,
        memory,
    ))?;
    record.workloads.push(result);
    Ok(())
}

/// What training each workload needs.
fn needs(workloads: &[Workload], threads: usize, options: &TrainingOptions) -> Vec<WorkloadNeeds> {
    let of = |workload: &Workload| {
        let Workload { spec, sequences, length, .. } = workload;
        let estimate = Estimate::new(spec, *sequences, *length, threads, options);
        WorkloadNeeds { name: workload.name, memory_bytes: estimate.total(), estimate }
    };
    workloads.iter().map(of).collect()
}

/// Refuses workloads that need more memory than there is, before any of it is taken.
fn check_memory(
    workloads: &[Workload],
    threads: usize,
    options: &TrainingOptions,
) -> anyhow::Result<()> {
    let Some(available) = available_memory() else { return Ok(()) };
    let all = needs(workloads, threads, options);
    match all.iter().find(|needs| needs.memory_bytes > available) {
        Some(WorkloadNeeds { name, memory_bytes, .. }) => Err(usage(format!(
            "--workload {name} needs up to {} of memory and {} are free: give --sequences-per-pass 1, \
             --recompute or fewer --threads",
            bytes(*memory_bytes),
            bytes(available)
        ))),
        None => Ok(()),
    }
}

fn estimate(
    workloads: &[Workload],
    threads: usize,
    options: &TrainingOptions,
    printer: &Printer,
) -> anyhow::Result<()> {
    let all = needs(workloads, threads, options);
    printer.json(&all)?;
    for (workload, WorkloadNeeds { estimate, .. }) in workloads.iter().zip(&all) {
        printer.result(&format!("{} ({})\n{estimate}\n", workload.name, workload.title))?;
    }
    Ok(())
}

/// `bench --estimate --json`.
#[derive(Serialize)]
struct WorkloadNeeds {
    name: &'static str,
    memory_bytes: u64,
    #[serde(flatten)]
    estimate: Estimate,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_ratio_is_printed_that_its_spread_does_not_carry() {
        let norm = |low, high| NormRecord {
            copy_gigabytes_per_second: 1.0,
            norm_gigabytes_per_second: 1.0,
            lns_over_plain: 0.797,
            lns_over_plain_range: Some((low, high)),
        };
        let open = lns_over_plain(&norm(0.71, 1.2));
        assert!(open.contains("no difference") && !open.contains("0.8"), "{open}");
        let slower = lns_over_plain(&norm(0.77, 0.82));
        assert!(slower.contains("0.80 times the time (0.77 to 0.82 over 5 rounds)"), "{slower}");
    }

    #[test]
    fn a_long_name_leaves_the_columns_where_they_are() {
        assert_eq!(named("SmolLM2-135M"), "SmolLM2-135M");
        assert_eq!(named("a-model-with-a-long-name").chars().count(), 16);
        assert_eq!(named("a-model-with-a-long-name"), "a-model-with-a-…");
    }

    #[test]
    fn a_machine_is_crowded_when_others_take_cores_that_the_threads_need() {
        assert_eq!(crowded(16, 3.0, 8), None);
        assert_eq!(crowded(2, 0.05, 2), None);
        let warning = crowded(2, 1.3, 2).expect("crowded");
        assert!(warning.contains("kept 1.3 of 2 cores at work"), "{warning}");
    }
}
