//! Short pieces as numbers: how the tables of [`crate::count`] and [`crate::encode`] know a piece again.

use crate::split::Span;

/// The longest piece that has a key.
pub const SHORT: usize = 15;

/// The bytes of a piece of at most [`SHORT`] bytes, padded with zeros; the last byte is its length. A longer one has
/// the key [`LONG`]. No key is 0, so tables mark free slots with it.
pub type Key = u128;

/// The key of every piece that is too long for one.
pub const LONG: Key = u128::MAX;

/// Which bits of sixteen bytes belong to a piece of so many bytes.
const MASKS: [u128; 16] = {
    let mut masks = [0; 16];
    let mut len = 1;
    while len < 16 {
        masks[len] = u128::MAX >> (128 - 8 * len);
        len += 1;
    }
    masks
};

/// The key of the piece at `span`, which is not empty.
#[inline(always)]
pub fn key(text: &[u8], (start, end): Span) -> Key {
    let len = end - start;
    if len > SHORT {
        return LONG;
    }
    let bytes = match text[start..].first_chunk::<16>() {
        Some(chunk) => u128::from_le_bytes(*chunk) & MASKS[len & 15],
        None => {
            let mut chunk = [0; 16];
            chunk[..len].copy_from_slice(&text[start..end]);
            u128::from_le_bytes(chunk)
        }
    };
    bytes | (len as u128) << 120
}

/// The piece of a key: its bytes and how many of them count.
#[inline]
pub fn bytes(key: Key) -> ([u8; 16], usize) {
    let bytes = key.to_le_bytes();
    (bytes, bytes[15] as usize)
}

/// A number that looks like chance, of which the upper bits say where in a table the key belongs.
#[inline(always)]
pub fn hash(key: Key) -> u64 {
    let product = u128::from(key as u64 ^ 0x9E37_79B9_7F4A_7C15)
        .wrapping_mul(u128::from((key >> 64) as u64 ^ 0xD1B5_4A32_D192_ED03));
    product as u64 ^ (product >> 64) as u64
}

/// Where in a table of so many lines, a power of two, a hash belongs.
#[inline(always)]
pub fn place(hash: u64, lines: usize) -> usize {
    (hash >> (64 - lines.trailing_zeros())) as usize
}

/// Asks for something in memory before it is needed.
#[inline(always)]
pub fn prefetch<T>(slot: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program can see, and every x86-64 has it.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(
            std::ptr::from_ref(slot).cast(),
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = slot;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_pieces_apart() {
        let text = b"abcdefghijklmnopqrstuvwxyz\0\0";
        assert_eq!(
            key(text, (1, 4)),
            key(b"xbcd", (1, 4)),
            "the place does not matter, nor what stands behind"
        );
        assert_ne!(key(text, (26, 27)), key(text, (26, 28)), "zeros count");
        assert_eq!(bytes(key(text, (2, 17))).0[..15], text[2..17]);
        assert_eq!(key(text, (0, 16)), LONG);
    }

    #[test]
    fn anything_can_be_prefetched() {
        prefetch(&7u8);
        prefetch(&[[0u64; 8]; 4][3]);
    }
}
