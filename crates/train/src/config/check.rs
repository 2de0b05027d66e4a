//! What makes no run though every setting is in its range: settings that do not go together, and those that
//! would change nothing.

use super::{ConfigError, ModelConfig, RunConfig, path_in_file};
use crate::{Schedule, ScheduleShape, ranges};

impl RunConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let invalid = |key, value: String, expected: &str| {
            Err(ConfigError::Invalid { key, value, expected: expected.to_owned() })
        };
        ranges::check(self)?;
        // Later sums count tokens in 64 bits.
        if self.steps.checked_mul(self.tokens_per_step()).is_none_or(|all| all > 1 << 62) {
            let expected = format!(
                "with {} tokens a step a run ends after at most {} of them",
                self.tokens_per_step(),
                (1 << 62) / self.tokens_per_step()
            );
            return invalid("steps", self.steps.to_string(), &expected);
        }
        let evaluated = self.evaluation.tokens;
        if evaluated != 0 && evaluated < self.data.length as u64 {
            let expected = format!(
                "the held-out text that is evaluated, `evaluation.tokens` = {evaluated}, must hold a \
                 sequence: use a shorter length, more of these tokens, or 0 for all there are"
            );
            return invalid("data.length", self.data.length.to_string(), &expected);
        }
        let (sequences, pass) = (self.batch.sequences, self.batch.sequences_per_pass);
        if pass != 0 && !sequences.is_multiple_of(pass) {
            let divisors: Vec<String> = (1..=sequences)
                .filter(|divisor| sequences.is_multiple_of(*divisor))
                .map(|divisor| divisor.to_string())
                .collect();
            let expected = format!(
                "it must divide `batch.sequences`, {sequences}: one of {}",
                divisors.join(", ")
            );
            return invalid("batch.sequences_per_pass", pass.to_string(), &expected);
        }
        self.check_effect()?;
        Ok(())
    }

    /// Refuses settings that would do nothing.
    fn check_effect(&self) -> Result<(), ConfigError> {
        if self.finetune.is_some() && self.model != ModelConfig::default() {
            return Err(ConfigError::Invalid {
                key: "model",
                value: "set".to_owned(),
                expected: "the model is that of `finetune.base`: leave [model] out".to_owned(),
            });
        }
        if self.model.embedding_norm && self.model.scheme.norms_embedding() {
            return Err(ConfigError::Invalid {
                key: "model.embedding_norm",
                value: "true".to_owned(),
                expected: format!(
                    "the scheme {} has that norm already: leave it out",
                    self.model.scheme
                ),
            });
        }
        let (schedule, usual_schedule) = (&self.schedule, Schedule::default());
        let wsd = schedule.shape == ScheduleShape::WarmupStableDecay;
        let constant = schedule.shape == ScheduleShape::Constant;
        for (idle, key, value, usual, why) in [
            (
                !wsd,
                "schedule.decay",
                schedule.decay,
                usual_schedule.decay,
                "only warmup-stable-decay has it",
            ),
            (
                constant,
                "schedule.floor",
                schedule.floor,
                usual_schedule.floor,
                "a constant learning rate has none",
            ),
        ] {
            if idle && value != usual {
                let expected = format!("{why}: leave it at {usual}");
                return Err(ConfigError::Invalid { key, value: value.to_string(), expected });
            }
        }
        Ok(())
    }

    /// Refuses paths that its file cannot hold.
    pub(crate) fn check_paths(&self) -> Result<(), ConfigError> {
        let base = self.finetune.iter().map(|from| &from.base);
        let teachers = self.finetune.iter().filter_map(|from| from.teacher.as_ref());
        let models = base.chain(teachers.map(|teacher| &teacher.model));
        let text = self.data.sources.iter().map(|source| &source.corpus);
        models.chain(text).try_for_each(|path| path_in_file(path))
    }
}
