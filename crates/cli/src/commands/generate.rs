//! `lns generate`: continue a text, or talk with a model for chat.

use std::{
    io::{self, BufRead, IsTerminal, Read},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use anyhow::Context;
use clap::Args;
use lns_checkpoint::Checkpoint;
use lns_kernels::with_threads;
use lns_model::{Decoder, Sampling};
use lns_show::counted;
use lns_tokenizer::{ChatTemplate, Message, StopStrings, Tokenizer};
use lns_train::ranges::{SEED, THREADS};
use serde::Serialize;

use super::Verb;
use crate::{
    arguments::{
        BosArgs, PlaceArgs,
        numbers::{NEW_TOKENS, NOT_NEGATIVE, positive, real, whole},
    },
    chat,
    failure::usage,
    model,
    printer::Printer,
};

/// Continue a text, or talk with a model for chat
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  lns generate MODEL --prompt 'The river'\n  lns generate MODEL \
--chat\n  lns generate MODEL --chat --prompt 'How deep is the sea?'\n  lns generate MODEL --stop '\n' \
--json < beginning.txt\n\nIn a conversation, on a terminal, a line is a turn; /clear begins a \
new one; /exit, or Ctrl-D, ends it. What is piped is one prompt with all its lines, and gets one \
answer."
)]
pub(crate) struct GenerateArgs {
    /// Folder, .gguf file, or .safetensors file
    pub(crate) model: PathBuf,

    /// Text to continue, or with --chat what is asked; - is standard input, and so is no --prompt when
    /// something is piped there. One line feed at the end of standard input is left out
    #[arg(long)]
    pub(crate) prompt: Option<String>,

    /// Talk with a model for chat: what is asked is put into its chat template. Without a prompt a
    /// conversation, a line a turn
    #[arg(long)]
    pub(crate) chat: bool,

    /// End before this text; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) stop: Vec<String>,

    #[command(flatten)]
    pub(crate) bos: BosArgs,

    /// Print machine-readable JSON when the text has ended
    #[arg(long)]
    pub(crate) json: bool,

    /// Stop after this many tokens (1–1048576)
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = whole::<usize>(NEW_TOKENS))]
    pub(crate) max_new_tokens: usize,

    /// 0 always takes the most likely token; higher is bolder (0 or more)
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = real(NOT_NEGATIVE))]
    pub(crate) temperature: f64,

    /// Keep the fewest tokens whose probabilities reach this sum (above 0, at most 1)
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = positive(1.0))]
    pub(crate) top_p: f64,

    /// Keep this many most likely tokens; 0 keeps all (0–16777216)
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = whole::<usize>(0..=1 << 24))]
    pub(crate) top_k: usize,

    /// Seed of the choices (0–9223372036854775807)
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole::<u64>(SEED))]
    pub(crate) seed: u64,

    /// Threads; all cores if not given (1–1024)
    #[arg(long, value_name = "N", value_parser = whole::<usize>(THREADS))]
    pub(crate) threads: Option<usize>,

    /// Leave a mixture's experts on disk until tokens are sent to them; those read last stay, in up to a
    /// quarter of the free memory. Chosen by itself when the model would fill more than half of it
    #[arg(long)]
    pub(crate) stream: bool,

    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

impl Verb for GenerateArgs {
    fn prints_json(&self) -> bool {
        self.json
    }

    fn run(&self, printer: &Printer) -> anyhow::Result<ExitCode> {
        run(self, printer).map(|()| ExitCode::SUCCESS)
    }
}

/// More text than any model's context holds.
const MOST_INPUT: u64 = 64 << 20;

