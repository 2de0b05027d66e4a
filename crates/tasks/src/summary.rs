//! What scores come to: accuracies, their errors, what they are worth; and two models side by side.
//!
//! A model that computes no numbers, or gives all choices one score, would "choose" the first every
//! time and be given that accuracy: tables have been published so. Here such documents are counted, and a
//! task that has them gets no accuracy.

use std::collections::BTreeMap;

use lns_record::{ChoiceRecord, SampleRecord, TaskDifferenceRecord, TaskGroupRecord, TaskRecord};
use lns_statistics::{mcnemar_p, mean, paired_difference, standard_error};

use crate::{Asked, Document, Metrics};

/// Of this share of documents at most the best choices may tie before accuracy means nothing.
const MOST_TIED: f64 = 0.01;

/// What a model gives a choice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChoiceScore {
    /// Σ log p of the choice's tokens, in nats.
    pub log_probability: f64,
    /// Whether each of them is the likeliest.
    pub greedy: bool,
    /// How many there are.
    pub tokens: usize,
    /// Tokens of the context that did not fit before it.
    pub dropped: usize,
}

/// What a model gives a document's choices.
pub type Scored = Vec<ChoiceScore>;

/// How one document came out.
#[derive(Debug, Clone, Copy, Default)]
struct Outcome {
    acc: f64,
    acc_norm: f64,
    tied: bool,
    tied_norm: bool,
    not_finite: bool,
}

impl Outcome {
    fn of(document: &Document, scores: &Scored, metrics: Metrics) -> Self {
        let gold = document.question.gold;
        if scores.iter().any(|score| !score.log_probability.is_finite()) {
            return Self { not_finite: true, ..Self::default() };
        }
        if metrics == Metrics::Greedy {
            let acc = f64::from(u8::from(scores[gold].greedy));
            return Self { acc, ..Self::default() };
        }
        let sums: Vec<f64> = scores.iter().map(|score| score.log_probability).collect();
        let characters = document.question.choices.iter().map(|choice| choice.characters() as f64);
        let by_character: Vec<f64> = sums.iter().zip(characters).map(|(sum, c)| sum / c).collect();
        let right = |best: usize| f64::from(u8::from(best == gold));
        let ((best, tied), (best_norm, tied_norm)) =
            (best(document, &sums), best(document, &by_character));
        Self { acc: right(best), acc_norm: right(best_norm), tied, tied_norm, not_finite: false }
    }
}

/// The first of the best, and whether another choice than its like is as good.
fn best(document: &Document, scores: &[f64]) -> (usize, bool) {
    let best =
        (0..scores.len()).fold(0, |best, at| if scores[at] > scores[best] { at } else { best });
    let choices = &document.question.choices;
    let ties =
        (0..scores.len()).any(|at| scores[at] == scores[best] && choices[at] != choices[best]);
    (best, ties)
}

/// A task's record: `scores` are those of its documents, in their order.
pub fn summary(asked: &Asked, scores: &[Scored]) -> TaskRecord {
    let outcomes = outcomes(asked, scores);
    let all: Vec<(&Document, &Outcome)> = asked.documents.iter().zip(&outcomes).collect();
    let accuracy = Accuracies::of(&all, asked.metrics);
    let mut groups: BTreeMap<&str, Vec<(&Document, &Outcome)>> = BTreeMap::new();
    for pair in &all {
        if let Some(group) = &pair.0.group {
            groups.entry(group).or_default().push(*pair);
        }
    }
    let group = |(name, of): (&str, Vec<(&Document, &Outcome)>)| {
        let found = Accuracies::of(&of, asked.metrics);
        TaskGroupRecord {
            group: name.to_owned(),
            documents: of.len() as u64,
            acc: accuracy.acc.and(found.acc),
            acc_stderr: accuracy.acc.and(found.acc_stderr),
        }
    };
    let groups: Vec<TaskGroupRecord> = groups.into_iter().map(group).collect();
    let count = |is: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| is(outcome)).count();
    let truncated = scores.iter().filter(|of| of.iter().any(|score| score.dropped > 0)).count();
    TaskRecord {
        task: asked.task.clone(),
        documents: asked.documents.len() as u64,
        of: asked.of as u64,
        shots: asked.shots as u64,
        acc: accuracy.acc,
        acc_stderr: accuracy.acc_stderr,
        acc_norm: accuracy.acc_norm,
        acc_norm_stderr: accuracy.acc_norm_stderr,
        acc_by_group: mean_of_groups(&groups),
        perplexity: perplexity(asked, scores),
        always_first: always_first(asked),
        chance: chance(asked),
        tied: count(|outcome| outcome.tied) as u64,
        tied_norm: count(|outcome| outcome.tied_norm) as u64,
        not_finite: count(|outcome| outcome.not_finite) as u64,
        truncated: truncated as u64,
        groups,
        differences: Vec::new(),
    }
}

fn outcomes(asked: &Asked, scores: &[Scored]) -> Vec<Outcome> {
    let documents = asked.documents.iter().zip(scores);
    documents.map(|(document, scores)| Outcome::of(document, scores, asked.metrics)).collect()
}

/// Those that mean something.
#[derive(Debug, Default)]
struct Accuracies {
    acc: Option<f64>,
    acc_stderr: Option<f64>,
    acc_norm: Option<f64>,
    acc_norm_stderr: Option<f64>,
}

