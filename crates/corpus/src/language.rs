//! A small built-in language whose ideal loss is known token by token, and which asks for depth.
//!
//! A document tells in random order who leads whom in a circle of eight people, between sentences
//! of scenery, and then says of each of them who stands some steps behind:
//!
//! ```text
//! anna leads boris . the old dog sleeps . dora leads anna . …
//! second behind dora is boris . first behind anna is boris . …
//! ```
//!
//! No step between is written out, so to know the name behind `is` a reader has to chain up to four
//! facts in its layers.
//!
//! # The ideal reader
//! Every choice is drawn uniformly from a set that the grammar and the text so far determine, and
//! every word tells its choices apart. So the grammar *is* the distribution of the next word given
//! the text so far, no reader can have a lower expected loss than the one who knows it, and this
//! reader's loss for a word is the sum of ln |set| over the choices that the word reveals:
//!
//! | choice | set |
//! |---|---|
//! | scenery before the next fact, or not | 2 (at most one sentence before each fact) |
//! | who leads | who leads nobody yet: people of the document and, while they are fewer than eight, all other names |
//! | who follows | as above, who follows nobody yet, without the head of the leader's own chain: the circle must not close early. The eighth fact closes it |
//! | adjective or not; which | 2; 16 |
//! | noun | 16 |
//! | verb | the 4 of the noun's kind |
//! | how many steps behind | 4 |
//! | behind whom | the people not asked about yet |
//!
//! All else is certain: the answers, the function words, and the end of text behind the eighth
//! answer.

use std::iter::successors;
use std::path::Path;

use lns_tokenizer::Tokenizer;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

use crate::{Layout, corpus::Part};

/// The people of a document: its facts, and its questions.
const PEOPLE: usize = 8;

const NAMES: [&str; 32] = [
    "anna", "boris", "carla", "dora", "emil", "fiona", "georg", "hanna", "igor", "julia", "karl",
    "lena", "marco", "nina", "oscar", "paula", "quentin", "rita", "simon", "tina", "ulla",
    "viktor", "wanda", "xenia", "yuri", "zora", "alma", "bruno", "clara", "david", "edith",
    "felix",
];
const ADJECTIVES: [&str; 16] = [
    "old", "young", "small", "great", "grey", "white", "black", "brown", "silent", "distant",
    "quiet", "wild", "gentle", "strange", "lonely", "pale",
];
/// Nouns, and the verbs that go with them.
const KINDS: [([&str; 4], [&str; 4]); 4] = [
    (["dog", "horse", "cat", "goat"], ["sleeps", "eats", "drinks", "waits"]),
    (["sun", "moon", "star", "lamp"], ["shines", "glows", "fades", "flickers"]),
    (["river", "stream", "sea", "lake"], ["flows", "freezes", "floods", "glitters"]),
    (["tree", "flower", "bush", "vine"], ["grows", "blooms", "withers", "sways"]),
];
/// Questions reach half the circle: whoever is fifth behind is third in front.
const ORDINALS: [&str; 4] = ["first", "second", "third", "fourth"];
const FUNCTION_WORDS: [&str; 5] = ["leads", "the", "behind", "is", "."];
const END_OF_TEXT: &str = "<|endoftext|>";

/// The synthetic language: an endless supply of documents for a seed.
///
/// What there is to learn, in nats per token, over many documents of 99 tokens on average:
///
/// | reader | loss |
/// |---|---|
/// | knows only how often each word occurs | 3.53 |
/// | knows the grammar, guesses every answer among the seven other people | 1.02 |
/// | … chains one fact | 0.98 |
/// | … two | 0.94 |
/// | … three | 0.90 |
/// | ideal: chains four | 0.86 |
///
/// These are losses of a reader who sees each document from its beginning, and knows where it
/// begins. In rows of at least [`Language::MAX_TOKENS`] ([`Layout::Rows`](crate::Layout::Rows)) that
/// is so, but a document's first token is not predicted: without it, the ideal is 0.84. A packed
/// window begins amid a document, whose facts it lacks, so there the loss stays above these.
///
/// ```
/// use lns_corpus::{Language, Part};
///
/// let language = Language::new(7);
/// let tokenizer = language.tokenizer();
/// let document = language.documents(Part::Train).next().unwrap();
/// assert_eq!(tokenizer.encode(&document.text)?.ids.len() + 1, document.nll.len());
/// # Ok::<(), lns_corpus::CorpusError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Language {
    seed: u64,
}

