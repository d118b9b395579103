//! What training minimises: `L = λ1 · L_dis + λ2 · L_task` (Eq. 45).
//!
//! `L_dis` is the paper's (Eq. 18). The paper does not spell out its retrieval loss; the task losses here are **our choice**:
//! supervised contrastive (Khosla et al., 2020; with one positive each it is InfoNCE) or a triplet loss with the hardest
//! negative of the batch (Faghri et al., 2018). Both look at cosines between invariant parts of two modalities and are
//! averaged over both directions and, for more than two modalities, over all pairs of modalities. Candidates whose relation is
//! open are in neither P(i) nor N(i), and in no sum.

use serde::{Deserialize, Serialize};

use crate::base::linalg::{self, MatrixView};

/// The retrieval loss over the invariant parts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// `−1/|P(i)| Σ_{p ∈ P(i)} log softmax_c(s_ic / τ)` at `c = p`, meaned over anchors `i`.
    Contrastive {
        /// τ > 0.
        temperature: f64,
    },
    /// `1/|P(i)| Σ_{p ∈ P(i)} max(0, margin − s_ip + max_{n ∈ N(i)} s_in)`, meaned over anchors `i`.
    Triplet {
        /// Cosine by which a positive should lead.
        margin: f64,
    },
}

/// Weights of the losses, and the task loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// λ1, of the dissociation loss.
    pub lambda_dissociation: f64,
    /// λ2, of the task loss.
    pub lambda_task: f64,
    /// The task loss.
    pub task: Task,
}

/// λ1 = 1, λ2 = 1, contrastive with τ = 0.07 (the temperature of CLIP's start).
impl Default for Objective {
    fn default() -> Objective {
        Objective { lambda_dissociation: 1.0, lambda_task: 1.0, task: Task::Contrastive { temperature: 0.07 } }
    }
}

/// The losses of one batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// Eq. 45.
    pub total: f64,
    /// Eq. 18: `Σ_j MSE(recon(Z_j), f_j)`.
    pub dissociation: f64,
    /// The retrieval loss.
    pub task: f64,
}

/// What a candidate is to an anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// It belongs to it: brought near.
    Positive,
    /// It does not: pushed away.
    Negative,
    /// It cannot be said, as of two moments of one video that may look alike: left out of the loss.
    Open,
}

/// What the samples of a batch are to each other: anchors of one modality, candidates of another.
#[derive(Debug, Clone, PartialEq)]
pub struct Relations {
    size: usize,
    all: Vec<Relation>,
}

impl Relations {
    /// As `relation(anchor, candidate)` says; a sample always belongs to itself.
    pub fn new(size: usize, relation: impl Fn(usize, usize) -> Relation) -> Relations {
        let of = |at: usize| match (at / size, at % size) {
            (anchor, candidate) if anchor == candidate => Relation::Positive,
            (anchor, candidate) => relation(anchor, candidate),
        };
        Relations { size, all: (0..size * size).map(of).collect() }
    }

    /// Samples in the batch.
    pub fn size(&self) -> usize {
        self.size
    }

    /// What the candidate is to the anchor.
    pub fn of(&self, anchor: usize, candidate: usize) -> Relation {
        self.all[anchor * self.size + candidate]
    }
}

/// Value of a task loss on cosines `s` (anchors of one modality, candidates of the other), and its gradient added to `ds`.
/// Anchors are rows, then columns: the mean of both directions.
pub(super) fn on_cosines(task: Task, s: &[f32], relations: &Relations, ds: &mut [f32]) -> f64 {
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
                Task::Contrastive { temperature } => contrastive(&line, to, temperature, &mut gradient),
                Task::Triplet { margin } => triplet(&line, to, margin, &mut gradient),
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

/// Scratch for [`on_embeddings`], kept between steps.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    units: Vec<Vec<f32>>,
    norms: Vec<Vec<f32>>,
    toward: Vec<f32>,
    s: Vec<f32>,
    ds: Vec<f32>,
}

