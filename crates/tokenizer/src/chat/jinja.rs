//! Chat templates in Jinja, set up as transformers sets it up
//! (`transformers/utils/chat_template_utils.py`), by `minijinja`.
//!
//! The instructions of a rendering, the depth of its calls and the length of its text are limited
//! here. What one instruction does is not: [`process`](super::process) says what is done about that.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::ops::Range;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, State, context, escape_formatter};
use minijinja_contrib::pycompat;
use serde::{Deserialize, Serialize};
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::Message;
use crate::Tokenizer;
use crate::guard::guarded;

/// The most instructions of a rendering: a message takes some hundreds.
const FUEL: u64 = 10_000_000;
/// The most calls within calls.
const DEPTH: usize = 100;
/// The template's name in its environment.
const NAME: &str = "chat_template";

/// Why a template does not compile.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) reason: String,
}

/// A template that is rendered in this process.
#[derive(Debug)]
pub(super) struct Jinja {
    environment: Environment<'static>,
    special_tokens: BTreeMap<String, String>,
}

impl Jinja {
    pub(super) fn compile(
        source: &str,
        special_tokens: BTreeMap<String, String>,
    ) -> Result<Self, Fault> {
        match guarded(|| Ok::<_, String>(environment(source))) {
            Ok(Ok(environment)) => Ok(Self { environment, special_tokens }),
            Ok(Err(error)) => Err(Fault { line: error.line().unwrap_or(1), reason: what(&error) }),
            Err(reason) => Err(Fault { line: 1, reason }),
        }
    }

    /// The text of a conversation, with the generation prompt if it is asked for.
    pub(super) fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, String> {
        self.text(&values(messages), add_generation_prompt)
    }

    /// Does what [`ChatTemplate::answers`](super::ChatTemplate::answers) promises.
    pub(super) fn answers(
        &self,
        messages: &[Message],
        whole: &str,
        until: usize,
    ) -> Result<Vec<Range<usize>>, String> {
        let messages_as_values = values(messages);
        let render = |count: usize, prompt: bool| self.text(&messages_as_values[..count], prompt);
        let beginning = |count: usize, prompt: bool| {
            if count == messages.len() {
                return Ok(whole.len());
            }
            let part = render(count, prompt)?;
            match parting(&part, whole) {
                None => Ok(part.len()),
                Some(parting) => Err(format!(
                    "it does not render turn by turn: its text of the first {count} messages{} is \
                     not how its text of all {} begins: {parting}",
                    if prompt { " with the generation prompt" } else { "" },
                    messages.len()
                )),
            }
        };
        let mut answers = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            if message.role != Message::ASSISTANT {
                continue;
            }
            let start = beginning(index, true)?;
            if start >= until {
                break;
            }
            let end = beginning(index + 1, false)?;
            if start >= end {
                return Err(format!(
                    "its text of message {} adds nothing to the prompt",
                    index + 1
                ));
            }
            answers.push(start..end);
        }
        Ok(answers)
    }

    fn text(&self, messages: &[Value], add_generation_prompt: bool) -> Result<String, String> {
        let context = context! {
            messages => messages,
            tools => (),
            documents => (),
            add_generation_prompt => add_generation_prompt,
            ..Value::from_serialize(&self.special_tokens)
        };
        let mut text = LimitedText::default();
        guarded(|| {
            let template = self.environment.get_template(NAME).map_err(|error| what(&error))?;
            match template.render_captured_to(context, &mut text) {
                Ok(_) => Ok(()),
                Err(_) if text.is_full => {
                    Err(format!("its text has more than {} bytes", Tokenizer::MAX_PIECE_BYTES))
                }
                Err(error) => match error.line() {
                    Some(line) => Err(format!("{} (line {line} of the template)", what(&error))),
                    None => Err(what(&error)),
                },
            }
        })?;
        String::from_utf8(text.bytes).map_err(|error| error.to_string())
    }
}

fn values(messages: &[Message]) -> Vec<Value> {
    messages.iter().map(Value::from_serialize).collect()
}

