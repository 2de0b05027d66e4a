//! A model's tokenizer, moved with the model: into a Hugging Face folder or into a GGUF file.

use std::fs;
use std::path::Path;

use lns_checkpoint::{Checkpoint, Format, GgufTokenizer, TokenizerSource};
use lns_record::{read_regular, replace_file};
use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::PostProcessorWrapper;

use super::tokenizer_config::{self, TEMPLATE_FILE, TokenizerConfig, chat_template_beside};
use super::tokenizer_json::{self, MAX_BYTES};
use crate::{Tokenizer, TokenizerError};

/// What belongs to a tokenizer in a Hugging Face folder, and how text is made with the model.
const FILES: [&str; 10] = [
    tokenizer_json::FILE,
    tokenizer_config::FILE,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    TEMPLATE_FILE,
    "generation_config.json",
];

/// Puts the model's tokenizer into a Hugging Face folder that is being written; gives the names of
/// the files, none if there is no tokenizer.
///
/// The files of a folder are copied byte for byte. The tokenizer inside a GGUF file becomes a
/// `tokenizer.json` and a `tokenizer_config.json`.
///
/// # Errors
/// A tokenizer that is not read, a file larger than any such file, what the operating system says.
pub fn write_tokenizer(
    checkpoint: &Checkpoint,
    folder: &Path,
) -> Result<Vec<String>, TokenizerError> {
    match checkpoint.tokenizer() {
        TokenizerSource::Gguf(gguf) => write_from_gguf(checkpoint, &gguf, folder),
        TokenizerSource::None if checkpoint.format() == Format::Gguf => Ok(Vec::new()),
        TokenizerSource::Json(_) | TokenizerSource::None => copy_files(checkpoint.folder(), folder),
    }
}

/// The tokenizer for a GGUF file with this model, if it has one: that of a GGUF file unchanged, else
/// the one in `tokenizer.json` ([`Tokenizer::to_gguf`]) with what `config.json` and the files beside
/// say of it.
///
/// # Errors
/// A tokenizer that is not read or that a GGUF file cannot say.
pub fn gguf_tokenizer(checkpoint: &Checkpoint) -> Result<Option<GgufTokenizer>, TokenizerError> {
    let path = match checkpoint.tokenizer() {
        TokenizerSource::Gguf(gguf) => return Ok(Some(*gguf)),
        TokenizerSource::None => return Ok(None),
        TokenizerSource::Json(path) => path,
    };
    let spec = checkpoint.spec();
    let config = TokenizerConfig::beside(&path)?;
    let tokenizer = Tokenizer::from_json_file(&path)?;
    let template = chat_template_beside(path.parent().unwrap_or(Path::new("")), &config)?;
    let mut gguf = tokenizer.to_gguf(spec.vocab_size, template.map(|(_, source)| source))?;
    let named = |key| -> Result<Option<u32>, TokenizerError> {
        Ok(config.special_token(key)?.and_then(|token| tokenizer.inner.token_to_id(token)))
    };
    gguf.unknown_token_id = gguf.unknown_token_id.or(named("unk_token")?);
    gguf.bos_token_id = spec.bos_token_id().or(gguf.bos_token_id);
    // Of several ends the one that the tokenizer names.
    let ends = spec.eos_token_ids();
    gguf.eos_token_id = named("eos_token")?
        .filter(|id| ends.is_empty() || ends.contains(id))
        .or(ends.first().copied())
        .or(gguf.eos_token_id);
    let bos = gguf.bos_token_id.and_then(|id| tokenizer.token(id));
    let adds_bos = adds_bos(&path, &config, bos.as_deref())?;
    gguf.add_bos_token = Some(adds_bos);
    Ok(Some(gguf))
}

