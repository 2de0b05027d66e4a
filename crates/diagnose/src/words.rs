//! Numbers and layers in the sentences of a verdict.

use lns_show::with_minus;

/// "from layer 11 on"
pub(crate) fn since(layer: Option<usize>) -> String {
    layer.map_or_else(
        || "from the embedding on".to_owned(),
        |layer| format!("from layer {layer} on"),
    )
}

/// Three significant digits.
pub(crate) fn number(value: f64) -> String {
    let magnitude = value.abs();
    let written = match magnitude {
        _ if magnitude == 0.0 => "0".to_owned(),
        m if !(1e-3..1e5).contains(&m) => format!("{value:.2e}"),
        m if m >= 100.0 => format!("{value:.0}"),
        m if m >= 10.0 => format!("{value:.1}"),
        m if m >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    };
    with_minus(&written)
}
