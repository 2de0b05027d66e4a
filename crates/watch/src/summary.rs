//! A run, or a study's runs, in a few lines of text: for logs, pipes and people without a terminal.

use std::fmt::Write as _;

use lns_record::{Event, LayersEvent};
use lns_show::figure;

use crate::{format, run::RunLog, study::Study};

/// Steps whose mean is the shown training loss.
const LAST_STEPS: usize = 50;
/// Notes shown.
const NOTES: usize = 5;

/// What the events of a run come to, as aligned lines of text. `now`, in seconds since the Unix
/// epoch, tells a run that is at work from one that has stopped without a word.
///
/// Strings from the events are shown without control characters.
///
/// ```
/// let folder = tempfile::tempdir()?;
/// let event = r#"{"event":"note","step":3,"time":1.5,"text":"hello"}"#;
/// std::fs::write(folder.path().join("events.jsonl"), format!("{event}\n"))?;
/// let text = lns_watch::summary(&lns_record::read_events(folder.path())?, 2.0);
/// assert!(text.contains("step 3"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn summary(events: &[Event], now: f64) -> String {
    of_run(&events.iter().cloned().collect(), now)
}

pub(crate) fn of_run(run: &RunLog, now: f64) -> String {
    let mut rows = vec![("state", state(run, now))];
    if let Some(start) = run.start() {
        let model = format!(
            "{}, {} initialisation, {}, {} parameters",
            start.scheme,
            start.initialisation,
            format::counted(start.layers as usize, "layer"),
            format::compact(start.parameters)
        );
        let threads = format::counted(start.threads as usize, "thread");
        let run = format!("seed {}, {threads}, version {}", start.seed, start.version);
        rows.extend([("model", model), ("run", run)]);
    }
    let tokens = format!(
        "{} in training, {}/s in the last step",
        format::compact(run.tokens()),
        format::grouped(run.steps().next_back().map_or(0.0, |step| step.tokens_per_second) as u64)
    );
    rows.push(("tokens", tokens));
    rows.push(("training loss", training(run)));
    rows.push(("validation loss", validation(run)));
    if run.skipped() > 0 {
        rows.push(("skipped", format::counted(run.skipped(), "update")));
    }
    if let Some((step, folder)) = run.snapshot() {
        rows.push(("snapshot", format!("{folder}, step {}", format::grouped(step))));
    }
    let mut text = String::new();
    for (label, value) in rows {
        line(&mut text, format_args!("{label:<16}{value}"));
    }
    variance(&mut text, run);
    let notes: Vec<_> = run.notes().rev().take(NOTES).collect();
    for (i, (step, note)) in notes.into_iter().rev().enumerate() {
        let label = if i == 0 { "notes" } else { "" };
        line(&mut text, format_args!("{label:<16}step {}: {note}", format::grouped(step)));
    }
    text
}

fn state(run: &RunLog, now: f64) -> String {
    let mut text = format!(
        "{} at step {} of {} after {}",
        run.activity(now).text(),
        format::grouped(run.step()),
        format::grouped(run.planned()),
        format::duration(run.elapsed(now))
    );
    if let Some(left) = run.left(now) {
        text += &format!(", {} left", format::duration(left));
    }
    text
}

fn training(run: &RunLog) -> String {
    let losses: Vec<_> = run.steps().rev().take(LAST_STEPS).filter_map(|step| step.loss).collect();
    match losses.len() {
        0 => format::NONE.to_owned(),
        count => {
            let mean = losses.iter().sum::<f64>() / count as f64;
            format!(
                "{} in the last step, {} on average over the last {}",
                format::loss(losses.first().copied()),
                format::loss(Some(mean)),
                format::counted(count, "step")
            )
        }
    }
}

fn validation(run: &RunLog) -> String {
    let Some(last) = run.evaluations().next_back() else { return format::NONE.to_owned() };
    let mut text = format!(
        "{}, perplexity {}, at step {}",
        format::loss(last.loss),
        format::perplexity(last.loss),
        format::grouped(last.step)
    );
    if let Some(kl) = last.kl {
        text += &format!(", {} from the teacher", format::loss(Some(kl)));
    }
    if let Some((step, best)) = run.best().filter(|best| best.0 != last.step) {
        text += &format!("; lowest {} at step {}", format::loss(Some(best)), format::grouped(step));
    }
    text
}

