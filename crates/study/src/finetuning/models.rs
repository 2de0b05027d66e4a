//! The models of a study that fine-tunes: those that another study finished, or named ones.

use std::path::{Path, PathBuf};

use lns_train::RunConfig;
use serde::{Deserialize, Serialize};

use crate::{StudyConfig, StudyError, config::slug, record::record};

/// An entry of `models`: `study`, and if wanted some of its groups and seeds; or a `group`, a `seed` and a
/// `path`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelEntry {
    /// Folder of a study, of which every finished run counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub study: Option<PathBuf>,
    /// Only these groups of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
    /// Only these seeds of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seeds: Option<Vec<u64>>,
    /// A group's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The seed that a named model was trained with; models of one seed are compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// A folder, a `.gguf` or a `.safetensors` file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// A finished model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedModel {
    /// Models that share a scheme share a group.
    pub group: String,
    /// The seed that it was trained with.
    pub seed: u64,
    /// A folder, a `.gguf` or a `.safetensors` file.
    pub path: PathBuf,
}

impl FinishedModel {
    /// The folder of its run, relative to the study's.
    pub(super) fn folder(&self) -> String {
        format!("runs/{}-seed{}", slug(&self.group), self.seed)
    }

    /// The entry that names it.
    fn entry(&self) -> ModelEntry {
        let Self { group, seed, path } = self.clone();
        ModelEntry { group: Some(group), seed: Some(seed), path: Some(path), ..Default::default() }
    }
}

impl ModelEntry {
    /// Every finished run of a study.
    pub fn of_study(folder: PathBuf) -> Self {
        Self { study: Some(folder), ..Self::default() }
    }

    /// A model by its path.
    pub fn named(group: String, seed: u64, path: PathBuf) -> Self {
        FinishedModel { group, seed, path }.entry()
    }

    /// The models that it names, with whole paths.
    pub(super) fn models(&self) -> Result<Vec<FinishedModel>, StudyError> {
        let whole = |path: &Path| {
            std::path::absolute(path)
                .map_err(|source| StudyError::Io { path: path.to_owned(), source })
        };
        match self {
            Self { study: Some(study), groups, seeds, group: None, seed: None, path: None } => {
                of_study(&whole(study)?, groups.as_deref(), seeds.as_deref())
            }
            Self {
                study: None,
                groups: None,
                seeds: None,
                group: Some(group),
                seed,
                path: Some(path),
            } => {
                let (group, path) = (group.clone(), whole(path)?);
                Ok(vec![FinishedModel { group, seed: seed.unwrap_or(1), path }])
            }
            _ => Err(StudyError::Models {
                reason:
                    "an entry has `study`, and if wanted `groups` and `seeds`; or `group`, `path` \
                         and if wanted `seed`"
                        .to_owned(),
            }),
        }
    }
}

/// The finished runs of a study.
fn of_study(
    folder: &Path,
    groups: Option<&[String]>,
    seeds: Option<&[u64]>,
) -> Result<Vec<FinishedModel>, StudyError> {
    let refused = |what: String| StudyError::Models {
        reason: format!("the study {}: {what}", folder.display()),
    };
    let file = folder.join(StudyConfig::FILE_NAME);
    if !file.is_file() {
        return Err(refused(format!(
            "there is no {}; put the study back where it was, or name its models one by one in place of \
             `study`: `group`, `seed` and `path`",
            StudyConfig::FILE_NAME
        )));
    }
    let known = record(&StudyConfig::read(&file)?, folder)?.groups;
    if let Some(unknown) =
        groups.into_iter().flatten().find(|name| !known.iter().any(|group| group.name == **name))
    {
        let names: Vec<&str> = known.iter().map(|group| &*group.name).collect();
        return Err(refused(format!("no group {unknown}; its groups are {}", names.join(", "))));
    }
    let mut models = Vec::new();
    for group in known {
        if groups.is_some_and(|groups| !groups.contains(&group.name)) {
            continue;
        }
        for run in group.runs {
            let path = folder.join(&run.folder).join(RunConfig::MODEL);
            let wanted = seeds.is_none_or(|seeds| seeds.contains(&run.seed));
            if wanted && run.outcome == "finished" && path.is_dir() {
                models.push(FinishedModel { group: group.name.clone(), seed: run.seed, path });
            }
        }
    }
    if models.is_empty() {
        return Err(refused("none of the runs that were named is finished".to_owned()));
    }
    Ok(models)
}
