//! Reading a checkpoint's tensors: whole, by rows, by matrices of a stack, in chunks.

use std::ops::Range;
use std::path::Path;

use lns_spec::{ModelTensor, StoredTensor};

use crate::decode::decode;
use crate::rows::{Rows, interleaved};
use crate::scales::BadScale;
use crate::{Checkpoint, CheckpointError, Format, TensorInfo};

/// Bytes of one tensor that are read before their pages are handed back.
const RELEASE_EVERY: usize = 8 << 20;

impl Checkpoint {
    /// All elements of one of the model's tensors as f32, row by row. Of a stack of experts' matrices the
    /// others are not read.
    ///
    /// # Errors
    /// As [`Checkpoint::read_f32`].
    pub fn read(&self, wanted: &ModelTensor) -> Result<Vec<f32>, CheckpointError> {
        let own = self.is_plain().then(|| self.spec().in_gguf(wanted));
        let wanted = own.as_ref().unwrap_or(wanted);
        if wanted.is_stored_whole() {
            return self.read_f32(&wanted.name, &wanted.shape);
        }
        let stored = self.expect(&wanted.name, &self.stored_shape(wanted))?;
        let member;
        let stored = match wanted.stack {
            None => stored,
            Some(stack) => {
                member = self.member(stored, stack.index)?;
                &member
            }
        };
        let count = wanted.shape.first().copied().unwrap_or(1);
        let row = |row| wanted.rows.map_or(row, |rows| rows.of(row));
        let mut values = match *stored.shape {
            [_, _] => self.read_some_rows(stored, wanted.transposed, count, row)?,
            _ => {
                let values = self.read_vector(stored)?;
                (0..count).map(|at| values[row(at)]).collect()
            }
        };
        if wanted.offset != 0.0 {
            values.iter_mut().for_each(|value| *value += wanted.offset);
        }
        Ok(values)
    }

    /// The tensor of the files that holds one of the model's.
    pub fn holder(&self, wanted: &ModelTensor) -> Option<&TensorInfo> {
        match self.is_plain() {
            true => self.tensor(&self.spec().in_gguf(wanted).name),
            false => self.tensor(&wanted.name),
        }
    }

    /// The shape that the tensor which holds `wanted` must have: as many rows as the file gives it, as long as
    /// those that are wanted are among them.
    fn stored_shape(&self, wanted: &ModelTensor) -> Vec<usize> {
        let mut shape = wanted.shape.clone();
        if let (Some(rows), true) = (shape.first_mut(), wanted.rows.is_some()) {
            *rows = wanted.stored_rows_end();
        }
        if wanted.transposed {
            shape.reverse();
        }
        shape.splice(0..0, wanted.stack.map(|stack| stack.count));
        let along = usize::from(wanted.transposed) + usize::from(wanted.stack.is_some());
        if wanted.rows.is_some()
            && let Some(found) = self.tensor(&wanted.name).map(|stored| &stored.shape)
            && found.len() == shape.len()
            && found[along] > shape[along]
        {
            shape[along] = found[along];
        }
        shape
    }

    /// The first `count` rows that `row` names of a matrix, or of its transposed.
    fn read_some_rows(
        &self,
        matrix: &TensorInfo,
        transposed: bool,
        count: usize,
        row: impl Fn(usize) -> usize,
    ) -> Result<Vec<f32>, CheckpointError> {
        let mut matrix = matrix.clone();
        if transposed {
            matrix.transposed = !matrix.transposed;
            matrix.shape.reverse();
        }
        if !matrix.transposed {
            return self.read_rows(&matrix, (0..count).map(row));
        }
        let (first, width) = (row(0), matrix.shape.get(1).copied().unwrap_or(1));
        let all = self.read_transposed(&matrix, first..row(count.saturating_sub(1)) + 1)?;
        if row(count.saturating_sub(1)) - first + 1 == count {
            return Ok(all);
        }
        let mut values = self.allocate(&matrix, count * width)?;
        for at in 0..count {
            values.extend_from_slice(&all[(row(at) - first) * width..][..width]);
        }
        Ok(values)
    }

