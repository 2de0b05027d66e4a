//! Distillation as a backend extension: as the loss, it makes its gradients where the logits are.

use burn::backend::{
    AutodiffBackend,
    autodiff::{
        Autodiff,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    ops::FloatTensorOps,
};

use super::{
    backward::{Made, Objective, Wanted, hand_on},
    *,
};
use crate::{
    DistillationLoss, DistillationTerms, IGNORED, Projection,
    cpu::{self, zeros},
};

/// What a distillation needs beside its tensors.
#[derive(Debug, Clone)]
pub(crate) struct Distillation {
    targets: Arc<[u32]>,
    terms: LossTerms,
    distillation: DistillationTerms,
    softcap: Option<f64>,
    teacher_softcap: Option<f64>,
}

/// See [`crate::distillation_loss`]: the objective, \[1\], and the rows' losses beside their divergences,
/// \[2, rows\].
#[backend_extension(Autodiff, Flex)]
pub(crate) trait DistillationOps: Backend {
    /// See [`crate::distillation_loss`].
    fn distillation_loss(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        teacher_hidden: FloatTensor<Self>,
        teacher_head: FloatTensor<Self>,
        how: Distillation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

pub(crate) fn distillation_loss(
    student: Projection,
    teacher: Projection,
    targets: &[u32],
    terms: LossTerms,
    distillation: DistillationTerms,
) -> DistillationLoss {
    let rows = targets.len();
    let how = Distillation {
        targets: Arc::from(targets),
        terms,
        distillation,
        softcap: student.softcap,
        teacher_softcap: teacher.softcap,
    };
    let (objective, losses) = <Dispatch as DistillationOps>::distillation_loss(
        student.hidden.into_dispatch(),
        student.head.into_dispatch(),
        teacher.hidden.into_dispatch(),
        teacher.head.into_dispatch(),
        how,
    );
    let losses = Tensor::<2>::from_dispatch(losses);
    let of = |row: usize| losses.clone().narrow(0, row, 1).reshape([rows]);
    DistillationLoss { objective: Tensor::from_dispatch(objective), nll: of(0), divergence: of(1) }
}

fn side<'a>(hidden: &'a FlexTensor, head: &'a FlexTensor, softcap: Option<f64>) -> cpu::Side<'a> {
    cpu::Side { hidden: elements(hidden), head: elements(head), width: dims(hidden)[1], softcap }
}

impl Distillation {
    /// The rows of contiguous tensors, and their gradients where they are asked for.
    fn rows(
        &self,
        gradients: Option<cpu::Gradients<'_>>,
        [hidden, head, teacher_hidden, teacher_head]: [&FlexTensor; 4],
    ) -> Vec<cpu::DistilledRow> {
        let student = side(hidden, head, self.softcap);
        let teacher = side(teacher_hidden, teacher_head, self.teacher_softcap);
        let Self { targets, terms, distillation, .. } = self;
        cpu::distilled_rows(gradients, student, teacher, targets, *terms, *distillation)
    }

    /// The objective, and the rows' losses beside their divergences.
    fn tensors(&self, rows: &[cpu::DistilledRow]) -> (FlexTensor, FlexTensor) {
        let DistillationTerms { weight: share, temperature } = self.distillation;
        let counted = rows.iter().zip(&*self.targets).filter(|(_, target)| **target != IGNORED);
        let total: f64 = counted
            .map(|(row, _)| {
                let text = row.nll + self.terms.z_loss * row.log_sum * row.log_sum;
                (1.0 - share) * text + share * temperature * temperature * row.divergence
            })
            .sum();
        let nll = rows.iter().map(|row| row.nll as f32);
        let losses: Vec<f32> = nll.chain(rows.iter().map(|row| row.divergence as f32)).collect();
        let objective = tensor(vec![(total * self.terms.weight) as f32], vec![1]);
        (objective, tensor(losses, vec![2, rows.len()]))
    }
}

impl DistillationOps for Flex {
    fn distillation_loss(
        hidden: FlexTensor,
        head: FlexTensor,
        teacher_hidden: FlexTensor,
        teacher_head: FlexTensor,
        how: Distillation,
    ) -> (FlexTensor, FlexTensor) {
        let held = [hidden, head, teacher_hidden, teacher_head].map(|x| x.to_contiguous());
        how.tensors(&how.rows(None, held.each_ref()))
    }
}

type Tracked<C> = FloatTensor<Autodiff<Flex, C>>;

impl<C: CheckpointStrategy> DistillationOps for Autodiff<Flex, C> {
    fn distillation_loss(
        hidden: Tracked<C>,
        head: Tracked<C>,
        teacher_hidden: Tracked<C>,
        teacher_head: Tracked<C>,
        how: Distillation,
    ) -> (Tracked<C>, Tracked<C>) {
        // As for the plain loss, a head that is a leaf gets its gradient now, any other when it is wanted.
        let wanted = match Self::float_is_require_grad(&head) {
            true => Wanted::HeadToo,
            false => Wanted::Hidden,
        };
        let ((hidden, hidden_node), (head, head_node)) = (hidden.into_parts(), head.into_parts());
        let [teacher_hidden, teacher_head] =
            [teacher_hidden, teacher_head].map(|x| x.into_primitive());
        let held = [hidden, head, teacher_hidden, teacher_head].map(|x| x.to_contiguous());
        match DistillationStep.prepare::<C>([hidden_node, head_node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let mut saved = Saved { held, how, made: None };
                let rows = saved.differentiate(wanted);
                let (objective, losses) = saved.how.tensors(&rows);
                (prepared.finish(saved, objective), Self::from_inner(losses))
            }
            OpsKind::UnTracked(prepared) => {
                let (objective, losses) = how.tensors(&how.rows(None, held.each_ref()));
                (prepared.finish(objective), Self::from_inner(losses))
            }
        }
    }
}

#[derive(Debug)]
struct DistillationStep;

#[derive(Debug, Clone)]
struct Saved {
    /// The student's hidden states and head, the teacher's hidden states and head.
    held: [FlexTensor; 4],
    how: Distillation,
    made: Option<Made>,
}

impl Saved {
    fn differentiate(&mut self, wanted: Wanted) -> Vec<cpu::DistilledRow> {
        let [hidden, head, ..] = &self.held;
        let mut dhidden = zeros(elements(hidden).len());
        let mut dhead = (wanted == Wanted::HeadToo).then(|| zeros(elements(head).len()));
        let gradients = cpu::Gradients { hidden: &mut dhidden, head: dhead.as_deref_mut() };
        let rows = self.how.rows(Some(gradients), self.held.each_ref());
        let dhead = dhead.map(|values| tensor(values, dims(head)));
        self.made = Some((tensor(dhidden, dims(hidden)), dhead));
        rows
    }
}

impl Objective for Saved {
    fn make_with_head(&mut self) {
        self.differentiate(Wanted::HeadToo);
    }

    fn made(&mut self) -> &mut Option<Made> {
        &mut self.made
    }
}

impl Backward<Flex, 2> for DistillationStep {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        hand_on(ops, gradients);
    }
}
