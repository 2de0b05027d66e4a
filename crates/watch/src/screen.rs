//! What the dashboard shows at a moment: a function of its state and nothing else.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Borders, Paragraph, Wrap},
};

use lns_record::{LayersEvent, Outcome};

use crate::{
    format,
    plot::{BLUE, Curve, GREEN, GREY, ORANGE, PURPLE, Plot, SKY, Scale, VERMILLION, panel},
    run::{Activity, RunLog, smoothed},
    study::Study,
};

/// The smallest terminal, in columns and rows, that has room for something useful.
const SMALLEST: (u16, u16) = (36, 9);
/// Columns that a label and its value take in the header.
const FACT_WIDTH: u16 = 24;
/// From this width on, loss and layers stand side by side.
const TWO_COLUMNS: u16 = 76;
/// Width of the table of layers: five columns of numbers and a frame.
const TABLE_WIDTH: u16 = 43;
/// How many of the last notes are shown.
const NOTES: usize = 3;
/// How many of the last steps the shown speed is the mean of.
const SPEED_STEPS: usize = 20;

/// What was chosen with keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) scale: Scale,
    pub(crate) smoothing: Smoothing,
    pub(crate) help: bool,
}

/// How much of the past a point of the training curve holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Smoothing {
    None,
    Light,
    Strong,
}

/// Everything there is to draw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct State<'a> {
    /// Name of the run's or the study's folder.
    pub(crate) name: &'a str,
    pub(crate) subject: Subject<'a>,
    pub(crate) view: View,
    /// Seconds since the Unix epoch.
    pub(crate) now: f64,
}

/// What is watched.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject<'a> {
    Run(&'a RunLog),
    Study(Study<'a>),
}

impl Default for View {
    fn default() -> Self {
        Self { scale: Scale::Auto, smoothing: Smoothing::Light, help: true }
    }
}

impl Smoothing {
    /// The weight of the past in the moving average.
    fn weight(self) -> f64 {
        match self {
            Self::None => 0.0,
            Self::Light => 0.9,
            Self::Strong => 0.98,
        }
    }
}

/// Draws the dashboard.
pub(crate) fn draw(frame: &mut Frame, state: &State) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let text = format!(
            "The terminal has {} × {} cells; {} × {} are needed.",
            area.width, area.height, SMALLEST.0, SMALLEST.1
        );
        return frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
    }
    let help = u16::from(state.view.help && area.height >= 14);
    let [area, footer] =
        Layout::vertical([Constraint::Min(0), Constraint::Length(help)]).areas(area);
    frame.render_widget(keys(state.view, footer.width), footer);
    match state.subject {
        Subject::Run(run) => draw_run(frame, area, state, run),
        Subject::Study(study) => draw_study(frame, area, state, study),
    }
}

fn keys(view: View, width: u16) -> Line<'static> {
    let scale = match view.scale {
        Scale::Auto => "auto",
        Scale::Log => "log",
        Scale::Linear => "linear",
    };
    let smoothing = match view.smoothing {
        Smoothing::None => "none",
        Smoothing::Light => "light",
        Smoothing::Strong => "strong",
    };
    let keys = [
        ("q", " quit".to_owned()),
        ("l", format!(" scale: {scale}")),
        ("s", format!(" smoothing: {smoothing}")),
        ("?", " hide this line".to_owned()),
    ];
    let mut line = Line::default();
    for (key, does) in keys {
        if line.width() + does.len() + 4 <= usize::from(width) {
            line.push_span(Span::from(format!(" {key}")).bold());
            line.push_span(Span::styled(format!("{does}  "), GREY));
        }
    }
    line
}