/// Whether the model's tokenizer is made to put the begin-of-text token in front of text, as whoever
/// trained the model did.
///
/// # Errors
/// A tokenizer that cannot be read.
pub fn begins_with_bos(checkpoint: &Checkpoint) -> Result<bool, TokenizerError> {
    let path = match checkpoint.tokenizer() {
        TokenizerSource::Gguf(gguf) => {
            return Ok(gguf.add_bos_token.unwrap_or_else(|| begins_by_its_kind(&gguf)));
        }
        TokenizerSource::None => return Ok(false),
        TokenizerSource::Json(path) => path,
    };
    let config = TokenizerConfig::beside(&path)?;
    let tokenizer = Tokenizer::from_json_file(&path)?;
    let bos = checkpoint.spec().bos_token_id().or(tokenizer.bos_id());
    adds_bos(&path, &config, bos.and_then(|id| tokenizer.token(id)).as_deref())
}

/// Whether the token is put in front where a file does not say: llama.cpp does so with SentencePiece, and with
/// Llama 3's and Mistral's ways to split text (`llama-vocab.cpp`).
fn begins_by_its_kind(gguf: &GgufTokenizer) -> bool {
    gguf.model == "llama"
        || ["llama-bpe", "llama3", "llama-v3", "tekken"].map(Some).contains(&gguf.pre.as_deref())
}

fn adds_bos(
    path: &Path,
    config: &TokenizerConfig,
    bos: Option<&str>,
) -> Result<bool, TokenizerError> {
    match (config.add_bos_token(), bos) {
        (Some(adds), _) => Ok(adds),
        (None, Some(bos)) => begins_with(path, bos),
        (None, None) => Ok(false),
    }
}

impl Tokenizer {
    /// Writes `tokenizer.json` and a `tokenizer_config.json` that names the end-of-text token, for
    /// transformers and for [`Tokenizer::from_json_file`].
    ///
    /// # Errors
    /// What the operating system says.
    pub fn save(&self, folder: &Path) -> Result<(), TokenizerError> {
        let name = |id: Option<u32>| id.and_then(|id| self.token(id));
        let entries = [
            ("bos_token", name(self.bos_id()).map(Value::from)),
            ("eos_token", name(self.end_of_text_id()).map(Value::from)),
        ];
        let config = tokenizer_config::written(name(self.end_of_text_id()), entries);
        write_file(&folder.join(tokenizer_json::FILE), self.to_json().as_bytes())?;
        write_file(&folder.join(tokenizer_config::FILE), config.as_bytes())
    }
}

fn copy_files(from: &Path, to: &Path) -> Result<Vec<String>, TokenizerError> {
    let mut copied = Vec::new();
    for name in FILES {
        let source = from.join(name);
        // A link to a regular file is one: model caches are made of them.
        if fs::metadata(&source).is_ok_and(|metadata| metadata.is_file()) {
            write_file(&to.join(name), &read_file(&source, MAX_BYTES)?)?;
            copied.push(name.to_owned());
        }
    }
    Ok(copied)
}

fn write_from_gguf(
    checkpoint: &Checkpoint,
    gguf: &GgufTokenizer,
    folder: &Path,
) -> Result<Vec<String>, TokenizerError> {
    let tokenizer = Tokenizer::from_gguf(gguf, checkpoint.path())?;
    let mut whole = (*tokenizer.inner).clone();
    let name = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
    if let (Some(true), Some(id), Some(bos)) =
        (gguf.add_bos_token, gguf.bos_token_id, name(gguf.bos_token_id))
    {
        whole.with_post_processor(Some(in_front(id, &bos)));
    }
    let json = whole.to_string(false).map_err(|error| TokenizerError::GgufVocabulary {
        path: checkpoint.path().to_owned(),
        what: error.to_string(),
    })?;
    let entries = [
        ("model_max_length", Some(json!(checkpoint.spec().max_position_embeddings))),
        ("bos_token", name(gguf.bos_token_id).map(Value::from)),
        ("eos_token", name(gguf.eos_token_id).map(Value::from)),
        ("unk_token", name(gguf.unknown_token_id).map(Value::from)),
        ("add_bos_token", gguf.add_bos_token.map(Value::from)),
        ("chat_template", gguf.chat_template.clone().map(Value::from)),
    ];
    let config = tokenizer_config::written(name(tokenizer.end_of_text_id()), entries);
    write_file(&folder.join(tokenizer_json::FILE), json.as_bytes())?;
    write_file(&folder.join(tokenizer_config::FILE), config.as_bytes())?;
    Ok(vec![tokenizer_json::FILE.to_owned(), tokenizer_config::FILE.to_owned()])
}

