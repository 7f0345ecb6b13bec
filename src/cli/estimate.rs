//! `lorakit estimate RECIPE`, and what `train --dry-run` says: what a run will take, before it is started.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::prepare::{self, Prepared};
use super::print;
use crate::error::Result;
use crate::estimate::{self, Memory, Setting, Time, Work};
use crate::machine;
use crate::model::Site;
use crate::recipe::{Recipe, Warmup};
use crate::train::Job;

/// Memory by part, tokens, steps and time of a run, without starting it; and the setting that fits if it does not.
#[derive(Debug, Args)]
pub struct EstimateArgs {
    recipe: PathBuf,
    /// Replace a value, e.g. --set train.max_length=1024
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Memory the run may take, e.g. 4GiB or 800MB (default: what is available on this machine now)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// Whatever is wrong with the recipe, base or data.
pub fn run(args: &EstimateArgs) -> Result<()> {
    let recipe = super::base::recipe(&args.recipe, &args.set)?;
    let prepared = prepare::prepare(&recipe, args.json)?;
    let told = Told::of(&recipe, &prepared, args.memory)?;
    print(&if args.json { format!("{}\n", told.json()) } else { told.text(&recipe) })
}

/// What `train --dry-run` says; everything up to the first step was checked before.
///
/// # Errors
/// What the short measurement of time reports.
pub(super) fn dry_run(recipe: &Recipe, prepared: &Prepared, out: &Path, as_json: bool) -> Result<()> {
    let told = Told::of(recipe, prepared, None)?;
    if as_json {
        return print(&format!("{}\n", told.json()));
    }
    let train = &recipe.train;
    let warmup = match train.warmup {
        Warmup::Steps(steps) => format!("{steps} steps"),
        Warmup::Ratio(ratio) => format!("{} %", ratio * 100.0),
    };
    let schedule = format!("{:?}", train.schedule).to_lowercase();
    print(&format!(
        "{}rate         up to {:e}, {schedule}, warm-up of {warmup}\nadapter to   {}\n\nnothing was trained and nothing was written\n",
        told.text(recipe),
        train.lr,
        out.display()
    ))
}

/// Everything that is told.
struct Told {
    work: Work,
    memory: Memory,
    budget: Option<u64>,
    /// A setting that stays in the budget, where the recipe's own does not.
    instead: Option<Setting>,
    /// `None` where the run does not fit, so that it was not tried.
    time: Option<Time>,
    rows: (usize, usize),
    params: usize,
    /// Adapted sites by the last part of their path.
    sites: BTreeMap<String, usize>,
}

impl Told {
    fn of(recipe: &Recipe, prepared: &Prepared, budget: Option<u64>) -> Result<Told> {
        let Prepared { opened, loaded, adapter, .. } = prepared;
        let run = Job {
            model: &opened.model,
            adapter,
            examples: &loaded.train,
            mixture: &loaded.mixture,
            heldout: &loaded.heldout,
            settings: &recipe.train,
            pad: opened.tokenizer.pad_id(),
        };
        let program = estimate::memory::program(&run);
        // What this process holds already is not available any more, but it is not needed a second time.
        let held = machine::resident().map_or(0, |r| r.anonymous);
        let free = machine::memory().map(|m| m.available + held);
        let memory = Memory::of(&run, &recipe.eval, program);
        let budget = budget.or(free);
        let fits = budget.is_none_or(|budget| memory.total() <= budget);
        let instead = budget.filter(|_| !fits).and_then(|b| estimate::fitting(&run, &recipe.eval, program, b));
        let work = Work::of(&run)?;
        let possible = free.is_none_or(|free| memory.total() <= free);
        let time = if possible { Some(estimate::measure(&run, &work)?) } else { None };
        let mut sites = BTreeMap::new();
        for (_, site) in opened.model.sites().iter().enumerate().filter(|(i, _)| adapter.low_rank(Site(*i)).is_some()) {
            *sites.entry(site.path.rsplit('.').next().unwrap_or(&site.path).to_string()).or_default() += 1;
        }
        let (rows, params) = ((loaded.train.len(), loaded.heldout.len()), adapter.param_count());
        Ok(Told { work, memory, budget, instead, time, rows, params, sites })
    }

