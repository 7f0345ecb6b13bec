//! Examples laid one after another: nothing is padded, each attends to itself only, and positions begin anew. Where an encoder reads
//! what stands before a text's first target, its tokens lie apart from the decoder's.

use std::ops::Range;

use super::super::Targets;
use super::super::batch::Batch;
use super::super::layers::{Attention, NormVector, Sight};
use crate::kernels::attention::Varlen;
use crate::kernels::attention::over::{Over, Seen};

/// Tokens that go through the model at once: enough to pay for packing the weights, few enough to keep.
pub(super) const TOKENS: usize = 512;
/// The same on a device that has many thousands of threads.
pub(super) const DEVICE_TOKENS: usize = 8192;

/// Tokens up to which short examples are taken in.
const fn full(tokens: usize) -> usize {
    tokens + tokens / 4
}

/// Several examples as one row.
pub(super) struct PackedTexts {
    pub batch: Batch,
    pub spans: Vec<Range<usize>>,
    /// Each token's row in the micro-batch, were all its examples padded to the longest: what dropout's masks go by.
    pub rows: Vec<u64>,
    pub targets: Targets,
    /// Each token's example.
    pub whose: Vec<usize>,
    /// What an encoder reads of them.
    pub source: Option<Source>,
}

/// The encoder's tokens of texts.
pub(super) struct Source {
    pub batch: Batch,
    /// As [`PackedTexts::rows`].
    pub rows: Vec<u64>,
    pub seen: SeenTexts,
}

/// Texts with their keys in a model with an encoder.
#[derive(Default)]
pub(super) struct SeenTexts {
    pub source: Vec<Seen>,
    pub target: Vec<Seen>,
    pub across: Vec<Seen>,
}

impl SeenTexts {
    pub(super) fn of(&self, sight: Sight) -> &[Seen] {
        match sight {
            Sight::Text => &[],
            Sight::Source => &self.source,
            Sight::Target => &self.target,
            Sight::Across => &self.across,
        }
    }
}

/// How the queries of a block see the keys of `texts`.
pub(super) fn over<'a>(attention: &'a Attention, texts: &'a [Seen]) -> Over<'a> {
    let Attention { shape, scores, sight, distances, .. } = attention;
    let (heads, head_dim, causal) = (shape.heads, shape.head_dim, *sight == Sight::Target);
    Over { texts, heads, head_dim, scale: scores.scale, causal, bias: distances.as_deref() }
}

impl PackedTexts {
    /// The examples `which` of `rows`; `trained(row, i)` tells whether token `i` of a row is a target.
    pub(super) fn new(rows: &[&[u32]], which: &[usize], trained: &dyn Fn(usize, usize) -> bool) -> PackedTexts {
        let texts: Vec<&[u32]> = which.iter().map(|row| rows[*row]).collect();
        let batch = Batch::packed(&[texts], 0);
        let longest = rows.iter().map(|r| r.len()).max().unwrap_or(0);
        let (mut spans, mut whose, mut end) = (Vec::new(), Vec::with_capacity(batch.len), 0);
        for row in which {
            let first = end;
            end += rows[*row].len();
            spans.push(first..end);
            whose.resize(end, *row);
        }
        let places = whose.iter().zip(&batch.positions).map(|(row, at)| (row * longest) as u64 + u64::from(*at)).collect();
        let targets = Targets::shifted(&batch, |_, i| trained(whose[i], batch.positions[i] as usize));
        PackedTexts { batch, spans, rows: places, targets, whose, source: None }
    }

    /// As [`PackedTexts::new`]: an encoder reads each text up to its first target, a decoder what follows, behind `start`. It never
    /// reads a text's last token, and of a text without target nothing but `start`.
    pub(super) fn divided(rows: &[&[u32]], which: &[usize], trained: &dyn Fn(usize, usize) -> bool, start: u32) -> PackedTexts {
        let longest = rows.iter().map(|r| r.len()).max().unwrap_or(0);
        let (mut sources, mut answers, mut seen, mut targets) =
            (Vec::new(), Vec::new(), SeenTexts::default(), Targets::default());
        let (mut places, mut whose, mut spans, mut from) = ([Vec::new(), Vec::new()], Vec::new(), Vec::new(), 0);
        for row in which {
            let ids = rows[*row];
            let cut = (1..ids.len()).find(|i| trained(*row, *i)).unwrap_or(ids.len());
            let (source, labels) = ids.split_at(cut);
            let first = whose.len();
            for (i, label) in labels.iter().enumerate().filter(|(i, _)| trained(*row, cut + i)) {
                targets.at.push((first + i) as u32);
                targets.ids.push(*label);
            }
            let answer: Vec<u32> = [start].into_iter().chain(labels.iter().copied()).take(labels.len().max(1)).collect();
            let place = |at: usize| (row * longest + at) as u64;
            places[0].extend((0..cut).map(place));
            places[1].extend((cut..cut + answer.len()).map(place));
            whose.resize(first + answer.len(), *row);
            let (own, read) = (first..whose.len(), from..from + cut);
            from += cut;
            let text =
                |queries: &Range<usize>, keys: &Range<usize>| Seen { queries: queries.clone(), keys: keys.clone(), past: 0 };
            seen.source.push(text(&read, &read));
            seen.target.push(text(&own, &own));
            seen.across.push(text(&own, &read));
            spans.push(own);
            sources.push(source);
            answers.push(answer);
        }
        let answers: Vec<&[u32]> = answers.iter().map(Vec::as_slice).collect();
        let [of_source, places] = places;
        let source = Source { batch: Batch::packed(&[sources], 0), rows: of_source, seen };
        PackedTexts { batch: Batch::packed(&[answers], 0), spans, rows: places, targets, whose, source: Some(source) }
    }

