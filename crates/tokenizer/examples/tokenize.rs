//! Tokenises a text file whole and writes the ids as u32, little-endian: to compare with other
//! tokenizers (`golden/tokenizer_ids.py large`).
//!
//! `cargo run --release -p lns-tokenizer --example tokenize -- MODEL TEXT IDS`

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

use lns_checkpoint::{Checkpoint, TokenizerSource};
use lns_tokenizer::Tokenizer;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [model, text, ids] = arguments.as_slice() else {
        return Err("usage: tokenize MODEL TEXT IDS".into());
    };
    let encoding = tokenizer(model)?.encode(&std::fs::read_to_string(text)?)?;
    let bytes: Vec<u8> = encoding.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    std::fs::write(ids, bytes)?;
    writeln!(std::io::stdout(), "{} ids", encoding.ids.len())?;
    Ok(())
}

fn tokenizer(model: &Path) -> Result<Tokenizer, Box<dyn Error>> {
    Ok(match Checkpoint::open(model)?.tokenizer() {
        TokenizerSource::Json(path) => Tokenizer::from_json_file(&path)?,
        TokenizerSource::Gguf(gguf) => Tokenizer::from_gguf(&gguf, model)?,
        TokenizerSource::None => return Err("the model has no tokenizer".into()),
    })
}
