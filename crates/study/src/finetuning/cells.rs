//! From answers to the numbers of the table.
//!
//! Over several seeds a number is the mean over them, with Student's interval over them: what another seed
//! would give. One seed has no such interval; it gets the interval over the task's documents: what other
//! documents would give.

use lns_record::{CellRecord, Interval, TaskDifferenceRecord};
use lns_statistics::interval;
use lns_tasks::task_difference;

use super::answers::Answers;

/// Why there is no number yet.
const NOT_YET: &str = "not yet";

/// One seed's number with its interval over documents, or why there is none.
pub(super) type OfSeed = Result<Interval, String>;

/// The accuracy of answers.
pub(super) fn accuracy(answers: Option<&Answers>) -> OfSeed {
    interval(&answers.ok_or(NOT_YET)?.right()?).ok_or_else(|| "no documents".to_owned())
}

/// The second accuracy minus the first, paired by document.
pub(super) fn difference(first: Option<&Answers>, second: Option<&Answers>) -> OfSeed {
    let values: Vec<f64> = {
        let (first, second) = pair(first, second)?;
        second.iter().zip(first).map(|(second, first)| second - first).collect()
    };
    interval(&values).ok_or_else(|| "no documents".to_owned())
}

fn pair(first: Option<&Answers>, second: Option<&Answers>) -> Result<(Vec<f64>, Vec<f64>), String> {
    let (first, second) = (first.ok_or(NOT_YET)?, second.ok_or(NOT_YET)?);
    if !first.asks_as(second) {
        return Err("other questions".to_owned());
    }
    Ok((first.right()?, second.right()?))
}

/// The same with what McNemar's test says of it; `None` where there is no difference.
pub(super) fn compared(
    first: Option<&Answers>,
    second: Option<&Answers>,
) -> Option<TaskDifferenceRecord> {
    let (first, second) = pair(first, second).ok()?;
    task_difference("acc", &first, &second)
}

/// The mean over columns of one seed, if every column has its number. The columns' documents are
/// independent, so squares of margins add up.
pub(super) fn over_columns(columns: &[OfSeed]) -> OfSeed {
    let found = columns.iter().cloned().collect::<Result<Vec<Interval>, String>>()?;
    let count = found.len() as f64;
    let mean = found.iter().map(|column| column.mean).sum::<f64>() / count;
    let squares: Option<f64> =
        found.iter().map(|column| Some((column.high? - column.mean).powi(2))).sum();
    let margin = squares.map(|squares| squares.sqrt() / count);
    Ok(Interval {
        mean,
        low: margin.map(|margin| mean - margin),
        high: margin.map(|margin| mean + margin),
        count: found.iter().map(|column| column.count).sum(),
    })
}

/// The number of a group: over its seeds, or of its only one.
pub(super) fn cell(seeds: &[OfSeed]) -> CellRecord {
    let found: Vec<Interval> = seeds.iter().filter_map(|seed| seed.clone().ok()).collect();
    let reasons: Vec<&String> = seeds.iter().filter_map(|seed| seed.as_ref().err()).collect();
    let reason = reasons.first().map(|reason| match found.is_empty() {
        true => (*reason).clone(),
        false => format!("{reason}: {} of {} seeds", reasons.len(), seeds.len()),
    });
    let (value, over) = match &found[..] {
        [] => (None, "seeds"),
        [one] => (Some(*one), "documents"),
        several => {
            let means: Vec<f64> = several.iter().map(|seed| seed.mean).collect();
            (interval(&means), "seeds")
        }
    };
    CellRecord { value, over: over.to_owned(), at_floor: false, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(mean: f64, margin: f64) -> OfSeed {
        let (low, high) = (Some(mean - margin), Some(mean + margin));
        Ok(Interval { mean, low, high, count: 100 })
    }

    #[test]
    fn one_seed_keeps_the_interval_over_documents_and_several_have_one_over_seeds() {
        let one = cell(&[of(0.5, 0.1)]);
        assert_eq!((one.over.as_str(), one.value.expect("one").count), ("documents", 100));
        let two = cell(&[of(0.5, 0.1), of(0.6, 0.1)]);
        let found = two.value.expect("two");
        assert_eq!((two.over.as_str(), found.count), ("seeds", 2));
        assert!((found.mean - 0.55).abs() < 1e-12 && found.high.expect("an end") > 1.0);
    }

    #[test]
    fn what_has_no_number_says_why_also_where_other_seeds_have_one() {
        let ties = || Err("ties".to_owned());
        assert_eq!(cell(&[ties()]).reason.as_deref(), Some("ties"));
        let some = cell(&[of(0.5, 0.1), ties(), ties()]);
        assert_eq!(some.reason.as_deref(), Some("ties: 2 of 3 seeds"));
        assert_eq!(some.value.expect("one").mean, 0.5);
    }

    #[test]
    fn a_mean_over_columns_is_surer_than_a_column_and_absent_where_one_is() {
        let mean = over_columns(&[of(0.2, 0.03), of(0.4, 0.04)]).expect("both");
        assert!((mean.mean - 0.3).abs() < 1e-12);
        assert!((mean.high.expect("an end") - 0.325).abs() < 1e-12);
        assert_eq!(over_columns(&[of(0.2, 0.03), Err("ties".to_owned())]), Err("ties".to_owned()));
    }
}
