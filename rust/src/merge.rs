//! Joining the bytes of one piece into tokens: always the pair of the lowest rank, the leftmost of equals.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::pairs::{PairTable, SmallPairs};

/// What a pair of neighbours becomes, and how early.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    pub rank: u32,
    pub id: u32,
}

impl Merge {
    /// Of a pair that never joins. It sorts behind all others.
    const NEVER: u64 = u64::MAX;

    /// As one number, which sorts by rank.
    #[inline]
    fn packed(self) -> u64 {
        u64::from(self.rank) << 32 | u64::from(self.id)
    }
}

/// Above this many symbols a heap is faster than looking at all pairs again after each merge.
const LONG: usize = 96;

/// Which neighbours join.
#[derive(Clone)]
pub struct Merges {
    /// The token of each byte.
    byte_ids: [u32; 256],
    /// What each two bytes become. Every piece begins with these, so they have a table without a search.
    of_bytes: Vec<u64>,
    /// What each two tokens become.
    of_tokens: Pairs,
}

/// What each two tokens become.
#[derive(Clone)]
enum Pairs {
    /// Where ids run like ranks, and stand for them.
    ById(SmallPairs),
    ByRank(PairTable<Merge>),
}

/// Working memory for [`Merges::apply`], kept from one piece to the next.
#[derive(Default)]
pub struct Scratch {
    ids: Vec<u32>,
    /// For short pieces: what each symbol and its right neighbour become.
    merges: Vec<u64>,
    /// For long ones: a doubly linked list over positions.
    next: Vec<u32>,
    previous: Vec<u32>,
    heap: BinaryHeap<Reverse<(u64, u32)>>,
}

/// No position: the end of the list, and the id of a symbol that was joined to its left neighbour.
const NONE: u32 = u32::MAX;

impl Merges {
    /// `capacity`: about how many there will be. `by_id`: do the ids that pairs become run like their ranks? (And are
    /// all ids below [`crate::pairs::SMALL`].)
    pub fn new(byte_ids: [u32; 256], capacity: usize, by_id: bool) -> Self {
        let of_tokens = if by_id {
            Pairs::ById(SmallPairs::with_capacity(capacity))
        } else {
            Pairs::ByRank(PairTable::with_capacity(capacity))
        };
        Merges { byte_ids, of_bytes: vec![Merge::NEVER; 1 << 16], of_tokens }
    }

    /// Adds a pair of tokens that together are `joined`. A pair that is given twice has its last rank.
    pub fn insert(&mut self, left: u32, right: u32, mut merge: Merge, joined: &[u8]) {
        match &mut self.of_tokens {
            Pairs::ById(pairs) => {
                merge.rank = merge.id;
                pairs.insert(left, right, merge.id);
            }
            Pairs::ByRank(pairs) => pairs.insert(left, right, merge),
        }
        if let [left, right] = joined {
            self.of_bytes[usize::from(*left) << 8 | usize::from(*right)] = merge.packed();
        }
    }

    #[inline]
    fn get(&self, left: u32, right: u32) -> u64 {
        let merge = match &self.of_tokens {
            Pairs::ById(pairs) => pairs.get(left, right).map(|id| Merge { rank: id, id }),
            Pairs::ByRank(pairs) => pairs.get(left, right),
        };
        merge.map_or(Merge::NEVER, Merge::packed)
    }

    #[inline]
    fn get_bytes(&self, left: u8, right: u8) -> u64 {
        self.of_bytes[usize::from(left) << 8 | usize::from(right)]
    }

    /// Appends the tokens of `piece` to `out`.
    pub fn apply(&self, piece: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        match piece {
            [] => {}
            [byte] => out.push(self.byte_ids[*byte as usize]),
            _ if piece.len() <= LONG => self.apply_short(piece, scratch, out),
            _ => self.apply_long(piece, scratch, out),
        }
    }

