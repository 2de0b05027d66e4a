//! The terminal's tables, as they are printed.

#![allow(clippy::unwrap_used, reason = "what is missing fails the test")]

mod sample;

use lns_report::{TableStyle, comparison_table, diagnosis_table};
use unicode_width::UnicodeWidthStr;

const PLAIN: TableStyle = TableStyle { width: 80, color: false, unicode: true };

#[test]
fn a_default_diagnosis_at_80_columns() {
    let table = diagnosis_table(&sample::default_probes("models/smol.gguf", 8), PLAIN);
    insta::assert_snapshot!(table);
}

#[test]
fn a_full_diagnosis_at_120_columns() {
    let style = TableStyle { width: 120, ..PLAIN };
    insta::assert_snapshot!(diagnosis_table(&sample::full("models/smol.gguf", 8), style));
}

#[test]
fn a_diagnosis_in_ascii() {
    let style = TableStyle { unicode: false, ..PLAIN };
    let table = diagnosis_table(&sample::default_probes("模型.gguf", 3), style);
    assert!(table.is_ascii());
    insta::assert_snapshot!(table);
}

#[test]
fn a_file_of_an_earlier_version_is_shown_with_what_it_has() {
    let record = sample::earlier("m", 8);
    let table = diagnosis_table(&record, TableStyle { width: 140, ..PLAIN });
    let of_layer_3 = table.lines().find(|line| line.trim_start().starts_with("3 ")).unwrap();
    let shown = format!("{:.0}", record.stream[3].variance_without_first);
    assert!(of_layer_3.contains(&shown), "{shown}: {of_layer_3}");
    assert!(table.contains("in the file of an earlier version the mean without"), "{table}");
    assert!(!table.contains("Massive") && !table.contains("  mean"));
}

#[test]
fn the_variance_shown_is_the_median_tokens_and_heavy_tokens_are_named() {
    let record = sample::default_probes("m", 30);
    let table = diagnosis_table(&record, PLAIN);
    let of_layer_20 = table.lines().find(|line| line.trim_start().starts_with("20 ")).unwrap();
    let median = format!("{:.1}", record.stream[20].variance_median.unwrap());
    assert_eq!(of_layer_20.split_whitespace().nth(1), Some(&median[..]), "{of_layer_20}");
    assert!(table.contains("4 of 8\u{202f}192 tokens carry more than 100 times"), "{table}");
    let named: Vec<&str> = table.lines().filter(|line| line.starts_with('"')).collect();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(named[0]), ["\"<|endoftext|>\"", "0", "1", "0", "10", "6.90e4"]);
    assert_eq!(words(named[2]), ["\"", "the\"", "284", "2", "2", "10", "3.10e4"]);
}

#[test]
fn two_models_of_different_depth_side_by_side() {
    let mut other = sample::default_probes("runs/lns", 4);
    other.verdict.idle_layers = vec![2];
    let records = [sample::full("runs/pre", 6), other];
    insta::assert_snapshot!(comparison_table(&records, PLAIN));
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    let records = [sample::full("a", 30), sample::full("b", 24), sample::full("c", 200)];
    for width in [60, 80, 100, 120, 200] {
        for unicode in [true, false] {
            let style = TableStyle { width, unicode, color: false };
            let tables = [diagnosis_table(&records[0], style), comparison_table(&records, style)];
            for line in tables.iter().flat_map(|table| table.lines()) {
                assert!(line.width() <= width, "{} > {width}: {line}", line.width());
            }
        }
    }
}

