//! The joins of a new piece that can be done at once.

use crate::pairs::NEVER;

/// What there is to know about two bytes side by side, in order to join most of them at once.
///
/// Take a pair of bytes whose rank is below that of every pair in which its first byte could be the right one, given
/// the byte before, and of every pair in which its second byte could be the left one, given the byte behind. Nothing
/// takes one of the two away before it is their turn to join. If what they become joins nothing before that turn
/// either ([`FirstJoins::in_order`]), then nobody can tell whether they join now or then. Of the joins of a new piece this
/// is about half, and no two such pairs share a byte.
#[derive(Clone, Copy)]
#[repr(align(16))]
struct OfBytes {
    /// Of the pair.
    rank: u32,
    /// What it becomes.
    id: u32,
    /// The lowest rank of a token that ends with the first byte, and the second one.
    before: u32,
    /// The lowest rank of the first byte, and a token that begins with the second one.
    behind: u32,
}

impl OfBytes {
    const NOTHING: Self = OfBytes { rank: NEVER, id: NEVER, before: NEVER, behind: NEVER };
}

#[inline(always)]
fn two(a: u8, b: u8) -> usize {
    usize::from(a) << 8 | usize::from(b)
}

pub struct FirstJoins {
    /// About each two bytes.
    of_bytes: Vec<OfBytes>,
    /// Does what two bytes become join others only after them, by rank? So it is after training.
    in_order: bool,
}

impl FirstJoins {
    pub fn new() -> Self {
        FirstJoins { of_bytes: vec![OfBytes::NOTHING; 1 << 16], in_order: true }
    }

    /// Takes notice of a pair of tokens, the first `cut` bytes of `joined` and the others, which become `id`.
    pub fn insert(&mut self, joined: &[u8], cut: usize, rank: u32, id: u32) {
        let (front, back) = joined.split_at(cut);
        if let (&[.., a], &[b]) = (front, back) {
            let before = &mut self.of_bytes[two(a, b)].before;
            *before = rank.min(*before);
        }
        if let (&[a], &[b, ..]) = (front, back) {
            let behind = &mut self.of_bytes[two(a, b)].behind;
            *behind = rank.min(*behind);
        }
        for part in [front, back] {
            if let &[a, b] = part {
                self.in_order &= self.of_bytes[two(a, b)].rank < rank;
            }
        }
        if let &[a, b] = joined {
            let pair = &mut self.of_bytes[two(a, b)];
            self.in_order &= pair.rank == NEVER;
            (pair.rank, pair.id) = (rank, id);
        }
    }

    /// Calls `each` with the symbols of a piece from left to right, of which there are no more than bytes: the pairs of bytes that can be joined at once (see
    /// [`OfBytes`]), and the other bytes.
    #[inline(always)]
    pub fn for_each(&self, piece: &[u8], byte_ids: &[u32; 256], mut each: impl FnMut(u32)) {
        let pair = |at: usize| match piece.get(at..at + 2) {
            Some(&[a, b]) => &self.of_bytes[two(a, b)],
            _ => &OfBytes::NOTHING,
        };
        let (mut last, mut this) = (&OfBytes::NOTHING, pair(0));
        let mut gone = 0; // the second byte of a pair, if that is the first one of the 64
        for start in (0..piece.len()).step_by(64) {
            let count = (piece.len() - start).min(64);
            let mut joins = 0u64;
            for bit in 0..if self.in_order { count } else { 0 } {
                let next = pair(start + bit + 1);
                joins |= u64::from(this.rank < last.before.min(next.behind)) << bit;
                (last, this) = (this, next);
            }
            let mut symbols = u64::MAX >> (64 - count) & !(joins << 1) & !gone;
            while symbols != 0 {
                let bit = symbols.trailing_zeros() as usize;
                let joined = joins >> bit & 1 == 1;
                each(if joined { pair(start + bit).id } else { byte_ids[usize::from(piece[start + bit])] });
                symbols &= symbols - 1;
            }
            gone = joins >> 63;
        }
    }
}
