//! Which of some names was meant by one that is none of them.

/// In how many letters a name differs from the one that was given, two neighbours that changed
/// places counting once; `None` if more than a third of the given letters differ.
pub fn differs_little(given: &str, known: &str) -> Option<usize> {
    let differs = strsim::damerau_levenshtein(given, known);
    (3 * differs <= given.chars().count()).then_some(differs)
}

/// Of the known names, the one that differs least from the given one, if any is close. Capital and
/// small letters count as the same.
pub fn meant<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_lowercase();
    let close = known.into_iter().filter_map(|name| Some((differs_little(&given, name)?, name)));
    close.min_by_key(|(differs, _)| *differs).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::meant;

    #[test]
    fn the_closest_name_is_meant_and_none_that_is_far() {
        let known = ["pre", "lns", "post", "mix-ln"];
        for (given, expected) in [
            ("lsn", Some("lns")),
            ("LNS", Some("lns")),
            ("mixln", Some("mix-ln")),
            ("zzz", None),
            ("", None),
        ] {
            assert_eq!(meant(given, known), expected, "{given}");
        }
    }
}
