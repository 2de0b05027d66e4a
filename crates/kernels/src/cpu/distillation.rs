//! Divergence of two models' predictions, alone and as an objective with its gradient, without ever
//! holding rows × vocabulary.

use super::{
    buffer::{over, with_scratch},
    dispatch,
    exp::exp,
    linear::{linear, linear_input_gradient},
    loss::{GRADIENT_LOGITS, ROW_BLOCK, VOCABULARY_BLOCK, add_head_gradient, soft_cap},
    simd::maximum,
};
use crate::{DistillationTerms, IGNORED, LossTerms};

/// Logits of each side that [`divergence_to`] holds: 32 MiB, enough rows that packing the head for the
/// product does not outweigh it (32 rows of a vocabulary of 49,152 took half as long again as 170).
const DIVERGENCE_LOGITS: usize = 1 << 23;

/// What one model's logits are made of. hidden: rows × width, head: vocabulary × width.
#[derive(Clone, Copy)]
pub(crate) struct Side<'a> {
    pub(crate) hidden: &'a [f32],
    pub(crate) head: &'a [f32],
    pub(crate) width: usize,
    pub(crate) softcap: Option<f64>,
}

impl Side<'_> {
    fn vocabulary(&self) -> usize {
        self.head.len() / self.width
    }

    /// The capped logits of `count` rows from row `first` on, rows × vocabulary.
    fn logits(&self, logits: &mut [f32], first: usize, count: usize) {
        let hidden = &self.hidden[first * self.width..][..count * self.width];
        linear(over(logits), hidden, self.head, self.width);
        if let Some(cap) = self.softcap {
            soft_cap(logits, cap as f32);
        }
    }
}

/// What one row contributes; all 0 where its target is [`IGNORED`].
#[derive(Clone, Copy, Default)]
pub(crate) struct DistilledRow {
    /// −log softmax\[target\]
    pub(crate) nll: f64,
    /// log Σ e^logit
    pub(crate) log_sum: f64,
    /// KL(teacher ‖ student) at the temperature
    pub(crate) divergence: f64,
}

/// Where the student's gradients go.
pub(crate) struct Gradients<'a> {
    pub(crate) hidden: &'a mut [f32],
    pub(crate) head: Option<&'a mut [f32]>,
}

/// The rows of [`distillation_loss`](crate::distillation_loss) and, if wanted, its gradients.
///
/// With y the student's capped logits, s = Σ e^y, and p, q the teacher's and the student's predictions at
/// temperature T,
/// ∂/∂y = weight·((1 − w)·(e^y/s·(1 + 2·z_loss·log s) − onehot(target)) + w·T·(q − p)),
/// since T²·∂KL/∂y = T²·(q − p)/T; the cap's slope multiplies all of it.
pub(crate) fn distilled_rows(
    mut gradients: Option<Gradients<'_>>,
    student: Side<'_>,
    teacher: Side<'_>,
    targets: &[u32],
    terms: LossTerms,
    distillation: DistillationTerms,
) -> Vec<DistilledRow> {
    let (vocabulary, theirs) = (student.vocabulary(), teacher.vocabulary());
    // Both sides' logits together are as many as the plain loss holds.
    let block = (GRADIENT_LOGITS / (vocabulary + theirs)).clamp(1, ROW_BLOCK);
    let block = block.min(targets.len().max(1));
    if targets.is_empty()
        && let Some(head) = gradients.as_mut().and_then(|gradients| gradients.head.as_deref_mut())
    {
        head.fill(0.0);
    }
    let width = student.width;
    let mut rows = Vec::with_capacity(targets.len());
    with_scratch(block * (vocabulary + theirs), |scratch| {
        let (own, other) = scratch.split_at_mut(block * vocabulary);
        for (index, targets) in targets.chunks(block).enumerate() {
            let (first, count) = (index * block, targets.len());
            let (own, other) = (&mut own[..count * vocabulary], &mut other[..count * theirs]);
            student.logits(own, first, count);
            teacher.logits(other, first, count);
            let logits = own.chunks_exact_mut(vocabulary).zip(other.chunks_exact_mut(theirs));
            for ((own, other), target) in logits.zip(targets) {
                rows.push(distilled(own, other, *target, student.softcap, terms, distillation));
            }
            let Some(Gradients { hidden, head }) = &mut gradients else { continue };
            let range = first * width..(first + count) * width;
            linear_input_gradient(over(&mut hidden[range.clone()]), own, student.head, width);
            if let Some(head) = head {
                add_head_gradient(head, index == 0, own, &student.hidden[range], width);
            }
        }
    });
    rows
}

