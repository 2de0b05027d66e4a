use std::cell::Cell;
use std::collections::HashSet;
use std::fs;
use std::ops::Range;

use lns_testing::vocabularies::byte_level;
use lns_tokenizer::{Cut, Encoding};
use proptest::prelude::*;
use tempfile::{TempDir, tempdir};

use super::examples::marked;
use super::few::place_to_split;
use super::*;
use crate::Tokens;
use crate::corpus::UNLEARNED;
use crate::corpus::tests::words;
use crate::tiny::build;

/// [`prepare_documents`] with small shards.
pub(crate) fn prepare_small(
    documents: &[(Part, &str)],
    tokenizer: &Tokenizer,
    limits: Limits,
    shard_bytes: u64,
    place: &Path,
) -> Result<Corpus, CorpusError> {
    let mut preparation =
        Preparation::new(tokenizer, limits, None, place, &|_| ControlFlow::Continue(()))?;
    preparation.train.shard_bytes = shard_bytes;
    preparation.validation.shard_bytes = shard_bytes;
    for (part, text) in documents {
        preparation.begin(*part);
        let mut document = Whole::new((*text).to_owned());
        while let Some(piece) = document.next_piece(place, tokenizer.cut())? {
            preparation.add(piece)?;
        }
    }
    preparation.finish("a test".to_owned())
}

/// An example: its text and the bytes that are learned.
pub(crate) type Marked = (Part, String, Vec<Range<usize>>);

/// Examples of which only some of the text is learned, in small shards.
pub(crate) fn prepare_marked(
    examples: &[Marked],
    tokenizer: &Tokenizer,
    responses: Responses,
    limits: Limits,
    place: &Path,
) -> Result<Corpus, CorpusError> {
    let mut preparation =
        Preparation::new(
            tokenizer,
            limits,
            Some(responses),
            place,
            &|_| ControlFlow::Continue(()),
        )?;
    preparation.train.shard_bytes = 40;
    for (part, text, learned) in examples {
        preparation.begin(*part);
        let learned = Some(learned.clone());
        preparation.add(Piece { text: text.clone(), continues: false, id: None, learned })?;
    }
    preparation.finish("a test".to_owned())
}

#[test]
#[expect(clippy::single_range_in_vec_init, reason = "one span is learned")]
fn a_token_is_learned_if_all_of_it_lies_in_a_span() {
    let encoding = |bytes: &[u32]| Encoding { ids: vec![7; bytes.len()], bytes: bytes.into() };
    let learned = |bytes: &[u32], spans: &[Range<usize>]| {
        let ids = marked(encoding(bytes), spans).ids;
        assert!(ids.iter().all(|id| id & !UNLEARNED == 7));
        ids.iter().map(|id| id & UNLEARNED == 0).collect::<Vec<_>>()
    };
    let (no, yes) = (false, true);
    assert_eq!(learned(&[2, 2, 2, 2], &[2..4, 6..8]), [no, yes, no, yes]);
    assert_eq!(learned(&[3, 1, 2, 2], &[2..6]), [no, yes, yes, no], "one straddles the start");
    assert_eq!(learned(&[2, 3, 1], &[1..4]), [no, no, no], "and one the end");
    // A character in three tokens: only the first has bytes.
    assert_eq!(learned(&[4, 0, 0, 1], &[4..5]), [no, no, no, yes]);
    assert_eq!(learned(&[1, 4, 0, 0, 1], &[1..5]), [no, yes, yes, yes, no]);
    assert_eq!(learned(&[1, 1], &[]), [no, no]);
    assert_eq!(learned(&[0, 1, 1], &[0..2]), [no, yes, yes], "nothing predicts the first");
}