    /// One matrix or vector of a stack.
    fn member(&self, stack: &TensorInfo, index: usize) -> Result<TensorInfo, CheckpointError> {
        stack.member(index).ok_or_else(|| {
            let (path, tensor) = (self.file_of(stack).to_owned(), stack.name.clone());
            match *stack.shape {
                [count, _, ..] => CheckpointError::MatrixOutOfRange { path, tensor, index, count },
                _ => CheckpointError::NotAStack { path, tensor, shape: stack.shape.clone() },
            }
        })
    }

    /// All elements of a tensor as a folder of its family has it, whatever the file: a GGUF file has gains
    /// themselves, matrices [out, in] and parts one after the other.
    ///
    /// # Errors
    /// As [`Checkpoint::read_f32`].
    pub fn read_stored(&self, stored: &StoredTensor) -> Result<Vec<f32>, CheckpointError> {
        if self.has_as_stored(stored) {
            return self.read_f32(&stored.name, &stored.shape);
        }
        let mut values = Vec::new();
        self.read_by_members(stored, &mut |some| {
            values.extend_from_slice(some);
            Ok(())
        })?;
        Ok(values)
    }

    /// Whether the files have the tensor as a folder of its family would.
    pub(crate) fn has_as_stored(&self, stored: &StoredTensor) -> bool {
        let named = |part: &ModelTensor| self.spec().in_gguf(part).name == stored.name;
        !self.is_plain() || (stored.is_plain() && stored.parts.iter().all(named))
    }

    /// As [`Checkpoint::read_stored`], one matrix of a stack at a time.
    pub(crate) fn read_by_members(
        &self,
        stored: &StoredTensor,
        take: &mut dyn FnMut(&[f32]) -> Result<(), CheckpointError>,
    ) -> Result<(), CheckpointError> {
        let dimensions = match stored.parts.first().and_then(|part| part.stack) {
            Some(_) => stored.shape.get(1..).unwrap_or_default(),
            None => &stored.shape,
        };
        let mut values = vec![0.0; dimensions.iter().product()];
        for together in stored.parts.chunk_by(|a, b| a.stack == b.stack) {
            for part in together {
                let alone = ModelTensor { stack: None, ..part.clone() };
                alone.put_into(&self.read(part)?, &mut values);
            }
            take(&values)?;
        }
        Ok(())
    }

    /// Whether the file has every tensor as llama.cpp's converter does, not as the family's folders do.
    pub(crate) fn is_plain(&self) -> bool {
        self.format() == Format::Gguf
    }

