//! TensorBoard's event files, written from a run's events.
//!
//! A file is a sequence of TFRecords (`tensorflow/core/lib/io/record_writer.h`): the payload's length
//! as u64, its masked CRC-32C, the payload, its masked CRC-32C; numbers are little-endian. Payloads
//! are `Event` messages (`tensorboard/compat/proto/event.proto`), of which the fields used here are
//! declared below.

use std::{
    fs::{self, File},
    io::{self, BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use lns_record::{Event, EventsError, LayersEvent, StepEvent, read_events, replace_file};
use prost::Message as _;

/// The folder of these files in a run's folder.
const FOLDER: &str = "tensorboard";
const PREFIX: &str = "events.out.tfevents.";
const SUFFIX: &str = ".lns";

/// Adds a run's events to its TensorBoard file.
///
/// Losses, the gradient's norm, the learning rate and the speed become scalars by step; each layer's
/// statistics become one scalar per layer, `branch_ratio/layer_07`; `stream_variance/layer_07` is of
/// the stream that enters layer 7, and its last one of the stream that leaves the last layer. Notes
/// become texts. Numbers that are not finite are absent.
#[derive(Debug)]
pub struct TensorBoard {
    file: BufWriter<File>,
}

/// Why TensorBoard's files cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message names its fields")]
pub enum TensorBoardError {
    #[error(transparent)]
    Events(#[from] EventsError),
    #[error("{path} cannot be written")]
    Io { path: PathBuf, source: io::Error },
}

impl TensorBoard {
    /// The file of the run in `folder`, made again from the events the run has so far: after a
    /// resumed run's rewind, or a crash in the middle of a record, nothing wrong is left in it.
    ///
    /// # Errors
    /// [`TensorBoardError`], naming the file.
    pub fn open(folder: &Path) -> Result<Self, TensorBoardError> {
        let path = match convert(folder) {
            Err(TensorBoardError::Events(EventsError::Absent { .. })) => rewrite(folder, &[])?,
            path => path?,
        };
        let file = File::options()
            .append(true)
            .open(&path)
            .map_err(|source| TensorBoardError::Io { path, source })?;
        Ok(Self { file: BufWriter::new(file) })
    }

    /// Adds one event.
    ///
    /// # Errors
    /// Whatever the operating system says; the run need not stop for it, as [`convert`] can write the
    /// files again.
    pub fn write(&mut self, event: &Event) -> io::Result<()> {
        self.file.write_all(&records(event))
    }

    /// Hands everything written so far to the operating system, where TensorBoard sees it.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes the TensorBoard file of the run in `folder` again from its events, and removes the ones
/// this function or [`TensorBoard`] made before. Gives the new file's path.
///
/// # Errors
/// [`TensorBoardError`], naming the file; the old files are then still there.
pub fn convert(folder: &Path) -> Result<PathBuf, TensorBoardError> {
    rewrite(folder, &read_events(folder)?)
}

fn rewrite(run: &Path, events: &[Event]) -> Result<PathBuf, TensorBoardError> {
    let folder = run.join(FOLDER);
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| TensorBoardError::Io { path, source }
    };
    fs::create_dir_all(&folder).map_err(failed(&folder))?;
    let old = own_files(&folder).map_err(failed(&folder))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // TensorBoard goes from a file to the next by name.
    let newest = old.iter().map(|(seconds, _)| *seconds).max();
    let seconds = newest.map_or(0, |newest| newest.saturating_add(1)).max(now.as_secs());

    let mut bytes = header(now.as_secs_f64());
    for event in events {
        bytes.extend(records(event));
    }
    let path = folder.join(format!("{PREFIX}{seconds}{SUFFIX}"));
    replace_file(&path, &bytes).map_err(failed(&path))?;
    for (_, old) in old.into_iter().filter(|(_, old)| *old != path) {
        fs::remove_file(&old).or_else(ignore_absent).map_err(failed(&old))?;
    }
    Ok(path)
}

fn ignore_absent(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// The event files that this program made, with the seconds in their names.
fn own_files(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let seconds = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok());
        if let Some(seconds) = seconds {
            files.push((seconds, entry.path()));
        }
    }
    Ok(files)
}

/// What every file begins with: the version, and the word that what was read before, from a file
/// that this one replaces, no longer counts.
fn header(time: f64) -> Vec<u8> {
    let version = proto::What::FileVersion("brain.Event:2".to_owned());
    let mut bytes = record(time, 0, version);
    bytes.extend(record(time, 0, proto::What::SessionLog(proto::SessionLog::start())));
    bytes
}

/// The records of an event: none or one.
fn records(event: &Event) -> Vec<u8> {
    let (time, step, values) = match event {
        Event::Step(event) => (event.time, event.step, step_values(event)),
        Event::Eval(event) => {
            let kl = event.kl.map(|kl| ("kl/validation".to_owned(), Some(kl)));
            let loss = ("loss/validation".to_owned(), event.loss);
            (event.time, event.step, [loss].into_iter().chain(kl).collect())
        }
        Event::Layers(event) => (event.time, event.step, layer_values(event)),
        Event::Note { step, time, text } => {
            let summary = proto::Summary { value: vec![proto::Value::text("notes", text)] };
            return record(*time, *step, proto::What::Summary(summary));
        }
        Event::Resume { step, time, .. } => {
            // TensorBoard forgets the steps from this one on.
            let start = proto::What::SessionLog(proto::SessionLog::start());
            return record(*time, step.saturating_add(1), start);
        }
        _ => return Vec::new(),
    };
    let value = values
        .into_iter()
        .filter_map(|(tag, number)| Some((tag, number.filter(|number| number.is_finite())?)))
        .map(|(tag, number)| proto::Value::scalar(tag, number as f32))
        .collect();
    record(time, step, proto::What::Summary(proto::Summary { value }))
}

fn step_values(event: &StepEvent) -> Vec<(String, Option<f64>)> {
    vec![
        ("loss/train".to_owned(), event.loss),
        ("gradient_norm".to_owned(), event.gradient_norm),
        ("learning_rate".to_owned(), Some(event.learning_rate)),
        ("tokens_per_second".to_owned(), Some(event.tokens_per_second)),
        ("kl/train".to_owned(), event.kl),
    ]
}

fn layer_values(event: &LayersEvent) -> Vec<(String, Option<f64>)> {
    let tables = [
        ("stream_variance", &event.stream_variance),
        ("branch_ratio", &event.branch_ratio),
        ("layer_gradient_norm", &event.gradient_norm),
        ("update_ratio", &event.update_ratio),
    ];
    // Padded to one width, so that the names' order is the layers'.
    let longest = tables.iter().map(|(_, values)| values.len()).max().unwrap_or(0);
    let width = longest.saturating_sub(1).to_string().len().max(2);
    let scalars = |(name, values): (&'static str, &Vec<f64>)| {
        let tagged = values.iter().enumerate();
        tagged.map(|(i, v)| (format!("{name}/layer_{i:0width$}"), Some(*v))).collect::<Vec<_>>()
    };
    tables.into_iter().flat_map(scalars).collect()
}

fn record(time: f64, step: u64, what: proto::What) -> Vec<u8> {
    let step = i64::try_from(step).unwrap_or(i64::MAX);
    let payload = proto::Event { wall_time: time, step, what: Some(what) }.encode_to_vec();
    let length = (payload.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(payload.len() + 16);
    bytes.extend(length);
    bytes.extend(masked_crc(&length).to_le_bytes());
    bytes.extend(&payload);
    bytes.extend(masked_crc(&payload).to_le_bytes());
    bytes
}

/// A CRC of data that itself holds CRCs is weak, so TFRecords rotate and shift theirs.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The fields used of TensorBoard's messages, with its own names and numbers.
mod proto {
    use prost::{Enumeration, Message, Oneof};

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Event {
        #[prost(double, tag = "1")]
        pub(super) wall_time: f64,
        #[prost(int64, tag = "2")]
        pub(super) step: i64,
        #[prost(oneof = "What", tags = "3, 5, 7")]
        pub(super) what: Option<What>,
    }

    #[derive(Clone, PartialEq, Oneof)]
    pub(super) enum What {
        #[prost(string, tag = "3")]
        FileVersion(String),
        #[prost(message, tag = "5")]
        Summary(Summary),
        #[prost(message, tag = "7")]
        SessionLog(SessionLog),
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct SessionLog {
        #[prost(enumeration = "SessionStatus", tag = "1")]
        status: i32,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
    #[repr(i32)]
    enum SessionStatus {
        StatusUnspecified = 0,
        Start = 1,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Summary {
        #[prost(message, repeated, tag = "1")]
        pub(super) value: Vec<Value>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Value {
        #[prost(string, tag = "1")]
        tag: String,
        #[prost(message, optional, tag = "9")]
        metadata: Option<SummaryMetadata>,
        #[prost(oneof = "Content", tags = "2, 8")]
        content: Option<Content>,
    }

    #[derive(Clone, PartialEq, Oneof)]
    enum Content {
        #[prost(float, tag = "2")]
        SimpleValue(f32),
        #[prost(message, tag = "8")]
        Tensor(Tensor),
    }

    #[derive(Clone, PartialEq, Message)]
    struct SummaryMetadata {
        #[prost(message, optional, tag = "1")]
        plugin_data: Option<PluginData>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct PluginData {
        #[prost(string, tag = "1")]
        plugin_name: String,
    }

    /// A scalar string, as it has no shape.
    #[derive(Clone, PartialEq, Message)]
    struct Tensor {
        #[prost(int32, tag = "1")]
        dtype: i32,
        #[prost(bytes = "vec", repeated, tag = "8")]
        string_val: Vec<Vec<u8>>,
    }

    const DT_STRING: i32 = 7;

    impl SessionLog {
        pub(super) fn start() -> Self {
            Self { status: SessionStatus::Start.into() }
        }
    }

    impl Value {
        pub(super) fn scalar(tag: String, number: f32) -> Self {
            Self { tag, metadata: None, content: Some(Content::SimpleValue(number)) }
        }

        pub(super) fn text(tag: &str, text: &str) -> Self {
            let plugin_data = Some(PluginData { plugin_name: "text".to_owned() });
            let tensor = Tensor { dtype: DT_STRING, string_val: vec![text.as_bytes().to_vec()] };
            Self {
                tag: tag.to_owned(),
                metadata: Some(SummaryMetadata { plugin_data }),
                content: Some(Content::Tensor(tensor)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lns_record::EvalEvent;

    use super::*;
    use crate::sample;

    /// What TensorBoard 2.21.0 writes, by this script:
    /// ```python
    /// from io import BytesIO
    /// from tensorboard.compat.proto.event_pb2 import Event
    /// from tensorboard.summary.writer.record_writer import RecordWriter
    /// file = BytesIO()
    /// writer = RecordWriter(file)
    /// writer.write(Event(wall_time=1700000000.5, file_version="brain.Event:2").SerializeToString())
    /// scalar = Event(wall_time=1700000000.5, step=3)
    /// scalar.summary.value.add(tag="loss/validation", simple_value=2.5)
    /// writer.write(scalar.SerializeToString())
    /// print(file.getvalue().hex())
    /// ```
    const GOLDEN: &str = "\
        1800000000000000a37f4b220900002040fc54d9411a0d627261696e2e4576656e743a322b353110\
        2500000000000000eabc36f30900002040fc54d94110032a180a160a0f6c6f73732f76616c696461\
        74696f6e1500002040d4dbec26";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn eval(step: u64, loss: Option<f64>) -> Event {
        let time = 1_700_000_000.5;
        Event::Eval(EvalEvent { step, time, tokens: 0, loss, kl: None, predicted: 1 })
    }

    fn write_events(folder: &Path, events: &[Event]) {
        fs::write(folder.join(Event::FILE_NAME), sample::lines(events)).unwrap();
    }

    /// The messages of the run's only TensorBoard file.
    fn messages(folder: &Path) -> Vec<proto::Event> {
        let files: Vec<_> = fs::read_dir(folder.join(FOLDER)).unwrap().collect();
        assert_eq!(files.len(), 1);
        let bytes = fs::read(files[0].as_ref().unwrap().path()).unwrap();
        let (mut rest, mut messages) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            messages.push(proto::Event::decode(&rest[12..12 + length]).unwrap());
            rest = &rest[16 + length..];
        }
        messages
    }

    fn tags(event: &proto::Event) -> Vec<String> {
        let Some(proto::What::Summary(summary)) = &event.what else { return Vec::new() };
        summary.value.iter().map(|value| format!("{value:?}")).collect()
    }

    #[test]
    fn records_are_the_bytes_that_tensorboard_writes() {
        let version = proto::What::FileVersion("brain.Event:2".to_owned());
        let mut bytes = record(1_700_000_000.5, 0, version);
        bytes.extend(records(&eval(3, Some(2.5))));
        assert_eq!(hex(&bytes), GOLDEN);
    }

    #[test]
    fn a_file_that_was_continued_equals_one_made_from_the_events() {
        let folder = tempfile::tempdir().unwrap();
        let events = sample::run(40, 3);
        write_events(folder.path(), &events[..20]);
        let mut board = TensorBoard::open(folder.path()).unwrap();
        for event in &events[20..] {
            board.write(event).unwrap();
        }
        board.flush().unwrap();
        let continued = messages(folder.path());
        write_events(folder.path(), &events);
        convert(folder.path()).unwrap();
        assert_eq!(messages(folder.path())[2..], continued[2..]);
        assert!(continued.len() > 40);
    }

    #[test]
    fn a_new_run_begins_with_the_version_and_converting_nothing_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = convert(folder.path()).unwrap_err();
        assert!(matches!(error, TensorBoardError::Events(EventsError::Absent { .. })));
        TensorBoard::open(folder.path()).unwrap();
        let messages = messages(folder.path());
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[0].what, Some(proto::What::FileVersion("brain.Event:2".to_owned())));
    }

    #[test]
    fn a_torn_file_is_replaced_under_a_later_name_and_foreign_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        write_events(folder.path(), &[eval(1, Some(4.0)), eval(2, Some(3.0))]);
        let first = convert(folder.path()).unwrap();
        File::options().append(true).open(&first).unwrap().write_all(b"torn").unwrap();
        let second = convert(folder.path()).unwrap();
        assert!(second > first && !first.exists());
        assert_eq!(messages(folder.path()).len(), 4);
        let foreign = second.with_extension("other");
        fs::write(&foreign, b"").unwrap();
        convert(folder.path()).unwrap();
        assert!(foreign.exists());
    }

    #[test]
    fn steps_that_a_resumed_run_takes_again_are_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let resume = Event::Resume { step: 1, time: 1_700_000_001.0, steps: None };
        let events = [eval(1, Some(4.0)), eval(2, Some(3.0)), resume, eval(2, Some(3.5))];
        write_events(folder.path(), &events);
        convert(folder.path()).unwrap();
        let steps: Vec<_> = messages(folder.path())
            .iter()
            .filter(|m| !tags(m).is_empty())
            .map(|m| m.step)
            .collect();
        assert_eq!(steps, [1, 2]);
    }

    #[test]
    fn layers_are_padded_so_that_they_sort_and_numbers_that_are_not_finite_are_left_out() {
        let event = |layers: usize| LayersEvent {
            step: 1,
            time: 1.0,
            stream_variance: vec![1.0; layers + 1],
            branch_ratio: vec![0.5; layers],
            gradient_norm: Vec::new(),
            update_ratio: vec![0.1; layers],
        };
        let names = |layers| layer_values(&event(layers)).into_iter().map(|v| v.0);
        assert_eq!(names(2).next().unwrap(), "stream_variance/layer_00");
        assert_eq!(names(100).next().unwrap(), "stream_variance/layer_000");
        assert_eq!(names(100).nth(100).unwrap(), "stream_variance/layer_100");
        let sorted: Vec<_> = names(12).filter(|name| name.starts_with("branch_ratio")).collect();
        assert!(sorted.is_sorted() && sorted.len() == 12);

        let mut infinite = event(1);
        infinite.branch_ratio = vec![f64::INFINITY];
        let bytes = records(&Event::Layers(infinite));
        let message = proto::Event::decode(&bytes[12..bytes.len() - 4]).unwrap();
        assert_eq!(tags(&message).len(), 3);
    }
}
