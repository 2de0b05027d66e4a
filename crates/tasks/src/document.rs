//! Questions with their choices.

/// One of the things a model may say, and what stands before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What is given.
    pub context: String,
    /// What is scored: a space and the choice.
    pub continuation: String,
}

impl Choice {
    /// Characters of the choice, without the space before it.
    pub fn characters(&self) -> usize {
        self.choice().chars().count()
    }

    /// The choice without the space before it.
    pub fn choice(&self) -> &str {
        self.continuation.strip_prefix(' ').unwrap_or(&self.continuation)
    }
}

/// What a row of a data set asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What may be answered: one text, where a model is asked whether it would say it.
    pub choices: Vec<Choice>,
    /// Which one is right.
    pub gold: usize,
}

impl Question {
    /// One context, and after it a space and one of the choices.
    pub fn new(context: &str, choices: &[&str], gold: usize) -> Self {
        let choice = |choice: &&str| Choice {
            context: context.to_owned(),
            continuation: format!(" {choice}"),
        };
        Self { choices: choices.iter().map(choice).collect(), gold }
    }

    /// The same if it can be asked; else what is wrong.
    pub(crate) fn checked(self) -> Result<Self, String> {
        let Self { choices, gold } = &self;
        if choices.is_empty() {
            return Err("there are no choices".to_owned());
        }
        if let Some(empty) = choices.iter().position(|choice| choice.choice().trim().is_empty()) {
            return Err(format!("choice {empty} is empty"));
        }
        if *gold >= choices.len() {
            return Err(format!(
                "the right choice is number {gold} (from 0), and there are {}",
                choices.len()
            ));
        }
        Ok(self)
    }

    /// The question with its right answer.
    pub fn answered(&self) -> String {
        let Choice { context, continuation } = &self.choices[self.gold];
        format!("{context}{continuation}")
    }
}

/// A question of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its number in the data set, from 0.
    pub id: u64,
    /// The part of the task that it belongs to: a subject, a phenomenon.
    pub group: Option<String>,
    /// What is asked; examples stand in the contexts.
    pub question: Question,
}
