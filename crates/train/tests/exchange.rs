//! Two processes, played by two threads, train one model as one process does.

use std::{
    sync::{Arc, Barrier, Mutex},
    thread,
};

use lns_kernels::{IGNORED, cpu_device};
use lns_model::Decoder;
use lns_spec::{NormScheme, Preset};
use lns_testing::models::TINY;
use lns_train::{Batch, Compute, Exchange, Step, Trainer, TrainingOptions};

/// Sums through shared memory, in the order of the ranks.
#[derive(Debug)]
struct Shared {
    rank: usize,
    barrier: Arc<Barrier>,
    floats: Arc<Mutex<[Vec<f32>; 2]>>,
    counts: Arc<Mutex<[Vec<f64>; 2]>>,
}

fn sum<T: Copy + std::ops::Add<Output = T>>(
    rank: usize,
    barrier: &Barrier,
    shared: &Mutex<[Vec<T>; 2]>,
    values: &mut [T],
) {
    shared.lock().expect("no panic")[rank] = values.to_vec();
    barrier.wait();
    {
        let all = shared.lock().expect("no panic");
        for (index, value) in values.iter_mut().enumerate() {
            *value = all[0][index] + all[1][index];
        }
    }
    barrier.wait();
}

impl Exchange for Shared {
    fn sum(&self, values: &mut [f32]) {
        sum(self.rank, &self.barrier, &self.floats, values);
    }

    fn sum_counts(&self, values: &mut [f64]) {
        sum(self.rank, &self.barrier, &self.counts, values);
    }
}

fn model() -> Decoder {
    let preset = Preset { max_position_embeddings: 16, ..TINY };
    Decoder::new(&preset.spec(NormScheme::lns()), 4, &cpu_device())
}

/// Two sequences, of which the second predicts fewer tokens.
fn batch(step: u32, range: std::ops::Range<usize>) -> Batch {
    let inputs: Vec<u32> = (0..24).map(|i| (i * 7 + step * 5) % 40).collect();
    let mut targets: Vec<u32> = inputs.iter().map(|id| (id * 3 + 1) % 40).collect();
    targets[15..20].fill(IGNORED);
    let ids = range.start * 12..range.end * 12;
    Batch::new(inputs[ids.clone()].to_vec(), targets[ids].to_vec(), 12).expect("a batch")
}

fn steps(trainer: &mut Trainer, range: &std::ops::Range<usize>) -> Vec<Step> {
    let step = |step| trainer.step(&batch(step, range.clone()), 3e-3).expect("a step");
    (0..4).map(step).collect()
}

fn weights(trainer: &Trainer) -> Vec<Vec<f32>> {
    trainer.model().tensors().into_iter().map(|tensor| tensor.values.into_owned()).collect()
}

#[test]
fn processes_that_exchange_gradients_train_as_one_process_with_as_many_workers() {
    let compute = |count| Compute::on_cpu(count).expect("threads");
    let options = TrainingOptions { clip: Some(0.5), ..TrainingOptions::default() };
    let mut alone = Trainer::new(model(), options, compute(2));
    let expected = (steps(&mut alone, &(0..2)), weights(&alone));

    let barrier = Arc::new(Barrier::new(2));
    let (floats, counts) = (Arc::default(), Arc::default());
    let ranks: Vec<_> = (0..2)
        .map(|rank| {
            let (barrier, floats, counts) =
                (Arc::clone(&barrier), Arc::clone(&floats), Arc::clone(&counts));
            thread::spawn(move || {
                let exchange = Shared { rank, barrier, floats, counts };
                let compute = compute(1).with_exchange(Arc::new(exchange));
                let mut trainer = Trainer::new(model(), options, compute);
                let taken = steps(&mut trainer, &(rank..rank + 1));
                (taken, weights(&trainer))
            })
        })
        .collect();
    for rank in ranks {
        assert_eq!(rank.join().expect("no panic"), expected);
    }
}
