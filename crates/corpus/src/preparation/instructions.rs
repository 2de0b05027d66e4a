//! Instruction data: what is asked and what is to be answered, of which only the answers are
//! learned.
//!
//! A line of a jsonl file is an example: a prompt with its response, the same under the names that
//! Alpaca gave them, or a conversation. With a chat template an example is laid out as the model's
//! makers do it; without one, the response follows the prompt with nothing between them.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};

use lns_tokenizer::{ChatTemplate, Message, Tokenizer};
use serde::Deserialize;

use super::{Kept, PrepareOptions, Reading, Responses, prepare_files};
use crate::documents::{DocumentId, Lines, MAX_PIECE_BYTES, Piece, expand_lines, object};
use crate::{Corpus, CorpusError};

/// Answers from which on it is worth a tokenisation to know which of them are seen: where one stands
/// takes two renderings of all that is before it, and 3,000 turns took 16 s.
const MANY_ANSWERS: usize = 32;

/// What becomes of instruction data.
#[derive(Debug, Clone, PartialEq)]
pub struct InstructionOptions {
    /// Which examples are held out, and how many tokens there are at most. The example that would
    /// exceed a limit is left out with those that follow it.
    pub corpus: PrepareOptions,
    /// Tokens of a training sequence, to which an example is cut
    /// ([`Layout::Rows`](crate::Layout::Rows)): one with no token of a response before the cut is
    /// left out.
    pub sequence_length: usize,
}

/// Prepares instruction data as [`prepare`](crate::prepare) does text, with the targets on responses
/// only. [`Corpus::description`] says how many tokens are learned and what was left out.
///
/// A line of the files (`.jsonl`; `.jsonl` and `.json` with `.gz` or `.zst` behind) is one of
/// - `{"prompt": …, "response": …}`,
/// - `{"instruction": …, "input": …, "output": …}`, where the prompt is the instruction and, unless
///   it is absent or empty, a line feed and the input,
/// - `{"messages": [{"role": …, "content": …}, …]}`, for which a template is needed.
///
/// Beside these, `id`, `source` and `answer` are passed over; any other key is an error.
///
/// With a template, an example is tokenised as the template's text of the whole conversation, and
/// learned are the tokens within what each of the assistant's messages adds to the generation prompt
/// before it: the answer and the template's end of the turn. Without one, learned are the tokens
/// within the response and the end-of-text token behind it. A token that begins before that is not
/// learned, nor is one behind the sequence's cut.
///
/// # Errors
/// As [`prepare`](crate::prepare); a line that is no example, a conversation that the template does
/// not render, or not turn by turn, or nothing to learn in any example.
pub fn prepare_instructions(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    options: &InstructionOptions,
    folder: &Path,
    progress: &dyn Fn(u64) -> std::ops::ControlFlow<()>,
) -> Result<Corpus, CorpusError> {
    let sequence_length = options.sequence_length;
    if sequence_length < 2 {
        return Err(CorpusError::WindowTooShort { window: sequence_length });
    }
    let reading = Reading {
        expand: expand_lines,
        open: &|file| {
            let layout = LayingOut { template, tokenizer, sequence_length };
            Ok(Box::new(Examples { path: file.to_owned(), lines: Lines::of_file(file)?, layout }))
        },
        responses: Some(Responses {
            sequence_length,
            learn_end_of_text: template.is_none(),
            kept: Kept::Beginning,
        }),
    };
    prepare_files(files, &reading, tokenizer, &options.corpus, folder, progress)
}

/// The examples of a file.
struct Examples<'a> {
    path: PathBuf,
    lines: Lines,
    layout: LayingOut<'a>,
}

/// How an example becomes a text.
struct LayingOut<'a> {
    template: Option<&'a ChatTemplate>,
    tokenizer: &'a Tokenizer,
    sequence_length: usize,
}

