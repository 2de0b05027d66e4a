//! The files in `golden/`: what PyTorch, transformers and other witnesses computed.

use std::fs;
use std::path::{Path, PathBuf};

use lns_checkpoint::Checkpoint;
use serde::de::DeserializeOwned;

/// The path of `golden/{name}`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden").join(name)
}

/// What the JSON in `golden/{name}` says.
///
/// # Panics
/// If it is not there, or says something else.
pub fn golden_json<T: DeserializeOwned>(name: &str) -> T {
    let path = golden(name);
    let json = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&json).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The checkpoint `golden/tiny/{name}`: tiny and random, made by `golden/tiny_models.py`.
///
/// # Panics
/// If it is not there.
pub fn tiny_checkpoint(name: &str) -> Checkpoint {
    let path = golden("tiny").join(name);
    Checkpoint::open(&path).unwrap_or_else(|error| panic!("{error}"))
}
