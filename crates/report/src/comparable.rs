//! Whether diagnoses that stand side by side can be compared: numbers from other text, other windows or
//! another vocabulary look alike and are not.

use lns_record::DiagnoseRecord;
use serde_json::Value;

use crate::number::counted;
use crate::text::labels;

/// What keeps diagnoses from being compared.
#[derive(Debug, PartialEq)]
pub(crate) struct Incomparable {
    /// Said once, with what each of them read.
    pub(crate) sentence: String,
    /// A few words for every chart, which is also looked at alone.
    pub(crate) mark: String,
}

/// What keeps `records` from being compared; `None` where they read the same windows of the same text in
/// tokens of the same vocabulary.
pub(crate) fn incomparable(records: &[DiagnoseRecord]) -> Option<Incomparable> {
    let first = records.first()?;
    let vocabulary =
        |record: &DiagnoseRecord| record.model.get("vocab_size").and_then(Value::as_u64);
    let differs = |unlike: &dyn Fn(&DiagnoseRecord) -> bool| records.iter().any(unlike);
    let text = differs(&|record| files(record) != files(first));
    let windows = differs(&|record| windows_of(record) != windows_of(first));
    let tokens =
        differs(&|record| vocabulary(record).zip(vocabulary(first)).is_some_and(|(a, b)| a != b));
    let mut different = Vec::new();
    different.extend(text.then_some("different text"));
    different.extend(windows.then_some("different windows"));
    different.extend(tokens.then_some("different vocabularies"));
    if different.is_empty() {
        return None;
    }
    let read = |(record, label): (&DiagnoseRecord, String)| {
        let (windows, length) = windows_of(record);
        format!("{label}: {} of {}", counted(windows, "window"), counted(length, "token"))
    };
    let reads: Vec<String> = records.iter().zip(labels(records)).map(read).collect();
    let different = different.join(" and ");
    let sentence = format!(
        "Not to be compared in numbers: these models read {different} ({}). Losses, removal costs and their \
         errors differ for that reason alone; only the shape over depth says something.",
        reads.join("; ")
    );
    Some(Incomparable { sentence, mark: format!("Shapes only, not numbers ({different}).") })
}

fn windows_of(record: &DiagnoseRecord) -> (u64, u64) {
    (record.text.windows, record.text.window_len)
}

/// Names without their folders: the same file may have been named from elsewhere.
fn files(record: &DiagnoseRecord) -> Vec<&str> {
    record.text.files.iter().map(|file| last_part(file)).collect()
}

fn last_part(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, file: &str, windows: u64, vocabulary: Option<u64>) -> DiagnoseRecord {
        let record = serde_json::json!({"name": name, "model": {"vocab_size": vocabulary},
            "text": {"files": [file], "tokens": windows * 512, "windows": windows, "window_len": 512},
            "baseline": {"nll": 3.0, "perplexity": 20.1}, "stream": [], "layers": [],
            "verdict": {"text": ""}, "probes": []});
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn models_are_compared_only_on_the_same_windows_of_the_same_text_and_vocabulary() {
        let first = record("a", "books/one.txt", 4, Some(2048));
        let with = |other: DiagnoseRecord| incomparable(&[first.clone(), other]);
        assert_eq!(with(record("b", "/elsewhere/one.txt", 4, Some(2048))), None);
        assert_eq!(with(record("b", "one.txt", 4, None)), None);
        assert_eq!(incomparable(std::slice::from_ref(&first)), None);
        for (other, told) in [
            (record("b", "two.txt", 4, None), "read different text (a: 4 windows of 512 tokens; b"),
            (
                record("b", "one.txt", 1, None),
                "different windows (a: 4 windows of 512 tokens; b: 1 window of",
            ),
            (record("b", "one.txt", 4, Some(49152)), "different vocabularies ("),
            (record("b", "two.txt", 4, Some(49152)), "different text and different vocabularies ("),
        ] {
            let found = with(other).unwrap();
            assert!(found.sentence.contains(told), "{found:?}");
            assert!(found.mark.len() < 80, "{found:?}");
        }
    }
}
