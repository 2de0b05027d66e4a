//! The hand-written backward passes, against the composites' own in f64, and those against finite
//! differences in f64. Shapes are random and awkward: one token, odd sizes, one head.

use burn::tensor::{DType, Device, Distribution, Tensor, TensorData};
use lns_kernels::{
    AdamW, AttentionMask, AttentionShape, DistillationTerms, DocumentStarts, Gate, GateClamp,
    IGNORED, LossTerms, Muon, Projection, RotaryTable, Scores, Workers, activate, adamw,
    add_rms_norm, backward_from, clamped_swiglu, distillation_loss, embedding, gated, layer_norm,
    linear, muon, next_token_loss, rms_norm, rotate, squared_norm,
};
use lns_spec::{RopeScaling, RopeSpec};
use proptest::prelude::*;

type Flat = Tensor<1>;
type Operation = dyn Fn(&[Flat]) -> Flat;

fn random(shape: &[usize], scale: f64) -> Flat {
    let count: usize = shape.iter().product();
    Tensor::random([count], Distribution::Normal(0.0, scale), &Device::flex())
}

fn numbers(x: Flat) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

fn table(head_dim: usize, positions: usize) -> RotaryTable {
    let rope = RopeSpec { theta: 10_000.0, scaling: RopeScaling::Default };
    RotaryTable::new(&rope.frequencies(head_dim, positions, positions), positions)
}

/// The gradients of ⟨f(inputs), upstream⟩ with respect to each input, the tensors being of `dtype`.
fn gradients(f: &Operation, inputs: &[Flat], upstream: &Flat, dtype: DType) -> Vec<Vec<f64>> {
    let leaf = |x: &Flat| Tensor::from_inner(x.clone().cast(dtype)).require_grad();
    let leaves: Vec<Flat> = inputs.iter().map(leaf).collect();
    let found = backward_from(f(&leaves), upstream.clone().cast(dtype));
    leaves
        .iter()
        .map(|leaf| numbers(leaf.grad(&found).expect("every input has a gradient")))
        .collect()
}

/// Holds the fused gradients in f32 against the composite's in f64, relative to the largest of each
/// input (or a tenth of the largest of all), and asks for the same bits again.
fn check(f: &Operation, inputs: &[Flat], tolerance: f64) -> Result<(), TestCaseError> {
    let shape = f(inputs).dims();
    let upstream = Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex());
    let fused = gradients(f, inputs, &upstream, DType::F32);
    prop_assert_eq!(&fused, &gradients(f, inputs, &upstream, DType::F32), "a repeat differs");
    let exact = gradients(f, inputs, &upstream, DType::F64);
    let largest_of = |values: &[f64]| values.iter().fold(1e-30f64, |a, b| a.max(b.abs()));
    // A gradient may be 0 exactly, as a query's that sees one key: what is left there is rounding of
    // terms as large as the other inputs' gradients.
    let overall = exact.iter().map(|values| largest_of(values)).fold(0.0, f64::max);
    for (which, (fused, exact)) in fused.iter().zip(&exact).enumerate() {
        let largest = largest_of(exact).max(0.1 * overall);
        for (at, (a, b)) in fused.iter().zip(exact).enumerate() {
            prop_assert!((a - b).abs() < tolerance * largest, "input {which}, {at}: {a} not {b}");
        }
    }
    Ok(())
}

/// Holds the composite's gradients in f64 against central differences.
fn check_differences(f: &Operation, inputs: &[Flat]) {
    let shape = f(inputs).dims();
    let upstream = Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex());
    let found = gradients(f, inputs, &upstream, DType::F64);
    let weights = numbers(upstream);
    for (which, found) in found.iter().enumerate() {
        for (at, gradient) in found.iter().enumerate().step_by(3) {
            let moved = |step: f64| -> f64 {
                let inputs: Vec<Flat> = inputs
                    .iter()
                    .enumerate()
                    .map(|(index, input)| {
                        let mut values = numbers(input.clone());
                        if index == which {
                            values[at] += step;
                        }
                        let count = values.len();
                        let data = TensorData::new(values, [count]);
                        Tensor::from_data(data, (&Device::flex(), DType::F64))
                    })
                    .collect();
                numbers(f(&inputs)).iter().zip(&weights).map(|(y, w)| y * w).sum()
            };
            let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            let allowed = 1e-6 * (1.0 + gradient.abs());
            assert!((slope - gradient).abs() < allowed, "{which} {at}: {slope} {gradient}");
        }
    }
}

