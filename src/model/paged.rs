//! Keys and values in blocks of a fixed number of tokens, which texts with a common beginning share.
//!
//! A text holds a table of blocks; a block is counted by the texts that hold it. What a prompt's pass wrote may be published, whole blocks
//! of it, under what acted (by content), the tokens of the block and the block before; another text with the same beginning takes it
//! instead of computing it again. What decoding wrote never is: its kernels sum in another order. Blocks that no text
//! holds stay published until their place is wanted, those unused for the longest first. (Kwon et al. 2023,
//! "PagedAttention"; the tokens are compared on a hit, not only their hash.)

use std::collections::HashMap;
use std::ops::Range;

use super::config::Config;
use super::site::ContentHash;
use crate::error::{Error, Result};
use crate::kernels::attention::cached::{BLOCK_TOKENS, BlockLayout};
use crate::kernels::engine::Phase;

/// A block's place in the pool.
type BlockId = usize;

/// The blocks of one text, and how many of its tokens are in them.
#[derive(Debug, Default)]
pub struct BlockTable {
    blocks: Vec<BlockId>,
    len: usize,
    /// What layers without keys hold of the text, one after another; nothing before its first tokens.
    states: Vec<f32>,
    /// Tokens at the beginning that a prompt's pass wrote.
    prefilled: usize,
    /// Blocks at the beginning that are published, or were taken from there.
    shared: usize,
}

impl BlockTable {
    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What a published block holds: the tokens of it, behind those of the block before, under what acted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Published {
    acting: ContentHash,
    before: Option<BlockId>,
    tokens: [u32; BLOCK_TOKENS],
}

/// One place of the pool.
#[derive(Debug, Default)]
struct Place {
    /// By layer; nothing before its first use.
    data: Vec<f32>,
    /// Texts that hold it.
    texts: usize,
    published: Option<Published>,
    /// Published blocks that follow it.
    after: usize,
    /// When a text last let go of it.
    used: u64,
}

/// Where a layer lies in a block.
#[derive(Debug, Clone, Copy)]
struct LayerPlace {
    layout: BlockLayout,
    at: usize,
}

/// The layers' places in a block, and the floats of a block.
fn layer_places(config: &Config) -> (Vec<Option<LayerPlace>>, usize) {
    let mut at = 0;
    let places = config.shapes.iter().enumerate().map(|(layer, shape)| {
        let layout = BlockLayout { key_heads: shape.kv_heads, head_dim: shape.head_dim };
        let place = config.keeps_keys(layer).then_some(LayerPlace { layout, at });
        at += place.map_or(0, |place| place.layout.floats());
        place
    });
    (places.collect(), at)
}

/// The pool of blocks.
#[derive(Debug)]
pub struct PagedKv {
    /// Of each layer, and where it begins in a block; none where it reads another one's keys and values.
    layers: Vec<Option<LayerPlace>>,
    /// Of a block.
    floats: usize,
    /// Where the state of each layer without keys lies in that of a text.
    states: Vec<Range<usize>>,
    places: Vec<Place>,
    /// Held by no text and not published.
    free: Vec<BlockId>,
    /// Published, by what they hold.
    found: HashMap<Published, BlockId>,
    most: usize,
    clock: u64,
}

impl PagedKv {
    /// Room for `tokens` at most, over all texts (rounded up to whole blocks); memory is taken as it is used.
    pub fn new(config: &Config, tokens: usize) -> PagedKv {
        let (layers, floats) = layer_places(config);
        let mut end = 0;
        let states = config.delta_layers().map(|sizes| {
            let from = end;
            end += sizes.map_or(0, |sizes| sizes.state());
            from..end
        });
        let states = states.collect();
        PagedKv {
            states,
            layers,
            floats,
            places: Vec::new(),
            free: Vec::new(),
            found: HashMap::new(),
            most: PagedKv::blocks(tokens),
            clock: 0,
        }
    }

    /// Blocks that `tokens` take.
    pub fn blocks(tokens: usize) -> usize {
        tokens.div_ceil(BLOCK_TOKENS)
    }

    /// Bytes of a block of a model.
    pub fn block_bytes(config: &Config) -> usize {
        layer_places(config).1 * size_of::<f32>()
    }

    /// Bytes of what layers without keys hold of a text, whatever its length.
    pub fn state_bytes(config: &Config) -> usize {
        config.delta_layers().flatten().map(|sizes| sizes.state() * size_of::<f32>()).sum()
    }

    /// Bytes of a token's keys and values in all layers.
    pub fn token_bytes(config: &Config) -> usize {
        PagedKv::block_bytes(config) / BLOCK_TOKENS
    }

    pub(super) fn layout(&self, layer: usize) -> BlockLayout {
        self.place(layer).layout
    }

    fn place(&self, layer: usize) -> LayerPlace {
        self.layers[layer].unwrap_or_else(|| unreachable!("a layer with keys and values"))
    }

    /// Blocks that texts could still take.
    pub fn available(&self) -> usize {
        self.most - self.places.iter().filter(|place| place.texts > 0).count()
    }

    /// Tokens that texts hold, and could hold at most, in whole blocks.
    pub fn room(&self) -> (usize, usize) {
        ((self.most - self.available()) * BLOCK_TOKENS, self.most * BLOCK_TOKENS)
    }

    /// Tokens of `ids`, whole blocks, that were computed before under `acting`; at least the last token never counts.
    pub fn reusable(&self, acting: &ContentHash, ids: &[u32]) -> usize {
        self.chain(acting, ids).len() * BLOCK_TOKENS
    }

