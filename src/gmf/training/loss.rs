//! The training loss: `L = λ1 · L_dis + λ2 · L_task` (Eq. 45).
//!
//! `L_dis` is the paper's (Eq. 18). The paper does not define its retrieval loss; the task losses here are
//! **our choice**: a supervised contrastive loss (Khosla et al., 2020; InfoNCE if each anchor has one
//! positive) or a triplet loss with the hardest negative of the batch (Faghri et al., 2018). Both use cosines
//! between the invariant parts of two modalities. They are averaged over both directions and, for more than
//! two modalities, over all pairs of modalities. P(i) are the positive and N(i) the negative candidates of
//! anchor i. Candidates of open relation are in neither, and in no sum.

use serde::{Deserialize, Serialize};

use crate::base::linalg::{self, MatrixView};

/// The retrieval loss over the invariant parts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskLoss {
    /// `−1/|P(i)| Σ_{p ∈ P(i)} log softmax_c(s_ic / τ)` at `c = p`, averaged over anchors `i`.
    Contrastive {
        /// τ > 0.
        temperature: f64,
    },
    /// `1/|P(i)| Σ_{p ∈ P(i)} max(0, margin − s_ip + max_{n ∈ N(i)} s_in)`, averaged over anchors `i`.
    Triplet {
        /// Margin by which a positive's cosine must exceed the hardest negative's.
        margin: f64,
    },
}

/// The weights of the losses, and the task loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// λ1, weight of the dissociation loss.
    pub lambda_dissociation: f64,
    /// λ2, weight of the task loss.
    pub lambda_task: f64,
    /// The task loss.
    pub task: TaskLoss,
}

/// λ1 = 1, λ2 = 1, contrastive with τ = 0.07 (CLIP's initial temperature).
impl Default for Objective {
    fn default() -> Objective {
        Objective { lambda_dissociation: 1.0, lambda_task: 1.0, task: TaskLoss::Contrastive { temperature: 0.07 } }
    }
}

/// The losses of one batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// Total loss (Eq. 45).
    pub total: f64,
    /// Dissociation loss (Eq. 18): `Σ_j MSE(recon(Z_j), f_j)`.
    pub dissociation: f64,
    /// Retrieval loss.
    pub task: f64,
}

impl Losses {
    /// Combines the losses (Eq. 45).
    pub(super) fn new(dissociation: f64, task: f64, objective: &Objective) -> Losses {
        let total = objective.lambda_dissociation * dissociation + objective.lambda_task * task;
        Losses { total, dissociation, task }
    }
}

/// Relation of a candidate to an anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// A match: the loss pulls it near.
    Positive,
    /// No match: the loss pushes it away.
    Negative,
    /// Unknown, such as two moments of one video that may look alike: left out of the loss.
    Open,
}

/// Relations between the samples of a batch: anchors of one modality, candidates of another.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Relations {
    size: usize,
    all: Vec<Relation>,
}

impl Relations {
    /// The relations that `relation(anchor, candidate)` returns; a sample always matches itself.
    pub fn new(size: usize, relation: impl Fn(usize, usize) -> Relation) -> Relations {
        let of = |at: usize| match (at / size, at % size) {
            (anchor, candidate) if anchor == candidate => Relation::Positive,
            (anchor, candidate) => relation(anchor, candidate),
        };
        Relations { size, all: (0..size * size).map(of).collect() }
    }

    /// Number of samples in the batch.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Relation of a candidate to an anchor.
    pub fn of(&self, anchor: usize, candidate: usize) -> Relation {
        self.all[anchor * self.size + candidate]
    }
}

/// Value of a task loss on cosines `s` (anchors of one modality, candidates of the other). Adds its gradient
/// to `ds`. The result is the mean of both directions: rows as anchors, then columns as anchors.
pub(super) fn on_cosines(task: TaskLoss, s: &[f32], relations: &Relations, ds: &mut [f32]) -> f64 {
    let n = relations.size();
    let mut value = 0.0;
    let (mut line, mut gradient) = (vec![0f32; n], vec![0f32; n]);
    for columns in [false, true] {
        let at =
            |anchor: usize, candidate: usize| if columns { candidate * n + anchor } else { anchor * n + candidate };
        for anchor in 0..n {
            for (c, cosine) in line.iter_mut().enumerate() {
                *cosine = s[at(anchor, c)];
            }
            let to = |c: usize| if columns { relations.of(c, anchor) } else { relations.of(anchor, c) };
            gradient.fill(0.0);
            value += match task {
                TaskLoss::Contrastive { temperature } => contrastive(&line, to, temperature, &mut gradient),
                TaskLoss::Triplet { margin } => triplet(&line, to, margin, &mut gradient),
            };
            for (c, g) in gradient.iter().enumerate() {
                ds[at(anchor, c)] += g / (2 * n) as f32;
            }
        }
    }
    value / (2 * n) as f64
}