fn flat<const D: usize>(x: Tensor<D>) -> Flat {
    let count = x.dims().iter().product::<usize>();
    x.reshape([count])
}

/// Every operation on flat inputs, with inputs of its size.
struct Case {
    f: Box<Operation>,
    inputs: Vec<Flat>,
}

fn norms(rows: usize, width: usize, scale: f64) -> [Case; 3] {
    let x = || random(&[rows, width], 3.0);
    let gain = || random(&[width], 1.0);
    let plain = Case {
        f: Box::new(move |t| {
            flat(rms_norm(t[0].clone().reshape([rows, width]), t[1].clone(), 1e-5, scale))
        }),
        inputs: vec![x(), gain()],
    };
    let summed = Case {
        // Both outputs count.
        f: Box::new(move |t| {
            let [x, branch] = [0, 1].map(|i: usize| t[i].clone().reshape([rows, width]));
            let (sum, normed) = add_rms_norm(x, branch, t[2].clone(), 1e-5, scale);
            flat(Tensor::cat(vec![sum, normed], 0))
        }),
        inputs: vec![x(), x(), gain()],
    };
    let layer = Case {
        f: Box::new(move |t| {
            let x = t[0].clone().reshape([rows, width]);
            flat(layer_norm(x, t[1].clone(), Some(t[2].clone()), 1e-5, scale))
        }),
        inputs: vec![x(), gain(), gain()],
    };
    [plain, summed, layer]
}

fn projection(rows: usize, input: usize, output: usize) -> Case {
    Case {
        f: Box::new(move |t| {
            let x = t[0].clone().reshape([1, rows, input]);
            flat(linear(x, t[1].clone().reshape([output, input]), Some(t[2].clone())))
        }),
        inputs: vec![
            random(&[rows, input], 1.0),
            random(&[output, input], 1.0),
            random(&[output], 1.0),
        ],
    }
}

fn attention(
    [queries, cached]: [usize; 2],
    shape: AttentionShape,
    documents: Option<DocumentStarts>,
) -> Case {
    let keys = queries + cached;
    let (width, key_width) = (shape.heads * shape.head_dim, shape.key_value_heads * shape.head_dim);
    // Every other case turns neighbours, and the first or last features alone; its values have other
    // features than its keys. Of an even number of queries and keys, every softmax has a sink.
    let with_sinks = keys % 2 == 0;
    let some = shape.scores.scale.is_some() && shape.head_dim > 2;
    let turned = if some { shape.head_dim - 2 } else { shape.head_dim };
    let rotary = table(turned, keys).for_heads_of(shape.head_dim).interleaved(some);
    let rotary = rotary.turning_the_last(queries % 2 == 0);
    let value_dim = if some { shape.head_dim / 2 + 3 } else { shape.head_dim };
    let value_width = shape.key_value_heads * value_dim;
    Case {
        f: Box::new(move |t| {
            let q = rotate(t[0].clone().reshape([2, queries, width]), &rotary, cached);
            let k = t[1].clone().reshape([2, keys, key_width]);
            let v = t[2].clone().reshape([2, keys, value_width]);
            let (k, sinks) = (rotate(k, &rotary, 0), t.get(3).cloned());
            flat(lns_kernels::attention(q, k, v, &shape, sinks, documents.as_ref()))
        }),
        inputs: [
            random(&[2, queries, width], 1.0),
            random(&[2, keys, key_width], 1.0),
            random(&[2, keys, value_width], 1.0),
        ]
        .into_iter()
        .chain(with_sinks.then(|| random(&[shape.heads], 2.0)))
        .collect(),
    }
}

fn gate(count: usize, kind: Gate) -> Case {
    Case {
        f: Box::new(move |t| gated(t[0].clone(), t[1].clone(), kind)),
        // The first gate is open: a closed one's gradient may be smaller than any f32.
        inputs: [3.0, 1.0]
            .map(|scale| {
                let open = Tensor::ones([1], &Device::flex()) * 2.0;
                Tensor::cat(vec![open, random(&[count], scale)], 0)
            })
            .to_vec(),
    }
}

