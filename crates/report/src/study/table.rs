//! The study's final numbers for a terminal, the finding first.

use lns_record::{GroupRecord, Interval, StudyRecord};

use super::findings::{Told, ends, range};
use super::means::{Outcomes, standing, summary};
use super::{Study, label, nats, perplexities, perplexity};
use crate::number::number;
use crate::terminal::{Cells, Column, TableStyle, Tone, fit, write_tables};
use crate::text::{clean, shortened};

/// Groups with their losses, intervals and differences, after a sentence that says what they come to.
pub fn study_table(record: &StudyRecord, style: TableStyle) -> String {
    let study = Study::new(record);
    let mut out = String::new();
    if let Some(caution) = &record.caution {
        style.wrap(&clean(caution), Tone::Plain, &mut out);
    }
    style.wrap(&study.headline(), Tone::Strong, &mut out);
    for line in study.others().iter().chain(&study.gaps()) {
        style.wrap(line, Tone::Plain, &mut out);
    }
    if record.groups.is_empty() {
        return out;
    }
    out.push('\n');
    let tables = fit(study.columns(style), style.width);
    let tone = |row: usize| match study.is_baseline(&record.groups[row]) {
        true => Tone::Strong,
        false => Tone::Plain,
    };
    write_tables(&tables, record.groups.len(), tone, style, &mut out);
    for line in study.contrast_lines().iter().chain(&study.tuning_lines()) {
        style.wrap(line, Tone::Plain, &mut out);
    }
    out.push('\n');
    for note in study.table_notes() {
        style.wrap(&note, Tone::Quiet, &mut out);
    }
    out
}

impl Study<'_> {
    /// Most telling first, as [`fit`] wants it; the numbers give the reading order.
    fn columns(&self, style: TableStyle) -> Vec<(usize, Column)> {
        let groups = &self.record.groups;
        let column = |order, heading: &str, write: &dyn Fn(&GroupRecord) -> Option<String>| {
            let cells = groups.iter().map(|group| style.spell(&write(group).unwrap_or_default()));
            let cells = Cells::Text(cells.collect());
            (order, Column { group: "", heading: style.spell(heading), cells })
        };
        let interval = |interval: Option<Interval>, write| range(&interval?, write);
        let mean =
            |interval: Option<Interval>, write: fn(f64) -> String| Some(write(interval?.mean));
        let difference = |group: &GroupRecord| self.difference_of(group);
        let name = |group: &GroupRecord| style.spell(&shortened(&label(&group.name), 24));
        let names = Cells::Words(groups.iter().map(name).collect());
        vec![
            (0, Column { group: "", heading: "group".to_owned(), cells: names }),
            column(2, "loss", &|group| mean(group.loss, nats)),
            column(4, "Δ loss", &|group| mean(difference(group), nats)),
            column(5, "Δ 95 %", &|group| interval(difference(group), nats)),
            column(6, "", &|group| Some(self.word(group).to_owned())),
            column(1, "seeds", &|group| Some(Outcomes::of(group).finished.to_string())),
            column(7, "perplexity", &|group| mean(perplexities(group), perplexity)),
            column(3, "loss 95 %", &|group| interval(group.loss, nats)),
            column(10, "idle", &|group| Some(number(self.idle(group)?))),
            column(11, "depth", &|group| Some(number(self.effective_depth(group)?))),
            column(9, "published", &|group| Some(perplexity(group.published_perplexity?))),
            column(8, "ppl 95 %", &|group| interval(perplexities(group), perplexity)),
        ]
    }

    /// The group's difference to the baseline, if they have a finished seed in common.
    pub(super) fn difference_of(&self, group: &GroupRecord) -> Option<Interval> {
        let difference = self.pair(&group.name)?.difference;
        (self.told(&difference) != Told::Nothing).then_some(difference)
    }

    /// What a group is, or what its difference allows to say.
    pub(super) fn word(&self, group: &GroupRecord) -> &'static str {
        match self.pair(&group.name) {
            _ if self.is_baseline(group) => "baseline",
            Some(pair) if pair.noise_probe => "noise probe",
            Some(pair) => self.told(&pair.difference).word(),
            None => "",
        }
    }

    /// Effective depth of a group, the mean over its diagnosed models.
    pub(super) fn effective_depth(&self, group: &GroupRecord) -> Option<f64> {
        let diagnoses = standing(group).into_iter().filter_map(|run| run.diagnosis.as_ref());
        Some(summary(diagnoses.filter_map(|found| found.verdict.effective_depth))?.mean)
    }

    /// Mean number of idle layers over the models whose layers were removed one by one.
    pub(super) fn idle(&self, group: &GroupRecord) -> Option<f64> {
        let diagnoses = standing(group).into_iter().filter_map(|run| run.diagnosis.as_ref());
        let removed = diagnoses.filter(|found| found.layers.iter().any(|l| l.removal.is_some()));
        Some(summary(removed.map(|found| found.verdict.idle_layers.len() as f64))?.mean)
    }

    fn table_notes(&self) -> Vec<String> {
        let intervals = self.record.groups.iter().flat_map(|group| {
            [group.loss, self.difference_of(group), perplexities(group)].into_iter().flatten()
        });
        let several = intervals.into_iter().any(|interval| ends(&interval).is_some());
        let mean = "loss: held-out, nats per token, mean over finished seeds";
        let mut notes = vec![match several {
            true => format!("{mean}; 95 %: confidence interval over seeds (Student's t)."),
            false => format!("{mean}."),
        }];
        if !self.record.pairs.is_empty() {
            notes.push(format!("Δ loss: minus the loss of {} with the same seed.", self.baseline));
        }
        notes.extend(self.unequal_seeds().then(|| self.unequal_sentence()));
        if self.noise().is_some() {
            notes.push(self.noise_sentence());
        }
        if let Some(ideal) = self.record.ideal_loss {
            notes.push(format!("Nobody can do better than {} on this language.", nats(ideal)));
        }
        let published = self.record.groups.iter().any(|g| g.published_perplexity.is_some());
        if let Some(source) = self.record.published_source.as_ref().filter(|_| published) {
            notes.push(format!("published: perplexity from {}.", clean(source)));
        }
        if self.record.groups.iter().any(|group| self.idle(group).is_some()) {
            notes
                .push("idle, depth: idle layers and effective depth, means over seeds.".to_owned());
        }
        notes
    }

    /// Why the order of the means is not the order of the groups.
    pub(super) fn unequal_sentence(&self) -> String {
        "The groups have not finished the same seeds, so their means differ by their seeds too: compare the \
         differences, which are taken seed by seed."
            .to_owned()
    }

    /// What the noise probe is for.
    pub(super) fn noise_sentence(&self) -> String {
        format!(
            "The noise probe scales what enters the norm, which the norm undoes: it is the baseline but for \
             rounding, so its difference to {} is what chance alone does.",
            self.baseline
        )
    }
}