fn run(args: &GenerateArgs, printer: &Printer) -> anyhow::Result<()> {
    let threads = model::thread_count(args.threads);
    let prompt = prompt(args)?;
    let checkpoint = Arc::new(model::open(&args.model)?);
    model::require_decoder(&checkpoint, "there is no text that it would go on with")?;
    let template_of =
        || ChatTemplate::of(&checkpoint, &chat::rendering()?).map_err(anyhow::Error::from);
    let template = if args.chat { template_of()? } else { None };
    let mut stops = args.stop.clone();
    if args.chat {
        let missing = || {
            usage(format!(
                "--chat: {} has no chat template, so it was not made for conversations; leave --chat \
                 out, or put its chat_template.jinja beside the weights",
                checkpoint.path().display()
            ))
        };
        stops.extend(template.as_ref().ok_or_else(missing)?.end_of_turn());
    }
    let tokenizer = model::tokenizer(&checkpoint)?;
    let end_tokens = checkpoint.spec().eos_token_ids();
    let writer = Writer {
        end_tokens: end_tokens.into_iter().chain(tokenizer.end_of_text_id()).collect(),
        bos: begins_with_bos(args, &checkpoint, &tokenizer)?,
        tokenizer,
        stops: StopStrings::new(stops),
        limit: args.max_new_tokens,
        sampling: Sampling {
            temperature: args.temperature,
            top_p: args.top_p,
            top_k: args.top_k,
            seed: args.seed,
        },
        printer,
    };
    let rendered = match (&template, &prompt) {
        (Some(template), Some(prompt)) => Some(template.prompt(&[message("user", prompt)])?),
        _ => None,
    };
    // A prompt that cannot be continued is refused before the weights are read.
    if let Some(text) = rendered.as_ref().or(prompt.as_ref()) {
        writer.ids(text, &checkpoint)?;
    }
    let (model, experts) = model::load_to_generate(&checkpoint, &args.place, args.stream, printer)?;
    let write = |ids: &[u32], begin: Begin<'_>| -> anyhow::Result<Written> {
        let written = writer.write(&model, ids, begin);
        if let Some(experts) = &experts {
            // Rather than what became of the logits.
            experts.failure()?;
            let read = experts.reads() as usize;
            printer.note(&format!("{} read from disk", counted(read, "expert")));
        }
        written
    };
    with_threads(threads, || -> anyhow::Result<()> {
        match (prompt, &template) {
            (None, Some(template)) => {
                printer.note("/clear begins a new conversation; /exit, or Ctrl-D, ends it.");
                converse(&mut io::stdin().lock(), printer, &mut |messages| {
                    let text = template.prompt(messages)?;
                    let ids = writer.ids(&text, &checkpoint)?;
                    Ok(write(&ids, Begin::Answer)?.text)
                })
            }
            (prompt, _) => {
                let prompt = prompt.unwrap_or_default();
                let ids = writer.ids(rendered.as_ref().unwrap_or(&prompt), &checkpoint)?;
                let begin = match args.chat {
                    true => Begin::Answer,
                    false => Begin::Text(&prompt),
                };
                let written = write(&ids, begin)?;
                if written.text.trim().is_empty() && written.stop == Ending::EndOfText {
                    let made_for_chat =
                        !args.chat && template_of().is_ok_and(|found| found.is_some());
                    printer.note(ended_at_once(made_for_chat));
                }
                printer.json(&Record {
                    model: checkpoint.path().display().to_string(),
                    prompt: &prompt,
                    chat: args.chat,
                    prompt_tokens: ids.len(),
                    written: &written,
                })
            }
        }
    })?
}

/// Whether a prompt begins with the begin-of-text token; a chat template has its own.
fn begins_with_bos(
    args: &GenerateArgs,
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
) -> anyhow::Result<bool> {
    match (args.chat, args.bos.given()) {
        (true, Some(flag)) => Err(usage(format!(
            "{flag}: the chat template says how a conversation begins; leave {flag} out"
        ))),
        (true, None) => Ok(false),
        (false, _) => args.bos.of(checkpoint, tokenizer),
    }
}

