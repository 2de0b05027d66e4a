//! The model whose predictions a run learns.

use lns_checkpoint::Checkpoint;
use lns_corpus::Corpus;
use lns_kernels::Device;
use lns_model::{Decoder, LoadError};
use lns_show::clean;
use lns_tokenizer::{Tokenizer, model_tokenizer};

use crate::{RunConfig, RunError, Teacher, TeacherConfig};

/// Opens the teacher, if there is one, and fills in what it holds.
pub(super) fn open(
    config: &mut RunConfig,
    corpora: &[Corpus],
) -> Result<Option<Checkpoint>, RunError> {
    let length = config.data.length;
    let Some(teacher) = config.finetune.as_mut().and_then(|from| from.teacher.as_mut()) else {
        return Ok(None);
    };
    let checkpoint = Checkpoint::open(&teacher.model).map_err(|error| unusable(teacher, error))?;
    let found = checkpoint.fingerprint().map_err(|error| unusable(teacher, error))?;
    if !teacher.fingerprint.is_empty() && teacher.fingerprint != found {
        return Err(RunError::OtherTeacher { teacher: teacher.model.clone() });
    }
    check_teacher(teacher, &checkpoint, corpora[0].tokenizer(), length)?;
    teacher.fingerprint = found;
    Ok(Some(checkpoint))
}

fn unusable(teacher: &TeacherConfig, error: impl Into<LoadError>) -> RunError {
    RunError::Teacher { teacher: teacher.model.clone(), source: Box::new(error.into()) }
}

/// Whether a model can teach one of this tokenizer on sequences of `length` tokens.
///
/// # Errors
/// [`RunError::TeacherWithoutTokenizer`], [`RunError::TeacherVocabulary`],
/// [`RunError::TeacherTooSmall`], [`RunError::TeacherContext`].
pub fn check_teacher(
    config: &TeacherConfig,
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
    length: usize,
) -> Result<(), RunError> {
    let teacher = config.model.clone();
    if checkpoint.spec().family.is_encoder() {
        return Err(RunError::TeacherEncoder { teacher });
    }
    let Some(own) = model_tokenizer(checkpoint)? else {
        return Err(RunError::TeacherWithoutTokenizer { teacher });
    };
    if let Some((id, own, theirs)) = tokenizer.first_difference(&own) {
        let token = |token: Option<String>| {
            token.map_or("no token".to_owned(), |token| format!("`{}`", clean(&token)))
        };
        let (theirs, own) = (token(theirs), token(own));
        return Err(RunError::TeacherVocabulary { teacher, id, theirs, own });
    }
    let (rows, tokens) = (checkpoint.spec().vocab_size, tokenizer.vocab_size());
    if tokens > rows {
        return Err(RunError::TeacherTooSmall { teacher, rows, tokens });
    }
    let context = checkpoint.spec().max_position_embeddings;
    if length > context {
        return Err(RunError::TeacherContext { teacher, context, length });
    }
    Ok(())
}

/// Reads its weights.
pub(super) fn load(
    checkpoint: &Checkpoint,
    config: &RunConfig,
    device: &Device,
) -> Result<Teacher, RunError> {
    let Some(teacher) = config.finetune.as_ref().and_then(|from| from.teacher.as_ref()) else {
        unreachable!("a teacher that was opened is one of the settings")
    };
    let model =
        Decoder::from_checkpoint(checkpoint, device).map_err(|error| unusable(teacher, error))?;
    Ok(Teacher { model: model.with_precision(teacher.precision), terms: teacher.terms() })
}
