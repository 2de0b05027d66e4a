//! Charts as other programs see them: XML with marks in it.

#![allow(dead_code, reason = "each test file uses its own part")]

use lns_report::Chart;
use roxmltree::{Document, Node};

pub(crate) fn names(charts: &[Chart]) -> Vec<&str> {
    charts.iter().map(|chart| chart.name.as_str()).collect()
}

pub(crate) fn chart<'a>(charts: &'a [Chart], name: &str) -> Document<'a> {
    let chart = charts.iter().find(|chart| chart.name == name).unwrap();
    Document::parse(&chart.svg).unwrap()
}

pub(crate) fn has_class(node: &Node, class: &str) -> bool {
    node.attribute("class").is_some_and(|all| all.split(' ').any(|one| one == class))
}

/// Marks of a class, those of the legend left out.
pub(crate) fn marks<'a>(document: &'a Document, class: &'a str) -> Vec<Node<'a, 'a>> {
    let in_legend = |node: &Node| node.ancestors().any(|n| has_class(&n, "legend"));
    document.descendants().filter(|n| has_class(n, class) && !in_legend(n)).collect()
}

/// What the pointer is told over each column.
pub(crate) fn told(document: &Document) -> Vec<String> {
    let columns = marks(document, "column");
    columns.iter().map(|c| c.first_element_child().unwrap().text().unwrap().to_owned()).collect()
}

pub(crate) fn number(node: &Node, name: &str) -> f64 {
    node.attribute(name).unwrap().parse().unwrap()
}

/// Well-formed, described, with every number finite and inside the paper.
pub(crate) fn check(chart: &Chart) {
    let document = Document::parse(&chart.svg).unwrap_or_else(|e| panic!("{}: {e}", chart.name));
    let root = document.root_element();
    assert_eq!(root.attribute("role"), Some("img"));
    for (described_by, tag) in [("aria-labelledby", "title"), ("aria-describedby", "desc")] {
        let id = root.attribute(described_by).unwrap();
        let node = root.children().find(|n| n.has_tag_name(("http://www.w3.org/2000/svg", tag)));
        assert_eq!(node.unwrap().attribute("id"), Some(id));
    }
    assert!(root.descendants().all(|n| !n.has_tag_name("script")));
    assert!(chart.svg.contains("prefers-color-scheme:dark") && !chart.svg.contains("var("));
    let view: Vec<f64> =
        root.attribute("viewBox").unwrap().split(' ').map(|n| n.parse().unwrap()).collect();
    let numbers = marks(&document, "tick").into_iter().filter(|node| has_class(node, "end"));
    for tick in numbers.filter(|node| node.attribute("x").is_some()) {
        // A character is 6.5 wide at least: a longer number would lose its start, and its minus.
        let text = tick.text().unwrap_or_default();
        let start = number(&tick, "x") - 6.5 * text.chars().count() as f64;
        assert!(start >= 0.0, "{}: {text} is clipped", chart.name);
    }
    for node in root.descendants().filter(Node::is_element) {
        for name in ["x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height"] {
            let Some(text) = node.attribute(name) else { continue };
            let value: f64 = text.parse().unwrap();
            assert!(value.is_finite(), "{}: {name}={text}", chart.name);
            let limit = if name.contains('x') { view[0] + view[2] } else { view[1] + view[3] };
            if !["r", "width", "height"].contains(&name) {
                assert!(value <= limit + 0.5, "{}: {name}={text} is off the paper", chart.name);
            }
        }
        let path = node.attribute("d").unwrap_or_default();
        assert!(!path.contains("NaN") && !path.contains("inf"), "{}: {path}", chart.name);
    }
}