fn draw_run(frame: &mut Frame, area: Rect, state: &State, run: &RunLog) {
    // In a low window lines are worth more than frames.
    let (borders, frames) = if area.height < 14 { (Borders::TOP, 1) } else { (Borders::ALL, 2) };
    let facts = facts(run);
    let columns = ((area.width - 2) / FACT_WIDTH).max(1);
    let rows = (facts.len() as u16).div_ceil(columns).min((area.height / 6).max(2));
    let notes: Vec<_> = run.notes().rev().take(NOTES).collect();
    let notes_height = match notes.len() {
        0 => 0,
        _ if area.height < 20 => 0,
        count => count as u16 + 2,
    };
    let [header, body, bottom] = Layout::vertical([
        Constraint::Length(rows + 1 + frames),
        Constraint::Min(0),
        Constraint::Length(notes_height),
    ])
    .areas(area);
    draw_header(frame, header, state, run, &facts, panel(borders));
    draw_notes(frame, bottom, &notes);

    let loss = loss_plot(run, state.view);
    if body.width >= TWO_COLUMNS {
        let right = (body.width / 20 * 9).clamp(34, 60);
        let [left, right] =
            Layout::horizontal([Constraint::Min(0), Constraint::Length(right)]).areas(body);
        loss.draw(frame, left, borders);
        draw_layers(frame, right, run, state.view, borders);
    } else if body.height >= 20 {
        let [top, bottom] =
            Layout::vertical([Constraint::Fill(3), Constraint::Fill(2)]).areas(body);
        loss.draw(frame, top, borders);
        draw_layers(frame, bottom, run, state.view, borders);
    } else {
        loss.draw(frame, body, borders);
    }
}

fn draw_header(
    frame: &mut Frame,
    area: Rect,
    state: &State,
    run: &RunLog,
    facts: &[(&str, String)],
    block: Block,
) {
    let activity = run.activity(state.now);
    let told = Span::styled(format!(" {} ", activity.text()), colour_of(activity)).bold();
    let block = block.title_top(Line::from(told).right_aligned());
    let room = usize::from(area.width).saturating_sub(activity.text().chars().count() + 6);
    let block = block.title_top(title(state.name, run, room));
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let [first, rest] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(inside);
    frame.render_widget(progress(run, state.now, usize::from(first.width)), first);
    let columns = (rest.width / FACT_WIDTH).max(1);
    let width = usize::from((rest.width / columns).saturating_sub(2));
    let lines = facts.chunks(columns.into()).map(|row| {
        let cell = |(label, value): &(&str, String)| {
            let room = width.saturating_sub(label.chars().count());
            let value = format!("{value:>room$}");
            [Span::styled(format!(" {label}"), GREY), Span::from(value).bold(), Span::from(" ")]
        };
        Line::from(row.iter().flat_map(cell).collect::<Vec<_>>())
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), rest);
}

/// The title: name and model, as much of them as there is room for.
fn title(name: &str, run: &RunLog, room: usize) -> Line<'static> {
    let mut parts = vec![name.to_owned()];
    if let Some(start) = run.start() {
        parts.extend([
            start.scheme.clone(),
            format!("seed {}", start.seed),
            format!("{} parameters", format::compact(start.parameters)),
            format::counted(start.layers as usize, "layer"),
            format!("{} init", start.initialisation),
        ]);
    }
    while parts.len() > 1 && Line::from(parts.join(" · ")).width() > room {
        parts.pop();
    }
    let mut parts = parts.into_iter();
    let name: String = parts.next().unwrap_or_default().chars().take(room).collect();
    let name = Span::from(format!(" {name}")).bold();
    let rest: String = parts.map(|part| format!(" · {part}")).collect();
    Line::from(vec![name, Span::from(rest + " ")])
}

fn colour_of(activity: Activity) -> Color {
    match activity {
        Activity::Running => GREEN,
        Activity::Silent(_) => PURPLE,
        Activity::Ended(Outcome::Finished) => SKY,
        Activity::Ended(Outcome::Interrupted) => ORANGE,
        Activity::Ended(Outcome::Diverged) => VERMILLION,
    }
}