    fn fits(&self) -> bool {
        self.budget.is_none_or(|budget| self.memory.total() <= budget)
    }

    fn json(&self) -> Value {
        let parts: serde_json::Map<String, Value> =
            self.memory.parts().iter().map(|(what, bytes)| ((*what).to_string(), json!(bytes))).collect();
        json!({
            "rows": self.rows.0,
            "heldout_rows": self.rows.1,
            "params": self.params,
            "sites": self.sites,
            "work": self.work,
            "memory": parts,
            "recomputed": self.memory.recomputed,
            "peak_rss_mb": self.memory.total() as f64 / 1e6,
            "budget_mb": self.budget.map(|b| b as f64 / 1e6),
            "fits": self.fits(),
            "would_fit": self.instead,
            "time": self.time,
        })
    }

    fn text(&self, recipe: &Recipe) -> String {
        let (work, train) = (&self.work, &recipe.train);
        let sites: Vec<String> = self.sites.iter().map(|(name, n)| format!("{name} ×{n}")).collect();
        let times = if train.accumulate > 1 { format!(" × {}", train.accumulate) } else { String::new() };
        let packed = if train.packing { " packed" } else { "" };
        let mut text = format!(
            "adapter      {} values: {}\nrows         {}, {} held out; the longest has {} tokens\n\
             steps        {} of {}{packed} rows{times}: {} tokens, {} of them trained; {} evaluations\n",
            self.params,
            sites.join(", "),
            self.rows.0,
            self.rows.1,
            work.longest,
            work.steps,
            train.batch_size,
            work.tokens,
            work.trained_tokens,
            work.evaluations,
        );
        text += &self.memory_text(train);
        if let Some(time) = &self.time {
            text += &format!(
                "time         {} for the steps ({:.0} tokens/s), {} for the evaluations\n",
                duration(time.training),
                time.tok_s,
                duration(time.evaluation)
            );
        }
        text
    }

    fn memory_text(&self, train: &crate::recipe::Train) -> String {
        let again = if self.memory.recomputed { "kept for the way back (blocks run again)" } else { "kept for the way back" };
        let names = [
            "weights of the base, mapped",
            "program, tokenizer, rows",
            "adapter and its gradients",
            "moments of the optimiser",
            again,
            "logits and other buffers",
            "evaluation, saving, answers",
        ];
        let line = |(name, (_, bytes)): (&str, (&str, u64))| format!("  {name:<42}{:>9.1} MB\n", bytes as f64 / 1e6);
        let mut text = "memory\n".to_string() + &names.into_iter().zip(self.memory.parts()).map(line).collect::<String>();
        let peak = self.memory.total() as f64 / 1e6;
        text += &match self.budget {
            Some(budget) => format!("  {:<42}{peak:>9.1} MB of {:.0} MB\n", "peak", budget as f64 / 1e6),
            None => format!("  {:<42}{peak:>9.1} MB\n", "peak"),
        };
        match (&self.instead, self.fits()) {
            (_, true) => {}
            (Some(setting), false) => {
                let (arguments, total) = (setting.arguments(train), setting.total as f64 / 1e6);
                text += &format!("it does not fit; this does, with {total:.0} MB: {arguments}\n");
            }
            (None, false) => text += "it does not fit, and no smaller batch or shorter row would: take a smaller base\n",
        }
        text
    }
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// Bytes of a size as people write it.
fn size(text: &str) -> std::result::Result<u64, String> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let unit = match text[at..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1u64,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        other => return Err(format!("`{other}` is no unit; write e.g. 4GiB or 800MB")),
    };
    match text[..at].parse::<f64>() {
        Ok(number) if number > 0.0 && number * unit as f64 <= 1e18 => Ok((number * unit as f64) as u64),
        _ => Err("it is no size; write e.g. 4GiB or 800MB".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_written() {
        let good = [("4GiB", 4 << 30), ("1.5 MiB", 3 << 19), ("800MB", 800_000_000), ("4096", 4096), ("2gb", 2_000_000_000)];
        for (text, bytes) in good {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "-1MB", "4 potatoes", "0", "1e9", "1..2MB", "9999999999999GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_have_the_unit_that_fits() {
        assert_eq!([5.2, 99.0, 150.0, 7200.0].map(duration), ["5 s", "99 s", "2 min", "2.0 h"]);
    }
}
