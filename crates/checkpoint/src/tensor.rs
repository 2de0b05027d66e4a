//! What a checkpoint says about a tensor, and how its numbers are stored.

use std::fmt;
use std::ops::Range;

use lns_spec::StoredRows;

use crate::scales::Scales;

/// How the numbers of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the variants' names are the types' names")]
pub enum StorageType {
    F64,
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    IQ4NL,
    IQ4XS,
    MXFP4,
    /// Only with scales beside it.
    F8E4M3,
    /// A safetensors type that weights are not read from, such as `I64`.
    Other(&'static str),
}

impl StorageType {
    /// Elements and bytes of a block; a block of plain numbers is one number. `None` for a type
    /// that is not read.
    pub fn block(self) -> Option<(usize, usize)> {
        self.layout().map(|layout| (layout.elements, layout.bytes))
    }

    /// The usual name, e.g. `BF16` or `Q4_K`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Other(name) => name,
            _ => self.layout().map_or("", |layout| layout.name),
        }
    }
}

impl fmt::Display for StorageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Name, type, shape and place of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Hugging Face's name, e.g. `model.layers.3.mlp.up_proj.weight`; a tensor of a GGUF file that
    /// has no such name keeps its own.
    pub name: String,
    /// How its numbers are stored.
    pub dtype: StorageType,
    /// Dimensions, outermost first (`[out, in]`).
    pub shape: Vec<usize>,
    /// Which of the checkpoint's files holds it.
    pub(crate) file: usize,
    /// The bytes of that file that hold it.
    pub(crate) range: Range<usize>,
    /// The number of features of a head, if the rows of each head are in interleaved rotary order.
    pub(crate) interleaved_heads_of: Option<usize>,
    /// The scales of its numbers, where they are another tensor of the files.
    pub(crate) scales: Option<Scales>,
    /// Set if the file has the last two dimensions the other way round.
    pub(crate) transposed: bool,
    /// How the file has the rows of each head, where they do not just follow each other.
    pub(crate) of_heads: Option<OfHeads>,
}

/// How a file has the rows of the heads of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OfHeads {
    /// As a stack of so many matrices, those of each head transposed.
    Transposed(usize),
    /// Among those of another matrix.
    Rows(StoredRows),
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        // Checked against overflow when the header was read.
        self.shape.iter().product()
    }

    /// Bytes it takes in the files, its scales included.
    pub fn bytes(&self) -> usize {
        let own = match self.of_heads {
            Some(OfHeads::Rows(rows)) => self.range.len() / rows.stride.max(1) * rows.run,
            _ => self.range.len(),
        };
        own + self.scales.as_ref().map_or(0, |scales| scales.range.len())
    }

    /// Rows of the matrix, or of all matrices of the stack; `None` of a scalar or vector.
    pub(crate) fn rows(&self) -> Option<usize> {
        match *self.shape {
            [] | [_] => None,
            [.., columns] => Some(self.elements().checked_div(columns).unwrap_or(0)),
        }
    }

    /// One matrix or vector of a stack (`[matrices, rows, columns]`, `[vectors, elements]`) as a tensor of its
    /// own; `None` beyond the last, and of a tensor that is no stack.
    pub(crate) fn member(&self, index: usize) -> Option<Self> {
        let [count, ref own @ ..] = *self.shape else { return None };
        let part = |range: &Range<usize>| {
            let bytes = range.len() / count;
            range.start + index * bytes..range.start + (index + 1) * bytes
        };
        (index < count && !own.is_empty()).then(|| Self {
            shape: own.to_vec(),
            range: part(&self.range),
            scales: self
                .scales
                .as_ref()
                .map(|scales| Scales { range: part(&scales.range), ..scales.clone() }),
            ..self.clone()
        })
    }
}