/// The line of progress: steps, a bar and times, fewer of them where there is little room.
fn progress(run: &RunLog, now: f64, width: usize) -> Line<'static> {
    let (step, planned) = (run.step(), run.planned());
    let share = (step as f64 / planned.max(1) as f64).min(1.0);
    let before = format!(" step {} / {} ", format::grouped(step), format::grouped(planned));
    let percent = format!(" {:.1} % ", 100.0 * share);
    let elapsed = format!("  {} elapsed ", format::duration(run.elapsed(now)));
    let choices = match run.left(now) {
        Some(left) => {
            let left = format!("  {} left ", format::duration(left));
            vec![format!("{percent}{elapsed}{left}"), format!("{percent}{left}")]
        }
        None => vec![format!("{percent}{elapsed}")],
    };
    let room = width.saturating_sub(before.chars().count());
    let fits = |text: &String| text.chars().count() + 10 <= room;
    let after = choices.into_iter().find(fits).unwrap_or(percent);
    let bar = room.saturating_sub(after.chars().count());
    let filled = (share * bar as f64).round() as usize;
    Line::from(vec![
        Span::from(before).bold(),
        Span::styled("━".repeat(filled), GREEN),
        Span::styled("╌".repeat(bar - filled), GREY),
        Span::from(after),
    ])
}

/// Labels and values of the header, the most wanted first.
fn facts(run: &RunLog) -> Vec<(&'static str, String)> {
    let validation = run.evaluations().next_back().and_then(|eval| eval.loss);
    let last = run.steps().next_back();
    let speeds: Vec<_> =
        run.steps().rev().take(SPEED_STEPS).map(|step| step.tokens_per_second).collect();
    let speed = speeds.iter().sum::<f64>() / speeds.len().max(1) as f64;
    let mut facts = vec![
        // The last step's own: an average over steps lags behind a falling loss.
        ("last step", format::loss(last.and_then(|step| step.loss))),
        ("validation", format::loss(validation)),
        ("perplexity", format::perplexity(validation)),
        ("lowest", format::loss(run.best().map(|best| best.1))),
        ("learning rate", format::significant_or_none(last.map(|step| step.learning_rate))),
        ("gradient", format::significant_or_none(last.and_then(|step| step.gradient_norm))),
        ("tokens/s", format::grouped(speed.round() as u64)),
        ("tokens", format::compact(run.tokens())),
    ];
    if let Some(kl) = run.evaluations().next_back().and_then(|eval| eval.kl) {
        facts.push(("to teacher", format::loss(Some(kl))));
    }
    if run.skipped() > 0 {
        facts.push(("skipped", format::counted(run.skipped(), "update")));
    }
    facts
}

/// The training loss, smoothed.
fn training(run: &RunLog, smoothing: Smoothing) -> Vec<(f64, f64)> {
    let losses = run.steps().filter_map(|step| Some((step.step as f64, step.loss?)));
    smoothed(&losses.collect::<Vec<_>>(), smoothing.weight())
}

fn validation(run: &RunLog) -> Vec<(f64, f64)> {
    run.evaluations().filter_map(|eval| Some((eval.step as f64, eval.loss?))).collect()
}

fn loss_plot(run: &RunLog, view: View) -> Plot<'static> {
    let raw = match view.smoothing {
        Smoothing::None => Vec::new(),
        _ => training(run, Smoothing::None),
    };
    let averaged = match view.smoothing {
        Smoothing::None => "training",
        Smoothing::Light | Smoothing::Strong => "training, averaged",
    };
    let curve = |name: Option<&str>, points, colour, framed| Curve {
        name: name.map(str::to_owned),
        points,
        colour,
        joined: true,
        framed,
    };
    let evaluations =
        Curve { joined: false, ..curve(Some("validation"), validation(run), ORANGE, true) };
    Plot {
        title: "loss, nats per token",
        across: "step",
        curves: vec![
            curve(None, raw, Color::Indexed(240), false),
            curve(Some(averaged), training(run, view.smoothing), SKY, true),
            curve(None, validation(run), ORANGE, true),
            evaluations,
        ],
        scale: view.scale,
        empty: "no step yet",
    }
}

