//! Joining the bytes of one piece into tokens: always the pair of the lowest rank, the leftmost of equals.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::OnceLock;

use crate::backtrack::Backtrack;
use crate::pairs::{NEVER, Pairs};

/// Pieces of up to so many bytes are merged by looking at all pairs again after each merge.
pub const SHORT: usize = 62;
/// From so many bytes on it pays to follow the tokens from left to right, where that is possible.
const LINEAR: usize = 1 << 10;

/// Which neighbours join. The rank of a pair says how early, and what they become.
pub struct Merges {
    /// The token of each byte.
    byte_ids: [u32; 256],
    /// What each two bytes become. Every piece begins with these, so they have a table without a search.
    of_bytes: Vec<u32>,
    of_tokens: Pairs,
    /// The token that each rank makes; empty where ranks are ids.
    made: Vec<u32>,
    /// Another way to the same tokens, made when the first long piece comes, if this vocabulary allows it.
    backtrack: OnceLock<Option<Backtrack>>,
}

/// Working memory for [`Merges::apply`], kept from one piece to the next.
#[derive(Default)]
pub struct Scratch {
    /// For short pieces.
    group: [Symbols; GROUP],
    /// For long pieces.
    heap: Heap,
    /// What was done so far: pairs looked at, positions visited. Linear time is asserted with it.
    pub steps: u64,
}

/// So many short pieces are merged together: while the memory is asked for what one of them needs, the others go on.
pub const GROUP: usize = 8;

/// The symbols of one short piece. Position 0 and the one behind the piece hold no token; so every symbol has
/// neighbours, and asking for the rank of a pair at the edge finds nothing.
#[derive(Clone, Copy)]
struct Symbols {
    ids: [u32; 64],
    /// The rank of each symbol and its right neighbour.
    ranks: [u32; 64],
    /// The bits of the positions where a symbol is.
    alive: u64,
    /// How many of the ranks count, a multiple of 16.
    lanes: usize,
    /// The last merge: where it was, what stands there, and the positions of its neighbours.
    at: usize,
    before: usize,
    next: usize,
}

impl Default for Symbols {
    fn default() -> Self {
        Symbols { ids: [0; 64], ranks: [NEVER; 64], alive: 0, lanes: 0, at: 0, before: 0, next: 0 }
    }
}

impl Symbols {
    #[inline(always)]
    fn start(&mut self, merges: &Merges, piece: &[u8]) {
        let n = piece.len();
        self.lanes = (n + 16) & !15;
        self.ranks[..self.lanes].fill(NEVER);
        for (rank, pair) in self.ranks[1..].iter_mut().zip(piece.windows(2)) {
            *rank = merges.rank_of_bytes(pair[0], pair[1]);
        }
        for (id, &byte) in self.ids[1..].iter_mut().zip(piece) {
            *id = merges.byte_ids[usize::from(byte)];
        }
        (self.ids[0], self.ids[n + 1]) = (merges.of_tokens.no_token(), merges.of_tokens.no_token());
        self.alive = u64::MAX >> (62 - n);
    }

    /// Joins the best pair. Its new neighbours are looked up by [`Symbols::look_up`]. False if no pair is left.
    #[inline(always)]
    fn join(&mut self, merges: &Merges) -> bool {
        let (best, at) = lowest(&self.ranks[..self.lanes]);
        if best == NEVER {
            return false;
        }
        let id = merges.id(best);
        self.ids[at] = id;
        let behind = self.alive & (u64::MAX << at << 1);
        let gone = behind.trailing_zeros() as usize & 63;
        self.alive ^= 1 << gone;
        self.ranks[gone] = NEVER;
        self.next = (behind & behind.wrapping_sub(1)).trailing_zeros() as usize & 63;
        self.before = (63 - (self.alive & !(u64::MAX << at)).leading_zeros() as usize) & 63;
        self.at = at;
        merges.of_tokens.prefetch(id, self.ids[self.next]);
        merges.of_tokens.prefetch(self.ids[self.before], id);
        true
    }

    #[inline(always)]
    fn look_up(&mut self, merges: &Merges) {
        let id = self.ids[self.at];
        self.ranks[self.at] = merges.rank(id, self.ids[self.next]);
        self.ranks[self.before] = merges.rank(self.ids[self.before], id);
    }

    /// Moves the tokens to the front.
    #[inline(always)]
    fn finish(&mut self) -> &[u32] {
        let mut count = 0;
        let mut rest = self.alive & (self.alive - 1); // without position 0
        while rest & (rest - 1) != 0 {
            self.ids[count] = self.ids[rest.trailing_zeros() as usize & 63];
            count += 1;
            rest &= rest - 1;
        }
        &self.ids[..count]
    }
}

