//! Causal grouped-query attention of packed texts in tiles over the keys (Dao et al. 2022, "FlashAttention", algorithms 1 and
//! 4): no text's whole matrix of scores is ever made.
//!
//! Scores, their softmax and the gradient of probabilities (of which most cancels) are f32, made of what is cast to it: products
//! over a head, which cost no more than rounding and casting what they make. Those over keys and queries are made in the dtype of
//! activations, and their sums over tiles in f32. Query heads that share a head of keys lie below each other as rows of one product, so that
//! keys and values are never expanded.

use std::ops::Range;

use candle_core::{D, DType, Tensor};

pub use super::sight::{Packed, Ramp, Scores, TILE};
use super::sight::{SeenTile, Tiled, cached as cached_tiles, wrong};
use crate::error::Result;

/// `softmax(scores(q, k)) · v` (n, h, e) of every text in the dtype of `q`, and the logarithm of what normalises each row,
/// (h, n) f32; `q` (n, h, e), `k` and `v` (n, g, e). Head `j` of `q` reads head `j / (h / g)` of `k` and `v`. `sinks` (h) are those of
/// the query heads, see [`crate::attention`]; they are in the normalisers, so that [`backward`] needs to know nothing of them.
pub fn forward([q, k, v]: [&Tensor; 3], sinks: Option<&Tensor>, texts: &Packed) -> Result<(Tensor, Tensor)> {
    let group = group([q, k, v], texts.tokens())?;
    let (mut outs, mut normalisers) = (Vec::new(), Vec::new());
    for block in &texts.blocks {
        let keys = Keys::new([k, v], &block.tokens, v.dtype())?;
        for tiled in texts.tiled(block)? {
            let tokens = shifted(&tiled.queries, block.tokens.start);
            let q_rows = group.scaled(q, &tokens, texts.scores.scale)?;
            let (out, normaliser) =
                attend(&q_rows, &keys, &tiled.seen, texts.scores.cap)?.finish(group.sinks(sinks, tokens.len())?)?;
            outs.push(group.tokens(&out, tokens.len(), q.dtype())?);
            normalisers.push(normaliser.reshape((group.heads, tokens.len()))?); // (g, h/g · t, 1) -> (h, t)
        }
    }
    Ok((Tensor::cat(&outs, 0)?, Tensor::cat(&normalisers, 1)?))
}

/// What [`backward`] needs of the forward pass, and the gradient of its result.
#[derive(Debug, Clone, Copy)]
pub struct Behind<'a> {
    /// (n, h, e)
    pub out: &'a Tensor,
    /// (h, n)
    pub normalisers: &'a Tensor,
    /// Of `out`, (n, h, e), in the dtype of `q`.
    pub gradient: &'a Tensor,
}

/// The gradients of q (n, h, e), k and v (n, g, e) in the dtype of `q`: with p the probabilities, made again of the
/// normalisers, and δ = Σ dout∘out of each row, `dv = pᵀ·dout`, `ds = p∘(dout·vᵀ − δ)·(1 − (s/cap)²)`, `dq = scale·ds·k`,
/// `dk = scale·dsᵀ·q`.
pub fn backward([q, k, v]: [&Tensor; 3], behind: Behind, texts: &Packed) -> Result<[Tensor; 3]> {
    let group = group([q, k, v], texts.tokens())?;
    let mut grads: [Vec<Tensor>; 3] = Default::default();
    for block in &texts.blocks {
        let keys = Keys::new([k, v], &block.tokens, DType::F32)?;
        let mut queries = Vec::new();
        for tiled in texts.tiled(block)? {
            queries.push(Queries::new(&group, q, behind, tiled, block.tokens.start, texts.scores.scale)?);
        }
        let (dk, dv) = block_back(&keys, &mut queries, texts.scores.cap)?;
        for tile in queries {
            let Some(dq) = tile.gradient else { return Err(wrong("a query saw no key".to_string())) };
            grads[0].push(group.tokens(&(dq * texts.scores.scale)?, tile.tiled.queries.len(), q.dtype())?);
        }
        let by_token = |x: &Tensor| x.transpose(0, 1)?.to_dtype(q.dtype())?.contiguous(); // (g, t, e) -> (t, g, e)
        grads[1].push(by_token(&(dk * texts.scores.scale)?)?);
        grads[2].push(by_token(&dv)?);
    }
    let [dq, dk, dv] = grads;
    Ok([Tensor::cat(&dq, 0)?, Tensor::cat(&dk, 0)?, Tensor::cat(&dv, 0)?])
}