/// Stream variance, and the table where there is room for it.
fn draw_layers(frame: &mut Frame, area: Rect, run: &RunLog, view: View, borders: Borders) {
    let (first, last) = (run.layers().next(), run.layers().next_back());
    let table = area.width >= TABLE_WIDTH && area.height >= 17 && last.is_some();
    let height = if table { area.height / 2 } else { 0 };
    let [top, bottom] =
        Layout::vertical([Constraint::Min(0), Constraint::Length(height)]).areas(area);
    let earliest = first.filter(|first| last.is_some_and(|last| first.step < last.step));
    let curve = |event: &LayersEvent, colour, joined| Curve {
        name: Some(format!("step {}", format::grouped(event.step))),
        points: event.stream_variance.iter().enumerate().map(|(i, v)| (i as f64, *v)).collect(),
        colour,
        joined,
        framed: true,
    };
    let curves = earliest.map(|event| curve(event, GREY, false)).into_iter();
    let plot = Plot {
        title: "stream variance",
        across: "layer",
        curves: curves.chain(last.map(|event| curve(event, GREEN, true))).collect(),
        scale: view.scale,
        empty: "no statistics of layers yet",
    };
    plot.draw(frame, top, borders);
    if let Some(last) = last.filter(|_| table) {
        draw_table(frame, bottom, last, panel(borders));
    }
}