/// A document of the [`Language`].
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its words, with a space between any two. The end of text is not spelt out.
    pub text: String,
    /// The ideal reader's loss in nats for each token: one for each word, then the end of text.
    /// Where a document stands first in its row, nothing predicts its first token.
    pub nll: Vec<f64>,
    /// The tokens that answer a question.
    pub answers: Vec<Answer>,
}

/// A token that only a reader who chains facts can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The token's index in its document.
    pub token: usize,
    /// How many facts lead to it, 1 to 4.
    pub hops: usize,
}

impl Language {
    /// The longest document, end of text included: for each of the people a sentence of scenery,
    /// a fact and a question.
    pub const MAX_TOKENS: usize = PEOPLE * (5 + 4 + 6) + 1;

    /// The documents of this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// How many tokens the tokenizer knows: the language's words and the end of text.
    pub fn vocab_size(&self) -> usize {
        words().count() + 1
    }

    /// A tokenizer for which each word is one token. Text with any other word is an error.
    pub fn tokenizer(&self) -> Tokenizer {
        let ids = std::iter::once(END_OF_TEXT).chain(words()).zip(0..);
        let vocab: Map<String, Value> =
            ids.map(|(word, id): (_, u32)| (word.to_owned(), id.into())).collect();
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [{"id": 0, "content": END_OF_TEXT, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
            "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
        });
        Tokenizer::from_json(json.to_string().as_bytes(), Path::new("the built-in language"))
            .expect("this tokenizer.json is the same at every call, and the tests read it")
    }

    /// The documents of a part, without end: document `n` depends on the seed, the part and `n`.
    pub fn documents(&self, part: Part) -> impl Iterator<Item = Document> + use<> {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8] = match part {
            Part::Train => 0,
            Part::Validation => 1,
        };
        (0..).map(move |n| {
            let mut rng = ChaCha8Rng::from_seed(key);
            rng.set_stream(n);
            write_document(rng)
        })
    }

    /// The first documents of a part that hold at least `tokens` tokens together.
    pub fn first_documents(
        &self,
        part: Part,
        tokens: u64,
    ) -> impl Iterator<Item = Document> + use<> {
        let mut made = 0;
        self.documents(part).take_while(move |document| {
            let wanted = made < tokens;
            made += document.nll.len() as u64;
            wanted
        })
    }

    /// Mean loss in nats per predicted token of the ideal reader, who sees every document from its
    /// beginning, over [`first_documents`](Self::first_documents); in rows a document's first token is
    /// not predicted. No model of these texts does better.
    pub fn ideal_loss(&self, part: Part, tokens: u64, layout: Layout) -> f64 {
        let skipped = usize::from(layout == Layout::Rows);
        let documents = self.first_documents(part, tokens);
        let (nll, tokens) = documents.fold((0.0, 0), |(nll, tokens), document| {
            let predicted = &document.nll[skipped..];
            (nll + predicted.iter().sum::<f64>(), tokens + predicted.len())
        });
        nll / tokens as f64
    }
}

impl Document {
    /// The ideal reader's loss for the whole document, end of text included, in nats.
    pub fn ideal_nll(&self) -> f64 {
        self.nll.iter().sum()
    }
}

