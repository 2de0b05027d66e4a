//! Flags that several verbs share, and parsers of their values. What a single verb takes stands in its
//! own file of `commands`.

mod compute;
mod conversion;
mod corpus;
pub(crate) mod names;
pub(crate) mod numbers;
mod scale;
pub(crate) mod settings;
mod tasks;
mod text;

pub(crate) use compute::{ComputeArgs, PlaceArgs};
pub(crate) use conversion::{ConversionArgs, OutputArgs, stored_type};
pub(crate) use corpus::{CorpusArgs, TokenizerArgs};
pub(crate) use scale::ScaleArgs;
pub(crate) use settings::{SettingArgs, ShapeArgs};
pub(crate) use tasks::{QuestionCut, TaskArgs, split_named};
pub(crate) use text::{BosArgs, CutArgs, text_help};
