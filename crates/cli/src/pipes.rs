//! Text from pipes: `-`, `/dev/stdin`, `<(command)` and named pipes wherever a verb takes files of text.
//!
//! A verb may read its text more than once (to train a tokenizer, to tell documents apart, to measure a
//! model before and after), so what comes through a pipe is kept in a file until the program ends.

use std::{
    fs::File,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use anyhow::Context;
use lns_corpus::keep_piped_text;
use tempfile::TempDir;

use crate::{failure::usage, printer::Printer};

/// What the temporary folder is called.
const FOLDER: &str = "lns-piped-text-";

/// The texts that came through pipes: files that are there as long as this is.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    folder: Option<TempDir>,
    /// Each file, and the pipe as the user knows it.
    names: Vec<(PathBuf, String)>,
}

impl Kept {
    /// Puts a file in the place of every pipe in these lists of texts.
    pub(crate) fn keep(
        &mut self,
        texts: Vec<&mut Vec<PathBuf>>,
        printer: &Printer,
    ) -> anyhow::Result<()> {
        let mut standard_input = false;
        for path in texts.into_iter().flatten().filter(|path| is_pipe(path)) {
            let folder = match self.folder.take() {
                Some(folder) => folder,
                None => tempfile::Builder::new()
                    .prefix(FOLDER)
                    .tempdir()
                    .context("no temporary folder can be made for piped text")?,
            };
            let folder = self.folder.insert(folder).path();
            let (name, file) = if is_standard_input(path) {
                if std::mem::replace(&mut standard_input, true) {
                    return Err(usage(
                        "standard input can be read only once; name it in one place",
                    ));
                }
                let name = "standard input".to_owned();
                let mut stdin = io::stdin().lock();
                if stdin.is_terminal() {
                    printer.note("Reading text from the terminal; Ctrl-D ends it.");
                }
                let file = keep_piped_text(&mut stdin, &name, "standard-input", folder)?;
                (name, file)
            } else {
                let name = path.display().to_string();
                let mut pipe =
                    File::open(&*path).with_context(|| format!("{name} cannot be read"))?;
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                let file = keep_piped_text(&mut pipe, &name, &format!("pipe-{stem}"), folder)?;
                (name, file)
            };
            path.clone_from(&file);
            self.names.push((file, name));
        }
        Ok(())
    }

    /// What is said about the files, said about the pipes.
    pub(crate) fn of_pipes(&self, said: &str) -> String {
        self.names.iter().fold(said.to_owned(), |said, (file, name)| {
            said.replace(&*file.display().to_string(), name)
        })
    }
}

/// A text as it is told to people and kept in records: of a file that stands for a pipe its name, which
/// says what it holds, of others the path.
pub(crate) fn shown(path: &Path) -> &Path {
    let folder = path.parent().and_then(Path::file_name).unwrap_or_default();
    match path.file_name() {
        Some(name) if folder.to_string_lossy().starts_with(FOLDER) => Path::new(name),
        _ => path,
    }
}

/// What tells a text from others: as [`shown`], with absolute paths.
pub(crate) fn identity(path: &Path) -> io::Result<PathBuf> {
    match shown(path) {
        whole if whole == path => std::path::absolute(path),
        name => Ok(name.to_owned()),
    }
}

fn is_standard_input(path: &Path) -> bool {
    ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"].iter().any(|name| path == Path::new(name))
}

fn is_pipe(path: &Path) -> bool {
    // What is redirected to a descriptor may be a file, whose name is not known.
    is_standard_input(path)
        || path.starts_with("/dev/fd")
        || path.starts_with("/proc/self/fd")
        || path.metadata().is_ok_and(|found| is_fifo(&found))
}

#[cfg(unix)]
fn is_fifo(found: &std::fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_fifo(&found.file_type())
}

#[cfg(not(unix))]
fn is_fifo(_: &std::fs::Metadata) -> bool {
    false
}
