//! The product with a frozen matrix, which has no gradient: there is only that of the input, the product with its other side.

use std::sync::{Arc, OnceLock};

use candle_core::quantized::{QStorage, QTensor};
use candle_core::{DType, Device, Tensor};

use super::cpu;
use super::gemm_f32;
use super::skinny_gemm;
use super::weight::{RowOrder, Weight};
use crate::device::Compute;

/// A frozen matrix with the precision its products are computed in.
#[derive(Debug)]
pub struct Frozen {
    pub weight: Weight,
    bf16: bool,
    /// Whether x may be rounded in products of few rows that decode.
    rounded: bool,
    /// The copy on an accelerator, made at first use.
    on_device: OnceLock<OnDevice>,
}

impl Frozen {
    /// `compute = auto` means bf16 where the CPU multiplies it natively, else f32; an explicit `bf16` on a CPU without
    /// such instructions also computes in f32 (more exact, not faster), but for few rows beside blocks with AVX2 (`skinny_gemm`).
    pub fn new(weight: Weight, compute: Compute) -> Arc<Frozen> {
        let (bf16, rounded) = (cpu::multiplies_in_bf16(compute), compute != Compute::F32);
        Arc::new(Frozen { weight, bf16, rounded, on_device: OnceLock::new() })
    }

    /// Whether products with it are made in bf16.
    pub fn is_bf16(&self) -> bool {
        self.bf16
    }

    /// The whole matrix on `device`, (rows, cols) in `dtype`: kept there in the dtype first asked for where it is plain numbers, expanded anew
    /// from its blocks where it is quantised.
    ///
    /// # Errors
    /// When the device has no memory for it.
    pub fn expanded(&self, device: &Device, dtype: DType) -> candle_core::Result<Tensor> {
        match self.copy(device, dtype)? {
            OnDevice::Whole(tensor) => tensor.to_dtype(dtype),
            OnDevice::Blocks(blocks, order) => {
                let whole = blocks.dequantize(device)?.to_dtype(dtype)?;
                order.as_ref().map_or(Ok(whole.clone()), |order| whole.index_select(order, 0))
            }
        }
    }

    /// Some rows in f32, (n, cols); `at` are `rows` on the device. Those of a quantised matrix are read on the host.
    ///
    /// # Errors
    /// When the device has no memory for them.
    pub fn rows(&self, rows: &[u32], at: &Tensor) -> candle_core::Result<Tensor> {
        let (device, cols) = (at.device(), self.weight.cols);
        if self.weight.dtype.block() == 1 {
            let dtype = if self.rounded && !device.is_cpu() { DType::BF16 } else { DType::F32 };
            return self.expanded(device, dtype)?.index_select(at, 0)?.to_dtype(DType::F32);
        }
        let mut out = vec![0f32; rows.len() * cols];
        rows.iter().zip(out.chunks_exact_mut(cols)).for_each(|(row, out)| self.weight.read(*row as usize, 0, out));
        Tensor::from_vec(out, (rows.len(), cols), device)
    }

    /// Bytes of the copy on an accelerator, and of those that making a matrix of `dtype` takes there: blocks are expanded to f32 for every
    /// product, plain numbers go over in f32 once.
    pub fn on_device_bytes(&self, dtype: DType) -> [u64; 2] {
        let (w, size, full) = (&self.weight, dtype.size_in_bytes(), DType::F32.size_in_bytes());
        let rounded = if dtype == DType::F32 { 0 } else { size };
        let ordered = if w.order == RowOrder::Plain { 0 } else { size };
        let [kept, made] = match w.dtype.ggml() {
            None => [w.rows * w.cols * size, if rounded == 0 { 0 } else { full }],
            Some(_) => [w.stored_bytes(), full + rounded + ordered],
        };
        [kept as u64, (w.rows * w.cols * made) as u64]
    }

    fn copy(&self, device: &Device, dtype: DType) -> candle_core::Result<&OnDevice> {
        if self.on_device.get().is_none() {
            let w = &self.weight;
            let copy = match w.dtype.ggml() {
                None => OnDevice::Whole(Tensor::from_vec(w.to_f32(), (w.rows, w.cols), device)?.to_dtype(dtype)?),
                Some(kind) => {
                    let storage = QStorage::from_data(w.in_file_order(), device, kind)?;
                    let order = match w.order {
                        RowOrder::Plain => None,
                        RowOrder::Interleaved { .. } | RowOrder::InTurn | RowOrder::Tiled { .. } => {
                            let rows: Vec<u32> = (0..w.rows).map(|row| w.file_row(row) as u32).collect();
                            Some(Tensor::new(rows, device)?)
                        }
                    };
                    OnDevice::Blocks(QTensor::new(storage, (w.rows, w.cols))?, order)
                }
            };
            // Another thread may have been faster; its copy is the same.
            let _ = self.on_device.set(copy);
        }
        Ok(self.on_device.get().unwrap_or_else(|| unreachable!("set just above")))
    }
}

/// A frozen matrix on an accelerator.
#[derive(Debug)]
enum OnDevice {
    Whole(Tensor),
    /// GGUF blocks as they are in the file, and the file's row for each of ours where these differ.
    Blocks(QTensor, Option<Tensor>),
}

/// Which of the two products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `x · Wᵀ`: the last dimension goes from `cols` to `rows`.
    Transposed,
    /// `x · W`: the last dimension goes from `rows` to `cols`.
    Plain,
}

impl Side {
    /// The side that the gradient takes.
    pub const fn other(self) -> Side {
        match self {
            Side::Transposed => Side::Plain,
            Side::Plain => Side::Transposed,
        }
    }
}

