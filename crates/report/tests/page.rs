//! The page: whole without anything beside it, and safe with names from strangers.

#![allow(clippy::unwrap_used, reason = "what is missing fails the test")]

mod sample;

use lns_record::DiagnoseRecord;
use lns_report::{ReportError, diagnosis_charts, diagnosis_page, write_report};
use roxmltree::Document;

/// The SVG drawings of a page.
fn drawings(page: &str) -> Vec<&str> {
    let starts = page.match_indices("<svg").map(|(at, _)| &page[at..]);
    starts.map(|rest| &rest[..rest.find("</svg>").unwrap() + "</svg>".len()]).collect()
}

#[test]
fn the_page_tells_the_verdict_first_and_then_draws_every_chart() {
    let records = [sample::full("models/smol.gguf", 30)];
    let page = diagnosis_page(&records);
    let order = [
        "<h1>smol.gguf</h1>",
        "The middle of this model works little",
        "Effective depth",
        "12.4",
        "Removing layer 0 costs 8.05",
        "models/smol.gguf",
        "3.11 ± 0.04",
        "Layer by layer",
        "<svg",
        "All numbers",
        "How to read this",
        "What was not measured",
    ];
    let places: Vec<usize> = order.iter().map(|text| page.find(text).expect(text)).collect();
    assert!(places.is_sorted(), "{places:?}");
    let drawings = drawings(&page);
    assert_eq!(drawings.len(), 2 * diagnosis_charts(&records).len(), "wide and narrow");
    for drawing in drawings {
        Document::parse(drawing).unwrap();
    }
}

#[test]
fn on_a_phone_no_chart_is_wider_than_the_screen_and_every_word_of_it_is_inside() {
    let page = diagnosis_page(&[sample::full("a", 30), sample::full("b", 12)]);
    assert!(!page.contains("min-width:680px"), "nothing scrolls sideways");
    let narrow = drawings(&page).into_iter().filter(|drawing| drawing.contains("chart narrow"));
    for drawing in narrow {
        let document = Document::parse(drawing).unwrap();
        assert_eq!(document.root_element().attribute("width"), Some("400"));
        for text in document.descendants().filter(|node| node.has_tag_name("text")) {
            let x: f64 = text.attribute("x").map_or(0.0, |x| x.parse().unwrap());
            assert!((0.0..=400.0).contains(&x), "{text:?}");
        }
    }
}

#[test]
fn the_page_needs_nothing_beside_itself() {
    let page = diagnosis_page(&[sample::full("m", 4)]);
    for outside in ["<script", "<link", "<img", "@import", "url(", "src="] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("default-src 'none'"));
    assert!(!page.contains('$'), "a placeholder is left in a style sheet");
}

#[test]
fn text_of_strangers_is_shown_and_never_obeyed() {
    let hostile = "</title><script>alert(1)</script><b onclick=\"x\">\u{0}\u{202e}";
    let mut record = sample::full(hostile, 4);
    record.model = serde_json::json!({"model_type": hostile, hostile: "</pre><script>"});
    record.text.files = vec![hostile.to_owned(); 9];
    record.verdict.text = hostile.to_owned();
    record.verdict.evidence = vec![hostile.to_owned()];
    record.probes[0].name = hostile.to_owned();
    let page = diagnosis_page(&[record.clone(), record]);
    assert!(!page.contains("<script") && !page.contains("<b onclick"));
    assert!(page.contains("&lt;script&gt;"));
    assert!(!page.contains('\0') && !page.contains('\u{202e}'));
    assert!(page.contains(" and 6 more"));
}

#[test]
fn a_curve_that_the_verdict_calls_undecided_is_undecided_in_the_tile() {
    let mut record = sample::full("m", 12);
    let tile = |record: &DiagnoseRecord| {
        let page = diagnosis_page(std::slice::from_ref(record));
        let tile = page.split("<dt>Variance growth</dt>").nth(1).unwrap();
        tile.split("</dd>").next().unwrap().to_owned()
    };
    assert!(tile(&record).contains(">polynomial<"), "{}", tile(&record));
    record.verdict.variance_growth.as_mut().unwrap().confidence = 0.501;
    let tile = tile(&record);
    assert!(tile.contains(">undecided<") && tile.contains("the polynomial one has 50.1"), "{tile}");
}

#[test]
fn idle_layers_that_were_not_judged_are_not_counted_as_none() {
    let mut record = sample::full("m", 12);
    (record.verdict.idle_layers, record.verdict.idle_threshold) = (vec![], None);
    let page = diagnosis_page(&[record]);
    assert!(page.contains(">not judged<") && page.contains("that takes 4 windows or more"));
}

#[test]
fn heavy_tokens_stand_in_a_table_and_earlier_versions_files_in_the_old_columns() {
    let page = diagnosis_page(&[sample::full("m", 12)]);
    assert!(page.contains("<code>&quot;&lt;|endoftext|&gt;&quot;</code>"), "{page}");
    assert!(page.contains("variance, median token"));
    let page = diagnosis_page(&[sample::earlier("m", 12)]);
    assert!(!page.contains("variance, median token") && !page.contains("Massive activations:"));
    assert!(page.contains("mean without first tokens"));
}

#[test]
fn a_record_without_any_probe_says_how_to_measure() {
    let page = diagnosis_page(&[sample::bare("m", 12)]);
    for probe in
        ["stream", "branches", "angular", "removal", "sublayers", "gradients", "jacobian", "lens"]
    {
        assert!(page.contains(&format!("<code>--probes {probe}</code>")), "{probe}");
    }
    assert!(drawings(&page).is_empty());
    assert!(!page.contains("layers that share the work"));
}