/// Bytes of what [`backward`] holds of a text of `tokens`: scores of a tile, probabilities and their gradients; in f32 its queries with
/// their gradient and that of the output, keys and values with theirs.
pub fn working_bytes(tokens: usize, [heads, key_heads, e]: [usize; 3]) -> u64 {
    let tile = tokens.min(TILE);
    ((4 * heads * tile * tile + tokens * e * (4 * heads + 5 * key_heads)) * size_of::<f32>()) as u64
}

/// Attention (m, h, e) of the `m` newest tokens of one text: `q` (m, h, e) over `k` and `v` (s, g, e), their own keys the last
/// of these; `sinks` (h) as in [`forward`].
pub fn cached([q, k, v]: [&Tensor; 3], sinks: Option<&Tensor>, scores: Scores, ramp: &Ramp) -> Result<Tensor> {
    let (m, s) = (q.dim(0)?, k.dim(0)?);
    let group = Group::new([q, k, v])?;
    let (seen, tiles) = cached_tiles(m, s, scores.window, ramp)?;
    let keys = Keys::new([k, v], &seen, v.dtype())?;
    let mut outs = Vec::new();
    for Tiled { queries, seen } in tiles {
        let running = attend(&group.scaled(q, &queries, scores.scale)?, &keys, &seen, scores.cap)?;
        let (out, _) = running.finish(group.sinks(sinks, queries.len())?)?;
        outs.push(group.tokens(&out, queries.len(), q.dtype())?);
    }
    Ok(Tensor::cat(&outs, 0)?)
}

/// How query heads share heads of keys and values.
struct Group {
    heads: usize,
    key_heads: usize,
}

fn group(qkv: [&Tensor; 3], tokens: usize) -> Result<Group> {
    let group = Group::new(qkv)?;
    if tokens == 0 || qkv.iter().any(|x| x.dims()[0] != tokens) {
        return Err(wrong(format!("texts of {tokens} tokens for q, k and v of {:?}", qkv.map(Tensor::dims))));
    }
    Ok(group)
}

impl Group {
    fn new([q, k, v]: [&Tensor; 3]) -> Result<Group> {
        let ((_, heads, e), (_, key_heads, key_e)) = (q.dims3()?, k.dims3()?);
        if key_heads == 0 || heads % key_heads != 0 || e != key_e || k.dims() != v.dims() {
            return Err(wrong(format!("q is {:?}, k {:?}, v {:?}", q.dims(), k.dims(), v.dims())));
        }
        Ok(Group { heads, key_heads })
    }

    /// Rows of some tokens: (n, h, w) -> (g, h/g · t, w).
    fn rows(&self, x: &Tensor, tokens: &Range<usize>) -> Result<Tensor> {
        let (t, w, shared) = (tokens.len(), x.dim(2)?, self.heads / self.key_heads);
        let x = x.narrow(0, tokens.start, t)?.reshape((t, self.key_heads, shared, w))?;
        Ok(x.permute((1, 2, 0, 3))?.contiguous()?.reshape((self.key_heads, shared * t, w))?)
    }

    /// [`Group::rows`] of queries in f32, by the scale of scores.
    fn scaled(&self, q: &Tensor, tokens: &Range<usize>, scale: f64) -> Result<Tensor> {
        Ok((self.rows(q, tokens)?.to_dtype(DType::F32)? * scale)?)
    }

    /// Sinks (h) in f32 as [`Group::rows`] of `t` tokens, (g, h/g · t, 1).
    fn sinks(&self, sinks: Option<&Tensor>, t: usize) -> Result<Option<Tensor>> {
        let Some(sinks) = sinks else { return Ok(None) };
        if sinks.dims() != [self.heads] {
            return Err(wrong(format!("sinks of {:?} for {} heads", sinks.dims(), self.heads)));
        }
        let shared = self.heads / self.key_heads;
        let rows = sinks.to_dtype(DType::F32)?.reshape((self.key_heads, shared, 1))?.broadcast_as((self.key_heads, shared, t))?;
        Ok(Some(rows.contiguous()?.reshape((self.key_heads, shared * t, 1))?))
    }

