//! What a run will take, as text for people. Refuses to know how it was found out.

use std::path::Path;

use crate::estimate::DeviceMemory;
use crate::job::Forecast;
use crate::recipe::{Recipe, Warmup};

/// All of it.
pub(super) fn text(told: &Forecast, recipe: &Recipe) -> String {
    let (work, train) = (&told.work, &recipe.train);
    let sites: Vec<String> = told.sites.iter().map(|(name, n)| format!("{name} ×{n}")).collect();
    let times = if train.accumulate > 1 { format!(" × {}", train.accumulate) } else { String::new() };
    let packed = if train.packing { " packed" } else { "" };
    let mut text = format!(
        "adapter      {} values: {}\nrows         {}, {} held out; the longest has {} tokens\n\
         steps        {} of {}{packed} rows{times}: {} tokens, {} of them trained; {} evaluations\n",
        told.params,
        sites.join(", "),
        told.rows.0,
        told.rows.1,
        work.longest,
        work.steps,
        train.batch_size,
        work.tokens,
        work.trained_tokens,
        work.evaluations,
    );
    text += &memory(told, recipe);
    if let Some(time) = &told.time {
        text += &format!(
            "time         {} for the steps ({:.0} tokens/s), {} for the evaluations\n",
            duration(time.training),
            time.tok_s,
            duration(time.evaluation)
        );
    }
    text
}

fn memory(told: &Forecast, recipe: &Recipe) -> String {
    let again = if told.memory.recomputed { "kept for the way back (blocks run again)" } else { "kept for the way back" };
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
    let mut text = "memory\n".to_string() + &names.into_iter().zip(told.memory.parts()).map(line).collect::<String>();
    let peak = told.memory.total() as f64 / 1e6;
    text += &match told.budget {
        Some(budget) => format!("  {:<42}{peak:>9.1} MB of {:.0} MB\n", "peak", budget as f64 / 1e6),
        None => format!("  {:<42}{peak:>9.1} MB\n", "peak"),
    };
    match (&told.instead, told.fits()) {
        (_, true) => {}
        (Some(setting), false) => {
            let (arguments, total) = (setting.arguments(&recipe.train, &recipe.eval), setting.total as f64 / 1e6);
            text += &format!("it does not fit; this does, with {total:.0} MB: {arguments}\n");
        }
        (None, false) => text += "it does not fit, and no smaller batch or shorter row would: take a smaller base\n",
    }
    text + &told.memory.device.map(|memory| on_device(&memory, &told.device)).unwrap_or_default()
}

/// What is on the device `name`.
fn on_device(memory: &DeviceMemory, name: &str) -> String {
    let again = if memory.recomputed { "kept for the way back (blocks run again)" } else { "kept for the way back" };
    let names = [
        "weights of the base",
        "the largest of them, expanded",
        "adapter and its gradients",
        "moments and update of the optimiser",
        again,
        "a piece of logits",
        "a tile of attention, a text in f32",
        "other buffers",
        "answers",
    ];
    let line = |(name, bytes): (&str, u64)| format!("  {name:<42}{:>9.1} MB\n", bytes as f64 / 1e6);
    let parts = names.into_iter().zip(memory.parts().map(|(_, bytes)| bytes));
    let text = format!("memory on {name}\n{}{}", parts.map(line).collect::<String>(), line(("peak, from sizes", memory.total())));
    let why = "how much of it is free is not known here";
    text + &match memory.assumed {
        true => format!("  {why}, so blocks run again; `--set train.checkpoint=none` keeps what they compute\n"),
        false => format!("  {why}\n"),
    }
}

/// What `train --dry-run` says.
pub(super) fn dry_run(told: &Forecast, recipe: &Recipe, out: &Path) -> String {
    let train = &recipe.train;
    let warmup = match train.warmup {
        Warmup::Steps(steps) => format!("{steps} steps"),
        Warmup::Ratio(ratio) => format!("{} %", ratio * 100.0),
    };
    let schedule = format!("{:?}", train.schedule).to_lowercase();
    format!(
        "{}rate         up to {:e}, {schedule}, warm-up of {warmup}\nadapter to   {}\n\nnothing was trained and nothing was written\n",
        text(told, recipe),
        train.lr,
        out.display()
    )
}

/// Seconds as people say them.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_device_says_what_is_not_known() {
        let memory = DeviceMemory {
            weights: 3_000_000,
            expanded: 0,
            adapter: 500_000,
            optimizer: 0,
            activations: 0,
            logits: 0,
            attention: 0,
            workspace: 0,
            besides: 0,
            recomputed: true,
            assumed: true,
            on_host: 0,
        };
        let told = on_device(&memory, "cuda:0");
        assert!(told.starts_with("memory on cuda:0\n"), "{told}");
        assert!(told.contains(&format!("{:<42}{:>9.1} MB", "peak, from sizes", 3.5)), "{told}");
        assert!(told.contains("is not known here, so blocks run again") && told.contains("train.checkpoint=none"), "{told}");
        let asked = on_device(&DeviceMemory { assumed: false, ..memory }, "cuda:0");
        assert!(!asked.contains("train.checkpoint"), "{asked}");
    }

    #[test]
    fn durations_have_the_unit_that_fits() {
        assert_eq!([5.2, 99.0, 150.0, 7200.0].map(duration), ["5 s", "99 s", "2 min", "2.0 h"]);
    }
}