fn draw_table(frame: &mut Frame, area: Rect, event: &LayersEvent, block: Block) {
    let block = block.title(format!(" layers at step {} ", format::grouped(event.step)));
    let inside = block.inner(area);
    let columns = [&event.branch_ratio, &event.gradient_norm, &event.update_ratio];
    let layers = columns.iter().map(|column| column.len()).max().unwrap_or(0);
    let heading = format!("{:>6}{:>11}{:>11}{:>11}", "layer", "branch", "gradient", "update");
    let mut lines = vec![Line::styled(heading, GREY)];
    for layer in spread(layers, usize::from(inside.height.saturating_sub(1))) {
        let values = columns.map(|column| format::significant_or_none(column.get(layer).copied()));
        let [branch, gradient, update] = values;
        lines.push(Line::from(format!("{layer:>6}{branch:>11}{gradient:>11}{update:>11}")));
    }
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// The indices from 0 to `count`, or `room` of them where there is no room for all: evenly spread,
/// the first and the last among them.
fn spread(count: usize, room: usize) -> Vec<usize> {
    match (count, room) {
        (count, room) if count <= room => (0..count).collect(),
        (_, 0 | 1) => (0..room).collect(),
        _ => (0..room).map(|i| (i * (count - 1) + (room - 1) / 2) / (room - 1)).collect(),
    }
}

fn draw_notes(frame: &mut Frame, area: Rect, notes: &[(u64, &str)]) {
    let line = |(step, text): &(u64, &str)| {
        let step = format!(" step {:>9}  ", format::grouped(*step));
        Line::from(vec![Span::styled(step, GREY), Span::from((*text).to_owned())])
    };
    let lines: Vec<_> = notes.iter().rev().map(line).collect();
    frame.render_widget(Paragraph::new(lines).block(panel(Borders::ALL).title(" notes ")), area);
}

fn draw_study(frame: &mut Frame, area: Rect, state: &State, study: Study<'_>) {
    let runs = study.runs;
    const COLOURS: [Color; 6] = [SKY, ORANGE, GREEN, PURPLE, BLUE, VERMILLION];
    let mut kinds: Vec<String> = Vec::new();
    let colours: Vec<Color> = runs
        .iter()
        .map(|(_, run)| {
            let kind = run.kind();
            let known = kinds.iter().position(|known| *known == kind);
            let index = known.unwrap_or_else(|| {
                kinds.push(kind);
                kinds.len() - 1
            });
            COLOURS[index % COLOURS.len()]
        })
        .collect();
    let rows = u16::try_from(runs.len()).unwrap_or(u16::MAX);
    let height = rows.saturating_add(3).min(area.height / 2);
    let [top, bottom] =
        Layout::vertical([Constraint::Min(0), Constraint::Length(height)]).areas(area);
    let curve = |((_, run), colour): (&(String, &RunLog), &Color)| Curve {
        name: None,
        points: validation(run),
        colour: *colour,
        joined: true,
        framed: true,
    };
    let plot = Plot {
        title: "validation loss, nats per token",
        across: "step",
        curves: runs.iter().zip(&colours).map(curve).collect(),
        scale: state.view.scale,
        empty: "no evaluation yet",
    };
    plot.draw(frame, top, Borders::ALL);
    draw_runs(frame, bottom, state, study, &colours);
}

/// One line per run, which is also the legend; the runs at work first if there is no room for all.
fn draw_runs(frame: &mut Frame, area: Rect, state: &State, study: Study<'_>, colours: &[Color]) {
    let runs = study.runs;
    let progress = study.progress(state.now);
    let block = panel(Borders::ALL).title(format!(" {}: {progress} ", state.name));
    let room = usize::from(block.inner(area).height.saturating_sub(1));
    let mut shown: Vec<usize> = (0..runs.len()).collect();
    if runs.len() > room {
        shown.sort_by_key(|i| matches!(runs[*i].1.activity(state.now), Activity::Ended(_)));
        shown.truncate(room);
        shown.sort_unstable();
    }
    let width = runs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let width = width.min(usize::from(area.width.saturating_sub(58))).max(10);
    // In a narrow window the last columns are cut.
    let heading = format!("{:<width$}{:>10}  {:<21}{:>7}", "run", "loss", "state", "done");
    let mut lines = vec![Line::styled(format!("    {heading}{:>11}", "step"), GREY)];
    for i in shown {
        let (name, run) = &runs[i];
        let activity = run.activity(state.now);
        let loss = format::loss(run.evaluations().next_back().and_then(|eval| eval.loss));
        let done = 100.0 * (run.step() as f64 / run.planned().max(1) as f64).min(1.0);
        let name: String = name.chars().take(width).collect();
        lines.push(Line::from(vec![
            Span::styled(" ━━ ", Style::new().fg(colours[i])),
            Span::from(format!("{name:<width$}{loss:>10}  ")),
            Span::styled(format!("{:<21}", activity.text()), colour_of(activity)),
            Span::from(format!("{done:>5.0} %{:>11}", format::grouped(run.step()))),
        ]));
    }
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

#[cfg(test)]
mod tests {
    use lns_record::{Event, StartEvent};
    use ratatui::{Terminal, backend::TestBackend, buffer::Cell};

    use super::*;
    use crate::{PlannedRun, sample};

    const NOW: f64 = 1_700_000_611.0;

    fn shown(subject: Subject, view: View, now: f64, width: u16, height: u16) -> String {
        drawn(&State { name: "books-lns", subject, view, now }, width, height)
    }

    fn drawn(state: &State, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state)).unwrap();
        let cells = &terminal.backend().buffer().content;
        let line = |row: &[Cell]| row.iter().map(Cell::symbol).collect();
        cells.chunks(width.into()).map(line).collect::<Vec<String>>().join("\n")
    }

    fn screen(run: &RunLog, width: u16, height: u16) -> String {
        shown(Subject::Run(run), View::default(), NOW, width, height)
    }

    fn run() -> RunLog {
        sample::run(1220, 24).into_iter().collect()
    }

    fn has(screen: &str, texts: &[&str]) {
        texts.iter().for_each(|text| assert!(screen.contains(text), "no {text} in\n{screen}"));
    }

    #[test]
    fn usual_terminals_show_the_run_the_loss_the_layers_and_the_notes() {
        let last = crate::format::loss(run().steps().next_back().unwrap().loss);
        for (width, height) in [(80, 24), (100, 30), (120, 40)] {
            let screen = screen(&run(), width, height);
            has(&screen, &["books-lns · lns · seed 7 · 4.91 M parameters", " running "]);
            has(&screen, &["step 1\u{202f}220 / 2\u{202f}441", "50.0 %", "10 min 10 s left"]);
            has(&screen, &["last step", &last, "validation", "4.3664", "78.8", "1.50e-3"]);
            has(&screen, &["loss, nats per token", "─ training, averaged", "• validation"]);
            has(
                &screen,
                &["stream variance, log scale", "• step 20", "─ step 1\u{202f}220", "17.9"],
            );
            has(&screen, &["step       700  the loss rose by 1.92", "q quit"]);
            assert_eq!(screen.contains("layers at step 1\u{202f}220"), width >= 100);
        }
        has(&screen(&run(), 120, 40), &["10 min 11 s elapsed", "normal(0.02) init"]);
    }

    #[test]
    fn a_low_narrow_terminal_shows_the_essentials_and_a_tiny_one_says_so() {
        let screen = |width, height| screen(&run(), width, height);
        has(&screen(40, 10), &["books-lns · lns", "running", "step 1\u{202f}220 / 2\u{202f}441"]);
        has(&screen(40, 10), &["last step", "validation", "4.3664", "loss, nats per token"]);
        has(&screen(40, 40), &["stream variance", "loss, nats per token"]);
        has(&screen(30, 8), &["The terminal has 30 × 8 cells;"]);
    }

    #[test]
    fn a_long_name_does_not_hide_the_state() {
        let (name, run) = ("a-long-name".repeat(9), run());
        let (subject, view) = (Subject::Run(&run), View::default());
        let state = State { name: &name, subject, view, now: NOW };
        for (width, height) in [(40, 10), (80, 24)] {
            has(&drawn(&state, width, height), &["a-long-name", " running "]);
        }
    }

    #[test]
    fn an_ended_or_silent_run_says_so_and_promises_no_time() {
        let ended: RunLog = sample::finished(1220, 24).into_iter().collect();
        let screen = |run, now| shown(Subject::Run(run), View::default(), now, 100, 30);
        let finished = screen(&ended, NOW);
        has(&finished, &[" finished ", "10 min 10 s elapsed"]);
        let unended = run();
        let silent = screen(&unended, NOW + 7200.0);
        has(&silent, &["silent for 2 h 00 min"]);
        assert!(!finished.contains(" s left ") && !silent.contains(" s left "));
        has(&screen(&unended, NOW), &[" s left "]);
    }

    #[test]
    fn keys_change_the_scale_the_smoothing_and_the_help() {
        let run = run();
        let screen = |scale, smoothing, help| {
            shown(Subject::Run(&run), View { scale, smoothing, help }, NOW, 100, 30)
        };
        let log = screen(Scale::Log, Smoothing::Strong, true);
        has(&log, &["loss, nats per token, log scale", "scale: log", "smoothing: strong"]);
        let linear = screen(Scale::Linear, Smoothing::None, false);
        assert!(!linear.contains("log scale") && !linear.contains("quit"));
        let last = crate::format::loss(run.steps().next_back().unwrap().loss);
        has(&linear, &[&last, "─ training "]);
        has(&log, &[&last, "─ training, averaged"]);
    }

    #[test]
    fn a_run_that_has_only_begun_has_no_numbers_yet() {
        let begun: RunLog = sample::run(0, 24).into_iter().take(1).collect();
        has(&screen(&begun, 100, 30), &["no step yet", "no statistics of layers yet", "step 0 /"]);
        has(&screen(&RunLog::default(), 100, 30), &["books-lns", "silent"]);
    }

    #[test]
    fn a_study_shows_every_run_with_its_loss_and_state() {
        let (one, two) = (run(), sample::finished(2441, 24).into_iter().collect());
        let runs = [("lns-1".to_owned(), &one), ("pre-1".to_owned(), &two)];
        let planned = [PlannedRun { folder: "runs/lns-2".to_owned(), steps: 2441 }];
        for (width, height) in [(80, 24), (100, 30), (40, 10)] {
            let study = Study { runs: &runs, planned: &planned };
            let screen = shown(Subject::Study(study), View::default(), NOW, width, height);
            has(&screen, &["books-lns: 1 of 3 runs done", "lns-1", "4.3664", "running"]);
            has(&screen, &["pre-1", "finished", "validation loss"]);
            assert_eq!(screen.contains("1 to come, about"), width >= 80);
            assert_eq!(screen.contains("50 %") && screen.contains("2\u{202f}441"), width >= 80);
        }
        let of = |i| (format!("run-{i}"), if i < 29 { &two } else { &one });
        let many: Vec<_> = (0..30).map(of).collect();
        let many = Study { runs: &many, planned: &[] };
        let screen = shown(Subject::Study(many), View::default(), NOW, 80, 24);
        has(&screen, &["29 of 30 runs done", "run-0", "run-29", "running"]);
    }

    /// Numbers and names as a broken or hostile file may hold them.
    fn hostile() -> RunLog {
        let mut run = run();
        let extremes = [f64::MAX, f64::MIN, 0.0, -1.0, f64::MIN_POSITIVE, 1e-320];
        run.push(Event::Start(StartEvent {
            time: f64::MAX,
            version: "\u{1b}[2J".repeat(99),
            scheme: "\u{202e}\u{1b}]0;gone\u{7}".to_owned(),
            initialisation: "長".repeat(1000),
            seed: u64::MAX,
            threads: u64::MAX,
            layers: u64::MAX,
            parameters: u64::MAX,
            steps: 0,
            tokens_per_step: u64::MAX,
            base: None,
            trainable: None,
            teacher: Some("\u{1b}[2J".to_owned()),
        }));
        for (i, x) in extremes.into_iter().enumerate() {
            let text = "\u{1b}[31mred\n\u{9b}0m".to_owned();
            let step = u64::MAX - i as u64;
            for mut event in sample::run(20, 3) {
                match &mut event {
                    Event::Step(event) => {
                        (event.step, event.time, event.tokens) = (step, x, u64::MAX);
                        (event.loss, event.gradient_norm) = (Some(x), Some(x));
                        (event.learning_rate, event.tokens_per_second) = (x, x);
                    }
                    Event::Eval(event) => (event.step, event.time, event.loss) = (step, x, Some(x)),
                    Event::Layers(event) => {
                        (event.step, event.time) = (step, x);
                        event.stream_variance = extremes[..i].to_vec();
                        event.branch_ratio = extremes[i..].to_vec();
                        event.update_ratio = Vec::new();
                    }
                    _ => {}
                }
                run.push(event);
            }
            run.push(Event::Note { step, time: x, text });
        }
        run
    }

    #[test]
    fn no_size_and_no_number_panics_and_no_control_character_is_shown() {
        let (good, bad, none) = (run(), hostile(), RunLog::default());
        let only_bad: RunLog = sample::run(0, 3).into_iter().skip(1).collect();
        let runs = [&good, &bad, &none, &only_bad];
        let study = runs.map(|run| ("name".repeat(20), run));
        for width in (1..150).step_by(29) {
            for height in (1..60).step_by(7) {
                for scale in [Scale::Auto, Scale::Log, Scale::Linear] {
                    let view = View { scale, ..View::default() };
                    let study = Subject::Study(Study { runs: &study, planned: &[] });
                    for subject in runs.map(Subject::Run).into_iter().chain([study]) {
                        let text = shown(subject, view, NOW, width, height);
                        assert!(!text.replace('\n', "").contains(char::is_control));
                    }
                }
            }
        }
        let summary = crate::summary::of_run(&bad, NOW);
        assert!(!summary.replace('\n', "").contains(char::is_control), "{summary}");
    }

    #[test]
    fn of_many_layers_the_first_and_the_last_are_always_in_the_table() {
        assert_eq!(spread(3, 7), [0, 1, 2]);
        assert_eq!(spread(24, 7), [0, 4, 8, 12, 15, 19, 23]);
        assert_eq!(spread(24, 1), [0]);
        assert!(spread(24, 0).is_empty());
        assert!((2..24).all(|room| spread(24, room).is_sorted_by(|a, b| a < b)));
    }
}
