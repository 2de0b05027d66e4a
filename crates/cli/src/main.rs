//! The `lns` program: parse, validate, call, print. Nothing is computed here.
//!
//! `cli` lists the verbs. Each file of `commands` holds a verb's flags and turns what was typed into what
//! is valid, then calls the library that does the work; flags that several verbs share are in
//! `arguments`.

mod arguments;
mod chat;
mod cli;
mod commands;
mod corpus;
mod defect;
mod failure;
mod model;
mod pipes;
mod printer;
mod progress;
mod pulse;
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
    let mut cli = match cli::parse() {
        Ok(cli) => cli,
        Err(answer) => return printer::answer(&answer),
    };
    if let Err(error) = stop::outlive_file_limits() {
        Printer { quiet: cli.quiet, json: false }
            .note(&format!("A limit on file sizes would end lns: {error}"));
    }
    let verb = cli.verb.typed();
    let printer = Printer { quiet: cli.quiet, json: verb.prints_json() };
    // The files of piped text are there until the verb has ended.
    let mut piped = pipes::Kept::default();
    let ended = piped.keep(verb.texts(), &printer).and_then(|()| verb.run(&printer));
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