    /// All elements of a tensor as f32, row by row; `shape` is the one that the model needs.
    ///
    /// May be called from several threads. Of a GGUF file, query and key rows are brought into
    /// Hugging Face's (rotate-half) order.
    ///
    /// # Errors
    /// A missing tensor, another shape, a type that is not read, scales that are none, or no memory.
    pub fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        self.read_whole(self.expect(name, shape)?)
    }

    /// One matrix of a stack, such as the weights of one expert, as f32, row by row. The others are not
    /// read. `shape` is the whole stack's, `[matrices, rows, columns]`.
    ///
    /// # Errors
    /// As [`Checkpoint::read_f32`], and a matrix beyond the last.
    pub fn read_matrix(
        &self,
        name: &str,
        shape: &[usize],
        index: usize,
    ) -> Result<Vec<f32>, CheckpointError> {
        self.read_whole(&self.matrix(name, shape, index)?)
    }

    /// As [`Checkpoint::read_matrix`], but column by column: the transposed matrix, row by row. That is how
    /// the file has it where MXFP4 blocks are of its transposed, and then costs less.
    ///
    /// # Errors
    /// As [`Checkpoint::read_matrix`].
    pub fn read_matrix_transposed(
        &self,
        name: &str,
        shape: &[usize],
        index: usize,
    ) -> Result<Vec<f32>, CheckpointError> {
        let mut matrix = self.matrix(name, shape, index)?;
        matrix.transposed = !matrix.transposed;
        matrix.shape.reverse();
        self.read_whole(&matrix)
    }

    fn matrix(
        &self,
        name: &str,
        shape: &[usize],
        index: usize,
    ) -> Result<TensorInfo, CheckpointError> {
        let stack = self.expect(name, shape)?;
        match shape.len() {
            3 => self.member(stack, index),
            _ => Err(CheckpointError::NotAStack {
                path: self.file_of(stack).to_owned(),
                tensor: name.to_owned(),
                shape: shape.to_vec(),
            }),
        }
    }

    /// The elements of a tensor in order, about `chunk` at a time.
    pub(crate) fn read_in_chunks(
        &self,
        name: &str,
        shape: &[usize],
        chunk: usize,
        take: &mut dyn FnMut(&[f32]) -> Result<(), CheckpointError>,
    ) -> Result<(), CheckpointError> {
        let tensor = self.expect(name, shape)?;
        let Some(count) = tensor.rows() else { return take(&self.read_vector(tensor)?) };
        let at_once = match *shape {
            // A part of a transposed matrix would cost as much as all of it.
            [.., rows, _] if tensor.transposed => rows,
            [.., columns] => chunk / columns.max(1),
            [] => 1,
        }
        .max(1);
        for first in (0..count).step_by(at_once) {
            take(&self.read_range(tensor, first..count.min(first + at_once))?)?;
        }
        Ok(())
    }

    /// The given rows of a matrix, in the given order, one after the other.
    ///
    /// # Errors
    /// As [`Checkpoint::read_f32`], and a row beyond the last.
    pub fn read_rows_f32(
        &self,
        name: &str,
        shape: &[usize],
        rows: &[u32],
    ) -> Result<Vec<f32>, CheckpointError> {
        let tensor = self.expect(name, shape)?;
        let [count, _] = *shape else {
            let (path, tensor) = (self.file_of(tensor).to_owned(), name.to_owned());
            return Err(CheckpointError::NotAMatrix { path, tensor, shape: shape.to_vec() });
        };
        if let Some(row) = rows.iter().find(|row| **row as usize >= count) {
            return Err(CheckpointError::RowOutOfRange {
                path: self.file_of(tensor).to_owned(),
                tensor: name.to_owned(),
                row: *row,
                rows: count,
            });
        }
        self.read_rows(tensor, rows.iter().map(|row| *row as usize))
    }

    fn file_of(&self, tensor: &TensorInfo) -> &Path {
        &self.parts.files[tensor.file]
    }

    /// The tensor of that name, if it has that shape, a type that is read, and whole heads.
    fn expect(&self, name: &str, shape: &[usize]) -> Result<&TensorInfo, CheckpointError> {
        let Some(tensor) = self.tensor(name) else {
            let (path, tensor) = (self.path.clone(), name.to_owned());
            return Err(CheckpointError::MissingTensor { path, tensor });
        };
        let path = self.file_of(tensor);
        if tensor.shape != shape {
            return Err(CheckpointError::WrongShape {
                path: path.to_owned(),
                tensor: name.to_owned(),
                expected: shape.to_vec(),
                found: tensor.shape.clone(),
            });
        }
        if tensor.dtype.block().is_none() {
            let (path, tensor, dtype) = (path.to_owned(), name.to_owned(), tensor.dtype);
            return Err(CheckpointError::WrongType { path, tensor, dtype });
        }
        let rows = tensor.shape.first().copied().unwrap_or(1);
        if let Some(head_dim) = tensor.interleaved_heads_of
            && !rows.is_multiple_of(head_dim)
        {
            let (path, tensor) = (path.to_owned(), name.to_owned());
            return Err(CheckpointError::NotWholeHeads { path, tensor, rows, head_dim });
        }
        Ok(tensor)
    }

    fn read_whole(&self, tensor: &TensorInfo) -> Result<Vec<f32>, CheckpointError> {
        match tensor.rows() {
            Some(rows) => self.read_range(tensor, 0..rows),
            None => self.read_vector(tensor),
        }
    }

    /// Some rows of a matrix, or of a stack of matrices one after the other.
    fn read_range(
        &self,
        tensor: &TensorInfo,
        rows: Range<usize>,
    ) -> Result<Vec<f32>, CheckpointError> {
        if tensor.transposed {
            self.read_transposed(tensor, rows)
        } else {
            self.read_rows(tensor, rows)
        }
    }

    /// The rows of the file at the given places.
    fn read_rows(
        &self,
        tensor: &TensorInfo,
        wanted: impl ExactSizeIterator<Item = usize>,
    ) -> Result<Vec<f32>, CheckpointError> {
        let (rows, map) = (Rows::of(tensor, &self.parts.maps), &self.parts.maps[tensor.file]);
        let mut out = self.allocate(tensor, wanted.len().saturating_mul(rows.length))?;
        let mut resident = 0;
        for row in wanted {
            let start = out.len();
            // Zeroing one row keeps it in the nearest cache for the conversion to overwrite.
            out.resize(start + rows.length, 0.0);
            rows.decode(row, &mut out[start..]).map_err(|bad| self.bad_scale(tensor, bad))?;
            resident += rows.bytes;
            if resident >= RELEASE_EVERY {
                map.release(tensor.range.clone());
                resident = 0;
            }
        }
        map.release(tensor.range.clone());
        Ok(out)
    }

    /// Some rows of matrices that the file has with rows for columns: a few of its rows are converted at a
    /// time, and become as many neighbours in each row of the result.
    fn read_transposed(
        &self,
        tensor: &TensorInfo,
        wanted: Range<usize>,
    ) -> Result<Vec<f32>, CheckpointError> {
        /// Rows of the file that are converted before they are turned, and columns that are then written side
        /// by side: the fastest of a dozen pairs on matrices of gpt_oss's size.
        const AT_ONCE: usize = 64;
        const ABREAST: usize = 8;
        let (rows, map) = (Rows::of(tensor, &self.parts.maps), &self.parts.maps[tensor.file]);
        let elements = wanted.len().saturating_mul(rows.of_matrix);
        let mut out = self.allocate(tensor, elements)?;
        if elements == 0 {
            return Ok(out);
        }
        out.resize(elements, 0.0);
        let mut some = self.allocate(tensor, AT_ONCE * rows.length)?;
        some.resize(AT_ONCE * rows.length, 0.0);
        let mut done = wanted.start;
        while done < wanted.end {
            let matrix = done / rows.length;
            let end = wanted.end.min((matrix + 1) * rows.length);
            let columns = done - matrix * rows.length..end - matrix * rows.length;
            let into = &mut out[(done - wanted.start) * rows.of_matrix..];
            for first in (0..rows.of_matrix).step_by(AT_ONCE) {
                let few = AT_ONCE.min(rows.of_matrix - first);
                for (row, some) in some.chunks_mut(rows.length).take(few).enumerate() {
                    rows.decode(matrix * rows.of_matrix + first + row, some)
                        .map_err(|bad| self.bad_scale(tensor, bad))?;
                }
                for column in columns.clone().step_by(ABREAST) {
                    let abreast = ABREAST.min(columns.end - column);
                    let start = (column - columns.start) * rows.of_matrix + first;
                    for (row, some) in some.chunks(rows.length).take(few).enumerate() {
                        let into = into[start + row..].iter_mut().step_by(rows.of_matrix);
                        for (into, from) in into.zip(&some[column..][..abreast]) {
                            *into = *from;
                        }
                    }
                }
            }
            done = end;
        }
        map.release(tensor.range.clone());
        Ok(out)
    }

    fn bad_scale(&self, tensor: &TensorInfo, bad: BadScale) -> CheckpointError {
        let (path, tensor) = (self.file_of(tensor).to_owned(), tensor.name.clone());
        let BadScale { row, column, value } = bad;
        CheckpointError::BadScale { path, tensor, row, column, value }
    }

    /// A scalar or vector, whose elements are its rows where heads are interleaved (biases).
    fn read_vector(&self, tensor: &TensorInfo) -> Result<Vec<f32>, CheckpointError> {
        let map = &self.parts.maps[tensor.file];
        let elements = tensor.elements();
        let mut out = self.allocate(tensor, elements)?;
        out.resize(elements, 0.0);
        decode(tensor.dtype, &map.bytes()[tensor.range.clone()], &mut out);
        map.release(tensor.range.clone());
        if let Some(head_dim) = tensor.interleaved_heads_of {
            out = (0..elements).map(|row| out[interleaved(row, head_dim)]).collect();
        }
        Ok(out)
    }

    fn allocate(&self, tensor: &TensorInfo, elements: usize) -> Result<Vec<f32>, CheckpointError> {
        let mut out = Vec::new();
        out.try_reserve_exact(elements).map_err(|_| CheckpointError::OutOfMemory {
            path: self.file_of(tensor).to_owned(),
            tensor: tensor.name.clone(),
            bytes: elements.saturating_mul(size_of::<f32>()),
        })?;
        Ok(out)
    }
}
