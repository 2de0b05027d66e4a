//! A run as a trainer would report it, made from formulas: losses as those of a 128-wide model on
//! books, a stream whose variance grows with depth and with training.

use lns_record::{EvalEvent, Event, LayersEvent, Outcome, StartEvent, StepEvent};

const START: f64 = 1_700_000_000.0;
const SECONDS_PER_STEP: f64 = 0.5;
const TOKENS_PER_STEP: u64 = 1024;
const PLANNED: u64 = 2441;

/// The time at which a step was done.
fn time(step: u64) -> f64 {
    START + SECONDS_PER_STEP * step as f64
}

/// The loss at a step without the noise of batches.
fn loss(step: u64) -> f64 {
    4.0 + 3.7 / (1.0 + step as f64 / 120.0)
}

/// The events of the first `steps` of 2,441 planned steps of a model with `layers` layers; the run
/// has not ended.
pub(crate) fn run(steps: u64, layers: usize) -> Vec<Event> {
    let mut events = vec![Event::Start(start(layers))];
    events.push(eval(0));
    for step in 1..=steps {
        events.push(Event::Step(train(step)));
        if step % 20 == 0 {
            events.push(Event::Layers(statistics(step, layers)));
        }
        if step % 50 == 0 {
            events.push(eval(step));
        }
        if step % 500 == 0 {
            let folder = format!("snapshots/step-{step:08}");
            events.push(Event::Snapshot { step, time: time(step), folder, best: true });
        }
        if step == 700 {
            let text = "the loss rose by 1.92 in one step: this update was left out".to_owned();
            events.push(Event::Note { step, time: time(step), text });
        }
    }
    events
}

/// The same run, finished.
pub(crate) fn finished(steps: u64, layers: usize) -> Vec<Event> {
    let mut events = run(steps, layers);
    events.push(Event::End { step: steps, time: time(steps), outcome: Outcome::Finished });
    events
}

/// The events as `events.jsonl` holds them.
pub(crate) fn lines(events: &[Event]) -> Vec<u8> {
    let line = |event| [serde_json::to_vec(event).unwrap(), vec![b'\n']].concat();
    events.iter().flat_map(line).collect()
}

fn start(layers: usize) -> StartEvent {
    StartEvent {
        time: START,
        version: "0.1.0".to_owned(),
        scheme: "lns".to_owned(),
        initialisation: "normal(0.02)".to_owned(),
        seed: 7,
        threads: 2,
        layers: layers as u64,
        parameters: 4_912_640,
        steps: PLANNED,
        tokens_per_step: TOKENS_PER_STEP,
        base: None,
        trainable: None,
        teacher: None,
    }
}

fn train(step: u64) -> StepEvent {
    // Sines of irrational steps: a noise that is the same on every machine.
    let noise = (step as f64 * 2.399_963).sin() + (step as f64 * 1.618_034).sin();
    let progress = step as f64 / PLANNED as f64;
    StepEvent {
        step,
        time: time(step),
        tokens: step * TOKENS_PER_STEP,
        loss: Some(loss(step) + 0.12 * noise + if step == 700 { 1.92 } else { 0.0 }),
        kl: None,
        gradient_norm: Some(0.8 + 0.1 * noise),
        learning_rate: 3e-3
            * (step as f64 / 100.0).min((1.0 + (std::f64::consts::PI * progress).cos()) / 2.0),
        tokens_per_second: TOKENS_PER_STEP as f64 / SECONDS_PER_STEP + 20.0 * noise,
        skipped: step == 700,
    }
}

fn eval(step: u64) -> Event {
    let (tokens, loss) = (step * TOKENS_PER_STEP, Some(loss(step) + 0.03));
    Event::Eval(EvalEvent { step, time: time(step), tokens, loss, kl: None, predicted: 65_408 })
}

fn statistics(step: u64, layers: usize) -> LayersEvent {
    let trained = step as f64 / PLANNED as f64;
    let by_layer = |of: &dyn Fn(f64) -> f64| (0..layers).map(|i| of(i as f64)).collect();
    LayersEvent {
        step,
        time: time(step),
        stream_variance: (0..=layers)
            .map(|i| (0.02 + trained) * (1.0 + i as f64).powf(0.5 + 1.2 * trained))
            .collect(),
        branch_ratio: by_layer(&|i| 0.9 / (1.0 + i).sqrt()),
        gradient_norm: by_layer(&|i| 0.2 + 0.01 * i),
        update_ratio: by_layer(&|i| 2e-3 * (1.0 + 0.1 * (i * 1.3).sin())),
    }
}