fn clamped_gate(count: usize) -> Case {
    let clamp = GateClamp { limit: 1.5, alpha: 1.702 };
    Case {
        f: Box::new(move |t| clamped_swiglu(t[0].clone(), t[1].clone(), clamp)),
        inputs: gate(count, Gate::Silu).inputs,
    }
}

fn activation(count: usize, kind: Gate) -> Case {
    let inputs = gate(count, kind).inputs[..1].to_vec();
    Case { f: Box::new(move |t| activate(t[0].clone(), kind)), inputs }
}

fn lookup(ids: Vec<i32>, width: usize) -> Case {
    Case {
        f: Box::new(move |t| {
            let data = TensorData::new(ids.clone(), [1, ids.len()]);
            let ids = Tensor::<2, burn::tensor::Int>::from_data(data, &Device::flex());
            let ids = if t[0].device().is_autodiff() { Tensor::from_inner(ids) } else { ids };
            flat(embedding(t[0].clone().reshape([11, width]), ids))
        }),
        inputs: vec![random(&[11, width], 1.0)],
    }
}

fn loss(rows: usize, width: usize, vocabulary: usize, z_loss: f64, softcap: Option<f64>) -> Case {
    let target = move |row: usize| match row % 4 {
        3 => IGNORED,
        _ => (row * 7919 % vocabulary) as u32,
    };
    let targets: Vec<u32> = (0..rows).map(target).collect();
    let terms = LossTerms { weight: 1.0 / rows as f64, z_loss };
    Case {
        f: Box::new(move |t| {
            let hidden = t[0].clone().reshape([rows, width]);
            let head = t[1].clone().reshape([vocabulary, width]);
            next_token_loss(hidden, head, &targets, terms, softcap).0
        }),
        inputs: vec![random(&[rows, width], 1.0), random(&[vocabulary, width], 1.0)],
    }
}

/// A student's objective under a teacher of another width and cap, with one entry more or less.
fn distilled(
    [rows, width, vocabulary]: [usize; 3],
    z_loss: f64,
    softcap: Option<f64>,
    distillation: DistillationTerms,
) -> Case {
    let targets: Vec<u32> = (0..rows)
        .map(|row| if row % 4 == 3 { IGNORED } else { (row * 7919 % vocabulary) as u32 })
        .collect();
    let terms = LossTerms { weight: 1.0 / rows as f64, z_loss };
    let theirs = vocabulary + rows % 3 - 1;
    let (teacher_hidden, teacher_head) = (random(&[rows, 3], 1.0), random(&[theirs, 3], 1.0));
    Case {
        f: Box::new(move |t| {
            let dtype = t[0].dtype();
            let teacher = Projection {
                hidden: teacher_hidden.clone().reshape([rows, 3]).cast(dtype),
                head: teacher_head.clone().reshape([theirs, 3]).cast(dtype),
                softcap: softcap.map(|cap| cap + 1.0),
            };
            let student = Projection {
                hidden: t[0].clone().reshape([rows, width]),
                head: t[1].clone().reshape([vocabulary, width]),
                softcap,
            };
            distillation_loss(student, &teacher, &targets, terms, distillation).objective
        }),
        inputs: vec![random(&[rows, width], 1.0), random(&[vocabulary, width], 1.0)],
    }
}

fn shape(
    key_value_heads: usize,
    group: usize,
    half: usize,
    window: Option<usize>,
) -> AttentionShape {
    AttentionShape {
        heads: group * key_value_heads,
        key_value_heads,
        head_dim: 2 * half,
        mask: AttentionMask::Causal,
        window,
        scores: Scores::USUAL,
    }
}

