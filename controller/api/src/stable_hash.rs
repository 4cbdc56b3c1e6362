//! Numbers that look random and are a function of what they are for.
//!
//! Used where a choice has to be the same again after a restart (which pods, how long to wait), so that no random state has to be
//! kept. Not fit for secrets.

/// A number for a list of words: FNV-1a over the words, each ended by a byte that no UTF-8 text has, and `splitmix64`'s last steps, as
/// FNV alone leaves words with a common beginning close together.
#[must_use]
pub fn stable_hash(words: &[&str]) -> u64 {
    let bytes = words.iter().flat_map(|word| word.bytes().chain([0xff]));
    let fnv = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::stable_hash;

    #[test]
    fn words_keep_their_bounds() {
        assert_ne!(stable_hash(&["ab", "c"]), stable_hash(&["a", "bc"]));
        assert_eq!(stable_hash(&["ab", "c"]), stable_hash(&["ab", "c"]));
    }
}
