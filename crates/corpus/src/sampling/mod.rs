//! Which sequences make a batch: a pure function of the seed and of how many sequences were drawn
//! before, so that a run that is resumed sees what it would have seen.
//!
//! Draw n of a source is sequence π(n mod S) of its S sequences, where the permutation π is chosen
//! by the seed, the source and the epoch ⌊n / S⌋ ([`permutation`]): every epoch has each
//! sequence once, in an order of its own. Of several sources the next one is that which is furthest
//! behind its share.

mod permutation;

use lns_spec::IGNORED;
use serde::{Deserialize, Serialize};

use self::permutation::{Permutation, mix};
use crate::corpus::UNLEARNED;
use crate::{CorpusError, Tokens};

/// How documents become sequences of T inputs, each with the token that follows it as its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Documents laid end to end and cut: sequence k has the T + 1 tokens from k·T on, so that each
    /// token but the first is a target once. What is left at the end is not used.
    Packed,
    /// The same sequences, but no token sees another document's, and positions begin at 0 in each document.
    PackedMasked,
    /// One document each, cut to its first T tokens or filled up with padding. The last token and
    /// the padding have no target ([`IGNORED`]). This is how the paper trains.
    Rows,
}

/// Sequences of equal length, one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequences {
    /// Token ids: the first sequence's `length`, then the second's, …
    pub inputs: Vec<u32>,
    /// The token that follows each input, or [`IGNORED`] where there is none or it is not to be
    /// learned.
    pub targets: Vec<u32>,
    /// Tokens in each sequence.
    pub length: usize,
    /// The lengths of the documents in each sequence, or of their parts, which do not see each other;
    /// empty unless the layout is [`Layout::PackedMasked`].
    pub documents: Vec<Vec<usize>>,
}

impl Sequences {
    /// None yet.
    pub fn new(length: usize) -> Self {
        Self { inputs: Vec::new(), targets: Vec::new(), length, documents: Vec::new() }
    }

    /// Adds those of another text, of the same length and layout.
    pub fn extend(&mut self, more: Self) {
        self.inputs.extend(more.inputs);
        self.targets.extend(more.targets);
        self.documents.extend(more.documents);
    }

    /// How many sequences there are.
    pub fn count(&self) -> usize {
        self.inputs.len() / self.length
    }
}

/// How many sequences were drawn from each source, which is all that a run needs to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// One number for each source.
    pub drawn: Vec<u64>,
}

/// Texts, and the order in which their sequences are drawn.
#[derive(Debug, Clone)]
pub struct Sampler {
    sources: Vec<Source>,
    seed: u64,
}

#[derive(Debug, Clone)]
struct Source {
    rows: Rows,
    /// The part of all draws that comes from here.
    share: f64,
    sequences: u64,
}

/// The sequences of one text.
#[derive(Debug, Clone)]
struct Rows {
    tokens: Tokens,
    layout: Layout,
    length: usize,
    padding_id: u32,
}

impl Sampler {
    /// Draws sequences of `length` tokens from texts in proportion to their weights.
    ///
    /// # Errors
    /// No text, a text too short for one sequence, or a weight that is not a positive number.
    pub fn new(
        sources: Vec<(Tokens, f64)>,
        layout: Layout,
        length: usize,
        seed: u64,
        padding_id: u32,
    ) -> Result<Self, CorpusError> {
        let total: f64 = sources.iter().map(|(_, weight)| weight).sum();
        if sources.is_empty() {
            return Err(CorpusError::NoSource);
        }
        let source = |(tokens, weight): (Tokens, f64)| {
            if !(weight > 0.0 && total.is_finite()) {
                return Err(CorpusError::Weight { weight });
            }
            let rows = Rows::new(&tokens, layout, length, padding_id)?;
            Ok(Source { sequences: rows.count(), rows, share: weight / total })
        };
        let sources = sources.into_iter().map(source).collect::<Result<_, _>>()?;
        Ok(Self { sources, seed })
    }

    /// The position before anything is drawn.
    pub fn start(&self) -> Position {
        Position { drawn: vec![0; self.sources.len()] }
    }

    /// Whether a position that was stored belongs to as many sources as there are.
    ///
    /// # Errors
    /// [`CorpusError::Position`] if not.
    pub fn check(&self, position: &Position) -> Result<(), CorpusError> {
        let (given, expected) = (position.drawn.len(), self.sources.len());
        if given == expected { Ok(()) } else { Err(CorpusError::Position { given, expected }) }
    }