/// Documents of `length` tokens in both of two sequences.
fn documents(keys: usize, length: usize) -> DocumentStarts {
    let starts: Vec<u32> = (0..2 * keys).map(|at| (at % keys / length * length) as u32).collect();
    DocumentStarts::new(&starts, keys)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn fused_norms(rows in 1usize..9, width in 2usize..131, scale in 0.05f64..2.0) {
        let tolerances = [1e-5, 1e-5, 2e-3];
        for (case, tolerance) in norms(rows, width, scale).into_iter().zip(tolerances) {
            check(&*case.f, &case.inputs, tolerance)?;
        }
    }

    #[test]
    fn fused_projections(rows in 1usize..70, input in 1usize..90, output in 1usize..90) {
        let case = projection(rows, input, output);
        check(&*case.f, &case.inputs, 1e-5)?;
    }

    #[test]
    fn fused_attention(
        queries in 1usize..150, cached in 0usize..20, key_value_heads in 1usize..3, group in 1usize..4,
        half in 1usize..129, window in prop::option::of(1usize..80),
        document in prop::option::of(1usize..60), scale in prop::option::of(0.05f64..0.3),
        softcap in prop::option::of(0.5f64..20.0),
    ) {
        let scores = Scores { scale, softcap };
        let shape = AttentionShape { scores, ..shape(key_value_heads, group, half, window) };
        let documents = document.map(|length| documents(queries + cached, length));
        let case = attention([queries, cached], shape, documents);
        check(&*case.f, &case.inputs, 2e-5)?;
    }

    #[test]
    fn fused_gates(count in 1usize..200) {
        for kind in [Gate::Silu, Gate::Gelu, Gate::GeluErf] {
            for case in [gate(count, kind), activation(count, kind)] {
                check(&*case.f, &case.inputs, 3e-6)?;
            }
        }
        let case = clamped_gate(count);
        check(&*case.f, &case.inputs, 3e-6)?;
    }

    #[test]
    fn fused_lookups(ids in prop::collection::vec(0i32..11, 1..40), width in 1usize..40) {
        let case = lookup(ids, width);
        check(&*case.f, &case.inputs, 1e-6)?;
    }

    #[test]
    fn fused_losses(
        rows in 1usize..40, width in 1usize..40, vocabulary in 2usize..2600, z_loss in 0.0f64..0.1,
        softcap in prop::option::of(1.0f64..30.0),
    ) {
        let case = loss(rows, width, vocabulary, z_loss, softcap);
        check(&*case.f, &case.inputs, 2e-5)?;
    }

    #[test]
    fn fused_distillations(
        rows in 1usize..40, width in 1usize..40, vocabulary in 2usize..2600, z_loss in 0.0f64..0.1,
        softcap in prop::option::of(1.0f64..30.0), weight in 0.0f64..=1.0, temperature in 0.5f64..4.0,
    ) {
        for weight in [weight, 1.0] {
            let distillation = DistillationTerms { weight, temperature };
            let case = distilled([rows, width, vocabulary], z_loss, softcap, distillation);
            check(&*case.f, &case.inputs, 2e-5)?;
        }
    }
}

const HALF: DistillationTerms = DistillationTerms { weight: 0.5, temperature: 2.0 };

#[test]
fn a_teacher_without_weight_leaves_the_bits_of_the_plain_objective() {
    let none = DistillationTerms { weight: 0.0, temperature: 2.0 };
    let [rows, width, vocabulary] = [30, 8, 1100];
    let taught = distilled([rows, width, vocabulary], 1e-3, None, none);
    let plain = loss(rows, width, vocabulary, 1e-3, None);
    let upstream = Tensor::ones([1], &Device::flex());
    let [taught, plain] =
        [taught.f, plain.f].map(|f| gradients(&*f, &plain.inputs, &upstream, DType::F32));
    assert_eq!(taught, plain);
}

#[test]
fn more_rows_and_keys_than_one_block_are_right() {
    // 1200 rows are three blocks of the loss, 700 keys two of the attention.
    let capped = Scores { scale: Some(0.4), softcap: Some(2.0) };
    let cases = [
        loss(1200, 6, 70, 1e-3, None),
        loss(1200, 6, 70, 1e-3, Some(3.0)),
        distilled([1200, 6, 70], 1e-3, None, HALF),
        distilled([1200, 6, 1100], 1e-3, Some(3.0), HALF),
        attention([700, 0], AttentionShape { scores: capped, ..shape(1, 2, 4, None) }, None),
        attention([700, 0], shape(1, 2, 4, None), None),
        attention(
            [700, 0],
            AttentionShape { mask: AttentionMask::Full, ..shape(1, 2, 4, None) },
            None,
        ),
    ];
    for case in cases {
        check(&*case.f, &case.inputs, 2e-5).expect("as the composite");
    }
}

