//! The instruction data of a study, rebuilt from the tasks' training sets: one file for all models.

use std::collections::HashSet;
use std::io::BufRead;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use lns_corpus::{Corpus, Part, prepare_examples};
use lns_record::{
    InstructionDataRecord, InstructionSetRecord, NewFolder, SMALL_FILE, open_regular, pretty_json,
    read_regular, sha256,
};
use lns_show::counted;
use lns_tasks::Document;
use lns_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use super::FinetuningConfig;
use super::config::{InstructionTable, SETS};
use crate::StudyError;

const FOLDER: &str = "data";
const COUNTS: &str = "data.json";
const TRAIN: &str = "train.jsonl";
const HELD_OUT: &str = "held_out.jsonl";

/// A line of the data, as `finetune --instructions` reads it too.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    prompt: String,
    response: String,
    source: String,
    id: u64,
}

/// What `data.json` says.
#[derive(Serialize, Deserialize)]
struct Counts {
    #[serde(flatten)]
    record: InstructionDataRecord,
    /// From what it was made, without the folders: data may move.
    made_of: InstructionTable,
}

/// An example and its place in the order, which depends on the seed and on what it says, and on no
/// tokenizer.
struct Drawn {
    place: String,
    line: Line,
}

impl Drawn {
    fn new(seed: u64, set: &str, Document { id, mut question, .. }: Document) -> Self {
        let right = question.choices.swap_remove(question.gold);
        let (prompt, response) = (right.context, right.continuation);
        Self::of_line(seed, Line { prompt, response, source: set.to_owned(), id })
    }

    fn of_line(seed: u64, line: Line) -> Self {
        let Line { prompt, response, source, .. } = &line;
        let place = sha256(format!("{seed}\n{source}\n{prompt}\n{response}").as_bytes());
        Self { place, line }
    }
}

/// The places that the questions of a set's task would have as examples, if it is asked.
fn questions(config: &FinetuningConfig, set: &str) -> Result<HashSet<String>, StudyError> {
    let asked = config.asked_of_set(set)?.map_or_else(Vec::new, |asked| asked.documents);
    let places = asked.into_iter().map(|asked| Drawn::new(config.data.seed, set, asked).place);
    Ok(places.collect())
}

/// Refuses questions that the models of a study have learned from: tasks may have been added since its
/// data were made.
fn refuse_asked(config: &FinetuningConfig, study: &Path) -> Result<(), StudyError> {
    let mut asked = HashSet::new();
    for set in &config.data.sets {
        asked.extend(questions(config, set)?);
    }
    let path = study.join(FOLDER).join(TRAIN);
    let mut learned = 0;
    for line in lines(&path) {
        learned += usize::from(asked.contains(&Drawn::of_line(config.data.seed, line?).place));
    }
    match learned {
        0 => Ok(()),
        count => Err(StudyError::Malformed {
            place: path.display().to_string(),
            reason: format!(
                "the examples were drawn before these tasks were named and hold {} of theirs; name \
                 another folder with --out",
                counted(count, "question")
            ),
        }),
    }
}

/// Makes the data unless they are there.
///
/// # Errors
/// Data that are nowhere or not as they should be; data that are there and were made otherwise.
pub(super) fn make(
    config: &FinetuningConfig,
    study: &Path,
) -> Result<InstructionDataRecord, StudyError> {
    let made_of = InstructionTable { folders: Vec::new(), ..config.data.clone() };
    let folder = study.join(FOLDER);
    if let Some(there) = read(study)? {
        if there.made_of != made_of {
            return Err(StudyError::OtherData { folder });
        }
        refuse_asked(config, study)?;
        return Ok(there.record);
    }
    let mut sets = Vec::new();
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for set in &config.data.sets {
        let (record, mut examples) = drawn(config, set)?;
        held_out.extend(examples.drain(..record.held_out as usize));
        train.extend(examples);
        sets.push(record);
    }
    if train.is_empty() || held_out.is_empty() {
        return Err(StudyError::Malformed {
            place: "[data]".to_owned(),
            reason: "the sets have too few examples: there must be one to learn from and one to hold out"
                .to_owned(),
        });
    }
    let failed = |source| StudyError::Io { path: folder.clone(), source };
    std::fs::create_dir_all(study).map_err(failed)?;
    let new = NewFolder::create(&folder).map_err(failed)?;
    let train_text = in_order(train);
    let record = InstructionDataRecord {
        train: sets.iter().map(|set| set.train).sum(),
        held_out: sets.iter().map(|set| set.held_out).sum(),
        sha256: sha256(train_text.as_bytes()),
        sets,
    };
    let counts = Counts { record, made_of };
    let json = pretty_json(&counts).map_err(|error| failed(error.into()))?;
    for (name, bytes) in
        [(TRAIN, train_text.as_bytes()), (HELD_OUT, in_order(held_out).as_bytes()), (COUNTS, &json)]
    {
        std::fs::write(new.path().join(name), bytes).map_err(failed)?;
    }
    new.commit().map_err(failed)?;
    Ok(counts.record)
}