    /// Quadratic in the length, but with a tiny constant.
    fn apply_short(&self, piece: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        let Scratch { ids, merges, .. } = scratch;
        ids.clear();
        ids.extend(piece.iter().map(|&byte| self.byte_ids[byte as usize]));
        merges.clear();
        merges.extend(piece.windows(2).map(|pair| self.get_bytes(pair[0], pair[1])));
        loop {
            let (mut at, mut best) = (0, Merge::NEVER);
            for (index, &merge) in merges.iter().enumerate() {
                if merge < best {
                    (at, best) = (index, merge); // the first of equals
                }
            }
            if best == Merge::NEVER {
                break;
            }
            let id = best as u32;
            ids[at] = id;
            ids.remove(at + 1);
            merges.remove(at);
            if at < merges.len() {
                merges[at] = self.get(id, ids[at + 1]);
            }
            if at > 0 {
                merges[at - 1] = self.get(ids[at - 1], id);
            }
        }
        out.extend_from_slice(ids);
    }

    /// n log n: a heap of (merge, position), whose entries may be out of date.
    fn apply_long(&self, piece: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        let n = piece.len() as u32;
        let Scratch { ids, next, previous, heap, .. } = scratch;
        ids.clear();
        ids.extend(piece.iter().map(|&byte| self.byte_ids[byte as usize]));
        next.clear();
        next.extend((1..n).chain([NONE]));
        previous.clear();
        previous.extend([NONE].into_iter().chain(0..n - 1));
        let mut entries = std::mem::take(heap).into_vec();
        entries.clear();
        for at in 0..n - 1 {
            let merge = self.get_bytes(piece[at as usize], piece[at as usize + 1]);
            if merge != Merge::NEVER {
                entries.push(Reverse((merge, at)));
            }
        }
        *heap = BinaryHeap::from(entries);
        while let Some(Reverse((merge, at))) = heap.pop() {
            let id = merge as u32;
            let left = ids[at as usize];
            let after = next[at as usize];
            if left == NONE || after == NONE {
                continue;
            }
            // Is this still the pair that the entry was made for?
            if self.get(left, ids[after as usize]) != merge {
                continue;
            }
            ids[at as usize] = id;
            ids[after as usize] = NONE;
            let right = next[after as usize];
            next[at as usize] = right;
            if right != NONE {
                previous[right as usize] = at;
                let merge = self.get(id, ids[right as usize]);
                if merge != Merge::NEVER {
                    heap.push(Reverse((merge, at)));
                }
            }
            let before = previous[at as usize];
            if before != NONE {
                let merge = self.get(ids[before as usize], id);
                if merge != Merge::NEVER {
                    heap.push(Reverse((merge, before)));
                }
            }
        }
        out.extend(ids.iter().filter(|&&id| id != NONE));
        // One huge piece must not hold its memory for ever.
        if piece.len() > 1 << 20 {
            *scratch = Scratch::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_agree() {
        // a=0 b=1; ab=2, aa=3, aba=4, abab=5, aaa=6
        let mut byte_ids = [0; 256];
        byte_ids[1] = 1;
        let mut merges = Merges::new(byte_ids, 8, false);
        for (rank, (left, right, id, joined)) in [
            (0, 1, 2, &[0, 1][..]),
            (0, 0, 3, &[0, 0]),
            (2, 0, 4, &[0, 1, 0]),
            (2, 2, 5, &[0, 1, 0, 1]),
            (3, 0, 6, &[0, 0, 0]),
            (0, 3, 6, &[0, 0, 0]),
        ]
        .into_iter()
        .enumerate()
        {
            merges.insert(left, right, Merge { rank: rank as u32, id }, joined);
        }
        let mut scratch = Scratch::default();
        for bits in 0..4096u32 {
            let piece: Vec<u8> = (0..12).map(|i| (bits >> i & 1) as u8).collect();
            let (mut short, mut long) = (Vec::new(), Vec::new());
            merges.apply_short(&piece, &mut scratch, &mut short);
            merges.apply_long(&piece, &mut scratch, &mut long);
            assert_eq!(short, long, "{piece:?}");
        }
    }
}
