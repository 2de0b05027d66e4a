//! Checkpoints made in the tests, whole and broken, opened through the public interface.

mod deepseek;
mod files;
mod gguf;
mod gguf_config;
mod gguf_hostile;
mod gguf_write;
mod mutation;
mod quantised;
mod safetensors;
mod safetensors_hostile;
mod surgery;
