//! Folders that this program fills over time, such as a run's: one marker in a folder says what it is,
//! and the marker's lock that somebody is at work there.
//!
//! A folder is claimed before anything is written into it: it is new, empty, or this very kind's own,
//! and neither a model nor inside one. The lock is held before others can find the folder. A claim that
//! is given up before it is [kept](Claim::keep) leaves no trace.

use std::{
    fs::{File, TryLockError},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::read::{SMALL_FILE, read_regular};
use crate::write::{
    ATTEMPTS, Existing, NewFile, NewFolder, changed_hands, is_at, is_leftover, pretty_json,
    remove_stale, remove_unfinished,
};

/// How many of a folder's entries an error names.
const LISTED: usize = 3;

/// What a folder that this program fills over time is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FolderKind {
    /// A training run, made by `train` or `finetune`.
    Run,
    /// A study.
    Study,
    /// A diagnosis.
    Diagnosis,
    /// What `quickstart` makes.
    Quickstart,
    /// A page of `report`, with its charts.
    Report,
}

impl std::fmt::Display for FolderKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Run => "a training run",
            Self::Study => "a study",
            Self::Diagnosis => "a diagnosis",
            Self::Quickstart => "a quickstart",
            Self::Report => "a report",
        })
    }
}

/// Why a folder cannot be filled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum ClaimError {
    #[error("{folder}: there is a file where a folder is needed; name another folder")]
    NotAFolder { folder: PathBuf },
    #[error("{folder} is {is}, which is never written into; name another folder")]
    Source { folder: PathBuf, is: &'static str },
    #[error("{folder} lies inside {outer}, {is}, which is never written into; name another folder")]
    InsideSource { folder: PathBuf, outer: PathBuf, is: &'static str },
    #[error("{folder} is {is}, not {wanted}; name another folder")]
    OtherKind { folder: PathBuf, is: FolderKind, wanted: FolderKind },
    #[error("{folder} holds {is} of {of}, which is not overwritten; name another folder")]
    OfAnother { folder: PathBuf, is: FolderKind, of: String },
    #[error("{folder} holds other files ({names}); name a new or an empty folder")]
    Foreign { folder: PathBuf, names: String },
    #[error("{folder}: another lns is at work here; wait for it, or name another folder")]
    InUse { folder: PathBuf },
    #[error("{path} is not a marker of this program ({reason}); delete it, or name another folder")]
    Malformed { path: PathBuf, reason: String },
    #[error("{path} cannot be written to")]
    Io { path: PathBuf, source: std::io::Error },
}

/// `lns-folder.json`: what a folder is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderMarker {
    /// What the folder is.
    pub kind: FolderKind,
    /// The whole path of the model that the folder is of, where nothing of another model may take
    /// its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// Version of the program that made it.
    pub version: String,
}

impl FolderMarker {
    /// The marker's file name.
    pub const FILE_NAME: &str = "lns-folder.json";

    /// The marker in `folder`; `None` where there is none.
    ///
    /// # Errors
    /// [`ClaimError::Malformed`] or [`ClaimError::Io`].
    pub fn read(folder: &Path) -> Result<Option<Self>, ClaimError> {
        let path = folder.join(Self::FILE_NAME);
        match path.symlink_metadata() {
            Err(_) => return Ok(None),
            Ok(found) if !found.is_file() => {
                let reason = "it is not a file".to_owned();
                return Err(ClaimError::Malformed { path, reason });
            }
            Ok(_) => {}
        }
        let json = match read_regular(&path, SMALL_FILE) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ClaimError::Io { path, source }),
            Ok(json) => json,
        };
        match serde_json::from_slice(&json) {
            Ok(marker) => Ok(Some(marker)),
            Err(error) => Err(ClaimError::Malformed { path, reason: error.to_string() }),
        }
    }
}

/// A folder that nobody else fills as long as this is there.
#[derive(Debug)]
pub struct Claim {
    folder: PathBuf,
    /// The marker, locked where the file system can.
    _lock: Option<File>,
    /// Whether the marker is new.
    added: bool,
    /// The folder and those around it that are new, innermost first.
    made: Vec<PathBuf>,
    kept: bool,
}