fn words() -> impl Iterator<Item = &'static str> {
    let scenery = KINDS.into_iter().flat_map(|(nouns, verbs)| nouns.into_iter().chain(verbs));
    let closed = FUNCTION_WORDS.into_iter().chain(ORDINALS);
    closed.chain(NAMES).chain(ADJECTIVES).chain(scenery)
}

fn write_document(rng: ChaCha8Rng) -> Document {
    let mut writer = Writer { rng, words: Vec::new(), nll: Vec::new(), unrevealed: 0.0 };
    let circle = facts(&mut writer);
    let answers = questions(&mut writer, &circle);
    writer.nll.push(0.0);
    Document { text: writer.words.join(" "), nll: writer.nll, answers }
}

fn facts(writer: &mut Writer) -> Circle {
    let mut circle = Circle::default();
    for _ in 0..PEOPLE {
        if writer.choose(&[true, false]) {
            scenery(writer);
        }
        let leader = writer.choose(&circle.leaders());
        circle.meet(leader);
        writer.write(&[leader, "leads"]);
        let follower = writer.choose(&circle.followers(leader));
        circle.meet(follower);
        circle.facts.push((leader, follower));
        writer.write(&[follower, "."]);
    }
    circle
}

fn scenery(writer: &mut Writer) {
    writer.write(&["the"]);
    if writer.choose(&[true, false]) {
        let adjective = writer.choose(&ADJECTIVES);
        writer.write(&[adjective]);
    }
    let (nouns, verbs) = writer.choose(&KINDS);
    let noun = writer.choose(&nouns);
    writer.write(&[noun]);
    let verb = writer.choose(&verbs);
    writer.write(&[verb, "."]);
}

fn questions(writer: &mut Writer, circle: &Circle) -> Vec<Answer> {
    let mut unasked = circle.people.clone();
    let mut answers = Vec::new();
    while !unasked.is_empty() {
        let hops = writer.choose(&[1, 2, 3, 4]);
        writer.write(&[ORDINALS[hops - 1], "behind"]);
        let name = writer.choose(&unasked);
        unasked.retain(|&other| other != name);
        writer.write(&[name, "is"]);
        answers.push(Answer { token: writer.words.len(), hops });
        let behind = successors(Some(name), |name| circle.behind(name)).nth(hops);
        writer.write(&[behind.expect("the circle is closed"), "."]);
    }
    answers
}

/// Writes words, and adds up what they tell the ideal reader.
struct Writer {
    rng: ChaCha8Rng,
    words: Vec<&'static str>,
    nll: Vec<f64>,
    /// −ln p of the choices that no word has shown yet.
    unrevealed: f64,
}

impl Writer {
    /// Draws one of the options; the next word reveals which.
    fn choose<T: Copy>(&mut self, options: &[T]) -> T {
        self.unrevealed += (options.len() as f64).ln();
        // The high half of 64 random bits times n is uniform in 0..n to within n / 2⁶⁴.
        let product = u128::from(self.rng.next_u64()) * options.len() as u128;
        options[(product >> 64) as usize]
    }

    /// The first of the words reveals the choices made so far.
    fn write(&mut self, words: &[&'static str]) {
        for word in words {
            self.words.push(word);
            self.nll.push(std::mem::take(&mut self.unrevealed));
        }
    }
}

/// Who leads whom so far: chains that become one circle.
#[derive(Default)]
struct Circle {
    people: Vec<&'static str>,
    facts: Vec<(&'static str, &'static str)>,
}

impl Circle {
    /// Who may lead in the next fact.
    fn leaders(&self) -> Vec<&'static str> {
        self.eligible().filter(|name| self.behind(name).is_none()).collect()
    }