/// What was made, if it is there.
fn read(study: &Path) -> Result<Option<Counts>, StudyError> {
    let path = study.join(FOLDER).join(COUNTS);
    let Ok(json) = read_regular(&path, SMALL_FILE) else { return Ok(None) };
    serde_json::from_slice(&json).map(Some).map_err(|error| StudyError::Malformed {
        place: path.display().to_string(),
        reason: error.to_string(),
    })
}

/// What the data of a study are, once they are made.
pub(super) fn made(study: &Path) -> Result<Option<InstructionDataRecord>, StudyError> {
    Ok(read(study)?.map(|counts| counts.record))
}

/// The examples of a set in their order, those that are held out first.
fn drawn(
    config: &FinetuningConfig,
    set: &str,
) -> Result<(InstructionSetRecord, Vec<Drawn>), StudyError> {
    let InstructionTable { examples: at_most, held_out, seed, .. } = config.data;
    let questions = questions(config, set)?;
    let found = config.training_set(set)?.documents;
    let (documents, mut asked) = (found.len() as u64, 0);
    let mut seen = HashSet::new();
    let mut examples = Vec::new();
    for example in found.into_iter().map(|document| Drawn::new(seed, set, document)) {
        if questions.contains(&example.place) {
            asked += 1;
        } else if seen.insert(example.place.clone()) {
            examples.push(example);
        }
    }
    let duplicates = documents - asked - examples.len() as u64;
    examples.sort_by(|a, b| a.place.cmp(&b.place));
    if at_most > 0 {
        examples.truncate(at_most);
    }
    let held_out = match examples.len() {
        0 | 1 => 0,
        count => held_out.min(count / 10).max(1),
    };
    let record = InstructionSetRecord {
        set: set.to_owned(),
        documents,
        duplicates,
        asked,
        train: (examples.len() - held_out) as u64,
        held_out: held_out as u64,
        commonsense170k: SETS.iter().find(|(known, _)| *known == set).map(|(_, count)| *count),
    };
    Ok((record, examples))
}

/// Examples of all sets, mixed, a line each.
fn in_order(mut examples: Vec<Drawn>) -> String {
    examples.sort_by(|a, b| a.place.cmp(&b.place));
    let line = |drawn: Drawn| match serde_json::to_string(&drawn.line) {
        Ok(line) => line + "\n",
        Err(error) => unreachable!("texts and a number are JSON: {error}"),
    };
    examples.into_iter().map(line).collect()
}

/// The data in a tokenizer's words, made unless they are there.
///
/// # Errors
/// Data that cannot be read, or as [`prepare_examples`].
pub(super) fn in_tokens(
    study: &Path,
    tokenizer: &Tokenizer,
    length: usize,
    progress: &dyn Fn(u64) -> ControlFlow<()>,
) -> Result<PathBuf, StudyError> {
    let name: String = tokenizer.fingerprint().chars().take(12).collect();
    let place = study.join("text").join(format!("{name}-{length}"));
    if Corpus::is_in(&place) {
        return Ok(place);
    }
    let mut failed = None;
    let files = [(HELD_OUT, Part::Validation), (TRAIN, Part::Train)];
    let lines = files.into_iter().flat_map(|(name, part)| {
        lines(&study.join(FOLDER).join(name)).map(move |line| line.map(|line| (part, line)))
    });
    let mut examples = lines.map_while(|line| match line {
        Ok((part, line)) => Some((part, line.prompt, line.response)),
        Err(error) => {
            failed = Some(error);
            None
        }
    });
    let source = "the study's instruction data";
    let prepared = prepare_examples(&mut examples, source, tokenizer, length, &place, progress);
    match failed {
        Some(error) => {
            // What was prepared lacks what could not be read.
            let _ = std::fs::remove_dir_all(&place);
            Err(error)
        }
        None => Ok(prepared.map(|_| place)?),
    }
}

/// The lines of a file of the data.
fn lines(path: &Path) -> Box<dyn Iterator<Item = Result<Line, StudyError>>> {
    let path = path.to_owned();
    let file = match open_regular(&path) {
        Ok(file) => file,
        Err(source) => return Box::new(std::iter::once(Err(StudyError::Io { path, source }))),
    };
    let read = std::io::BufReader::new(file).lines().enumerate().map(move |(number, line)| {
        let line = line.map_err(|source| StudyError::Io { path: path.clone(), source })?;
        serde_json::from_str(&line).map_err(|error| StudyError::Malformed {
            place: format!("{}, line {}", path.display(), number + 1),
            reason: error.to_string(),
        })
    });
    Box::new(read)
}
