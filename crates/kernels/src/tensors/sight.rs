//! Which keys a query sees: earlier ones of its own text, the newest so many of them where there is a window.
//!
//! A row of texts is cut into blocks that attend to themselves only: a long text, or several short ones that fill a tile.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{DType, Device, Tensor};

pub use crate::attention::Scores;
use crate::error::{Error, Result};

/// Queries, and keys, of one tile.
pub const TILE: usize = 512;

/// Positions within a tile, on a device; masks are made of them there. Made once.
#[derive(Debug, Clone)]
pub struct Ramp {
    /// 0, 1, … in f32, (tile, 1).
    rows: Tensor,
    pub(super) tile: usize,
}

impl Ramp {
    /// Uploads a tile's positions.
    pub fn new(device: &Device) -> Result<Ramp> {
        Ramp::of(device, TILE)
    }

    pub(super) fn of(device: &Device, tile: usize) -> Result<Ramp> {
        Ok(Ramp { rows: Tensor::arange(0f32, tile as f32, device)?.unsqueeze(1)?, tile })
    }

    /// What is added to scores, (len, len): 0 where the query (row) at `offset` + its row sees the key (column), else −1e30;
    /// `first` (len, 1) is the first key that each query may see.
    fn mask(&self, len: usize, offset: i64, window: Option<usize>, first: Option<&Tensor>) -> Result<Tensor> {
        let ramp = self.rows.narrow(0, 0, len)?;
        let (rows, columns) = ((&ramp + offset as f64)?, ramp.reshape((1, len))?);
        let mut seen = columns.broadcast_le(&rows)?.to_dtype(DType::F32)?;
        if let Some(window) = window {
            seen = (seen * columns.broadcast_gt(&(&rows - window as f64)?)?.to_dtype(DType::F32)?)?;
        }
        if let Some(first) = first {
            seen = (seen * columns.broadcast_ge(first)?.to_dtype(DType::F32)?)?;
        }
        Ok(seen.affine(1e30, -1e30)?)
    }
}

/// A tile of keys, and what is added to its scores where not every query sees every key.
pub(super) type SeenTile = (Range<usize>, Option<Tensor>);

/// What a tile of queries sees of a tile of keys.
#[derive(Clone, Copy, PartialEq)]
enum View {
    Nothing,
    Part,
    All,
}

/// Masks of tiles by the distance of their first query from their first key.
#[derive(Debug, Clone)]
struct Masks {
    window: Option<usize>,
    by_offset: BTreeMap<i64, Tensor>,
}

impl Masks {
    /// Of `queries` whose first key is at 0, and `keys`.
    fn view(&self, queries: &Range<i64>, keys: &Range<usize>) -> View {
        let (nearest, farthest) = (queries.start - keys.end as i64 + 1, queries.end - 1 - keys.start as i64);
        let beyond = |distance: i64| self.window.is_some_and(|w| usize::try_from(distance).is_ok_and(|d| d >= w));
        match () {
            () if farthest < 0 || beyond(nearest) => View::Nothing,
            () if nearest < 0 || beyond(farthest) => View::Part,
            () => View::All,
        }
    }

    /// Tiles of `count` keys that `queries` see; the masks that they need are made where they are not there.
    fn prepare(&mut self, queries: &Range<i64>, count: usize, ramp: &Ramp) -> Result<()> {
        for keys in tiles(count, ramp.tile) {
            let offset = queries.start - keys.start as i64;
            if self.view(queries, &keys) == View::Part && !self.by_offset.contains_key(&offset) {
                self.by_offset.insert(offset, ramp.mask(ramp.tile, offset, self.window, None)?);
            }
        }
        Ok(())
    }

    fn seen(&self, queries: &Range<i64>, count: usize, tile: usize) -> Result<Vec<SeenTile>> {
        let mut seen = Vec::new();
        for keys in tiles(count, tile) {
            let mask = match self.view(queries, &keys) {
                View::Nothing => continue,
                View::All => None,
                View::Part => {
                    let Some(mask) = self.by_offset.get(&(queries.start - keys.start as i64)) else {
                        return Err(wrong(format!("no mask was made for queries {queries:?} and keys {keys:?}")));
                    };
                    let rows = (queries.end - queries.start) as usize;
                    Some(mask.narrow(0, 0, rows)?.narrow(1, 0, keys.len())?)
                }
            };
            seen.push((keys, mask));
        }
        Ok(seen)
    }
}