/// Puts a token in front of every text.
fn in_front(id: u32, token: &str) -> PostProcessorWrapper {
    let special = json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |name, type_id| json!({"Sequence": {"id": name, "type_id": type_id}});
    let template = json!({
        "type": "TemplateProcessing",
        "single": [special, text("A", 0)],
        "pair": [special, text("A", 0), special, text("B", 1)],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    });
    serde_json::from_value(template).expect("it has the library's own form")
}

/// Whether a `tokenizer.json` puts this token in front of text.
fn begins_with(path: &Path, token: &str) -> Result<bool, TokenizerError> {
    #[derive(Deserialize)]
    struct Whole {
        #[serde(default)]
        post_processor: Value,
    }
    let refused = |error: serde_json::Error| TokenizerError::TokenizerJson {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let bytes = read_file(path, MAX_BYTES)?;
    let whole: Whole = serde_json::from_slice(&bytes).map_err(refused)?;
    let one = std::slice::from_ref(&whole.post_processor);
    let steps = whole.post_processor["processors"].as_array().map_or(one, Vec::as_slice);
    Ok(steps.iter().any(|step| step["single"][0]["SpecialToken"]["id"] == token))
}

fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, TokenizerError> {
    read_regular(path, limit).map_err(|source| TokenizerError::Io { path: path.to_owned(), source })
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), TokenizerError> {
    replace_file(path, bytes)
        .map_err(|source| TokenizerError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use lns_checkpoint::{GgufOptions, StorageType, write_gguf};
    use lns_testing::vocabularies::{PRE, byte_level, golden, sentencepiece};
    use tempfile::{TempDir, tempdir};

    use super::*;
    use crate::tiny::build;

    const TEMPLATE: &str = "{{ messages[0].content }}";

    /// A folder with the `config.json` of a model, but none of its tensors.
    fn model_folder(vocab_size: usize, changes: Value) -> TempDir {
        let folder = tempdir().unwrap();
        let mut config = json!({
            "model_type": "llama", "vocab_size": vocab_size, "hidden_size": 4,
            "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1,
            "max_position_embeddings": 64,
        });
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        fs::write(folder.path().join("model.safetensors"), b"\x02\0\0\0\0\0\0\0{}").unwrap();
        folder
    }

    /// A GGUF file with that tokenizer.
    fn gguf_file(tokenizer: Option<&GgufTokenizer>) -> (TempDir, Checkpoint) {
        let vocab_size = tokenizer.map_or(8, |gguf| gguf.tokens.len());
        let folder = model_folder(vocab_size, json!({}));
        let spec = Checkpoint::open(folder.path()).unwrap().spec().clone();
        let path = folder.path().join("tiny.gguf");
        let options =
            GgufOptions { name: "tiny", dtype: StorageType::F16, tokenizer, provenance: None };
        write_gguf(
            &path,
            &spec,
            &options,
            &mut |tensor| Ok(vec![0.0; tensor.shape.iter().product()]),
            &|_| (),
        )
        .unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        (folder, checkpoint)
    }

    /// What the folder with these files says to a GGUF file.
    fn described(vocab_size: usize, config: Value, files: &[(&str, &str)]) -> GgufTokenizer {
        let folder = model_folder(vocab_size, config);
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        gguf_tokenizer(&Checkpoint::open(folder.path()).unwrap()).unwrap().unwrap()
    }

    #[test]
    fn a_tokenizer_goes_from_gguf_to_a_folder_and_back() {
        let all = PRE.map(byte_level).into_iter().chain([sentencepiece()]);
        for (index, mut gguf) in all.enumerate() {
            gguf.chat_template = Some(TEMPLATE.to_owned());
            gguf.add_bos_token = Some(index % 2 == 0);
            let (_folder, checkpoint) = gguf_file(Some(&gguf));
            let size = gguf.tokens.len();
            let config = json!({"bos_token_id": 1, "eos_token_id": 2});
            let folder = model_folder(size, config);
            let names = write_tokenizer(&checkpoint, folder.path()).unwrap();
            assert_eq!(names, ["tokenizer.json", "tokenizer_config.json"]);

            let (before, golden) = (build(&gguf), golden());
            let json = folder.path().join("tokenizer.json");
            let after = Tokenizer::from_json_file(&json).unwrap();
            assert_eq!(after.fingerprint(), before.fingerprint());
            assert_eq!(after.end_of_text_id(), before.end_of_text_id());
            let again = gguf_tokenizer(&Checkpoint::open(folder.path()).unwrap()).unwrap().unwrap();
            for text in golden.strings.iter().chain(&golden.sentencepiece.strings) {
                let ids = before.encode(text).unwrap();
                assert_eq!(after.encode(text).unwrap(), ids);
                assert_eq!(build(&again).encode(text).unwrap(), ids);
            }
            assert_eq!(again.tokens, gguf.tokens);
            assert_eq!(again.merges, gguf.merges);
            assert_eq!(again.pre.as_deref(), gguf.pre.as_deref().or(Some("default")));
            assert_eq!(again.bos_token_id, gguf.bos_token_id);
            assert_eq!(again.eos_token_id, gguf.eos_token_id);
            assert_eq!(again.unknown_token_id, gguf.unknown_token_id);
            assert_eq!(again.add_bos_token, gguf.add_bos_token);
            assert_eq!(again.chat_template, gguf.chat_template);
        }
    }

    #[test]
    fn transformers_puts_the_beginning_in_front_where_the_file_says_so() {
        for adds in [true, false] {
            let gguf = GgufTokenizer { add_bos_token: Some(adds), ..sentencepiece() };
            let (folder, checkpoint) = gguf_file(Some(&gguf));
            write_tokenizer(&checkpoint, folder.path()).unwrap();
            let json = folder.path().join("tokenizer.json");
            let whole = tokenizers::Tokenizer::from_file(&json).unwrap();
            let text = whole.encode("the", false).unwrap().get_ids().to_vec();
            let with_special = whole.encode("the", true).unwrap().get_ids().to_vec();
            assert_eq!(with_special, if adds { [&[1], &*text].concat() } else { text });
            assert_eq!(begins_with(&json, &gguf.tokens[1]).unwrap(), adds);
            let config: Value = serde_json::from_slice(
                &fs::read(folder.path().join(tokenizer_config::FILE)).unwrap(),
            )
            .unwrap();
            assert_eq!(config["add_bos_token"], adds);
            assert_eq!(config["model_max_length"], 64);
            assert_eq!(config["tokenizer_class"], "PreTrainedTokenizerFast");
        }
    }

    #[test]
    fn a_tokenizer_of_gguf_stays_as_it_is_in_gguf() {
        let gguf = GgufTokenizer { pre: Some("klingon".to_owned()), ..byte_level("gpt-2") };
        let (_folder, checkpoint) = gguf_file(Some(&gguf));
        assert_eq!(gguf_tokenizer(&checkpoint).unwrap(), Some(gguf));
    }

    #[test]
    fn without_a_tokenizer_there_is_nothing_to_write() {
        let (folder, checkpoint) = gguf_file(None);
        let out = tempdir().unwrap();
        assert_eq!(write_tokenizer(&checkpoint, out.path()).unwrap(), [""; 0]);
        assert_eq!(gguf_tokenizer(&checkpoint).unwrap(), None);
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(write_tokenizer(&checkpoint, out.path()).unwrap(), [""; 0]);
        assert_eq!(gguf_tokenizer(&checkpoint).unwrap(), None);
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_files_of_a_folder_are_copied_byte_for_byte_and_no_others() {
        let folder = model_folder(8, json!({}));
        for (index, name) in FILES.iter().enumerate().skip(1) {
            fs::write(folder.path().join(name), [0, 255, index as u8]).unwrap();
        }
        fs::write(folder.path().join("README.md"), "no").unwrap();
        fs::create_dir(folder.path().join(tokenizer_json::FILE)).unwrap();
        let out = tempdir().unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(write_tokenizer(&checkpoint, out.path()).unwrap(), &FILES[1..]);
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), FILES.len() - 1);
        for (index, name) in FILES.iter().enumerate().skip(1) {
            assert_eq!(fs::read(out.path().join(name)).unwrap(), [0, 255, index as u8]);
        }
    }

    #[test]
    fn the_config_and_the_files_beside_say_what_the_tokenizer_does_not() {
        let tokenizer = build(&byte_level("llama-bpe"));
        let (json, size) = (tokenizer.to_json(), tokenizer.vocab_size());
        let end = |id: u32| tokenizer.token(id).unwrap();
        let plain = described(size, json!({}), &[("tokenizer.json", &json)]);
        assert_eq!((plain.bos_token_id, plain.eos_token_id), (None, Some(0)));
        assert_eq!((plain.add_bos_token, plain.chat_template), (Some(false), None));

        let several = json!({"eos_token_id": [7, 2], "bos_token_id": 1});
        let files = [("tokenizer.json", &*json)];
        assert_eq!(described(size, several.clone(), &files).eos_token_id, Some(7));
        let config = json!({
            "eos_token": {"content": end(2)}, "unk_token": end(5), "add_bos_token": true,
            "chat_template": [{"name": "tools", "template": "no"},
                              {"name": "default", "template": TEMPLATE}],
        })
        .to_string();
        let files = [("tokenizer.json", &*json), ("tokenizer_config.json", &*config)];
        let told = described(size, several.clone(), &files);
        assert_eq!((told.bos_token_id, told.eos_token_id), (Some(1), Some(2)));
        assert_eq!((told.unknown_token_id, told.add_bos_token), (Some(5), Some(true)));
        assert_eq!(told.chat_template.as_deref(), Some(TEMPLATE));
        let own_file = [("chat_template.jinja", "its own"), files[0], files[1]];
        assert_eq!(described(size, several, &own_file).chat_template.as_deref(), Some("its own"));
        assert_eq!(described(size, json!({"eos_token_id": 9}), &files).eos_token_id, Some(9));
    }

    #[test]
    fn a_post_processor_says_that_the_beginning_is_added() {
        let tokenizer = build(&byte_level("llama-bpe"));
        let bos = tokenizer.token(1).unwrap();
        let template = serde_json::to_value(in_front(1, &bos)).unwrap();
        for post_processor in [
            template.clone(),
            json!({"type": "Sequence", "processors": [
                {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
                template]}),
        ] {
            let mut json: Value = serde_json::from_str(&tokenizer.to_json()).unwrap();
            json["post_processor"] = post_processor;
            let text = json.to_string();
            let files = [("tokenizer.json", &*text)];
            let size = tokenizer.vocab_size();
            let adds = |config| described(size, config, &files).add_bos_token;
            assert_eq!(adds(json!({"bos_token_id": 1})), Some(true));
            assert_eq!(adds(json!({"bos_token_id": 2})), Some(false));
        }
    }

    #[test]
    fn a_broken_file_beside_is_named() {
        let tokenizer = build(&byte_level("gpt-2"));
        let folder = model_folder(tokenizer.vocab_size(), json!({}));
        let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
        let refused = || {
            let checkpoint = Checkpoint::open(folder.path()).unwrap();
            gguf_tokenizer(&checkpoint).unwrap_err().to_string()
        };
        write("tokenizer.json", tokenizer.to_json().as_bytes());
        write("chat_template.jinja", b"ab\xff");
        let message = refused();
        assert!(message.contains("chat_template.jinja: not UTF-8 at byte 2"), "{message}");
        fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
        let tools = r#"{"chat_template": [{"name": "tools", "template": ""}]}"#;
        write("tokenizer_config.json", tools.as_bytes());
        let message = refused();
        assert!(message.contains("[\"tools\"] none is named \"default\""), "{message}");
        for bad in ["{", "[]"] {
            write("tokenizer_config.json", bad.as_bytes());
            assert!(refused().contains("tokenizer_config.json: not a usable"));
        }
    }
}
