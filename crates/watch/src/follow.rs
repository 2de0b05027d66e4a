//! Reading `events.jsonl` while it grows: only what was appended since the last look.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use lns_record::{Event, EventsError, open_regular};

use crate::{format::plain, run::RunLog};

/// A run's file and how far it was read.
#[derive(Debug)]
pub(crate) struct Follower {
    path: PathBuf,
    /// Bytes and lines that were read so far, up to the end of a line.
    position: u64,
    lines: usize,
    run: RunLog,
}

impl Follower {
    /// The run in `folder` with the events it has so far.
    pub(crate) fn open(folder: &Path) -> Result<Self, EventsError> {
        let path = folder.join(Event::FILE_NAME);
        let mut follower = Self { path, position: 0, lines: 0, run: RunLog::default() };
        follower.advance()?;
        Ok(follower)
    }

    pub(crate) fn run(&self) -> &RunLog {
        &self.run
    }

    /// Reads what was appended and says whether there was anything. A file that is shorter than
    /// before is another one and is read from its beginning; a last line that is not whole yet
    /// waits for the next look.
    pub(crate) fn advance(&mut self) -> Result<bool, EventsError> {
        let mut file = open_regular(&self.path).map_err(|error| self.unreadable(error))?;
        let length = file.metadata().map_err(|error| self.unreadable(error))?.len();
        if length == self.position {
            return Ok(false);
        }
        if length < self.position {
            (self.position, self.lines, self.run) = (0, 0, RunLog::default());
        }
        file.seek(SeekFrom::Start(self.position)).map_err(|error| self.unreadable(error))?;
        let mut reader = BufReader::new(file);
        let (mut line, mut new) = (Vec::new(), false);
        loop {
            line.clear();
            let read = reader
                .by_ref()
                .take(Event::LONGEST_LINE)
                .read_until(b'\n', &mut line)
                .map_err(|error| self.unreadable(error))?;
            if !line.ends_with(b"\n") {
                return match read as u64 {
                    Event::LONGEST_LINE => Err(self.malformed("the line has no end")),
                    _ => Ok(new),
                };
            }
            let event = serde_json::from_slice(&line)
                .map_err(|error| self.malformed(&error.to_string()))?;
            self.run.push(event);
            self.position += read as u64;
            self.lines += 1;
            new = true;
        }
    }

    fn unreadable(&self, source: std::io::Error) -> EventsError {
        let path = self.path.clone();
        match source.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => EventsError::Absent { path },
            _ => EventsError::Io { path, source },
        }
    }

    /// The reason may quote the line, which a stranger wrote.
    fn malformed(&self, reason: &str) -> EventsError {
        let path = self.path.clone();
        EventsError::Malformed { path, line: self.lines + 1, reason: plain(reason) }
    }
}

/// The folders that hold a run, under `folder` or its `runs`, by name.
pub(crate) fn find_runs(folder: &Path) -> Vec<PathBuf> {
    let inside = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten();
    let mut runs: Vec<_> = [folder.to_owned(), folder.join("runs")]
        .into_iter()
        .flat_map(inside)
        .map(|entry| entry.path())
        .filter(|path| path.join(Event::FILE_NAME).is_file())
        .collect();
    runs.sort();
    runs
}

/// The name of a folder without its path, made safe to show.
pub(crate) fn name(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    plain(&whole.file_name().unwrap_or(whole.as_os_str()).to_string_lossy())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lns_record::read_events;

    use super::*;
    use crate::sample;

    #[test]
    fn following_a_file_piece_by_piece_gives_what_reading_it_once_gives() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(Event::FILE_NAME);
        let mut events = sample::run(60, 3);
        events.push(Event::Resume { step: 40, time: 2e9, steps: None });
        events.extend(sample::finished(60, 3).into_iter().filter(|event| event.step() > 40));
        let bytes = sample::lines(&events);

        let mut file = fs::File::create(&path).unwrap();
        let mut follower = Follower::open(folder.path()).unwrap();
        // 97 bytes at a time: most lines are seen torn first.
        for piece in bytes.chunks(97) {
            file.write_all(piece).unwrap();
            follower.advance().unwrap();
            let once: RunLog = read_events(folder.path()).unwrap().into_iter().collect();
            assert_eq!(*follower.run(), once);
        }
        assert!(!follower.advance().unwrap(), "nothing new");
        assert_eq!(follower.run().step(), 60);
    }

    #[test]
    fn a_file_that_became_shorter_is_read_again_from_its_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(Event::FILE_NAME);
        fs::write(&path, sample::lines(&sample::run(60, 3))).unwrap();
        let mut follower = Follower::open(folder.path()).unwrap();
        fs::write(&path, sample::lines(&sample::run(20, 3))).unwrap();
        assert!(follower.advance().unwrap());
        assert_eq!(follower.run().step(), 20);
        fs::remove_file(&path).unwrap();
        assert!(matches!(follower.advance(), Err(EventsError::Absent { .. })));
    }

    #[test]
    fn a_line_that_is_no_event_is_named_by_its_number_without_its_control_characters() {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = sample::lines(&sample::run(5, 3));
        let before = bytes.iter().filter(|byte| **byte == b'\n').count();
        bytes.extend(b"{\"event\":\"\\u001b[31m\"}\n");
        fs::write(folder.path().join(Event::FILE_NAME), bytes).unwrap();
        let error = Follower::open(folder.path()).unwrap_err();
        let EventsError::Malformed { line, reason, .. } = error else { panic!("{error}") };
        assert_eq!(line, before + 1);
        assert!(reason.contains("[31m") && !reason.contains('\u{1b}'), "{reason}");
    }

    #[test]
    fn runs_are_found_in_a_studys_folder_and_beside_each_other() {
        let folder = tempfile::tempdir().unwrap();
        for run in ["runs/b", "runs/a", "c"] {
            fs::create_dir_all(folder.path().join(run)).unwrap();
            fs::write(folder.path().join(run).join(Event::FILE_NAME), b"").unwrap();
        }
        fs::create_dir_all(folder.path().join("empty")).unwrap();
        let names: Vec<_> = find_runs(folder.path()).iter().map(|run| name(run)).collect();
        assert_eq!(names, ["c", "a", "b"]);
        assert!(find_runs(&folder.path().join("absent")).is_empty());
    }
}
