//! A model's own chat template: Jinja, rendered as transformers' `apply_chat_template` does
//! (`transformers/utils/chat_template_utils.py`), by `minijinja`.
//!
//! A template comes from a stranger. The instructions of a rendering, the depth of its calls and the
//! length of its text are limited here. What one instruction does is not: `chat_process` says what
//! is done about that.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use lns_checkpoint::{Checkpoint, GgufTokenizer, TokenizerSource};
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, State, context, escape_formatter};
use minijinja_contrib::pycompat;
use serde::{Deserialize, Serialize};
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::chat_process::{Apart, Rendering};
use crate::tokenizer::{CONFIG_FILE, MAX_TOKENIZER_CONFIG, guarded, read_if_there};
use crate::{Tokenizer, TokenizerError};

/// The file that transformers writes a template into.
const TEMPLATE_FILE: &str = "chat_template.jinja";
/// Templates with tools in them have some ten kilobytes.
const MAX_TEMPLATE: u64 = 1 << 20;
/// The most instructions of a rendering: a message takes some hundreds.
const FUEL: u64 = 10_000_000;
/// The most calls within calls.
const DEPTH: usize = 100;
/// The template's name in its environment.
const NAME: &str = "chat_template";

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant` or whom else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// The role of the model, whose messages are learned from.
    pub const ASSISTANT: &str = "assistant";
}

/// How a model's makers lay out a conversation as text.
///
/// ```no_run
/// use lns_checkpoint::Checkpoint;
/// use lns_tokenizer::{ChatTemplate, Message, Rendering};
///
/// let checkpoint = Checkpoint::open("SmolLM2-135M-Instruct".as_ref())?;
/// let template = ChatTemplate::of(&checkpoint, &Rendering::Here)?.expect("a model for chat has a template");
/// let question = Message { role: "user".into(), content: "How deep is the sea?".into() };
/// let prompt = template.render(&[question], true)?;
/// assert!(prompt.ends_with("<|im_start|>assistant\n"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ChatTemplate {
    /// The file it is from.
    path: PathBuf,
    engine: Engine,
}

#[derive(Debug)]
enum Engine {
    Here(Jinja),
    Apart(Apart),
}

impl ChatTemplate {
    /// The template of a model: `chat_template.jinja` beside the weights, else `chat_template` in
    /// `tokenizer_config.json` there (of several the one named `default`), else the one in the GGUF
    /// file. `None` for a model without one, which is a base model.
    ///
    /// A template that asks for the date (`strftime_now`) gets 26 July 2024 at midnight, the day that
    /// Llama 3.1's falls back on: the same data are the same text on every day.
    ///
    /// # Errors
    /// A template that does not compile, or a file that cannot be read.
    pub fn of(
        checkpoint: &Checkpoint,
        rendering: &Rendering,
    ) -> Result<Option<Self>, TokenizerError> {
        let path = checkpoint.path();
        let folder = checkpoint.folder();
        let tokenizer = checkpoint.tokenizer();
        let gguf = match &tokenizer {
            TokenizerSource::Gguf(gguf) => Some((&**gguf, path)),
            TokenizerSource::Json(_) | TokenizerSource::None => None,
        };
        Self::beside(folder, gguf, rendering)
    }

    fn beside(
        folder: &Path,
        gguf: Option<(&GgufTokenizer, &Path)>,
        rendering: &Rendering,
    ) -> Result<Option<Self>, TokenizerError> {
        let config_path = folder.join(CONFIG_FILE);
        let config = TokenizerConfig::read(&config_path)?;
        let special_tokens = special_tokens(&config, gguf.map(|(gguf, _)| gguf));
        let jinja = folder.join(TEMPLATE_FILE);
        let (path, source) = if let Some(source) = read_text(&jinja)? {
            (jinja, source)
        } else if let Some(templates) = config.chat_template {
            let refused =
                |reason| TokenizerError::TokenizerConfig { path: config_path.clone(), reason };
            let source = templates.default().map_err(refused)?;
            (config_path, source)
        } else if let Some((GgufTokenizer { chat_template: Some(source), .. }, path)) = gguf {
            (path.to_owned(), source.clone())
        } else {
            return Ok(None);
        };
        Self::new(path, &source, special_tokens, rendering).map(Some)
    }

