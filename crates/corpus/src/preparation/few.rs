//! Documents of which too few are there to hold some out as a whole: the end of each is held out.

use std::collections::HashSet;
use std::path::PathBuf;

use lns_tokenizer::Cut;

use super::{Limits, Names, Reading};
use crate::CorpusError;

/// Of few documents at least so many bytes are held out: some 2,000 tokens, where a sequence has some
/// hundreds.
const LEAST_HELD_OUT: f64 = 8192.0;
/// Of few documents at most this part of their bytes is held out.
const MOST_HELD_OUT: f64 = 0.25;
/// From so many documents on, they are not few, whatever the share.
const MOST_FEW: usize = 100;

/// Documents of which too few are there to hold some out as a whole.
pub(super) struct Few {
    /// The bytes of text of each, in their order, equal ones included.
    pub(super) bytes: Vec<u64>,
}

impl Few {
    /// The documents of files, if there are fewer than a share of them is one.
    pub(super) fn of(
        files: &[PathBuf],
        reading: &Reading<'_>,
        share: f64,
    ) -> Result<Option<Self>, CorpusError> {
        if reading.responses.is_some() {
            return Ok(None);
        }
        let enough = ((1.0 / share).ceil() as usize).min(MOST_FEW);
        let mut different = HashSet::new();
        let mut bytes = Vec::new();
        for file in files {
            for piece in (reading.open)(file)? {
                let piece = piece?;
                if let Some(id) = piece.id {
                    different.insert(id);
                    bytes.push(0);
                }
                if different.len() >= enough {
                    return Ok(None);
                }
                if let Some(document) = bytes.last_mut() {
                    *document += piece.text.len() as u64;
                }
            }
        }
        Ok(Some(Self { bytes }))
    }

    /// The part of each document's bytes that is held out.
    pub(super) fn end(&self, share: f64) -> f64 {
        let all = self.bytes.iter().sum::<u64>() as f64;
        share.max((LEAST_HELD_OUT / all).min(MOST_HELD_OUT))
    }

    /// Why a part is empty, unless its limit makes it so.
    pub(super) fn explained(&self, error: CorpusError, limits: Limits) -> CorpusError {
        let limited = [limits.train, limits.validation].iter().flatten().any(|&most| most < 2);
        match error {
            CorpusError::NoDocuments { .. } if !limited => CorpusError::TooShortToHoldOut {
                bytes: self.bytes.iter().sum(),
                enough: (LEAST_HELD_OUT / MOST_HELD_OUT) as u64,
            },
            other => other,
        }
    }

    pub(super) fn describe(&self, files: &[PathBuf], end: f64) -> String {
        let each = match self.bytes.len() {
            1 => "1 document".to_owned(),
            more => format!("each of {more} documents"),
        };
        let percent = (100.0 * end).round();
        format!("{}, the last {percent} % of {each} held out", Names(files))
    }
}

/// Where a text is cut in two, near `wanted` and not behind it: where the tokenizer would, else at white
/// space, else between any two characters.
pub(super) fn place_to_split(text: &str, wanted: usize, cut: Option<Cut>) -> usize {
    let before = &text[..text.floor_char_boundary(wanted)];
    let place = cut.and_then(|cut| cut.last_in(before));
    place.or_else(|| before.rfind(char::is_whitespace)).unwrap_or(before.len())
}
