//! What the tests of several rooms share: golden files and tiny vocabularies. Not for programs: it
//! panics where a file is not as it should be.

pub mod chat_templates;
pub mod golden;
pub mod vocabularies;
