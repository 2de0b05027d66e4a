//! Chat templates of strangers are rendered by this program, started once more.

use std::process::ExitCode;

use anyhow::Context;
use lns_tokenizer::{Rendering, RenderingLimits, serve_chat_template};

/// The first argument of the program that renders: no verb, for nobody types it.
const RENDER: &str = "__render-chat-template";

/// How the model's chat template is rendered.
pub(crate) fn rendering() -> anyhow::Result<Rendering> {
    let program = std::env::current_exe().context("this program does not find itself")?;
    let limits = RenderingLimits::default();
    Ok(Rendering::Apart { program, arguments: vec![RENDER.into()], limits })
}

/// Renders, if that is what this program was started for.
pub(crate) fn serve_if_asked() -> Option<ExitCode> {
    if std::env::args_os().nth(1)? != RENDER {
        return None;
    }
    // Whoever started it sees that it ended.
    Some(if serve_chat_template().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
