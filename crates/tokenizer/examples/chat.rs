//! `cargo run --release -p lns-tokenizer --example chat -- MODEL CONVERSATIONS.jsonl` prints the
//! beginnings of the sha256 of each conversation's text and token ids, without and with the
//! generation prompt, to be compared with `golden/chat_templates.py model`.

use std::io::Write;
use std::path::Path;

use lns_checkpoint::{Checkpoint, TokenizerSource};
use lns_tokenizer::{ChatTemplate, Message, Rendering, Tokenizer};
use sha2::{Digest, Sha256};

#[derive(serde::Deserialize)]
struct Line {
    messages: Vec<Message>,
}

fn digest(text: &str) -> String {
    Sha256::digest(text)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, model, conversations] = arguments.as_slice() else {
        return Err("usage: chat MODEL CONVERSATIONS.jsonl".into());
    };
    let model = Path::new(model);
    let checkpoint = Checkpoint::open(model)?;
    let tokenizer = match checkpoint.tokenizer() {
        TokenizerSource::Json(path) => Tokenizer::from_json_file(&path)?,
        TokenizerSource::Gguf(gguf) => Tokenizer::from_gguf(&gguf, model)?,
        TokenizerSource::None => return Err("the model has no tokenizer".into()),
    };
    let template =
        ChatTemplate::of(&checkpoint, &Rendering::Here)?.ok_or("the model has no chat template")?;
    for line in std::fs::read_to_string(conversations)?.lines() {
        let Line { messages } = serde_json::from_str(line)?;
        for text in [template.render(&messages)?, template.prompt(&messages)?] {
            let ids = tokenizer.encode(&text)?.ids;
            let ids_digest = digest(&format!("{ids:?}"));
            writeln!(std::io::stdout(), "{} {} {ids_digest}", digest(&text), ids.len())?;
        }
    }
    Ok(())
}