    /// A table for a text that begins with `ids`: with the blocks that are there already.
    pub fn begin(&mut self, acting: &ContentHash, ids: &[u32]) -> BlockTable {
        let blocks = self.chain(acting, ids);
        blocks.iter().for_each(|block| self.places[*block].texts += 1);
        let len = blocks.len() * BLOCK_TOKENS;
        BlockTable { len, states: Vec::new(), prefilled: len, shared: blocks.len(), blocks }
    }

    /// The published blocks that hold the beginning of `ids`.
    fn chain(&self, acting: &ContentHash, ids: &[u32]) -> Vec<BlockId> {
        let mut blocks: Vec<BlockId> = Vec::new();
        // A state is of all tokens before it, and none is kept beside the blocks.
        if self.state_floats() > 0 {
            return blocks;
        }
        for tokens in ids[..ids.len().saturating_sub(1)].as_chunks::<BLOCK_TOKENS>().0 {
            let key = Published { acting: *acting, before: blocks.last().copied(), tokens: *tokens };
            match self.found.get(&key) {
                Some(block) => blocks.push(*block),
                None => break,
            }
        }
        blocks
    }

    /// Makes room behind what `table` holds.
    ///
    /// # Errors
    /// When all blocks are held by texts.
    pub fn reserve(&mut self, table: &mut BlockTable, tokens: usize) -> Result<()> {
        while table.blocks.len() < PagedKv::blocks(table.len + tokens) {
            let Some(block) = self.take() else {
                return Err(Error::usage(
                    "context",
                    format!(
                        "{} tokens do not fit beside the texts that are worked on ({} blocks in all)",
                        table.len + tokens,
                        self.most
                    ),
                    "fewer rows at once, or a shorter prompt or answer",
                ));
            };
            table.blocks.push(block);
        }
        Ok(())
    }

    fn take(&mut self) -> Option<BlockId> {
        let block = self.free.pop().or_else(|| {
            if self.places.len() < self.most {
                self.places.push(Place { data: vec![0.0; self.floats], ..Place::default() });
                return Some(self.places.len() - 1);
            }
            let unheld = self.places.iter().enumerate().filter(|(_, p)| p.texts == 0 && p.after == 0);
            let (block, _) = unheld.min_by_key(|(_, place)| place.used)?;
            self.withdraw(block);
            Some(block)
        })?;
        self.places[block].texts = 1;
        Some(block)
    }

    /// Takes a block out of what is published.
    fn withdraw(&mut self, block: BlockId) {
        if let Some(key) = self.places[block].published.take() {
            if let Some(before) = key.before {
                self.places[before].after -= 1;
            }
            self.found.remove(&key);
        }
    }

    /// Makes whole blocks of what a prompt's pass wrote known to later texts; `ids` are the text's tokens so far, of which `table`
    /// holds the first.
    pub fn publish(&mut self, acting: &ContentHash, ids: &[u32], table: &mut BlockTable) {
        if self.state_floats() > 0 {
            return;
        }
        let whole = table.prefilled.min(ids.len()) / BLOCK_TOKENS;
        for (i, tokens) in ids.as_chunks::<BLOCK_TOKENS>().0.iter().enumerate().take(whole).skip(table.shared) {
            let (block, before) = (table.blocks[i], i.checked_sub(1).map(|i| table.blocks[i]));
            let key = Published { acting: *acting, before, tokens: *tokens };
            // Where another text published the same first, that one's stays known, and what follows here is not.
            if self.found.contains_key(&key) {
                break;
            }
            if let Some(before) = before {
                self.places[before].after += 1;
            }
            self.places[block].published = Some(key.clone());
            self.found.insert(key, block);
            table.shared = i + 1;
        }
    }

    /// Lets a text's blocks go.
    pub fn release(&mut self, table: BlockTable) {
        self.clock += 1;
        for block in table.blocks {
            let place = &mut self.places[block];
            place.texts -= 1;
            place.used = self.clock;
            if place.texts == 0 && place.published.is_none() {
                self.free.push(block);
            }
        }
    }

    /// Puts keys and values (n, key_heads, dh) of new tokens behind what `table` holds, in one layer; the length moves on with
    /// [`PagedKv::advance`], once every layer has written.
    pub(super) fn write(&mut self, layer: usize, table: &BlockTable, keys: &[f32], values: &[f32]) {
        let LayerPlace { layout, at: from } = self.place(layer);
        let width = layout.key_heads * layout.head_dim;
        for (i, (key, value)) in keys.chunks_exact(width).zip(values.chunks_exact(width)).enumerate() {
            let at = table.len + i;
            let block = table.blocks[at / BLOCK_TOKENS];
            debug_assert!(at / BLOCK_TOKENS >= table.shared, "a published block is not written");
            let data = &mut self.places[block].data[from..][..layout.floats()];
            layout.write(data, at % BLOCK_TOKENS, key, value);
        }
    }

    fn state_floats(&self) -> usize {
        self.states.last().map_or(0, |last| last.end)
    }

    /// What a layer without keys holds of a text.
    pub(super) fn state<'a>(&self, layer: usize, table: &'a mut BlockTable) -> &'a mut [f32] {
        if table.states.is_empty() {
            table.states.resize(self.state_floats(), 0.0);
        }
        &mut table.states[self.states[layer].clone()]
    }

    pub(super) fn advance(table: &mut BlockTable, tokens: usize, phase: Phase) {
        if phase == Phase::Blocked && table.prefilled == table.len {
            table.prefilled += tokens;
        }
        table.len += tokens;
    }

    /// The blocks of a text in one layer.
    pub(super) fn layer<'a>(&'a self, layer: usize, table: &BlockTable) -> Vec<&'a [f32]> {
        let LayerPlace { layout, at } = self.place(layer);
        table.blocks.iter().map(|block| &self.places[*block].data[at..][..layout.floats()]).collect()
    }
}
