//! Randomness as a function of what it is for: a stream is named by a seed, a purpose and counters, so that no number
//! depends on how many were drawn before it, on threads or on time.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// 32 bytes that depend on all of the arguments.
fn key(seed: u64, purpose: &str, counters: &[u64]) -> [u8; 32] {
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes());
    hash.update(&(purpose.len() as u64).to_le_bytes());
    hash.update(purpose.as_bytes());
    for counter in counters {
        hash.update(&counter.to_le_bytes());
    }
    *hash.finalize().as_bytes()
}

/// The stream for `purpose` and `counters` under `seed`.
pub fn stream(seed: u64, purpose: &str, counters: &[u64]) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(key(seed, purpose, counters))
}

/// A single number for `purpose` and `counters` under `seed`.
pub fn number(seed: u64, purpose: &str, counters: &[u64]) -> u64 {
    let k = key(seed, purpose, counters);
    u64::from_le_bytes([k[0], k[1], k[2], k[3], k[4], k[5], k[6], k[7]])
}

/// The `index`-th number under a key from [`number`]: SplitMix64's finaliser (Steele, Lea & Flood 2014), for masks with
/// millions of elements.
pub fn indexed(key: u64, index: u64) -> u64 {
    let mut z = key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The order in which `n` things are taken: a Fisher–Yates shuffle by the stream of `purpose` and `counters`.
pub fn order(n: usize, seed: u64, purpose: &str, counters: &[u64]) -> Vec<usize> {
    use rand::Rng;
    let mut rng = stream(seed, purpose, counters);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, rng.random_range(0..=i));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_seed_purpose_and_counters_only() {
        assert_eq!(number(1, "a", &[2]), number(1, "a", &[2]));
        let all =
            [number(1, "a", &[2]), number(2, "a", &[2]), number(1, "b", &[2]), number(1, "a", &[3]), number(1, "a", &[2, 0])];
        for (i, x) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|y| x != y));
        }
    }

    #[test]
    fn an_order_is_a_permutation() {
        let mut o = order(100, 7, "order", &[0]);
        assert_ne!(o, (0..100).collect::<Vec<_>>());
        o.sort_unstable();
        assert_eq!(o, (0..100).collect::<Vec<_>>());
    }
}
