//! Joining the bytes of one piece into tokens: always the pair of the lowest rank, the leftmost of equals.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::pairs::PairTable;

/// What a pair of neighbours becomes, and how early.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    pub rank: u32,
    pub id: u32,
}

/// The rank of a pair that never joins.
const NEVER: u32 = u32::MAX;

/// Above this many symbols a heap is faster than looking at all pairs again after each merge.
const LONG: usize = 96;

/// Working memory for [`merge`], kept from one piece to the next.
#[derive(Default)]
pub struct Scratch {
    /// For short pieces: a symbol, and what it and its right neighbour become.
    symbols: Vec<(u32, Merge)>,
    /// For long ones: ids and a doubly linked list over positions.
    ids: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    heap: BinaryHeap<Reverse<(u32, u32, u32)>>,
}

/// Appends the tokens of `piece` to `out`. `byte_ids[b]` is the token of byte `b`.
pub fn merge(
    piece: &[u8],
    byte_ids: &[u32; 256],
    pairs: &PairTable<Merge>,
    scratch: &mut Scratch,
    out: &mut Vec<u32>,
) {
    match piece {
        [] => {}
        [byte] => out.push(byte_ids[*byte as usize]),
        _ if piece.len() <= LONG => merge_short(piece, byte_ids, pairs, scratch, out),
        _ => merge_long(piece, byte_ids, pairs, scratch, out),
    }
}

#[inline]
fn look_up(pairs: &PairTable<Merge>, left: u32, right: u32) -> Merge {
    pairs.get(left, right).unwrap_or(Merge { rank: NEVER, id: 0 })
}

/// Quadratic in the length, but with a tiny constant.
fn merge_short(
    piece: &[u8],
    byte_ids: &[u32; 256],
    pairs: &PairTable<Merge>,
    scratch: &mut Scratch,
    out: &mut Vec<u32>,
) {
    let never = Merge { rank: NEVER, id: 0 };
    let symbols = &mut scratch.symbols;
    symbols.clear();
    symbols.extend(piece.iter().map(|&byte| (byte_ids[byte as usize], never)));
    for at in 0..symbols.len() - 1 {
        symbols[at].1 = look_up(pairs, symbols[at].0, symbols[at + 1].0);
    }
    loop {
        // The first of the lowest: min_by_key keeps the first of equals.
        let Some((at, &(_, best))) = symbols.iter().enumerate().min_by_key(|(_, symbol)| symbol.1.rank)
        else {
            return;
        };
        if best.rank == NEVER {
            break;
        }
        symbols[at].0 = best.id;
        symbols.remove(at + 1);
        let right = symbols.get(at + 1).map(|symbol| symbol.0);
        symbols[at].1 = right.map_or(never, |right| look_up(pairs, best.id, right));
        if at > 0 {
            symbols[at - 1].1 = look_up(pairs, symbols[at - 1].0, best.id);
        }
    }
    out.extend(symbols.iter().map(|symbol| symbol.0));
}

/// No position: the end of the list, and the id of a symbol that was joined to its left neighbour.
const NONE: u32 = u32::MAX;

/// n log n: a heap of (rank, position, id after the merge), whose entries may be out of date.
fn merge_long(
    piece: &[u8],
    byte_ids: &[u32; 256],
    pairs: &PairTable<Merge>,
    scratch: &mut Scratch,
    out: &mut Vec<u32>,
) {
    let n = piece.len() as u32;
    let Scratch { ids, next, previous, heap, .. } = scratch;
    ids.clear();
    ids.extend(piece.iter().map(|&byte| byte_ids[byte as usize]));
    next.clear();
    next.extend((1..n).chain([NONE]));
    previous.clear();
    previous.extend([NONE].into_iter().chain(0..n - 1));
    let mut entries = std::mem::take(heap).into_vec();
    entries.clear();
    for at in 0..n - 1 {
        if let Some(merge) = pairs.get(ids[at as usize], ids[at as usize + 1]) {
            entries.push(Reverse((merge.rank, at, merge.id)));
        }
    }
    *heap = BinaryHeap::from(entries);
    while let Some(Reverse((rank, at, id))) = heap.pop() {
        let left = ids[at as usize];
        let after = next[at as usize];
        if left == NONE || after == NONE {
            continue;
        }
        // Is this still the pair that the entry was made for?
        if pairs.get(left, ids[after as usize]) != Some(Merge { rank, id }) {
            continue;
        }
        ids[at as usize] = id;
        ids[after as usize] = NONE;
        let right = next[after as usize];
        next[at as usize] = right;
        if right != NONE {
            previous[right as usize] = at;
            if let Some(merge) = pairs.get(id, ids[right as usize]) {
                heap.push(Reverse((merge.rank, at, merge.id)));
            }
        }
        let before = previous[at as usize];
        if before != NONE {
            if let Some(merge) = pairs.get(ids[before as usize], id) {
                heap.push(Reverse((merge.rank, before, merge.id)));
            }
        }
    }
    out.extend(ids.iter().filter(|&&id| id != NONE));
    // One huge piece must not hold its memory for ever.
    if piece.len() > 1 << 20 {
        *scratch = Scratch::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_agree() {
        // a=0 b=1; ab=2, aa=3, aba=4, abab=5, aaa=6
        let mut pairs = PairTable::with_capacity(8);
        for (rank, (left, right, id)) in
            [(0, 1, 2), (0, 0, 3), (2, 0, 4), (2, 2, 5), (3, 0, 6), (0, 3, 6)].into_iter().enumerate()
        {
            pairs.insert(left, right, Merge { rank: rank as u32, id });
        }
        let mut byte_ids = [0; 256];
        byte_ids[1] = 1;
        let mut scratch = Scratch::default();
        for bits in 0..4096u32 {
            let piece: Vec<u8> = (0..12).map(|i| (bits >> i & 1) as u8).collect();
            let (mut short, mut long) = (Vec::new(), Vec::new());
            merge_short(&piece, &byte_ids, &pairs, &mut scratch, &mut short);
            merge_long(&piece, &byte_ids, &pairs, &mut scratch, &mut long);
            assert_eq!(short, long, "{piece:?}");
        }
    }
}
