//! Writes the sequences that a run learns from, so that another program can be trained on them.
//!
//! ```sh
//! cargo run --example batches -- RUN STEPS OUT
//! ```
//! OUT is raw little-endian 32-bit numbers: for each step the inputs of all its sequences, then the targets.
//! `golden/check_run.py` reads it.

use std::{error::Error, io::Write, path::Path};

use lns_corpus::{Corpus, Layout, Part, Sampler};
use lns_train::RunConfig;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [run, steps, out] = arguments.as_slice() else { return Err("RUN STEPS OUT".into()) };
    let config = RunConfig::read(Path::new(run))?;
    if config.data.layout != Layout::Packed {
        return Err("only packed sequences are all of one length".into());
    }
    let mut sources = Vec::new();
    for source in &config.data.sources {
        let corpus = Corpus::open(&source.corpus)?;
        sources.push((corpus.tokens(Part::Train).clone(), source.weight));
    }
    let sampler = Sampler::new(sources, config.data.layout, config.data.length, config.seed, 0)?;
    let mut position = sampler.start();
    let mut out = std::io::BufWriter::new(std::fs::File::create(out)?);
    for _ in 0..steps.parse()? {
        let drawn = sampler.next(&mut position, config.batch.sequences);
        for id in drawn.inputs.iter().chain(&drawn.targets) {
            out.write_all(&id.to_le_bytes())?;
        }
    }
    out.flush()?;
    Ok(())
}
