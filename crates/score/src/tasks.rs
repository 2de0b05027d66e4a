//! Documents of a task as requests. The rule is that of lm-evaluation-harness: context and continuation are
//! tokenised as one text, which is split where the context's own tokens end; white space at the end of
//! a context belongs to the continuation; where nothing is given, the token that begins a sequence is.

use std::collections::HashMap;

use lns_kernels::Workers;
use lns_model::LayerSource;
use lns_tasks::{Asked, Choice, ChoiceScore, Document, Scored};
use lns_tokenizer::Tokenizer;

use crate::{
    CountPasses, Likelihood, Request, ScoreError, WithoutLayers, log_likelihoods,
    log_likelihoods_without_layers,
};

/// How a model reads text.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// The model's own.
    pub tokenizer: &'a Tokenizer,
    /// Whether the begin-of-text token stands before every context.
    pub bos: bool,
    /// Tokens that are read at most: of longer contexts the end.
    pub window: usize,
}

/// Scores every choice of every document; in the documents' order. `progress` is told of a layer pass for
/// each choice and layer.
///
/// # Errors
/// [`ScoreError`]: a choice that has no tokens of its own or does not fit into the window, text that
/// cannot be tokenised, a layer that cannot be read.
pub fn score_documents(
    source: &dyn LayerSource,
    asked: &Asked,
    reading: Reading<'_>,
    workers: &Workers,
    progress: CountPasses<'_>,
) -> Result<Vec<Scored>, ScoreError> {
    let requests = reading.requests(&asked.task, &asked.documents)?;
    let found = log_likelihoods(source, &requests, reading.window, workers, progress)?;
    Ok(by_document(&asked.documents, &requests, found))
}

/// Scores some of a task's documents as [`score_documents`] does, and again without each of the model's
/// layers: [`log_likelihoods_without_layers`] says what is shared and what `progress` is told.
///
/// # Errors
/// As [`score_documents`].
pub fn score_documents_without_layers(
    source: &dyn LayerSource,
    task: &str,
    documents: &[Document],
    reading: Reading<'_>,
    workers: &Workers,
    progress: CountPasses<'_>,
) -> Result<WithoutLayers<Scored>, ScoreError> {
    let requests = reading.requests(task, documents)?;
    let found =
        log_likelihoods_without_layers(source, &requests, reading.window, workers, progress)?;
    let scored = |found| by_document(documents, &requests, found);
    Ok(WithoutLayers {
        whole: scored(found.whole),
        without: found.without.into_iter().map(scored).collect(),
    })
}

/// What the requests of documents were given, document by document.
fn by_document(
    documents: &[Document],
    requests: &[Request],
    found: Vec<Likelihood>,
) -> Vec<Scored> {
    let mut found = found.into_iter().zip(requests);
    let of = |document: &Document| {
        let choices = document.question.choices.len();
        let scores = found.by_ref().take(choices).map(|(found, request)| ChoiceScore {
            log_probability: found.log_probability,
            greedy: found.greedy,
            tokens: request.continuation.len(),
            dropped: found.dropped,
        });
        scores.collect()
    };
    documents.iter().map(of).collect()
}

impl Reading<'_> {
    /// Of each document whether it can be asked: every choice has tokens of its own, and they fit into
    /// the window.
    ///
    /// # Errors
    /// Text that cannot be tokenised.
    pub fn can_ask(&self, documents: &[Document]) -> Result<Vec<bool>, ScoreError> {
        let can = |document| match self.requests("", std::slice::from_ref(document)) {
            Ok(_) => Ok(true),
            Err(ScoreError::Choice { .. }) => Ok(false),
            Err(error) => Err(error),
        };
        documents.iter().map(can).collect()
    }

    /// A request for every choice of every document of a task.
    fn requests(&self, task: &str, documents: &[Document]) -> Result<Vec<Request>, ScoreError> {
        let mut contexts = HashMap::new();
        let mut requests = Vec::new();
        for document in documents {
            for (index, choice) in document.question.choices.iter().enumerate() {
                let refused = |what: String| ScoreError::Choice {
                    task: task.to_owned(),
                    document: document.id,
                    choice: index,
                    what,
                };
                let request = self.request(choice, &mut contexts)?;
                match request.continuation.len() {
                    0 => return Err(refused("has no tokens of its own".to_owned())),
                    tokens if tokens > self.window => {
                        let window = self.window;
                        return Err(refused(format!("has {tokens} tokens and a window {window}")));
                    }
                    _ => requests.push(request),
                }
            }
        }
        Ok(requests)
    }

    fn request<'a>(
        &self,
        choice: &'a Choice,
        contexts: &mut HashMap<&'a str, Vec<u32>>,
    ) -> Result<Request, ScoreError> {
        let context = choice.context.trim_end();
        let continuation = format!("{}{}", &choice.context[context.len()..], choice.continuation);
        if context.is_empty() {
            let continuation = self.tokenizer.encode(&continuation)?.ids;
            return Ok(Request { context: self.beginning(), continuation });
        }
        let given = match contexts.get(context) {
            Some(ids) => ids.clone(),
            None => {
                let ids = self.ids(context)?;
                contexts.insert(context, ids.clone());
                ids
            }
        };
        let whole = self.ids(&format!("{context}{continuation}"))?;
        let continuation = whole.get(given.len()..).unwrap_or_default().to_vec();
        Ok(Request { context: given, continuation })
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>, ScoreError> {
        let ids = self.tokenizer.encode(text)?.ids;
        let bos = self.tokenizer.bos_id().filter(|bos| self.bos && ids.first() != Some(bos));
        Ok(bos.into_iter().chain(ids).collect())
    }

    /// The token that begins a sequence, or else the one that stands between documents; without
    /// either nothing, which is refused where it is scored.
    fn beginning(&self) -> Vec<u32> {
        self.tokenizer.bos_id().or(self.tokenizer.end_of_text_id()).into_iter().collect()
    }
}