impl Claim {
    /// Claims `folder`, and makes it if it is not there. `of` is what it will hold, if another's must
    /// not take its place. What killed programs left in it and its folders is removed.
    ///
    /// # Errors
    /// [`ClaimError`]; the folder is then as it was.
    pub fn take(folder: &Path, kind: FolderKind, of: Option<&str>) -> Result<Self, ClaimError> {
        refuse_sources(folder)?;
        let marker = FolderMarker {
            kind,
            of: of.map(str::to_owned),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        for _ in 0..ATTEMPTS {
            let claim = match folder.metadata() {
                Ok(found) if found.is_dir() => claim_there(folder, &marker)?,
                Err(error) if error.kind() == ErrorKind::NotFound => claim_new(folder, &marker)?,
                _ => return Err(ClaimError::NotAFolder { folder: folder.to_owned() }),
            };
            if let Some(claim) = claim {
                remove_stale(folder);
                remove_all_unfinished(folder);
                return Ok(claim);
            }
        }
        Err(ClaimError::InUse { folder: folder.to_owned() })
    }

    /// The claimed folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the folder had no marker before.
    pub fn is_new(&self) -> bool {
        self.added
    }

    /// From now on the folder is what the marker says, unless nothing is ever put into it.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    fn is_bare(&self) -> bool {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.into_iter().all(|entry| entry.file_name() == FolderMarker::FILE_NAME)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.added && (!self.kept || self.is_bare()) {
            let _ = std::fs::remove_file(self.folder.join(FolderMarker::FILE_NAME));
            // Folders are removed up to the first that is not empty.
            let _ = self.made.iter().try_for_each(std::fs::remove_dir);
        }
    }
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> ClaimError {
    move |source| match source.kind() {
        ErrorKind::NotADirectory => ClaimError::NotAFolder { folder: path.to_owned() },
        _ => ClaimError::Io { path: path.to_owned(), source },
    }
}

/// Makes the folder, so that it appears with its marker locked; `None` when somebody else was
/// faster.
fn claim_new(folder: &Path, marker: &FolderMarker) -> Result<Option<Claim>, ClaimError> {
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let made = folder.ancestors().take_while(missing).map(Path::to_owned).collect();
    if let Some(parent) = parent {
        std::fs::create_dir_all(parent).map_err(|error| match error.kind() {
            // This is what the system says where a file is in the way.
            ErrorKind::AlreadyExists => ClaimError::NotAFolder { folder: folder.to_owned() },
            _ => io(folder)(error),
        })?;
    }
    let made_folder = || -> std::io::Result<Option<File>> {
        let new = NewFolder::create(folder)?;
        let path = new.path().join(FolderMarker::FILE_NAME);
        let mut file = File::create_new(&path)?;
        file.write_all(&pretty_json(marker)?)?;
        let lock = file.try_lock().is_ok().then_some(file);
        new.commit()?;
        Ok(lock)
    };
    match made_folder() {
        Ok(lock) => {
            let folder = folder.to_owned();
            Ok(Some(Claim { folder, _lock: lock, added: true, made, kept: false }))
        }
        Err(error) if changed_hands(&error) && folder.exists() => Ok(None),
        Err(error) => Err(io(folder)(error)),
    }
}

/// Claims a folder that is there; `None` when it changed meanwhile.
fn claim_there(folder: &Path, wanted: &FolderMarker) -> Result<Option<Claim>, ClaimError> {
    let path = folder.join(FolderMarker::FILE_NAME);
    let claim = |lock, added| Claim {
        folder: folder.to_owned(),
        _lock: lock,
        added,
        made: Vec::new(),
        kept: false,
    };
    let Some(there) = FolderMarker::read(folder)? else {
        let older = older(folder, wanted.kind)?;
        if let Some(is) = older.filter(|is| *is != wanted.kind) {
            let (folder, wanted) = (folder.to_owned(), wanted.kind);
            return Err(ClaimError::OtherKind { folder, is, wanted });
        }
        if let (Some(_), Some(mine)) = (older, &wanted.of)
            && let Some(of) = older_of(folder, mine)
        {
            let (folder, is) = (folder.to_owned(), wanted.kind);
            return Err(ClaimError::OfAnother { folder, is, of });
        }
        let added = || -> std::io::Result<Option<File>> {
            let new = NewFile::create(&path, Existing::Kept)?;
            let mut file = std::fs::OpenOptions::new().write(true).open(new.path())?;
            file.write_all(&pretty_json(wanted)?)?;
            new.commit_held()
        };
        return match added() {
            Ok(lock) => Ok(Some(claim(lock, true))),
            Err(error) if changed_hands(&error) => Ok(None),
            Err(error) => Err(io(folder)(error)),
        };
    };
    if there.kind != wanted.kind {
        let (folder, is, wanted) = (folder.to_owned(), there.kind, wanted.kind);
        return Err(ClaimError::OtherKind { folder, is, wanted });
    }
    if let (Some(of), Some(mine)) = (&there.of, &wanted.of)
        && of != mine
    {
        let (folder, is, of) = (folder.to_owned(), there.kind, of.clone());
        return Err(ClaimError::OfAnother { folder, is, of });
    }
    let Ok(file) = File::open(&path) else { return Ok(None) };
    match file.try_lock() {
        Ok(()) if !is_at(&file, &path) => Ok(None),
        Ok(()) => Ok(Some(claim(Some(file), false))),
        Err(TryLockError::WouldBlock) => Err(ClaimError::InUse { folder: folder.to_owned() }),
        // Some network file systems have no locks.
        Err(TryLockError::Error(_)) => Ok(Some(claim(None, false))),
    }
}

