//! The derivatives of the fused operations, hand-written, on Burn's tape.
//!
//! A step is a closure over the tensors it saved; it takes the output's gradient and gives the
//! parents'. Statistics, weights of the attention and activations are made again from the inputs
//! instead of being kept. Such a step is not subject to Burn's own checkpointing.

use burn::backend::{
    AutodiffBackend,
    autodiff::{
        Autodiff,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, NodeGuard, Ops, OpsKind},
    },
    ops::FloatTensorOps,
};

use super::{forward::*, *};
use crate::cpu::{self, filled, zeros};

type Tracked<C> = FloatTensor<Autodiff<Flex, C>>;

struct Step<F>(F);

impl<F> std::fmt::Debug for Step<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("fused step")
    }
}

impl<const N: usize, F> Backward<Flex, N> for Step<F>
where
    F: FnOnce(FlexTensor, [bool; N]) -> [Option<FlexTensor>; N] + Send + 'static,
{
    type State = ();

    fn backward(self, ops: Ops<(), N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node);
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let found = (self.0)(gradient.to_contiguous(), wanted);
        for (parent, gradient) in ops.parents.into_iter().zip(found) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                gradients.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

/// Puts `out` on the tape: `step` takes its gradient, and says which parents want theirs.
fn record<C: CheckpointStrategy, const N: usize>(
    parents: [NodeGuard; N],
    out: FlexTensor,
    step: impl FnOnce(FlexTensor, [bool; N]) -> [Option<FlexTensor>; N] + Send + 'static,
) -> Tracked<C> {
    Step(step).prepare::<C>(parents).compute_bound().stateless(out)
}

/// A new tensor shaped as `like`, written by `f`.
fn written(like: &FlexTensor, f: impl FnOnce(&mut cpu::Unwritten)) -> FlexTensor {
    tensor(filled(elements(like).len(), f), dims(like))
}

/// Gradients of (x, γ) under the RMS norm.
fn rms_norm_gradients(
    dy: &FlexTensor,
    x: &FlexTensor,
    gamma: &FlexTensor,
    eps: f64,
    scale: f64,
) -> [Option<FlexTensor>; 2] {
    let mut dgamma = vec![0.0; elements(gamma).len()];
    let dx = written(x, |dx| {
        let (dy, x, gamma) = (elements(dy), elements(x), elements(gamma));
        cpu::rms_norm_backward(dx, &mut dgamma, dy, x, gamma, eps as f32, scale as f32);
    });
    [Some(dx), Some(tensor(dgamma, dims(gamma)))]
}

impl<C: CheckpointStrategy> FusedOps for Autodiff<Flex, C> {
    fn rms_norm(x: Tracked<C>, gamma: Tracked<C>, eps: f64, scale: f64) -> Tracked<C> {
        let ((x, x_node), (gamma, gamma_node)) = (x.into_parts(), gamma.into_parts());
        let (x, gamma) = (x.to_contiguous(), gamma.to_contiguous());
        let y = Flex::rms_norm(x.clone(), gamma.clone(), eps, scale);
        record::<C, 2>([x_node, gamma_node], y, move |dy, _| {
            rms_norm_gradients(&dy, &x, &gamma, eps, scale)
        })
    }

    fn add_rms_norm(
        x: Tracked<C>,
        branch: Tracked<C>,
        gamma: Tracked<C>,
        eps: f64,
        scale: f64,
    ) -> (Tracked<C>, Tracked<C>) {
        let ((x, x_node), (branch, branch_node)) = (x.into_parts(), branch.into_parts());
        let (gamma, gamma_node) = gamma.into_parts();
        let gamma = gamma.to_contiguous();
        let (sum, normed) = Flex::add_rms_norm(x, branch, gamma.clone(), eps, scale);
        let saved = sum.clone();
        let sum = record::<C, 2>([x_node, branch_node], sum, |dy, _| [Some(dy.clone()), Some(dy)]);
        let normed = record::<C, 2>([sum.node(), gamma_node], normed, move |dy, _| {
            rms_norm_gradients(&dy, &saved, &gamma, eps, scale)
        });
        (sum, normed)
    }

    fn layer_norm(
        x: Tracked<C>,
        gamma: Tracked<C>,
        beta: Tracked<C>,
        eps: f64,
        scale: f64,
    ) -> Tracked<C> {
        let ((x, x_node), (gamma, gamma_node)) = (x.into_parts(), gamma.into_parts());
        let (beta, beta_node) = beta.into_parts();
        let (x, gamma) = (x.to_contiguous(), gamma.to_contiguous());
        let y = Flex::layer_norm(x.clone(), gamma.clone(), beta, eps, scale);
        record::<C, 3>([x_node, gamma_node, beta_node], y, move |dy, _| {
            let width = elements(&gamma).len();
            let (mut dgamma, mut dbeta) = (vec![0.0; width], vec![0.0; width]);
            let dx = written(&x, |dx| {
                let (dy, x, gamma) = (elements(&dy), elements(&x), elements(&gamma));
                let (eps, scale) = (eps as f32, scale as f32);
                cpu::layer_norm_backward(dx, &mut dgamma, &mut dbeta, dy, x, gamma, eps, scale);
            });
            [Some(dx), Some(tensor(dgamma, vec![width])), Some(tensor(dbeta, vec![width]))]
        })
    }

    fn linear(x: Tracked<C>, weight: Tracked<C>) -> Tracked<C> {
        let ((x, x_node), (weight, weight_node)) = (x.into_parts(), weight.into_parts());
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let y = Flex::linear(x.clone(), weight.clone());
        record::<C, 2>([x_node, weight_node], y, move |dy, [x_wanted, weight_wanted]| {
            let input = dims(&weight)[1];
            let dx = x_wanted.then(|| {
                written(&x, |dx| {
                    cpu::linear_input_gradient(dx, elements(&dy), elements(&weight), input);
                })
            });
            let dweight = weight_wanted.then(|| {
                written(&weight, |dw| {
                    cpu::new_weight_gradient(dw, elements(&dy), elements(&x), input);
                })
            });
            [dx, dweight]
        })
    }

    fn add_bias(y: Tracked<C>, bias: Tracked<C>) -> Tracked<C> {
        let ((y, y_node), (bias, bias_node)) = (y.into_parts(), bias.into_parts());
        let width = elements(&bias).len();
        record::<C, 2>([y_node, bias_node], Flex::add_bias(y, bias), move |dy, _| {
            let mut dbias = vec![0.0; width];
            cpu::add_rows(&mut dbias, elements(&dy));
            [Some(dy), Some(tensor(dbias, vec![width]))]
        })
    }

    fn rotate(x: Tracked<C>, table: RotaryTable, start: usize) -> Tracked<C> {
        let (x, node) = x.into_parts();
        let y = rotated(x, &table, start, 1.0);
        record::<C, 1>([node], y, move |dy, _| [Some(rotated(dy, &table, start, -1.0))])
    }

    fn attention(
        q: Tracked<C>,
        k: Tracked<C>,
        v: Tracked<C>,
        sinks: Tracked<C>,
        attention: Attention,
    ) -> Tracked<C> {
        let ((q, q_node), (k, k_node), (v, v_node)) =
            (q.into_parts(), k.into_parts(), v.into_parts());
        let (sinks, sinks_node) = sinks.into_parts();
        let (q, k, v) = (q.to_contiguous(), k.to_contiguous(), v.to_contiguous());
        let sinks = sinks.to_contiguous();
        let (out, log_sums) = attend(&q, &k, &v, &sinks, &attention);
        let saved = out.clone();
        record::<C, 4>([q_node, k_node, v_node, sinks_node], out, move |dy, _| {
            let mut found = [&q, &k, &v, &sinks].map(|x| zeros(elements(x).len()));
            for (index, sequence) in sequences(&q, &k, &v, &sinks, &attention).enumerate() {
                let [dq, dk, dv, dsinks] = &mut found;
                let own = |size: usize| index * size..(index + 1) * size;
                let rows = sequence.q.len() / attention.shape.head_dim;
                let out = own(elements(&saved).len() / dims(&q)[0]);
                let finished = cpu::Finished {
                    out: &elements(&saved)[out.clone()],
                    log_sums: &log_sums[index * rows..][..rows],
                    gradient: &elements(&dy)[out],
                };
                let into = [
                    &mut dq[own(sequence.q.len())],
                    &mut dk[own(sequence.k.len())],
                    &mut dv[own(sequence.v.len())],
                    dsinks,
                ];
                cpu::attention_backward(into, &sequence, &finished);
            }
            let mut found = found.into_iter();
            [&q, &k, &v, &sinks].map(|x| Some(tensor(found.next()?, dims(x))))
        })
    }

    fn gated(gate: Tracked<C>, up: Tracked<C>, kind: Gate) -> Tracked<C> {
        let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
        let (gate, up) = (gate.to_contiguous(), up.to_contiguous());
        let y = Flex::gated(gate.clone(), up.clone(), kind);
        record::<C, 2>([gate_node, up_node], y, move |dy, _| {
            let mut dgate = None;
            let dup = changed(dy, |dup| {
                dgate = Some(written(&gate, |dgate| {
                    cpu::gated_backward(kind, dgate, dup, elements(&gate), elements(&up));
                }));
            });
            [dgate, Some(dup)]
        })
    }

    fn clamped_swiglu(gate: Tracked<C>, up: Tracked<C>, clamp: GateClamp) -> Tracked<C> {
        let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
        let (gate, up) = (gate.to_contiguous(), up.to_contiguous());
        let y = Flex::clamped_swiglu(gate.clone(), up.clone(), clamp);
        record::<C, 2>([gate_node, up_node], y, move |dy, _| {
            let mut dgate = None;
            let dup = changed(dy, |dup| {
                dgate = Some(written(&gate, |dgate| {
                    let (gate, up) = (elements(&gate), elements(&up));
                    cpu::clamped_swiglu_backward(clamp, dgate, dup, gate, up);
                }));
            });
            [dgate, Some(dup)]
        })
    }

    fn activate(x: Tracked<C>, kind: Gate) -> Tracked<C> {
        let (x, node) = x.into_parts();
        let x = x.to_contiguous();
        let y = Flex::activate(x.clone(), kind);
        record::<C, 1>([node], y, move |dy, _| {
            [Some(changed(dy, |dx| cpu::activate_backward(kind, dx, elements(&x))))]
        })
    }

    fn embedding(table: Tracked<C>, ids: Arc<[u32]>, shape: [usize; 2]) -> Tracked<C> {
        let (table, node) = table.into_parts();
        let table_dims = dims(&table);
        let y = Flex::embedding(table, ids.clone(), shape);
        record::<C, 1>([node], y, move |dy, _| {
            let mut dtable = zeros(table_dims[0] * table_dims[1]);
            cpu::embedding_backward(&mut dtable, elements(&dy), &ids, table_dims[1]);
            [Some(tensor(dtable, table_dims))]
        })
    }

    fn start_of_backward(y: Tracked<C>, upstream: Tracked<C>) -> Tracked<C> {
        let ((y, node), upstream) = (y.into_parts(), upstream.into_primitive());
        record::<C, 1>([node], Flex::start_of_backward(y, upstream.clone()), move |_, _| {
            [Some(upstream)]
        })
    }

    fn next_token_loss(
        hidden: Tracked<C>,
        head: Tracked<C>,
        targets: Arc<[u32]>,
        terms: LossTerms,
        softcap: Option<f64>,
    ) -> (Tracked<C>, Tracked<C>) {
        // A head that is a leaf gets its gradient now; one that is computed from other tensors
        // (or frozen) gets it in the backward pass, if it is wanted there.
        let head_is_leaf = Self::float_is_require_grad(&head);
        let ((hidden, hidden_node), (head, head_node)) = (hidden.into_parts(), head.into_parts());
        let (hidden, head) = (hidden.to_contiguous(), head.to_contiguous());
        let plain = |tensor: FlexTensor| Self::from_inner(tensor);
        match LossStep.prepare::<C>([hidden_node, head_node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let mut saved = LossState { hidden, head, targets, terms, softcap, made: None };
                let losses = saved.differentiate(if head_is_leaf {
                    Wanted::HeadToo
                } else {
                    Wanted::Hidden
                });
                let [total, nll] = loss_tensors(&losses, &saved.targets, terms);
                (prepared.finish(saved, total), plain(nll))
            }
            OpsKind::UnTracked(prepared) => {
                let (total, nll) = Flex::next_token_loss(hidden, head, targets, terms, softcap);
                (prepared.finish(total), plain(nll))
            }
        }
    }
}

/// The loss makes its gradients in the forward pass, where the logits are; here they are only scaled
/// by the gradient of the scalar.
#[derive(Debug)]
struct LossStep;

#[derive(Debug, Clone)]
struct LossState {
    hidden: FlexTensor,
    head: FlexTensor,
    targets: Arc<[u32]>,
    terms: LossTerms,
    softcap: Option<f64>,
    made: Option<Made>,
}

/// The gradients of the hidden states and, where it was made in the forward pass, of the head.
pub(super) type Made = (FlexTensor, Option<FlexTensor>);

/// Whose gradients the loss is to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The hidden states'.
    Hidden,
    /// The hidden states' and the head's.
    HeadToo,
}

