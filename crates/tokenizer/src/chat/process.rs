//! A chat template that is rendered in a process of its own.
//!
//! A template is a program that a stranger wrote. The engine counts its instructions and the depth of
//! its calls, but one instruction may do any amount of work (`'b' in s`, `|sum`), take any amount of
//! memory (`s ~ s`, `|indent(10000000000000)`), or nest lists until a walk through them, their
//! release alone, overflows the stack. The operators are inside the engine, where nothing can be put
//! before them, so limits on lengths, nesting and work for each operation would mean an engine of
//! our own that is complete. A process has them all from the operating system: memory and processor
//! time are limited, and what ends the process, an abort or a fault that nobody has thought of, ends
//! nothing else. It costs its start, some ten milliseconds for each model, and a message through a
//! pipe for each conversation.
//!
//! Requests and answers are JSON, one to a line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Message;
use super::jinja::{Fault, Jinja};

/// An answer is a text of at most 8 MiB, whose characters JSON may spell with six bytes each.
const MAX_ANSWER: u64 = 64 << 20;
/// What a process that ends says of it, and no more.
const MAX_LAST_WORDS: u64 = 1 << 12;
/// A conversation is rendered turn by turn.
const CONVERSATION: u64 = 6;

/// Where chat templates are rendered.
#[derive(Debug, Clone)]
pub enum Rendering {
    /// In this process. Only for templates that one trusts: a hostile one can end the process or keep
    /// it busy for ever.
    Here,
    /// In a process of its own, which a hostile template can only end. On systems other than Unix its
    /// memory and time are not limited.
    Apart {
        /// The program, which calls [`serve_chat_template`]: in general this one.
        program: PathBuf,
        /// What tells the program to do so.
        arguments: Vec<OsString>,
        /// What the process may take.
        limits: RenderingLimits,
    },
}

/// What the rendering of a conversation may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenderingLimits {
    /// Bytes of memory, the program's own among them.
    pub memory: u64,
    /// Seconds of computing for one text; for a conversation that is learned from, which is rendered
    /// turn by turn, six times as many.
    pub seconds: u64,
}

impl Default for RenderingLimits {
    /// 1 GiB, and 10 seconds: hundreds of times what the longest conversation takes.
    fn default() -> Self {
        Self { memory: 1 << 30, seconds: 10 }
    }
}

#[derive(Serialize, Deserialize)]
enum Request {
    Compile {
        source: String,
        special_tokens: BTreeMap<String, String>,
        limits: RenderingLimits,
    },
    Render {
        messages: Vec<Message>,
        add_generation_prompt: bool,
    },
    /// Where in the whole text the assistant's messages stand that begin before this byte.
    Answers {
        messages: Vec<Message>,
        until: usize,
    },
}

/// Renders chat templates for [`Rendering::Apart`]: reads requests from standard input and writes
/// answers to standard output until the input ends. The process takes limits upon itself that it
/// cannot shed, so it is good for nothing else afterwards.
///
/// # Errors
/// What the operating system says, or input that is no request.
pub fn serve_chat_template() -> io::Result<()> {
    // A panic is an answer; its message would be taken for the process's last words.
    std::panic::set_hook(Box::new(|_| ()));
    let mut output = io::stdout().lock();
    let mut answer = |json: serde_json::Result<Vec<u8>>| {
        let mut json = json?;
        json.push(b'\n');
        output.write_all(&json).and_then(|()| output.flush())
    };
    let mut limits = RenderingLimits::default();
    let mut template: Option<Jinja> = None;
    let none = || io::Error::new(ErrorKind::InvalidData, "no template was sent");
    for line in io::stdin().lock().lines() {
        match serde_json::from_str(&line?)? {
            Request::Compile { source, special_tokens, limits: given } => {
                limits = given;
                limit_memory(limits.memory)?;
                limit_time(limits.seconds)?;
                let compiled = Jinja::compile(&source, special_tokens);
                answer(serde_json::to_vec(&compiled.as_ref().map(|_| ())))?;
                template = compiled.ok();
            }
            Request::Render { messages, add_generation_prompt } => {
                limit_time(limits.seconds)?;
                let template = template.as_ref().ok_or_else(none)?;
                answer(serde_json::to_vec(&template.render(&messages, add_generation_prompt)))?;
            }
            Request::Answers { messages, until } => {
                limit_time(limits.seconds.saturating_mul(CONVERSATION))?;
                let template = template.as_ref().ok_or_else(none)?;
                let answers = template
                    .render(&messages, false)
                    .and_then(|whole| template.answers(&messages, &whole, until));
                answer(serde_json::to_vec(&answers))?;
            }
        }
    }
    Ok(())
}

/// The most memory of this process; nor does it leave an image of it behind where it ends.
#[cfg(unix)]
fn limit_memory(bytes: u64) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let exactly = |limit| Rlimit { current: Some(limit), maximum: Some(limit) };
    setrlimit(Resource::Core, exactly(0))?;
    // Where memory has a lower limit already, that one holds.
    let lower = rustix::process::getrlimit(Resource::As).current.is_some_and(|now| now <= bytes);
    if lower { Ok(()) } else { Ok(setrlimit(Resource::As, exactly(bytes))?) }
}