/// One row: its losses, and in place of the student's logits their gradient. The teacher's are used up.
fn distilled(
    own: &mut [f32],
    other: &mut [f32],
    target: u32,
    softcap: Option<f64>,
    LossTerms { weight, z_loss }: LossTerms,
    DistillationTerms { weight: share, temperature }: DistillationTerms,
) -> DistilledRow {
    if target == IGNORED {
        own.fill(0.0);
        return DistilledRow::default();
    }
    let common = own.len().min(other.len());
    let other = &mut other[..common];
    let largest = maximum(own);
    let sum = exponentials_sum(own, largest, 1.0);
    let log_sum = f64::from(largest) + sum.ln();
    let own_logit = own[target as usize];
    let compared = compare(other, &own[..common], temperature);

    let text = weight * (1.0 - share);
    let taught = weight * share * temperature;
    let inverse_cap = softcap.map_or(0.0, |cap| (1.0 / cap) as f32);
    let onehot = text as f32 * slope(own_logit, inverse_cap);
    let factors = Factors {
        text: (text * (1.0 + 2.0 * z_loss * log_sum) / sum) as f32,
        largest,
        student: (taught / compared.student_sum) as f32,
        student_largest: compared.student_largest,
        teacher: (taught / compared.teacher_sum) as f32,
        inverse: (1.0 / temperature) as f32,
        inverse_cap,
    };
    row_gradient(own, other, &factors);
    own[target as usize] -= onehot;
    DistilledRow { nll: log_sum - f64::from(own_logit), log_sum, divergence: compared.divergence }
}

/// What multiplies the exponentials of a row's gradient, and what they are shifted by.
struct Factors {
    text: f32,
    largest: f32,
    student: f32,
    student_largest: f32,
    teacher: f32,
    /// 1/T
    inverse: f32,
    /// 1/c, 0 without a cap.
    inverse_cap: f32,
}

/// The slope of c·tanh(z/c) where it is y; 1 where there is no cap.
#[inline(always)]
fn slope(y: f32, inverse_cap: f32) -> f32 {
    let tanh = y * inverse_cap;
    1.0 - tanh * tanh
}

/// A row of the teacher's logits beside the student's, at a temperature.
struct Compared {
    /// KL(teacher ‖ student)
    divergence: f64,
    /// Σ e^((x − max)/T) of the teacher's logits.
    teacher_sum: f64,
    /// The same of the student's, and their maximum.
    student_sum: f64,
    student_largest: f32,
}

/// Compares two rows of equal length; the teacher's logits become e^((x − max)/T).
///
/// Σ p·(log p − log q) = Σ p·(x − y)/T − (log Σ e^(x/T) − log Σ e^(y/T)) for logits x of p and y of q.
fn compare(teacher: &mut [f32], student: &[f32], temperature: f64) -> Compared {
    let inverse = (1.0 / temperature) as f32;
    let student_largest = maximum(student);
    let student_sum = exponentials_sum(student, student_largest, inverse);
    let teacher_largest = maximum(teacher);
    // Blocks added in f64, so that a vocabulary of any size keeps the f32 sums short.
    let (mut teacher_sum, mut weighted) = (0.0, 0.0);
    let blocks = teacher.chunks_mut(VOCABULARY_BLOCK).zip(student.chunks(VOCABULARY_BLOCK));
    for (teacher, student) in blocks {
        let (sum, difference) = weighted_difference(teacher, student, teacher_largest, inverse);
        teacher_sum += f64::from(sum);
        weighted += f64::from(difference);
    }
    let log_of = |largest: f32, sum: f64| f64::from(largest) / temperature + sum.ln();
    let logs = log_of(teacher_largest, teacher_sum) - log_of(student_largest, student_sum);
    // A number that is none stays one.
    let divergence = match weighted / teacher_sum / temperature - logs {
        negative if negative < 0.0 => 0.0,
        divergence => divergence,
    };
    Compared { divergence, teacher_sum, student_sum, student_largest }
}

