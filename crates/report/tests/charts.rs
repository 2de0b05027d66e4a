//! The charts as other programs see them: XML with the right marks in it.

#![allow(clippy::unwrap_used, reason = "what is missing fails the test")]

mod sample;
mod svg;

use lns_record::{DiagnoseRecord, LayerRecord, RemovalRecord};
use lns_report::{Chart, diagnosis_charts};
use proptest::prelude::*;
use roxmltree::Node;
use svg::{chart, check, marks, names, number, told};

fn charts(records: &[DiagnoseRecord]) -> Vec<Chart> {
    diagnosis_charts(records)
}

#[test]
fn every_probe_has_its_chart() {
    let charts = charts(&[sample::full("m", 30)]);
    charts.iter().for_each(check);
    assert_eq!(
        names(&charts),
        [
            "variance",
            "angular",
            "removal",
            "removal-sublayers",
            "influence",
            "ratio",
            "gradients",
            "jacobian",
            "lens-kl",
            "lens-agreement"
        ]
    );
}

#[test]
fn probes_that_did_not_run_leave_no_chart() {
    let charts_of_default = charts(&[sample::default_probes("m", 30)]);
    assert_eq!(names(&charts_of_default), ["variance", "angular", "removal", "influence", "ratio"]);
    assert_eq!(charts(&[sample::bare("m", 30)]), []);
    assert_eq!(charts(&[]), []);
}

#[test]
fn the_removal_chart_has_a_bar_a_whisker_and_a_tooltip_for_each_layer() {
    let record = sample::full("m", 30);
    let charts = charts(std::slice::from_ref(&record));
    let removal = chart(&charts, "removal");
    assert_eq!(marks(&removal, "bar").len(), 30);
    assert_eq!(marks(&removal, "whisker").len(), 30);
    assert_eq!(marks(&removal, "threshold").len(), 1);
    assert_eq!(marks(&removal, "idle").len(), record.verdict.idle_layers.len());
    assert_eq!(marks(&removal, "idle-mark").len(), record.verdict.idle_layers.len());
    let told = told(&removal);
    assert_eq!(told.len(), 30);
    assert_eq!(told[0], "layer 0\nlayer removed: 8.1 ± 0.4");
    assert!(told[4].ends_with("(idle)") && !told[5].contains("idle"));
    let sublayers = chart(&charts, "removal-sublayers");
    assert_eq!(marks(&sublayers, "bar").len(), 60);
}

#[test]
fn bars_grow_from_zero_with_their_value() {
    let mut record = sample::default_probes("m", 3);
    for (layer, delta_nll) in record.layers.iter_mut().zip([1.0, 2.0, -1.0]) {
        layer.removal =
            Some(RemovalRecord { delta_nll, stderr: None, margin: None, windows: None });
    }
    let charts = charts(&[record]);
    let removal = chart(&charts, "removal");
    let bars = marks(&removal, "bar");
    let heights: Vec<f64> = bars.iter().map(|bar| number(bar, "height")).collect();
    assert!((heights[1] - 2.0 * heights[0]).abs() < 0.1 && (heights[2] - heights[0]).abs() < 0.1);
    let ground = number(&bars[0], "y") + heights[0];
    assert!((number(&bars[2], "y") - ground).abs() < 0.1, "a negative bar hangs from zero");
    assert_eq!(marks(&removal, "whisker").len(), 0);
}

#[test]
fn the_heatmap_is_a_triangle_with_true_distances_and_one_dot_for_each_n() {
    let record = sample::full("m", 30);
    let charts = charts(std::slice::from_ref(&record));
    let angular = chart(&charts, "angular");
    let cells = marks(&angular, "cells")[0];
    let cells: Vec<Node> = cells.children().filter(Node::is_element).collect();
    assert_eq!(cells.len(), 30 * 31 / 2);
    let titles: Vec<&str> =
        cells.iter().filter_map(|cell| cell.first_element_child()?.text()).collect();
    assert_eq!(titles.len(), cells.len());
    assert!(titles[1].starts_with("layers 0–1, n = 2: 0."), "{}", titles[1]);
    assert_eq!(marks(&angular, "redundant").len(), 30);
}

#[test]
fn equal_distances_have_equal_colours_in_every_row_and_model() {
    let with = |distances: Vec<Vec<f64>>| {
        let mut record = sample::default_probes("m", 2);
        (record.angular_distance, record.blocks) = (distances, vec![]);
        record
    };
    let records = [with(vec![vec![0.1, 0.4], vec![0.4]]), with(vec![vec![0.4, 0.8], vec![0.1]])];
    let charts = charts(&records);
    let fills = |name| -> Vec<String> {
        let document = chart(&charts, name);
        let cells = marks(&document, "cells")[0].children().filter(Node::is_element);
        cells.map(|cell| cell.attribute("fill").unwrap().to_owned()).collect()
    };
    let (first, second) = (fills("angular-1"), fills("angular-2"));
    assert_eq!(first, [&second[2], &second[0], &second[0]].map(String::as_str));
    assert_ne!(first[0], first[1]);
}

