//! What `lns inspect` tells of a model that is not supported.

use std::path::Path;

use lns_checkpoint::{CheckpointError, Stranger};
use serde_json::{Value, json};

use crate::printer::Printer;

/// How many names of a kind a line lists before it only counts the rest; `--json` has all.
const SHOWN: usize = 16;

/// Tells what stops the model whose opening failed, if that is what it is, and gives the error back.
pub(super) fn told(path: &Path, error: CheckpointError, printer: &Printer) -> anyhow::Error {
    // Files that cannot be read again say no more than the error does.
    let Ok(Some(stranger)) = Stranger::of(path, &error) else { return error.into() };
    let told = printer
        .result(&(as_text(path, &stranger) + "\n"))
        .and_then(|()| printer.json(&as_json(path, &stranger)));
    told.err().unwrap_or_else(|| error.into())
}

fn as_json(path: &Path, stranger: &Stranger) -> Value {
    let nearest = stranger.nearest.as_ref().map(|nearest| {
        json!({
            "family": nearest.found.family,
            "found_by": nearest.found.found_by,
            "refused": nearest.refused,
            "unread_keys": nearest.unread_keys,
            "without_role": nearest.found.without_role,
            "missing": nearest.found.missing,
        })
    });
    json!({
        "model": path.display().to_string(),
        "supported": false,
        "model_type": stranger.model_type,
        "refused": stranger.refused,
        "nearest": nearest,
    })
}

fn as_text(path: &Path, stranger: &Stranger) -> String {
    let supported = if stranger.is_known { "" } else { ", which is not supported" };
    let mut lines = vec![
        ("model", path.display().to_string()),
        ("family", format!("{:?}{supported}", stranger.model_type)),
    ];
    lines.extend(stranger.refused.iter().map(|refused| ("refused", refused.clone())));
    if let Some(nearest) = &stranger.nearest {
        let (family, found_by) = (nearest.found.family.model_type(), &nearest.found.found_by);
        lines.push(("nearest", format!("{family}: {found_by}")));
        lines.extend(nearest.refused.iter().map(|refused| ("it refuses", refused.clone())));
        for (what, names) in [
            ("unread keys", &nearest.unread_keys),
            ("no role for", &nearest.found.without_role),
            ("missing", &nearest.found.missing),
        ] {
            if !names.is_empty() {
                lines.push((what, listed(names)));
            }
        }
    }
    if !stranger.is_known && stranger.nearest.is_none() {
        lines.push((
            "nearest",
            "no supported family has a third of its kinds of tensors".to_owned(),
        ));
    }
    lines.iter().map(|(key, value)| format!("{key:<12} {value}\n")).collect()
}

fn listed(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}
