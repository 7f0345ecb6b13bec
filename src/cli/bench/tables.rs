//! Benchmarks as tables: rates of products, figures of training steps.
//!
//! Refuses to know how anything was measured.

use crate::bench::BenchReport;
use crate::bench::gemm::{Gemm, MatrixShape, Rate};
use crate::model::MachineKind;

/// The limit, then a line a shape.
pub(super) fn rates(report: &Gemm) -> String {
    let limit = match report.read_gb_s {
        Some(limit) => format!("reading memory: {limit:.1} GB/s; multiplying: {:.0} GFLOP/s\n", report.gemm_peak_gflops),
        None => {
            let tile = report.tile_gflops.map(|t| format!(" (one tile from the first-level cache: {t:.0})")).unwrap_or_default();
            format!("multiplying with a packed matrix: {:.0} GFLOP/s{tile}\n", report.gemm_peak_gflops)
        }
    };
    let rate = |r: &Rate| match report.read_gb_s {
        Some(_) => format!("{:>7.1} GB/s {:>4.0} %", r.gb_s, r.share * 100.0),
        None => format!("{:>6.0} GFLOP/s {:>3.0} %", r.gflops, r.share * 100.0),
    };
    let head = format!("{:<30}{:>19}{:>21}\n", format!("{} rows", report.rows), "x·Wᵀ", "dy·W");
    let line = |s: &MatrixShape| {
        let what = format!("{} × {} {}", s.outputs, s.inputs, s.dtype);
        format!("{what:<30}{:>19}{:>21}   {}\n", rate(&s.forward), rate(&s.backward), s.sites.join(", "))
    };
    limit + &head + &report.shapes.iter().map(line).collect::<String>()
}

/// Where something ran, behind its figure; nothing for kernels, which run on the CPU.
pub(super) fn place(machine: MachineKind, device: &str) -> String {
    match machine {
        MachineKind::Kernels => String::new(),
        MachineKind::Tensors => format!(", in tensor operations on {device}"),
    }
}

/// The figures of a step.
pub(super) fn figures(r: &BenchReport) -> String {
    let last = match r.limit {
        Some(limit) => format!("FLOP utilisation    {:>8.2}  of {:.0} GFLOP/s\n", limit.mfu, limit.gemm_peak_gflops),
        None => format!(
            "{:<20}{:>8}  (of its memory, candle does not tell how much was in use; its limit is not measured)\n",
            "device", r.device
        ),
    };
    let text = format!(
        "tokens/s            {:>8.0}  ({:.0} of them trained)\nstep                {:>8.0} ms  (forward {:.0}, backward {:.0}, optimiser {:.0})\n\
         peak resident       {:>8.0} MB  (anonymous {:.0})\n",
        r.tok_s, r.trained_tok_s, r.ms_step, r.ms_forward, r.ms_backward, r.ms_optimizer, r.peak_rss_mb, r.peak_anon_mb,
    );
    text + &last
}
