//! One way to write a file or a folder: beside its place, synced, renamed.

use std::{
    fs::{File, Permissions, TryLockError},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use tempfile::{Builder, TempDir, TempPath};

use crate::read::open_at_once;

/// How the names of unfinished files and folders begin, which a killed program leaves behind.
const PREFIX: &str = ".lns-";
const SUFFIX: &str = ".partial";

fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A builder of unfinished files and folders that are as readable as any other new one; temporary
/// ones would be private.
fn unfinished<'a>(mode: u32) -> Builder<'a, 'static> {
    let mut builder = Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    #[cfg(unix)]
    builder.permissions(<Permissions as std::os::unix::fs::PermissionsExt>::from_mode(mode));
    builder
}

/// The same with the name of the place in the name of what is unfinished.
fn unfinished_for(prefix: &str, mode: u32) -> Builder<'_, 'static> {
    let mut builder = unfinished(mode);
    builder.prefix(prefix);
    builder
}

/// Names are at most 255 bytes on most systems: a long one is known by its digest.
const LONGEST_NAME: usize = 128;

fn prefix_of(place: &Path) -> String {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    if name.len() <= LONGEST_NAME {
        return format!("{PREFIX}{name}-");
    }
    format!("{PREFIX}{}-", crate::sha256(name.as_bytes()))
}

/// Who holds a file or folder.
pub(crate) enum Hold {
    /// We do, as long as the file is open.
    Ours(File),
    /// Somebody else does, or removed it before we could take it.
    Lost,
    /// Nobody: the file system has no locks.
    Unknown,
}

/// Takes the lock of something that others can find and remove: whoever removes it holds its lock
/// meanwhile, so it is ours only if it is still there once the lock is.
pub(crate) fn hold(path: &Path) -> Hold {
    if cfg!(not(unix)) {
        // On this system a lock keeps even its holder from writing through another handle.
        return Hold::Unknown;
    }
    let Ok(file) = open_at_once(path) else {
        // A system on which folders cannot be opened cannot lock them either.
        return if path.exists() { Hold::Unknown } else { Hold::Lost };
    };
    match file.try_lock() {
        Ok(()) if is_at(&file, path) => Hold::Ours(file),
        Ok(()) | Err(TryLockError::WouldBlock) => Hold::Lost,
        Err(TryLockError::Error(_)) => Hold::Unknown,
    }
}

/// Whether an open file is the one at `path`.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (file.metadata(), path.symlink_metadata()) else { return false };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        (open.dev(), open.ino()) == (there.dev(), there.ino())
    }
    #[cfg(not(unix))]
    {
        // On this system a file that is open cannot be removed, so it is the same one.
        open.is_file() == there.is_file()
    }
}

/// Makes something that others take for a leftover until its lock is held: made anew if somebody was
/// faster.
fn held<T>(
    mut make: impl FnMut() -> std::io::Result<T>,
    path: impl Fn(&T) -> &Path,
) -> std::io::Result<(T, Option<File>)> {
    loop {
        let made = make()?;
        match hold(path(&made)) {
            Hold::Ours(lock) => return Ok((made, Some(lock))),
            Hold::Unknown => return Ok((made, None)),
            Hold::Lost => {}
        }
    }
}

/// Removes what killed programs left unfinished for this place.
pub(crate) fn remove_stale(place: &Path) {
    let prefix = prefix_of(place);
    let of_place = |name: &str| name.starts_with(&prefix);
    remove_leftovers(parent(place), &of_place);
}

/// Whether a name is one that unfinished files and folders have.
pub(crate) fn is_leftover(name: &str) -> bool {
    name.starts_with(PREFIX) && name.ends_with(SUFFIX)
}

/// Removes the unfinished files and folders of such names; what another program is still writing is
/// locked. What cannot be removed stays.
fn remove_leftovers(folder: &Path, wanted: &dyn Fn(&str) -> bool) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_leftover(&name) || !wanted(&name) {
            continue;
        }
        let path = entry.path();
        // Anything but a file or a folder is not ours, and may never open.
        let ours = entry.file_type().is_ok_and(|kind| kind.is_dir() || kind.is_file());
        let Hold::Ours(_lock) = (if ours { hold(&path) } else { Hold::Lost }) else { continue };
        let _ = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
    }
}