/// A queue of ranks and positions, whose entries may be out of date, and a doubly linked list of symbols.
#[derive(Default)]
struct Heap {
    ids: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    queue: BinaryHeap<Reverse<u64>>,
    waiting: Vec<Reverse<u64>>,
}

/// No position: the end of the list, and the id of a symbol that was joined to its left neighbour.
const NONE: u32 = u32::MAX;

impl Merges {
    /// `numbers`: more than all ids and ranks; `pairs`: about how many there will be. `made`: the token that each rank
    /// makes, or empty if ranks are ids.
    pub fn new(byte_ids: [u32; 256], numbers: usize, pairs: usize, made: Vec<u32>) -> Self {
        Merges {
            byte_ids,
            of_bytes: vec![NEVER; 1 << 16],
            of_tokens: Pairs::new(numbers, pairs),
            made,
            backtrack: OnceLock::new(),
        }
    }

    /// Adds a pair of tokens that together are `joined`. A pair that is given twice has its last rank.
    pub fn insert(&mut self, left: u32, right: u32, rank: u32, joined: &[u8]) {
        self.of_tokens.insert(left, right, rank);
        if let [left, right] = joined {
            self.of_bytes[usize::from(*left) << 8 | usize::from(*right)] = rank;
        }
    }

    /// The rank of a pair, or [`NEVER`].
    #[inline(always)]
    pub fn rank(&self, left: u32, right: u32) -> u32 {
        self.of_tokens.get(left, right)
    }

    #[inline(always)]
    fn id(&self, rank: u32) -> u32 {
        if self.made.is_empty() { rank } else { self.made[rank as usize] }
    }

    #[inline]
    fn rank_of_bytes(&self, left: u8, right: u8) -> u32 {
        self.of_bytes[usize::from(left) << 8 | usize::from(right)]
    }

    pub fn byte_ids(&self) -> &[u32; 256] {
        &self.byte_ids
    }

    /// All pairs and what they become, if ranks are ids.
    pub fn by_id(&self) -> Option<impl Iterator<Item = (u32, u32, u32)>> {
        self.made.is_empty().then(|| self.of_tokens.iter())
    }

    /// Appends the tokens of `piece` to `out`.
    pub fn apply(&self, piece: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        if piece.len() >= LINEAR
            && let Some(backtrack) = self.backtrack.get_or_init(|| Backtrack::new(self))
        {
            return backtrack.apply(self, piece, &mut scratch.steps, out);
        }
        self.apply_directly(piece, scratch, out);
    }

    /// The same by the definition: merge after merge.
    pub fn apply_directly(&self, piece: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        if piece.len() <= SHORT {
            self.apply_group(&[piece], scratch, |_, ids| out.extend_from_slice(ids));
        } else {
            self.apply_long(piece, scratch, || true, out);
        }
    }

    /// Calls `each` with the number of a piece and its tokens, for up to [`GROUP`] pieces of at most [`SHORT`] bytes, in
    /// any order. Quadratic in the length, but with a tiny constant: the symbols that are left are the bits of one
    /// number, and the lowest rank of sixteen is found at once.
    pub fn apply_group(&self, pieces: &[&[u8]], scratch: &mut Scratch, mut each: impl FnMut(usize, &[u32])) {
        let mut busy = [0; GROUP];
        for (index, (symbols, piece)) in scratch.group.iter_mut().zip(pieces).enumerate() {
            symbols.start(self, piece);
            busy[index] = index;
        }
        let mut count = pieces.len();
        while count > 0 {
            let mut place = 0;
            while place < count {
                let symbols = &mut scratch.group[busy[place]];
                scratch.steps += symbols.lanes as u64;
                if symbols.join(self) {
                    place += 1;
                } else {
                    each(busy[place], symbols.finish());
                    count -= 1;
                    busy[place] = busy[count];
                }
            }
            for &index in &busy[..count] {
                scratch.group[index].look_up(self);
            }
        }
    }

