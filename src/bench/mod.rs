//! How fast this machine trains and decodes: tokens a second, memory, and the share of the machine's own limit; and how fast a
//! server answers.
//!
//! Weights and code are real; rows are a recipe's, or made up. Refuses to know: recipes as files, printing.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `gemm`, `memory`, `serve` | products against the machine's limits; what the process occupies; a server under load |
//! | 1 | `train`, `decode` | steps of training, timed; decoding |
//! | 2 | `made_up` | rows that are made up, and an adapter that stands in for a recipe's |

mod decode;
pub mod gemm;
mod made_up;
mod memory;
pub mod serve;
mod train;

pub use decode::{DecodeReport, decode};
pub use made_up::MadeUp;
pub use train::{BenchReport, BenchRun, ShareOfLimit, train};

use crate::error::{Error, Result};
use crate::files::{self, Mapped};
use crate::kernels::weight::{RowOrder, Weight, WeightType};
use crate::random;

/// A bf16 matrix in a mapped temporary file.
fn made_up_weight(rows: usize, cols: usize) -> Result<Weight> {
    let dir = tempfile::tempdir().map_err(Error::io("create", &std::env::temp_dir()))?;
    let path = dir.path().join("weight");
    let value = |i: usize| half::bf16::from_f32((random::indexed(7, i as u64) % 1000) as f32 / 1000.0 - 0.5);
    let bytes: Vec<u8> = (0..rows * cols).flat_map(|i| value(i).to_le_bytes()).collect();
    files::write_atomic(&path, &bytes)?;
    Ok(Weight { data: Mapped::open(&path)?, second: None, dtype: WeightType::BF16, rows, cols, order: RowOrder::Plain })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