/// What an error says without the engine's words around it.
fn what(error: &Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)
}

/// Where a text is not the beginning of another, in words.
fn parting(part: &str, whole: &str) -> Option<String> {
    if whole.starts_with(part) {
        return None;
    }
    let same = part.bytes().zip(whole.bytes()).take_while(|(a, b)| a == b).count();
    let from = part.floor_char_boundary(same);
    let excerpt = |text: &str| text[from..].chars().take(40).collect::<String>();
    Some(format!("at byte {from} {:?} stands for {:?}", excerpt(part), excerpt(whole)))
}

/// Text that is written up to a limit.
#[derive(Default)]
struct LimitedText {
    bytes: Vec<u8>,
    is_full: bool,
}

impl Write for LimitedText {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.is_full = self.bytes.len() + bytes.len() > Tokenizer::MAX_PIECE_BYTES;
        if self.is_full {
            return Err(ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Jinja as transformers sets it up.
fn environment(source: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEPTH);
    environment.set_unknown_method_callback(python_method);
    // Python's names for what has no text of its own.
    environment.set_formatter(|output, state, value| match value.kind() {
        ValueKind::None => Ok(output.write_str("None")?),
        ValueKind::Bool => Ok(output.write_str(if value.is_true() { "True" } else { "False" })?),
        _ => escape_formatter(output, state, value),
    });
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", tojson);
    environment.add_template_owned(NAME, plain(source))?;
    Ok(environment)
}

/// The template with Python's line ends, and without transformers' own tags around what the
/// assistant writes: they add nothing to the text, but have a scope of their own.
pub(super) fn plain(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let (mut plain, mut rest) = (String::new(), &*source);
    while let Some((before, tag)) = rest.split_once("{%") {
        plain += before;
        plain += "{%";
        rest = tag;
        let inner = tag.split_once("%}").map_or("", |(inner, _)| inner);
        let word = inner.trim_matches(|mark: char| mark.is_whitespace() || "+-".contains(mark));
        let known = match word {
            "generation" => "with",
            "endgeneration" => "endwith",
            _ => continue,
        };
        plain += &inner.replace(word, known);
        rest = &tag[inner.len()..];
    }
    plain + rest
}

fn failure(what: impl Into<String>) -> Error {
    Error::new(minijinja::ErrorKind::InvalidOperation, what.into())
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(failure(message))
}

/// Formats the day that every template is given: 26 July 2024, a Friday.
fn strftime_now(format: &str) -> Result<String, Error> {
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        text += match characters.next() {
            Some('d') => "26",
            Some('m') => "07",
            Some('b') => "Jul",
            Some('B') => "July",
            Some('y') => "24",
            Some('Y') => "2024",
            Some('a') => "Fri",
            Some('A') => "Friday",
            Some('H' | 'M' | 'S') => "00",
            Some('%') => "%",
            _ => return Err(failure(format!("strftime_now: {format:?} is not understood"))),
        };
    }
    Ok(text)
}

/// Python's methods; places in a string are counted in characters.
fn python_method(
    state: &State<'_, '_>,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let result = pycompat::unknown_method_callback(state, value, method, arguments)?;
    match (method, value.as_str(), result.as_usize()) {
        ("find" | "rfind", Some(text), Some(bytes)) => {
            Ok(Value::from(text.get(..bytes).map_or(0, |before| before.chars().count())))
        }
        _ => Ok(result),
    }
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<u8> = options.get("indent")?;
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        return Err(failure("tojson(ensure_ascii=true) is not understood"));
    }
    options.assert_all_used()?;
    let mut json = Vec::new();
    let written = match indent {
        Some(indent) => {
            let indent = " ".repeat(usize::from(indent));
            let pretty = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut json, pretty))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut json, OneLine)),
    };
    written.map_err(|error| failure(error.to_string()))?;
    String::from_utf8(json).map_err(|error| failure(error.to_string()))
}

/// JSON in one line, as Python writes it.
struct OneLine;

impl Formatter for OneLine {
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}