/// Makes a rename outlive a power cut, where the system can.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// A value as a JSON file holds it: indented, with a line's end.
///
/// # Errors
/// What cannot be JSON, such as a map whose keys are no strings.
pub fn pretty_json(value: &impl serde::Serialize) -> serde_json::Result<Vec<u8>> {
    let mut json = serde_json::to_vec_pretty(value)?;
    json.push(b'\n');
    Ok(json)
}

/// Replaces the file at `path`, or makes it: a reader finds the old bytes or the new ones.
///
/// # Errors
/// Whatever the operating system says; the file at `path` is then as it was.
pub fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = NewFile::create(path, Existing::Replaced)?;
    // The file is opened and not made: under another name it would be a leftover.
    std::fs::OpenOptions::new().write(true).open(new.path())?.write_all(bytes)?;
    new.commit()
}

/// What happens to what is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and nothing is made.
    Kept,
    /// It is replaced.
    Replaced,
}

/// A folder that appears at its place all at once, with everything in it on disk; gone again when it
/// is dropped before [`commit`](Self::commit).
#[derive(Debug)]
pub struct NewFolder {
    unfinished: TempDir,
    place: PathBuf,
    existing: Existing,
    /// Tells those that look for leftovers that this is none.
    _lock: Option<File>,
}

impl NewFolder {
    /// Begins a folder that will be at `place`. Its parent must exist.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when something is there, or whatever the operating system says.
    pub fn create(place: &Path) -> std::io::Result<Self> {
        if place.exists() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        Self::begin(place, Existing::Kept)
    }

    /// Begins a folder that will take the place of the one at `place`, if there is one: a reader finds
    /// the old folder or the new one, and the old one is then removed. Its parent must exist.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when a file is there, or whatever the operating system says.
    pub fn replace(place: &Path) -> std::io::Result<Self> {
        match place.symlink_metadata() {
            Ok(found) if !found.is_dir() => Err(ErrorKind::AlreadyExists.into()),
            _ => Self::begin(place, Existing::Replaced),
        }
    }

    fn begin(place: &Path, existing: Existing) -> std::io::Result<Self> {
        remove_stale(place);
        let prefix = prefix_of(place);
        let make = || unfinished_for(&prefix, 0o777).tempdir_in(parent(place));
        let (unfinished, lock) = held(make, TempDir::path)?;
        Ok(Self { unfinished, place: place.to_owned(), existing, _lock: lock })
    }

    /// Where its files are written until it is put in place.
    pub fn path(&self) -> &Path {
        self.unfinished.path()
    }

    /// Syncs its files and puts it at its place.
    ///
    /// # Errors
    /// Whatever the operating system says; nothing is then at the place.
    pub fn commit(self) -> std::io::Result<()> {
        let whole = self.path().to_owned();
        self.put(&whole)
    }

    /// Puts the folder `name` that was made inside it at the place, instead of itself.
    ///
    /// # Errors
    /// Whatever the operating system says; nothing is then at the place.
    pub fn commit_inner(self, name: &str) -> std::io::Result<()> {
        let inner = self.path().join(name);
        self.put(&inner)
    }

    fn put(self, whole: &Path) -> std::io::Result<()> {
        for entry in std::fs::read_dir(whole)? {
            File::open(entry?.path())?.sync_all()?;
        }
        sync_folder(whole)?;
        if self.existing == Existing::Replaced {
            // The old folder is now the unfinished one, and goes with it.
            swap_in(whole, &self.place)?;
            // The new one is in place, whatever becomes of the old one.
            let _ = sync_folder(parent(&self.place));
            return Ok(());
        }
        std::fs::rename(whole, &self.place)?;
        if !self.path().exists() {
            // What was renamed is no longer there to be removed.
            let _ = self.unfinished.keep();
        }
        sync_folder(parent(&self.place))
    }
}

/// How often the place of a folder may change hands while another is put there.
pub(crate) const ATTEMPTS: usize = 100;

/// Puts a folder at a place where another may be, or appear, or be replaced at any moment.
fn swap_in(new: &Path, place: &Path) -> std::io::Result<()> {
    for _ in 0..ATTEMPTS {
        let put = if place.exists() { exchange(new, place) } else { std::fs::rename(new, place) };
        match put {
            Err(error) if changed_hands(&error) => {}
            put => return put,
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// Whether somebody else was faster.
pub(crate) fn changed_hands(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty
    )
}

/// Swaps two folders at once where the system can; else one after the other.
fn exchange(new: &Path, old: &Path) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
            // Some file systems do not know it.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
            result => return Ok(result?),
        }
    }
    swap_one_by_one(new, old)
}

