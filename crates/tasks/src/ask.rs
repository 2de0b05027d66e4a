//! Data to documents: reading, examples, limits.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use lns_corpus::{Row, Rows};
use lns_spec::meant;

use crate::find::find;
use crate::own::{self, is_file_name, name_of};
use crate::{
    Data, Document, Metrics, Question, Split, Task, TaskError, TaskFormat, TaskRow, olmo, tasks,
};

/// What stands between examples.
const BETWEEN: &str = "\n\n";

/// How much is asked.
#[derive(Debug, Clone, Default)]
pub struct AskOptions {
    /// Where data are looked for.
    pub data: Vec<Data>,
    /// Documents of each task at most: the first, or, where a task has groups, the first of each group
    /// in turn.
    pub limit: Option<usize>,
    /// Examples before every question: the first of the examples' split, of the question's group.
    pub shots: usize,
    /// Another split than the task's own, of tasks that have splits.
    pub split: Option<Split>,
    /// How questions are put.
    pub format: TaskFormat,
}

/// A task's documents, ready to be scored.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The task's name.
    pub task: String,
    /// How answers are counted.
    pub metrics: Metrics,
    /// Examples before every question.
    pub shots: usize,
    /// In the order of their numbers.
    pub documents: Vec<Document>,
    /// How many there were before the limit.
    pub of: usize,
}

/// The documents of the task called `name`, or of the file of that name.
///
/// # Errors
/// [`TaskError`]: no such task, data that are nowhere or are not as they should be, too few examples.
pub fn ask(name: &str, options: &AskOptions) -> Result<Asked, TaskError> {
    let known = tasks().find(|task| task.name() == name);
    let (mut documents, metrics) = match known {
        Some(task) => (of_task(task, options)?, task.metrics()),
        None if is_file_name(name) => of_file(Path::new(name), options)?,
        None => return Err(unknown(name)),
    };
    let of = documents.len();
    if let Some(limit) = options.limit {
        limit_to(limit, &mut documents);
    }
    let task = known.map_or_else(|| name_of(Path::new(name)), |task| task.name().to_owned());
    Ok(Asked { task, metrics, shots: options.shots, documents, of })
}

fn unknown(name: &str) -> TaskError {
    let names: Vec<&str> = tasks().map(Task::name).collect();
    let meant = meant(name, names.iter().copied());
    let meant = meant.and_then(|meant| tasks().map(|task| task.name()).find(|name| *name == meant));
    TaskError::Unknown { name: name.to_owned(), meant, known: names.join(", ") }
}

fn of_file(path: &Path, options: &AskOptions) -> Result<(Vec<Document>, Metrics), TaskError> {
    let name = name_of(path);
    if options.format == TaskFormat::Generating {
        return Err(TaskError::NoInstruction { task: name });
    }
    if options.shots > 0 {
        return Err(TaskError::NoShots { task: name });
    }
    own::read(&name, path)
}

fn of_task(task: &dyn Task, options: &AskOptions) -> Result<Vec<Document>, TaskError> {
    let shots = Shots::read(task, options)?;
    let split = match task.split() {
        Split::All => Split::All,
        own => options.split.unwrap_or(own),
    };
    let files = find(task, split, &options.data)?;
    let mut documents = Vec::new();
    for (group, mut question) in questions(task, &files, options.format)? {
        let before = shots.before(task, group.as_deref())?;
        for choice in &mut question.choices {
            choice.context.insert_str(0, &before);
        }
        documents.push(Document { id: documents.len() as u64, group, question });
    }
    Ok(documents)
}

/// The questions of files, with their groups.
fn questions(
    task: &dyn Task,
    files: &[PathBuf],
    format: TaskFormat,
) -> Result<Vec<(Option<String>, Question)>, TaskError> {
    let mut found = Vec::new();
    for path in files {
        for row in Rows::open(path)? {
            let Row { number, mut fields } = row?;
            let refused = |what| TaskError::row(task.name(), path, number, what);
            if olmo::is_request(&fields) {
                match olmo::row(task.name(), &fields).map_err(refused)? {
                    Some(row) => fields = row,
                    None => continue,
                }
            }
            let row = TaskRow(&fields);
            let question = match format {
                TaskFormat::Continuation => task.question(row),
                TaskFormat::Generating => match task.instruction(row).map_err(refused)? {
                    Some(instruction) => Ok(instruction.into()),
                    None => {
                        return Err(TaskError::NoInstruction { task: task.name().to_owned() });
                    }
                },
            };
            let question = question.and_then(Question::checked);
            let read = question.and_then(|question| Ok((task.group(row)?, question)));
            found.push(read.map_err(refused)?);
        }
    }
    match files.first() {
        Some(path) if found.is_empty() => {
            Err(TaskError::Empty { task: task.name().to_owned(), path: path.clone() })
        }
        _ => Ok(found),
    }
}

/// Examples, by the group that they are of.
struct Shots {
    count: usize,
    answered: HashMap<Option<String>, Vec<String>>,
}

impl Shots {
    fn read(task: &dyn Task, options: &AskOptions) -> Result<Self, TaskError> {
        let mut shots = Self { count: options.shots, answered: HashMap::new() };
        if shots.count == 0 {
            return Ok(shots);
        }
        let split = task.examples();
        let split = split.ok_or_else(|| TaskError::NoShots { task: task.name().to_owned() })?;
        let files = find(task, split, &options.data)?;
        for (group, question) in questions(task, &files, options.format)? {
            let own = shots.answered.entry(group).or_default();
            if own.len() < shots.count {
                own.push(question.answered());
            }
        }
        Ok(shots)
    }

    /// What stands before a question of a group.
    fn before(&self, task: &dyn Task, group: Option<&str>) -> Result<String, TaskError> {
        let group = group.map(str::to_owned);
        let own = self.answered.get(&group).map_or(&[][..], Vec::as_slice);
        if own.len() < self.count {
            return Err(TaskError::TooFewShots {
                task: task.name().to_owned(),
                group,
                found: own.len(),
                wanted: self.count,
            });
        }
        let examples = own.iter().map(|example| format!("{example}{BETWEEN}"));
        Ok(task.opening(group.as_deref()) + &examples.collect::<String>())
    }
}

/// Keeps the first documents of each group in turn.
fn limit_to(limit: usize, documents: &mut Vec<Document>) {
    let mut turns: HashMap<Option<String>, usize> = HashMap::new();
    let mut order: Vec<(usize, usize)> = Vec::new();
    for (place, document) in documents.iter().enumerate() {
        let turn = turns.entry(document.group.clone()).or_default();
        order.push((*turn, place));
        *turn += 1;
    }
    order.sort_unstable();
    order.truncate(limit);
    let mut kept: Vec<usize> = order.into_iter().map(|(_, place)| place).collect();
    kept.sort_unstable();
    let mut kept = kept.into_iter().peekable();
    let mut place = 0;
    documents.retain(|_| {
        place += 1;
        kept.next_if_eq(&(place - 1)).is_some()
    });
}
