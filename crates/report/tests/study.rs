//! The study's report: what it says, what it draws, and that nothing in a record can break it.

#![allow(clippy::unwrap_used, reason = "what is missing fails the test")]

mod sample;
mod svg;

use lns_record::{Interval, RemovalRecord, StudyRecord};
use lns_report::{TableStyle, study_charts, study_page, study_table, write_study};
use proptest::prelude::*;
use roxmltree::Document;
use sample::study::{empty, full, part};
use svg::{chart, check, marks, names, number, told};
use unicode_width::UnicodeWidthStr;

const PLAIN: TableStyle = TableStyle { width: 160, color: false, unicode: true };

const CHARTS: [&str; 12] = [
    "loss",
    "difference",
    "pairs",
    "variance",
    "growth",
    "angular",
    "removal",
    "effective-depth",
    "idle-layers",
    "embedding-share",
    "theory-1",
    "theory-2",
];

/// The first lines of the terminal's table, on one line: what the page says too.
fn headline(record: &StudyRecord) -> String {
    let wide = TableStyle { width: 10_000, ..PLAIN };
    study_table(record, wide).lines().next().unwrap().to_owned()
}

fn with_difference(low: Option<f64>, high: Option<f64>, count: u64) -> StudyRecord {
    let mut record = part(&["pre", "lns"], 3);
    record.pairs[0].difference = Interval { mean: -0.077, low, high, count };
    record
}

#[test]
fn the_headline_counts_a_difference_only_when_its_interval_leaves_out_zero() {
    assert_eq!(
        headline(&with_difference(Some(-0.104), Some(-0.0501), 3)),
        "lns ends 0.077 nats per token below pre (95 % interval −0.104 to −0.050, 3 seeds)."
    );
    assert_eq!(
        headline(&with_difference(Some(-0.2), Some(0.046), 3)),
        "Undecided: lns ends 0.077 nats per token below pre (95 % interval −0.200 to 0.046, 3 seeds). The \
         interval holds 0: more seeds would narrow it."
    );
    assert_eq!(
        headline(&with_difference(None, None, 1)),
        "lns ends 0.077 nats per token below pre with one seed, which gives no interval: this may be \
         chance."
    );
    assert_eq!(
        headline(&with_difference(None, None, 0)),
        "lns and pre have no finished seed in common yet: no comparison."
    );
}

#[test]
fn the_headline_names_the_noise_and_doubts_what_is_no_larger() {
    let mut record = full(4);
    assert!(headline(&record).ends_with("3 seeds; the noise probe moves by up to 0.008)."));
    record.pairs[1].differences[0].1 = -0.2;
    assert!(headline(&record).starts_with("Undecided: lns ends 0.071"), "{}", headline(&record));
    assert!(
        headline(&record).contains("moves by up to 0.200). The noise probe, which changes nothing")
    );
    assert!(headline(&record).ends_with("do not count on this difference."));
}

#[test]
fn other_groups_diverged_and_missing_runs_are_told_in_page_and_terminal() {
    let mut record = full(4);
    record.pairs[4].difference =
        Interval { mean: -0.04, low: Some(-0.05), high: Some(-0.03), count: 3 };
    let (page, table) = (study_page(&record), study_table(&record, PLAIN));
    for told in [
        "Below pre beyond their intervals: sandwich (−0.040).",
        "Undecided against pre: pre + scaled init (−0.008).",
        "One seed, so no interval and no conclusion: mix-ln (0.017).",
        "No finished seed in common with pre: post.",
        "not part of the table's means: post (1 of 1).",
        "2 runs are not finished",
    ] {
        assert!(table.contains(told), "{told}\n{table}");
        let escaped = told.replace('\'', "&#39;");
        assert!(page.contains(told) || page.contains(&escaped), "{told}");
    }
    record.missing_runs = 0;
    assert!(!study_page(&record).contains("are not finished"));
}

#[test]
fn a_study_too_short_to_judge_by_says_so_before_its_findings() {
    let caution = "150 steps are far too few to judge".to_owned();
    let record = StudyRecord { caution: Some(caution.clone()), ..full(4) };
    let (page, table) = (study_page(&record), study_table(&record, PLAIN));
    assert!(page.find(&caution).unwrap() < page.find("lns ends 0.071").unwrap());
    assert!(table.starts_with(&caution), "{table}");
}

