//! Conversations as transformers lays them out: made by `golden/chat_templates.py small`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::golden::golden_json;

/// Conversations, and what templates make of them.
#[derive(Deserialize)]
pub struct ChatTemplates<Message> {
    /// The texts of `bos_token` and `eos_token`.
    pub special_tokens: BTreeMap<String, String>,
    /// The conversations.
    pub conversations: Vec<Vec<Message>>,
    /// The templates.
    pub templates: Vec<Template>,
    /// A template whose text of the beginning of a conversation is not the beginning of its text.
    pub not_turn_by_turn: String,
}

/// One template.
#[derive(Deserialize)]
pub struct Template {
    /// What it is called.
    pub name: String,
    /// Its source.
    pub template: String,
    /// What it makes of each of the conversations.
    pub results: Vec<Laid>,
}

/// What a template makes of a conversation.
#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Laid {
    /// The template lays the conversation out.
    Out {
        /// The conversation's text.
        text: String,
        /// The text with the generation prompt behind it.
        prompt: String,
        /// The text's tokens, by the `smollm` vocabulary.
        ids: Vec<u32>,
        /// For each token 1 if it is learned from, 0 if not.
        mask: String,
    },
    /// The template refuses the conversation.
    Refusal {
        /// In these words.
        raises: String,
    },
}

/// The golden conversations.
pub fn chat_templates<Message: DeserializeOwned>() -> ChatTemplates<Message> {
    golden_json("chat_templates.json")
}
