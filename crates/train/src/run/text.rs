//! The text of a run.

use lns_corpus::{Corpus, Layout, Part, Sampler, Sequences, evaluation_sequences};

use crate::{RunConfig, RunError};

/// What is drawn from, and what is evaluated.
pub(super) struct Text {
    pub(super) corpora: Vec<Corpus>,
    pub(super) sampler: Sampler,
    pub(super) held_out: Sequences,
}

impl Text {
    pub(super) fn open(config: &RunConfig) -> Result<Self, RunError> {
        let sources = &config.data.sources;
        let corpora = sources
            .iter()
            .map(|source| Corpus::open(&source.corpus))
            .collect::<Result<Vec<_>, _>>()?;
        let first = corpora.first().ok_or(RunError::NoText)?;
        if let Some(other) = corpora
            .iter()
            .position(|corpus| corpus.tokenizer().fingerprint() != first.tokenizer().fingerprint())
        {
            let (first, second) = (sources[0].corpus.clone(), sources[other].corpus.clone());
            return Err(RunError::Tokenizers { first, second });
        }
        let whole = corpora.iter().position(Corpus::learns_responses_only);
        if let Some(index) = whole.filter(|_| config.data.layout != Layout::Rows) {
            return Err(RunError::CutInstructions { corpus: sources[index].corpus.clone() });
        }
        let padding = first.tokenizer().end_of_text_id().unwrap_or(0);
        let (layout, length) = (config.data.layout, config.data.length);
        let weighted = corpora.iter().zip(sources);
        let weighted = weighted.map(|(c, source)| (c.tokens(Part::Train).clone(), source.weight));
        let sampler = Sampler::new(weighted.collect(), layout, length, config.seed, padding)?;
        let limit = match config.evaluation.tokens {
            0 => None,
            tokens => Some(tokens.div_ceil(corpora.len() as u64)),
        };
        let mut held_out = Sequences::new(length);
        for corpus in &corpora {
            let part = corpus.tokens(Part::Validation);
            let more = evaluation_sequences(part, layout, length, limit, padding)?;
            held_out.extend(more);
        }
        Ok(Self { corpora, sampler, held_out })
    }

    /// Fills in which tokens it holds.
    pub(super) fn resolve(&self, config: &mut RunConfig) -> Result<(), RunError> {
        for (source, corpus) in config.data.sources.iter_mut().zip(&self.corpora) {
            if !source.fingerprint.is_empty() && source.fingerprint != corpus.fingerprint() {
                return Err(RunError::OtherText { corpus: source.corpus.clone() });
            }
            corpus.fingerprint().clone_into(&mut source.fingerprint);
        }
        Ok(())
    }
}
