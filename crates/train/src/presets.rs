//! Runs that come with the program.

use lns_corpus::Layout;
use lns_spec::Preset;

use crate::{
    Adam, BatchConfig, DataConfig, EvaluationConfig, ModelConfig, Optimiser, OptimiserConfig,
    RunConfig, Schedule, SnapshotConfig, StatisticsConfig,
};

/// A preset and what to know about it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunPreset {
    /// The settings; the text is still to be named.
    pub config: RunConfig,
    /// In what it differs, on purpose, from what it is named after.
    pub notes: Vec<&'static str>,
}

/// Every preset's name.
pub const RUN_PRESETS: [&str; 6] =
    ["smoke", "laptop", "paper-130m", "paper-250m", "paper-350m", "paper-1b"];

const PAPER_NOTES: [&str; 6] = [
    "parameters and Adam's moments are f32; the official runs keep both in bf16",
    "exactly the stated number of steps; the official loop takes one more",
    "held-out loss is divided by its predicted tokens; the official one by one batch too many, \
     which makes its perplexities 0.4 to 3 % too low",
    "every loss is weighted by token over the whole batch; the official one averages the means of \
     micro-batches",
    "the embedding starts from N(0, 0.02²), as the official code since 2026-01-02; before that \
     the published code had 0.632, which its authors call an older branch's and nobody has reproduced: \
     model.embedding_std = 0.632",
    "text and tokenizer are yours to give: the paper's are C4 (en) and that of t5-base",
];

/// The preset called `name`.
pub fn run_preset(name: &str) -> Option<RunPreset> {
    let default = RunConfig::default();
    let preset = match name {
        "laptop" => RunPreset { config: default, notes: Vec::new() },
        "smoke" => {
            let model = ModelConfig {
                hidden_size: 64,
                intermediate_size: 176,
                num_hidden_layers: 16,
                num_attention_heads: 2,
                ..ModelConfig::default()
            };
            let config = RunConfig {
                steps: 60,
                model,
                schedule: Schedule { warmup: 6, ..Schedule::default() },
                evaluation: EvaluationConfig { every: 20, tokens: 16_384 },
                statistics: StatisticsConfig { every: 10 },
                snapshots: SnapshotConfig { every: 30, ..SnapshotConfig::default() },
                ..default
            };
            RunPreset { config, notes: Vec::new() }
        }
        // arXiv 2502.05795 v5, Table 1 and the scripts of its official code.
        "paper-130m" => paper("130m", 20_000, 2_000, 1e-3),
        "paper-250m" => paper("250m", 40_000, 4_000, 1e-3),
        "paper-350m" => {
            let mut preset = paper("350m", 60_000, 6_000, 1e-3);
            preset.notes.push(
                "the learning rate is the paper's 1e-3; the official script for this size has 5e-4",
            );
            preset
        }
        "paper-1b" => paper("1b", 100_000, 1_000, 5e-4),
        _ => return None,
    };
    Some(preset)
}

/// Settings of a fine-tune before anything is asked for: AdamW without decay, a peak of 1e-4 (between
/// what pre-training of this size ends at and what instruction tuning is usually done with), 8
/// sequences of 512 tokens.
pub fn finetune_defaults() -> RunConfig {
    RunConfig {
        steps: 100,
        data: DataConfig { length: 512, ..DataConfig::default() },
        batch: BatchConfig { sequences: 8, sequences_per_pass: 0, recompute: false },
        schedule: Schedule { learning_rate: 1e-4, warmup: 10, ..Schedule::default() },
        evaluation: EvaluationConfig { every: 25, tokens: 16_384 },
        statistics: StatisticsConfig { every: 25 },
        snapshots: SnapshotConfig { every: 50, ..SnapshotConfig::default() },
        ..RunConfig::default()
    }
}

fn paper(size: &str, steps: u64, warmup: u64, learning_rate: f64) -> RunPreset {
    let sizes = Preset::named(size).unwrap_or_else(|| unreachable!("{size} is one of the presets"));
    let config = RunConfig {
        seed: 1,
        steps,
        model: ModelConfig {
            hidden_size: sizes.hidden_size,
            intermediate_size: sizes.intermediate_size,
            num_hidden_layers: sizes.num_hidden_layers,
            num_attention_heads: sizes.num_attention_heads,
            vocab_size: sizes.vocab_size,
            ..ModelConfig::default()
        },
        data: DataConfig { layout: Layout::Rows, length: 256, ..DataConfig::default() },
        batch: BatchConfig { sequences: 512, sequences_per_pass: 4, recompute: false },
        optimiser: OptimiserConfig {
            rule: Optimiser::Adam(Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 }),
            clip: 0.0,
            ..OptimiserConfig::default()
        },
        schedule: Schedule { learning_rate, warmup, ..Schedule::default() },
        evaluation: EvaluationConfig { every: 1_000, tokens: 10_000_000 },
        statistics: StatisticsConfig { every: 100 },
        snapshots: SnapshotConfig { every: 500, ..SnapshotConfig::default() },
        ..RunConfig::default()
    };
    RunPreset { config, notes: PAPER_NOTES.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ScheduleShape;

    #[test]
    fn the_papers_presets_are_exact() {
        // arXiv 2502.05795 v5, Table 1 and the official scripts: hidden / FFN / heads / layers, steps, warm-up, batch, learning rate, tokens.
        let rows = [
            ("130m", [768, 2048, 12, 12], 20_000, 2_000, 512, 1e-3, 2.62e9),
            ("250m", [768, 2560, 16, 24], 40_000, 4_000, 512, 1e-3, 5.24e9),
            ("350m", [1024, 2736, 16, 24], 60_000, 6_000, 512, 1e-3, 7.86e9),
            ("1b", [2048, 5461, 32, 24], 100_000, 1_000, 512, 5e-4, 13.1e9),
        ];
        for (size, shape, steps, warmup, batch, rate, tokens) in rows {
            let config = run_preset(&format!("paper-{size}")).expect(size).config;
            let model = &config.model;
            let found = [
                model.hidden_size,
                model.intermediate_size,
                model.num_attention_heads,
                model.num_hidden_layers,
            ];
            assert_eq!(found, shape, "{size}");
            let found = (config.steps, config.schedule.warmup, config.batch.sequences);
            assert_eq!(found, (steps, warmup, batch), "{size}");
            assert_eq!(config.schedule.learning_rate, rate, "{size}");
            let positions = (config.steps * config.tokens_per_step()) as f64;
            assert!((positions / tokens - 1.0).abs() < 0.005, "{size}: {positions}");
            let optimiser = config.optimiser;
            let adam = Optimiser::Adam(Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 });
            assert_eq!((optimiser.rule, optimiser.clip), (adam, 0.0));
            assert_eq!(
                (config.schedule.shape, config.schedule.floor),
                (ScheduleShape::Cosine, 0.1)
            );
            assert_eq!((config.data.length, config.data.layout), (256, Layout::Rows));
            assert_eq!(config.evaluation.tokens, 10_000_000);
            assert_eq!(config.seed, 1);
        }
    }
}
