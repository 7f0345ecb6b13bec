//! Rows of token ids with what attention must know about them.

/// A rectangular batch. Padding and packing are the same thing to attention: each query names the first key it may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// `rows × len`, row-major.
    pub ids: Vec<u32>,
    pub rows: usize,
    pub len: usize,
    /// Position of each token in its own text.
    pub positions: Vec<u32>,
    /// First key each query may attend to, counted in the row (with a cache: from the cache's start).
    pub starts: Vec<u32>,
}

impl Batch {
    /// Rows of any lengths, padded on the right with `pad`.
    pub fn right_padded(rows: &[impl AsRef<[u32]>], pad: u32) -> Batch {
        let rows: Vec<[&[u32]; 1]> = rows.iter().map(|r| [r.as_ref()]).collect();
        Batch::packed(&rows, pad)
    }

    /// Rows of several texts each, one after another: every text has its own positions and sees only itself. Rows are
    /// padded on the right with `pad`, which goes on where the last text ends.
    pub fn packed<'a>(rows: &[impl AsRef<[&'a [u32]]>], pad: u32) -> Batch {
        let total = |row: &[&[u32]]| row.iter().map(|text| text.len()).sum::<usize>();
        let len = rows.iter().map(|r| total(r.as_ref())).max().unwrap_or(0);
        let mut batch = Batch { ids: Vec::new(), rows: rows.len(), len, positions: Vec::new(), starts: Vec::new() };
        for row in rows.iter().map(AsRef::as_ref) {
            let gap = len - total(row);
            let mut start = 0;
            for (i, text) in row.iter().enumerate() {
                let taken = if i + 1 == row.len() { len - start } else { text.len() };
                batch.ids.extend_from_slice(text);
                batch.positions.extend(0..taken as u32);
                batch.starts.resize(batch.starts.len() + taken, start as u32);
                start += taken;
            }
            batch.ids.resize(batch.ids.len() + gap, pad);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_texts_have_their_own_positions_and_first_keys() {
        let batch = Batch::packed(&[vec![&[7, 8, 9][..], &[4, 5]], vec![&[1, 2, 3]]], 0);
        assert_eq!((batch.rows, batch.len), (2, 5));
        assert_eq!(batch.ids, [7, 8, 9, 4, 5, 1, 2, 3, 0, 0]);
        assert_eq!(batch.positions, [0, 1, 2, 0, 1, 0, 1, 2, 3, 4]);
        assert_eq!(batch.starts, [0, 0, 0, 3, 3, 0, 0, 0, 0, 0]);
    }
}