#[test]
fn probes_that_ran_are_not_called_missing() {
    let page = diagnosis_page(&[sample::default_probes("m", 12)]);
    assert!(page.contains("--probes sublayers") && page.contains("--probes lens"));
    assert!(!page.contains("--probes removal") && !page.contains("--probes stream"));
    assert!(diagnosis_page(&[sample::full("m", 12)]).contains("Every probe ran."));
}

#[test]
fn several_models_stand_side_by_side_under_their_own_names() {
    let page =
        diagnosis_page(&[sample::full("runs/a/model", 30), sample::full("runs/b/model", 12)]);
    // The last parts of the paths are the same, so the whole paths tell them apart.
    assert!(page.contains("runs/a/model<span class=\"against\"> against </span>runs/b/model"));
    assert_eq!(page.matches("<article class=\"verdict\">").count(), 2);
    // The figure, and title and caption of its wide and its narrow drawing.
    assert_eq!(page.matches("id=\"angular-").count(), 2 * 5);
}

#[test]
fn numbers_that_are_not_finite_do_not_break_the_page() {
    let mut record = sample::full("m", 4);
    let baseline = record.baseline.as_mut().expect("a loss");
    (baseline.nll, baseline.perplexity) = (f64::NAN, f64::INFINITY);
    record.stream[1].variance = f64::NAN;
    record.verdict.effective_depth = Some(f64::NAN);
    let page = diagnosis_page(&[record]);
    drawings(&page).into_iter().for_each(|drawing| assert!(Document::parse(drawing).is_ok()));
    assert!(page.contains("infinite"));
}

#[test]
fn a_report_is_written_whole_and_replaces_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("report.html"), "old").unwrap();
    let records = [sample::default_probes("m", 4)];
    let written = write_report(dir.path(), &records).unwrap();
    assert_eq!(written.len(), 1 + 5);
    assert_eq!(std::fs::read_to_string(&written[0]).unwrap(), diagnosis_page(&records));
    assert_eq!(written[1], dir.path().join("charts/variance.svg"));
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn an_error_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("report.html")).unwrap();
    let error = write_report(dir.path(), &[sample::bare("m", 1)]).unwrap_err();
    assert!(matches!(error, ReportError::Write { .. }));
    assert!(error.to_string().contains("report.html"), "{error}");
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = write_report(&file, &[sample::bare("m", 1)]).unwrap_err();
    assert!(
        error.to_string().contains("file/charts") || error.to_string().contains("file\\charts")
    );
    assert!(matches!(write_report(dir.path(), &[]), Err(ReportError::NoRecords)));
}

#[test]
fn models_that_read_other_text_are_called_incomparable_where_their_charts_are() {
    let mut other = sample::full("b", 12);
    let records = [sample::full("a", 30), other.clone()];
    let warning = "Not to be compared in numbers";
    assert!(!diagnosis_page(&records).contains(warning));
    (other.text.windows, other.text.tokens) = (1, 512);
    let records = [sample::full("a", 30), other];
    let page = diagnosis_page(&records);
    let charts = &page[page.find("Layer by layer").unwrap()..];
    let captions = charts.split("<figcaption>").skip(1);
    let mark = "Shapes only, not numbers (different windows). ";
    assert!(captions.clone().count() > 5 && captions.clone().all(|text| text.starts_with(mark)));
    assert_eq!(page.matches(warning).count(), 1, "said in full once");
    assert!(charts.starts_with("Layer by layer</h2><p class=\"warning\">Not to be compared"));
    let style = lns_report::TableStyle { width: 400, color: false, unicode: true };
    let table = lns_report::comparison_table(&records, style);
    assert!(
        table.contains(
            "these models read different windows (a: 16 windows of 512 tokens; b: 1 window"
        )
    );
}

#[test]
fn a_quantity_that_nobody_here_has_heard_of_is_tabulated_and_drawn() {
    let record = sample::novel("m", 12);
    let page = diagnosis_page(std::slice::from_ref(&record));
    assert!(page.contains("<th scope=\"col\" title=\"furlongs\">how new it is</th>"), "{page}");
    assert!(page.contains("<td>0.400 ± 0.010</td>"));
    assert!(page.contains("id=\"novelty\""), "its chart");
    assert!(page.contains("Novelty by layer") && page.contains("newness, furlongs"));
    let charts = diagnosis_charts(&[record]);
    let drawn = charts.iter().find(|chart| chart.name == "novelty").unwrap();
    assert_eq!(drawn.svg.matches("\nnew: ").count(), 12, "a tooltip for each layer");
}

#[test]
fn what_a_stranger_describes_names_no_file_elsewhere_and_replaces_no_chart() {
    let mut record = sample::novel("m", 4);
    for (name, known) in [("../../x/<b>", "xb"), ("removal", "removal"), ("", "chart")] {
        record.described.last_mut().unwrap().charts[0].name = name.to_owned();
        record.described.last_mut().unwrap().charts[0].title = "<script>\u{202e}".to_owned();
        let charts = diagnosis_charts(std::slice::from_ref(&record));
        let found: Vec<_> = charts.iter().filter(|chart| chart.name == known).collect();
        assert_eq!(found.len(), 1, "{name}");
        assert!(!found[0].svg.contains("<script") && !found[0].svg.contains('\u{202e}'));
        assert_eq!(found[0].title == "Cost of removing each layer", known == "removal");
    }
}
