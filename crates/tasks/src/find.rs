//! Where the data of a task lie: below the folders that were named, in a folder with the task's or the
//! hub's name, whatever the layout inside it, as long as names say which split is which.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use lns_corpus::RowFormat;

use crate::{Task, TaskError};

/// How deep below a data set's folder its files may lie.
const MAX_DEPTH: usize = 6;
/// How many files and folders are looked at.
const MAX_ENTRIES: usize = 20_000;

/// Where a task's data come from.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// The hub's name for it, `owner/name`.
    pub hub: &'static str,
    /// Other names that its folder may have.
    pub also: &'static [&'static str],
    /// Its part of the hub's data set, as a folder or file there is called; of several, the first
    /// that is there.
    pub parts: &'static [&'static str],
    /// Whether the other parts are other tasks, so that a folder without this one will not do.
    pub shared: bool,
    /// What every row has.
    pub columns: &'static str,
}

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// To learn from.
    Train,
    /// A few examples of each subject.
    Dev,
    /// To choose settings by.
    Validation,
    /// To report.
    Test,
    /// All there is, whatever it is called.
    All,
}

impl Split {
    /// Those that can be asked for, by name.
    pub const NAMED: [Self; 4] = [Self::Train, Self::Dev, Self::Validation, Self::Test];

    /// The hub's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Dev => "dev",
            Self::Validation => "validation",
            Self::Test => "test",
            Self::All => "all",
        }
    }

    /// What names of files and folders call it; the first that occurs counts.
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Train => &["train"],
            Self::Dev => &["dev"],
            Self::Validation => &["validation", "valid", "val", "dev"],
            Self::Test => &["test"],
            Self::All => &[],
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// The only task that it is for, if it is for one.
    pub task: Option<String>,
    /// A file or folder.
    pub path: PathBuf,
}

impl Data {
    /// A folder or file, or `TASK=PATH` for that of one task.
    pub fn named(given: &str) -> Self {
        match given.split_once('=') {
            Some((task, path)) if crate::tasks().any(|known| known.name() == task) => {
                Self { task: Some(task.to_owned()), path: path.into() }
            }
            _ => Self { task: None, path: given.into() },
        }
    }
}

/// The files of a task's split, in the order of their names.
pub(crate) fn find(
    task: &dyn Task,
    split: Split,
    places: &[Data],
) -> Result<Vec<PathBuf>, TaskError> {
    let own: Vec<&Data> =
        places.iter().filter(|data| data.task.as_deref() == Some(task.name())).collect();
    let searched: Vec<PathBuf> = if own.is_empty() {
        places.iter().filter(|data| data.task.is_none()).map(|data| data.path.clone()).collect()
    } else {
        own.iter().map(|data| data.path.clone()).collect()
    };
    for place in &searched {
        if place.is_file() {
            if !own.is_empty() {
                return Ok(vec![place.clone()]);
            }
            continue;
        }
        let roots = if own.is_empty() { roots(task, place) } else { vec![(place.clone(), true)] };
        for (root, named_for_it) in roots {
            let files = below(task, split, &root, named_for_it)?;
            if !files.is_empty() {
                return Ok(files);
            }
        }
    }
    let source = task.source();
    let part = source.parts.first().map_or(String::new(), |part| format!("{part}/"));
    Err(TaskError::NoData {
        task: task.name(),
        split,
        places: searched,
        columns: source.columns,
        hub: source.hub,
        file: format!("{part}{split}-00000-of-00001.parquet"),
    })
}

/// The folders at a place that may hold the task's data, and whether each is the task's alone.
fn roots(task: &dyn Task, place: &Path) -> Vec<(PathBuf, bool)> {
    let source = task.source();
    let name = source.hub.rsplit('/').next().unwrap_or(source.hub);
    let cache = format!("datasets--{}", source.hub.replace('/', "--"));
    let mut alone = vec![task.name()];
    let hubs = [&[name, source.hub, &cache], source.also].concat();
    // A data set of one task is called by its name, a shared one by its part.
    if source.shared {
        alone.extend(source.parts)
    } else {
        alone.extend(&hubs)
    }
    let candidates = alone.iter().map(|name| (*name, true));
    let candidates = candidates.chain(hubs.iter().map(|name| (*name, false)));
    let mut roots: Vec<(PathBuf, bool)> = Vec::new();
    for (name, named_for_it) in candidates {
        let inside = place.join(name);
        let itself = place.file_name().is_some_and(|own| own == name);
        let root = if inside.is_dir() { inside } else { place.to_owned() };
        if (itself || root != place) && !roots.iter().any(|(known, _)| *known == root) {
            roots.push((root, named_for_it));
        }
    }
    roots
}