#[test]
fn every_number_that_was_measured_is_shown_at_every_width() {
    let record = sample::full("m", 4);
    let above = |table: &str| -> String {
        table.lines().filter(|line| line.trim_start().starts_with("layer ")).collect()
    };
    let wide = above(&diagnosis_table(&record, TableStyle { width: 400, ..PLAIN }));
    let headings = ["all tokens", "var MLP", "‖J−I‖", "lens KL", "Δ attention", "gradient"];
    for width in [40, 80, 120] {
        let table = diagnosis_table(&record, TableStyle { width, ..PLAIN });
        for heading in headings {
            let shown = above(&table).matches(heading).count();
            assert_eq!(wide.matches(heading).count(), shown, "{heading}");
        }
        // Each of the tables says whose rows they are.
        let tables = table.lines().filter(|line| line.trim_start().starts_with("layer ")).count();
        let rows = table.lines().filter(|line| line.trim_start().starts_with("out ")).count();
        assert!(tables > 1 && rows <= tables, "{table}");
    }
}

#[test]
fn colours_mark_idle_layers_and_change_no_text() {
    let record = sample::default_probes("m", 30);
    let colored = diagnosis_table(&record, TableStyle { color: true, ..PLAIN });
    let idle: Vec<&str> = colored.lines().filter(|line| line.contains("\u{1b}[33m")).collect();
    let said = idle.iter().filter(|line| line.contains("idle"));
    assert_eq!(said.count(), record.verdict.idle_layers.len(), "colour is not alone");
    for line in idle {
        let layer = line.trim_start_matches("\u{1b}[33m").split_whitespace().next().unwrap();
        assert!(record.verdict.idle_layers.contains(&layer.parse().unwrap()), "{line}");
    }
    let mut plain = colored;
    for code in ["\u{1b}[0m", "\u{1b}[1m", "\u{1b}[2m", "\u{1b}[33m"] {
        plain = plain.replace(code, "");
    }
    assert_eq!(plain, diagnosis_table(&record, PLAIN));
}

#[test]
fn a_name_cannot_command_the_terminal() {
    let mut record = sample::bare("\u{1b}]0;owned\u{7}\u{1b}[2J", 1);
    record.verdict.text = "\u{1b}[31mred\nline".to_owned();
    record.heavy_tokens = sample::full("m", 1).heavy_tokens;
    record.heavy_tokens[0].text = "\u{1b}]0;\u{7}\n\u{202e}".to_owned();
    let table = diagnosis_table(&record, PLAIN) + &comparison_table(&[record], PLAIN);
    assert!(!table.contains(['\u{1b}', '\u{7}']));
}

#[test]
fn records_with_nothing_or_with_nonsense_still_make_tables() {
    let mut odd = sample::full("odd", 5);
    odd.stream.truncate(1);
    odd.lens[0].index = usize::MAX;
    odd.verdict.idle_layers = vec![usize::MAX];
    for layer in &mut odd.layers {
        layer.block_influence = Some(f64::NAN);
        layer.removal.as_mut().unwrap().stderr = Some(f64::INFINITY);
    }
    let records = [sample::bare("none", 0), sample::bare("bare", 3), odd];
    for width in [0, 1, 10, 80] {
        let style = TableStyle { width, ..PLAIN };
        for record in &records {
            assert!(diagnosis_table(record, style).contains("layer"));
        }
        assert!(comparison_table(&records, style).contains("#3"));
    }
    assert!(comparison_table(&[], PLAIN).contains("layer"));
}

#[test]
fn a_quantity_that_nobody_here_has_heard_of_has_its_column_and_its_note() {
    let record = sample::novel("m", 12);
    let table = diagnosis_table(&record, TableStyle { width: 200, ..PLAIN });
    let heading = table.lines().find(|line| line.starts_with("layer ")).unwrap();
    assert!(heading.contains("Δ loss") && heading.contains("novelty"), "{table}");
    let of_layer_3 = table.lines().find(|line| line.trim_start().starts_with("3 ")).unwrap();
    assert!(of_layer_3.contains("0.400 ± 0.010"), "{of_layer_3}");
    let told = "Rank correlation (Spearman) over 12 layers: 0.76 between \"how new it is\" and \"Δ loss, \
                layer\".";
    let words: Vec<&str> = table.split_whitespace().collect();
    assert!(words.join(" ").contains(told), "{table}");
}