impl LayingOut<'_> {
    /// A conversation's text, and the bytes of it that are learned.
    fn conversation(
        &self,
        template: &ChatTemplate,
        messages: &[Message],
    ) -> Result<(String, Vec<Range<usize>>), CorpusError> {
        let whole = template.render(messages)?;
        let answers = messages.iter().filter(|message| message.role == Message::ASSISTANT).count();
        let until = if answers < MANY_ANSWERS {
            whole.len()
        } else {
            let tokens = self.tokenizer.encode(&whole)?.bytes;
            tokens.iter().take(self.sequence_length).map(|bytes| *bytes as usize).sum()
        };
        let learned = template.answers(messages, &whole, until)?;
        Ok((whole, learned))
    }
}

impl Examples<'_> {
    fn piece(&self, line: &str) -> Result<Piece, CorpusError> {
        let (path, number) = (&self.path, self.lines.number());
        let example = object(line).and_then(Line::example).map_err(|reason| {
            CorpusError::ExampleLine { path: path.clone(), line: number, reason }
        })?;
        let id = Some(example.id());
        let (text, learned) = example
            .lay_out(&self.layout)
            .map_err(|reason| CorpusError::Example { path: path.clone(), line: number, reason })?;
        Ok(Piece { text, continues: false, id, learned: Some(learned) })
    }
}

impl Iterator for Examples<'_> {
    type Item = Result<Piece, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.lines.next_line().transpose()?;
        Some(line.and_then(|line| self.piece(&line)))
    }
}

/// One line, in any of its spellings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    prompt: Option<String>,
    response: Option<String>,
    instruction: Option<String>,
    input: Option<String>,
    output: Option<String>,
    messages: Option<Vec<Message>>,
    #[serde(default, rename = "id")]
    _id: serde::de::IgnoredAny,
    #[serde(default, rename = "source")]
    _source: serde::de::IgnoredAny,
    #[serde(default, rename = "answer")]
    _answer: serde::de::IgnoredAny,
}

/// One example, whatever its spelling.
enum Example {
    Pair { prompt: String, response: String },
    Conversation(Vec<Message>),
}

impl Line {
    fn example(self) -> Result<Example, String> {
        let Self { prompt, response, instruction, input, output, messages, .. } = self;
        let example = match (prompt, response, instruction, output, messages) {
            (Some(prompt), Some(response), None, None, None) if input.is_none() => {
                Example::Pair { prompt, response }
            }
            (None, None, Some(instruction), Some(response), None) => {
                let input = input.filter(|input| !input.is_empty());
                let prompt = input.map(|input| format!("{instruction}\n{input}"));
                Example::Pair { prompt: prompt.unwrap_or(instruction), response }
            }
            (None, None, None, None, Some(messages)) if input.is_none() => {
                Example::Conversation(messages)
            }
            _ => return Err("it has not the keys of one example".to_owned()),
        };
        example.check()?;
        Ok(example)
    }
}

impl Example {
    /// There is something to learn.
    fn check(&self) -> Result<(), String> {
        let blank = |text: &str| text.trim().is_empty();
        match self {
            Self::Pair { response, .. } if blank(response) => Err("the response is empty".into()),
            Self::Pair { .. } => Ok(()),
            Self::Conversation(messages) => {
                let mut answers = messages
                    .iter()
                    .enumerate()
                    .filter(|(_, message)| message.role == Message::ASSISTANT);
                if answers.clone().next().is_none() {
                    return Err(format!("no message has the role \"{}\"", Message::ASSISTANT));
                }
                match answers.find(|(_, message)| blank(&message.content)) {
                    Some((index, _)) => Err(format!("message {} has no content", index + 1)),
                    None => Ok(()),
                }
            }
        }
    }

    /// What tells examples apart: the conversation, however it is spelt.
    fn id(&self) -> DocumentId {
        let json = serde_json::to_vec(&*self.messages());
        DocumentId::of(&json.expect("two strings are JSON"))
    }