fn contrastive(line: &[f32], to: impl Fn(usize) -> Relation, temperature: f64, gradient: &mut [f32]) -> f64 {
    let counted = || (0..line.len()).filter(|c| to(*c) != Relation::Open);
    let highest = counted().map(|c| line[c]).fold(f32::NEG_INFINITY, f32::max);
    let exponent = |c: usize| f64::from(line[c] - highest) / temperature;
    let sum: f64 = counted().map(|c| exponent(c).exp()).sum();
    let positives = counted().filter(|c| to(*c) == Relation::Positive).count() as f64;
    let mut value = 0.0;
    for c in counted() {
        let mut target = 0.0;
        if to(c) == Relation::Positive {
            target = 1.0 / positives;
            value -= target * (exponent(c) - sum.ln());
        }
        gradient[c] = ((exponent(c).exp() / sum - target) / temperature) as f32;
    }
    value
}

fn triplet(line: &[f32], to: impl Fn(usize) -> Relation, margin: f64, gradient: &mut [f32]) -> f64 {
    let all = |relation| (0..line.len()).filter(|c| to(*c) == relation).collect::<Vec<usize>>();
    let hardest = all(Relation::Negative).into_iter().max_by(|a, b| line[*a].total_cmp(&line[*b]));
    let Some(hardest) = hardest else { return 0.0 };
    let positives = all(Relation::Positive);
    let share = 1.0 / positives.len() as f32;
    let mut value = 0.0;
    for p in positives {
        let violation = margin - f64::from(line[p]) + f64::from(line[hardest]);
        if violation > 0.0 {
            value += violation * f64::from(share);
            gradient[p] -= share;
            gradient[hardest] += share;
        }
    }
    value
}

/// Buffers of [`on_embeddings`], reused between steps.
#[derive(Debug, Default)]
pub(super) struct LossBuffers {
    /// Invariant parts of each modality, scaled to length 1.
    units: Vec<Vec<f32>>,
    /// Lengths of the invariant parts of each modality.
    norms: Vec<Vec<f32>>,
    /// Gradient with respect to the scaled parts.
    unit_gradient: Vec<f32>,
    /// Cosines of two modalities.
    s: Vec<f32>,
    /// Gradient with respect to the cosines.
    ds: Vec<f32>,
}

impl LossBuffers {
    /// Scales the invariant parts of modality `j`, (l*, batch), to length 1.
    fn normalise(&mut self, j: usize, part: &[f32], n: usize) {
        let norms = &mut self.norms[j];
        norms.clear();
        norms.resize(n, 0.0);
        for row in part.chunks_exact(n) {
            for (sum, v) in norms.iter_mut().zip(row) {
                *sum += v * v;
            }
        }
        norms.iter_mut().for_each(|v| *v = v.sqrt().max(NORM_FLOOR));
        let unit = &mut self.units[j];
        unit.clear();
        unit.extend_from_slice(part);
        for row in unit.chunks_exact_mut(n) {
            for (v, norm) in row.iter_mut().zip(&*norms) {
                *v /= norm;
            }
        }
    }

    /// Passes `unit_gradient` through the scaling of modality `j` to length 1, and adds it times `scale` to
    /// `gradient`: `de = (du − u · (u·du)) / |e|`.
    fn add_gradient(&self, j: usize, n: usize, scale: f32, gradient: &mut [f32]) {
        let mut along = vec![0f32; n];
        for (du, u) in self.unit_gradient.chunks_exact(n).zip(self.units[j].chunks_exact(n)) {
            for ((sum, du), u) in along.iter_mut().zip(du).zip(u) {
                *sum += du * u;
            }
        }
        let rows = gradient.chunks_exact_mut(n).zip(self.unit_gradient.chunks_exact(n));
        for ((out, du), u) in rows.zip(self.units[j].chunks_exact(n)) {
            for i in 0..n {
                out[i] += scale * (du[i] - u[i] * along[i]) / self.norms[j][i];
            }
        }
    }
}

