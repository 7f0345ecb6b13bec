//! The hash by which git (and so the hub) names small files: SHA-1 over `blob SIZE\0` and the content.
//!
//! It finds damage, not malice; large files carry SHA-256. Refuses to know: files.

use sha1::{Digest, Sha1};

/// The blob id of `content` as lower-case hex.
pub(super) fn blob(content: &[u8]) -> String {
    let head = format!("blob {}\0", content.len());
    format!("{:x}", Sha1::new().chain_update(head).chain_update(content).finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha1(message: &[u8]) -> String {
        format!("{:x}", Sha1::digest(message))
    }

    #[test]
    fn the_standards_examples_and_gits_empty_blob() {
        assert_eq!(sha1(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        let long = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        assert_eq!(sha1(long), "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
        assert_eq!(sha1(&vec![b'a'; 1_000_000]), "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
        assert_eq!(blob(b""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        assert_eq!(blob(b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
    }
}