/// What is to be continued or answered; `None` for a conversation.
fn prompt(args: &GenerateArgs) -> anyhow::Result<Option<String>> {
    let stdin = io::stdin();
    match args.prompt.as_deref() {
        None if stdin.is_terminal() && args.chat && !args.json => Ok(None),
        None if stdin.is_terminal() && args.chat => {
            Err(usage("--json is for one answer; give what is asked with --prompt"))
        }
        None if stdin.is_terminal() => Err(usage(
            "no prompt: give --prompt TEXT, or text on standard input, or --chat for a conversation",
        )),
        Some(text) if text != "-" => match text {
            "" => Err(usage("--prompt is empty; give at least one word to continue")),
            text => Ok(Some(text.to_owned())),
        },
        _ => {
            let mut bytes = Vec::new();
            let read = stdin.lock().take(MOST_INPUT).read_to_end(&mut bytes);
            read.context("standard input cannot be read")?;
            let text = String::from_utf8(bytes).map_err(|error| {
                let place = error.utf8_error().valid_up_to();
                usage(format!("standard input is not UTF-8 at byte {place}"))
            })?;
            match text.strip_suffix('\n').unwrap_or(&text) {
                "" => Err(usage(
                    "no prompt: standard input is empty; give --prompt TEXT, or --chat on a terminal \
                     for a conversation",
                )),
                text => Ok(Some(text.to_owned())),
            }
        }
    }
}

fn ended_at_once(made_for_chat: bool) -> &'static str {
    if made_for_chat {
        "The model ended at once: it was made to answer, not to go on. Ask it with --chat."
    } else {
        "The model ended at once: it takes the prompt for a whole text. Give another beginning, or try \
         --temperature 0.8."
    }
}

fn message(role: &str, content: &str) -> Message {
    Message { role: role.to_owned(), content: content.to_owned() }
}

/// A conversation, a line a turn, until the input ends. `answer` gets all messages so far.
fn converse(
    input: &mut dyn BufRead,
    printer: &Printer,
    answer: &mut dyn FnMut(&[Message]) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let mut messages: Vec<Message> = Vec::new();
    loop {
        printer.ask("> ");
        let mut line = String::new();
        if input.take(MOST_INPUT).read_line(&mut line).context("the input cannot be read")? == 0 {
            printer.ask("\n");
            return Ok(());
        }
        match line.trim() {
            "" => {}
            "/exit" => return Ok(()),
            "/clear" => messages.clear(),
            // A space before it tells what is asked from a command.
            command if line.starts_with('/') => printer.note(&format!(
                "There is no command {command}; there are /clear and /exit. With a space before it, it \
                 is put to the model."
            )),
            asked => {
                messages.push(message("user", asked));
                match answer(&messages) {
                    Ok(answer) => messages.push(message("assistant", answer.trim())),
                    Err(error) => {
                        // What was asked before stays.
                        messages.pop();
                        printer.error(&error);
                    }
                }
            }
        }
    }
}

/// What is shown before the text that is written.
#[derive(Clone, Copy)]
enum Begin<'a> {
    /// The text that it goes on from.
    Text(&'a str),
    Answer,
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Ending {
    /// The model wrote a token that ends a text or a turn.
    EndOfText,
    StopString,
    MaxNewTokens,
    Context,
}

#[derive(Debug, Serialize)]
struct Written {
    text: String,
    tokens: usize,
    stop: Ending,
    /// The string that ended it.
    stop_string: Option<String>,
    seconds: f64,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Record<'a> {
    model: String,
    prompt: &'a str,
    chat: bool,
    prompt_tokens: usize,
    #[serde(flatten)]
    written: &'a Written,
}

/// How texts are continued.
struct Writer<'a> {
    tokenizer: Tokenizer,
    /// Whether texts begin with the begin-of-text token; a chat template has its own.
    bos: bool,
    end_tokens: Vec<u32>,
    stops: StopStrings,
    limit: usize,
    sampling: Sampling,
    printer: &'a Printer,
}

