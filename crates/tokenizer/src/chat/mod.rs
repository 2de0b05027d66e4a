//! A model's own chat template, rendered as transformers' `apply_chat_template` does.
//!
//! A template is a program that a stranger wrote: [`jinja`] runs it within limits, [`process`] in a
//! process of its own.

mod jinja;
mod process;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use lns_checkpoint::{Checkpoint, GgufTokenizer, TokenizerSource};
use serde::{Deserialize, Serialize};

use self::jinja::{Fault, Jinja};
use self::process::Apart;
pub use self::process::{Rendering, RenderingLimits, serve_chat_template};
use crate::TokenizerError;
use crate::formats::tokenizer_config::{TokenizerConfig, chat_template_beside};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant` or whom else the template knows.
    pub role: String,
    /// What they say.
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
/// let prompt = template.prompt(&[question])?;
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
        let config = TokenizerConfig::in_folder(folder)?;
        let special_tokens = special_tokens(&config, gguf.map(|(gguf, _)| gguf))?;
        let beside = chat_template_beside(folder, &config)?;
        let inside =
            gguf.and_then(|(gguf, path)| Some((path.to_owned(), gguf.chat_template.clone()?)));
        let Some((path, source)) = beside.or(inside) else { return Ok(None) };
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

    /// The text of a conversation.
    ///
    /// # Errors
    /// [`TokenizerError::Render`], with the template's own reason if it has one.
    pub fn render(&self, messages: &[Message]) -> Result<String, TokenizerError> {
        self.text(messages, false)
    }

    /// The text of a conversation with the generation prompt behind it: it ends where the model is to
    /// go on.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn prompt(&self, messages: &[Message]) -> Result<String, TokenizerError> {
        self.text(messages, true)
    }

    fn text(
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

    /// What the template puts behind an answer, such as `<|im_end|>`: a model that writes it has
    /// finished, even if its end tokens lack it. `None` if there is nothing but white space.
    pub fn end_of_turn(&self) -> Option<String> {
        const ANSWER: &str = "Some fathoms.";
        let message =
            |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        let messages = [message("user", "How deep is it?"), message(Message::ASSISTANT, ANSWER)];
        // A template that refuses these two refuses the conversation too, and says why there.
        let text = self.render(&messages).ok()?;
        let (_, end) = text.rsplit_once(ANSWER)?;
        end.split_whitespace().next().map(str::to_owned)
    }

    fn does_not_render(&self, reason: String) -> TokenizerError {
        TokenizerError::Render { path: self.path.clone(), reason }
    }
}

/// The texts of the tokens that templates name: what the files beside the weights say of them, else
/// the GGUF file.
fn special_tokens(
    config: &TokenizerConfig,
    gguf: Option<&GgufTokenizer>,
) -> Result<BTreeMap<String, String>, TokenizerError> {
    let inside = |id: fn(&GgufTokenizer) -> Option<u32>| {
        gguf.and_then(|gguf| gguf.tokens.get(id(gguf)? as usize).cloned())
    };
    let mut tokens = BTreeMap::new();
    for (name, inside) in [
        ("bos_token", inside(|gguf| gguf.bos_token_id)),
        ("eos_token", inside(|gguf| gguf.eos_token_id)),
        ("unk_token", inside(|gguf| gguf.unknown_token_id)),
        ("pad_token", None),
    ] {
        let token = config.special_token(name)?.map(str::to_owned).or(inside);
        tokens.extend(token.map(|text| (name.to_owned(), text)));
    }
    Ok(tokens)
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
        let whole = template.render(messages)?;
        let answers = template.answers(messages, &whole, usize::MAX)?;
        Ok((whole, answers))
    }

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.to_owned(), content: content.to_owned() }
    }

    /// What a template makes of one question.
    fn rendered(source: &str) -> String {
        compile(source).unwrap().render(&[message("user", "hé, ho")]).unwrap()
    }

    fn refusal(source: &str) -> String {
        let render = |template: ChatTemplate| template.render(&[message("user", "hi")]);
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
                        let message = template.render(messages).unwrap_err().to_string();
                        assert!(message.contains(&raises), "{name}: {message}");
                        refusals += 1;
                    }
                    Laid::Out { text, prompt, ids, .. } => {
                        assert_eq!(template.render(messages).unwrap(), text, "{name}");
                        assert_eq!(template.prompt(messages).unwrap(), prompt, "{name}");
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
        assert_eq!(jinja::plain("{% {{ {% generation"), "{% {{ {% generation");
    }

    #[test]
    fn the_end_of_a_turn_is_what_the_template_puts_behind_an_answer() {
        let end = |source: &str| {
            let tokens = BTreeMap::from([("eos_token".to_owned(), "</s>".to_owned())]);
            ChatTemplate::new("chat.jinja".into(), source, tokens, &Rendering::Here)
                .unwrap()
                .end_of_turn()
        };
        let turns = |end: &str| {
            format!(
                "{{% for m in messages %}}{{{{ m.role }}}}: {{{{ m.content }}}}{end}{{% endfor %}}"
            )
        };
        assert_eq!(end(&turns("<|im_end|>\n")).as_deref(), Some("<|im_end|>"));
        assert_eq!(end(&turns(" {{ eos_token }}")).as_deref(), Some("</s>"));
        assert_eq!(end(&turns("\n")), None);
        assert_eq!(end("{{ raise_exception('No.') }}"), None);
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
            template.map(|template| template.render(&[])).transpose()
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
            assert_eq!(of(path).unwrap().prompt(&[]).unwrap(), "beside");
        }
    }
}
