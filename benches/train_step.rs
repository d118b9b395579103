//! Time of a training step of the model with 119.2 M parameters, compared with its floor.
//!
//! ```text
//! cargo bench -p reelseek --bench train_step [-- autograd]
//! ```
//!
//! The floor is the time of the step's multiply-adds at the speed of the `gemm` crate on square matrices of
//! side 2,048, plus one pass over weights and momentum. Step and floor alternate, and their medians are
//! compared. With the argument `autograd`, the step through candle is measured as well.

use std::time::Instant;

use reelseek::gmf::{
    AutogradStepper, CpuStepper, GmfConfig, GmfWeights, Objective, Relation, Relations, SgdOptions, Stepper,
    TrainingBatch, step_flops,
};

const BATCH: usize = 64;
const ROUNDS: usize = 15;
const SQUARE: usize = 2048;

fn main() {
    let config = GmfConfig::image_video(128, 4096).expect("the paper's form");
    let features = |l: usize| (0..BATCH * l).map(|i| ((i * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0).collect();
    let relations = Relations::new(BATCH, |a, c| if a / 2 == c / 2 { Relation::Positive } else { Relation::Negative });
    let batch = TrainingBatch { features: vec![features(128), features(4096)], relations };
    let objective = Objective::default();
    let sgd = SgdOptions { rate: 1e-4, momentum: 0.9, decay: 1e-4, loss_limit: f64::MAX };
    let mut cpu = CpuStepper::new(GmfWeights::random(&config, 1), None);
    let step = |stepper: &mut dyn Stepper| {
        let start = Instant::now();
        stepper.step(&batch, &objective, &sgd).expect("a finite loss");
        start.elapsed().as_secs_f64()
    };
    step(&mut cpu);
    let peak_kb = peak_kb();

    let (a, b, mut c) = (vec![0.5f32; SQUARE * SQUARE], vec![0.25f32; SQUARE * SQUARE], vec![0f32; SQUARE * SQUARE]);
    let parameters = config.parameters();
    let (mut weights, mut momentum) = (vec![0.1f32; parameters], vec![0.1f32; parameters]);
    let (mut steps, mut squares, mut passes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        steps.push(step(&mut cpu));
        squares.push(square(&a, &b, &mut c));
        passes.push(pass(&mut weights, &mut momentum));
    }
    let (step_s, square_s, pass_s) = (median(&mut steps), median(&mut squares), median(&mut passes));
    let rate = 2.0 * (SQUARE as f64).powi(3) / square_s;
    let flops = step_flops(&config, BATCH) as f64;
    let floor = flops / rate + pass_s;
    println!("step          {:8.1} ms   {parameters} parameters, batch {BATCH}, both losses, update", step_s * 1e3);
    println!(
        "floor         {:8.1} ms   {:.1} GFLOP at {:.0} GFLOP/s + {:.1} ms for one pass",
        floor * 1e3,
        flops / 1e9,
        rate / 1e9,
        pass_s * 1e3
    );
    println!("ratio         {:8.2}", step_s / floor);
    println!("peak memory   {:8.2} GB", peak_kb as f64 * 1024.0 / 1e9);
    println!("threads       {:8}", rayon::current_num_threads());
    if std::env::args().any(|a| a == "autograd") {
        drop((cpu, weights, momentum));
        let mut autograd =
            AutogradStepper::new(&GmfWeights::random(&config, 1), None, &candle_core::Device::Cpu).expect("memory");
        step(&mut autograd);
        let mut steps: Vec<f64> = (0..3).map(|_| step(&mut autograd)).collect();
        println!("autograd      {:8.1} ms", median(&mut steps) * 1e3);
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn square(a: &[f32], b: &[f32], c: &mut [f32]) -> f64 {
    let (n, stride) = (SQUARE, SQUARE as isize);
    let start = Instant::now();
    // SAFETY: each matrix has n·n numbers, so n rows of n numbers with stride n are inside it.
    unsafe {
        let threads = gemm::Parallelism::Rayon(rayon::current_num_threads());
        let (c, a, b) = (c.as_mut_ptr(), a.as_ptr(), b.as_ptr());
        gemm::gemm(n, n, n, c, 1, stride, false, a, 1, stride, b, 1, stride, 0.0, 1.0, false, false, false, threads);
    }
    start.elapsed().as_secs_f64()
}

fn pass(weights: &mut [f32], momentum: &mut [f32]) -> f64 {
    use rayon::prelude::*;
    let start = Instant::now();
    weights.par_chunks_mut(1 << 16).zip(momentum.par_chunks_mut(1 << 16)).for_each(|(w, v)| {
        for (w, v) in w.iter_mut().zip(v) {
            *v = 0.9 * *v + 1e-4 * *w;
            *w -= 1e-4 * *v;
        }
    });
    start.elapsed().as_secs_f64()
}

/// Peak resident memory of this process in kB.
fn peak_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|v| v.parse().ok()).unwrap_or(0)
}