    fn messages(&self) -> Cow<'_, [Message]> {
        let message =
            |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        match self {
            Self::Pair { prompt, response } => {
                vec![message("user", prompt), message(Message::ASSISTANT, response)].into()
            }
            Self::Conversation(messages) => messages.into(),
        }
    }

    /// The text, and the bytes of it that are learned.
    fn lay_out(self, layout: &LayingOut<'_>) -> Result<(String, Vec<Range<usize>>), String> {
        let (text, learned) = match (self, layout.template) {
            (example, Some(template)) => layout
                .conversation(template, &example.messages())
                .map_err(|error| error.to_string())?,
            (Self::Pair { prompt, response }, None) => {
                let text = prompt + &response;
                let learned = text.len() - response.len()..text.len();
                (text, vec![learned])
            }
            (Self::Conversation(_), None) => {
                return Err("messages need a chat template and the model has none; give prompt \
                            and response, or put a chat_template.jinja beside the weights"
                    .to_owned());
            }
        };
        if text.len() > MAX_PIECE_BYTES {
            return Err(format!("an example of more than {MAX_PIECE_BYTES} bytes; split it"));
        }
        Ok((text, learned))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::io::Write;

    use lns_spec::IGNORED;
    use lns_testing::chat_templates::{Laid, Template, chat_templates};
    use lns_testing::vocabularies::byte_level;
    use lns_tokenizer::Rendering;
    use tempfile::{TempDir, tempdir};

    use super::*;
    use crate::corpus::UNLEARNED;
    use crate::preparation::examples::marked;
    use crate::tiny::build;
    use crate::{Layout, Part, Sequences, Validation, evaluation_sequences};

    const TEMPLATE: &str = "\
        {% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('No tools.') }}{% endif %}\
        <|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new("chat.jinja".into(), source, BTreeMap::new(), &Rendering::Here).unwrap()
    }

    /// Files of examples to train on and one held out.
    struct Data {
        folder: TempDir,
        tokenizer: Tokenizer,
    }

    impl Data {
        fn new(train: &str) -> Self {
            let folder = tempdir().unwrap();
            fs::write(folder.path().join("train.jsonl"), train).unwrap();
            let held_out = "{\"prompt\": \"held \", \"response\": \"out\"}\n";
            fs::write(folder.path().join("held_out.jsonl"), held_out).unwrap();
            Self { folder, tokenizer: build(&byte_level("smollm")) }
        }

        fn prepare(
            &self,
            train: &str,
            template: Option<&str>,
            sequence_length: usize,
        ) -> Result<Corpus, CorpusError> {
            let path = |name: &str| self.folder.path().join(name);
            let corpus = PrepareOptions {
                validation: Validation::Files(vec![path("held_out.jsonl")]),
                max_train_tokens: None,
                max_validation_tokens: None,
            };
            let options = InstructionOptions { corpus, sequence_length };
            let template = template.map(self::template);
            let place = tempdir().unwrap();
            let place = place.path().join("corpus");
            let files = [path(train)];
            prepare_instructions(
                &files,
                &self.tokenizer,
                template.as_ref(),
                &options,
                &place,
                &|_| std::ops::ControlFlow::Continue(()),
            )
        }

        /// The rows to train on: the text, and what of it is a target, with `_` between the parts.
        fn rows(&self, corpus: &Corpus) -> Vec<(String, String)> {
            let tokens = corpus.tokens(Part::Train);
            let rows = evaluation_sequences(tokens, Layout::Rows, 128, None, 0).unwrap();
            let Sequences { inputs, targets, length, .. } = rows;
            let row = |(index, (inputs, targets)): (usize, (&[u32], &[u32]))| {
                let tokens = tokens.document(index);
                let seen = inputs.len().min((tokens.end - tokens.start) as usize);
                let inputs = &inputs[..seen];
                let learned =
                    targets.split(|target| *target == IGNORED).filter(|run| !run.is_empty());
                let decode = |ids: &[u32]| self.tokenizer.decode(ids).unwrap();
                (decode(inputs), learned.map(decode).collect::<Vec<_>>().join("_"))
            };
            inputs.chunks(length).zip(targets.chunks(length)).enumerate().map(row).collect()
        }
    }

    const LINES: &str = r#"{"prompt": "The river", "response": " rose."}

