use candle_core::DType;

use super::{BOTH, CPU, agrees, behind};
use crate::attention::over::tests::{cases, given, plain, texts};
use crate::attention::over::{Over, Seen};
use crate::gradient_check::{Tolerance, double, run};
use crate::tensors::over::OverTexts;

fn check(over: &Over, dtype: DType, tile: usize, what: &str) {
    let [q, k, v] = given(over).map(|x| x.to_dtype(dtype).unwrap());
    let want = run(&[double(&q), double(&k), double(&v)], |x| plain(over, x));
    let texts = OverTexts::of(over, &CPU, tile).unwrap();
    let (out, normalisers) = texts.forward([&q, &k, &v]).unwrap();
    let gradient = behind(q.dims(), dtype);
    let [dq, dk, dv] = texts.backward([&q, &k, &v], &normalisers, &gradient).unwrap();
    assert!([&out, &dq, &dk, &dv].iter().all(|x| x.dtype() == dtype) && normalisers.dtype() == DType::F32);
    let tolerance = match dtype {
        DType::F32 => Tolerance { absolute: 1e-5, relative: 1e-5 },
        _ => Tolerance { absolute: 1e-2, relative: 2e-2 },
    };
    agrees(&[&out, &dq, &dk, &dv], &want, tolerance, &format!("{what} {dtype:?} tile {tile}"));
}

#[test]
fn every_case_agrees_whatever_the_tile() {
    cases(&mut |over, what| {
        BOTH.into_iter().for_each(|dtype| [16, 512].into_iter().for_each(|tile| check(over, dtype, tile, what)))
    });
}

#[test]
fn a_text_without_keys_is_named() {
    let mut seen: Vec<Seen> = texts(&[[2, 3, 0]]);
    seen[0].keys = 3..3;
    let over = Over { texts: &seen, heads: 1, head_dim: 2, scale: 1.0, causal: false, bias: None };
    assert!(OverTexts::new(&over, &CPU).unwrap_err().to_string().contains("queries 0..2 over keys 3..3"));
}