    /// The other way: (g, h/g · t, e) -> (t, h, e).
    fn tokens(&self, x: &Tensor, t: usize, dtype: DType) -> Result<Tensor> {
        let (e, shared) = (x.dim(2)?, self.heads / self.key_heads);
        let x = x.to_dtype(dtype)?.reshape((self.key_heads, shared, t, e))?;
        Ok(x.permute((2, 0, 1, 3))?.contiguous()?.reshape((t, self.heads, e))?)
    }
}

/// Keys and values of a block by head, (g, t, e).
struct Keys {
    k: Tensor,
    /// On the way back in f32, which gradients of probabilities are made of.
    v: Tensor,
    /// Keys in f32, which scores are made of.
    full: Tensor,
}

impl Keys {
    fn new([k, v]: [&Tensor; 2], tokens: &Range<usize>, values: DType) -> Result<Keys> {
        let by_head = |x: &Tensor| x.narrow(0, tokens.start, tokens.len())?.transpose(0, 1)?.contiguous();
        let (k, v) = (by_head(k)?, by_head(v)?);
        Ok(Keys { full: k.to_dtype(DType::F32)?, v: v.to_dtype(values)?, k })
    }

    /// Scores (g, rows, keys) of scaled queries (g, rows, e), capped, of which nothing is hidden yet.
    fn scores(&self, q: &Tensor, keys: &Range<usize>, cap: Option<f64>) -> Result<Tensor> {
        let scores = q.matmul(&narrow(&self.full, keys)?.t()?)?; // (g, rows, e) · (g, e, keys)
        match cap {
            None => Ok(scores),
            Some(cap) => Ok(((scores * (1.0 / cap))?.tanh()? * cap)?),
        }
    }
}

fn narrow(x: &Tensor, keys: &Range<usize>) -> Result<Tensor> {
    Ok(x.narrow(1, keys.start, keys.len())?)
}

fn shifted(range: &Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}

/// Scores (g, h/g · t, keys) with the mask (t, keys) added.
fn masked(scores: Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let Some(mask) = mask else { return Ok(scores) };
    let (t, keys) = mask.dims2()?;
    let by_head = scores.reshape(((), t, keys))?.broadcast_add(mask)?; // (h, t, keys)
    Ok(by_head.reshape(scores.shape())?)
}

/// A softmax over the tiles so far.
struct Running {
    /// Largest score of a row, (g, rows, 1).
    max: Tensor,
    /// Σ exp(score − max)
    sum: Tensor,
    /// Σ exp(score − max) · v, (g, rows, e).
    out: Tensor,
}

impl Running {
    /// Output (g, rows, e) and logarithm of the normaliser (g, rows, 1), the rows' sinks (g, rows, 1) among the scores.
    fn finish(self, sinks: Option<Tensor>) -> Result<(Tensor, Tensor)> {
        let Running { mut max, mut sum, mut out } = self;
        if let Some(sinks) = sinks {
            let top = max.maximum(&sinks)?;
            let shrunk = (max - &top)?.exp()?;
            sum = ((sum * &shrunk)? + (sinks - &top)?.exp()?)?;
            out = out.broadcast_mul(&shrunk)?;
            max = top;
        }
        Ok((out.broadcast_div(&sum)?, (max + sum.log()?)?))
    }
}

/// The softmax of scaled queries (g, rows, e) over all tiles that they see, in f32.
fn attend(q: &Tensor, keys: &Keys, seen: &[SeenTile], cap: Option<f64>) -> Result<Running> {
    let mut running: Option<Running> = None;
    for (tile, mask) in seen {
        let scores = masked(keys.scores(q, tile, cap)?, mask.as_ref())?;
        let mut max = scores.max_keepdim(D::Minus1)?;
        if let Some(before) = &running {
            max = max.maximum(&before.max)?;
        }
        let p = scores.broadcast_sub(&max)?.exp()?;
        drop(scores);
        let mut sum = p.sum_keepdim(D::Minus1)?;
        let v = narrow(&keys.v, tile)?;
        let mut out = p.to_dtype(v.dtype())?.matmul(&v)?.to_dtype(DType::F32)?; // (g, rows, keys) · (g, keys, e)
        if let Some(before) = running {
            let shrunk = (before.max - &max)?.exp()?;
            sum = (sum + (before.sum * &shrunk)?)?;
            out = (out + before.out.broadcast_mul(&shrunk)?)?;
        }
        running = Some(Running { max, sum, out });
    }
    running.ok_or_else(|| wrong("a query saw no key".to_string()))
}

