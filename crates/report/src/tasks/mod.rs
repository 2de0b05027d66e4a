//! Answers to tasks: models side by side under each task, beside one who always takes the first choice.

mod page;
mod table;
mod words;

pub use page::tasks_page;
pub(crate) use page::{Model, answers};
pub use table::tasks_table;