#[test]
fn the_composites_equal_finite_differences() {
    let mut cases: Vec<Case> = norms(2, 5, 0.7).into_iter().collect();
    cases.push(projection(3, 4, 2));
    cases.push(attention([5, 1], shape(2, 2, 2, Some(3)), None));
    cases.push(attention([6, 0], shape(1, 2, 2, None), Some(documents(6, 4))));
    let capped = Scores { scale: Some(0.4), softcap: Some(2.0) };
    let shape = AttentionShape { scores: capped, ..shape(2, 2, 2, None) };
    cases.push(attention([5, 0], shape, None));
    cases.push(attention([5, 1], AttentionShape { mask: AttentionMask::Full, ..shape }, None));
    cases.extend([Gate::Silu, Gate::Gelu, Gate::GeluErf].map(|kind| gate(7, kind)));
    cases.push(activation(7, Gate::GeluErf));
    cases.push(clamped_gate(7));
    cases.push(loss(6, 3, 9, 0.05, None));
    cases.push(loss(6, 3, 9, 0.05, Some(2.0)));
    for (rows, softcap) in [(5, None), (6, Some(2.0)), (7, Some(2.0))] {
        cases.push(distilled([rows, 3, 9], 0.05, softcap, HALF));
    }
    for case in cases {
        check_differences(&*case.f, &case.inputs);
    }
}

#[test]
fn a_head_that_is_computed_or_frozen_is_treated_as_such() {
    head_is_treated_as_it_is(&loss(9, 4, 7, 0.0, None));
    head_is_treated_as_it_is(&distilled([9, 4, 7], 0.0, None, HALF));
}

fn head_is_treated_as_it_is(case: &Case) {
    let device = Device::flex();
    let [hidden, head] = [0, 1].map(|i: usize| case.inputs[i].clone());
    let leaf = |x: &Flat| Tensor::from_inner(x.clone()).require_grad();
    let direct = gradients(&*case.f, &case.inputs, &Tensor::ones([1], &device), DType::F32);
    // 2 · (head / 2): not a leaf, so its gradient is made in the backward pass.
    let halves = leaf(&head.clone().div_scalar(2.0));
    let hidden_leaf = leaf(&hidden);
    let out = (case.f)(&[hidden_leaf.clone(), halves.clone().mul_scalar(2.0)]);
    let found = out.backward();
    let close = |a: Vec<f64>, b: &[f64], factor: f64| {
        a.iter().zip(b).all(|(a, b)| (a - factor * b).abs() < 1e-6)
    };
    assert!(close(numbers(halves.grad(&found).expect("a gradient")), &direct[1], 2.0));
    assert!(close(numbers(hidden_leaf.grad(&found).expect("a gradient")), &direct[0], 1.0));
    // A frozen head.
    let hidden_leaf = leaf(&hidden);
    let found = (case.f)(&[hidden_leaf.clone(), Tensor::from_inner(head)]).backward();
    assert!(close(numbers(hidden_leaf.grad(&found).expect("a gradient")), &direct[0], 1.0));
}

#[test]
fn the_loss_may_be_scaled_and_used_with_others() {
    let case = loss(9, 4, 7, 0.01, None);
    let leaf = |x: &Flat| Tensor::from_inner(x.clone()).require_grad();
    let plain = gradients(&*case.f, &case.inputs, &Tensor::ones([1], &Device::flex()), DType::F32);
    let leaves: Vec<Flat> = case.inputs.iter().map(leaf).collect();
    let found = ((case.f)(&leaves).mul_scalar(3.0) + leaves[0].clone().sum()).backward();
    let scaled = numbers(leaves[0].grad(&found).expect("a gradient"));
    for (a, b) in scaled.iter().zip(&plain[0]) {
        assert!((a - (3.0 * b + 1.0)).abs() < 1e-5, "{a} {b}");
    }
}

#[test]
fn gradients_are_the_same_bits_in_every_worker() {
    let case = attention([130, 0], shape(2, 2, 8, None), None);
    let upstream = random(&[2, 130, 64], 1.0);
    let workers = Workers::new(3).expect("threads start");
    let inputs: Vec<Vec<f64>> = case.inputs.iter().map(|x| numbers(x.clone())).collect();
    let upstream = numbers(upstream);
    let tensor = |values: &Vec<f64>| {
        let data = TensorData::new(values.clone(), [values.len()]);
        Flat::from_data(data, &Device::flex())
    };
    let found = workers.map(6, |_| {
        let case = attention([130, 0], shape(2, 2, 8, None), None);
        let inputs: Vec<Flat> = inputs.iter().map(tensor).collect();
        gradients(&*case.f, &inputs, &tensor(&upstream), DType::F32)
    });
    assert!(found.iter().all(|gradients| *gradients == found[0]));
}