{"instruction": "Add", "input": "2 and 2", "output": ": 4", "answer": "4", "id": 7, "source": ["a"]}
{"instruction": "Say", "input": "", "output": " hello"}
{"instruction": "Say", "output": " é"}
"#;

    #[test]
    fn conversations_are_marked_as_transformers_does() {
        let golden = chat_templates::<Message>();
        let tokenizer = build(&byte_level("smollm"));
        let layout = |template| LayingOut { template, tokenizer: &tokenizer, sequence_length: 1 };
        let mut conversations = 0;
        for Template { name, template, results } in golden.templates {
            let tokens = golden.special_tokens.clone();
            let template =
                ChatTemplate::new("chat.jinja".into(), &template, tokens, &Rendering::Here)
                    .unwrap();
            for (messages, result) in golden.conversations.iter().zip(results) {
                // Most templates have nothing for a conversation of no messages.
                let Laid::Out { text, ids, mask, .. } = result else { continue };
                if messages[0].role == Message::ASSISTANT {
                    continue;
                }
                let (whole, learned) = layout(None).conversation(&template, messages).unwrap();
                assert_eq!(whole, text);
                let encoding = marked(tokenizer.encode(&whole).unwrap(), &learned);
                let digit = |id: &u32| if id & UNLEARNED == 0 { '1' } else { '0' };
                let digits: String = encoding.ids.iter().map(digit).collect();
                assert_eq!(digits, mask, "{name}: {text}");
                let plain: Vec<u32> = encoding.ids.iter().map(|id| id & !UNLEARNED).collect();
                assert_eq!(plain, ids, "{name}");
                conversations += 1;
            }
        }
        assert!(conversations > 20, "{conversations}");
    }

    #[test]
    fn without_a_template_the_response_and_the_end_of_text_are_learned() {
        let data = Data::new(LINES);
        let corpus = data.prepare("train.jsonl", None, 64).unwrap();
        assert!(corpus.learns_responses_only());
        let expected = [
            ("The river rose.", " rose."),
            ("Add\n2 and 2: 4", ": 4"),
            ("Say hello", " hello"),
            ("Say é", " é"),
        ];
        let end = "<|endoftext|>";
        let expected =
            expected.map(|(text, learned)| (format!("{text}{end}"), format!("{learned}{end}")));
        assert_eq!(data.rows(&corpus), expected);
        assert!(corpus.description().starts_with("train.jsonl and, held out, held_out.jsonl, "));
    }

    #[test]
    fn with_a_template_the_answers_are_learned_with_the_end_of_their_turn() {
        let lines = r#"{"prompt": "Why?", "response": "So."}
{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " a "},
 {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}, {"role": "assistant", "content": " d"}]}"#;
        let data = Data::new(&lines.replace(",\n", ","));
        let corpus = data.prepare("train.jsonl", Some(TEMPLATE), 64).unwrap();
        let rows = data.rows(&corpus);
        let asked = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n";
        let answer = "So.<|im_end|>\n";
        assert_eq!(rows[0], (format!("{asked}{answer}<|endoftext|>"), answer.to_owned()));
        assert!(
            rows[1]
                .0
                .starts_with("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n a <")
        );
        assert_eq!(rows[1].1, "b<|im_end|>\n_ d<|im_end|>\n");
        assert!(corpus.description().contains("in 3 examples (0 longer than 64 tokens"));
    }

    #[test]
    fn of_a_conversation_without_end_only_what_is_seen_is_looked_for() {
        // What is seen of it is laid out turn by turn, and what is behind the cut is not.
        let odd = "{% for m in messages %}{{ m.content }}{% if loop.index is divisibleby 2 %};\n\
                   {% endif %}{% endfor %}{% if messages | length > 100 and messages | length < 900 \
                   %}{{ raise_exception('looked at') }}{% endif %}";
        let turn = r#"{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}"#;
        let line = format!("{{\"messages\": [{}]}}", [turn; 500].join(", "));
        let data = Data::new(&line);
        let corpus = data.prepare("train.jsonl", Some(odd), 64).unwrap();
        let rows = data.rows(&corpus);
        let seen = rows[0].1.split('_').count();
        assert!((10..64).contains(&seen), "{seen} answers are seen");
        assert!(rows[0].1.split('_').all(|answer| answer == "b;\n"), "{}", rows[0].1);
        let error = data.prepare("train.jsonl", Some(odd), 4096).unwrap_err().to_string();
        assert!(error.contains("looked at"), "{error}");
    }

    #[test]
    fn compressed_lines_are_the_same_examples() {
        let data = Data::new(LINES);
        let plain = data.prepare("train.jsonl", None, 64).unwrap();
        let path = |name: &str| data.folder.path().join(name);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(LINES.as_bytes()).unwrap();
        fs::write(path("a.jsonl.gz"), gzip.finish().unwrap()).unwrap();
        fs::write(path("a.json.zst"), zstd::encode_all(LINES.as_bytes(), 0).unwrap()).unwrap();
        for name in ["a.jsonl.gz", "a.json.zst"] {
            let corpus = data.prepare(name, None, 64).unwrap();
            assert_eq!(corpus.fingerprint(), plain.fingerprint());
        }
    }

    #[test]
    fn an_example_that_is_held_out_is_not_trained_on_however_it_is_spelt() {
        let lines = r#"{"instruction": "held ", "output": "out"}
{"messages": [{"role": "user", "content": "held "}, {"role": "assistant", "content": "out"}]}
{"prompt": "held", "response": " out"}"#;
        let data = Data::new(lines);
        let corpus = data.prepare("train.jsonl", Some(TEMPLATE), 64).unwrap();
        assert_eq!(corpus.tokens(Part::Train).documents(), 1);
    }

    #[test]
    fn an_example_whose_answer_is_cut_off_is_left_out() {
        let long = format!("{{\"prompt\": \"{}\", \"response\": \" b\"}}\n", "a ".repeat(100));
        let data = Data::new(&(long.clone() + LINES));
        let corpus = data.prepare("train.jsonl", None, 64).unwrap();
        assert_eq!(corpus.tokens(Part::Train).documents(), 4);
        assert!(corpus.description().contains("1 left out with nothing to learn"));
        // A response within the token that straddles its beginning is as good as cut off.
        let data = Data::new("{\"prompt\": \"in the nig\", \"response\": \"h\"}");
        assert_eq!(data.tokenizer.encode("in the nigh").unwrap().ids.len(), 4, "the last is igh");
        for data in [Data::new(&long), data] {
            let message = data.prepare("train.jsonl", None, 64).unwrap_err().to_string();
            assert!(message.contains("all 1 examples for train are left out"), "{message}");
        }
    }

    #[test]
    fn a_line_that_is_no_example_is_an_error_with_its_place() {
        let conversation = |messages: &str| format!("{{\"messages\": [{messages}]}}");
        let asks = "{\"role\": \"user\", \"content\": \"a\"}";
        let answers = "{\"role\": \"assistant\", \"content\": \" \"}";
        for (line, reason) in [
            ("text", "not a JSON object"),
            ("{\"prompt\": \"a\"", "column 14: EOF"),
            ("{\"prompt\": \"a\"}", "it has not the keys of one example"),
            ("{\"response\": \"a\"}", "it has not the keys of one example"),
            ("{\"prompt\": \"a\", \"output\": \"b\"}", "it has not the keys of one example"),
            ("{\"prompt\": \"a\", \"response\": \"b\", \"input\": \"c\"}", "not the keys of one"),
            (
                "{\"prompt\": \"a\", \"response\": \"b\", \"context\": \"c\"}",
                "unknown field `context`",
            ),
            ("{\"conversations\": []}", "unknown field `conversations`"),
            ("{\"prompt\": \"a\", \"response\": 4}", "column 29: invalid type: integer `4`"),
            ("{\"prompt\": \"a\", \"response\": \" \\n\"}", "the response is empty"),
            (&conversation(""), "no message has the role \"assistant\""),
            (&conversation(asks), "no message has the role \"assistant\""),
            (&conversation(&format!("{asks},{answers}")), "message 2 has no content"),
            (
                &conversation("{\"role\": \"user\", \"content\": \"a\", \"name\": 1}"),
                "unknown field `name`",
            ),
            (&conversation("{\"role\": \"user\", \"content\": [1]}"), "invalid type: sequence"),
        ] {
            let data = Data::new(&format!("{LINES}{line}\n"));
            let message = data.prepare("train.jsonl", Some(TEMPLATE), 64).unwrap_err().to_string();
            assert!(message.contains("train.jsonl, line 6: "), "{message}");
            assert!(message.contains(reason), "{line}: {message}");
            assert!(message.contains("a line is {\"prompt\": …, \"response\": …}"), "{message}");
        }
    }

    #[test]
    fn an_example_that_the_template_refuses_is_an_error_with_its_place() {
        let turns = |roles: &[&str]| {
            let turn = |role: &&str| serde_json::json!({"role": role, "content": "One. Two."});
            let messages: Vec<_> = roles.iter().map(turn).collect();
            serde_json::json!({ "messages": messages }).to_string()
        };
        let refusal = |line: &str, template: Option<&str>| {
            let data = Data::new(&format!("{LINES}{line}\n"));
            let message = data.prepare("train.jsonl", template, 64).unwrap_err().to_string();
            assert!(message.contains("train.jsonl, line 6: "), "{message}");
            message
        };
        let called = turns(&["user", "tool", "assistant"]);
        let message = refusal(&called, Some(TEMPLATE));
        assert!(message.contains("chat.jinja does not render: No tools. (line 1"), "{message}");
        let alternates = "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
            {{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}";
        let message = refusal(&turns(&["user", "user", "assistant"]), Some(alternates));
        assert!(message.contains("roles must alternate"), "{message}");
        let shortens = "{% for m in messages %}\
            {{ m.content[:4] if m.role == 'assistant' and not loop.last else m.content }}{% endfor %}";
        let message = refusal(&turns(&["user", "assistant", "user", "assistant"]), Some(shortens));
        assert!(message.contains("it does not render turn by turn"), "{message}");
        let message = refusal(&turns(&["user", "assistant"]), None);
        assert!(message.contains("messages need a chat template"), "{message}");
        let long = serde_json::json!({"prompt": "a", "response": "b".repeat(MAX_PIECE_BYTES)});
        assert!(refusal(&long.to_string(), None).contains("more than 8388608 bytes; split it"));
    }

    #[test]
    fn other_files_and_lengths_are_refused() {
        let data = Data::new(LINES);
        for name in ["train.txt", "train.parquet", "train.json"] {
            fs::write(data.folder.path().join(name), LINES).unwrap();
            let message = data.prepare(name, None, 64).unwrap_err().to_string();
            assert!(message.contains("instruction data are lines of JSON"), "{message}");
        }
        let message = data.prepare("train.jsonl", None, 1).unwrap_err().to_string();
        assert!(message.contains("a window of 1 token predicts nothing"), "{message}");
        // Of a folder the lines are read: here they are all held out as well.
        let message = data.prepare("", None, 64).unwrap();
        assert_eq!(message.tokens(Part::Train).documents(), 4);
    }
}
