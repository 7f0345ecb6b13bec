//! A feed-forward of experts (Shazeer et al. 2017; Fedus et al. 2021): each token goes through a few of them. Only what a token meets
//! is computed.

use std::ops::Range;

use super::super::layers::Experts;
use super::dense::Made;
use super::machine::{Given, Machine, Unscaled};
use super::prepared::PreparedAdapter;
use crate::error::Result;

/// Which tokens meet which expert, and how much each counts.
struct Routing {
    /// Probabilities of the experts (n, E).
    probabilities: Vec<f32>,
    /// Tokens of each expert, ascending, and their weights.
    met: Vec<(Vec<u32>, Vec<f32>)>,
}

/// How the tokens of a pass met the experts of its layers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExpertBalance {
    /// By expert: tokens that met it, and the sum of its probabilities.
    experts: Vec<[f64; 2]>,
    /// Tokens, once a layer.
    tokens: usize,
}

impl ExpertBalance {
    fn count(&mut self, routing: &Routing) {
        let experts = routing.met.len();
        self.experts.resize(experts, [0.0; 2]);
        self.tokens += routing.probabilities.len() / experts;
        for (sum, (tokens, _)) in self.experts.iter_mut().zip(&routing.met) {
            sum[0] += tokens.len() as f64;
        }
        for row in routing.probabilities.chunks_exact(experts) {
            self.experts.iter_mut().zip(row).for_each(|(sum, p)| sum[1] += f64::from(*p));
        }
    }

    pub(super) fn add(&mut self, other: &ExpertBalance) {
        self.experts.resize(self.experts.len().max(other.experts.len()), [0.0; 2]);
        self.tokens += other.tokens;
        for (sum, more) in self.experts.iter_mut().zip(&other.experts) {
            *sum = [sum[0] + more[0], sum[1] + more[1]];
        }
    }

    /// `E · Σ f·p`, with the share f of tokens that an expert meets and its mean probability p (Fedus et al. 2021, eq. 4; transformers'
    /// `load_balancing_loss_func`): the number of experts a token meets where all are met evenly, more elsewhere. Nothing without
    /// experts.
    pub fn loss(&self) -> Option<f64> {
        let (count, tokens) = (self.experts.len() as f64, self.tokens as f64);
        let sum: f64 = self.experts.iter().map(|[met, p]| met * p).sum();
        (self.tokens > 0).then(|| count * sum / (tokens * tokens))
    }
}

/// What experts keep for their backward pass.
pub(super) struct ExpertActivations<M: Machine> {
    routing: Routing,
    /// Of each expert that was met.
    made: Vec<Option<Made<M>>>,
}

impl<M: Machine> ExpertActivations<M> {
    pub(super) fn on<N: Machine<Act = M::Act, Wide = M::Wide, Saved = M::Saved>>(self) -> ExpertActivations<N> {
        ExpertActivations { routing: self.routing, made: self.made }
    }

    pub(super) fn count(&self, balance: &mut ExpertBalance) {
        balance.count(&self.routing);
    }

    pub(super) fn free(self, m: &mut M) {
        let made = self.made.into_iter().flatten();
        made.flat_map(|(gate, up)| gate.into_iter().chain([up])).for_each(|act| m.free(act));
    }
}

/// Some tokens of a pass as a pass of their own.
struct Part<'a> {
    ids: Vec<u32>,
    positions: Vec<u32>,
    rows: Vec<u64>,
    acting: Vec<(Range<usize>, &'a PreparedAdapter)>,
    chosen: &'a [u32],
}

impl<'a> Part<'a> {
    /// The tokens `chosen`, ascending, of `given`.
    fn new(given: &Given<'a>, chosen: &'a [u32]) -> Part<'a> {
        let of = |all: &[u32]| chosen.iter().map(|at| all[*at as usize]).collect();
        let rows = if given.rows.is_empty() { Vec::new() } else { chosen.iter().map(|at| given.rows[*at as usize]).collect() };
        let mut acting = Vec::new();
        for (tokens, adapter) in given.acting {
            let [from, to] = [tokens.start, tokens.end].map(|end| chosen.partition_point(|at| (*at as usize) < end));
            if from < to {
                acting.push((from..to, *adapter));
            }
        }
        Part { ids: of(given.ids), positions: of(given.positions), rows, acting, chosen }
    }

    fn given<'b>(&'b self, of: &Given<'b>) -> Given<'b> {
        Given {
            acting: &self.acting,
            ids: &self.ids,
            positions: &self.positions,
            rows: &self.rows,
            chosen: Some(self.chosen),
            ..*of
        }
    }
}