impl LossState {
    fn differentiate(&mut self, wanted: Wanted) -> Vec<cpu::RowLoss> {
        let width = dims(&self.hidden)[1];
        let mut losses = Vec::new();
        let mut dhead = (wanted == Wanted::HeadToo).then(|| zeros(elements(&self.head).len()));
        let mut dhidden = zeros(elements(&self.hidden).len());
        losses.extend(cpu::row_losses_with_gradients(
            &mut dhidden,
            dhead.as_deref_mut(),
            elements(&self.hidden),
            elements(&self.head),
            &self.targets,
            width,
            (self.terms, self.softcap),
        ));
        let dhead = dhead.map(|values| tensor(values, dims(&self.head)));
        self.made = Some((tensor(dhidden, dims(&self.hidden)), dhead));
        losses
    }
}

impl Objective for LossState {
    fn make_with_head(&mut self) {
        self.differentiate(Wanted::HeadToo);
    }

    fn made(&mut self) -> &mut Option<Made> {
        &mut self.made
    }
}

impl Backward<Flex, 2> for LossStep {
    type State = LossState;

    fn backward(self, ops: Ops<LossState, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        hand_on(ops, gradients);
    }
}

/// An objective of hidden states and a head whose forward pass makes their gradients.
pub(super) trait Objective {
    /// Makes them again, the head's too.
    fn make_with_head(&mut self);
    /// Those that were made.
    fn made(&mut self) -> &mut Option<Made>;
}

/// Gives the parents of an objective their gradients, times that of the scalar.
pub(super) fn hand_on<S: Objective>(ops: Ops<S, 2>, gradients: &mut Gradients) {
    let upstream = elements(&gradients.consume::<Flex>(&ops.node).to_contiguous())[0];
    let mut state = ops.state;
    let [hidden_node, head_node] = ops.parents;
    let head_is_there = state.made().as_ref().is_some_and(|(_, head)| head.is_some());
    if head_node.is_some() && !head_is_there {
        state.make_with_head();
    }
    let Some((dhidden, dhead)) = state.made().take() else {
        unreachable!("the forward pass differentiated")
    };
    let scaled = |gradient: FlexTensor| match upstream {
        1.0 => gradient,
        factor => changed(gradient, |x| x.iter_mut().for_each(|x| *x *= factor)),
    };
    if let Some(node) = hidden_node {
        gradients.register::<Flex>(node.id, scaled(dhidden));
    }
    if let (Some(node), Some(dhead)) = (head_node, dhead) {
        gradients.register::<Flex>(node.id, scaled(dhead));
    }
}