fn swap_one_by_one(new: &Path, old: &Path) -> std::io::Result<()> {
    let make = || unfinished(0o777).tempdir_in(parent(old));
    let (aside, _lock) = held(make, TempDir::path)?;
    let (kept, spare) = (aside.path().join("old"), aside.path().join("new"));
    std::fs::rename(new, &spare)?;
    std::fs::rename(old, &kept)?;
    if let Err(error) = std::fs::rename(&spare, old) {
        if std::fs::rename(&kept, old).is_err() {
            // Both are in there, and must not go with it.
            let _ = aside.keep();
        }
        return Err(error);
    }
    std::fs::rename(&kept, new)
}

/// A file that appears at its place all at once, for what is too large to be in memory; gone again
/// when it is dropped before [`commit`](Self::commit).
#[derive(Debug)]
pub struct NewFile {
    unfinished: TempPath,
    place: PathBuf,
    existing: Existing,
    lock: Option<File>,
}

impl NewFile {
    /// Begins a file that will be at `place`; `existing` says what becomes of one that is there.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub fn create(place: &Path, existing: Existing) -> std::io::Result<Self> {
        remove_stale(place);
        let prefix = prefix_of(place);
        let make = || {
            let file = unfinished_for(&prefix, 0o666).tempfile_in(parent(place))?;
            Ok(file.into_temp_path())
        };
        let (unfinished, lock) = held(make, |path: &TempPath| path)?;
        Ok(Self { unfinished, place: place.to_owned(), existing, lock })
    }

    /// Where it is written until it is put in place.
    pub fn path(&self) -> &Path {
        &self.unfinished
    }

    /// Syncs it and puts it at its place.
    ///
    /// # Errors
    /// Whatever the operating system says; the place is then as it was.
    pub fn commit(self) -> std::io::Result<()> {
        self.commit_held().map(drop)
    }

    /// As [`commit`](Self::commit); the file stays locked, where the system can, until what is
    /// returned is dropped.
    pub(crate) fn commit_held(self) -> std::io::Result<Option<File>> {
        File::open(self.path())?.sync_all()?;
        if self.existing == Existing::Replaced {
            self.unfinished.persist(&self.place)?;
        } else {
            self.unfinished.persist_noclobber(&self.place)?;
        }
        sync_folder(parent(&self.place))?;
        Ok(self.lock)
    }
}

