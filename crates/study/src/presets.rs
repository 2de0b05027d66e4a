//! Studies that come with the program.

use lns_spec::Initialisation;
use lns_train::{EvaluationConfig, RUN_PRESETS, RunConfig, Schedule, StatisticsConfig, run_preset};

use crate::{Group, StudyConfig};

/// The names of all presets: a study for each run that comes with the program.
pub const PRESET_NAMES: [&str; 6] = RUN_PRESETS;

/// Perplexities of arXiv 2502.05795 v5, Tables 1, 6 and 7: the group's title, then 130M, 250M, 350M
/// and 1B.
const PUBLISHED: [(&str, [Option<f64>; 4]); 9] = [
    ("pre", [Some(26.73), Some(21.92), Some(19.58), Some(17.02)]),
    ("lns", [Some(25.76), Some(20.35), Some(18.20), Some(15.71)]),
    ("pre + scaled init", [Some(26.04), Some(20.98), None, None]),
    ("post", [Some(26.95), Some(1409.79), Some(1368.33), Some(1390.75)]),
    ("deepnorm", [Some(27.17), Some(22.77), Some(1362.59), Some(1409.08)]),
    ("mix-ln", [Some(26.07), Some(21.39), Some(1363.21), Some(1414.78)]),
    ("sandwich", [Some(26.51), None, None, None]),
    ("before-norm", [Some(26.97), None, None, None]),
    ("lns + scaled init", [Some(25.80), Some(20.79), None, None]),
];

/// What the published figures are worth, for the report.
pub(crate) const SOURCE: &str = "arXiv 2502.05795 v5, Tables 1, 6, 7 and 8: one seed each, other \
    hardware, text and tokenizer; the official evaluation divides by one batch too many, which makes \
    them 0.4 to 3 % too low, and its DeepNorm is not DeepNorm's";

/// The paper's perplexity of a group, if it and its runs are what the paper's were.
pub(crate) fn published(config: &StudyConfig, group: &Group) -> Option<f64> {
    let original = preset(&config.name)?;
    let plain = |group: &Group| Group { seeds: None, ..group.clone() };
    let same_group = original.groups.iter().any(|other| plain(other) == plain(group));
    let size = ["paper-130m", "paper-250m", "paper-350m", "paper-1b"];
    let column = size.iter().position(|size| *size == config.name)?;
    let differences = original.run.differences(&config.run);
    let matters = |key: &str| {
        ["model.", "optimiser.", "schedule."].iter().any(|part| key.starts_with(part))
            || ["steps", "data.length", "data.layout", "batch.sequences"].contains(&key)
    };
    let same_run = !differences.iter().any(|(key, ..)| matters(key));
    let (_, figures) = PUBLISHED.iter().find(|(title, _)| *title == group.title())?;
    figures[column].filter(|_| same_group && same_run)
}

/// The ways in which a preset of the paper's differs from the official code, on purpose.
pub(crate) fn unlike_the_paper(config: &StudyConfig) -> Vec<&'static str> {
    run_preset(&config.name).map_or_else(Vec::new, |preset| preset.notes)
}

/// What a report says first of runs shorter than the laptop study's, the shortest whose numbers are worth a
/// conclusion.
pub(crate) fn too_short(config: &StudyConfig) -> Option<String> {
    let tokens = |run: &RunConfig| run.steps.saturating_mul(run.tokens_per_step());
    let (run, laptop) = (&config.run, run_preset("laptop")?.config);
    (tokens(run) < tokens(&laptop)).then(|| {
        format!(
            "{} of {} are far too few to judge a scheme, or which layers a model needs: most \
             layers have hardly learnt anything yet, so most look idle. These numbers show how a \
             comparison is read; `lns study laptop` trains long enough to say something.",
            lns_show::counted(run.steps, "step"),
            lns_show::counted(run.tokens_per_step(), "token")
        )
    })
}

