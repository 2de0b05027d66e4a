//! Questions as instructions, the way LLM-Adapters trains on them and has them answered (Hu et al., arXiv
//! 2304.01933): every choice is listed under a number, and the answer names the number. The passage of
//! BoolQ is not shown.

use crate::{Choice, Question};

/// How a question is put to a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TaskFormat {
    /// As lm-evaluation-harness asks: a context that the text of the right choice goes on from.
    #[default]
    Continuation,
    /// As LLM-Adapters asks: an instruction that lists the choices, and a sentence that names one of them.
    Generating,
}

impl TaskFormat {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Continuation, Self::Generating];

    /// Its name in settings and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Continuation => "continuation",
            Self::Generating => "generating",
        }
    }
}

/// What LLM-Adapters asks of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// What is to be done.
    pub request: String,
    /// What may be answered, as the answer names it: `answer1`, `true`.
    pub answers: Vec<String>,
    /// Which one is right.
    pub gold: usize,
}

/// How choices are listed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listing {
    /// What a choice is called, with a capital: `Answer`.
    pub(crate) called: &'static str,
    /// What stands between two choices.
    pub(crate) between: &'static str,
    /// What stands behind the last.
    pub(crate) end: &'static str,
}

impl Listing {
    /// Choices on one line, as most sets have them.
    pub(crate) const fn line(called: &'static str) -> Self {
        Self { called, between: " ", end: "\n\n" }
    }

    /// The instruction that begins with `request` and lists `choices`.
    pub(crate) fn instruction(self, request: &str, choices: &[&str], gold: usize) -> Instruction {
        let Self { called, between, end } = self;
        let numbered = || (1..=choices.len()).zip(choices);
        let listed: Vec<String> =
            numbered().map(|(number, choice)| format!("{called}{number}: {choice}")).collect();
        let called = called.to_lowercase();
        let answers: Vec<String> =
            numbered().map(|(number, _)| format!("{called}{number}")).collect();
        let listed = listed.join(between);
        let request = format!("{request}\n\n{listed}{end}Answer format: {}", answers.join("/"));
        Instruction { request, answers, gold }
    }
}

impl From<Instruction> for Question {
    /// The instruction in Alpaca's frame, and a sentence for each answer.
    fn from(Instruction { request, answers, gold }: Instruction) -> Self {
        let context = format!(
            "Below is an instruction that describes a task. Write a response that appropriately \
             completes the request.\n\n### Instruction:\n{request}\n\n### Response:\n"
        );
        let choice = |answer: String| Choice {
            context: context.clone(),
            continuation: format!("the correct answer is {answer}"),
        };
        Self { choices: answers.into_iter().map(choice).collect(), gold }
    }
}
