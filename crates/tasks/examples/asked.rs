//! Prints what a task asks: a line of JSON for each choice, `{"doc_id", "context", "continuation", "gold"}`.
//!
//! ```sh
//! cargo run -p lns-tasks --example asked -- piqa DATA 0
//! ```

use std::io::{BufWriter, Write, stdout};

use lns_tasks::{AskOptions, Data, ask};
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [task, data, shots, ..] = &arguments[..] else {
        return Err("usage: asked TASK DATA SHOTS [SPLIT]".into());
    };
    let split = arguments.get(3).and_then(|name| {
        lns_tasks::Split::NAMED.into_iter().find(|split| split.name() == name)
    });
    let data = vec![Data { task: None, path: data.into() }];
    let options = AskOptions { data, shots: shots.parse()?, split, limit: None };
    let mut out = BufWriter::new(stdout().lock());
    for document in ask(task, &options)?.documents {
        for choice in &document.question.choices {
            let line = json!({
                "doc_id": document.id,
                "context": choice.context,
                "continuation": choice.continuation,
                "gold": document.question.gold,
            });
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}