/// The stream's variance at the first and the last step it was measured at.
fn variance(text: &mut String, run: &RunLog) {
    let (Some(first), Some(last)) = (run.layers().next(), run.layers().next_back()) else { return };
    let middle = last.stream_variance.len().saturating_sub(1) / 2;
    let end = last.stream_variance.len().saturating_sub(1);
    let into = |layer: usize| format!("into layer {layer}");
    line(
        text,
        format_args!(
            "{:<16}{:>10}{:>16}{:>16}{:>16}",
            "stream variance",
            "step",
            into(0),
            into(middle),
            "out of the last"
        ),
    );
    let mut row = |event: &LayersEvent| {
        let of = |i| event.stream_variance.get(i).map_or(format::NONE.to_owned(), |v| figure(*v));
        let step = format::grouped(event.step);
        line(
            text,
            format_args!("{:<16}{step:>10}{:>16}{:>16}{:>16}", "", of(0), of(middle), of(end)),
        );
    };
    if first.step < last.step {
        row(first);
    }
    row(last);
}

/// How far the study is, and one line per run.
pub(crate) fn of_study(study: Study<'_>, now: f64) -> String {
    let runs = study.runs;
    let width = |column: &dyn Fn(&(String, &RunLog)) -> String| {
        runs.iter().map(|run| column(run).chars().count()).max().unwrap_or(0).max(8)
    };
    let scheme =
        |run: &(String, &RunLog)| run.1.start().map_or(String::new(), |s| s.scheme.clone());
    let names = width(&|run| run.0.clone());
    let schemes = width(&scheme);
    let mut text = format!("{}\n\n", study.progress(now));
    line(
        &mut text,
        format_args!(
            "{:<names$}  {:<schemes$}  {:>6}  {:>20}  {:>10}  {:>10}  state",
            "run", "scheme", "seed", "step", "loss", "perplexity"
        ),
    );
    for run in runs {
        let (name, events) = run;
        let scheme = scheme(run);
        let seed = events.start().map_or(format::NONE.to_owned(), |start| start.seed.to_string());
        let step =
            format!("{} / {}", format::grouped(events.step()), format::grouped(events.planned()));
        let loss = events.evaluations().next_back().and_then(|eval| eval.loss);
        let (loss, perplexity) = (format::loss(loss), format::perplexity(loss));
        let state = events.activity(now).text();
        line(
            &mut text,
            format_args!(
                "{name:<names$}  {scheme:<schemes$}  {seed:>6}  {step:>20}  {loss:>10}  \
                 {perplexity:>10}  {state}"
            ),
        );
    }
    text
}

fn line(text: &mut String, line: std::fmt::Arguments) {
    let before = text.len();
    // A string takes everything.
    let _ = text.write_fmt(line);
    text.truncate(before + text[before..].trim_end().len());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn a_summary_says_how_far_how_well_and_how_the_stream_grew() {
        let expected = "\
state           finished at step 1\u{202f}220 of 2\u{202f}441 after 10 min 10 s
model           lns, normal(0.02) initialisation, 24 layers, 4.91 M parameters
run             seed 7, 2 threads, version 0.1.0
tokens          1.25 M in training, 2\u{202f}065/s in the last step
training loss   4.4361 in the last step, 4.3372 on average over the last 50 steps
validation loss 4.3664, perplexity 78.8, at step 1\u{202f}200
skipped         1 update
snapshot        snapshots/step-00001000, step 1\u{202f}000
stream variance       step    into layer 0   into layer 12 out of the last
                        20          0.0282           0.104           0.145
                     1\u{202f}220           0.520            8.73            17.9
notes           step 700: the loss rose by 1.92 in one step: this update was left out
";
        assert_eq!(summary(&sample::finished(1220, 24), 2e9), expected);
    }

    #[test]
    fn a_studys_summary_has_a_line_for_each_run() {
        let one: RunLog = sample::run(200, 3).into_iter().collect();
        let none = RunLog::default();
        let runs = [("lns-1".to_owned(), &one), ("none".to_owned(), &none)];
        let text = of_study(Study { runs: &runs, planned: &[] }, 1.7e9);
        assert!(text.starts_with("0 of 2 runs done, 1 running, 1 silent, about"), "{text}");
        let words = |line: &str| {
            line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        let lines: Vec<_> = text.lines().skip(2).map(words).collect();
        assert_eq!(lines.len(), 3);
        let expected =
            ["lns-1", "lns", "7", "200", "/", "2\u{202f}441", "5.4175", "225", "running"];
        assert_eq!(lines[1], expected);
        assert_eq!(lines[2][..2], ["none", format::NONE]);
    }
}
