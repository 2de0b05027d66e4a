//! What a training run shows while it goes.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use indicatif::ProgressBar;
use lns_model::LoraConfig;
use lns_record::{Event, Outcome, StartEvent};
use lns_show::{counted, grouped};
use lns_train::RunConfig;
use lns_watch::TensorBoard;

use crate::{printer::Printer, pulse::Pulse};

/// One run's line, and its TensorBoard file.
pub(crate) struct RunProgress<'a> {
    printer: &'a Printer,
    bar: ProgressBar,
    pulse: Option<Pulse>,
    folder: PathBuf,
    tensorboard: Option<TensorBoard>,
    begun: bool,
    lora: Option<LoraConfig>,
    steps: u64,
    tokens_per_step: f64,
    held_out: Option<f64>,
}

impl<'a> RunProgress<'a> {
    /// For the run in `folder`.
    pub(crate) fn new(config: &RunConfig, folder: &Path, printer: &'a Printer) -> Self {
        let bar = printer.bar(config.steps, "step {pos}/{len} {wide_bar:.cyan/dim} {msg}");
        Self {
            printer,
            bar,
            pulse: Pulse::begin(printer.is_quiet()),
            folder: folder.to_owned(),
            tensorboard: None,
            begun: false,
            lora: config.finetune.as_ref().and_then(|from| from.lora.clone()),
            steps: config.steps,
            tokens_per_step: config.tokens_per_step() as f64,
            held_out: None,
        }
    }

    pub(crate) fn show(&mut self, event: &Event) {
        self.write_tensorboard(event);
        match event {
            Event::Start(start) => self.say(&format!(
                "Training: scheme {}, {}, {}{}, {} of {}, seed {}.",
                start.scheme,
                counted(start.layers, "layer"),
                counted(start.parameters, "parameter"),
                self.trained(start),
                counted(start.steps, "step"),
                counted(start.tokens_per_step, "token"),
                start.seed
            )),
            Event::Resume { step, .. } => self.say(&format!("Going on after step {step}.")),
            Event::Step(event) => {
                let left = self.steps.saturating_sub(event.step) as f64;
                let seconds = left * self.tokens_per_step / event.tokens_per_second.max(1e-9);
                let loss = event.loss.map_or("not finite".to_owned(), |loss| format!("{loss:.4}"));
                let held_out =
                    self.held_out.map_or(String::new(), |loss| format!(" (held out {loss:.4})"));
                self.bar.set_position(event.step);
                let kl = event.kl.map_or(String::new(), |kl| format!("  to the teacher {kl:.4}"));
                let message = format!(
                    "loss {loss}{held_out}{kl}  lr {:.2e}  {:.0} tokens/s  {} left",
                    event.learning_rate,
                    event.tokens_per_second,
                    indicatif::FormattedDuration(Duration::from_secs(seconds as u64)),
                );
                if let Some(pulse) = &self.pulse {
                    pulse.beat(|_| format!("step {:>6}/{}  {message}", event.step, self.steps));
                }
                self.bar.set_message(message);
            }
            Event::Eval(event) => {
                self.held_out = event.loss;
                if let Some(loss) = event.loss {
                    let kl =
                        event.kl.map_or(String::new(), |kl| format!("  to the teacher {kl:.4}"));
                    self.say(&format!(
                        "step {:>6}  held-out loss {loss:.4}  perplexity {:.2}{kl}  ({} tokens seen)",
                        event.step,
                        loss.exp(),
                        grouped(event.tokens)
                    ));
                }
            }
            Event::Note { text, .. } => self.say(text),
            Event::End { step, outcome, .. } => {
                self.bar.finish_and_clear();
                if *outcome == Outcome::Interrupted {
                    self.printer
                        .note(&format!("Stopped after step {step}; the run can be continued."));
                }
            }
            Event::Layers(_) | Event::Snapshot { .. } => {}
            _ => {}
        }
    }

    /// The first event is in `events.jsonl` already and says from where the run goes on: the file is
    /// made from it and what counts of those before.
    fn write_tensorboard(&mut self, event: &Event) {
        let written = match &mut self.tensorboard {
            None if self.begun => return,
            None => {
                self.begun = true;
                TensorBoard::open(&self.folder)
                    .map(|opened| self.tensorboard = Some(opened))
                    .map_err(|error| error.to_string())
            }
            Some(tensorboard) => {
                let seen = matches!(event, Event::Eval(_) | Event::End { .. });
                let written = tensorboard.write(event);
                written
                    .and_then(|()| if seen { tensorboard.flush() } else { Ok(()) })
                    .map_err(|error| error.to_string())
            }
        };
        if let Err(error) = written {
            self.tensorboard = None;
            self.say(&format!("No TensorBoard file: {error}"));
        }
    }

    /// What of the parameters is trained, if not all.
    fn trained(&self, start: &StartEvent) -> String {
        let (Some(lora), Some(trainable)) = (&self.lora, start.trainable) else {
            return String::new();
        };
        format!(
            ", of which the {} of adapters of rank {} on {} are trained",
            grouped(trainable),
            lora.rank,
            lora.targets.join(", ")
        )
    }

    fn say(&self, text: &str) {
        self.bar.suspend(|| self.printer.note(text));
    }
}