    /// A template from that file, with the texts of `bos_token`, `eos_token`, …, as far as there are
    /// any.
    ///
    /// # Errors
    /// [`TokenizerError::ChatTemplate`].
    pub fn new(
        path: PathBuf,
        source: &str,
        special_tokens: BTreeMap<String, String>,
        rendering: &Rendering,
    ) -> Result<Self, TokenizerError> {
        let engine = match rendering.clone() {
            Rendering::Here => Jinja::compile(source, special_tokens).map(Engine::Here),
            Rendering::Apart { program, arguments, limits } => {
                Apart::compile(program, arguments, limits, source, special_tokens)
                    .map(Engine::Apart)
            }
        };
        match engine {
            Ok(engine) => Ok(Self { path, engine }),
            Err(Fault { line, reason }) => Err(TokenizerError::ChatTemplate { path, line, reason }),
        }
    }

    /// The text of a conversation; with a generation prompt it ends where the model is to go on.
    ///
    /// # Errors
    /// [`TokenizerError::Render`], with the template's own reason if it has one.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, TokenizerError> {
        let text = match &self.engine {
            Engine::Here(jinja) => jinja.render(messages, add_generation_prompt),
            Engine::Apart(apart) => apart.render(messages, add_generation_prompt),
        };
        text.map_err(|reason| self.does_not_render(reason))
    }

    /// For each of the assistant's messages the bytes of the conversation's text that the model
    /// writes: from the generation prompt to the end of the turn. Each of them takes a rendering of
    /// all that is before it, so messages that begin at byte `until` or later are left out.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; a template that does not render turn by turn.
    pub fn answers(
        &self,
        messages: &[Message],
        whole: &str,
        until: usize,
    ) -> Result<Vec<Range<usize>>, TokenizerError> {
        let answers = match &self.engine {
            Engine::Here(jinja) => jinja.answers(messages, whole, until),
            Engine::Apart(apart) => apart.answers(messages, until),
        };
        answers.map_err(|reason| self.does_not_render(reason))
    }

    fn does_not_render(&self, reason: String) -> TokenizerError {
        TokenizerError::Render { path: self.path.clone(), reason }
    }
}

/// Why a template does not compile.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) line: usize,
    pub(crate) reason: String,
}

/// A template that is rendered in this process.
#[derive(Debug)]
pub(crate) struct Jinja {
    environment: Environment<'static>,
    special_tokens: BTreeMap<String, String>,
}

impl Jinja {
    pub(crate) fn compile(
        source: &str,
        special_tokens: BTreeMap<String, String>,
    ) -> Result<Self, Fault> {
        match guarded(|| Ok::<_, String>(environment(source))) {
            Ok(Ok(environment)) => Ok(Self { environment, special_tokens }),
            Ok(Err(error)) => Err(Fault { line: error.line().unwrap_or(1), reason: what(&error) }),
            Err(reason) => Err(Fault { line: 1, reason }),
        }
    }

    /// As [`ChatTemplate::render`].
    pub(crate) fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, String> {
        self.text(&values(messages), add_generation_prompt)
    }