#[test]
fn models_of_different_depth_share_one_axis() {
    let records = [sample::full("a", 30), sample::full("b", 12)];
    let charts = charts(&records);
    charts.iter().for_each(check);
    assert_eq!(names(&charts)[..4], ["variance", "branches", "angular-1", "angular-2"]);
    let removal = chart(&charts, "removal");
    assert_eq!(marks(&removal, "bar").len(), 30 + 12);
    let told = told(&removal);
    assert!(told[5].contains("a, layer removed") && told[5].contains("b, layer removed"));
    assert!(told[12].contains("a, layer removed") && !told[12].contains("b, layer removed"));
}

#[test]
fn the_lens_is_drawn_on_a_logarithmic_axis_without_the_last_streams_rounding() {
    let mut record = sample::full("m", 30);
    record.lens[30].kl = 3e-12;
    let charts = charts(&[record]);
    let lens = chart(&charts, "lens-kl");
    let texts: Vec<&str> = lens.descendants().filter_map(|node| node.text()).collect();
    assert!(texts.contains(&"KL, nats per token (log scale)"));
    assert!(!texts.iter().any(|text| text.starts_with("10⁻")));
}

#[test]
fn models_judged_by_different_thresholds_share_no_line() {
    let mut other = sample::full("b", 30);
    other.verdict.idle_threshold = Some(0.3);
    let charts = charts(&[sample::full("a", 30), other]);
    assert_eq!(marks(&chart(&charts, "removal"), "threshold").len(), 0);
}

#[test]
fn any_depth_can_be_drawn() {
    for layers in [0, 1, 2, 7, 96, 200] {
        charts(&[sample::full("m", layers)]).iter().for_each(check);
    }
}

#[test]
fn equal_values_can_be_drawn() {
    for value in [0.0, 1.0, -2.5] {
        let mut record = sample::full("m", 6);
        set_all(&mut record, &mut || value);
        charts(&[record]).iter().for_each(check);
    }
}

#[test]
fn values_without_a_place_on_the_axis_are_told() {
    let mut record = sample::full("m", 30);
    record.stream[3].variance = 0.0;
    let charts = charts(&[record]);
    let variance = chart(&charts, "variance");
    let caption = variance.descendants().find(|n| n.tag_name().name() == "desc").unwrap();
    assert!(caption.text().unwrap().ends_with("have no place on this axis: 1."));
    // The line is broken there: two strokes.
    let line = marks(&variance, "line")[1].attribute("d").unwrap().to_owned();
    assert_eq!(line.matches('M').count(), 2);
}

#[test]
fn hostile_names_stay_text() {
    let hostile = "<script>alert(1)</script>\"'&\u{0}\u{1b}\u{202e}]]>";
    let records = [sample::full(hostile, 4), sample::full("b", 4)];
    charts(&records).iter().for_each(check);
}

#[test]
fn tables_that_disagree_in_size_can_be_drawn() {
    let mut record = sample::full("m", 8);
    record.stream.truncate(3);
    record.angular_distance = vec![vec![0.1; 20], vec![], vec![0.2]];
    record.blocks[0].start = usize::MAX;
    record.blocks[1].n = usize::MAX;
    record.lens[0].index = usize::MAX;
    record.verdict.idle_layers = vec![99, usize::MAX];
    charts(&[record]).iter().for_each(check);
}

/// Every number of a record.
fn set_all(record: &mut DiagnoseRecord, next: &mut impl FnMut() -> f64) {
    for stream in &mut record.stream {
        (stream.variance, stream.variance_without_first) = (next(), next());
        (stream.variance_content, stream.variance_median) = (Some(next()), Some(next()));
    }
    for layer in &mut record.layers {
        let removal = |next: &mut dyn FnMut() -> f64| {
            Some(RemovalRecord {
                delta_nll: next(),
                stderr: Some(next()),
                margin: Some(next()),
                windows: None,
            })
        };
        *layer = LayerRecord {
            layer: layer.layer,
            attention_variance: Some(next()),
            mlp_variance: Some(next()),
            attention_variance_median: Some(next()),
            mlp_variance_median: Some(next()),
            attention_to_stream: Some(next()),
            mlp_to_stream: Some(next()),
            branch_to_stream: Some(next()),
            cosine: Some(next()),
            block_influence: Some(next()),
            removal: removal(next),
            removal_attention: removal(next),
            removal_mlp: removal(next),
            gradient_norm: Some(next()),
            stream_gradient_norm: Some(next()),
            jacobian_identity_distance: Some(next()),
            jacobian_stderr: Some(next()),
            tasks: Default::default(),
            more: Default::default(),
        };
    }
    record.angular_distance.iter_mut().flatten().for_each(|distance| *distance = next());
    for lens in &mut record.lens {
        (lens.kl, lens.agreement) = (next(), next());
    }
    record.verdict.idle_threshold = Some(next());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_numbers_can_be_drawn(values in proptest::collection::vec(proptest::num::f64::ANY, 1..90)) {
        let mut values = values.into_iter().cycle();
        let mut record = sample::full("m", 4);
        set_all(&mut record, &mut || values.next().unwrap());
        charts(&[record]).iter().for_each(check);
    }
}

#[test]
fn the_largest_number_that_can_be_drawn_has_a_place_on_its_axis() {
    let mut values = [0.0, -8.9e299, 0.0, 0.0, 0.0, 2e-268].into_iter().cycle();
    let mut record = sample::full("m", 4);
    set_all(&mut record, &mut || values.next().unwrap());
    charts(&[record]).iter().for_each(check);
}