/// The files of the split below a data set's folder.
fn below(
    task: &dyn Task,
    split: Split,
    root: &Path,
    named_for_it: bool,
) -> Result<Vec<PathBuf>, TaskError> {
    let mut all = Vec::new();
    let mut entries = 0;
    walk(root, 0, &mut entries, &mut all)?;
    let relative = |path: &PathBuf| words(path.strip_prefix(root).unwrap_or(path));
    // OLMo keeps each question twice; where choices are lettered the hub's fields are lost.
    all.retain(|path| !(is_requests(path) && is_called_anywhere(&relative(path), "mc")));
    let source = task.source();
    let has = |part: &str, path: &PathBuf| {
        relative(path).iter().any(|names| names.whole.eq_ignore_ascii_case(part))
    };
    match source.parts.iter().find(|part| all.iter().any(|path| has(part, path))) {
        Some(part) => all.retain(|path| has(part, path)),
        None if source.shared && !named_for_it => return Ok(Vec::new()),
        None => {}
    }
    if split != Split::All {
        let of = |word: &&&str| all.iter().any(|path| is_called(&relative(path), word));
        let Some(word) = split.words().iter().find(of) else { return Ok(Vec::new()) };
        all.retain(|path| is_called(&relative(path), word));
    }
    // A data set that is there twice, converted, is read once.
    if let Some(format) = all.iter().filter_map(|path| RowFormat::of(path)).min() {
        all.retain(|path| RowFormat::of(path) == Some(format));
    }
    all.sort();
    let versions: BTreeSet<PathBuf> = all.iter().map(|path| version(path, task)).collect();
    if versions.len() > 1 {
        let folders = versions.into_iter().take(5).collect();
        return Err(TaskError::SeveralFolders { task: task.name(), split, folders });
    }
    Ok(all)
}

/// The folder that holds all of a data set's split: a file's own, or, where each part of the task has
/// its own, the snapshot.
fn version(path: &Path, task: &dyn Task) -> PathBuf {
    let folder = path.parent().unwrap_or(path);
    if !task.is_in_groups() {
        return folder.to_owned();
    }
    let snapshot =
        folder.ancestors().find(|at| at.parent().is_some_and(|up| up.ends_with("snapshots")));
    snapshot.unwrap_or(Path::new("")).to_owned()
}

fn walk(
    folder: &Path,
    depth: usize,
    entries: &mut usize,
    files: &mut Vec<PathBuf>,
) -> Result<(), TaskError> {
    let failed = |source| TaskError::Io { path: folder.to_owned(), source };
    for entry in folder.read_dir().map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        *entries += 1;
        if *entries > MAX_ENTRIES {
            return Err(TaskError::TooManyFiles { path: folder.to_owned(), limit: MAX_ENTRIES });
        }
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        // A link to a folder may lead in a circle; one to a file is how the hub's cache keeps them.
        if path.is_dir() && !path.is_symlink() && depth < MAX_DEPTH {
            walk(&path, depth + 1, entries, files)?;
        } else if path.is_file() && RowFormat::of(&path).is_some() && !is_note(&path) {
            files.push(path);
        }
    }
    Ok(())
}

/// Whether a file is one of OLMo's ready requests.
fn is_requests(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("requests."))
}

fn is_called_anywhere(names: &[Name], word: &str) -> bool {
    names.iter().any(|name| name.words.iter().any(|own| own == word))
}

/// What the `datasets` library writes beside the data.
fn is_note(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    ["dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json", "config.json"]
        .contains(&&*name)
}

/// A name on the way to a file.
struct Name {
    /// Without what stands after the first dot of a file's.
    whole: String,
    /// In lower case.
    words: Vec<String>,
}

fn words(path: &Path) -> Vec<Name> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    });
    let name = |name: String| {
        let whole = name.split('.').next().unwrap_or_default().to_owned();
        let words = whole.to_lowercase();
        let words = words.split(|c: char| !c.is_alphanumeric()).map(str::to_owned).collect();
        Name { whole, words }
    };
    names.map(name).collect()
}

/// Whether names call a split by that word: the last name that has a split's word decides.
fn is_called(names: &[Name], word: &str) -> bool {
    let says = |name: &Name, word: &str| name.words.iter().any(|own| own == word);
    let any = |name: &&Name| {
        Split::NAMED.iter().flat_map(|split| split.words()).any(|word| says(name, word))
    };
    names.iter().rev().find(any).is_some_and(|name| says(name, word))
}
