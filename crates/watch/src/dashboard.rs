//! `lns watch`: the terminal's side of the dashboard. It reads what the run appends, hears keys, and
//! draws [`crate::screen`] when something changed.

use std::{
    io::{self, ErrorKind, IsTerminal, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use lns_record::{Event, EventsError, FolderKind, FolderMarker};
use lns_show::clean_lines;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};

use crate::{
    follow::{Follower, find_runs, name},
    plot::Scale,
    run::RunLog,
    screen::{Smoothing, State, Subject, View, draw},
    study::{PlannedRun, Study},
    summary,
};

/// How long the dashboard waits before it looks at the file of events again.
const LOOK: Duration = Duration::from_millis(250);
/// How long the screen stays as it is when nothing happens; then it is drawn again, because its
/// clocks go on.
const CLOCK: Duration = Duration::from_secs(1);

/// How to watch.
#[derive(Debug, Clone, Default)]
pub struct WatchOptions {
    /// Print the summary and return, also on a terminal.
    pub summary: bool,
    /// The runs that a study has planned; empty where that is not known, and for a single run.
    pub planned: Vec<PlannedRun>,
}

/// Why a run cannot be watched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum WatchError {
    #[error(transparent)]
    Events(#[from] EventsError),
    #[error(
        "{folder}: no events.jsonl here, in a folder here, or in runs/: name the folder of a \
         training run or of a study"
    )]
    NoRun { folder: PathBuf },
    #[error("{folder} does not exist")]
    Absent { folder: PathBuf },
    #[error("{folder} is {is} that has not begun: no step was taken yet; look again later")]
    NotBegun { folder: PathBuf, is: FolderKind },
    #[error(
        "the terminal cannot be drawn on; with its output in a file or a pipe, watch prints a summary"
    )]
    Terminal { source: io::Error },
    #[error("the summary cannot be printed")]
    Output { source: io::Error },
}

/// Shows the run in `folder` on the terminal, as it goes on, until `q`, Esc or Ctrl-C; its
/// [`summary`](crate::summary) and nothing else when standard output is not a terminal. If `folder`
/// holds runs, as a study's does, it shows all of them together.
///
/// # Errors
/// [`WatchError`]; the terminal is as it was before.
pub fn watch(folder: &Path, options: WatchOptions) -> Result<(), WatchError> {
    let mut watched = Watched::open(folder, options.planned)?;
    if options.summary || !io::stdout().is_terminal() {
        return print(&watched.summary(now()));
    }
    // If only half of it succeeds, what was changed is undone all the same; so too after a panic.
    let shown = ratatui::try_init()
        .map_err(|source| WatchError::Terminal { source })
        .and_then(|mut terminal| show(&mut terminal, &mut watched));
    ratatui::restore();
    shown
}

fn print(text: &str) -> Result<(), WatchError> {
    let mut output = io::stdout().lock();
    match output.write_all(clean_lines(text).as_bytes()).and_then(|()| output.flush()) {
        // The reader has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|source| WatchError::Output { source }),
    }
}