/// Value of the task loss on invariant parts, each (l*, batch), and its gradient times `scale` written to `gradients`.
pub(super) fn on_embeddings(
    task: Task,
    parts: &[&[f32]],
    relations: &Relations,
    scale: f32,
    gradients: &mut [Vec<f32>],
    scratch: &mut Scratch,
) -> f64 {
    let n = relations.size();
    let d = parts.len();
    let length = parts[0].len();
    scratch.units.resize_with(d, Vec::new);
    scratch.norms.resize_with(d, Vec::new);
    for (j, part) in parts.iter().enumerate() {
        let norms = &mut scratch.norms[j];
        norms.clear();
        norms.resize(n, 0.0);
        for row in part.chunks_exact(n) {
            for (sum, v) in norms.iter_mut().zip(row) {
                *sum += v * v;
            }
        }
        norms.iter_mut().for_each(|v| *v = v.sqrt().max(NORM_FLOOR));
        let unit = &mut scratch.units[j];
        unit.clear();
        unit.extend_from_slice(part);
        for row in unit.chunks_exact_mut(n) {
            for (v, norm) in row.iter_mut().zip(&*norms) {
                *v /= norm;
            }
        }
        gradients[j].clear();
        gradients[j].resize(length, 0.0);
    }
    let pairs = (d * (d - 1) / 2) as f32;
    let mut value = 0.0;
    scratch.toward.resize(length, 0.0);
    for p in 0..d {
        for q in p + 1..d {
            let (u, w) = (MatrixView::rows(&scratch.units[p], n), MatrixView::rows(&scratch.units[q], n));
            scratch.s.resize(n * n, 0.0);
            linalg::multiply(&mut scratch.s, 0.0, u.transposed(), w);
            scratch.ds.clear();
            scratch.ds.resize(n * n, 0.0);
            value += on_cosines(task, &scratch.s, relations, &mut scratch.ds) / f64::from(pairs);
            let ds = MatrixView::rows(&scratch.ds, n);
            // dU = W · dSᵀ, dW = U · dS, then through the scaling to length 1: de = (du − u · (u·du)) / |e|.
            for (j, other, ds) in [(p, w, ds.transposed()), (q, u, ds)] {
                linalg::multiply(&mut scratch.toward, 0.0, other, ds);
                let mut along = vec![0f32; n];
                for (du, u) in scratch.toward.chunks_exact(n).zip(scratch.units[j].chunks_exact(n)) {
                    for ((sum, du), u) in along.iter_mut().zip(du).zip(u) {
                        *sum += du * u;
                    }
                }
                let rows = gradients[j].chunks_exact_mut(n).zip(scratch.toward.chunks_exact(n));
                for ((out, du), u) in rows.zip(scratch.units[j].chunks_exact(n)) {
                    for i in 0..n {
                        out[i] += scale / pairs * (du[i] - u[i] * along[i]) / scratch.norms[j][i];
                    }
                }
            }
        }
    }
    value
}

/// Shorter embeddings are not scaled up: their direction is noise.
pub(super) const NORM_FLOOR: f32 = 1e-8;

#[cfg(test)]
mod tests {
    use super::*;

    const TASKS: [Task; 2] = [Task::Contrastive { temperature: 0.5 }, Task::Triplet { margin: 0.3 }];

    #[test]
    fn one_pair_alone_costs_nothing() {
        let relations = Relations::new(1, |_, _| Relation::Negative);
        for task in TASKS {
            let mut ds = [0.0];
            assert_eq!(on_cosines(task, &[0.3], &relations, &mut ds), 0.0);
            assert_eq!(ds, [0.0]);
        }
    }

    #[test]
    fn infonce_by_hand() {
        // Rows: s = [1, 0]: −log(e / (e + 1)); the same for each of the four anchors.
        let relations = Relations::new(2, |_, _| Relation::Negative);
        let mut ds = [0.0; 4];
        let value = on_cosines(Task::Contrastive { temperature: 1.0 }, &[1.0, 0.0, 0.0, 1.0], &relations, &mut ds);
        assert!((value - (1.0 + (-1f64).exp()).ln()).abs() < 1e-6, "{value}");
    }

    #[test]
    fn candidates_of_open_relation_count_for_nothing() {
        let relations = Relations::new(3, |a, c| if a + c == 1 { Relation::Negative } else { Relation::Open });
        let s = [0.5, 0.4, 9.0, 0.3, 0.6, 9.0, 9.0, 9.0, 0.1];
        let few = Relations::new(2, |_, _| Relation::Negative);
        for task in TASKS {
            let (mut ds, mut of_few) = ([0.0; 9], [0.0; 4]);
            let value = on_cosines(task, &s, &relations, &mut ds);
            // Six anchors instead of four, of which the two new ones have nothing to be told from.
            assert!((value * 6.0 - on_cosines(task, &[0.5, 0.4, 0.3, 0.6], &few, &mut of_few) * 4.0).abs() < 1e-6);
            assert!([2, 5, 6, 7].iter().all(|at| ds[*at] == 0.0), "{ds:?}");
        }
    }

    #[test]
    fn gradients_are_the_slopes_of_the_values() {
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
                on_embeddings(task, &views, &relations, 1.0, gradients, &mut Scratch::default())
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
