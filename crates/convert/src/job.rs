//! A conversion that is written beside its place, measured there, and put in place whole.

use std::path::{Path, PathBuf};

use lns_checkpoint::{Checkpoint, Conversion, StorageType};
use lns_corpus::Windows;
use lns_kernels::Compute;
use lns_model::{LayerSource, Layers, open_layers};
use lns_record::{NewFolder, ProvenanceRecord, pretty_json};
use lns_score::{Comparison, CountPasses, compare};
use lns_tokenizer::write_tokenizer;
use serde_json::Value;

use crate::{ConvertError, Existing, Made, check_place, verify::measured};

/// Weights are written in files of at most so many bytes, as Hugging Face does.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// A conversion to be written as a folder.
#[derive(Debug, Clone)]
pub struct Job<'a> {
    /// What the record of where the model came from calls it: `retrofit`, `fold`, ….
    pub verb: &'static str,
    /// What becomes of each tensor.
    pub conversion: Conversion<'a>,
    /// Every option, resolved, for the record.
    pub options: Value,
    /// Files of its own beside the model.
    pub more: Vec<(&'static str, Vec<u8>)>,
    /// The largest file of weights.
    pub shard_bytes: u64,
}

impl<'a> Job<'a> {
    pub(crate) fn new(verb: &'static str, conversion: Conversion<'a>, options: Value) -> Self {
        Self { verb, conversion, options, more: Vec::new(), shard_bytes: SHARD_BYTES }
    }

    /// With every tensor stored as `dtype`, or each as the conversion has it.
    ///
    /// # Panics
    /// If `dtype` is none of F32, BF16 and F16.
    #[must_use]
    pub fn stored_as(self, dtype: Option<StorageType>) -> Self {
        match dtype {
            Some(dtype) => Self { conversion: self.conversion.cast(dtype), ..self },
            None => self,
        }
    }

    /// Writes the model, its tokenizer and the job's own files into a folder beside `place`; nothing
    /// is at the place before [`Written::commit`]. The source is hashed meanwhile. `progress` is told
    /// how many bytes of weights are written.
    ///
    /// # Errors
    /// [`ConvertError`]: a place that will not do, a tensor that cannot be read or stored, a tokenizer
    /// that cannot be read, what the operating system says.
    pub fn write(
        &self,
        place: &Path,
        existing: Existing,
        progress: &dyn Fn(u64),
    ) -> Result<Written<'a>, ConvertError> {
        let source = self.conversion.source();
        check_place(source, place, existing, Made::Folder)?;
        let folder = match existing {
            Existing::Replaced => NewFolder::replace(place),
            Existing::Kept => NewFolder::create(place),
        };
        let folder = folder.map_err(|source| ConvertError::Io {
            path: place.to_owned(),
            what: "cannot be made",
            source,
        })?;
        let record = std::thread::scope(|scope| {
            let record = scope.spawn(|| {
                source.provenance(self.verb, self.conversion.spec(), self.options.clone())
            });
            self.conversion.write(folder.path(), self.shard_bytes, progress)?;
            match record.join() {
                Ok(record) => record,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })?;
        write_tokenizer(source, folder.path())?;
        for (name, contents) in &self.more {
            write_file(&folder.path().join(name), contents)?;
        }
        Ok(Written { source, folder, place: place.to_owned(), record })
    }
}

/// A model that is written and not yet in place; gone when it is dropped.
#[derive(Debug)]
pub struct Written<'a> {
    source: &'a Checkpoint,
    folder: NewFolder,
    place: PathBuf,
    /// Where the model came from.
    pub record: ProvenanceRecord,
}

impl Written<'_> {
    /// Layer passes that [`compare`](Self::compare) will report.
    pub fn work(&self, text: &Windows) -> u64 {
        // A conversion that is compared leaves the layers as many as they were.
        2 * (self.source.spec().num_hidden_layers * text.windows.len()) as u64
    }

    /// Source and result on one text: losses on all windows, logits on the first. The record has them
    /// from then on.
    ///
    /// # Errors
    /// [`ConvertError`] when a model cannot be read, or gives losses that are no numbers.
    pub fn compare(
        &mut self,
        text: &Windows,
        compute: &Compute,
        layers: Layers,
        progress: CountPasses<'_>,
    ) -> Result<Comparison, ConvertError> {
        let load = |path: &Path| -> Result<Box<dyn LayerSource>, ConvertError> {
            let Compute { device, precision, .. } = compute;
            Ok(open_layers(Checkpoint::open(path)?, layers, device, *precision)?)
        };
        let models = [load(self.source.path())?, load(self.folder.path())?];
        let models = [&*models[0], &*models[1]];
        let found = compare(models, &text.windows, &compute.workers, progress)?;
        self.record.measured = Some(measured(&found));
        Ok(found)
    }

    /// Adds the record of where the model came from, and puts the folder in place.
    ///
    /// # Errors
    /// [`ConvertError::Io`]; the place is then as it was.
    pub fn commit(self) -> Result<ProvenanceRecord, ConvertError> {
        let path = self.folder.path().join(ProvenanceRecord::FILE_NAME);
        let record = pretty_json(&self.record).map_err(|error| ConvertError::Io {
            path: path.clone(),
            what: "was not written",
            source: error.into(),
        })?;
        write_file(&path, &record)?;
        self.folder.commit().map_err(|source| ConvertError::Io {
            path: self.place,
            what: "was not put in place",
            source,
        })?;
        Ok(self.record)
    }
}

fn write_file(path: &Path, contents: &[u8]) -> Result<(), ConvertError> {
    std::fs::write(path, contents).map_err(|source| ConvertError::Io {
        path: path.to_owned(),
        what: "was not written",
        source,
    })
}
