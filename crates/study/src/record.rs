//! What the folder of a study holds, as one record.

use std::{collections::BTreeSet, path::Path};

use lns_corpus::Corpus;
use lns_record::{GroupRecord, SMALL_FILE, StudyRecord, read_regular};
use lns_show::counted;
use lns_train::{RunConfig, Schedule};

use crate::{
    StudyConfig, StudyError, compare,
    config::Planned,
    contrast::contrasts,
    presets::{SOURCE, published, too_short, unlike_the_paper},
    runs::run_record,
    tuned::Tuned,
};

/// The file of the lemmas that were measured, in a study's folder.
pub(crate) const THEORY: &str = "theory.json";

/// What the folder of a study holds so far.
///
/// # Errors
/// [`StudyError`] when a run's files cannot be read.
pub fn record(config: &StudyConfig, folder: &Path) -> Result<StudyRecord, StudyError> {
    let tuned = Tuned::read(config, folder)?;
    // The seeds of a group that is still to be tuned are missing too.
    let plan = config.compared(&|group| tuned.of(group).or(tuned.will_be(group)))?;
    let mut groups: Vec<(GroupRecord, bool)> = Vec::new();
    let mut missing_runs = 0;
    for group in &config.groups {
        let title = group.title();
        let mut runs = Vec::new();
        let mut noise_probe = false;
        for planned in plan.iter().filter(|planned| planned.group == title) {
            noise_probe = StudyConfig::is_noise_probe(&planned.config);
            let kept = planned.config.checkpoint_steps();
            let path = folder.join(&planned.folder);
            match run_record(&path, &planned.folder, planned.seed, kept)? {
                Some(run) => {
                    missing_runs += u64::from(!matches!(&*run.outcome, "finished" | "diverged"));
                    runs.push(run);
                }
                None => missing_runs += 1,
            }
        }
        let published = published(config, group);
        groups.push((compare::group(title, runs, published), noise_probe));
    }
    let baseline = groups.iter().find(|(group, _)| group.name == config.baseline);
    let pairs = baseline.map(|(baseline, _)| {
        let others = groups.iter().filter(|(group, _)| group.name != config.baseline);
        others.filter_map(|(group, probe)| compare::pair(group, baseline, *probe)).collect()
    });
    let theory_path = folder.join(THEORY);
    let theory = match read_regular(&theory_path, SMALL_FILE) {
        Ok(json) => Some(serde_json::from_slice(&json).map_err(|error| StudyError::Malformed {
            place: theory_path.display().to_string(),
            reason: format!("{error}; delete it to have it measured again"),
        })?),
        Err(_) => None,
    };
    let measured: Vec<GroupRecord> = groups.into_iter().map(|(group, _)| group).collect();
    let primaries =
        config.primaries.map_or(0, |count| usize::try_from(count).unwrap_or(usize::MAX));
    let any_published = measured.iter().any(|group| group.published_perplexity.is_some());
    Ok(StudyRecord {
        name: config.name.clone(),
        settings: settings(config, &plan),
        baseline: config.baseline.clone(),
        contrasts: contrasts(&config.contrasts, &measured, primaries),
        groups: measured,
        tuning: tuned.record(config),
        pairs: pairs.unwrap_or_default(),
        ideal_loss: config.ideal_loss,
        published_source: any_published.then(|| SOURCE.to_owned()),
        theory,
        missing_runs,
        caution: too_short(config),
    })
}

/// The settings in which some run differs from what all have in common, and the one that is tuned.
fn own_settings(config: &StudyConfig, plan: &[Planned]) -> BTreeSet<String> {
    let differences = plan.iter().flat_map(|planned| config.run.differences(&planned.config));
    let tuned = config.tuning.as_ref().map(|tuning| tuning.setting.clone());
    differences.map(|(key, _, _)| key).chain(tuned).collect()
}

/// What all runs have in common, for people; where a group has its own, that is said.
fn settings(config: &StudyConfig, plan: &[Planned]) -> Vec<(String, String)> {
    let own = own_settings(config, plan);
    let tuned = config.tuning.as_ref().map(|tuning| tuning.setting.as_str());
    let or_own = |keys: &[&str], value: String| {
        let mut own = own.iter().filter(|own| keys.iter().any(|key| own.starts_with(key)));
        match own.all(|own| Some(own.as_str()) == tuned) {
            true => value,
            false => value + "; groups differ in this",
        }
    };
    let learning_rate = match tuned {
        Some("schedule.learning_rate") => "tuned for each group,".to_owned(),
        _ => config.run.schedule.learning_rate.to_string(),
    };
    let run = &config.run;
    let model = &run.model;
    let texts: Vec<String> = run
        .data
        .sources
        .iter()
        .map(|source| match Corpus::open(&source.corpus) {
            Ok(corpus) => corpus.description().to_owned(),
            Err(_) => source.corpus.display().to_string(),
        })
        .collect();
    let rows = [
        (
            "model",
            or_own(
                &[
                    "model.num_hidden_layers",
                    "model.hidden_size",
                    "model.intermediate_size",
                    "model.num_attention_heads",
                ],
                format!(
                    "{} × {}, MLP {}, {}",
                    counted(model.num_hidden_layers, "layer"),
                    model.hidden_size,
                    model.intermediate_size,
                    counted(model.num_attention_heads, "head")
                ),
            ),
        ),
        ("text", texts.join("; ")),
        (
            "length",
            or_own(
                &["steps", "batch.sequences", "data.length"],
                format!(
                    "{} of {} × {} tokens: {}",
                    counted(run.steps, "step"),
                    counted(run.batch.sequences, "sequence"),
                    run.data.length,
                    counted(run.steps * run.tokens_per_step(), "token")
                ),
            ),
        ),
        ("optimiser", or_own(&["optimiser."], optimiser(run))),
        ("learning rate", or_own(&["schedule."], course(&learning_rate, &run.schedule))),
        (
            "initialisation",
            or_own(
                &["model.embedding_std", "model.embedding_norm"],
                format!(
                    "N(0, 0.02²) where a group names no other, embedding N(0, {}²){}",
                    model.embedding_std,
                    if model.embedding_norm { " followed by a norm" } else { "" }
                ),
            ),
        ),
    ];
    let notes = unlike_the_paper(config);
    let notes = (!notes.is_empty()).then(|| ("unlike the official code", notes.join("; ")));
    let plan = config.plan_sha256.clone().map(|sha256| ("plan, SHA-256", sha256));
    rows.into_iter()
        .chain(notes)
        .chain(plan)
        .map(|(what, value)| (what.to_owned(), value))
        .collect()
}

/// The update rule, for people.
pub(crate) fn optimiser(run: &RunConfig) -> String {
    let mut optimiser = run.optimiser.rule.title().to_owned();
    if run.optimiser.clip > 0.0 {
        optimiser += &format!(", gradients clipped to {}", run.optimiser.clip);
    }
    let weight_decay = run.optimiser.rule.number("optimiser.weight_decay");
    if let Some(weight_decay) = weight_decay.filter(|decay| *decay > 0.0) {
        optimiser += &format!(", weight decay {weight_decay}");
    }
    optimiser
}

/// A learning rate, in words or a number, and its course, for people.
pub(crate) fn course(learning_rate: &str, schedule: &Schedule) -> String {
    format!(
        "{learning_rate} after {} of warm-up, then {}",
        counted(schedule.warmup, "step"),
        schedule.course()
    )
}
