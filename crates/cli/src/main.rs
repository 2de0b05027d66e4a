//! The `lns` program: parse, validate, call, print. Nothing is computed here.
//!
//! `arguments` is what was typed, each verb in `commands` turns it into what is true and calls the
//! library that does the work.

mod arguments;
mod chat;
mod commands;
mod corpus;
mod failure;
mod model;
mod printer;
mod progress;
mod settings;
mod stop;
mod text;

use std::process::ExitCode;

use clap::Parser;

use crate::{arguments::Cli, failure::exit_code, printer::Printer};

fn main() -> ExitCode {
    if let Some(code) = chat::serve_if_asked() {
        return code;
    }
    let cli = Cli::parse();
    let printer = Printer::new(cli.quiet, cli.verb.prints_json());
    match commands::run(&cli, &printer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            printer.error(&error);
            exit_code(&error)
        }
    }
}
