//! Colours. Six hues for series that stay apart for colour-blind eyes and in grey, each in a
//! version for light and for dark paper; one ramp for the heatmap.

/// A colour by its use: its name in the style sheets, on light paper, on dark paper.
pub(crate) struct Ink {
    pub(crate) name: &'static str,
    pub(crate) light: &'static str,
    pub(crate) dark: &'static str,
}

/// Series hues in order of use; a seventh series starts again.
pub(crate) const HUES: usize = 6;

pub(crate) const INKS: [Ink; 12] = [
    Ink { name: "paper", light: "#ffffff", dark: "#15181c" },
    Ink { name: "ink", light: "#1b1f24", dark: "#e8eaed" },
    Ink { name: "muted", light: "#59636e", dark: "#a3acb6" },
    Ink { name: "rule", light: "#e2e6ea", dark: "#2d333a" },
    Ink { name: "axis", light: "#9aa4ae", dark: "#6b7580" },
    Ink { name: "hover", light: "#8a94a022", dark: "#a3acb626" },
    Ink { name: "hue0", light: "#1264a8", dark: "#6ab2ee" },
    Ink { name: "hue1", light: "#cc5408", dark: "#f5924c" },
    Ink { name: "hue2", light: "#0b7a5c", dark: "#4ec79e" },
    Ink { name: "hue3", light: "#8a4aad", dark: "#cb9fe8" },
    Ink { name: "hue4", light: "#94700a", dark: "#dcb648" },
    Ink { name: "hue5", light: "#3d434b", dark: "#c9d0d8" },
];

/// Nine colours of falling OKLCH lightness, 0.93 to 0.27 in equal steps, hue 102° to 318°, at the
/// chroma that sRGB still holds (0.17 at most): near is light yellow, far is dark purple, as in
/// the paper's figure 2, and lightness alone keeps the order.
const RAMP: [[u8; 3]; 9] = [
    [0xff, 0xeb, 0x4e],
    [0xaa, 0xe2, 0x60],
    [0x51, 0xce, 0x89],
    [0x0c, 0xb1, 0xa0],
    [0x0b, 0x90, 0xa2],
    [0x03, 0x70, 0xa0],
    [0x24, 0x4a, 0xa2],
    [0x40, 0x22, 0x81],
    [0x3f, 0x01, 0x4e],
];

/// The ramp at `share`, 0 to 1, as `#rrggbb`.
pub(crate) fn ramp(share: f64) -> String {
    let at = share.clamp(0.0, 1.0) * (RAMP.len() - 1) as f64;
    let from = (at as usize).min(RAMP.len() - 2);
    let part = at - from as f64;
    let mix = |c: usize| {
        let (a, b) = (f64::from(RAMP[from][c]), f64::from(RAMP[from + 1][c]));
        (a + (b - a) * part).round() as u8
    };
    format!("#{:02x}{:02x}{:02x}", mix(0), mix(1), mix(2))
}

/// `rules` with each `$name` set to the custom property of that name: follows the page's theme.
pub(crate) fn themed(rules: &str) -> String {
    inked(rules, |ink| format!("var(--{})", ink.name))
}

/// `rules` with literal colours, light and then dark for those who prefer it: works in a file of
/// its own, also where custom properties are not known.
pub(crate) fn literal(rules: &str) -> String {
    let light = inked(rules, |ink| ink.light.to_owned());
    let dark = inked(rules, |ink| ink.dark.to_owned());
    format!("{light}@media(prefers-color-scheme:dark){{{dark}}}")
}

/// The custom properties that [`themed`] refers to.
pub(crate) fn properties() -> String {
    let set = |colour: fn(&Ink) -> &str| -> String {
        INKS.iter().map(|ink| format!("--{}:{};", ink.name, colour(ink))).collect()
    };
    let (light, dark) = (set(|ink| ink.light), set(|ink| ink.dark));
    format!(
        ":root{{color-scheme:light dark;{light}}}\
         @media(prefers-color-scheme:dark){{:root{{{dark}}}}}\
         @media print{{:root{{{light}}}}}"
    )
}

fn inked(rules: &str, colour: impl Fn(&Ink) -> String) -> String {
    // Longest names first, so that one which starts another is not cut into it.
    let mut inks: Vec<&Ink> = INKS.iter().collect();
    inks.sort_by_key(|ink| std::cmp::Reverse(ink.name.len()));
    inks.into_iter()
        .fold(rules.to_owned(), |rules, ink| rules.replace(&format!("${}", ink.name), &colour(ink)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// WCAG 2 relative luminance.
    fn luminance(hex: &str) -> f64 {
        let channel = |at: usize| {
            let c = f64::from(u8::from_str_radix(&hex[at..at + 2], 16).unwrap()) / 255.0;
            if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
    }

    fn contrast(a: &str, b: &str) -> f64 {
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn text_and_series_stand_out_from_both_papers() {
        let paper = &INKS[0];
        for ink in INKS.iter().filter(|ink| ink.name.starts_with("hue")) {
            assert!(contrast(ink.light, paper.light) > 4.0, "{} on light", ink.name);
            assert!(contrast(ink.dark, paper.dark) > 4.0, "{} on dark", ink.name);
        }
        for ink in INKS.iter().filter(|ink| ["ink", "muted"].contains(&ink.name)) {
            assert!(contrast(ink.light, paper.light) > 5.5, "{} on light", ink.name);
            assert!(contrast(ink.dark, paper.dark) > 5.5, "{} on dark", ink.name);
        }
    }

    #[test]
    fn the_ramp_darkens_all_the_way() {
        let shades: Vec<f64> = (0..=100).map(|k| luminance(&ramp(f64::from(k) / 100.0))).collect();
        assert!(shades.windows(2).all(|pair| pair[1] < pair[0] + 1e-3), "{shades:?}");
        assert_eq!((ramp(-3.0), ramp(7.0)), (ramp(0.0), ramp(1.0)));
    }

    #[test]
    fn no_placeholder_is_left_in_a_style_sheet() {
        let rules = "a{fill:$ink;stroke:$hue3}b{fill:$paper}";
        assert_eq!(themed(rules), "a{fill:var(--ink);stroke:var(--hue3)}b{fill:var(--paper)}");
        assert!(!literal(rules).contains('$'));
    }
}