#[test]
fn examples_are_counted_and_what_teaches_nothing_is_left_out() {
    let folder = tempdir().unwrap();
    let tokenizer = words(&["a", "b", "c"], 3);
    let example = |part, text: &str, learned: Range<usize>| (part, text.to_owned(), vec![learned]);
    let (train, held_out) = (Part::Train, Part::Validation);
    let examples = [
        example(train, "a b c", 1..5),
        example(train, "a", 0..1),
        example(train, "a b c a b c", 8..11),
        example(held_out, "a b c a b c", 4..11),
        example(train, "c c", 1..3),
    ];
    let prepare = |name: &str, examples: &[Marked], learn_end_of_text, train| {
        let responses = Responses { sequence_length: 4, learn_end_of_text, kept: Kept::Beginning };
        let limits = Limits { train, validation: None };
        let place = folder.path().join(name);
        prepare_marked(examples, &tokenizer, responses, limits, &place)
    };
    let corpus = prepare("1", &examples, true, None).unwrap();
    assert!(corpus.learns_responses_only());
    assert_eq!(
        corpus.description(),
        "a test, 6 tokens of responses to learn in 3 examples (1 longer than 4 tokens and cut \
         there, 2 left out with nothing to learn before it): 7 tokens of 2 documents to train \
         on, 7 tokens of 1 document held out"
    );
    assert_eq!(documents(corpus.tokens(train)), [vec![0, 1, 2, 3], vec![2, 2, 3]]);
    let unlearned_end = prepare("2", &examples, false, None).unwrap();
    assert!(unlearned_end.description().contains("4 tokens of responses"));
    assert_eq!(documents(unlearned_end.tokens(train)), documents(corpus.tokens(train)));
    assert_ne!(unlearned_end.fingerprint(), corpus.fingerprint());

    // An example is whole or not there.
    for (limit, kept) in [(4, 1), (6, 1), (7, 2)] {
        let corpus = prepare(&format!("limit {limit}"), &examples, true, Some(limit)).unwrap();
        assert_eq!(documents(corpus.tokens(train)).len(), kept, "{limit}");
    }
    let message = prepare("3", &examples, true, Some(3)).unwrap_err().to_string();
    assert!(message.contains("first example for train has 4 tokens and 3 are allowed"));
    let message = prepare("4", &examples[1..4], true, None).unwrap_err().to_string();
    assert!(message.contains("all 2 examples for train are left out"), "{message}");
}

/// The texts of a part's documents, as token ids.
fn documents(tokens: &Tokens) -> Vec<Vec<u32>> {
    let read = |index| {
        let mut ids = Vec::new();
        tokens.read(tokens.document(index), &mut ids);
        ids
    };
    (0..tokens.documents()).map(read).collect()
}

/// Files of jsonl in a folder, one for each list of texts.
fn files(contents: &[&[String]]) -> (TempDir, Vec<PathBuf>) {
    let folder = tempdir().unwrap();
    let write = |(index, texts): (usize, &&[String])| {
        let path = folder.path().join(format!("{index}.jsonl"));
        let line = |text: &String| serde_json::json!({ "text": text }).to_string() + "\n";
        fs::write(&path, texts.iter().map(line).collect::<String>()).unwrap();
        path
    };
    let paths = contents.iter().enumerate().map(write).collect();
    (folder, paths)
}

fn options(validation: Validation) -> PrepareOptions {
    PrepareOptions { validation, max_train_tokens: None, max_validation_tokens: None }
}

fn encoded(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut ids = tokenizer.encode(text).unwrap().ids;
    ids.push(tokenizer.end_of_text_id().unwrap());
    ids
}

/// A text of so many sentences, each different.
fn sentences(first: usize, count: usize) -> String {
    (first..first + count).map(|number| format!("The river rose {number} times. ")).collect()
}