#[test]
fn without_lns_the_lowest_group_is_the_subject() {
    assert!(
        headline(&part(&["pre", "pre + scaled init", "mix-ln"], 3)).contains("pre + scaled init")
    );
    assert!(headline(&part(&["pre"], 3)).ends_with("there is nothing to compare it with."));
    assert_eq!(headline(&empty()), "This study has no runs yet.");
}

#[test]
fn the_page_tells_the_finding_first_and_then_draws_every_chart() {
    let record = full(24);
    let page = study_page(&record);
    let order = [
        "<h1>laptop</h1>",
        "lns ends 0.071 nats per token below pre",
        "What every run has in common",
        "AdamW",
        "Results",
        "4.006 to 4.058",
        // e^4.006 to e^4.058.
        "54.95 to 57.83",
        "25.76",
        "1 diverged",
        "its difference to pre is what chance alone does",
        "arXiv 2502.05795, tables 1 and 4, 130M",
        "id=\"loss\"",
        "id=\"removal\"",
        "Theory, measured",
        "disagrees",
        "id=\"theory-2\"",
        "runs/pre-seed0",
        "How to read this",
    ];
    let mut from = 0;
    for text in order {
        from += page[from..].find(text).unwrap_or_else(|| panic!("{text} is missing or too early"));
    }
    for outside in ["<script", "<link", "<img", "@import", "url(", "src=", "$"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(page.matches("<svg").count(), 2 * CHARTS.len(), "wide and narrow");
    let charts = study_charts(&record);
    assert_eq!(names(&charts), CHARTS);
    charts.iter().for_each(check);
}

#[test]
fn what_was_not_measured_has_no_chart_and_no_column() {
    let record = part(&["pre", "lns"], 3);
    assert_eq!(names(&study_charts(&record)), CHARTS[..5]);
    let page = study_page(&record);
    assert!(page.contains("No model of this study was diagnosed"));
    assert!(!page.contains("<small>depth</small>") && !page.contains("Theory, measured"));
    assert!(!page.contains("bound"));
    let ideal = StudyRecord { ideal_loss: Some(3.9), ..record };
    assert!(study_page(&ideal).contains("<td>3.900</td>"));
    assert_eq!(study_charts(&empty()), []);
    assert!(study_page(&empty()).contains("This study has no runs yet."));
}

#[test]
fn lines_are_means_over_seeds_with_a_band_where_there_are_several() {
    let record = full(4);
    let charts = study_charts(&record);
    let loss = chart(&charts, "loss");
    // The diverged group ends above the chart: named there, not drawn.
    assert_eq!(marks(&loss, "line").len(), 6);
    let texts: Vec<&str> = loss.descendants().filter_map(|node| node.text()).collect();
    assert!(texts.contains(&"lns 4.040") && texts.contains(&"post (diverged) 6.942 ↑"));
    let same_seeds = study_charts(&part(&["pre", "lns", "pre + scaled init"], 3));
    let loss = chart(&same_seeds, "loss");
    assert_eq!((marks(&loss, "line").len(), marks(&loss, "band").len()), (3, 3));
    // From above, as drawn.
    assert_eq!(
        told(&loss).pop().unwrap(),
        "step 1\u{202f}220\npre: 4.103 (4.090 to 4.113, 3 seeds)\n\
         pre + scaled init: 4.095 (4.091 to 4.100, 3 seeds)\nlns: 4.032 (4.021 to 4.040, 3 seeds)"
    );
    let difference = chart(&charts, "difference");
    assert!(told(&difference).pop().unwrap().contains("\nlns: −0.071 ("));
    assert!(!told(&difference)[3].contains("\npre:"));
}

#[test]
fn groups_with_unequal_seeds_are_drawn_over_their_common_seeds() {
    // Seed 1 is an unlucky one, and one of the two groups has it alone.
    let mut record = part(&["pre", "lns"], 2);
    record.groups[1].runs.truncate(1);
    let unlucky = &mut record.groups[0].runs[1];
    unlucky.curve.iter_mut().for_each(|point| point.loss += 1.0);
    let charts = study_charts(&record);
    let loss = chart(&charts, "loss");
    let own = record.groups[0].runs[0].curve.last().unwrap().loss;
    let texts: Vec<&str> = loss.descendants().filter_map(|node| node.text()).collect();
    assert!(texts.contains(&format!("pre {own:.3}").as_str()), "{texts:?}");
    let told = "A line is seed 0, the only one that all groups have finished.";
    assert!(texts.iter().any(|text| text.contains(told)), "{texts:?}");
    assert!(study_page(&record).contains("have not finished the same seeds"));
}

#[test]
fn a_study_on_a_phone_keeps_the_names_of_its_lines() {
    let page = study_page(&full(24));
    let narrow = page.split("<svg").filter(|part| part.contains("chart narrow"));
    let loss = narrow.clone().find(|part| part.contains("loss-narrow-title")).unwrap();
    assert!(loss.contains("width=\"400\"") && loss.contains(">lns 4.040<"), "{loss}");
    assert_eq!(narrow.count(), CHARTS.len());
}

#[test]
fn the_loss_chart_is_cut_where_the_ends_can_be_told_apart() {
    let charts = study_charts(&full(4));
    let loss = chart(&charts, "loss");
    let caption = loss.descendants().find(|n| n.tag_name().name() == "desc").unwrap();
    assert!(caption.text().unwrap().contains("What lies above 4.704 is cut off"));
    let texts: Vec<&str> = loss.descendants().filter_map(|node| node.text()).collect();
    assert!(texts.contains(&"4.1") && !texts.contains(&"6.0"));
}

#[test]
fn differences_have_a_dot_for_each_seed_an_interval_and_the_noise_behind_them() {
    let record = full(4);
    let charts = study_charts(&record);
    let pairs = chart(&charts, "pairs");
    assert_eq!(marks(&pairs, "seed").len(), 3 + 2 + 3 + 1 + 1);
    // A bar with two ends for each of the three groups with several seeds.
    assert_eq!(marks(&pairs, "interval").len(), 3 * 3);
    let (zero, noise) = (number(&marks(&pairs, "threshold")[0], "x1"), marks(&pairs, "noise")[0]);
    let left = number(&noise, "x");
    assert!((zero - left - number(&noise, "width") / 2.0).abs() < 0.1, "zero is in its middle");
    let told = told(&pairs);
    assert_eq!(told.len(), 5, "post has nothing to compare");
    assert!(told[0].starts_with("lns: −0.071 (−0.087 to −0.054), lower\nseed 0: "), "{}", told[0]);
}

#[test]
fn panels_show_each_diagnosed_group_on_one_scale() {
    let record = full(24);
    let charts = study_charts(&record);
    let angular = chart(&charts, "angular");
    assert_eq!(marks(&angular, "cells").len(), 6);
    let removal = chart(&charts, "removal");
    assert_eq!(marks(&removal, "bar").len(), 6 * 24);
    assert_eq!(marks(&removal, "column").len(), 6 * 24);
    assert_eq!(marks(&removal, "threshold").len(), 6, "one in each panel");
    let texts = removal.descendants().filter(|node| node.is_text());
    let texts: Vec<&str> = texts.filter_map(|node| node.text()).collect();
    for (name, count) in [("layer", 6), ("Δ loss", 6), ("idle below 0.15", 1)] {
        assert_eq!(texts.iter().filter(|text| **text == name).count(), count, "{name}");
    }
    // Long numbers too: "−0.0001".
    let mut small = record.clone();
    for run in small.groups.iter_mut().flat_map(|group| &mut group.runs) {
        for layer in run.diagnosis.iter_mut().flat_map(|found| &mut found.layers) {
            layer.removal = Some(RemovalRecord {
                delta_nll: -0.0001,
                stderr: None,
                margin: None,
                windows: None,
            });
        }
        run.diagnosis.iter_mut().for_each(|found| found.verdict.idle_threshold = None);
    }
    let charts = study_charts(&small);
    charts.iter().for_each(check);
    let removal = chart(&charts, "removal");
    assert!(
        removal
            .descendants()
            .any(|node| node.text().is_some_and(|text| text.starts_with("−0.0001")))
    );
    // Three seeds: the whisker is their range, and idle is what is idle with each of them.
    let mut odd = record.clone();
    odd.groups[0].runs[1].diagnosis.as_mut().unwrap().verdict.idle_layers.clear();
    let idle =
        |record: &StudyRecord| marks(&chart(&study_charts(record), "removal"), "idle-mark").len();
    assert_eq!(idle(&record) - idle(&odd), 1);
}

#[test]
fn every_number_of_groups_seeds_and_layers_can_be_drawn() {
    let mut many = full(2);
    for copy in 0..10 {
        let mut group = many.groups[3].clone();
        group.name = format!("{} with a name that has no room anywhere {copy}", group.name);
        many.groups.push(group);
    }
    let mut running = part(&["pre", "lns"], 1);
    for run in running.groups.iter_mut().flat_map(|group| &mut group.runs) {
        (run.outcome, run.loss) = ("running".to_owned(), None);
        run.curve.clear();
        run.variance.clear();
    }
    let mut odd = full(3);
    odd.groups[1].runs[0].variance = vec![(5, vec![]), (9, vec![f64::NAN, -1.0, 0.0, 7.0, 8.0])];
    odd.groups[1].runs[1].diagnosis.as_mut().unwrap().layers.clear();
    odd.groups[2].name = "lns".to_owned();
    odd.baseline = "nobody".to_owned();
    for record in [full(0), full(1), full(48), many, running, odd, empty(), part(&["lns"], 1)] {
        study_charts(&record).iter().for_each(check);
        let page = study_page(&record);
        page.match_indices("<svg").for_each(|(at, _)| {
            let end = page[at..].find("</svg>").unwrap() + "</svg>".len();
            Document::parse(&page[at..at + end]).unwrap();
        });
        study_table(&record, PLAIN);
    }
}

#[test]
fn text_of_strangers_is_shown_and_never_obeyed() {
    let hostile = "</title><script>alert(1)</script><b onclick=\"x\">\u{0}\u{1b}\u{202e}";
    let mut record = full(3);
    (record.name, record.baseline) = (hostile.to_owned(), hostile.to_owned());
    record.groups[0].name = hostile.to_owned();
    record.groups[0].runs[0].outcome = hostile.to_owned();
    record.groups[0].runs[0].folder = hostile.to_owned();
    record.settings.push((hostile.to_owned(), hostile.to_owned()));
    record.published_source = Some(hostile.to_owned());
    record.caution = Some(hostile.to_owned());
    for check in &mut record.theory.as_mut().unwrap().checks {
        for text in [&mut check.source, &mut check.scheme, &mut check.quantity, &mut check.expected]
        {
            *text = hostile.to_owned();
        }
    }
    for contrast in &mut record.contrasts {
        contrast.name = hostile.to_owned();
        contrast.weights.iter_mut().for_each(|(name, _)| *name = hostile.to_owned());
    }
    let tuning = record.tuning.as_mut().unwrap();
    tuning.setting = hostile.to_owned();
    tuning.groups.iter_mut().for_each(|group| group.name = hostile.to_owned());
    for curve in &mut record.theory.as_mut().unwrap().curves {
        (curve.scheme, curve.when) = (hostile.to_owned(), hostile.to_owned());
    }
    let page = study_page(&record);
    assert!(!page.contains("<script") && !page.contains("<b onclick"));
    assert!(!page.contains(['\0', '\u{1b}', '\u{202e}']));
    assert!(!study_table(&record, PLAIN).contains(['\u{1b}', '\u{202e}']));
    study_charts(&record).iter().for_each(check);
}

#[test]
fn a_contrast_is_claimed_only_by_its_own_test() {
    let record = full(4);
    let page = study_page(&record);
    for row in [
        "interaction with the initialisation (primary)<small>lns + 0.5 · sandwich − pre − 0.5 · lns + scaled init",
        "<td class=\"left\">below 0</td><td>&lt; 0.001</td><td>0.002</td>",
        "<td class=\"left\">inside ±0.030</td><td>0.900</td><td></td>",
        "<td class=\"left\">undecided</td>",
        "Runs are missing: these are not yet the contrasts that were planned.",
    ] {
        assert!(page.contains(row), "{row}");
    }
    let mut lone = record;
    lone.contrasts.truncate(1);
    let contrast = &mut lone.contrasts[0];
    (contrast.p, contrast.p_holm, contrast.equivalence) = (None, None, None);
    (contrast.estimate.low, contrast.estimate.high, contrast.estimate.count) = (None, None, 1);
    assert!(study_table(&lone, PLAIN).contains("one seed: no test: −0.200, 1 seed\n"));
}

#[test]
fn what_was_tuned_is_shown_with_what_it_cost() {
    let page = study_page(&full(4));
    for row in [
        "pre</th><td>4.200</td><td><strong>4.100</strong></td><td>diverged</td><td class=\"left\">0.003</td>",
        "<td class=\"left\">0.001 (at the edge)</td>",
        "sandwich</th><td>4.000</td><td></td><td></td><td class=\"left\">not tuned yet</td>",
        "on seed 101, which is none of those that are compared",
    ] {
        assert!(page.contains(row), "{row}");
    }
}

#[test]
fn a_study_in_a_terminal_of_100_columns() {
    insta::assert_snapshot!(study_table(&full(4), TableStyle { width: 100, ..PLAIN }));
}

#[test]
fn no_line_is_wider_than_the_terminal_and_ascii_is_kept() {
    for width in [60, 80, 100, 120, 200] {
        for unicode in [true, false] {
            let style = TableStyle { width, unicode, color: false };
            let table = study_table(&full(4), style);
            assert!(unicode || table.is_ascii(), "{table}");
            for line in table.lines() {
                assert!(line.width() <= width, "{} > {width}: {line}", line.width());
            }
        }
    }
}

#[test]
fn a_study_is_written_whole() {
    let dir = tempfile::tempdir().unwrap();
    let record = full(4);
    let written = write_study(dir.path(), &record).unwrap();
    assert_eq!(written.len(), 1 + CHARTS.len());
    assert_eq!(std::fs::read_to_string(&written[0]).unwrap(), study_page(&record));
    assert_eq!(written[1], dir.path().join("charts/loss.svg"));
}

/// Every number of a record.
fn set_all(record: &mut StudyRecord, next: &mut impl FnMut() -> f64) {
    let interval = |next: &mut dyn FnMut() -> f64, count| Interval {
        mean: next(),
        low: Some(next()),
        high: Some(next()),
        count,
    };
    for group in &mut record.groups {
        group.loss = Some(interval(next, 3));
        group.perplexity = Some(interval(next, 3));
        group.published_perplexity = Some(next());
        for run in &mut group.runs {
            run.loss = Some(next());
            run.curve.iter_mut().for_each(|point| point.loss = next());
            run.variance.iter_mut().flat_map(|(_, all)| all).for_each(|value| *value = next());
            let Some(diagnosis) = &mut run.diagnosis else { continue };
            diagnosis.angular_distance.iter_mut().flatten().for_each(|value| *value = next());
            for removal in diagnosis.layers.iter_mut().filter_map(|layer| layer.removal.as_mut()) {
                (removal.delta_nll, removal.stderr) = (next(), Some(next()));
            }
        }
    }
    for pair in &mut record.pairs {
        pair.difference = interval(next, 3);
        pair.differences.iter_mut().for_each(|(_, value)| *value = next());
    }
    record.ideal_loss = Some(next());
    let theory = record.theory.as_mut().unwrap();
    theory.checks.iter_mut().for_each(|check| check.measured = next());
    theory.curves.iter_mut().flat_map(|curve| &mut curve.variance).for_each(|v| *v = next());
}

#[test]
fn a_table_without_intervals_explains_none() {
    let note = "95 %: confidence interval";
    assert!(study_table(&full(3), PLAIN).contains(note));
    let mut single = part(&["pre", "lns"], 3);
    for interval in
        single.groups.iter_mut().flat_map(|group| [&mut group.loss, &mut group.perplexity])
    {
        *interval = interval.map(|all| Interval { low: None, high: None, count: 1, ..all });
    }
    for pair in &mut single.pairs {
        pair.difference = Interval { low: None, high: None, count: 1, ..pair.difference };
    }
    let table = study_table(&single, PLAIN);
    assert!(!table.contains(note) && !table.contains("95 %"), "{table}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_numbers_can_be_drawn(values in proptest::collection::vec(proptest::num::f64::ANY, 1..90)) {
        let mut values = values.into_iter().cycle();
        let mut record = full(3);
        set_all(&mut record, &mut || values.next().unwrap());
        study_charts(&record).iter().for_each(check);
        study_page(&record);
        study_table(&record, PLAIN);
    }

    #[test]
    fn any_steps_can_be_drawn(steps in proptest::collection::vec(any::<u64>(), 1..20)) {
        let mut steps = steps.into_iter().cycle();
        let mut record = full(3);
        for run in record.groups.iter_mut().flat_map(|group| &mut group.runs) {
            run.curve.iter_mut().for_each(|point| point.step = steps.next().unwrap());
            run.variance.iter_mut().for_each(|(step, _)| *step = steps.next().unwrap());
        }
        study_charts(&record).iter().for_each(check);
    }
}
