//! Everything that can be wrong with a specification, one variant per broken rule.

#[expect(missing_docs, reason = "each variant's message names its fields")]
/// Why a specification or a `config.json` was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The text is not JSON, or not a JSON object.
    #[error("not a JSON object: {reason}")]
    NotJson { reason: String },
    /// A key the model cannot be built without is absent.
    #[error("`{key}` is missing")]
    Missing { key: String },
    /// A key has a value of the wrong type or outside its range.
    #[error("`{key}` is {value}; expected {expected}")]
    Invalid { key: String, value: String, expected: String },
    /// The architecture is not one this project runs.
    #[error("model_type \"{model_type}\" is not supported; supported: {supported}")]
    UnknownArchitecture { model_type: String, supported: String },
    /// The key asks for something that would change the function and is not implemented.
    #[error("`{key}` = {value} is not supported: {why}")]
    Unsupported { key: String, value: String, why: String },
    /// A norm scheme that is not known, or misspelt, or has an unknown option.
    #[error("norm scheme {given} is not valid: {reason}\nThe schemes: {known}")]
    UnknownScheme { given: String, reason: String, known: String },
    /// Two keys contradict each other.
    #[error("{what}")]
    Inconsistent { what: String },
    /// A model that its family's `config.json` cannot say.
    #[error(
        "the config.json of model_type \"{model_type}\" cannot say {lost}; choose another family"
    )]
    Unwritable { model_type: &'static str, lost: String },
    /// A layer index or range on the command line.
    #[error("layer selection \"{given}\": {reason}")]
    Selection { given: String, reason: String },
    /// A layer or branch that cannot be taken out.
    #[error("{reason}")]
    Removal { reason: String },
}