/// Removes what killed programs left in a folder and in the folders in it.
fn remove_all_unfinished(folder: &Path) {
    remove_unfinished(folder);
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_unfinished(&entry.path());
        }
    }
}

/// Refuses a place that is a model or a prepared text, or lies inside one or inside a file.
///
/// # Errors
/// [`ClaimError::Source`], [`ClaimError::InsideSource`], [`ClaimError::NotAFolder`].
pub fn refuse_sources(folder: &Path) -> Result<(), ClaimError> {
    let whole = std::path::absolute(folder).map_err(io(folder))?;
    // Links are followed as far as there is something.
    let there = whole.ancestors().find_map(|path| {
        let rest = whole.strip_prefix(path).ok()?;
        Some(path.canonicalize().ok()?.join(rest))
    });
    let whole = there.unwrap_or(whole);
    if whole.ancestors().find(|path| path.exists()).is_some_and(|found| !found.is_dir()) {
        return Err(ClaimError::NotAFolder { folder: folder.to_owned() });
    }
    for (depth, outer) in whole.ancestors().enumerate() {
        let Some(is) = source(outer) else { continue };
        let folder = folder.to_owned();
        return Err(match depth {
            0 => ClaimError::Source { folder, is },
            _ => ClaimError::InsideSource { folder, outer: outer.to_owned(), is },
        });
    }
    Ok(())
}

/// What a folder is that must stay as it is; `None` if it may be filled.
fn source(folder: &Path) -> Option<&'static str> {
    let has = |name: &str| folder.join(name).is_file();
    if has("corpus.json") && has("tokenizer.json") {
        return Some("a prepared text");
    }
    if !has("config.json") && !has("adapter_config.json") {
        return None;
    }
    let weights = |path: PathBuf| {
        path.extension().is_some_and(|found| found == "safetensors" || found == "bin")
    };
    let mut entries = std::fs::read_dir(folder).ok()?.flatten();
    entries.any(|entry| weights(entry.path())).then_some("a model")
}

/// What a folder without a marker is: earlier versions made none. `None` when it is as good as empty.
fn older(folder: &Path, wanted: FolderKind) -> Result<Option<FolderKind>, ClaimError> {
    let entries = std::fs::read_dir(folder).map_err(io(folder))?;
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !is_leftover(name) && name != FolderMarker::FILE_NAME)
        .collect();
    names.sort();
    let has = |name: &str| names.iter().any(|found| found == name);
    let kind = if has("study.toml") {
        Some(FolderKind::Study)
    } else if has("config.toml") && has("events.jsonl") {
        Some(FolderKind::Run)
    } else if names.iter().any(|name| name.starts_with("pair-") && folder.join(name).is_dir()) {
        Some(FolderKind::Quickstart)
    } else if has("diagnose.json") {
        Some(FolderKind::Diagnosis)
    } else if has("report.html") {
        Some(FolderKind::Report)
    } else {
        None
    };
    if kind.is_some() {
        return Ok(kind);
    }
    // What was stopped before it began.
    let begun = |name: &String| match name.as_str() {
        "text" | "text.from" | "runs" => matches!(wanted, FolderKind::Run | FolderKind::Study),
        "events.jsonl" => {
            let empty = folder.join(name).metadata().is_ok_and(|found| found.len() == 0);
            wanted == FolderKind::Run && empty
        }
        "charts" => !matches!(wanted, FolderKind::Run),
        _ => false,
    };
    let foreign: Vec<&str> = names.iter().filter(|name| !begun(name)).map(String::as_str).collect();
    if foreign.is_empty() {
        return Ok(None);
    }
    let more = if foreign.len() > LISTED { ", …" } else { "" };
    let names = foreign[..foreign.len().min(LISTED)].join(", ") + more;
    Err(ClaimError::Foreign { folder: folder.to_owned(), names })
}

