//! Accuracies and their differences as a person reads them, in per cent and points.

use lns_record::{TaskDifferenceRecord, TaskRecord};
use lns_show::{counted, grouped, signed};

/// `200 of 14 042, 5 shots`
pub(super) fn asked(found: &TaskRecord) -> String {
    let documents = match found.of == found.documents {
        true => grouped(found.documents),
        false => format!("{} of {}", grouped(found.documents), grouped(found.of)),
    };
    match found.shots {
        0 => documents,
        shots => format!("{documents}, {}", counted(shots, "shot")),
    }
}

/// `69.00 ± 4.65`, in per cent; a dash where there is none.
pub(super) fn share(value: Option<f64>, stderr: Option<f64>) -> String {
    let Some(value) = value else { return "—".to_owned() };
    let stderr = stderr.map_or(String::new(), |stderr| format!(" ± {:.2}", 100.0 * stderr));
    format!("{:.2}{stderr}", 100.0 * value)
}

/// The same of `acc_norm`, which most tasks do not have.
pub(super) fn norm(found: &TaskRecord) -> String {
    let refused = found.chance.is_some() && found.tied_norm > 0;
    match found.acc_norm {
        None if !refused => String::new(),
        value => share(value, found.acc_norm_stderr),
    }
}

/// In per cent, without an error; empty where there is none.
pub(super) fn plain(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| format!("{:.2}", 100.0 * value))
}

/// What stands out of a task's answers: why there is no accuracy, and what was cut.
pub(super) fn remarks(found: &TaskRecord) -> Vec<String> {
    let mut remarks = Vec::new();
    if found.not_finite > 0 {
        remarks.push(format!(
            "no accuracy, because {} a score that is not a finite number; the weights are damaged or their \
             values leave the range of f32",
            having(found.not_finite)
        ));
    }
    for (tied, acc, what) in
        [(found.tied, found.acc, "acc"), (found.tied_norm, found.acc_norm, "acc_norm")]
    {
        if tied == 0 || found.not_finite > 0 || what == "acc_norm" && found.chance.is_none() {
            continue;
        }
        let meaning = match acc {
            None => "which says nothing of the model: always taking the first would",
            Some(_) => "of which the first was taken",
        };
        let what = if acc.is_none() { format!("no {what}") } else { what.to_owned() };
        remarks.push(format!("{what}: {} two best choices, {meaning}", having(tied)));
    }
    if found.truncated > 0 {
        remarks.push(format!(
            "{} a context longer than the window, of which the end was read",
            having(found.truncated)
        ));
    }
    remarks
}

/// `1 document has`, `2 documents have`.
fn having(documents: u64) -> String {
    let verb = if documents == 1 { "has" } else { "have" };
    format!("{} {verb}", counted(documents, "document"))
}

/// `piqa acc: B +2.00 ± 1.10 points to A, paired (95 %: −0.20 to +4.20); right only in A 12, only in B
/// 34; McNemar p = 0.002`
pub(super) fn difference(found: &TaskDifferenceRecord, task: &str, names: [&str; 2]) -> String {
    let points = |value: f64| signed(100.0 * value, 2);
    let [first, own] = names;
    let error = found.stderr.map_or(String::new(), |error| format!(" ± {:.2}", 100.0 * error));
    let interval = match (found.low, found.high) {
        (Some(low), Some(high)) => format!(" (95 %: {} to {})", points(low), points(high)),
        _ => String::new(),
    };
    format!(
        "{task} {}: {own} {}{error} points to {first}, paired{interval}; right only in {first} {}, only in \
         {own} {}; McNemar p = {:.3}",
        found.metric,
        points(found.difference),
        grouped(found.only_first),
        grouped(found.only_second),
        found.mcnemar_p,
    )
}