    /// Tokens that buffers are for: of either stack.
    pub(super) fn room(&self) -> usize {
        self.tokens().max(self.source.as_ref().map_or(0, |source| source.batch.len))
    }

    /// Gives a number for each target, in their order, to the rows they are of.
    pub(super) fn hand_out(&self, found: Vec<f32>, rows: &mut [Vec<f32>]) {
        for (at, value) in self.targets.at.iter().zip(found) {
            rows[self.whose[*at as usize]].push(value);
        }
    }

    pub(super) fn tokens(&self) -> usize {
        self.batch.len
    }

    /// What attention is told of them.
    pub(super) fn spans<'a>(&'a self, attention: &'a Attention) -> Varlen<'a> {
        let Attention { shape, scores, sinks, .. } = attention;
        Varlen {
            spans: &self.spans,
            starts: &self.batch.starts,
            heads: shape.heads,
            key_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            scores: *scores,
            sinks: sinks.as_ref().map(NormVector::values),
        }
    }

    /// The same of those that attention in a model with an encoder sees.
    pub(super) fn seen(&self, attention: &Attention) -> &[Seen] {
        self.source.as_ref().map_or(&[], |source| source.seen.of(attention.sight))
    }
}

/// Examples in groups of about `most` tokens, the longest first, each in the first group that has room for it.
pub(super) fn groups(rows: &[&[u32]], most: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..rows.len()).filter(|i| !rows[*i].is_empty()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(rows[*i].len()), *i));
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    for i in order {
        let len = rows[i].len();
        let limit = if len <= full(most) - most { full(most) } else { most };
        match groups.iter_mut().find(|(tokens, _)| tokens + len <= limit) {
            Some((tokens, group)) => {
                *tokens += len;
                group.push(i);
            }
            None => groups.push((len, vec![i])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The most tokens that a group of about `tokens` has, of examples from `shortest` to `longest`: only short ones are taken in beyond.
pub(super) fn most(shortest: usize, longest: usize, tokens: usize) -> usize {
    longest.max(if shortest <= full(tokens) - tokens { full(tokens) } else { tokens })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_in_one_group_and_groups_are_full_but_for_the_last() {
        let lens = [256usize, 256, 256, 256, 700, 3, 100, 0, 512, 20];
        let texts: Vec<Vec<u32>> = lens.iter().map(|n| vec![1; *n]).collect();
        let rows: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let got = groups(&rows, TOKENS);
        let mut all: Vec<usize> = got.iter().flatten().copied().collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4, 5, 6, 8, 9]);
        let tokens: Vec<usize> = got.iter().map(|g| g.iter().map(|i| lens[*i]).sum()).collect();
        assert_eq!(tokens, [700, 635, 512, 512]);
        assert!(tokens.iter().all(|t| *t <= most(3, 700, TOKENS)));
        assert_eq!([most(129, 300, 512), most(128, 300, 512), most(600, 700, 512)], [512, 640, 700]);
    }

    #[test]
    fn an_encoder_reads_up_to_the_first_target() {
        let rows: [&[u32]; 4] = [&[5, 6, 7, 8, 9], &[3, 4], &[1], &[2, 3, 4]];
        let texts = PackedTexts::divided(
            &rows,
            &[3, 0, 1, 2],
            &|row, i| [(0, 2), (0, 4), (3, 0), (3, 1), (3, 2)].contains(&(row, i)),
            99,
        );
        let source = texts.source.as_ref().unwrap();
        assert_eq!((&source.batch.ids[..], &source.batch.positions[..]), (&[2, 5, 6, 3, 4, 1][..], &[0, 0, 1, 0, 1, 0][..]));
        assert_eq!((&texts.batch.ids[..], &texts.whose[..]), (&[99, 3, 99, 7, 8, 99, 99][..], &[3, 3, 0, 0, 0, 1, 2][..]));
        assert_eq!((&texts.targets.at[..], &texts.targets.ids[..]), (&[0, 1, 2, 4][..], &[3, 4, 7, 9][..]));
        assert_eq!((&source.rows[..], &texts.rows[..]), (&[15, 0, 1, 5, 6, 10][..], &[16, 17, 2, 3, 4, 7, 11][..]));
        assert_eq!(source.seen.across[1], Seen { queries: 2..5, keys: 1..3, past: 0 });
        assert_eq!((texts.room(), texts.tokens()), (7, 7));
    }

    #[test]
    fn a_text_is_not_predicted_from_the_one_before() {
        let rows: [&[u32]; 2] = [&[5, 6, 7], &[8, 9]];
        let texts = PackedTexts::new(&rows, &[0, 1], &|_, _| true);
        assert_eq!(texts.targets.at, [0, 1, 3]);
        assert_eq!(texts.targets.ids, [6, 7, 9]);
        assert_eq!(texts.batch.positions, [0, 1, 2, 0, 1]);
        assert_eq!(texts.batch.starts, [0, 0, 0, 3, 3]);
    }
}