#[test]
fn of_few_documents_the_end_of_each_is_held_out_and_nothing_is_in_both_parts() {
    let tokenizer = build(&byte_level("smollm"));
    // The second document has several pieces, and the third is the first again.
    let texts = [sentences(0, 8000), sentences(8000, 9000), sentences(0, 8000)];
    for (count, said) in [(1, "1 document"), (3, "each of 3 documents")] {
        let (folder, paths) = files(&[&texts[..1], &texts[1..count]]);
        let share = options(Validation::Share(0.05));
        let place = folder.path().join("few");
        let corpus =
            prepare(&paths, &tokenizer, &share, &place, &|_| ControlFlow::Continue(())).unwrap();
        let said = format!("the last 5 % of {said} held out");
        assert!(corpus.description().contains(&said), "{}", corpus.description());
        let decode = |ids: Vec<u32>| tokenizer.decode(&ids[..ids.len() - 1]).unwrap();
        let [train, held_out] = [Part::Train, Part::Validation]
            .map(|part| documents(corpus.tokens(part)).into_iter().map(decode));
        let together: Vec<_> = train.zip(held_out).collect();
        assert_eq!(together.len(), count);
        for (text, (train, held_out)) in texts.iter().zip(together) {
            assert_eq!(format!("{train} {held_out}"), *text);
            let part = held_out.len() as f64 / text.len() as f64;
            assert!((0.05..0.051).contains(&part), "{part}");
        }
    }
}

#[test]
fn of_a_short_text_enough_is_held_out_to_measure_on_and_a_quarter_of_a_very_short_one() {
    let tokenizer = build(&byte_level("smollm"));
    for (count, percent) in [(2000, "15"), (20, "25")] {
        let (folder, paths) = files(&[&[sentences(0, count)]]);
        let share = options(Validation::Share(0.05));
        let place = folder.path().join("short");
        let corpus =
            prepare(&paths, &tokenizer, &share, &place, &|_| ControlFlow::Continue(())).unwrap();
        let said = format!("0.jsonl, the last {percent} % of 1 document held out: ");
        assert!(corpus.description().starts_with(&said), "{}", corpus.description());
        for part in [Part::Train, Part::Validation] {
            assert_eq!(corpus.tokens(part).documents(), 1, "{part}");
        }
    }
}

#[test]
fn a_text_too_short_for_two_parts_is_refused_with_what_it_lacks() {
    let tokenizer = build(&byte_level("smollm"));
    let folder = tempdir().unwrap();
    let refused = |text: &str, limit: Option<u64>| {
        let path = folder.path().join("short.txt");
        fs::write(&path, text).unwrap();
        let share = options(Validation::Share(0.05));
        let share = PrepareOptions { max_train_tokens: limit, ..share };
        let place = folder.path().join("corpus");
        prepare(&[path], &tokenizer, &share, &place, &|_| ControlFlow::Continue(()))
            .unwrap_err()
            .to_string()
    };
    let short = refused("a\n", None);
    assert!(short.starts_with("the text has 2 bytes, too few"), "{short}");
    assert!(short.contains("give 32 KiB or more"), "{short}");
    assert!(refused("a", None).starts_with("the text has 1 byte,"));
    assert!(refused("", None).contains("no text in ") && refused("", None).ends_with("short.txt"));
    let limited = refused(&sentences(0, 50), Some(1));
    assert!(limited.contains("allow 2 tokens or more"), "{limited}");
}

#[test]
fn text_that_cannot_be_cut_is_split_at_white_space_or_between_two_characters() {
    let cut = Some(Cut::Split);
    assert_eq!(place_to_split("one two three", 9, cut), 7);
    assert_eq!(place_to_split("one two three", 7, None), 3);
    assert_eq!(place_to_split("ééé", 3, None), 2);
    assert_eq!(place_to_split("one", 0, cut), 0);
}