    /// As [`ChatTemplate::answers`].
    pub(crate) fn answers(
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

/// What is read of a `tokenizer_config.json`.
#[derive(Default, Deserialize)]
struct TokenizerConfig {
    chat_template: Option<Templates>,
    bos_token: Option<Token>,
    eos_token: Option<Token>,
    unk_token: Option<Token>,
    pad_token: Option<Token>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a chat_template is a string or a list of {name, template}")]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a special token is a string or an object with its content")]
enum Token {
    Text(String),
    Added { content: String },
}

impl TokenizerConfig {
    /// Nothing is in a file that is not there.
    fn read(path: &Path) -> Result<Self, TokenizerError> {
        let Some(json) = read_if_there(path, MAX_TOKENIZER_CONFIG)? else {
            return Ok(Self::default());
        };
        serde_json::from_slice(&json).map_err(|error| TokenizerError::TokenizerConfig {
            path: path.to_owned(),
            reason: error.to_string(),
        })
    }
}

impl Templates {
    fn default(self) -> Result<String, String> {
        match self {
            Self::One(template) => Ok(template),
            Self::Named(mut templates) => {
                match templates.iter().position(|template| template.name == "default") {
                    Some(index) => Ok(templates.swap_remove(index).template),
                    None => {
                        let names: Vec<_> = templates.into_iter().map(|named| named.name).collect();
                        Err(format!("of the chat templates {names:?} none is named \"default\""))
                    }
                }
            }
        }
    }
}

fn special_tokens(
    config: &TokenizerConfig,
    gguf: Option<&GgufTokenizer>,
) -> BTreeMap<String, String> {
    let inside = |id: fn(&GgufTokenizer) -> Option<u32>| {
        gguf.and_then(|gguf| gguf.tokens.get(id(gguf)? as usize).cloned())
    };
    let named = [
        ("bos_token", &config.bos_token, inside(|gguf| gguf.bos_token_id)),
        ("eos_token", &config.eos_token, inside(|gguf| gguf.eos_token_id)),
        ("unk_token", &config.unk_token, inside(|gguf| gguf.unknown_token_id)),
        ("pad_token", &config.pad_token, None),
    ];
    let text = |(name, token, inside): (_, &Option<Token>, Option<String>)| match token {
        Some(Token::Text(content) | Token::Added { content }) => Some((name, content.clone())),
        None => inside.map(|content| (name, content)),
    };
    let named = named.into_iter().filter_map(text);
    named.map(|(name, text): (&str, String)| (name.to_owned(), text)).collect()
}

fn read_text(path: &Path) -> Result<Option<String>, TokenizerError> {
    let Some(bytes) = read_if_there(path, MAX_TEMPLATE)? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|error| TokenizerError::InvalidUtf8 {
        path: path.to_owned(),
        offset: error.utf8_error().valid_up_to() as u64,
    })?;
    Ok(Some(text))
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
fn plain(source: &str) -> String {
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

/// Of 26 July 2024, a Friday.
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

#[cfg(test)]
mod tests {
    use std::fs;

    use lns_testing::chat_templates::{Laid, Template, chat_templates};
    use lns_testing::vocabularies::byte_level;
    use tempfile::tempdir;

    use super::*;
    use crate::tiny::build;

    fn compile(source: &str) -> Result<ChatTemplate, TokenizerError> {
        let tokens = [("bos_token", "<|endoftext|>"), ("eos_token", "<|im_end|>")];
        let tokens = tokens.map(|(name, text)| (name.to_owned(), text.to_owned()));
        ChatTemplate::new("chat.jinja".into(), source, tokens.into(), &Rendering::Here)
    }

    /// The text of a conversation and what is learned of it.
    fn conversation(
        template: &ChatTemplate,
        messages: &[Message],
    ) -> Result<(String, Vec<Range<usize>>), TokenizerError> {
        let whole = template.render(messages, false)?;
        let answers = template.answers(messages, &whole, usize::MAX)?;
        Ok((whole, answers))
    }

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.to_owned(), content: content.to_owned() }
    }

    /// What a template makes of one question.
    fn rendered(source: &str) -> String {
        compile(source).unwrap().render(&[message("user", "hé, ho")], false).unwrap()
    }

    fn refusal(source: &str) -> String {
        let render = |template: ChatTemplate| template.render(&[message("user", "hi")], false);
        compile(source).and_then(render).unwrap_err().to_string()
    }

    #[test]
    fn conversations_are_laid_out_as_transformers_does() {
        let golden = chat_templates::<Message>();
        assert_eq!(golden.special_tokens["bos_token"], "<|endoftext|>");
        assert_eq!(golden.special_tokens["eos_token"], "<|im_end|>");
        let tokenizer = build(&byte_level("smollm"));
        let (mut texts, mut refusals) = (0, 0);
        for Template { name, template, results } in golden.templates {
            let template = compile(&template).unwrap();
            for (messages, result) in golden.conversations.iter().zip(results) {
                match result {
                    Laid::Refusal { raises } => {
                        let message = template.render(messages, false).unwrap_err().to_string();
                        assert!(message.contains(&raises), "{name}: {message}");
                        refusals += 1;
                    }
                    Laid::Out { text, prompt, ids, .. } => {
                        assert_eq!(template.render(messages, false).unwrap(), text, "{name}");
                        assert_eq!(template.render(messages, true).unwrap(), prompt, "{name}");
                        assert_eq!(tokenizer.encode(&text).unwrap().ids, ids, "{name}");
                        texts += 1;
                    }
                }
            }
        }
        assert_eq!((texts, refusals), (30, 6));
    }