impl Writer<'_> {
    /// The tokens of a text that the model can go on from.
    fn ids(&self, text: &str, checkpoint: &Checkpoint) -> anyhow::Result<Vec<u32>> {
        let spec = checkpoint.spec();
        let mut ids = self.tokenizer.encode(text)?.ids;
        // Who spells it out in the prompt does not want it twice.
        let bos = self.tokenizer.bos_id().filter(|bos| self.bos && ids.first() != Some(bos));
        ids.splice(0..0, bos);
        if ids.is_empty() {
            return Err(usage("the prompt has no token; give at least one word to continue"));
        }
        if ids.len() >= spec.max_position_embeddings {
            return Err(usage(format!(
                "there are {} tokens before the text to write, and the model's context is {}; give a \
                 shorter prompt, or in a conversation /clear",
                ids.len(),
                spec.max_position_embeddings
            )));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= spec.vocab_size) {
            return Err(usage(format!(
                "the tokenizer gives token {id}, but the model's vocabulary has {} entries; they are \
                 not of one model",
                spec.vocab_size
            )));
        }
        Ok(ids)
    }

    /// Writes on, showing the text as it comes.
    fn write(&self, model: &Decoder, ids: &[u32], begin: Begin<'_>) -> anyhow::Result<Written> {
        let mut decoder = self.tokenizer.stream_decoder();
        if let Begin::Text(prompt) = begin {
            self.show(prompt)?;
            // A word that goes on from the prompt keeps its space.
            decoder = decoder.after(ids);
        }
        let start = Instant::now();
        let mut stops = self.stops.clone();
        let (mut text, mut tokens, mut ended) = (String::new(), 0, None);
        let mut give = |piece: &str| {
            text += piece;
            self.show(piece)
        };
        for token in model.generate(ids, self.limit, self.sampling.clone()) {
            tokens += 1;
            if self.end_tokens.contains(&token) {
                ended = Some((Ending::EndOfText, None));
                break;
            }
            let Some(piece) = decoder.push(token) else { continue };
            let (piece, stop) = stops.push(&piece);
            give(&piece)?;
            if stop.is_some() {
                ended = Some((Ending::StopString, stop));
                break;
            }
        }
        if !matches!(ended, Some((Ending::StopString, _))) {
            let (piece, stop) = stops.push(&decoder.finish().unwrap_or_default());
            give(&piece)?;
            match stop {
                Some(_) => ended = Some((Ending::StopString, stop)),
                None => give(&stops.finish())?,
            }
        }
        self.printer.stream("\n")?;
        let context = model.spec().max_position_embeddings;
        let full = ids.len() + tokens >= context;
        let (stop, stop_string) = match ended {
            Some(ended) => ended,
            None if tokens == self.limit => (Ending::MaxNewTokens, None),
            None if full => (Ending::Context, None),
            None => {
                return Err(usage(format!(
                    "after {tokens} tokens the model's logits are not numbers; its weights are damaged \
                     or leave the range of f32"
                )));
            }
        };
        let seconds = start.elapsed().as_secs_f64();
        let why = match stop {
            Ending::EndOfText | Ending::StopString => String::new(),
            Ending::MaxNewTokens => "; --max-new-tokens allows more".to_owned(),
            Ending::Context => format!("; the model's context of {context} tokens is full"),
        };
        let rate = tokens as f64 / seconds;
        self.printer.note(&format!("{}, {rate:.1} tokens/s{why}", counted(tokens, "token")));
        Ok(Written { text, tokens, stop, stop_string, seconds })
    }

    fn show(&self, text: &str) -> anyhow::Result<()> {
        self.printer.stream(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_remembers_its_turns_until_it_is_cleared_and_knows_a_wrong_command() {
        let mut seen = Vec::new();
        let mut answer = |messages: &[Message]| {
            let said: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
            seen.push(said.join("|"));
            match messages.len() {
                5 => Err(usage("too long")),
                turns => Ok(format!(" answer {turns}\n")),
            }
        };
        let mut input = "one\n\ntwo\nthree\n/clear\n/foo\n /etc\n/exit\nfive\n".as_bytes();
        converse(&mut input, &Printer { quiet: true, json: true }, &mut answer).expect("ends");
        let expected = ["one", "one|answer 1|two", "one|answer 1|two|answer 3|three", "/etc"];
        assert_eq!(seen, expected);
    }
}
