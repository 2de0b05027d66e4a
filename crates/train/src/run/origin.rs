//! Where the model of a run comes from.

use std::path::Path;

use lns_checkpoint::Checkpoint;
use lns_corpus::Corpus;
use lns_kernels::Compute;
use lns_model::{Decoder, LoadError};
use lns_spec::ModelSpec;
use lns_tokenizer::{TokenizerError, model_tokenizer, write_tokenizer};

use super::text::Text;
use crate::{FinetuneConfig, ModelConfig, RunConfig, RunError};

/// A new model, or a checkpoint.
pub(super) enum Origin {
    Scratch(Box<ModelSpec>),
    Checkpoint(Box<Checkpoint>),
}

impl Origin {
    /// Opens it, and fills in what it and the text's tokenizer decide.
    pub(super) fn open(config: &mut RunConfig, corpora: &[Corpus]) -> Result<Self, RunError> {
        let (vocabulary, length) = (corpora[0].vocab_size(), config.data.length);
        let Some(from) = &mut config.finetune else {
            let spec = config.model.spec(vocabulary, length)?;
            config.model.vocab_size = spec.vocab_size;
            config.model.num_key_value_heads = spec.num_key_value_heads;
            return Ok(Self::Scratch(Box::new(spec)));
        };
        let FinetuneConfig { base, fingerprint, .. } = from;
        let checkpoint = Checkpoint::open(base).map_err(LoadError::from)?;
        let found = checkpoint.fingerprint().map_err(LoadError::from)?;
        if !fingerprint.is_empty() && *fingerprint != found {
            return Err(RunError::OtherBase { base: base.clone() });
        }
        *fingerprint = found;
        let tokenizer = model_tokenizer(&checkpoint)?;
        let same = tokenizer.as_ref().map(|tokenizer| tokenizer.fingerprint());
        if same.is_some_and(|same| same != corpora[0].tokenizer().fingerprint()) {
            let corpus = config.data.sources[0].corpus.clone();
            return Err(RunError::OtherTokenizer { corpus, base: base.clone() });
        }
        let spec = checkpoint.spec();
        if vocabulary > spec.vocab_size {
            let (corpus, base) = (config.data.sources[0].corpus.clone(), base.clone());
            let (tokens, rows) = (vocabulary, spec.vocab_size);
            return Err(RunError::TokenizerTooLarge { corpus, base, tokens, rows });
        }
        if let Some(from) = &config.finetune {
            check_checkpoint(config, from, spec)?;
        }
        Ok(Self::Checkpoint(Box::new(checkpoint)))
    }

    pub(super) fn spec(&self) -> &ModelSpec {
        match self {
            Self::Scratch(spec) => spec,
            Self::Checkpoint(checkpoint) => checkpoint.spec(),
        }
    }

    /// The model before its first step, without adapters.
    pub(super) fn model(&self, config: &RunConfig, compute: &Compute) -> Result<Decoder, RunError> {
        let device = &compute.device;
        let model = match self {
            Self::Scratch(spec) => {
                let ModelConfig { initialisation, embedding_std, .. } = config.model;
                Decoder::initialised(spec, initialisation, embedding_std, config.seed, device)
            }
            Self::Checkpoint(checkpoint) => Decoder::from_checkpoint(checkpoint, device)?,
        };
        Ok(model.with_precision(compute.precision))
    }

    /// The tokenizer's files, of the checkpoint as they are.
    pub(super) fn write_tokenizer(&self, text: &Text, folder: &Path) -> Result<(), TokenizerError> {
        match self {
            Self::Scratch(_) => text.corpora[0].tokenizer().save(folder),
            Self::Checkpoint(checkpoint) => write_tokenizer(checkpoint, folder).map(drop),
        }
    }
}

/// Whether a run's settings suit the checkpoint that it goes on from, whatever its text.
///
/// # Errors
/// [`RunError::Encoder`], [`RunError::Mixture`], adapters that do not fit, [`RunError::AnnealTooLong`],
/// [`RunError::BeyondContext`].
pub fn check_checkpoint(
    config: &RunConfig,
    from: &FinetuneConfig,
    spec: &ModelSpec,
) -> Result<(), RunError> {
    if spec.family.is_encoder() {
        return Err(RunError::Encoder { base: from.base.clone() });
    }
    if spec.is_mixture() {
        return Err(RunError::Mixture { base: from.base.clone() });
    }
    if let Some(lora) = &from.lora {
        lora.check(spec)?;
    }
    let (base, steps, length) = (&from.base, config.steps, config.data.length);
    if let Some(anneal) = spec.norm_scheme.anneal()
        && anneal.steps > steps
    {
        return Err(RunError::AnnealTooLong { base: base.clone(), anneal: anneal.steps, steps });
    }
    let context = spec.max_position_embeddings;
    if length > context {
        return Err(RunError::BeyondContext { base: base.clone(), context, length });
    }
    Ok(())
}
