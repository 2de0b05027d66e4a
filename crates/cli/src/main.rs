//! The `lns` program: parse, validate, call, print. Nothing is computed here.
//!
//! `arguments` is what was typed, each verb in `commands` turns it into what is true and calls the
//! library that does the work.

mod arguments;
mod chat;
mod commands;
mod corpus;
mod defect;
mod failure;
mod model;
mod numbers;
mod pipes;
mod printer;
mod progress;
mod settings;
mod stop;
mod text;

use std::process::ExitCode;

use crate::{failure::exit_code, printer::Printer};

fn main() -> ExitCode {
    defect::reported(program)
}

fn program() -> ExitCode {
    if let Some(code) = chat::serve_if_asked() {
        return code;
    }
    let mut cli = match arguments::parse() {
        Ok(cli) => cli,
        Err(answer) => return printer::answer(&answer),
    };
    if let Err(error) = stop::outlive_file_limits() {
        Printer::new(cli.quiet, false)
            .note(&format!("A limit on file sizes would end lns: {error}"));
    }
    let printer = Printer::new(cli.quiet, cli.verb.prints_json());
    // The files of piped text are there until the verb has ended.
    let mut piped = pipes::Kept::default();
    let ended = piped.keep(&mut cli.verb, &printer).and_then(|()| commands::run(&cli, &printer));
    match ended {
        Ok(code) => code,
        Err(error) => {
            if let Some(stopped) = error.downcast_ref::<stop::Stopped>() {
                printer.note(&stopped.to_string());
                return stopped.exit_code();
            }
            printer.error_with(&error, &|said| piped.of_pipes(said));
            exit_code(&error)
        }
    }
}
