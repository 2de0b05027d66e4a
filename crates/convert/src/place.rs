//! Where a result may go: never into its source, and never over what is no model.

use std::path::{Path, PathBuf};

use lns_checkpoint::Checkpoint;
use lns_record::Existing;

/// What is to be made at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// A model's folder.
    Folder,
    /// A model as one file.
    File,
}

/// Why nothing can be made at a place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum PlaceError {
    #[error("{place} holds the source, which is never changed in place; name another place")]
    HoldsSource { place: PathBuf },
    #[error("{place} is a folder; name a file")]
    Folder { place: PathBuf },
    #[error("{place} is a file; name a folder")]
    File { place: PathBuf },
    #[error(
        "{place} is there already and is no model, or holds more than one, and only models are \
         replaced: name another folder"
    )]
    NoModel { place: PathBuf },
    #[error("{place} is there already; name another place")]
    Taken { place: PathBuf },
    #[error("{parent} cannot be made: {source}")]
    Parent { parent: PathBuf, source: std::io::Error },
}

impl PlaceError {
    /// Whether another place would do.
    pub fn is_input(&self) -> bool {
        !matches!(self, Self::Parent { .. })
    }
}

/// Whether `place` is, or holds, a file of the model.
pub fn holds(place: &Path, checkpoint: &Checkpoint) -> bool {
    let Ok(place) = place.canonicalize() else { return false };
    let inside = |file: &PathBuf| file.canonicalize().is_ok_and(|file| file.starts_with(&place));
    checkpoint.all_files().iter().any(inside)
}

/// Refuses a place that is the source's or that something else holds, and makes the folder that it will
/// be in.
///
/// # Errors
/// [`PlaceError`].
pub fn check_place(
    source: &Checkpoint,
    place: &Path,
    existing: Existing,
    made: Made,
) -> Result<(), PlaceError> {
    let named = || place.to_owned();
    if holds(place, source) {
        return Err(PlaceError::HoldsSource { place: named() });
    }
    match place.symlink_metadata() {
        Err(_) => {}
        Ok(found) if made == Made::File && found.is_dir() => {
            return Err(PlaceError::Folder { place: named() });
        }
        Ok(found) if made == Made::Folder && !found.is_dir() => {
            return Err(PlaceError::File { place: named() });
        }
        Ok(_) if made == Made::Folder && !is_replaceable(place) => {
            return Err(PlaceError::NoModel { place: named() });
        }
        Ok(_) if existing == Existing::Kept => return Err(PlaceError::Taken { place: named() }),
        Ok(_) => {}
    }
    match place.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => std::fs::create_dir_all(parent)
            .map_err(|source| PlaceError::Parent { parent: parent.to_owned(), source }),
        _ => Ok(()),
    }
}

/// Whether a folder is empty or a model's: a mistyped place must not cost anything else.
fn is_replaceable(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    let entries: Vec<_> = entries.flatten().collect();
    let only_files = entries.iter().all(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let has = |name: &str| folder.join(name).is_file();
    let weights = has("model.safetensors") || has("model.safetensors.index.json");
    entries.is_empty() || only_files && has("config.json") && weights
}