/// `x · Wᵀ` or `x · W` on slices: `m` rows in, `m` rows out.
pub fn product_slice(x: &[f32], m: usize, w: &Frozen, side: Side, y: &mut [f32]) {
    product_into(x, m, w, side, y, false);
}

/// As [`product_slice`]; with `add`, the product is added to what `y` holds. A row's bits are the same whatever other rows
/// there are.
pub fn product_into(x: &[f32], m: usize, w: &Frozen, side: Side, y: &mut [f32], add: bool) {
    #[cfg(target_arch = "x86_64")]
    if w.bf16 {
        return super::gemm_bf16::product(x, m, &w.weight, side == Side::Transposed, y, add);
    }
    match side {
        Side::Transposed => gemm_f32::nt(x, m, &w.weight, y, add),
        Side::Plain => gemm_f32::nn(x, m, &w.weight, y, add),
    }
}

/// As [`product_into`], as decoding makes it: bound by reading the matrix, and rows may be rounded as the processor likes them
/// best. Here too a row's bits are its own.
pub(super) fn decode_product(x: &[f32], m: usize, w: &Frozen, side: Side, y: &mut [f32], add: bool) {
    match side {
        Side::Transposed => skinny_gemm::product(x, m, &w.weight, w.rounded, y, add),
        Side::Plain => product_into(x, m, w, side, y, add),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::weight::WeightType;
    use rand::{Rng, SeedableRng};

    /// A matrix stored in a real mapped file, and its values.
    pub(crate) fn matrix(rows: usize, cols: usize, dtype: WeightType) -> (Weight, Vec<f32>) {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64((rows * 31 + cols) as u64);
        let values: Vec<f32> = (0..rows * cols).map(|_| rng.random_range(-1.0..1.0)).collect();
        let bytes: Vec<u8> = match dtype {
            WeightType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            WeightType::BF16 => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let data = crate::files::Mapped::open(file.path()).unwrap();
        let weight = Weight { data, second: None, dtype, rows, cols, order: RowOrder::Plain };
        let values = weight.to_f32();
        (weight, values)
    }

    fn check(rows: usize, cols: usize, m: usize, dtype: WeightType, compute: Compute, tolerance: f32) {
        let (weight, values) = matrix(rows, cols, dtype);
        let frozen = Frozen::new(weight, compute);
        let w = Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap();
        let sides = [(Side::Transposed, cols, rows, w.t().unwrap()), (Side::Plain, rows, cols, w)];
        for (side, i, o, w) in sides {
            let x = super::super::gradient_check::numbers(7, &[m, i]);
            let mut y = vec![0f32; m * o];
            product_slice(&x.flatten_all().unwrap().to_vec1::<f32>().unwrap(), m, &frozen, side, &mut y);
            let want = x.matmul(&w).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let off = y.iter().zip(&want).map(|(y, want)| (y - want).abs()).fold(0.0, f32::max);
            assert!(off < tolerance * (i as f32).sqrt(), "{side:?} {rows}x{cols} m={m} {dtype:?} {compute:?}: {off}");
        }
    }

    #[test]
    fn a_row_is_the_same_to_the_bit_whatever_rows_are_beside_it() {
        for (rows, cols, dtype) in [(576, 192, WeightType::BF16), (96, 700, WeightType::F32), (33, 7, WeightType::F16)] {
            for compute in [Compute::Auto, Compute::F32, Compute::Bf16Anywhere] {
                let w = Frozen::new(matrix(rows, cols, dtype).0, compute);
                type Product = fn(&[f32], usize, &Frozen, Side, &mut [f32], bool);
                for (product, kind) in [(product_into as Product, "blocked"), (decode_product, "decoding")] {
                    for side in [Side::Transposed, Side::Plain] {
                        let (i, o) = if side == Side::Transposed { (cols, rows) } else { (rows, cols) };
                        let x = super::super::gradient_check::numbers(7, &[130 * i]).to_vec1::<f32>().unwrap();
                        let run = |from: usize, m: usize, add: bool| {
                            let mut y = vec![0.25; m * o];
                            product(&x[from * i..][..m * i], m, &w, side, &mut y, add);
                            y
                        };
                        for add in [false, true] {
                            let all = run(0, 130, add);
                            for m in [1, 2, 3, 5, 8, 16, 17, 40, 64, 129] {
                                for from in [0, 1, 130 - m] {
                                    let what =
                                        format!("{kind}: {m} of {rows} × {cols} {dtype:?} {side:?} from {from}, add {add}");
                                    assert_eq!(run(from, m, add), all[from * o..][..m * o], "{what}");
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn both_products_agree_with_candle_for_every_shape_and_type() {
        for (rows, cols) in [(5, 7), (48, 64), (49, 33), (320, 112), (2100, 50), (130, 576)] {
            for m in [1, 2, 3, 5, 8, 17] {
                for dtype in [WeightType::F32, WeightType::BF16, WeightType::F16] {
                    check(rows, cols, m, dtype, Compute::F32, 2e-6);
                    check(rows, cols, m, dtype, Compute::Bf16Anywhere, 2e-2);
                }
            }
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let (weight, _) = matrix(300, 200, WeightType::BF16);
        let x: Vec<f32> = (0..9 * 200).map(|i| (i as f32).sin()).collect();
        for compute in [Compute::F32, Compute::Bf16Anywhere] {
            let frozen = Frozen::new(weight.clone(), compute);
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut y = vec![0f32; 9 * 300];
                pool.install(|| product_slice(&x, 9, &frozen, Side::Transposed, &mut y));
                y
            };
            assert_eq!(run(1), run(2));
        }
    }
}