impl Accuracies {
    fn of(documents: &[(&Document, &Outcome)], metrics: Metrics) -> Self {
        if documents.is_empty() || documents.iter().any(|(_, outcome)| outcome.not_finite) {
            return Self::default();
        }
        let few = |tied: fn(&Outcome) -> bool| {
            let tied = documents.iter().filter(|(_, outcome)| tied(outcome)).count();
            tied as f64 <= MOST_TIED * documents.len() as f64
        };
        let mut found = Self::default();
        if few(|outcome| outcome.tied) {
            let values: Vec<f64> = documents.iter().map(|(_, outcome)| outcome.acc).collect();
            (found.acc, found.acc_stderr) = (Some(mean(&values)), standard_error(&values));
        }
        if metrics == Metrics::AccAndNorm && few(|outcome| outcome.tied_norm) {
            let values: Vec<f64> = documents.iter().map(|(_, outcome)| outcome.acc_norm).collect();
            (found.acc_norm, found.acc_norm_stderr) =
                (Some(mean(&values)), standard_error(&values));
        }
        found
    }
}

/// The mean of the groups' accuracies, if each has one.
fn mean_of_groups(groups: &[TaskGroupRecord]) -> Option<f64> {
    let accuracies: Vec<f64> = groups.iter().map(|group| group.acc).collect::<Option<_>>()?;
    (!accuracies.is_empty()).then(|| mean(&accuracies))
}

/// e to the mean loss of what is to be said.
fn perplexity(asked: &Asked, scores: &[Scored]) -> Option<f64> {
    if asked.metrics != Metrics::Greedy {
        return None;
    }
    let gold =
        |(document, scores): (&Document, &Scored)| scores[document.question.gold].log_probability;
    let said: Vec<f64> = asked.documents.iter().zip(scores).map(gold).collect();
    let perplexity = (-mean(&said)).exp();
    perplexity.is_finite().then_some(perplexity)
}

/// The accuracy of one who always takes the first choice; none where the right one never moves.
fn always_first(asked: &Asked) -> Option<f64> {
    let golds: Vec<usize> = asked.documents.iter().map(|document| document.question.gold).collect();
    let moves = golds.iter().any(|gold| *gold != golds[0]);
    let first = golds.iter().filter(|gold| **gold == 0).count();
    moves.then(|| first as f64 / golds.len() as f64)
}

/// The accuracy of one who guesses; none where nothing is chosen.
fn chance(asked: &Asked) -> Option<f64> {
    let share = |document: &Document| 1.0 / document.question.choices.len() as f64;
    let shares: Vec<f64> = asked.documents.iter().map(share).collect();
    (asked.metrics != Metrics::Greedy && !shares.is_empty()).then(|| mean(&shares))
}

/// The lines of `--samples`, one for each document.
pub fn sample<'a>(
    asked: &'a Asked,
    scores: &'a [Scored],
) -> impl Iterator<Item = SampleRecord> + 'a {
    let documents = asked.documents.iter().zip(scores);
    documents.map(|(document, scores)| {
        let outcome = Outcome::of(document, scores, asked.metrics);
        let choices = document.question.choices.iter().zip(scores);
        let choice = |(choice, score): (&crate::Choice, &ChoiceScore)| ChoiceRecord {
            logprob: score.log_probability.is_finite().then_some(score.log_probability),
            tokens: score.tokens as u64,
            characters: choice.characters() as u64,
            greedy: score.greedy,
        };
        let counts = !outcome.not_finite;
        let norm = counts && asked.metrics == Metrics::AccAndNorm;
        SampleRecord {
            model: None,
            task: asked.task.clone(),
            doc_id: document.id,
            group: document.group.clone(),
            choices: choices.map(choice).collect(),
            gold: document.question.gold as u64,
            acc: counts.then_some(outcome.acc as u8),
            acc_norm: norm.then_some(outcome.acc_norm as u8),
        }
    })
}

/// A metric of two models on the same documents, the second against the first; `None` where no difference can be
/// taken.
pub fn task_difference(
    metric: &str,
    first: &[f64],
    second: &[f64],
) -> Option<TaskDifferenceRecord> {
    let found = paired_difference(first, second)?;
    let only = |a: &[f64], b: &[f64]| a.iter().zip(b).filter(|(a, b)| a > b).count() as u64;
    let (only_first, only_second) = (only(first, second), only(second, first));
    Some(TaskDifferenceRecord {
        metric: metric.to_owned(),
        difference: found.nll,
        stderr: found.stderr,
        low: found.low,
        high: found.high,
        only_first,
        only_second,
        mcnemar_p: mcnemar_p(only_first, only_second),
    })
}

/// The second model against the first, document by document; of those accuracies that both have.
pub fn compare(
    asked: &Asked,
    first: (&TaskRecord, &[Scored]),
    second: (&TaskRecord, &[Scored]),
) -> Vec<TaskDifferenceRecord> {
    let outcomes = [outcomes(asked, first.1), outcomes(asked, second.1)];
    let difference = |metric: &str, has: [Option<f64>; 2], value: fn(&Outcome) -> f64| {
        has[0].and(has[1])?;
        let [first, second]: [Vec<f64>; 2] =
            [0, 1].map(|which| outcomes[which].iter().map(value).collect());
        task_difference(metric, &first, &second)
    };
    let (one, other) = (first.0, second.0);
    [
        difference("acc", [one.acc, other.acc], |outcome| outcome.acc),
        difference("acc_norm", [one.acc_norm, other.acc_norm], |outcome| outcome.acc_norm),
    ]
    .into_iter()
    .flatten()
    .collect()
}