/// The study called `name`.
pub fn preset(name: &str) -> Option<StudyConfig> {
    use Initialisation::{Normal, Scaled};
    let run = run_preset(name)?.config;
    let all = |scheme| Group::of(scheme, Normal, None);
    let first = |scheme, initialisation| Group::of(scheme, initialisation, Some(vec![1]));
    let (seeds, groups) = match name {
        "smoke" => (
            vec![1, 2],
            vec![all("pre"), all("lns"), first("before-norm", Normal), first("post", Normal)],
        ),
        "laptop" => (
            vec![1, 2, 3],
            vec![
                all("pre"),
                all("lns"),
                Group::of("pre", Scaled, None),
                all("before-norm"),
                first("mix-ln", Normal),
                first("sandwich", Normal),
                first("post", Normal),
                first("deepnorm", Normal),
            ],
        ),
        _ => (
            vec![1],
            ["pre", "lns", "post", "deepnorm", "mix-ln", "sandwich", "before-norm"]
                .into_iter()
                .map(all)
                .chain([first("pre", Scaled), first("lns", Scaled)])
                .collect(),
        ),
    };
    let baseline = "pre".to_owned();
    let diagnosis = crate::DiagnosisConfig::default();
    Some(StudyConfig {
        name: name.to_owned(),
        baseline,
        seeds,
        plan_sha256: None,
        primaries: None,
        theory: true,
        ideal_loss: None,
        diagnosis,
        run,
        tuning: None,
        groups,
        grid: Vec::new(),
        contrasts: Vec::new(),
    })
}

/// A small Pre-LN / LNS pair of one seed, `steps` steps each.
pub fn pair(steps: u64) -> StudyConfig {
    let default = RunConfig::default();
    let run = RunConfig {
        steps,
        schedule: Schedule { warmup: steps / 10, ..default.schedule },
        evaluation: EvaluationConfig { every: 25, tokens: 16_384 },
        statistics: StatisticsConfig { every: 10 },
        ..default
    };
    StudyConfig {
        name: "pair".to_owned(),
        baseline: "pre".to_owned(),
        seeds: vec![1],
        plan_sha256: None,
        primaries: None,
        theory: false,
        ideal_loss: None,
        diagnosis: crate::DiagnosisConfig::default(),
        run,
        groups: ["pre", "lns"].map(|scheme| Group::of(scheme, Initialisation::Normal, None)).into(),
        tuning: None,
        grid: Vec::new(),
        contrasts: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_too_short_to_judge_by_are_called_so_and_those_of_the_other_presets_are_not() {
        let told = too_short(&pair(150)).expect("far too few");
        assert!(told.starts_with("150 steps of 2\u{202f}048 tokens are far too few"), "{told}");
        let short = PRESET_NAMES.map(|name| too_short(&preset(name).expect(name)).is_some());
        assert_eq!(short, [true, false, false, false, false, false]);
    }

    #[test]
    fn every_preset_is_a_study_whose_published_figures_belong_to_its_groups() {
        for name in PRESET_NAMES {
            let study = preset(name).expect(name);
            let plan = study.plan().expect(name);
            assert!(plan.len() >= 4, "{name}");
        }
        let figure = |change: &dyn Fn(&mut StudyConfig)| {
            let mut study = preset("paper-350m").expect("a preset");
            change(&mut study);
            published(&study, &study.groups[1])
        };
        assert_eq!(figure(&|_| ()), Some(18.20));
        assert_eq!(figure(&|study| study.groups[1].seeds = Some(vec![7])), Some(18.20));
        assert_eq!(figure(&|study| study.run.steps = 500), None, "not the paper's run");
        assert_eq!(figure(&|study| study.run.model.num_hidden_layers = 4), None);
        let quarter: toml::Value = toml::from_str("name = \"lns\"\nexponent = 0.25").expect("TOML");
        assert_eq!(figure(&|study| study.groups[1].scheme = quarter.clone()), None);
    }
}