    #[test]
    fn a_template_that_does_not_render_turn_by_turn_is_refused_where_its_texts_part() {
        let template = compile(&chat_templates::<Message>().not_turn_by_turn).unwrap();
        let (ask, answer) = (message("user", "Why?"), message("assistant", "So. And so."));
        conversation(&template, &[ask.clone(), answer.clone()]).unwrap();
        let twice = [ask.clone(), answer.clone(), ask.clone(), answer.clone()];
        let message = conversation(&template, &twice).unwrap_err().to_string();
        let parting = "its text of the first 2 messages is not how its text of all 4 begins: at byte \
                       56 \". And so.<|im_end|>\\n\" stands for \"<|im_end|>\\n<|im_start|>user";
        assert!(message.contains(parting), "{message}");
        // A prompt that the conversation does not have.
        let thinks = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}\
                      {% if add_generation_prompt %}assistant:<think>{% endif %}";
        let message = conversation(&compile(thinks).unwrap(), &[ask.clone(), answer.clone()]);
        let message = message.unwrap_err().to_string();
        assert!(message.contains("the first 1 messages with the generation prompt"), "{message}");
        assert!(message.contains("at byte 20 \"<think>\" stands for \"So. And"), "{message}");
        let mute = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}";
        let message =
            conversation(&compile(mute).unwrap(), &[ask, answer]).unwrap_err().to_string();
        assert!(message.contains("its text of message 2 adds nothing"), "{message}");
    }

    #[test]
    fn a_template_that_does_not_compile_is_an_error_with_its_line() {
        for (source, line, reason) in [
            ("a\n{% for m in messages %}", 2, "unexpected end of input"),
            ("{{ messages | unknown_filter( }}", 1, "unexpected"),
            ("\n\n{% endfor %}", 3, "unknown statement endfor"),
            (&"{% if true %}".repeat(1000), 1, "recursion"),
        ] {
            let message = compile(source).unwrap_err().to_string();
            let place = format!("chat.jinja: the chat template does not compile: line {line}: ");
            assert!(message.starts_with(&place) && message.contains(reason), "{message}");
        }
    }

    #[test]
    fn a_template_that_refuses_or_fails_says_why() {
        let message = refusal("\n{{ raise_exception('No ' ~ messages[0].role) }}");
        let expected =
            "the chat template of chat.jinja does not render: No user (line 2 of the template)";
        assert_eq!(message, expected);
        assert!(refusal("{{ messages[0].tools.name }}").contains("undefined value"));
        assert!(refusal("{{ x | unknown }}").contains("filter unknown is unknown"));
        assert!(refusal("{{ 'a'.unknown() }}").contains("no method named unknown"));
        assert!(refusal("{% include 'chat_template.jinja' %}").contains("non-existing template"));
        assert!(refusal("{{ strftime_now('%c') }}").contains("\"%c\" is not understood"));
        assert!(refusal("{{ [] | tojson(sort_keys=true) }}").contains("sort_keys"));
    }

    #[test]
    fn no_template_runs_calls_or_writes_without_end() {
        let endless =
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}";
        assert!(refusal(endless).contains("ran out of fuel"));
        let deep = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
        assert!(refusal(deep).contains("recursion limit exceeded"));
        assert!(refusal("{% include 'chat_template' %}").contains("error in \"chat_template\""));
        let long = "{% for i in range(999) %}{{ 'x' * 10000 }}{% endfor %}";
        assert!(refusal(long).contains("its text has more than 8388608 bytes"));
    }

    #[test]
    fn values_are_written_as_python_writes_them() {
        assert_eq!(rendered("{{ none }} {{ 1 == 1 }} {{ unset }}|"), "None True |");
        assert_eq!(rendered("{{ '<é>' | tojson }}"), "\"<é>\"");
        let dict = "{{ {'b': [1, 2.0], 'a': none} | tojson(ensure_ascii=false) }}";
        assert_eq!(rendered(dict), "{\"b\": [1, 2.0], \"a\": null}");
        assert_eq!(rendered("{{ {'b': [1]} | tojson(indent=1) }}"), "{\n \"b\": [\n  1\n ]\n}");
        assert_eq!(rendered("{{ messages[0].content.find(',') }}"), "2");
        assert_eq!(rendered("{{ messages[0].content[2:].rfind('x') }}"), "-1");
        assert_eq!(
            rendered("{{ strftime_now('%A, %d %B %Y, 100%%') }}"),
            "Friday, 26 July 2024, 100%"
        );
        assert_eq!(rendered("a\r\n{% if true %}\r\nb\r\n{% endif %}\r\n"), "a\nb\n");
    }

    #[test]
    fn transformers_tags_have_a_scope_and_no_text() {
        let source =
            "{% set x = 1 %}{%- generation -%} {% set x = 2 %}{{ x }}{%+ endgeneration %}{{ x }}";
        assert_eq!(rendered(source), "21");
        assert_eq!(rendered("{% if true %}{% generation %}a{% endgeneration %}{% endif %}"), "a");
        assert_eq!(plain("{% {{ {% generation"), "{% {{ {% generation");
    }

    #[test]
    fn a_template_is_found_where_models_keep_it() {
        let folder = tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let gguf = GgufTokenizer {
            chat_template: Some("gguf {{ bos_token }}{{ eos_token }}{{ pad_token }}".to_owned()),
            tokens: vec!["<s>".to_owned(), "</s>".to_owned()],
            bos_token_id: Some(0),
            eos_token_id: Some(1),
            unknown_token_id: Some(2),
            ..GgufTokenizer::default()
        };
        let inside = Some((&gguf, Path::new("model.gguf")));
        let found = |gguf| {
            let template = ChatTemplate::beside(folder.path(), gguf, &Rendering::Here)?;
            template.map(|template| template.render(&[], false)).transpose()
        };
        assert_eq!(found(None).unwrap(), None);
        assert_eq!(found(inside).unwrap().unwrap(), "gguf <s></s>");
        put(
            "tokenizer_config.json",
            r#"{"bos_token": null, "pad_token": {"content": "<pad>", "lstrip": false}}"#,
        );
        assert_eq!(found(None).unwrap(), None);
        assert_eq!(found(inside).unwrap().unwrap(), "gguf <s></s><pad>");
        put(
            "tokenizer_config.json",
            r#"{"chat_template": "config {{ bos_token }}", "bos_token": "<b>"}"#,
        );
        assert_eq!(found(inside).unwrap().unwrap(), "config <b>");
        let named = r#"{"chat_template": [{"name": "rag", "template": "{% no"}, {"name": "default", "template": "named"}]}"#;
        put("tokenizer_config.json", named);
        assert_eq!(found(None).unwrap().unwrap(), "named");
        put("chat_template.jinja", "jinja\n");
        assert_eq!(found(inside).unwrap().unwrap(), "jinja");
        put("chat_template.jinja", "{% no");
        let message = found(None).unwrap_err().to_string();
        assert!(
            message.contains("chat_template.jinja: the chat template does not compile: line 1")
        );
        fs::write(folder.path().join("chat_template.jinja"), b"ab\xFF").unwrap();
        assert!(found(None).unwrap_err().to_string().contains("not UTF-8 at byte 2"));
        fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
        for (config, reason) in [
            (
                r#"{"chat_template": [{"name": "rag", "template": ""}]}"#,
                "[\"rag\"] none is named \"default\"",
            ),
            (r#"{"chat_template": 5}"#, "a chat_template is a string or a list"),
            (r#"{"eos_token": 5}"#, "a special token is a string or an object"),
            ("[", "EOF"),
        ] {
            put("tokenizer_config.json", config);
            let message = found(inside).unwrap_err().to_string();
            assert!(
                message.contains("tokenizer_config.json: not a usable") && message.contains(reason)
            );
        }
    }

    #[test]
    fn a_checkpoint_has_the_template_beside_its_weights() {
        let folder = tempdir().unwrap();
        let tiny = lns_testing::golden::golden("tiny/llama");
        for name in ["config.json", "model.safetensors"] {
            fs::copy(tiny.join(name), folder.path().join(name)).unwrap();
        }
        let of = |path: &Path| {
            ChatTemplate::of(&Checkpoint::open(path).unwrap(), &Rendering::Here).unwrap()
        };
        assert!(of(folder.path()).is_none());
        fs::write(folder.path().join("chat_template.jinja"), "beside").unwrap();
        for path in [folder.path(), &folder.path().join("model.safetensors")] {
            assert_eq!(of(path).unwrap().render(&[], true).unwrap(), "beside");
        }
    }
}
