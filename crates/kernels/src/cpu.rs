//! What this CPU can do, decided once at start; `LORAKIT_CPU=portable|avx2|avx512` lowers it for tests and comparisons.

use std::sync::OnceLock;

use crate::device::Compute;

/// Instruction sets that matter here, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Whatever the target's baseline offers.
    Portable,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512 F/BW/VL.
    Avx512,
    /// AVX-512 with bf16 dot products.
    Avx512Bf16,
}

impl Level {
    /// Name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx2 => "AVX2 + FMA",
            Level::Avx512 => "AVX-512",
            Level::Avx512Bf16 => "AVX-512 + BF16",
        }
    }
}

/// The level in force.
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let asked = match std::env::var("LORAKIT_CPU").as_deref() {
            Ok("portable") => Level::Portable,
            Ok("avx2") => Level::Avx2,
            Ok("avx512") => Level::Avx512,
            _ => Level::Avx512Bf16,
        };
        asked.min(detect())
    })
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq");
    match (avx512 && is_x86_feature_detected!("avx512bf16"), avx512, avx2) {
        (true, ..) => Level::Avx512Bf16,
        (_, true, _) => Level::Avx512,
        (_, _, true) => Level::Avx2,
        _ => Level::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Portable
}

/// Whether products that were asked for as `compute` are made in bf16.
pub(crate) fn multiplies_in_bf16(compute: Compute) -> bool {
    match compute {
        Compute::F32 => false,
        Compute::Bf16Anywhere => cfg!(target_arch = "x86_64"),
        Compute::Auto | Compute::Bf16 => level() == Level::Avx512Bf16,
    }
}

/// Keeps candle's own worker pool out of the way unless `CANDLE_NUM_THREADS` says otherwise: its workers and its callers
/// spin while they wait, which took half of all CPU time beside our own pool (see `docs/decisions.md`).
///
/// Call first thing in `main`, while the process has one thread.
pub fn quiet_candle_pool() {
    const NAME: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(NAME).is_none() {
        // SAFETY: the contract above: no other thread exists yet that could read the environment at the same time.
        unsafe { std::env::set_var(NAME, "1") };
    }
}

/// Whether the test `name`, which needs the instructions for bf16 themselves, has nothing to run on. That is said where no test's output is kept back, and counted
/// by `.ci/run`.
#[cfg(test)]
pub(crate) fn lacks_bf16(name: &str) -> bool {
    use std::io::Write;
    let lacks = level() < Level::Avx512Bf16;
    if lacks {
        // A line that cannot be written is no reason to fail.
        _ = writeln!(std::io::stderr(), "skipped: {name}: this CPU has no AVX-512 BF16");
    }
    lacks
}