/// The other model that an earlier version's diagnosis is of: its path as it was named then.
fn older_of(folder: &Path, mine: &str) -> Option<String> {
    let name = crate::DiagnoseRecord::read(folder).ok()?.name;
    let same = Path::new(&name).canonicalize().is_ok_and(|whole| whole == Path::new(mine));
    (!same).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn entries(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .expect("readable")
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn refused(folder: &Path, kind: FolderKind) -> String {
        Claim::take(folder, kind, None).expect_err("refused").to_string()
    }

    #[test]
    fn a_folder_is_what_it_was_first_claimed_as_and_one_at_a_time_is_at_work() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for folder in [dir.path().join("new/deep"), dir.path().join("empty")] {
            if folder.ends_with("empty") {
                fs::create_dir(&folder).expect("makes");
            }
            let mut claim = Claim::take(&folder, FolderKind::Run, None).expect("free");
            claim.keep();
            assert!(refused(&folder, FolderKind::Run).contains("another lns is at work"));
            assert!(refused(&folder, FolderKind::Study).contains("a training run, not a study"));
            fs::write(folder.join("config.toml"), "").expect("writes");
            drop(claim);
            Claim::take(&folder, FolderKind::Run, None).expect("its own");
            assert!(refused(&folder, FolderKind::Study).contains("name another folder"));
            assert_eq!(entries(&folder), ["config.toml", FolderMarker::FILE_NAME]);
        }
    }

    #[test]
    fn a_claim_that_is_given_up_leaves_no_trace() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let take = |folder: &Path| Claim::take(folder, FolderKind::Run, None).expect("free");
        let folder = dir.path().join("a/b");
        drop(take(&folder));
        assert!(entries(dir.path()).is_empty());
        // The claim is kept, but nothing was written.
        take(&folder).keep();
        assert!(entries(dir.path()).is_empty());
        fs::create_dir_all(&folder).expect("makes");
        drop(take(&folder));
        assert!(entries(&folder).is_empty(), "what was there stays");
        for name in ["config.toml", "events.jsonl"] {
            fs::write(folder.join(name), "").expect("writes");
        }
        drop(take(&folder));
        assert_eq!(entries(&folder), ["config.toml", "events.jsonl"]);
    }

    #[test]
    fn of_many_who_claim_a_folder_at_once_one_gets_it() {
        const CLAIMANTS: usize = 8;
        for round in 0..50 {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let folder = dir.path().join("run");
            if round % 2 == 1 {
                fs::create_dir(&folder).expect("makes");
            }
            let barrier = std::sync::Barrier::new(CLAIMANTS);
            let claim = || {
                barrier.wait();
                let claim = Claim::take(&folder, FolderKind::Run, None);
                barrier.wait();
                match claim {
                    Ok(_) => true,
                    Err(ClaimError::InUse { .. }) => false,
                    Err(error) => panic!("round {round}: {error}"),
                }
            };
            let taken = std::thread::scope(|scope| {
                let claims: Vec<_> = (0..CLAIMANTS).map(|_| scope.spawn(claim)).collect();
                claims.into_iter().map(|claim| claim.join().expect("ends")).collect::<Vec<_>>()
            });
            assert_eq!(taken.iter().filter(|taken| **taken).count(), 1, "round {round}");
        }
    }

    #[test]
    fn models_and_prepared_texts_and_what_lies_inside_them_are_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (model, text) = (dir.path().join("model"), dir.path().join("text"));
        for (folder, names) in [
            (&model, ["config.json", "model.safetensors"]),
            (&text, ["corpus.json", "tokenizer.json"]),
        ] {
            fs::create_dir(folder).expect("makes");
            for name in names {
                fs::write(folder.join(name), "{}").expect("writes");
            }
            let before = entries(folder);
            assert!(refused(folder, FolderKind::Diagnosis).contains("is never written into"));
            let inside = refused(&folder.join("a/b"), FolderKind::Run);
            assert!(inside.contains("lies inside"), "{inside}");
            assert_eq!(entries(folder), before);
        }
        #[cfg(unix)]
        {
            let link = dir.path().join("link");
            std::os::unix::fs::symlink(&model, &link).expect("links");
            assert!(refused(&link.join("new"), FolderKind::Run).contains("lies inside"));
        }
        fs::write(dir.path().join("file"), "").expect("writes");
        for place in ["file", "file/run"] {
            let error = refused(&dir.path().join(place), FolderKind::Run);
            assert!(error.contains("a file where a folder is needed"), "{error}");
        }
    }

    #[test]
    fn folders_of_earlier_versions_are_known_by_what_they_hold_and_others_are_left_alone() {
        let every = [
            FolderKind::Run,
            FolderKind::Study,
            FolderKind::Diagnosis,
            FolderKind::Quickstart,
            FolderKind::Report,
        ];
        let cases: [(&[&str], &[FolderKind]); 10] = [
            (&["config.toml", "events.jsonl", "text/", "diagnose.json"], &[FolderKind::Run]),
            (&["study.toml", "runs/", "report.html"], &[FolderKind::Study]),
            (&["diagnose.json", "charts/", "report.html"], &[FolderKind::Diagnosis]),
            (&["diagnose.json", "pair-150/", "charts/"], &[FolderKind::Quickstart]),
            (&["report.html", "charts/"], &[FolderKind::Report]),
            (&["text/", "text.from"], &[FolderKind::Run, FolderKind::Study]),
            (&["events.jsonl"], &[FolderKind::Run]),
            (&["charts/"], &every[1..]),
            (&[".lns-x.partial"], &every),
            (&["config.toml", "letters.txt"], &[]),
        ];
        for (names, owners) in cases {
            for kind in every {
                let dir = tempfile::tempdir().expect("a temporary folder");
                for name in names {
                    let path = dir.path().join(name);
                    match name.strip_suffix('/') {
                        Some(_) => fs::create_dir(path).expect("makes"),
                        None => fs::write(path, "").expect("writes"),
                    }
                }
                let taken = Claim::take(dir.path(), kind, None);
                assert_eq!(taken.is_ok(), owners.contains(&kind), "{names:?} {kind:?} {taken:?}");
            }
        }
    }

    #[test]
    fn what_a_folder_is_of_is_not_overwritten_by_another() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = dir.path().join("diagnosis");
        let take = |of| Claim::take(&folder, FolderKind::Diagnosis, Some(of));
        take("/a").expect("free").keep();
        let mut claim = take("/a").expect("free");
        claim.keep();
        fs::write(folder.join("diagnose.json"), "{}").expect("writes");
        drop(claim);
        drop(take("/a").expect("the same"));
        let error = take("/b").expect_err("another").to_string();
        assert!(error.contains("a diagnosis of /a") && error.contains("another folder"), "{error}");
    }

    #[test]
    fn a_marker_that_is_none_is_named_with_the_remedy() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join(FolderMarker::FILE_NAME);
        for text in ["", "{\"kind\": \"castle\", \"version\": \"1\"}"] {
            fs::write(&path, text).expect("writes");
            let error = refused(dir.path(), FolderKind::Run);
            assert!(error.contains("lns-folder.json") && error.contains("delete it"), "{error}");
        }
    }

    #[test]
    fn what_killed_programs_left_in_a_folder_goes_when_it_is_claimed() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = dir.path().join("run");
        let mut claim = Claim::take(&folder, FolderKind::Run, None).expect("free");
        claim.keep();
        for inner in ["", "charts", "tensorboard"] {
            let inner = folder.join(inner);
            fs::create_dir_all(&inner).expect("makes");
            fs::write(inner.join(".lns-AbCdEf.partial"), "half").expect("writes");
            fs::write(inner.join("kept"), "whole").expect("writes");
        }
        drop(claim);
        fs::create_dir(dir.path().join(".lns-run-AbCdEf.partial")).expect("makes");
        drop(Claim::take(&folder, FolderKind::Run, None).expect("its own"));
        assert_eq!(entries(dir.path()), ["run"]);
        for inner in ["", "charts", "tensorboard"] {
            let left = entries(&folder.join(inner));
            assert!(left.contains(&"kept".to_owned()), "{left:?}");
            assert!(!left.iter().any(|name| name.ends_with(".partial")), "{left:?}");
        }
    }
}
