//! What tests of whole runs share: a text, and steps taken or stopped.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use lns_corpus::{Language, Limits, Part, prepare_documents};
use lns_kernels::Compute;
use lns_record::{Event, Outcome};
use lns_train::{RunConfig, RunError, Summary, train};

pub(crate) fn compute() -> Compute {
    Compute::on_cpu(2).expect("threads start")
}

/// A prepared text of the built-in language.
pub(crate) fn corpus(folder: &Path, seed: u64) -> PathBuf {
    let language = Language::new(seed);
    let of = |part, count| {
        language.documents(part).take(count).map(move |document| (part, document.text))
    };
    let mut documents = of(Part::Train, 150).chain(of(Part::Validation, 10));
    let limits = Limits::default();
    let path = folder.join(format!("text-{seed}"));
    let tokenizer = language.tokenizer();
    let go_on = |_| ControlFlow::Continue(());
    prepare_documents(&mut documents, "a language", &tokenizer, limits, &path, &go_on)
        .expect("prepares");
    path
}

#[expect(clippy::result_large_err, reason = "tests look at the error as a caller sees it")]
pub(crate) fn go(config: &RunConfig, folder: &Path) -> Result<Summary, RunError> {
    train(config, folder, &compute(), &AtomicBool::new(false), &mut |_| {})
}

/// Takes steps until `step` and stops there, with or without a snapshot.
pub(crate) fn go_until(config: &RunConfig, folder: &Path, step: u64) {
    let stop = AtomicBool::new(false);
    let summary = train(config, folder, &compute(), &stop, &mut |event| {
        if matches!(event, Event::Step(event) if event.step == step) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    assert_eq!(summary.expect("runs").outcome, Outcome::Interrupted);
}