#[test]
fn adamw_is_its_formula_and_the_parts_of_a_gradient_add_up() {
    let count = 2500;
    let [w, a, b] = [1.0, 0.3, 0.2].map(|scale| {
        numbers(random(&[count], scale)).into_iter().map(|x| x as f32).collect::<Vec<f32>>()
    });
    let step = |steps| AdamW {
        gradient_scale: 0.5,
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        steps,
    };
    let (mut weights, mut first, mut second) = (w.clone(), vec![0.0; count], vec![0.0; count]);
    for steps in 1..=3 {
        adamw(&mut weights, &mut first, &mut second, &[&a, &b], &step(steps));
    }
    let mut expected = Vec::new();
    for i in 0..count {
        let (mut w, mut m, mut v) = (f64::from(w[i]), 0.0, 0.0);
        for t in 1..=3 {
            let g = 0.5 * (f64::from(a[i]) + f64::from(b[i]));
            m = 0.9 * m + 0.1 * g;
            v = 0.95 * v + 0.05 * g * g;
            let (m_hat, v_hat) = (m / (1.0 - 0.9f64.powi(t)), v / (1.0 - 0.95f64.powi(t)));
            w = w * (1.0 - 1e-2 * 0.1) - 1e-2 * m_hat / (v_hat.sqrt() + 1e-8);
        }
        expected.push(w);
    }
    for (got, expected) in weights.iter().zip(&expected) {
        assert!((f64::from(*got) - expected).abs() < 2e-6, "{got} {expected}");
    }
    let norm: f64 = a.iter().zip(&b).map(|(a, b)| (f64::from(*a) + f64::from(*b)).powi(2)).sum();
    assert!((squared_norm(&[&a, &b]) / norm - 1.0).abs() < 1e-6);
    // However a parameter is cut, the same bits.
    let (mut cut, mut m, mut v) = (w, vec![0.0; count], vec![0.0; count]);
    for steps in 1..=3 {
        for range in [0..700, 700..count] {
            let parts = [&a[range.clone()], &b[range.clone()]];
            let moments = (&mut m[range.clone()], &mut v[range.clone()]);
            adamw(&mut cut[range], moments.0, moments.1, &parts, &step(steps));
        }
    }
    assert_eq!(cut, weights);
}

#[test]
fn muon_moves_along_a_nearly_orthogonal_matrix() {
    for [rows, columns] in [[12, 30], [30, 12], [16, 16]] {
        let count = rows * columns;
        let gradient: Vec<f32> =
            numbers(random(&[count], 1.0)).into_iter().map(|x| x as f32).collect();
        let (mut weights, mut momentum) = (vec![0f32; count], vec![0f32; count]);
        let step =
            Muon { gradient_scale: 1.0, learning_rate: 1.0, momentum: 0.95, weight_decay: 0.0 };
        muon(&mut weights, &mut momentum, &[&gradient], [rows, columns], &step);
        assert_eq!(momentum, gradient, "the first momentum is the gradient");
        // Singular values of the direction lie near 1: within the iteration's known 0.68 to 1.13.
        let factor = step.shape_factor([rows, columns]) as f32;
        let data = TensorData::new(weights.iter().map(|w| -w / factor).collect(), [rows, columns]);
        let x = Tensor::<2>::from_data(data, &Device::flex()).cast(DType::F64);
        let gram = if rows <= columns {
            x.clone().matmul(x.transpose())
        } else {
            x.clone().transpose().matmul(x)
        };
        let short = rows.min(columns) as f64;
        let trace = numbers(flat(gram.clone())).iter().step_by(rows.min(columns) + 1).sum::<f64>();
        assert!((0.5..1.3).contains(&(trace / short)), "mean square {}", trace / short);
        let squares: f64 = numbers(flat(gram)).iter().map(|g| g * g).sum();
        assert!(squares / short < 1.7, "mean fourth power {}", squares / short);
        // It descends: the step lies against the gradient.
        let along: f32 = weights.iter().zip(&gradient).map(|(w, g)| w * g).sum();
        assert!(along < 0.0);
    }
}