    /// Who may follow this leader.
    fn followers(&self, leader: &'static str) -> Vec<&'static str> {
        let chain: Vec<_> = successors(Some(leader), |name| self.before(name)).collect();
        let closes = chain.len() == PEOPLE;
        self.eligible()
            .filter(|name| self.before(name).is_none() && (closes || !chain.contains(name)))
            .collect()
    }

    /// Who may stand in this document: its people and, while there is room, everyone else.
    fn eligible(&self) -> impl Iterator<Item = &'static str> {
        let names = if self.people.len() < PEOPLE { &NAMES[..] } else { &self.people };
        names.iter().copied()
    }

    fn behind(&self, name: &str) -> Option<&'static str> {
        self.facts.iter().find(|(leader, _)| *leader == name).map(|(_, follower)| *follower)
    }

    fn before(&self, name: &str) -> Option<&'static str> {
        self.facts.iter().find(|(_, follower)| *follower == name).map(|(leader, _)| *leader)
    }

    fn meet(&mut self, name: &'static str) {
        if !self.people.contains(&name) {
            self.people.push(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    fn documents(seed: u64, count: usize) -> Vec<Document> {
        Language::new(seed).documents(Part::Train).take(count).collect()
    }

    fn shared<'a>(
        probability: f64,
        words: impl IntoIterator<Item = &'a str>,
    ) -> Vec<(&'a str, f64)> {
        let words: Vec<_> = words.into_iter().collect();
        words.iter().map(|&word| (word, probability / words.len() as f64)).collect()
    }

    /// Whether these facts can become a circle of eight: everyone leads one and follows one, and
    /// no walk comes back before it has met all eight.
    fn possible(facts: &[(&str, &str)]) -> bool {
        let leads: BTreeMap<_, _> = facts.iter().copied().collect();
        let follows: BTreeMap<_, _> = facts.iter().map(|&(a, b)| (b, a)).collect();
        let people: HashSet<_> = facts.iter().flat_map(|&(a, b)| [a, b]).collect();
        let steps_back = |start| {
            let walk = successors(Some(start), |name| leads.get(name).copied());
            walk.take(9).skip(1).position(|name| name == start)
        };
        leads.len() == facts.len()
            && follows.len() == facts.len()
            && people.len() <= 8
            && people.iter().all(|&start| steps_back(start).is_none_or(|others| others == 7))
    }

    /// The ideal reader, from the grammar alone: the next word's distribution given those so far.
    fn next_word<'a>(text: &[&'a str]) -> Vec<(&'a str, f64)> {
        let mut sentences: Vec<_> = text.split(|&word| word == ".").collect();
        let current = sentences.pop().unwrap();
        let facts: Vec<_> =
            sentences.iter().filter(|s| s[1] == "leads").map(|s| (s[0], s[2])).collect();
        let asked: Vec<_> = sentences.iter().filter(|s| s[1] == "behind").map(|s| s[2]).collect();
        let with = |a: &'a str, b: &'a str| possible(&[facts.as_slice(), &[(a, b)]].concat());
        let nouns = KINDS.iter().flat_map(|(nouns, _)| *nouns);
        match current {
            [] if facts.len() < 8 => {
                let leaders = NAMES.into_iter().filter(|a| NAMES.iter().any(|b| with(a, b)));
                if sentences.last().is_some_and(|s| s[0] == "the") {
                    shared(1.0, leaders)
                } else {
                    [shared(0.5, ["the"]), shared(0.5, leaders)].concat()
                }
            }
            [] if asked.len() < 8 => shared(1.0, ["first", "second", "third", "fourth"]),
            [] => vec![(END_OF_TEXT, 1.0)],
            ["the"] => [shared(0.5, ADJECTIVES), shared(0.5, nouns)].concat(),
            ["the", adjective] if ADJECTIVES.contains(adjective) => shared(1.0, nouns),
            ["the", .., word] => match KINDS.iter().find(|(nouns, _)| nouns.contains(word)) {
                Some((_, verbs)) => shared(1.0, *verbs),
                None => vec![(".", 1.0)],
            },
            [name] if NAMES.contains(name) => vec![("leads", 1.0)],
            [_] => vec![("behind", 1.0)],
            [leader, "leads"] => shared(1.0, NAMES.into_iter().filter(|b| with(leader, b))),
            [_, "behind"] => {
                shared(1.0, facts.iter().map(|fact| fact.0).filter(|name| !asked.contains(name)))
            }
            [_, "behind", _] => vec![("is", 1.0)],
            [ordinal, "behind", name, "is"] => {
                let leads: BTreeMap<_, _> = facts.iter().copied().collect();
                let answer = match *ordinal {
                    "first" => leads[name],
                    "second" => leads[leads[name]],
                    "third" => leads[leads[leads[name]]],
                    _ => leads[leads[leads[leads[name]]]],
                };
                vec![(answer, 1.0)]
            }
            _ => vec![(".", 1.0)],
        }
    }

    #[test]
    fn the_first_word_that_is_not_of_the_language_is_named() {
        let tokenizer = Language::new(1).tokenizer();
        assert_eq!(tokenizer.encode("anna leads boris .").unwrap().ids.len(), 4);
        let error = tokenizer.encode("anna leads\nThe Nile .").unwrap_err().to_string();
        assert!(error.contains("\"The\" is none of them"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn the_ideal_loss_is_that_of_a_reader_who_sees_only_the_text(seed: u64, n in 0..5usize) {
            let document = Language::new(seed).documents(Part::Train).nth(n).unwrap();
            let mut text: Vec<_> = document.text.split(' ').collect();
            text.push(END_OF_TEXT);
            prop_assert_eq!(text.len(), document.nll.len());
            let mut total = 0.0;
            for (index, word) in text.iter().enumerate() {
                let next = next_word(&text[..index]);
                let sum: f64 = next.iter().map(|(_, probability)| probability).sum();
                prop_assert!((sum - 1.0).abs() < 1e-12, "{sum} behind {:?}", &text[..index]);
                let given = next.iter().find(|(other, _)| other == word);
                let nll = -given.map_or(0.0, |(_, probability)| *probability).ln();
                prop_assert!((nll - document.nll[index]).abs() < 1e-12, "{:?}", &text[..=index]);
                total += nll;
            }
            prop_assert!((total - document.ideal_nll()).abs() < 1e-9);
        }

        #[test]
        fn a_word_is_a_token_and_the_text_comes_back(seed: u64) {
            let language = Language::new(seed);
            let tokenizer = language.tokenizer();
            let document = language.documents(Part::Validation).next().unwrap();
            let ids = tokenizer.encode(&document.text).unwrap().ids;
            prop_assert_eq!(ids.len(), document.text.split(' ').count());
            prop_assert_eq!(tokenizer.decode(&ids).unwrap(), document.text);
        }

        #[test]
        fn answers_are_where_they_are_said_to_be(seed: u64) {
            let document = documents(seed, 1).remove(0);
            let words: Vec<_> = document.text.split(' ').collect();
            prop_assert_eq!(document.answers.len(), 8);
            for answer in document.answers {
                prop_assert_eq!(words[answer.token - 1], "is");
                prop_assert_eq!(words[answer.token - 4], ORDINALS[answer.hops - 1]);
            }
        }
    }

    #[test]
    fn documents_depend_on_the_seed_the_part_and_their_number_alone() {
        assert_eq!(documents(7, 3), documents(7, 3));
        let all = [(7, Part::Train), (7, Part::Validation), (8, Part::Train)];
        let all = all.map(|(seed, part)| Language::new(seed).documents(part).take(500));
        let texts: HashSet<_> = all.into_iter().flatten().map(|document| document.text).collect();
        assert_eq!(texts.len(), 1500);
    }

    #[test]
    fn the_longest_document_fits() {
        let longest = documents(0, 2000).iter().map(|document| document.nll.len()).max();
        assert!((112..=Language::MAX_TOKENS).contains(&longest.unwrap()), "{longest:?}");
        const { assert!(Language::MAX_TOKENS <= 128) };
    }

    #[test]
    fn the_vocabulary_is_the_words_and_the_end_of_text() {
        let language = Language::new(0);
        let tokenizer = language.tokenizer();
        assert_eq!(tokenizer.vocab_size(), language.vocab_size());
        assert_eq!(tokenizer.end_of_text_id(), Some(0));
        assert_eq!(words().collect::<HashSet<_>>().len(), words().count());
        assert!(tokenizer.encode("anna leads zarathustra .").is_err());
    }

    /// How often each word occurs, the end of text as the empty word.
    fn counts(documents: &[Document]) -> BTreeMap<&str, f64> {
        let mut counts = BTreeMap::from([("", documents.len() as f64)]);
        for word in documents.iter().flat_map(|document| document.text.split(' ')) {
            *counts.entry(word).or_default() += 1.0;
        }
        counts
    }

    #[test]
    fn words_of_a_kind_are_equally_frequent() {
        let documents = documents(1, 2000);
        let counts = counts(&documents);
        let verbs = KINDS.map(|(_, verbs)| verbs).concat();
        let nouns = KINDS.map(|(nouns, _)| nouns).concat();
        for kind in [&NAMES[..], &ADJECTIVES, &ORDINALS, &nouns, &verbs] {
            let mean = kind.iter().map(|word| counts[word]).sum::<f64>() / kind.len() as f64;
            for word in kind {
                assert!((counts[word] / mean - 1.0).abs() < 0.2, "{word}: {}", counts[word]);
            }
        }
    }

    #[test]
    fn the_documentation_tells_what_there_is_to_learn() {
        let documents = documents(2, 2000);
        let tokens = documents.iter().map(|document| document.nll.len()).sum::<usize>() as f64;
        let counts = counts(&documents);
        let unigram: f64 =
            counts.values().map(|count| -count / tokens * (count / tokens).ln()).sum();
        let ideal = documents.iter().map(Document::ideal_nll).sum::<f64>() / tokens;
        let hops =
            || documents.iter().flat_map(|document| &document.answers).map(|answer| answer.hops);
        let chains = |up_to| {
            let guessed = hops().filter(|&hops| hops > up_to).count() as f64;
            ideal + guessed * 7.0_f64.ln() / tokens
        };
        let first: f64 = documents.iter().map(|document| document.nll[0]).sum();
        let in_rows = (ideal * tokens - first) / (tokens - 2000.0);
        let readers = [unigram, chains(0), chains(1), chains(2), chains(3), chains(4), in_rows];
        let rounded = readers.map(|loss| format!("{loss:.2}"));
        assert_eq!(rounded, ["3.53", "1.02", "0.98", "0.94", "0.90", "0.86", "0.84"]);
        assert_eq!((tokens / 2000.0).round(), 99.0);
    }
    #[test]
    fn the_ideal_loss_is_that_of_the_documents_that_are_written() {
        let language = Language::new(1);
        let documents: Vec<Document> = language.first_documents(Part::Validation, 1000).collect();
        let tokens = |documents: &[Document]| documents.iter().map(|d| d.nll.len()).sum::<usize>();
        let (last, others) = documents.split_last().expect("documents");
        assert!(tokens(&documents) >= 1000 && tokens(others) < 1000);
        assert!(!last.nll.is_empty());
        let total: f64 = documents.iter().map(Document::ideal_nll).sum();
        let packed = language.ideal_loss(Part::Validation, 1000, Layout::Packed);
        assert!((packed - total / tokens(&documents) as f64).abs() < 1e-12);
        let first: f64 = documents.iter().map(|document| document.nll[0]).sum();
        let rows = language.ideal_loss(Part::Validation, 1000, Layout::Rows);
        let predicted = (tokens(&documents) - documents.len()) as f64;
        assert!((rows - (total - first) / predicted).abs() < 1e-12);
    }
}