fn show(terminal: &mut DefaultTerminal, watched: &mut Watched) -> Result<(), WatchError> {
    let failed = |source| WatchError::Terminal { source };
    let mut view = View::default();
    loop {
        watched.draw_on(terminal, view).map_err(failed)?;
        let drawn = Instant::now();
        loop {
            if event::poll(LOOK).map_err(failed)? {
                if let event::Event::Key(key) = event::read().map_err(failed)?
                    && !view.take(key)
                {
                    return Ok(());
                }
                break;
            }
            if watched.advance()? || drawn.elapsed() >= CLOCK {
                break;
            }
        }
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl View {
    /// Does what a key asks for; `false` when it asks to quit.
    fn take(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return true;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
            KeyCode::Char('l') => {
                self.scale = match self.scale {
                    Scale::Auto => Scale::Log,
                    Scale::Log => Scale::Linear,
                    Scale::Linear => Scale::Auto,
                }
            }
            KeyCode::Char('s') => {
                self.smoothing = match self.smoothing {
                    Smoothing::None => Smoothing::Light,
                    Smoothing::Light => Smoothing::Strong,
                    Smoothing::Strong => Smoothing::None,
                }
            }
            KeyCode::Char('?') => self.help = !self.help,
            _ => {}
        }
        true
    }
}

/// What is watched: a run or the runs of a study, each with its folder.
#[derive(Debug)]
enum Watched {
    Run { name: String, follower: Follower },
    Study { folder: PathBuf, runs: Vec<(PathBuf, Follower)>, planned: Vec<PlannedRun> },
}

/// Why there is no run to be watched.
fn no_run(folder: &Path) -> WatchError {
    let marker = FolderMarker::read(folder).ok().flatten();
    let folder = folder.to_owned();
    match marker.map(|marker| marker.kind) {
        Some(is @ (FolderKind::Run | FolderKind::Study)) => WatchError::NotBegun { folder, is },
        _ if !folder.exists() => WatchError::Absent { folder },
        _ => WatchError::NoRun { folder },
    }
}

impl Watched {
    fn open(folder: &Path, planned: Vec<PlannedRun>) -> Result<Self, WatchError> {
        if folder.join(Event::FILE_NAME).exists() {
            return Ok(Self::Run { name: name(folder), follower: Follower::open(folder)? });
        }
        let mut study = Self::Study { folder: folder.to_owned(), runs: Vec::new(), planned };
        if !study.advance()? {
            return Err(no_run(folder));
        }
        Ok(study)
    }

    /// Reads what was appended since the last look and says whether there was anything. A study's
    /// runs come and go meanwhile.
    fn advance(&mut self) -> Result<bool, EventsError> {
        match self {
            Self::Run { follower, .. } => follower.advance(),
            Self::Study { folder, runs, .. } => {
                let found = find_runs(folder);
                let before = runs.len();
                runs.retain(|(path, _)| found.contains(path));
                let mut new = runs.len() != before;
                for path in found {
                    match runs.iter_mut().find(|(known, _)| *known == path) {
                        Some((_, follower)) => new |= follower.advance()?,
                        None => {
                            let follower = Follower::open(&path)?;
                            runs.push((path, follower));
                            new = true;
                        }
                    }
                }
                runs.sort_by(|a, b| a.0.cmp(&b.0));
                Ok(new)
            }
        }
    }

    fn summary(&self, now: f64) -> String {
        match self {
            Self::Run { follower, .. } => summary::of_run(follower.run(), now),
            Self::Study { runs, planned, .. } => {
                summary::of_study(Study { runs: &named(runs), planned }, now)
            }
        }
    }

    fn draw_on(&self, terminal: &mut DefaultTerminal, view: View) -> io::Result<()> {
        let mut show = |name: &str, subject| {
            let state = State { name, subject, view, now: now() };
            terminal.draw(|frame| draw(frame, &state)).map(|_| ())
        };
        match self {
            Self::Run { name, follower } => show(name, Subject::Run(follower.run())),
            Self::Study { folder, runs, planned } => {
                show(&name(folder), Subject::Study(Study { runs: &named(runs), planned }))
            }
        }
    }
}

fn named(runs: &[(PathBuf, Follower)]) -> Vec<(String, &RunLog)> {
    runs.iter().map(|(path, follower)| (name(path), follower.run())).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sample;

    fn press(view: &mut View, code: KeyCode, modifiers: KeyModifiers) -> bool {
        view.take(KeyEvent::new(code, modifiers))
    }

    #[test]
    fn q_escape_and_control_c_quit_and_no_other_key_does() {
        let mut view = View::default();
        let quits = [
            (KeyCode::Char('q'), KeyModifiers::NONE),
            (KeyCode::Esc, KeyModifiers::NONE),
            (KeyCode::Char('c'), KeyModifiers::CONTROL),
        ];
        assert!(quits.iter().all(|(code, modifiers)| !press(&mut view, *code, *modifiers)));
        for code in [KeyCode::Char('c'), KeyCode::Char('l'), KeyCode::Up, KeyCode::Enter] {
            assert!(press(&mut view, code, KeyModifiers::NONE));
        }
    }

    #[test]
    fn keys_pressed_often_enough_come_back_to_where_they_began() {
        let mut view = View::default();
        let mut seen = Vec::new();
        for _ in 0..6 {
            seen.push((view.scale, view.smoothing, view.help));
            for key in ['l', 's', '?'] {
                press(&mut view, KeyCode::Char(key), KeyModifiers::NONE);
            }
        }
        assert_eq!((view.scale, view.smoothing, view.help), seen[0]);
        assert!((1..6).all(|i| !seen[..i].contains(&seen[i])), "all six are different");
    }

    #[test]
    fn a_folder_is_a_run_or_a_study_or_an_error_that_says_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let error = Watched::open(folder.path(), Vec::new()).unwrap_err();
        assert!(error.to_string().contains("no events.jsonl here"), "{error}");
        let error = Watched::open(&folder.path().join("nope"), Vec::new()).unwrap_err();
        assert!(error.to_string().contains("does not exist"), "{error}");

        let write = |run: &str| {
            let run = folder.path().join(run);
            fs::create_dir_all(&run).unwrap();
            fs::write(run.join(Event::FILE_NAME), sample::lines(&sample::run(20, 3))).unwrap();
        };
        write("runs/lns-1");
        let mut study = Watched::open(folder.path(), Vec::new()).unwrap();
        assert_eq!(study.summary(0.0).lines().count(), 4, "progress, a gap, the heading, the run");
        assert!(!study.advance().unwrap());
        write("runs/lns-0");
        assert!(study.advance().unwrap(), "a run that began later");
        let summary = study.summary(0.0);
        assert!(summary.find("lns-0") < summary.find("lns-1"), "{summary}");
        fs::remove_dir_all(folder.path().join("runs/lns-1")).unwrap();
        assert!(study.advance().unwrap() && !study.summary(0.0).contains("lns-1"));

        let run = Watched::open(&folder.path().join("runs/lns-0"), Vec::new()).unwrap();
        assert!(run.summary(0.0).contains("at step 20 of 2\u{202f}441"));
    }
}
