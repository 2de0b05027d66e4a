//! Charts and one self-contained page from the JSON that other verbs wrote, and the same numbers
//! as tables for a terminal.
//!
//! Everything in a record comes from a stranger: text is escaped, numbers may be absent, not finite
//! or all the same, and no two tables need to agree in size.
//!
//! ```
//! let record: lns_record::DiagnoseRecord = serde_json::from_str(
//!     r#"{"name": "tiny", "model": {"model_type": "llama"},
//!         "text": {"files": ["speech.txt"], "tokens": 512, "windows": 1, "window_len": 512},
//!         "baseline": {"nll": 3.1, "perplexity": 22.2},
//!         "stream": [{"index": 0, "variance": 0.9, "variance_without_first": 0.9, "rms": 0.95},
//!                    {"index": 1, "variance": 4.1, "variance_without_first": 4.0, "rms": 2.0}],
//!         "layers": [{"layer": 0, "removal": {"delta_nll": 2.5}}],
//!         "verdict": {"text": "One layer does everything."}, "probes": []}"#,
//! )?;
//! let page = lns_report::diagnosis_page(&[record]);
//! assert!(page.contains("One layer does everything."));
//! # Ok::<(), serde_json::Error>(())
//! ```

mod charts;
mod columns;
mod comparable;
mod curves;
mod drawing;
mod finetuning;
mod heatmap;
mod intervals;
mod number;
mod page;
mod palette;
mod panels;
mod plot;
mod scale;
mod study;
mod table;
mod tasks;
mod terminal;
mod text;
mod write;

pub use charts::{Chart, diagnosis_charts};
pub use finetuning::{finetuning_page, finetuning_table};
pub use page::diagnosis_page;
pub use study::{study_charts, study_page, study_table};
pub use table::{comparison_table, diagnosis_table};
pub use tasks::{tasks_page, tasks_table};
pub use terminal::TableStyle;
pub use write::{ReportError, write_finetuning, write_report, write_study, write_tasks};