/// Σ e^((x − shift)·inverse), blocks added in f64.
fn exponentials_sum(values: &[f32], shift: f32, inverse: f32) -> f64 {
    let blocks = values.chunks(VOCABULARY_BLOCK);
    blocks.map(|block| f64::from(scaled_sum(block, shift, inverse))).sum()
}

dispatch! {
    /// Σ e^((x − shift)·inverse)
    fn scaled_sum(values: &[f32], shift: f32, inverse: f32) -> f32 {
        let mut lanes = [0f32; 16];
        for values in values.chunks(16) {
            for (x, lane) in values.iter().zip(&mut lanes) {
                *lane += exp((x - shift) * inverse);
            }
        }
        lanes.iter().sum()
    }

    /// x ← e^((x − shift)·inverse); their sum, and that of each times (x − y).
    fn weighted_difference(x: &mut [f32], y: &[f32], shift: f32, inverse: f32) -> (f32, f32) {
        const LANES: usize = 16;
        let (mut weights, mut weighted) = ([0f32; LANES], [0f32; LANES]);
        for (x, y) in x.chunks_mut(LANES).zip(y.chunks(LANES)) {
            for ((x, y), lane) in x.iter_mut().zip(y).zip(0..LANES) {
                let difference = *x - y;
                let weight = exp((*x - shift) * inverse);
                weights[lane] += weight;
                weighted[lane] += weight * difference;
                *x = weight;
            }
        }
        (weights.iter().sum(), weighted.iter().sum())
    }

    /// own ← the gradient of its logits but for the target's own part. `other` holds the teacher's
    /// exponentials of the first entries.
    fn row_gradient(own: &mut [f32], other: &[f32], factors: &Factors) {
        let (common, rest) = own.split_at_mut(other.len());
        for (y, p) in common.iter_mut().zip(other) {
            let text = factors.text * exp(*y - factors.largest);
            let student = factors.student * exp((*y - factors.student_largest) * factors.inverse);
            *y = (text + (student - factors.teacher * p)) * slope(*y, factors.inverse_cap);
        }
        for y in rest {
            *y = factors.text * exp(*y - factors.largest) * slope(*y, factors.inverse_cap);
        }
    }
}

/// For each row of `other`, KL(softmax(reference/T) ‖ softmax(other/T)) in nats over the entries that both
/// have, and whether both have their largest logit at the same place. `other` has as many rows as the
/// reference, or that many times over; the reference's logits are made once for all of them.
pub(crate) fn divergence_to(
    reference: Side<'_>,
    other: Side<'_>,
    temperature: f64,
) -> Vec<(f64, bool)> {
    let widths = [reference, other].map(|side| side.vocabulary());
    let [rows, others] = [reference, other].map(|side| side.hidden.len() / side.width);
    let block = (DIVERGENCE_LOGITS / widths[0].max(widths[1])).clamp(1, ROW_BLOCK);
    let block = block.min(rows.max(1));
    let [mut p, mut q] = widths.map(|vocabulary| vec![0f32; block * vocabulary]);
    let common = widths[0].min(widths[1]);
    let mut used_up = vec![0f32; common];
    let mut out = vec![(0.0, false); others];
    for first in (0..rows).step_by(block) {
        let count = block.min(rows - first);
        let (p, q) = (&mut p[..count * widths[0]], &mut q[..count * widths[1]]);
        reference.logits(p, first, count);
        for first in (first..others).step_by(rows) {
            other.logits(q, first, count);
            let logits = p.chunks_exact(widths[0]).zip(q.chunks_exact(widths[1]));
            for ((p, q), out) in logits.zip(&mut out[first..]) {
                let (p, q) = (&p[..common], &q[..common]);
                let agree = first_largest(p) == first_largest(q);
                used_up.copy_from_slice(p);
                *out = (compare(&mut used_up, q, temperature).divergence, agree);
            }
        }
    }
    out
}

fn first_largest(logits: &[f32]) -> Option<usize> {
    let largest = maximum(logits);
    logits.iter().position(|logit| *logit == largest)
}