    /// The next sequences; the position moves behind them.
    ///
    /// # Panics
    /// If the position is not one of this sampler: see [`Sampler::check`].
    pub fn next(&self, position: &mut Position, sequences: usize) -> Sequences {
        assert_eq!(position.drawn.len(), self.sources.len(), "a position of another sampler");
        let mut drawn = Sequences::new(self.sources[0].rows.length);
        for _ in 0..sequences {
            let index = self.furthest_behind(position);
            let number = &mut position.drawn[index];
            self.sources[index].rows.push(self.sequence(index, *number), &mut drawn);
            *number = number.wrapping_add(1);
        }
        drawn
    }

    /// Sequences of all sources together.
    pub fn sequences_per_epoch(&self) -> u64 {
        self.sources.iter().map(|source| source.sequences).sum()
    }

    /// Which sequence of a source its draw number `number` is.
    fn sequence(&self, source: usize, number: u64) -> u64 {
        let sequences = self.sources[source].sequences;
        let epoch = number / sequences;
        let key = [source as u64, epoch].into_iter().fold(self.seed, |key, part| mix(key) ^ part);
        Permutation::new(sequences, key).of(number % sequences)
    }

    fn furthest_behind(&self, position: &Position) -> usize {
        let next = position.drawn.iter().map(|&drawn| drawn as f64).sum::<f64>() + 1.0;
        let behind = |index: usize| self.sources[index].share * next - position.drawn[index] as f64;
        // The first of those equally far behind.
        (1..self.sources.len()).fold(
            0,
            |first, index| {
                if behind(index) > behind(first) { index } else { first }
            },
        )
    }
}

impl Rows {
    fn new(
        tokens: &Tokens,
        layout: Layout,
        length: usize,
        padding_id: u32,
    ) -> Result<Self, CorpusError> {
        if length < 2 {
            return Err(CorpusError::WindowTooShort { window: length });
        }
        let rows = Self { tokens: tokens.clone(), layout, length, padding_id };
        if rows.count() == 0 {
            return Err(CorpusError::SourceTooShort { tokens: tokens.len(), needed: length + 1 });
        }
        Ok(rows)
    }

    fn count(&self) -> u64 {
        match self.layout {
            Layout::Packed | Layout::PackedMasked => {
                self.tokens.len().saturating_sub(1) / self.length as u64
            }
            Layout::Rows => self.tokens.documents() as u64,
        }
    }

    /// Adds sequence `index`.
    fn push(&self, index: u64, sequences: &mut Sequences) {
        let (length, end) = (self.length as u64, sequences.inputs.len() + self.length);
        let range = match self.layout {
            Layout::Packed | Layout::PackedMasked => index * length..(index + 1) * length + 1,
            Layout::Rows => {
                let document = self.tokens.document(index as usize);
                document.start..document.end.min(document.start + length)
            }
        };
        if self.layout == Layout::PackedMasked {
            sequences.documents.push(self.tokens.document_lengths(range.start..range.end - 1));
        }
        let mut ids = Vec::with_capacity(self.length + 1);
        self.tokens.read_marked(range, &mut ids);
        sequences.inputs.extend(ids.iter().take(self.length).map(|id| id & !UNLEARNED));
        sequences.inputs.resize(end, self.padding_id);
        let learned = |&id: &u32| if id & UNLEARNED == 0 { id } else { IGNORED };
        sequences.targets.extend(ids[1..].iter().map(learned));
        sequences.targets.resize(end, IGNORED);
    }
}

