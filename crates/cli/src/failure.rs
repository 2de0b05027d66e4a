//! Exit codes: 2 for wrong usage or input, 1 for everything else that fails.

use std::process::ExitCode;

use lns_checkpoint::CheckpointError;
use lns_convert::{ConvertError, PlaceError};
use lns_corpus::CorpusError;
use lns_diagnose::{ChooseError, TaskCostsError};
use lns_model::{LoadError, LoraError};
use lns_record::{ClaimError, EventsError, RecordError};
use lns_score::ScoreError;
use lns_spec::{ConversionError, SpecError};
use lns_study::StudyError;
use lns_tasks::TaskError;
use lns_tokenizer::TokenizerError;
use lns_train::{ConfigError, RunError as TrainError};
use lns_watch::WatchError;

/// Arguments that are well-formed one by one but do not make sense together or here.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A [`Usage`] error with this message.
pub(crate) fn usage(message: impl Into<String>) -> anyhow::Error {
    Usage(message.into()).into()
}

fn is_tokenizer_input(error: &TokenizerError) -> bool {
    !matches!(error, TokenizerError::Write { .. })
}

pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    let input = error.chain().any(|cause| {
        cause.is::<Usage>()
            || cause.downcast_ref().is_some_and(CheckpointError::is_input)
            || cause.downcast_ref().is_some_and(ConvertError::is_input)
            || cause.downcast_ref().is_some_and(PlaceError::is_input)
            || cause.is::<LoadError>()
            || cause.is::<ScoreError>()
            || cause.is::<TaskError>()
            || cause.downcast_ref::<TokenizerError>().is_some_and(is_tokenizer_input)
            || cause.downcast_ref::<CorpusError>().is_some_and(|error| match error {
                CorpusError::Tokenizer(error) => is_tokenizer_input(error),
                other => !matches!(other, CorpusError::Write { .. }),
            })
            || cause.is::<ConfigError>()
            || cause.is::<EventsError>()
            || cause.downcast_ref::<TrainError>().is_some_and(is_input)
            || cause.downcast_ref::<StudyError>().is_some_and(is_study_input)
            || matches!(
                cause.downcast_ref(),
                Some(
                    WatchError::Events(_)
                        | WatchError::NoRun { .. }
                        | WatchError::Absent { .. }
                        | WatchError::NotBegun { .. }
                )
            )
            || cause.is::<RecordError>()
            || cause
                .downcast_ref::<ClaimError>()
                .is_some_and(|error| !matches!(error, ClaimError::Io { .. }))
            || cause.is::<SpecError>()
            || cause.is::<ConversionError>()
            || cause.is::<LoraError>()
            || cause.is::<ChooseError>()
            || cause.is::<TaskCostsError>()
    });
    ExitCode::from(if input { 2 } else { 1 })
}

/// Whether what was given is at fault, and not the machine.
fn is_input(error: &TrainError) -> bool {
    let machine = matches!(
        error,
        TrainError::Io { .. } | TrainError::Model { .. } | TrainError::Threads { .. }
    );
    !machine
}

fn is_study_input(error: &StudyError) -> bool {
    match error {
        StudyError::Run { source, .. } => is_input(source),
        StudyError::Io { .. } | StudyError::Diagnosis { .. } => false,
        _ => true,
    }
}
