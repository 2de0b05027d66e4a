//! Strings that end a text which a model writes.

/// Watches a text that comes in pieces for strings that end it. The string itself is not part of the
/// text; what may be the beginning of one is held back until that is known.
///
/// ```
/// let mut stops = lns_tokenizer::StopStrings::new(vec!["\nQ:".to_owned()]);
/// assert_eq!(stops.push("deep\n"), ("deep".to_owned(), None));
/// assert_eq!(stops.push("Q"), (String::new(), None));
/// assert_eq!(stops.push(": why"), (String::new(), Some("\nQ:".to_owned())));
/// ```
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
}

impl StopStrings {
    /// Empty strings end nothing.
    pub fn new(mut stops: Vec<String>) -> Self {
        stops.retain(|stop| !stop.is_empty());
        Self { stops, held: String::new() }
    }

    /// The text that is now certain, and the string that has ended it, if one has: nothing is to be
    /// pushed after that.
    pub fn push(&mut self, piece: &str) -> (String, Option<String>) {
        self.held += piece;
        let found = self.stops.iter().filter_map(|stop| Some((self.held.find(stop)?, stop)));
        if let Some((place, stop)) = found.min_by_key(|(place, _)| *place) {
            let stop = stop.clone();
            self.held.truncate(place);
            return (std::mem::take(&mut self.held), Some(stop));
        }
        let certain = self.held.len() - self.longest_beginning();
        let rest = self.held.split_off(certain);
        (std::mem::replace(&mut self.held, rest), None)
    }

    /// The text still held back, when no more comes.
    pub fn finish(self) -> String {
        self.held
    }

    /// Bytes at the end of what is held that begin a string.
    fn longest_beginning(&self) -> usize {
        let of = |stop: &String| {
            let mut lengths = stop.char_indices().map(|(length, _)| length).rev();
            lengths.find(|&length| self.held.ends_with(&stop[..length])).unwrap_or(0)
        };
        self.stops.iter().map(of).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stops(stops: &[&str]) -> StopStrings {
        StopStrings::new(stops.iter().map(|stop| (*stop).to_owned()).collect())
    }

    #[test]
    fn the_first_stop_string_ends_the_text_and_is_not_part_of_it() {
        let mut watched = stops(&["river", "", "the r"]);
        assert_eq!(watched.push("in the "), ("in ".to_owned(), None));
        assert_eq!(watched.push("river"), (String::new(), Some("the r".to_owned())));
        assert_eq!(stops(&[]).push("all"), ("all".to_owned(), None));
    }

    #[test]
    fn what_only_began_a_stop_string_is_given_when_the_text_ends() {
        let mut watched = stops(&["<end>"]);
        assert_eq!(watched.push("a<e"), ("a".to_owned(), None));
        assert_eq!(watched.clone().finish(), "<e");
        assert_eq!(watched.push("<en"), ("<e".to_owned(), None));
        assert_eq!(watched.push("é"), ("<ené".to_owned(), None));
        assert_eq!(watched.finish(), "");
    }

    proptest! {
        #[test]
        fn pieces_are_watched_as_the_whole_text_is(
            text in "[abé]{0,30}", stop in "[abé]{1,4}", cuts: u64,
        ) {
            let mut watched = stops(&[&stop]);
            let (mut given, mut ended, mut piece) = (String::new(), None, String::new());
            for (index, character) in text.chars().enumerate() {
                piece.push(character);
                if ended.is_none() && cuts >> (index % 64) & 1 == 1 {
                    let (more, by) = watched.push(&std::mem::take(&mut piece));
                    given += &more;
                    ended = by;
                }
            }
            if ended.is_none() {
                let (more, by) = watched.push(&piece);
                given += &more;
                ended = by;
            }
            match text.find(&stop) {
                Some(place) => prop_assert_eq!((&*given, ended), (&text[..place], Some(stop))),
                None => prop_assert_eq!((given + &watched.finish(), ended), (text, None)),
            }
        }
    }
}