#[test]
fn from_as_many_documents_on_as_a_share_of_them_is_one_whole_documents_are_held_out() {
    let tokenizer = build(&byte_level("smollm"));
    let texts: Vec<String> = (0..20).map(|number| sentences(50 * number, 50)).collect();
    for count in [19, 20] {
        let (folder, paths) = files(&[&texts[..count]]);
        let share = options(Validation::Share(0.05));
        let place = folder.path().join("corpus");
        let corpus =
            prepare(&paths, &tokenizer, &share, &place, &|_| ControlFlow::Continue(())).unwrap();
        let [train, held_out] =
            [Part::Train, Part::Validation].map(|part| corpus.tokens(part).documents());
        if count == 19 {
            assert_eq!((train, held_out), (19, 19));
        } else {
            assert_eq!(train + held_out, 20);
            assert!(!corpus.description().contains("the last"), "{}", corpus.description());
        }
    }
}

#[test]
fn a_single_example_is_not_cut_in_two() {
    let tokenizer = build(&byte_level("smollm"));
    let (folder, paths) = files(&[]);
    assert!(paths.is_empty());
    let file = folder.path().join("one.jsonl");
    fs::write(&file, "{\"prompt\": \"a\", \"response\": \" b\"}\n").unwrap();
    let corpus = options(Validation::Share(0.05));
    let options = crate::InstructionOptions { corpus, sequence_length: 16 };
    let place = folder.path().join("corpus");
    let error = crate::prepare_instructions(&[file], &tokenizer, None, &options, &place, &|_| {
        ControlFlow::Continue(())
    });
    assert!(error.unwrap_err().to_string().contains("name files to hold out"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_document_is_in_both_parts_and_none_is_lost(
        texts in prop::collection::vec("[a-z]{1,2}", 40..80), share in 0.2..0.8,
    ) {
        let (folder, files) = files(&[&texts[..20], &texts[20..]]);
        let tokenizer = build(&byte_level("smollm"));
        let options = options(Validation::Share(share));
        let place = folder.path().join("corpus");
        let corpus = prepare(&files, &tokenizer, &options, &place, &|_| ControlFlow::Continue(())).unwrap();
        let [train, held_out] = [Part::Train, Part::Validation].map(|part| documents(corpus.tokens(part)));
        let held_out_set: HashSet<_> = held_out.iter().collect();
        prop_assert!(!train.iter().any(|document| held_out_set.contains(document)));
        let mut all = [train, held_out].concat();
        let mut expected: Vec<_> = texts.iter().map(|text| encoded(&tokenizer, text)).collect();
        all.sort();
        expected.sort();
        prop_assert_eq!(all, expected);
    }
}

#[test]
fn about_the_share_is_held_out_whatever_the_files_and_the_tokenizer() {
    let texts: Vec<String> = (0..2000).map(|number| format!("a {number}")).collect();
    let (folder, paths) = files(&[&texts]);
    let reversed: Vec<String> = texts.iter().rev().cloned().collect();
    let (_other, other_paths) = files(&[&reversed[..700], &reversed[700..]]);
    let held_out = |name: &str, paths: &[PathBuf], pre: &str| {
        let tokenizer = build(&byte_level(pre));
        let options = options(Validation::Share(0.1));
        let place = folder.path().join(name);
        let corpus =
            prepare(paths, &tokenizer, &options, &place, &|_| ControlFlow::Continue(())).unwrap();
        let decode = |ids: Vec<u32>| tokenizer.decode(&ids[..ids.len() - 1]).unwrap();
        documents(corpus.tokens(Part::Validation)).into_iter().map(decode).collect::<Vec<_>>()
    };
    let first = held_out("1", &paths, "smollm");
    // 2000 draws at 0.1: five standard deviations are 67.
    assert!(first.len().abs_diff(200) < 67, "{}", first.len());
    let mut second = held_out("2", &other_paths, "qwen2");
    second.reverse();
    assert_eq!(first, second);
}

#[test]
fn documents_that_are_held_out_are_left_out_of_training() {
    let texts = ["a", "b", "c", "b", "a b", "held out"].map(str::to_owned);
    let (folder, paths) = files(&[&texts, &["b".to_owned(), "held out".to_owned()]]);
    let book = folder.path().join("book.txt");
    fs::write(&book, "c").unwrap();
    let tokenizer = build(&byte_level("smollm"));
    let options = options(Validation::Files(vec![paths[1].clone(), book.clone()]));
    let place = folder.path().join("corpus");
    let train = [paths[0].clone(), book, paths[1].clone()];
    let corpus =
        prepare(&train, &tokenizer, &options, &place, &|_| ControlFlow::Continue(())).unwrap();
    let expected =
        |texts: &[&str]| texts.iter().map(|text| encoded(&tokenizer, text)).collect::<Vec<_>>();
    assert_eq!(documents(corpus.tokens(Part::Train)), expected(&["a", "a b"]));
    assert_eq!(documents(corpus.tokens(Part::Validation)), expected(&["b", "held out", "c"]));
    assert!(corpus.description().starts_with("0.jsonl and 2 more files and, held out, 1.jsonl"));
}

#[test]
fn made_documents_are_in_the_part_they_were_first_in() {
    let folder = tempdir().unwrap();
    let tokenizer = words(&["a", "b", "c"], 3);
    let (train, held_out) = (Part::Train, Part::Validation);
    let made = [(train, "a"), (held_out, "a"), (held_out, "b"), (train, "b"), (train, "a")];
    let made = made.map(|(part, text)| (part, text.to_owned()));
    let place = folder.path().join("deep/corpus");
    let limits = Limits::default();
    let corpus =
        prepare_documents(&mut made.into_iter(), "made", &tokenizer, limits, &place, &|_| {
            ControlFlow::Continue(())
        });
    let corpus = corpus.unwrap();
    assert_eq!(documents(corpus.tokens(train)), [[0, 3], [0, 3]]);
    assert_eq!(documents(corpus.tokens(held_out)), [[1, 3]]);
}

#[test]
fn a_preparation_that_is_asked_to_stop_leaves_nothing() {
    let folder = tempdir().unwrap();
    let tokenizer = words(&["a", "b", "c"], 3);
    let place = folder.path().join("corpus");
    let mut made = (0..10).map(|_| (Part::Train, "a b c".to_owned()));
    let stop = |_: u64| ControlFlow::Break(());
    let limits = Limits::default();
    let stopped = prepare_documents(&mut made, "made", &tokenizer, limits, &place, &stop);
    assert!(matches!(stopped, Err(CorpusError::Stopped)));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn limits_cut_the_last_document_and_end_the_reading() {
    let folder = tempdir().unwrap();
    let tokenizer = words(&["a", "b", "c"], 3);
    let made = Cell::new(0);
    let mut endless = (0..).map(|number| {
        made.set(made.get() + 1);
        let part = if number % 2 == 0 { Part::Train } else { Part::Validation };
        (part, format!("a b c {}", "b ".repeat(number)))
    });
    let limits = Limits { train: Some(9), validation: Some(6) };
    let told = Cell::new(0);
    let progress = |tokens| {
        told.set(tokens);
        ControlFlow::Continue(())
    };
    let place = folder.path().join("corpus");
    let corpus =
        prepare_documents(&mut endless, "made", &tokenizer, limits, &place, &progress).unwrap();
    let train = documents(corpus.tokens(Part::Train));
    assert_eq!(train, [vec![0, 1, 2, 3], vec![0, 1, 2, 1, 3]]);
    assert_eq!(corpus.tokens(Part::Train).text_bytes(), 6 + 7);
    assert_eq!(documents(corpus.tokens(Part::Validation)), [[0, 1, 2, 1, 3]]);
    assert_eq!(told.get(), 9 + 5);
    assert!(made.get() < 20, "{}", made.get());
}

#[test]
fn a_document_of_many_pieces_is_one_document() {
    let text = "The river rose in the night. ".repeat(20_000);
    let (folder, paths) = files(&[&["b".to_owned(), text.clone()], &["a".to_owned()]]);
    let tokenizer = build(&byte_level("smollm"));
    let options = options(Validation::Files(vec![paths[1].clone()]));
    let place = folder.path().join("corpus");
    let corpus =
        prepare(&paths[..1], &tokenizer, &options, &place, &|_| ControlFlow::Continue(())).unwrap();
    let train = documents(corpus.tokens(Part::Train));
    assert_eq!(train, [encoded(&tokenizer, "b"), encoded(&tokenizer, &text)]);
    assert_eq!(corpus.tokens(Part::Train).text_bytes(), text.len() as u64 + 1);
}

#[test]
fn nothing_is_left_of_a_preparation_that_failed() {
    let (folder, paths) = files(&[&["a".to_owned()], &["b".to_owned()]]);
    let tokenizer = build(&byte_level("smollm"));
    let place = folder.path().join("corpus");
    let fails = |text: &[PathBuf], validation: Validation, tokenizer: &Tokenizer| {
        let error =
            prepare(text, tokenizer, &options(validation), &place, &|_| ControlFlow::Continue(()))
                .unwrap_err();
        assert_eq!(folder.path().read_dir().unwrap().count(), 3, "{error}");
        error.to_string()
    };
    let bad = folder.path().join("bad.jsonl");
    fs::write(&bad, "{\"text\": \"c\"}\nbad").unwrap();
    let held_out = || Validation::Files(vec![paths[1].clone()]);
    let message = fails(&[paths[0].clone(), bad.clone()], held_out(), &tokenizer);
    assert!(message.contains("bad.jsonl, line 2"), "{message}");
    let message = fails(&paths[1..], held_out(), &tokenizer);
    assert!(message.contains("nothing is left to train on: every document of "), "{message}");
    assert!(message.contains("1.jsonl is also held out"), "{message}");
    for share in [0.0, 1.0, -1.0, f64::NAN] {
        let message = fails(&paths, Validation::Share(share), &tokenizer);
        assert!(message.contains("above 0 and below 1"), "{message}");
    }
    let mut gguf = byte_level("smollm");
    gguf.tokens[0] = "<|other|>".to_owned();
    gguf.eos_token_id = None;
    let message = fails(&paths[..1], held_out(), &build(&gguf));
    assert!(message.contains("no end-of-text token"), "{message}");

    fs::remove_file(bad).unwrap();
    prepare(&paths[..1], &tokenizer, &options(held_out()), &place, &|_| ControlFlow::Continue(()))
        .unwrap();
    let message = fails(&paths[..1], held_out(), &tokenizer);
    assert!(message.contains("corpus: already there"), "{message}");
}

#[test]
fn of_a_long_example_the_end_is_kept_so_that_every_example_is_there() {
    let folder = tempdir().unwrap();
    let tokenizer = words(&["a", "b", "c"], 3);
    let example =
        |part, prompt: &str, response: &str| (part, prompt.to_owned(), response.to_owned());
    let (train, held_out) = (Part::Train, Part::Validation);
    let examples = [
        example(held_out, "a", " c"),
        example(train, "a", " b c"),
        example(train, "a b a b a", " b c"),
        example(train, "a", " a b c a b c"),
        example(train, "a", " b c"),
    ];
    let go_on = |_: u64| ControlFlow::Continue(());
    let place = folder.path().join("corpus");
    let mut made = examples.into_iter();
    let corpus = prepare_examples(&mut made, "a test", &tokenizer, 5, &place, &go_on).unwrap();
    assert_eq!(
        documents(corpus.tokens(train)),
        [vec![0, 1, 2, 3], vec![1, 0, 1, 2, 3], vec![2, 0, 1, 2, 3], vec![0, 1, 2, 3]],
        "the response and the end of text are always there, and what is there twice twice"
    );
    assert!(corpus.description().contains("2 are longer than 5 tokens and lost their beginning"));
}
