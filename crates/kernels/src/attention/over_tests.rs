use candle_core::{D, DType, Device, Tensor};

use super::super::super::gradient_check::{Tolerance, double, finite_differences, numbers, run, run_slices, same, threads_agree};
use super::*;
use crate::error::Result;

/// Texts of so many queries, over so many keys, behind so many.
pub(crate) fn texts(sizes: &[[usize; 3]]) -> Vec<Seen> {
    let [mut query, mut key] = [0; 2];
    let text = |[queries, keys, past]: &[usize; 3]| {
        (query, key) = (query + queries, key + keys);
        Seen { queries: query - queries..query, keys: key - keys..key, past: *past }
    };
    sizes.iter().map(text).collect()
}

pub(crate) fn bias(heads: usize, both_ways: bool) -> DistanceBias {
    let table = (numbers(7, &[8, heads]) * 2.0).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    DistanceBias::new(table, heads, 16, both_ways)
}

/// In whole matrices, text by text.
pub(crate) fn plain(over: &Over, x: &[Tensor]) -> Result<Tensor> {
    let mut outs = Vec::new();
    for text in over.texts {
        let by_head = |x: &Tensor, tokens: &Range<usize>| x.narrow(0, tokens.start, tokens.len())?.transpose(0, 1)?.contiguous();
        let (q, k, v) = (by_head(&x[0], &text.queries)?, by_head(&x[1], &text.keys)?, by_head(&x[2], &text.keys)?);
        let mut added = Vec::new();
        for head in 0..over.heads {
            for (query, key) in (0..text.queries.len()).flat_map(|q| (0..text.keys.len()).map(move |k| (q, k))) {
                let relative = key as i64 - (text.past + query) as i64;
                let biased = over.bias.map_or(0.0, |bias| bias.table().0[bias.bucket(relative) * over.heads + head]);
                added.push(if over.causal && relative > 0 { -1e30 } else { f64::from(biased) });
            }
        }
        let added = Tensor::from_vec(added, (over.heads, text.queries.len(), text.keys.len()), &Device::Cpu)?;
        let scores = ((q.matmul(&k.t()?)? * over.scale)? + added.to_dtype(q.dtype())?)?;
        let p = scores.broadcast_sub(&scores.detach().max_keepdim(D::Minus1)?)?.exp()?;
        let p = p.broadcast_div(&p.sum_keepdim(D::Minus1)?)?;
        outs.push(p.matmul(&v)?.transpose(0, 1)?.contiguous()?);
    }
    Ok(Tensor::cat(&outs, 0)?)
}

/// Queries, keys and values, (tokens, h, dh).
pub(crate) fn given(over: &Over) -> [Tensor; 3] {
    let last = |of: fn(&Seen) -> usize| over.texts.iter().map(of).max().unwrap();
    let (queries, keys) = (last(|t| t.queries.end), last(|t| t.keys.end));
    [(1, queries), (2, keys), (3, keys)].map(|(seed, n)| (numbers(seed, &[n, over.heads, over.head_dim]) * 1.5).unwrap())
}

fn slices(over: &Over, inputs: &[Tensor; 3]) -> Vec<Vec<f64>> {
    let [q, k, v] = inputs;
    run_slices(&[q, k, v], q.elem_count(), |x, grad| {
        let mut out = vec![f32::NAN; x[0].len()];
        let normalisers = over.forward([&x[0], &x[1], &x[2]], &mut out);
        let [mut dq, mut dk, mut dv] = [0, 1, 2].map(|i: usize| vec![f32::NAN; x[i].len()]);
        let behind = Behind { out: &out, grad, normalisers: &normalisers };
        over.backward([&x[0], &x[1], &x[2]], behind, [&mut dq, &mut dk, &mut dv]);
        vec![out, dq, dk, dv]
    })
}

/// Of one set over another and of each over itself, with a bias and without, shorter and longer than a block.
pub(crate) fn cases(check: &mut dyn FnMut(&Over, &str)) {
    let sizes: [&[[usize; 3]]; 4] =
        [&[[1, 1, 0]], &[[3, 5, 0], [7, 2, 0], [1, 9, 0]], &[[70, 70, 0], [2, 2, 0]], &[[130, 40, 0], [1, 30, 29], [3, 90, 87]]];
    for sizes in sizes {
        for [heads, head_dim] in [[3, 6], [2, 16], [1, 5]] {
            let (texts, both, back) = (texts(sizes), bias(heads, true), bias(heads, false));
            for (causal, bias) in [(false, None), (false, Some(&both)), (true, Some(&back)), (true, None)] {
                let over = Over { texts: &texts, heads, head_dim, scale: 0.9, causal, bias };
                check(&over, &format!("{sizes:?} {heads} {head_dim} {causal} {}", bias.is_some()));
            }
        }
    }
}

#[test]
fn slices_agree_with_their_twin() {
    cases(&mut |over, what| {
        let inputs = given(over);
        let want = run(&inputs.each_ref().map(double), |x| plain(over, x));
        same(&slices(over, &inputs), &want, Tolerance { absolute: 1e-5, relative: 1e-5 }, what);
    });
}

#[test]
fn the_twins_gradient_is_its_slope() {
    let (texts, bias) = (texts(&[[3, 4, 0], [2, 3, 1]]), bias(2, true));
    let over = Over { texts: &texts, heads: 2, head_dim: 3, scale: 1.0, causal: false, bias: Some(&bias) };
    finite_differences(&given(&over).map(|x| x.to_dtype(DType::F64).unwrap()), |x| plain(&over, x));
}

#[test]
fn the_newest_query_alone_has_the_same_bits() {
    let (whole, newest, bias) = (texts(&[[9, 9, 0]]), texts(&[[1, 9, 8]]), bias(2, false));
    let over = Over { texts: &whole, heads: 2, head_dim: 4, scale: 1.0, causal: true, bias: Some(&bias) };
    let flat = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let [q, k, v] = given(&over).each_ref().map(flat);
    let (mut all, mut last) = (vec![0.0; q.len()], vec![0.0; 8]);
    over.forward([&q, &k, &v], &mut all);
    Over { texts: &newest, ..over }.forward([&q[64..], &k, &v], &mut last);
    assert_eq!(&all[64..], last);
}

#[test]
fn a_text_without_keys_gives_zeros() {
    let texts = texts(&[[2, 0, 0]]);
    let over = Over { texts: &texts, heads: 1, head_dim: 2, scale: 1.0, causal: false, bias: None };
    let mut out = [f32::NAN; 4];
    let normalisers = over.forward([&[1.0; 4], &[], &[]], &mut out);
    assert_eq!(out, [0.0; 4]);
    let mut dq = [f32::NAN; 4];
    over.backward(
        [&[1.0; 4], &[], &[]],
        Behind { out: &out, grad: &[1.0; 4], normalisers: &normalisers },
        [&mut dq, &mut [], &mut []],
    );
    assert_eq!(dq, [0.0; 4]);
}

#[test]
fn threads_give_the_same_bits() {
    let (texts, bias) = (texts(&[[100, 100, 0], [5, 5, 0]]), bias(3, true));
    let over = Over { texts: &texts, heads: 3, head_dim: 8, scale: 1.0, causal: false, bias: Some(&bias) };
    threads_agree(|| slices(&over, &given(&over)));
}
