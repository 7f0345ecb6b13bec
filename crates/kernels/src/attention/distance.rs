//! A bias of scores by the distance of key and query: T5's `_relative_position_bucket` (Raffel et al. 2020, section 2.1;
//! transformers 5.24, `models/t5/modeling_t5.py`).

/// One bias a head for each bucket of distances.
#[derive(Debug, Clone, PartialEq)]
pub struct DistanceBias {
    /// (buckets, heads)
    table: Vec<f32>,
    heads: usize,
    buckets: usize,
    /// From here on all distances are in the last bucket.
    most: usize,
    /// Half of the buckets are those of keys behind the query; else such keys are at distance 0.
    both_ways: bool,
}

impl DistanceBias {
    /// `table` is (buckets, heads).
    ///
    /// # Panics
    /// When there are fewer than 2 buckets in a direction, they cannot be halved, or `most` is no more than those of one distance each.
    pub fn new(table: Vec<f32>, heads: usize, most: usize, both_ways: bool) -> DistanceBias {
        let bias = DistanceBias { buckets: table.len() / heads, table, heads, most, both_ways };
        assert!(Self::possible(bias.buckets, most, both_ways), "distances up to {most} in {} buckets", bias.buckets);
        bias
    }

    /// Whether distances up to `most` can be put into so many buckets.
    pub fn possible(buckets: usize, most: usize, both_ways: bool) -> bool {
        let each = if both_ways { buckets / 2 } else { buckets };
        each >= 2 && most > each / 2
    }

    /// The bucket of a key that stands `relative` tokens behind its query (before it where that is negative). In f32, as
    /// transformers counts: at the borders of buckets that decides.
    pub fn bucket(&self, relative: i64) -> usize {
        let each = if self.both_ways { self.buckets / 2 } else { self.buckets };
        let (first, distance) = match self.both_ways {
            true => (if relative > 0 { each } else { 0 }, relative.unsigned_abs()),
            false => (0, relative.min(0).unsigned_abs()),
        };
        let (exact, distance) = (each / 2, usize::try_from(distance).unwrap_or(usize::MAX));
        if distance < exact {
            return first + distance;
        }
        let steps = (each - exact) as f32;
        let wide = (distance as f32 / exact as f32).ln() / (self.most as f64 / exact as f64).ln() as f32 * steps;
        first + (exact + wide as usize).min(each - 1)
    }

    /// The biases of `head` for each distance from `nearest`, one after another.
    pub fn along(&self, head: usize, nearest: i64, out: &mut [f32]) {
        for (relative, bias) in (nearest..).zip(out) {
            *bias = self.table[self.bucket(relative) * self.heads + head];
        }
    }

    /// The rows of the table that [`DistanceBias::along`] reads.
    pub fn buckets(&self, nearest: i64, distances: usize) -> Vec<u32> {
        (nearest..).take(distances).map(|relative| self.bucket(relative) as u32).collect()
    }

    /// (buckets, heads), and how many heads.
    pub fn table(&self) -> (&[f32], usize) {
        (&self.table, self.heads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Buckets, largest distance, both ways, first bucket, and the distances at which the next ones begin: by transformers 5.24.
    type Row = (usize, usize, bool, usize, &'static [i64]);

    const ROWS: &[Row] = &[
        (32, 128, true, 0, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]),
        (
            32,
            128,
            false,
            0,
            &[
                0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99,
                113,
            ],
        ),
        (8, 16, true, 0, &[0, 1, 2, 6]),
        (8, 16, false, 0, &[0, 1, 2, 3, 4, 6, 8, 12]),
        (32, 20, true, 0, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 18]),
    ];

    #[test]
    fn buckets_are_those_of_transformers() {
        for (buckets, most, both_ways, first, begins) in ROWS {
            let bias = DistanceBias::new(vec![0.0; *buckets], 1, *most, *both_ways);
            for distance in 0..2000 {
                let bucket = first + begins.iter().filter(|begin| **begin <= distance).count() - 1;
                assert_eq!(bias.bucket(-distance), bucket, "{distance} of {buckets} {most} {both_ways}");
                let behind = if *both_ways && distance > 0 {
                    buckets / 2 + bucket
                } else if *both_ways {
                    bucket
                } else {
                    0
                };
                assert_eq!(bias.bucket(distance), behind, "{distance} behind, of {buckets} {most} {both_ways}");
            }
        }
    }

    #[test]
    fn a_head_reads_its_column() {
        let bias = DistanceBias::new((0..16).map(|x| x as f32).collect(), 2, 16, true);
        let mut along = [0.0; 5];
        bias.along(1, -2, &mut along);
        assert_eq!(along, [5.0, 3.0, 1.0, 11.0, 13.0]);
        assert_eq!(bias.buckets(-2, 5), [2, 1, 0, 5, 6]);
        assert!(
            !DistanceBias::possible(3, 16, true) && !DistanceBias::possible(8, 2, true) && DistanceBias::possible(8, 3, true)
        );
    }
}
