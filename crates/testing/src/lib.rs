//! What the tests of several rooms share: golden files, tiny models and vocabularies. Not for programs:
//! it panics where a file is not as it should be.
//!
//! Nothing here knows Burn, so the rooms without it stay quick to build and to test.

pub mod chat_templates;
pub mod golden;
pub mod models;
pub mod vocabularies;
