//! Losses as functions of log-probabilities: several passes over one base, each under what acts there, and one number made of
//! all their targets' log-probabilities. Refuses to know: which loss it is.

use super::super::Model;
use super::super::site::{Adapt, Site};
use super::gradients::{Held, Learner, Times};
use super::prepared::PreparedAdapter;
use super::sums::SiteGradient;
use super::texts::PackedTexts;
use super::workspace::Workspace;
use crate::error::{Error, Result};

/// Texts that go through the model under one adapter, or under `()`.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    pub adapt: &'a dyn Adapt,
    pub rows: &'a [&'a [u32]],
    /// Whether token `i` of a row is a target.
    pub trained: &'a dyn Fn(usize, usize) -> bool,
    /// Whether gradients of what `adapt` trains are wanted.
    pub learns: bool,
}

/// A number for each target of a pass: by row, in the order of its tokens.
pub type Logps = Vec<Vec<f32>>;

/// From the log-probabilities of each pass (nats) to the loss and, for each pass that learns, `∂ loss / ∂ log p` in the same
/// shape; of the others nothing is read.
pub type LossOfLogps<'a> = &'a mut dyn FnMut(&[Logps]) -> Result<(f64, Vec<Logps>)>;

/// What came of several passes.
#[derive(Debug)]
pub struct PassGradients {
    pub loss: f64,
    /// Of each pass; empty for one that does not learn.
    pub gradients: Vec<Vec<(Site, SiteGradient)>>,
    /// Of the passes that learn.
    pub times: Times,
}

impl Model {
    /// A loss of the log-probabilities of all `passes`, and its gradients.
    ///
    /// What the way back needs is kept while the loss is computed if `scratch.recompute` allows that for all passes together;
    /// otherwise texts go forward once more.
    ///
    /// # Errors
    /// As [`Model::gradients`], what `loss` returns, and for slopes that are not in the shape of the log-probabilities.
    pub fn loss_of(&self, scratch: &mut Workspace, passes: &[Pass], loss: LossOfLogps) -> Result<PassGradients> {
        let adapters = passes.iter().map(|pass| self.prepare(pass.adapt)).collect::<Result<Vec<_>>>()?;
        let mut running: Vec<Running> = passes.iter().zip(&adapters).map(|(pass, a)| Running::new(self, pass, a)).collect();
        let tokens = |run: &Running| run.groups.iter().map(PackedTexts::room).collect::<Vec<_>>();
        scratch.fit(running.iter().flat_map(tokens).max().unwrap_or(0));
        let learned: usize = running.iter().filter(|run| run.learner.is_some()).flat_map(tokens).sum();
        let hold = running.iter().filter_map(|run| run.learner.as_ref()).all(|l| !l.recomputes(scratch.recompute, learned));
        let mut logps = Vec::new();
        for run in &mut running {
            logps.push(run.forward(self, scratch, hold)?);
        }
        let (loss, slopes) = loss(&logps)?;
        let mut all = PassGradients { loss, gradients: Vec::new(), times: Times::default() };
        for (i, run) in running.into_iter().enumerate() {
            let slopes = slopes.get(i).filter(|slopes| same_shape(slopes, &logps[i]));
            all.gradients.push(match run.learner.is_some() {
                true => run.backward(scratch, slopes.ok_or_else(|| misshapen(i))?, &mut all.times)?,
                false => Vec::new(),
            });
        }
        Ok(all)
    }
}

/// A pass on its way.
struct Running<'a> {
    adapter: &'a PreparedAdapter,
    rows: usize,
    groups: Vec<PackedTexts>,
    learner: Option<Learner<'a>>,
    /// What waits for its way back, where memory allows it to.
    held: Vec<Held>,
}

impl<'a> Running<'a> {
    fn new(model: &'a Model, pass: &Pass, adapter: &'a PreparedAdapter) -> Running<'a> {
        let groups = model.texts_of(pass.rows, pass.trained);
        let learner = pass.learns.then(|| Learner::new(model, adapter));
        Running { adapter, rows: pass.rows.len(), groups, learner, held: Vec::new() }
    }

    /// Log-probabilities of the targets; what the way back needs stays here if it is to be held.
    fn forward(&mut self, model: &Model, scratch: &mut Workspace, hold: bool) -> Result<Logps> {
        let mut logps = vec![Vec::new(); self.rows];
        for texts in &self.groups {
            let found = match self.learner.as_mut().filter(|_| hold) {
                Some(learner) => {
                    let (found, held) = learner.there(scratch, texts)?;
                    self.held.push(held);
                    found
                }
                None => model.logps_of(scratch, self.adapter, texts)?,
            };
            texts.hand_out(found, &mut logps);
        }
        Ok(logps)
    }

    /// The gradients of what this pass trains.
    fn backward(self, scratch: &mut Workspace, slopes: &Logps, times: &mut Times) -> Result<Vec<(Site, SiteGradient)>> {
        let Some(mut learner) = self.learner else { return Ok(Vec::new()) };
        let mut held = self.held.into_iter();
        for texts in &self.groups {
            let weights = weights(texts, slopes);
            match held.next() {
                Some(held) => learner.back(scratch, texts, held, &weights)?,
                None => drop(learner.there_and_back(scratch, texts, &weights)?),
            }
        }
        times.forward += learner.times.forward;
        times.backward += learner.times.backward;
        learner.gradients()
    }
}

fn same_shape(slopes: &Logps, logps: &Logps) -> bool {
    slopes.len() == logps.len() && slopes.iter().zip(logps).all(|(s, l)| s.len() == l.len())
}

fn misshapen(pass: usize) -> Error {
    Error::usage(
        format!("the loss of pass {pass}"),
        "its slopes are not one number for each target",
        "return ∂ loss / ∂ log p in the shape of the log-probabilities",
    )
}

/// `∂ loss / ∂ −log p` of each target of a group.
fn weights(texts: &PackedTexts, slopes: &Logps) -> Vec<f32> {
    let mut next = vec![0; slopes.len()];
    let of = |at: &u32| {
        let row = texts.whose[*at as usize];
        next[row] += 1;
        -slopes[row][next[row] - 1]
    };
    texts.targets.at.iter().map(of).collect()
}
