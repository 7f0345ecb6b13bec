//! What a run will take, before it is started. Refuses to know how that is shown.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};

use super::events::Listener;
use super::feasible;
use super::prepare::{self, Prepared};
use crate::error::Result;
use crate::estimate::{self, MemoryEstimate, PlannedRun, Setting, Time};
use crate::model::Site;
use crate::recipe::Recipe;
use crate::{device, machine};

/// Memory by part, tokens, steps and time of a run of `recipe`, without starting it; and the setting that fits into `budget`
/// bytes (what is available now, if not said) where its own does not. Everything up to the first step is checked.
///
/// # Errors
/// Whatever is wrong with the recipe, base or data; when the listener ends the job.
pub fn estimate(recipe: &Recipe, budget: Option<u64>, listener: &mut Listener<'_>) -> Result<Forecast> {
    Forecast::of(recipe, &prepare::prepare(recipe, Instant::now(), listener)?, budget)
}

/// What a run will take.
#[derive(Debug, Clone)]
pub struct Forecast {
    pub work: PlannedRun,
    pub memory: MemoryEstimate,
    /// Where the run is to compute, as `--device` names it.
    pub device: String,
    /// Bytes that the run may take; `None` where nobody said and the machine does not tell.
    pub budget: Option<u64>,
    /// A setting that stays in the budget, where the recipe's own does not.
    pub instead: Option<Setting>,
    /// `None` where the run does not fit, so that it was not tried.
    pub time: Option<Time>,
    /// To train on, and held out.
    pub rows: (usize, usize),
    /// What became of the rows where it is not simply all of them; sentences.
    pub told: Vec<String>,
    /// Trained values.
    pub params: usize,
    /// Adapted sites by the last part of their path.
    pub sites: BTreeMap<String, usize>,
}

impl Forecast {
    fn of(recipe: &Recipe, prepared: &Prepared, budget: Option<u64>) -> Result<Forecast> {
        let Prepared { opened, loaded, adapter, .. } = prepared;
        let run = prepared.setup(&recipe.train);
        let program = estimate::memory::program(&run);
        // What this process holds already is not available any more, but it is not needed a second time.
        let held = machine::resident().map_or(0, |r| r.anonymous);
        let free = machine::memory().map(|m| m.available + held);
        let memory = MemoryEstimate::of(&run, &recipe.eval, program);
        let budget = budget.or(free);
        let fits = budget.is_none_or(|budget| memory.total() <= budget);
        let instead = budget.filter(|_| !fits).and_then(|b| estimate::fitting(&run, &recipe.eval, program, b));
        let work = PlannedRun::of(&run)?;
        let possible = free.is_none_or(|free| memory.total() <= free);
        let time = if possible { Some(estimate::measure(&run, &work)?) } else { None };
        let mut sites = BTreeMap::new();
        for (_, site) in opened.model.sites().iter().enumerate().filter(|(i, _)| adapter.low_rank(Site(*i)).is_some()) {
            *sites.entry(site.path.rsplit('.').next().unwrap_or(&site.path).to_string()).or_default() += 1;
        }
        let (rows, params) = ((loaded.train.len(), loaded.heldout.len()), adapter.param_count());
        let told = feasible::said(loaded, &prepared.sets, &feasible::in_full);
        let device = device::name(&opened.model.device);
        Ok(Forecast { work, memory, device, budget, instead, time, rows, told, params, sites })
    }

    /// Whether the run stays in the budget.
    pub fn fits(&self) -> bool {
        self.budget.is_none_or(|budget| self.memory.total() <= budget)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let parts: serde_json::Map<String, Value> =
            self.memory.parts().iter().map(|(what, bytes)| ((*what).to_string(), json!(bytes))).collect();
        json!({
            "rows": self.rows.0,
            "heldout_rows": self.rows.1,
            "told": self.told,
            "params": self.params,
            "sites": self.sites,
            "work": self.work,
            "memory": parts,
            "device": self.device,
            "device_memory": self.memory.device,
            "device_mb": self.memory.device.map(|d| d.total() as f64 / 1e6),
            "recomputed": self.memory.recomputed,
            "peak_rss_mb": self.memory.total() as f64 / 1e6,
            "budget_mb": self.budget.map(|b| b as f64 / 1e6),
            "fits": self.fits(),
            "would_fit": self.instead,
            "time": self.time,
        })
    }
}
