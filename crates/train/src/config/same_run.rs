//! Which settings are those of the same run, and of the same run taken on to more steps.

use super::{ConfigError, RunConfig, settings::flattened};

impl RunConfig {
    /// The settings of this run taken on to more steps. The learning rate of the steps that it has taken
    /// was that of its own schedule, so it keeps to it, and the steps beyond are taken at the
    /// schedule's last learning rate: the result is that of a run of `steps` steps with this schedule,
    /// not of one whose schedule was planned for `steps`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] where that learning rate is 0, so that nothing would be learned.
    pub fn extended(&self, steps: u64) -> Result<Self, ConfigError> {
        let mut config = self.clone();
        config.schedule.steps = Some(self.schedule_steps());
        config.steps = steps;
        if config.schedule.at(steps, steps) <= 0.0 {
            return Err(ConfigError::Invalid {
                key: "steps",
                value: steps.to_string(),
                expected: format!(
                    "the run's learning rate has come down to 0 at step {}, so more steps would \
                     change nothing: name another folder for a run of {steps} steps, or go on from \
                     its model with `lns finetune`",
                    self.schedule_steps()
                ),
            });
        }
        Ok(config)
    }

    /// Whether this is the run of `other`, taken on to more steps.
    pub(crate) fn extends(&self, other: &Self) -> bool {
        let (steps, mut same) = (self.steps, self.clone());
        (same.steps, same.schedule.steps) = (other.steps, other.schedule.steps);
        steps > other.steps
            && self.schedule.steps == Some(other.schedule_steps())
            && same.differences(other).is_empty()
    }

    /// The keys, dotted, in which two configs differ, with both values; `threads` and how often
    /// snapshots are taken leave a run the same.
    pub fn differences(&self, other: &Self) -> Vec<(String, String, String)> {
        let [mut a, mut b] = [self, other].map(|config| {
            let mut config = config.clone();
            // Text is what it holds, wherever it is.
            for source in
                config.data.sources.iter_mut().filter(|source| !source.fingerprint.is_empty())
            {
                source.corpus.clear();
            }
            // So is a checkpoint.
            if let Some(from) = config.finetune.as_mut().filter(|from| !from.fingerprint.is_empty())
            {
                from.base.clear();
            }
            let teacher = config.finetune.as_mut().and_then(|from| from.teacher.as_mut());
            if let Some(teacher) = teacher.filter(|teacher| !teacher.fingerprint.is_empty()) {
                teacher.model.clear();
            }
            // No number of key/value heads is as many as query heads: runs of earlier versions have it so.
            if config.finetune.is_none() {
                config.model.num_key_value_heads = config.model.key_value_heads();
            }
            flattened(&config.table())
        });
        for values in [&mut a, &mut b] {
            values.retain(|(key, _)| key != "threads" && !key.starts_with("snapshots."));
        }
        let mut keys: Vec<&String> = a.iter().chain(&b).map(|(key, _)| key).collect();
        keys.sort();
        keys.dedup();
        let value = |values: &[(String, String)], key: &String| {
            let found = values.iter().find(|(name, _)| name == key);
            found.map_or_else(|| "absent".to_owned(), |(_, value)| value.clone())
        };
        keys.into_iter()
            .map(|key| (key.clone(), value(&a, key), value(&b, key)))
            .filter(|(_, mine, theirs)| mine != theirs)
            .collect()
    }
}