/// The sequences of a text that is held out, in their order, at most as many as `max_tokens` inputs
/// are: what a model is evaluated on.
///
/// # Errors
/// A text or a limit too short for one sequence.
pub fn evaluation_sequences(
    tokens: &Tokens,
    layout: Layout,
    length: usize,
    max_tokens: Option<u64>,
    padding_id: u32,
) -> Result<Sequences, CorpusError> {
    let rows = Rows::new(tokens, layout, length, padding_id).map_err(|error| match error {
        CorpusError::SourceTooShort { tokens, needed } => {
            CorpusError::HeldOutTooShort { tokens, needed }
        }
        error => error,
    })?;
    let wanted = max_tokens.map_or(u64::MAX, |tokens| tokens / length as u64);
    if let (0, Some(max_tokens)) = (wanted, max_tokens) {
        return Err(CorpusError::MaxTokensBelowWindow { max_tokens, window: length });
    }
    let mut sequences = Sequences::new(length);
    for index in 0..rows.count().min(wanted) {
        rows.push(index, &mut sequences);
    }
    Ok(sequences)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tempfile::{TempDir, tempdir};

    use super::*;
    use crate::corpus::tests::words;
    use crate::preparation::tests::{Marked, prepare_marked, prepare_small};
    use crate::preparation::{Kept, Responses};
    use crate::{Limits, Part};

    const END: u32 = 26;
    const PADDING: u32 = 99;

    /// Tokens of these documents, one letter one token, in small shards. The map outlives the
    /// folder where the system can.
    fn tokens(documents: &[&str]) -> (TempDir, Tokens) {
        let letters: Vec<String> = ('a'..='z').map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        let spaced: Vec<String> = documents
            .iter()
            .map(|text| text.chars().map(|letter| format!("{letter} ")).collect())
            .collect();
        let train = spaced.iter().map(|text| (Part::Train, text.as_str()));
        let documents: Vec<_> = train.chain([(Part::Validation, "a")]).collect();
        let folder = tempdir().unwrap();
        let tokenizer = words(&letters, END as usize);
        let place = folder.path().join("corpus");
        let corpus = prepare_small(&documents, &tokenizer, Limits::default(), 20, &place).unwrap();
        (folder, corpus.tokens(Part::Train).clone())
    }

    fn sampler(tokens: &Tokens, layout: Layout, length: usize, seed: u64) -> Sampler {
        Sampler::new(vec![(tokens.clone(), 1.0)], layout, length, seed, PADDING).unwrap()
    }

    /// The rows: inputs and targets.
    fn rows(sequences: &Sequences) -> Vec<(Vec<u32>, Vec<u32>)> {
        let chunks =
            |ids: &[u32]| ids.chunks(sequences.length).map(<[u32]>::to_vec).collect::<Vec<_>>();
        chunks(&sequences.inputs).into_iter().zip(chunks(&sequences.targets)).collect()
    }

    fn alphabet(documents: usize) -> Vec<&'static str> {
        (0..documents)
            .map(|index| &"abcdefghijklmnopqrstuvwxyz"[index % 20..][..1 + index % 6])
            .collect()
    }

    #[test]
    fn packing_loses_nothing_but_the_tail() {
        let (_folder, tokens) = tokens(&alphabet(23));
        let mut all = Vec::new();
        tokens.read(0..tokens.len(), &mut all);
        for length in 2..20 {
            let sequences =
                evaluation_sequences(&tokens, Layout::Packed, length, None, PADDING).unwrap();
            let used = (all.len() - 1) / length * length;
            assert_eq!(sequences.inputs, all[..used]);
            assert_eq!(sequences.targets, all[1..=used]);
            assert_eq!(sequences.count(), used / length);
            // An epoch of the sampler has the same rows in another order.
            let sampler = sampler(&tokens, Layout::Packed, length, 3);
            let mut position = sampler.start();
            let epoch = sampler.next(&mut position, sampler.sequences_per_epoch() as usize);
            let (mut epoch, mut expected) = (rows(&epoch), rows(&sequences));
            if expected.len() > 5 {
                assert_ne!(epoch, expected);
            }
            epoch.sort();
            expected.sort();
            assert_eq!(epoch, expected);
        }
    }

    #[test]
    fn masked_packing_has_the_same_sequences_and_tells_where_documents_end() {
        let (_folder, tokens) = tokens(&alphabet(23));
        for length in 2..20 {
            let of = |layout| evaluation_sequences(&tokens, layout, length, None, PADDING).unwrap();
            let (packed, masked) = (of(Layout::Packed), of(Layout::PackedMasked));
            assert!(packed.documents.is_empty());
            assert_eq!((&packed.inputs, &packed.targets), (&masked.inputs, &masked.targets));
            assert_eq!(masked.documents.len(), masked.count());
            for (ids, documents) in masked.inputs.chunks(length).zip(&masked.documents) {
                assert_eq!(documents.iter().sum::<usize>(), length);
                let mut ends: Vec<usize> = (1..length).filter(|at| ids[at - 1] == END).collect();
                ends.push(length);
                let mut before = 0;
                let found = documents.iter().map(|document| {
                    before += document;
                    before
                });
                assert_eq!(found.collect::<Vec<_>>(), ends, "{ids:?}");
            }
        }
    }

    #[test]
    fn rows_are_documents_cut_or_padded_and_only_their_tokens_are_targets() {
        let (_folder, tokens) = tokens(&["ab", "abcdef", "a", "abc"]);
        let sequences = evaluation_sequences(&tokens, Layout::Rows, 4, None, PADDING).unwrap();
        let expected = [
            ([0, 1, END, PADDING], [1, END, IGNORED, IGNORED]),
            ([0, 1, 2, 3], [1, 2, 3, IGNORED]),
            ([0, END, PADDING, PADDING], [END, IGNORED, IGNORED, IGNORED]),
            ([0, 1, 2, END], [1, 2, END, IGNORED]),
        ];
        let expected = expected.map(|(inputs, targets)| (inputs.to_vec(), targets.to_vec()));
        assert_eq!(rows(&sequences), expected);
        assert_eq!(sampler(&tokens, Layout::Rows, 4, 0).sequences_per_epoch(), 4);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_run_that_is_resumed_sees_what_it_would_have_seen(
            seed: u64, before in 0..200usize, after in 1..50usize, rows: bool,
        ) {
            let (_folder, first) = tokens(&alphabet(23));
            let (_other, second) = tokens(&["zyx", "abcdefgh", "qq"]);
            let layout = if rows { Layout::Rows } else { Layout::Packed };
            let sources = || vec![(first.clone(), 2.0), (second.clone(), 0.7)];
            let sampler = || Sampler::new(sources(), layout, 3, seed, PADDING).unwrap();
            let (whole, resumed) = (sampler(), sampler());
            let mut position = whole.start();
            whole.next(&mut position, before);
            let stored = serde_json::to_string(&position).unwrap();
            let mut restored: Position = serde_json::from_str(&stored).unwrap();
            prop_assert!(resumed.check(&restored).is_ok());
            prop_assert_eq!(resumed.next(&mut restored, after), whole.next(&mut position, after));
            prop_assert_eq!(&restored, &position);

            // In one go or one by one.
            let mut at_once = whole.start();
            let all = whole.next(&mut at_once, before);
            let mut one_by_one = whole.start();
            let mut inputs = Vec::new();
            (0..before).for_each(|_| inputs.extend(whole.next(&mut one_by_one, 1).inputs));
            prop_assert_eq!(inputs, all.inputs);
        }

        #[test]
        fn marks_change_targets_and_nothing_else(
            examples in prop::collection::vec("[a-z]{2,9}", 1..20), seed: u64, length in 2..8usize,
            start in 0..3usize, learned in 1..5usize, learn_end_of_text: bool, rows: bool,
        ) {
            let layout = if rows { Layout::Rows } else { Layout::Packed };
            let texts: Vec<&str> = examples.iter().map(String::as_str).collect();
            let (_folder, plain) = tokens(&texts);
            let folder = tempdir().unwrap();
            let letters: Vec<String> = ('a'..='z').map(String::from).collect();
            let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
            let tokenizer = words(&letters, END as usize);
            // A letter has the space before it.
            let spaced = |text: &str| text.chars().map(String::from).collect::<Vec<_>>().join(" ");
            let span = (2 * start).saturating_sub(1)..2 * (start + learned) - 1;
            let train = texts.iter().map(|text| (Part::Train, spaced(text), vec![span.clone()]));
            let whole = 0..3;
            let held_out = (Part::Validation, spaced("ab"), vec![whole]);
            let all: Vec<Marked> = train.chain([held_out]).collect();
            let responses = Responses { sequence_length: 20, learn_end_of_text, kept: Kept::Beginning };
            let place = folder.path().join("corpus");
            let limits = Limits::default();
            let prepared = prepare_marked(&all, &tokenizer, responses, limits, &place);
            // Those with nothing to learn would be left out.
            let teaches = |text: &&str| (1..text.len()).any(|index| (start..start + learned).contains(&index));
            prop_assume!(texts.iter().all(teaches));
            let marked = prepared.unwrap().tokens(Part::Train).clone();
            let mut expected = Vec::new();
            for text in &texts {
                expected.extend((0..text.len()).map(|index| (start..start + learned).contains(&index)));
                expected.push(learn_end_of_text);
            }

            // Tokens are told apart by where they are.
            let place_of = |row: u64, column: usize| match layout {
                Layout::Packed | Layout::PackedMasked => row as usize * length + column + 1,
                Layout::Rows => plain.document(row as usize).start as usize + column + 1,
            };
            let of_plain = Sampler::new(vec![(plain.clone(), 1.0)], layout, length, seed, PADDING);
            prop_assume!(of_plain.is_ok());
            let of_plain = of_plain.unwrap();
            let of_marked = sampler(&marked, layout, length, seed);
            let (mut at, mut same) = (of_plain.start(), of_marked.start());
            for draw in 0..2 * of_plain.sequences_per_epoch() {
                let row = of_plain.sequence(0, draw);
                let (whole, some) = (of_plain.next(&mut at, 1), of_marked.next(&mut same, 1));
                prop_assert_eq!(&at, &same);
                prop_assert_eq!(&whole.inputs, &some.inputs);
                for (column, (&target, &marked)) in whole.targets.iter().zip(&some.targets).enumerate() {
                    let is_learned = target != IGNORED && expected[place_of(row, column)];
                    prop_assert_eq!(marked, if is_learned { target } else { IGNORED });
                }
            }
        }

        #[test]
        fn sources_are_never_more_than_one_draw_from_their_share(
            weights in prop::collection::vec(0.01..10.0f64, 1..5),
        ) {
            let (_folder, tokens) = tokens(&alphabet(5));
            let total: f64 = weights.iter().sum();
            let sources = weights.iter().map(|&weight| (tokens.clone(), weight)).collect();
            let sampler = Sampler::new(sources, Layout::Packed, 3, 0, PADDING).unwrap();
            let mut position = sampler.start();
            for drawn in 1..500u64 {
                sampler.next(&mut position, 1);
                prop_assert_eq!(position.drawn.iter().sum::<u64>(), drawn);
                for (&of_source, weight) in position.drawn.iter().zip(&weights) {
                    let share = weight / total * drawn as f64;
                    prop_assert!((of_source as f64 - share).abs() < weights.len() as f64);
                }
            }
        }
    }

    #[test]
    fn a_mixture_alternates_by_weight() {
        let (_folder, tokens) = tokens(&alphabet(5));
        let sources = vec![(tokens.clone(), 3.0), (tokens.clone(), 1.0)];
        let sampler = Sampler::new(sources, Layout::Packed, 3, 0, PADDING).unwrap();
        let mut position = sampler.start();
        let drawn = (0..8).map(|_| {
            let before = position.drawn[1];
            sampler.next(&mut position, 1);
            position.drawn[1] - before
        });
        assert_eq!(drawn.collect::<Vec<_>>(), [0, 0, 1, 0, 0, 0, 1, 0]);
        assert_eq!(position.drawn, [6, 2]);
    }

    #[test]
    fn epochs_seeds_and_sources_have_orders_of_their_own() {
        let (_folder, tokens) = tokens(&alphabet(40));
        let order = |seed, source: usize, epoch: u64| {
            let sources = vec![(tokens.clone(), 1.0); 2];
            let sampler = Sampler::new(sources, Layout::Rows, 3, seed, PADDING).unwrap();
            let draws = epoch * 40..(epoch + 1) * 40;
            draws.map(|number| sampler.sequence(source, number)).collect::<Vec<_>>()
        };
        let orders =
            [order(0, 0, 0), order(0, 0, 1), order(0, 1, 0), order(1, 0, 0), order(1, 0, 1)];
        for (index, one) in orders.iter().enumerate() {
            let mut sorted = one.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..40).collect::<Vec<_>>());
            assert!(orders[index + 1..].iter().all(|other| other != one), "{index}");
        }
        assert_eq!(order(7, 0, 2), order(7, 0, 2));
    }

    #[test]
    fn evaluation_reads_whole_sequences_up_to_its_limit() {
        let (_folder, tokens) = tokens(&alphabet(23));
        let read = |max| evaluation_sequences(&tokens, Layout::Packed, 8, Some(max), PADDING);
        for (max, count) in [(8, 1), (15, 1), (16, 2), (31, 3)] {
            assert_eq!(read(max).unwrap().count(), count);
        }
        assert_eq!(read(u64::MAX).unwrap().count() as u64, (tokens.len() - 1) / 8);
        let message = read(7).unwrap_err().to_string();
        assert!(message.contains("7 tokens cannot fill one window of 8"), "{message}");
    }

    #[test]
    fn what_cannot_be_drawn_from_is_refused() {
        let (_folder, tokens) = tokens(&["abc"]);
        let new = |sources: &[f64], length| {
            let sources = sources.iter().map(|&weight| (tokens.clone(), weight)).collect();
            Sampler::new(sources, Layout::Packed, length, 0, PADDING)
        };
        let refusal = |sources: &[f64], length| new(sources, length).unwrap_err().to_string();
        assert!(refusal(&[], 3).contains("no text to train on"));
        for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(refusal(&[1.0, weight], 3).contains("weight"), "{weight}");
        }
        assert!(new(&[1.0], 3).is_ok(), "4 tokens are enough");
        assert!(refusal(&[1.0], 4).contains("has 4 tokens, one sequence needs 5"));
        assert!(refusal(&[1.0], 1).contains("predicts nothing"));
        let sampler = new(&[1.0], 3).unwrap();
        let error = sampler.check(&Position { drawn: vec![0, 0] }).unwrap_err().to_string();
        assert!(error.contains("is one in 2 texts and there are 1"), "{error}");
        // No position makes it panic.
        let mut far = Position { drawn: vec![u64::MAX] };
        assert_eq!(sampler.next(&mut far, 3).count(), 3);
    }
}