/// Value of the task loss on invariant parts, each (l*, batch). Writes its gradient times `scale` to
/// `gradients`.
pub(super) fn on_embeddings(
    task: TaskLoss,
    parts: &[&[f32]],
    relations: &Relations,
    scale: f32,
    gradients: &mut [Vec<f32>],
    buffers: &mut LossBuffers,
) -> f64 {
    let n = relations.size();
    let d = parts.len();
    let length = parts[0].len();
    buffers.units.resize_with(d, Vec::new);
    buffers.norms.resize_with(d, Vec::new);
    for (j, part) in parts.iter().enumerate() {
        buffers.normalise(j, part, n);
        gradients[j].clear();
        gradients[j].resize(length, 0.0);
    }
    let pairs = (d * (d - 1) / 2) as f32;
    let mut value = 0.0;
    buffers.unit_gradient.resize(length, 0.0);
    for p in 0..d {
        for q in p + 1..d {
            let (u, w) = (MatrixView::rows(&buffers.units[p], n), MatrixView::rows(&buffers.units[q], n));
            buffers.s.resize(n * n, 0.0);
            linalg::multiply(&mut buffers.s, 0.0, u.transposed(), w);
            buffers.ds.clear();
            buffers.ds.resize(n * n, 0.0);
            value += on_cosines(task, &buffers.s, relations, &mut buffers.ds) / f64::from(pairs);
            // dU = W · dSᵀ, dW = U · dS.
            for (j, other) in [(p, q), (q, p)] {
                let ds = MatrixView::rows(&buffers.ds, n);
                let ds = if j == p { ds.transposed() } else { ds };
                linalg::multiply(&mut buffers.unit_gradient, 0.0, MatrixView::rows(&buffers.units[other], n), ds);
                buffers.add_gradient(j, n, scale / pairs, &mut gradients[j]);
            }
        }
    }
    value
}

/// Smallest divisor that scales an embedding to length 1. The direction of a shorter embedding is noise.
pub(super) const NORM_FLOOR: f32 = 1e-8;

#[cfg(test)]
mod tests {
    use super::*;

    const TASKS: [TaskLoss; 2] = [TaskLoss::Contrastive { temperature: 0.5 }, TaskLoss::Triplet { margin: 0.3 }];

    #[test]
    fn one_pair_has_no_loss() {
        let relations = Relations::new(1, |_, _| Relation::Negative);
        for task in TASKS {
            let mut ds = [0.0];
            assert_eq!(on_cosines(task, &[0.3], &relations, &mut ds), 0.0);
            assert_eq!(ds, [0.0]);
        }
    }

    #[test]
    fn infonce_matches_a_hand_computation() {
        // Each of the four anchors has the cosines [1, 0] and the loss −log(e / (e + 1)).
        let relations = Relations::new(2, |_, _| Relation::Negative);
        let mut ds = [0.0; 4];
        let value = on_cosines(TaskLoss::Contrastive { temperature: 1.0 }, &[1.0, 0.0, 0.0, 1.0], &relations, &mut ds);
        assert!((value - (1.0 + (-1f64).exp()).ln()).abs() < 1e-6, "{value}");
    }

    #[test]
    fn ignores_candidates_of_open_relation() {
        let relations = Relations::new(3, |a, c| if a + c == 1 { Relation::Negative } else { Relation::Open });
        let s = [0.5, 0.4, 9.0, 0.3, 0.6, 9.0, 9.0, 9.0, 0.1];
        let few = Relations::new(2, |_, _| Relation::Negative);
        for task in TASKS {
            let (mut ds, mut of_few) = ([0.0; 9], [0.0; 4]);
            let value = on_cosines(task, &s, &relations, &mut ds);
            // Six anchors instead of four. The two new ones have no negative.
            assert!((value * 6.0 - on_cosines(task, &[0.5, 0.4, 0.3, 0.6], &few, &mut of_few) * 4.0).abs() < 1e-6);
            assert!([2, 5, 6, 7].iter().all(|at| ds[*at] == 0.0), "{ds:?}");
        }
    }

    #[test]
    fn gradients_match_finite_differences() {
        // 4 samples, 2 of which share a label, and one pair of open relation; three modalities of 5 numbers.
        let relations = Relations::new(4, |a, b| match (a, b) {
            (0 | 1, 0 | 1) => Relation::Positive,
            (1, 3) => Relation::Open,
            _ => Relation::Negative,
        });
        for task in TASKS {
            let parts: Vec<Vec<f32>> =
                (0..3).map(|j| (0..20).map(|i| ((i * 7 + j * 5) % 11) as f32 * 0.2 - 0.9).collect()).collect();
            let value = |parts: &[Vec<f32>], gradients: &mut [Vec<f32>]| {
                let views: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
                on_embeddings(task, &views, &relations, 1.0, gradients, &mut LossBuffers::default())
            };
            let mut gradients = vec![Vec::new(); 3];
            value(&parts, &mut gradients);
            for j in 0..3 {
                for i in 0..20 {
                    let at = |step: f32| {
                        let mut moved = parts.clone();
                        moved[j][i] += step;
                        value(&moved, &mut vec![Vec::new(); 3])
                    };
                    let slope = (at(1e-3) - at(-1e-3)) / 2e-3;
                    let found = f64::from(gradients[j][i]);
                    assert!((slope - found).abs() < 2e-3, "{task:?} {j} {i}: {slope} {found}");
                }
            }
        }
    }
}
