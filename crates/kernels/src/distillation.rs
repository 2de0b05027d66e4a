//! How far one model's predictions are from another's, and the objective that brings them nearer:
//! knowledge distillation (Hinton et al., arXiv 1503.02531).

use burn::tensor::Tensor;

use crate::{
    LossTerms, check_targets, check_width, composite, cpu, fused, is_fused, next_token_loss,
    with_slices,
};

/// What a model's logits are made of.
#[derive(Debug, Clone)]
pub struct Projection {
    /// \[rows, width\]: the normed stream.
    pub hidden: Tensor<2>,
    /// \[vocabulary, width\]
    pub head: Tensor<2>,
    /// The cap c of logits z that become c·tanh(z/c).
    pub softcap: Option<f64>,
}

impl Projection {
    fn check(&self) {
        check_width("head", self.hidden.dims()[1], self.head.dims()[1]);
    }

    /// The same on the tape that `of` is on, without gradients of its own.
    fn beside(&self, of: &Tensor<2>) -> Self {
        let lifted = |x: &Tensor<2>| match of.device().is_autodiff() && !x.device().is_autodiff() {
            true => Tensor::from_inner(x.clone()),
            false => x.clone(),
        };
        Self { hidden: lifted(&self.hidden), head: lifted(&self.head), softcap: self.softcap }
    }
}

/// How a teacher counts beside the text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DistillationTerms {
    /// The teacher's share w of the objective, from 0 to 1; the text has 1 − w.
    pub weight: f64,
    /// Both models' logits are divided by it, T > 0, before they are compared.
    pub temperature: f64,
}

/// What [`distillation_loss`] finds.
#[derive(Debug)]
pub struct DistillationLoss {
    /// What to differentiate, \[1\].
    pub objective: Tensor<1>,
    /// −log softmax\[target\] of each row, \[rows\], without a gradient.
    pub nll: Tensor<1>,
    /// KL(teacher ‖ student) of each row at the temperature, \[rows\], in nats, without a gradient.
    pub divergence: Tensor<1>,
}

/// The objective of training towards another model: weight · Σ ((1 − w)·(nll + z_loss·(log Σ e^logit)²) +
/// w·T²·KL(softmax(teacher/T) ‖ softmax(student/T))) over the rows whose target is not
/// [`IGNORED`](crate::IGNORED). T² keeps the gradient's size whatever the temperature (arXiv 1503.02531,
/// §2.1). With w = 0 it is [`next_token_loss`], to the bit, and the divergence is only measured.
///
/// Where one vocabulary has more entries than the other (rows that pad an embedding), the divergence is
/// that of the entries that both have. The teacher gets no gradients.
///
/// The fused form makes the student's gradients while it holds the logits of both, 16 Mi of them at most.
///
/// # Panics
/// If there is not one target per row, the two have other numbers of rows, a target is not in the
/// vocabulary, or the temperature is not above 0.
pub fn distillation_loss(
    student: Projection,
    teacher: &Projection,
    targets: &[u32],
    terms: LossTerms,
    distillation: DistillationTerms,
) -> DistillationLoss {
    check_targets(&student.hidden, &student.head, targets);
    teacher.check();
    assert_eq!(
        teacher.hidden.dims()[0],
        targets.len(),
        "distillation: one row of the teacher each"
    );
    assert!(distillation.temperature > 0.0, "distillation: the temperature is not above 0");
    if distillation.weight == 0.0 {
        return measured(student, teacher, targets, terms, distillation);
    }
    let teacher = teacher.beside(&student.hidden);
    if is_fused(&student.hidden) && is_fused(&teacher.hidden) {
        fused::distillation_loss(student, teacher, targets, terms, distillation)
    } else {
        composite::distillation_loss(student, teacher, targets, terms, distillation)
    }
}

/// The plain objective, and how far the teacher is.
fn measured(
    student: Projection,
    teacher: &Projection,
    targets: &[u32],
    terms: LossTerms,
    distillation: DistillationTerms,
) -> DistillationLoss {
    let Projection { hidden, head, softcap } = student;
    let plain = |x: &Tensor<2>| match x.device().is_autodiff() {
        true => x.clone().inner(),
        false => x.clone(),
    };
    let own = Projection { hidden: plain(&hidden), head: plain(&head), softcap };
    let rows = divergence_to(teacher, &own, distillation.temperature);
    let counted = rows.iter().zip(targets).map(|((divergence, _), target)| match *target {
        crate::IGNORED => 0.0,
        _ => *divergence as f32,
    });
    let counted: Vec<f32> = counted.collect();
    let divergence = Tensor::from_floats(counted.as_slice(), &own.hidden.device());
    let (objective, nll) = next_token_loss(hidden, head, targets, terms, softcap);
    let divergence = match nll.device().is_autodiff() {
        true => Tensor::from_inner(divergence),
        false => divergence,
    };
    DistillationLoss { objective, nll, divergence }
}

/// For each row, KL(softmax(reference/T) ‖ softmax(other/T)) in nats over the entries that both
/// vocabularies have, and whether the two agree on the most likely of them. CPU only; a few rows' logits
/// exist at a time. `other` may have the reference's number of rows several times over: each time they are
/// compared with all of the reference, whose logits are made once.
///
/// # Panics
/// If the shapes disagree, or the temperature is not above 0.
pub fn divergence_to(
    reference: &Projection,
    other: &Projection,
    temperature: f64,
) -> Vec<(f64, bool)> {
    let [rows, others] = [reference, other].map(|side| side.hidden.dims()[0]);
    let times = others.checked_rem(rows).unwrap_or(others);
    assert_eq!(times, 0, "divergence_to: the hidden states differ in their number");
    assert!(temperature > 0.0, "divergence_to: the temperature is not above 0");
    reference.check();
    other.check();
    let tensors = [&reference.hidden, &reference.head, &other.hidden, &other.head];
    with_slices(tensors, |[hidden, head, other_hidden, other_head]| {
        let side = |of: &Projection, hidden, head| cpu::Side {
            hidden,
            head,
            width: of.hidden.dims()[1],
            softcap: of.softcap,
        };
        let sides = (side(reference, hidden, head), side(other, other_hidden, other_head));
        cpu::divergence_to(sides.0, sides.1, temperature)
    })
}