/// Removes what killed programs left unfinished in `folder`; what another program is still writing
/// stays.
pub fn remove_unfinished(folder: &Path) {
    remove_leftovers(folder, &|_| true);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a.json");
        replace_file(&path, b"old").expect("writes");
        replace_file(&path, b"new").expect("replaces");
        assert_eq!(std::fs::read(&path).expect("there"), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 1);
        assert!(replace_file(&dir.path().join("gone/a.json"), b"x").is_err());
    }

    #[test]
    fn a_folder_takes_anothers_place_at_once_and_leaves_nothing_of_it() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let place = dir.path().join("model");
        for (round, there) in [("1", false), ("2", true), ("3", true)] {
            let folder = NewFolder::replace(&place).expect("begins");
            std::fs::write(folder.path().join(round), round).expect("writes");
            assert_eq!(place.exists(), there);
            folder.commit().expect("commits");
            let names: Vec<_> = std::fs::read_dir(&place)
                .expect("there")
                .map(|entry| entry.expect("readable").file_name())
                .collect();
            assert_eq!(names, [round]);
            assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 1);
        }
        drop(NewFolder::replace(&place).expect("begins"));
        assert!(place.join("3").exists(), "given up, the old one stays");
        std::fs::write(dir.path().join("file"), "").expect("writes");
        assert!(NewFolder::replace(&dir.path().join("file")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_that_is_named_like_a_leftover_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let place = dir.path().join("model");
        let pipe = dir.path().join(format!("{}x{SUFFIX}", prefix_of(&place)));
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0)
            .expect("a pipe");
        NewFolder::replace(&place).expect("begins").commit().expect("commits");
        assert!(place.is_dir() && pipe.exists(), "what is neither file nor folder is not ours");
    }

    #[test]
    fn folders_change_places_also_where_the_system_cannot_swap_them() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        for path in [&a, &b] {
            std::fs::create_dir(path).expect("makes");
            std::fs::write(path.join(path.file_name().expect("named")), "").expect("writes");
        }
        swap_one_by_one(&a, &b).expect("swaps");
        assert!(a.join("b").exists() && b.join("a").exists());
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 2);
    }

    #[test]
    fn of_many_who_replace_a_folder_or_a_file_at_once_none_fails_and_nothing_is_left() {
        const WRITERS: usize = 6;
        const ROUNDS: usize = 40;
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (place, file) = (dir.path().join("model"), dir.path().join("a.json"));
        let write = |writer: usize| {
            for round in 0..ROUNDS {
                let content = format!("{writer} {round}");
                let folder = NewFolder::replace(&place).expect("begins");
                for name in ["a", "b"] {
                    std::fs::write(folder.path().join(name), &content).expect("writes");
                }
                folder.commit().expect("commits");
                replace_file(&file, content.as_bytes()).expect("replaces");
            }
        };
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let write = &write;
                scope.spawn(move || write(writer));
            }
        });
        let read = |name: &str| std::fs::read_to_string(place.join(name)).expect("whole");
        assert_eq!(read("a"), read("b"), "both of one writer");
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .expect("readable")
            .map(|entry| entry.expect("readable").file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["a.json", "model"]);
    }

    #[test]
    fn a_name_as_long_as_the_system_allows_is_written() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let name = "n".repeat(255);
        NewFolder::create(&dir.path().join(&name)).expect("begins").commit().expect("commits");
        assert!(dir.path().join(&name).is_dir());
    }

    #[test]
    fn what_is_made_inside_takes_the_place_alone() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let place = dir.path().join("text");
        let folder = NewFolder::create(&place).expect("begins");
        std::fs::create_dir(folder.path().join("inner")).expect("makes");
        std::fs::write(folder.path().join("inner/a"), "1").expect("writes");
        std::fs::write(folder.path().join("aside"), "2").expect("writes");
        folder.commit_inner("inner").expect("commits");
        assert_eq!(std::fs::read_to_string(place.join("a")).expect("there"), "1");
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 1);
    }

    #[test]
    fn a_large_file_is_absent_until_it_is_whole() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let place = dir.path().join("model.gguf");
        drop(NewFile::create(&place, Existing::Kept).expect("begins"));
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0);
        for text in ["old", "new"] {
            let file = NewFile::create(&place, Existing::Replaced).expect("begins");
            std::fs::write(file.path(), text).expect("writes");
            file.commit().expect("commits");
            assert_eq!(std::fs::read_to_string(&place).expect("there"), text);
        }
        let file = NewFile::create(&place, Existing::Kept).expect("begins");
        assert!(file.commit().is_err(), "it is there");
        assert_eq!(std::fs::read_to_string(&place).expect("there"), "new");
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 1);
    }

    #[test]
    fn a_folder_is_absent_until_it_is_whole() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let place = dir.path().join("model");
        let entries = || std::fs::read_dir(dir.path()).expect("readable").count();
        let folder = NewFolder::create(&place).expect("begins");
        std::fs::write(folder.path().join("a"), b"1").expect("writes");
        assert!(!place.exists());
        drop(folder);
        assert_eq!(entries(), 0, "given up, nothing is left");

        let folder = NewFolder::create(&place).expect("begins");
        std::fs::write(folder.path().join("a"), b"2").expect("writes");
        folder.commit().expect("commits");
        assert_eq!(std::fs::read(place.join("a")).expect("there"), b"2");
        assert_eq!(entries(), 1);
        let again = NewFolder::create(&place).expect_err("it is there");
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);

        // A killed program holds no lock.
        let stale = prefix_of(&dir.path().join("other")) + "x" + SUFFIX;
        std::fs::create_dir(dir.path().join(&stale)).expect("makes");
        let other = NewFolder::create(&dir.path().join("other")).expect("begins");
        assert!(!dir.path().join(&stale).exists(), "its leftover goes");
        drop(NewFolder::create(&dir.path().join("other")).expect("begins"));
        assert!(other.path().exists(), "and another's work stays");
        remove_unfinished(dir.path());
        assert_eq!(entries(), 2, "also from the one who removes all");
        let NewFolder { unfinished, _lock: lock, .. } = other;
        let _ = unfinished.keep();
        drop(lock);
        assert_eq!(entries(), 2, "as after a kill");
        remove_unfinished(dir.path());
        assert_eq!(entries(), 1);
    }
}