/// A tile of queries on the way back, (g, h/g · t, …).
struct Queries {
    tiled: Tiled,
    q: Tensor,
    /// In f32, by the scale.
    scaled: Tensor,
    /// Of the output.
    d_out: Tensor,
    /// In f32.
    full_d_out: Tensor,
    /// Σ d_out ∘ out, (g, rows, 1).
    along: Tensor,
    normaliser: Tensor,
    /// Of `q`, but for the scale, in f32.
    gradient: Option<Tensor>,
}

impl Queries {
    fn new(group: &Group, q: &Tensor, behind: Behind, tiled: Tiled, first: usize, scale: f64) -> Result<Queries> {
        let tokens = shifted(&tiled.queries, first);
        let q = group.rows(q, &tokens)?;
        let (d_out, out) = (group.rows(behind.gradient, &tokens)?, group.rows(behind.out, &tokens)?);
        let full_d_out = d_out.to_dtype(DType::F32)?;
        let along = (&full_d_out * out.to_dtype(DType::F32)?)?.sum_keepdim(D::Minus1)?;
        let normaliser = behind.normalisers.narrow(1, tokens.start, tokens.len())?.contiguous()?; // (h, t)
        let normaliser = normaliser.reshape(along.shape())?;
        Ok(Queries { scaled: (q.to_dtype(DType::F32)? * scale)?, tiled, q, d_out, full_d_out, along, normaliser, gradient: None })
    }

    /// Shares of the gradients of a tile's keys (but for the scale) and values; that of the queries is added up here.
    fn back(&mut self, keys: &Keys, tile: &Range<usize>, mask: Option<&Tensor>, cap: Option<f64>) -> Result<[Tensor; 2]> {
        let scores = keys.scores(&self.scaled, tile, cap)?;
        let slope = cap.map(|cap| (&scores * (1.0 / cap))?.sqr()?.affine(-1.0, 1.0)).transpose()?;
        let p = masked(scores, mask)?.broadcast_sub(&self.normaliser)?.exp()?;
        let k = narrow(&keys.k, tile)?;
        let dv = p.to_dtype(k.dtype())?.transpose(1, 2)?.matmul(&self.d_out)?; // (g, keys, rows) · (g, rows, e)
        let dp = self.full_d_out.matmul(&narrow(&keys.v, tile)?.t()?)?; // (g, rows, e) · (g, e, keys)
        let mut ds = (dp.broadcast_sub(&self.along)? * p)?;
        if let Some(slope) = slope {
            ds = (ds * slope)?;
        }
        let ds = ds.to_dtype(k.dtype())?;
        add(&mut self.gradient, ds.matmul(&k)?)?; // (g, rows, keys) · (g, keys, e)
        Ok([ds.transpose(1, 2)?.matmul(&self.q)?, dv]) // (g, keys, rows) · (g, rows, e)
    }
}

/// Gradients (g, t, e) of a block's keys, but for the scale, and values; f32.
fn block_back(keys: &Keys, queries: &mut [Queries], cap: Option<f64>) -> Result<(Tensor, Tensor)> {
    // Every tile of keys is one that some queries see: their own, if no other.
    let mut tiles: Vec<Range<usize>> = queries.iter().flat_map(|q| q.tiled.seen.iter().map(|(tile, _)| tile.clone())).collect();
    tiles.sort_by_key(|tile| tile.start);
    tiles.dedup_by_key(|tile| tile.start);
    let (mut all_dk, mut all_dv) = (Vec::new(), Vec::new());
    for tile in tiles {
        let (mut dk, mut dv) = (None, None);
        for queries in queries.iter_mut() {
            let Some((_, mask)) = queries.tiled.seen.iter().find(|(seen, _)| seen.start == tile.start).cloned() else { continue };
            let [k, v] = queries.back(keys, &tile, mask.as_ref(), cap)?;
            add(&mut dk, k)?;
            add(&mut dv, v)?;
        }
        all_dk.extend(dk);
        all_dv.extend(dv);
    }
    Ok((Tensor::cat(&all_dk, 1)?, Tensor::cat(&all_dv, 1)?))
}

/// Adds in f32.
fn add(sum: &mut Option<Tensor>, x: Tensor) -> Result<()> {
    let x = x.to_dtype(DType::F32)?;
    *sum = Some(match sum.take() {
        Some(sum) => (sum + x)?,
        None => x,
    });
    Ok(())
}
