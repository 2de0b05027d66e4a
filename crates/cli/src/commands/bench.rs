//! `lns bench`: how fast this machine trains and runs models.

use std::path::Path;

use lns_bench::{Effort, Workload};
use lns_checkpoint::Checkpoint;
use lns_kernels::{Device, Workers, with_threads};
use lns_record::{BenchRecord, BenchResult, NormRecord};
use lns_train::{Estimate, TrainingOptions};

use crate::{
    arguments::{BenchArgs, BenchMode},
    failure::usage,
    model,
    printer::Printer,
};

pub(crate) fn run(args: &BenchArgs, printer: &Printer) -> anyhow::Result<()> {
    let workloads = chosen(&args.workload)?;
    let threads = model::thread_count(args.threads)?;
    let options = TrainingOptions {
        recompute: args.recompute,
        sequences_per_pass: args.sequences_per_pass,
        ..lns_bench::training_options()
    };
    if args.estimate {
        return estimate(&workloads, threads, &options, printer);
    }
    if args.mode.contains(&BenchMode::Norm) && args.place.device != Device::flex() {
        return Err(usage(
            "--mode norm holds the norm against this machine's memory; --device cpu only",
        ));
    }
    let model = args.model.as_deref().map(|path| open(path, args)).transpose()?;
    let workers = || model::workers(Some(threads));
    let (device, precision) = (args.place.device.clone(), args.place.precision);
    let peak_gflops = lns_bench::peak_gflops(&workers()?, &device, precision);
    printer.note(&format!("peak of matrix products, {threads} threads: {peak_gflops:.0} GFLOP/s"));
    let effort = Effort {
        seconds: args.seconds,
        options,
        losses: args.losses,
        peak_gflops,
        device,
        precision,
    };
    let mut record =
        BenchRecord { peak_gflops, threads: threads as u64, workloads: Vec::new(), norm: None };
    printer.result(&header())?;
    for workload in &workloads {
        for mode in &args.mode {
            let result = match mode {
                BenchMode::Train => lns_bench::train(workload, workers()?, &effort)?,
                BenchMode::Forward => lns_bench::forward(workload, &workers()?, &effort)?,
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
    if args.mode.contains(&BenchMode::Norm) {
        let norm = norm(&workers()?);
        printer.result(&format!(
            "\nRMS norm, rows of 4096, forward and backward: {:.1} GB/s, {:.0} % of a copy's {:.1} GB/s; \
             with LNS's scale {:.3} times the time\n",
            norm.norm_gigabytes_per_second,
            100.0 * norm.norm_gigabytes_per_second / norm.copy_gigabytes_per_second,
            norm.copy_gigabytes_per_second,
            norm.lns_over_plain,
        ))?;
        record.norm = Some(norm);
    }
    printer.json(&record)
}

/// The model to generate with, opened before anything is measured and loaded after the workloads.
fn open(path: &Path, args: &BenchArgs) -> anyhow::Result<(String, Checkpoint)> {
    let checkpoint = Checkpoint::open(path)?;
    let name = model::short_name(path);
    let context = checkpoint.spec().max_position_embeddings;
    if args.prompt_tokens == 0 || args.prompt_tokens + args.new_tokens >= context {
        return Err(usage(format!(
            "--prompt-tokens {} and --new-tokens {} do not fit into {name}'s context of {context}; \
             give at least one and together fewer",
            args.prompt_tokens, args.new_tokens
        )));
    }
    Ok((name, checkpoint))
}

fn norm(workers: &Workers) -> NormRecord {
    let traffic = lns_bench::norm_traffic(workers, 5);
    NormRecord {
        copy_gigabytes_per_second: traffic.copy,
        norm_gigabytes_per_second: traffic.norm,
        lns_over_plain: traffic.lns_over_plain,
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
        "{:<16} {:<8} {:>10} {:>9} {:>8} {:>9}\n",
        "workload", "mode", "tokens/s", "GFLOP/s", "of peak", "memory"
    )
}

fn show(result: BenchResult, record: &mut BenchRecord, printer: &Printer) -> anyhow::Result<()> {
    let memory = result
        .peak_rss_bytes
        .map_or("unknown".to_owned(), |bytes| format!("{:.2} GB", bytes as f64 / 1e9));
    printer.result(&format!(
        "{:<16} {:<8} {:>10.0} {:>9.1} {:>6.0} % {:>9}\n",
        result.name,
        result.mode,
        result.tokens_per_second,
        result.gflops,
        100.0 * result.share_of_peak,
        memory,
    ))?;
    record.workloads.push(result);
    Ok(())
}

fn estimate(
    workloads: &[Workload],
    threads: usize,
    options: &TrainingOptions,
    printer: &Printer,
) -> anyhow::Result<()> {
    for workload in workloads {
        let estimate =
            Estimate::new(&workload.spec, workload.sequences, workload.length, threads, options);
        printer.result(&format!("{} ({})\n{estimate}\n", workload.name, workload.title))?;
    }
    Ok(())
}