/// Ends this process by `SIGXCPU` when it has computed for so many seconds from now. Time in which
/// it was stopped or waited for a processor does not count.
#[cfg(unix)]
fn limit_time(seconds: u64) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime).tv_sec;
    let end = u64::try_from(used).unwrap_or(0).saturating_add(seconds).saturating_add(1);
    let maximum = getrlimit(Resource::Cpu).maximum;
    let current = Some(maximum.map_or(end, |maximum| maximum.min(end)));
    Ok(setrlimit(Resource::Cpu, Rlimit { current, maximum })?)
}

#[cfg(not(unix))]
fn limit_memory(_: u64) -> io::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
fn limit_time(_: u64) -> io::Result<()> {
    Ok(())
}

/// A template in a process of its own, which is started again if it has ended.
#[derive(Debug)]
pub(crate) struct Apart {
    program: PathBuf,
    arguments: Vec<OsString>,
    limits: RenderingLimits,
    source: String,
    special_tokens: BTreeMap<String, String>,
    running: Mutex<Option<Running>>,
}

impl Apart {
    pub(crate) fn compile(
        program: PathBuf,
        arguments: Vec<OsString>,
        limits: RenderingLimits,
        source: &str,
        special_tokens: BTreeMap<String, String>,
    ) -> Result<Self, Fault> {
        let source = source.to_owned();
        let running = Mutex::default();
        let apart = Self { program, arguments, limits, source, special_tokens, running };
        let started = apart.start()?;
        *apart.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
        Ok(apart)
    }

    pub(crate) fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, String> {
        self.ask(&Request::Render { messages: messages.to_vec(), add_generation_prompt })
    }

    pub(crate) fn answers(
        &self,
        messages: &[Message],
        until: usize,
    ) -> Result<Vec<Range<usize>>, String> {
        self.ask(&Request::Answers { messages: messages.to_vec(), until })
    }

    fn start(&self) -> Result<Running, Fault> {
        let request = Request::Compile {
            source: self.source.clone(),
            special_tokens: self.special_tokens.clone(),
            limits: self.limits,
        };
        let at_first_line = |reason| Fault { line: 1, reason };
        let mut running = Running::start(&self.program, &self.arguments).map_err(|error| {
            at_first_line(format!("{} cannot be started: {error}", self.program.display()))
        })?;
        match running.exchange::<Result<(), Fault>>(&request) {
            Ok(compiled) => compiled.map(|()| running),
            Err(error) => Err(at_first_line(running.ended(&error, self.limits))),
        }
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, String> {
        let mut slot = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = match slot.take() {
            Some(running) => running,
            None => self.start().map_err(|fault| fault.reason)?,
        };
        match running.exchange::<Result<T, String>>(request) {
            Ok(answer) => {
                *slot = Some(running);
                answer
            }
            Err(error) => Err(running.ended(&error, self.limits)),
        }
    }
}

/// The process and its two ends.
#[derive(Debug)]
struct Running {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Running {
    fn start(program: &Path, arguments: &[OsString]) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // What the terminal says to stop is for this program to hear; the other ends with its input.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("it has no pipes"));
        };
        Ok(Self { child, input, output: BufReader::new(output) })
    }

    fn exchange<T: DeserializeOwned>(&mut self, request: &Request) -> io::Result<T> {
        let mut json = serde_json::to_vec(request)?;
        json.push(b'\n');
        self.input.write_all(&json)?;
        let mut line = Vec::new();
        self.output.by_ref().take(MAX_ANSWER).read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&line)?)
    }

    /// Why it gave no answer, in words.
    fn ended(mut self, error: &io::Error, limits: RenderingLimits) -> String {
        // It has ended, or what it says is none of our answers.
        let _ = self.child.kill();
        let mut words = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            let _ = stderr.take(MAX_LAST_WORDS).read_to_end(&mut words);
        }
        let words = String::from_utf8_lossy(&words);
        let status = self.child.wait();
        if words.contains("memory allocation of") || words.contains("out of memory") {
            format!("it takes more than {} MiB of memory", limits.memory >> 20)
        } else if words.contains("overflowed its stack") {
            "it nests values too deeply".to_owned()
        } else if status.as_ref().is_ok_and(ran_out_of_time) {
            format!("it takes more than {} s of computing", limits.seconds)
        } else {
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            format!("the process that renders it ended ({status}): {error}; {}", words.trim())
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(unix)]
fn ran_out_of_time(status: &ExitStatus) -> bool {
    let signal = std::os::unix::process::ExitStatusExt::signal(status);
    signal == Some(rustix::process::Signal::XCPU.as_raw())
}

#[cfg(not(unix))]
fn ran_out_of_time(_: &ExitStatus) -> bool {
    false
}