    /// n log n. Before a pair is joined, `keep` is asked; if it says no, the pair has to wait until another was joined.
    pub fn apply_long(
        &self,
        piece: &[u8],
        scratch: &mut Scratch,
        mut keep: impl FnMut() -> bool,
        out: &mut Vec<u32>,
    ) {
        if piece.is_empty() {
            return;
        }
        let n = piece.len() as u32;
        let Heap { ids, next, previous, queue, waiting } = &mut scratch.heap;
        waiting.clear();
        ids.clear();
        ids.extend(piece.iter().map(|&byte| self.byte_ids[usize::from(byte)]));
        next.clear();
        next.extend((1..n).chain([NONE]));
        previous.clear();
        previous.extend([NONE].into_iter().chain(0..n - 1));
        let entry = |rank: u32, at: u32| Reverse(u64::from(rank) << 32 | u64::from(at));
        let mut entries = std::mem::take(queue).into_vec();
        entries.clear();
        for (at, pair) in piece.windows(2).enumerate() {
            let rank = self.rank_of_bytes(pair[0], pair[1]);
            if rank != NEVER {
                entries.push(entry(rank, at as u32));
            }
        }
        *queue = BinaryHeap::from(entries);
        scratch.steps += u64::from(n);
        while let Some(Reverse(found)) = queue.pop() {
            scratch.steps += 1;
            let (rank, at) = ((found >> 32) as u32, found as u32);
            let left = ids[at as usize];
            let after = next[at as usize];
            if left == NONE || after == NONE {
                continue;
            }
            // Is this still the pair that the entry was made for?
            if self.rank(left, ids[after as usize]) != rank {
                continue;
            }
            if !keep() {
                waiting.push(Reverse(found));
                continue;
            }
            queue.extend(waiting.drain(..));
            let id = self.id(rank);
            ids[at as usize] = id;
            ids[after as usize] = NONE;
            let right = next[after as usize];
            next[at as usize] = right;
            if right != NONE {
                previous[right as usize] = at;
                let rank = self.rank(id, ids[right as usize]);
                if rank != NEVER {
                    queue.push(entry(rank, at));
                }
            }
            let before = previous[at as usize];
            if before != NONE {
                let rank = self.rank(ids[before as usize], id);
                if rank != NEVER {
                    queue.push(entry(rank, before));
                }
            }
        }
        out.extend(ids.iter().filter(|&&id| id != NONE));
        // One huge piece must not hold its memory for ever.
        if piece.len() > 1 << 20 {
            scratch.heap = Heap::default();
        }
    }
}

/// The lowest of up to 64 ranks, a multiple of 16, and the first place where it stands.
#[inline(always)]
fn lowest(ranks: &[u32]) -> (u32, usize) {
    let (chunks, _) = ranks.as_chunks::<16>();
    let best = chunks.iter().flatten().fold(NEVER, |best, &rank| best.min(rank));
    let mut at = 0;
    for (index, chunk) in chunks.iter().enumerate().rev() {
        let mut places = 0u32;
        for (lane, &rank) in chunk.iter().enumerate() {
            places |= u32::from(rank == best) << lane;
        }
        if places != 0 {
            at = index * 16 + places.trailing_zeros() as usize;
        }
    }
    (best, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// a=0 b=1; ab=2, aa=3, aba=4, abab=5, aaa=6
    fn some() -> Merges {
        let mut byte_ids = [0; 256];
        byte_ids[1] = 1;
        let mut merges = Merges::new(byte_ids, 100, 8, vec![2, 3, 4, 5, 6, 6]);
        for (rank, (left, right, joined)) in [
            (0, 1, &[0, 1][..]),
            (0, 0, &[0, 0]),
            (2, 0, &[0, 1, 0]),
            (2, 2, &[0, 1, 0, 1]),
            (3, 0, &[0, 0, 0]),
            (0, 3, &[0, 0, 0]),
        ]
        .into_iter()
        .enumerate()
        {
            merges.insert(left, right, rank as u32, joined);
        }
        merges
    }

    #[test]
    fn short_and_long_agree() {
        let (merges, mut scratch) = (some(), Scratch::default());
        let mut pieces = Vec::new();
        for len in [1, 2, 3, 12, 15, 16, 17, 31, 61, 62] {
            for bits in 0..4096u64 {
                let bits = bits.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(12);
                pieces.push((0..len).map(|i| (bits >> i & 1) as u8).collect::<Vec<u8>>());
            }
        }
        pieces.push(Vec::new());
        // Different lengths in one group.
        pieces.sort_by_key(|piece| piece.iter().map(|&bit| usize::from(bit)).sum::<usize>() % 7);
        for group in pieces.chunks(GROUP) {
            let group: Vec<&[u8]> = group.iter().map(Vec::as_slice).collect();
            let mut long: Vec<Vec<u32>> = vec![Vec::new(); group.len()];
            for (piece, ids) in group.iter().zip(&mut long).filter(|(piece, _)| !piece.is_empty()) {
                merges.apply_long(piece, &mut scratch, || true, ids);
            }
            merges.apply_group(&group, &mut scratch, |index, ids| assert_eq!(long[index], ids, "{group:?}"));
        }
    }

    #[test]
    fn the_first_of_equals() {
        let mut ranks = [NEVER; 48];
        assert_eq!(lowest(&ranks), (NEVER, 0));
        (ranks[40], ranks[20], ranks[19]) = (5, 5, 6);
        assert_eq!(lowest(&ranks), (5, 20));
    }
}