impl Experts {
    /// Adds what the experts make of what they read (n, d) to `out` (n, d); the router reads the second.
    pub(super) fn forward<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        [read, routed]: [&M::Act; 2],
        out: &mut M::Wide,
        unscaled: &mut Unscaled<M>,
    ) -> Result<ExpertActivations<M>> {
        let routing = self.route(m.route(given, &self.router, routed)?);
        let mut made = Vec::with_capacity(self.each.len());
        for (expert, (tokens, weights)) in self.each.iter().zip(&routing.met) {
            if tokens.is_empty() {
                made.push(None);
                continue;
            }
            let part = Part::new(given, tokens);
            let given = part.given(given);
            let own = m.gather(&given, read)?;
            let kept = expert.made(m, &given, &own, unscaled)?;
            m.free(own);
            let act = expert.act(m, &given, &kept)?;
            let y = m.project(&given, &[&expert.down], &act, unscaled)?.remove(0);
            m.free(act);
            m.scatter_add(&given, y, Some(weights), out)?;
            made.push(Some(kept));
        }
        Ok(ExpertActivations { routing, made })
    }

    /// Adds the gradient (n, d) at what the experts read to `d_read`, given that of what they made; returns that of the router's
    /// logits (n, E).
    pub(super) fn backward<M: Machine>(
        &self,
        m: &mut M,
        given: &Given,
        d_out: &M::Act,
        kept: &mut ExpertActivations<M>,
        (read, d_read): (&M::Act, &mut M::Wide),
        unscaled: &Unscaled<M>,
    ) -> Result<Vec<f32>> {
        let mut d_weights: Vec<Vec<f32>> = Vec::with_capacity(self.each.len());
        for ((expert, (tokens, weights)), made) in self.each.iter().zip(&kept.routing.met).zip(&mut kept.made) {
            let Some(made) = made else {
                d_weights.push(Vec::new());
                continue;
            };
            let part = Part::new(given, tokens);
            let given = part.given(given);
            let mut dy = m.gather(&given, d_out)?;
            m.weigh(weights, &mut dy)?;
            let act = expert.act(m, &given, made)?;
            let d_act = m.project_back_rounded(&given, &[(&expert.down, &dy)], Some(&act), unscaled)?;
            // Of the weighted output: a weight's own gradient is that over the weight.
            let mut dots = m.dots(&given, &act, &d_act)?;
            if let Some(bias) = &expert.down.linear.bias {
                let more = m.dots_with(&given, &dy, bias)?;
                dots.iter_mut().zip(more).for_each(|(dot, more)| *dot += more);
            }
            d_weights.push(dots.iter().zip(weights).map(|(dot, w)| if *w == 0.0 { 0.0 } else { dot / w }).collect());
            m.free(act);
            m.free(dy);
            let back = expert.made_back(m, &given, d_act, made, |m| m.gather(&given, read), unscaled)?;
            m.scatter_add(&given, back, None, d_read)?;
        }
        Ok(self.route_back(&kept.routing, &d_weights))
    }

    /// The experts that each token meets, of their logits (n, E): transformers' `MixtralTopKRouter`, `Qwen3MoeTopKRouter`.
    fn route(&self, mut logits: Vec<f32>) -> Routing {
        let experts = self.each.len();
        let mut met = vec![(Vec::new(), Vec::new()); experts];
        for (token, row) in logits.chunks_exact_mut(experts).enumerate() {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|l| *l = (*l - largest).exp());
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|l| *l /= sum);
            let mut order: Vec<usize> = (0..experts).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            let chosen = &order[..self.chosen];
            let total: f32 = if self.renormalised { chosen.iter().map(|e| row[*e]).sum() } else { 1.0 };
            for expert in chosen {
                met[*expert].0.push(token as u32);
                met[*expert].1.push(row[*expert] / total * self.scale(*expert));
            }
        }
        Routing { probabilities: logits, met }
    }

    /// The gradient of the experts' logits (n, E), given those of the weights.
    fn route_back(&self, routing: &Routing, d_weights: &[Vec<f32>]) -> Vec<f32> {
        let experts = self.each.len();
        let p = &routing.probabilities;
        let mut d_logits = vec![0f32; p.len()];
        // Σ of each token's gradients by its weights.
        let mut along = vec![0f32; p.len() / experts];
        for ((tokens, weights), d) in routing.met.iter().zip(d_weights) {
            tokens.iter().zip(weights).zip(d).for_each(|((token, w), d)| along[*token as usize] += w * d);
        }
        for (expert, ((tokens, weights), d)) in routing.met.iter().zip(d_weights).enumerate() {
            for ((token, weight), d) in tokens.iter().zip(weights).zip(d) {
                let at = *token as usize;
                // A softmax over the chosen, or one over all of which the others are left out.
                let own = if self.renormalised { along[at] / self.scale(expert) } else { 0.0 };
                d_logits[at * experts + expert] += weight * (d - own);
            }
        }
        if !self.renormalised {
            for (at, row) in d_logits.chunks_exact_mut(experts).enumerate() {
                row.iter_mut().zip(&p[at * experts..]).for_each(|(d, p)| *d -= p * along[at]);
            }
        }
        d_logits
    }

    /// What the weights of an expert are multiplied with.
    fn scale(&self, expert: usize) -> f32 {
        self.scales.as_ref().map_or(1.0, |scales| scales[expert])
    }
}