/// The keys before `m` newest queries over `s` keys (these included): which of them any query sees, and the tiles (from the
/// first of these) for each tile of queries.
pub(super) fn cached(m: usize, s: usize, window: Option<usize>, ramp: &Ramp) -> Result<(Range<usize>, Vec<Tiled>)> {
    if m == 0 || m > s || window == Some(0) {
        return Err(wrong(format!("{m} queries over {s} keys, window {window:?}")));
    }
    let first = window.map_or(0, |w| (s - m + 1).saturating_sub(w));
    let count = s - first;
    if m == 1 {
        return Ok((first..s, vec![Tiled { queries: 0..1, seen: vec![(0..count, None)] }]));
    }
    let mut masks = Masks { window, by_offset: BTreeMap::new() };
    let mut all = Vec::new();
    for queries in tiles(m, ramp.tile) {
        let at = signed(&queries, count - m);
        masks.prepare(&at, count, ramp)?;
        all.push(Tiled { seen: masks.seen(&at, count, ramp.tile)?, queries });
    }
    Ok((first..s, all))
}

/// A tile of queries with the tiles of keys that it sees.
pub(super) struct Tiled {
    pub(super) queries: Range<usize>,
    pub(super) seen: Vec<SeenTile>,
}

/// Tokens that attend to themselves only.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) tokens: Range<usize>,
    /// (tokens, tokens), where it holds several texts.
    mask: Option<Tensor>,
}

/// Texts of one row, with the masks that their attention needs. Made once a pass, for each kind of window.
#[derive(Debug, Clone)]
pub struct Packed {
    pub(super) scores: Scores,
    pub(super) blocks: Vec<Block>,
    masks: Masks,
    tile: usize,
}

impl Packed {
    /// `spans` are the texts' tokens, one after another from token 0 on. Uploads the first token of each text in blocks of
    /// several; errors when spans leave gaps or overlap.
    pub fn new(spans: &[Range<usize>], scores: Scores, ramp: &Ramp) -> Result<Packed> {
        if scores.window == Some(0) {
            return Err(wrong("a window of no keys".to_string()));
        }
        let mut packed = Packed {
            scores,
            blocks: vec![],
            masks: Masks { window: scores.window, by_offset: BTreeMap::new() },
            tile: ramp.tile,
        };
        let (mut texts, mut end): (Vec<Range<usize>>, usize) = (Vec::new(), 0);
        for span in spans {
            if span.start != end || span.end < span.start {
                return Err(wrong(format!("text {span:?} does not follow token {end}")));
            }
            end = span.end;
            if texts.first().is_some_and(|first| end - first.start > ramp.tile) {
                packed.close(std::mem::take(&mut texts), ramp)?;
            }
            if !span.is_empty() {
                texts.push(span.clone());
            }
        }
        packed.close(texts, ramp)?;
        Ok(packed)
    }

    /// Tokens of all texts.
    pub fn tokens(&self) -> usize {
        self.blocks.last().map_or(0, |block| block.tokens.end)
    }

    fn close(&mut self, texts: Vec<Range<usize>>, ramp: &Ramp) -> Result<()> {
        let (Some(first), Some(last)) = (texts.first(), texts.last()) else { return Ok(()) };
        let tokens = first.start..last.end;
        let mask = if texts.len() > 1 {
            let starts = texts.iter().flat_map(|t| std::iter::repeat_n((t.start - tokens.start) as f32, t.len()));
            let starts = Tensor::from_vec(starts.collect::<Vec<f32>>(), (tokens.len(), 1), ramp.rows.device())?;
            Some(ramp.mask(tokens.len(), 0, self.scores.window, Some(&starts))?)
        } else {
            for queries in tiles(tokens.len(), ramp.tile) {
                self.masks.prepare(&signed(&queries, 0), queries.end, ramp)?;
            }
            None
        };
        self.blocks.push(Block { tokens, mask });
        Ok(())
    }

    /// Tiles of a block, counted from its first token.
    pub(super) fn tiled(&self, block: &Block) -> Result<Vec<Tiled>> {
        let len = block.tokens.len();
        if let Some(mask) = &block.mask {
            return Ok(vec![Tiled { queries: 0..len, seen: vec![(0..len, Some(mask.clone()))] }]);
        }
        let tiled = |queries: Range<usize>| {
            let seen = self.masks.seen(&signed(&queries, 0), queries.end, self.tile)?;
            Ok(Tiled { queries, seen })
        };
        tiles(len, self.tile).map(tiled).collect()
    }
}

/// `0..len` cut into tiles.
pub(super) fn tiles(len: usize, tile: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(tile.max(1)).map(move |start| start..(start + tile).min(len))
}

fn signed(queries: &Range<usize>, offset: usize) -> Range<i64> {
    (queries.start + offset) as i64..(queries.end + offset) as i64
}

pub(super) fn wrong(problem: String) -> Error {
    candle_core::Error::Msg(format!("attention: {problem}")).into()
}
