//! Joining the bytes of one piece into tokens: always the pair of the lowest rank, the leftmost of equals.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::OnceLock;

use crate::backtrack::Backtrack;
use crate::pairs::{NEVER, Pairs};

/// Pieces of up to so many bytes or symbols are merged by looking at all pairs again after each merge.
pub const SHORT: usize = 62;
/// From so many bytes on it pays to follow the tokens from left to right, where that is possible.
const LINEAR: usize = 1 << 10;

/// Which neighbours join. The rank of a pair says how early, and what they become.
pub struct Merges {
    /// The token of each byte.
    byte_ids: [u32; 256],
    /// About each two bytes. Every piece begins with these, so they have a table without a search.
    of_bytes: Vec<OfBytes>,
    /// Does what two bytes become join others only after them, by rank? So it is after training.
    in_order: bool,
    of_tokens: Pairs,
    /// The token that each rank makes; empty where ranks are ids.
    made: Vec<u32>,
    /// Another way to the same tokens, made when the first long piece comes, if this vocabulary allows it.
    backtrack: OnceLock<Option<Backtrack>>,
}

/// What there is to know about two bytes side by side, in order to join most of them at once.
///
/// Take a pair of bytes whose rank is below that of every pair in which its first byte could be the right one, given
/// the byte before, and of every pair in which its second byte could be the left one, given the byte behind. Nothing
/// takes one of the two away before it is their turn to join. If what they become joins nothing before that turn
/// either ([`Merges::in_order`]), then nobody can tell whether they join now or then. Of the joins of a new piece this
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

/// Working memory for [`Merges::apply`], kept from one piece to the next.
#[derive(Default)]
pub struct Scratch {
    /// For short pieces.
    group: [Symbols; GROUP],
    /// For long pieces.
    heap: Heap,
    symbols: Vec<u32>,
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
    /// Begins with the symbols that [`Merges::first_joins`] makes of a piece, of which there are at most [`SHORT`]. Their
    /// ranks are looked up by [`Symbols::look_up_all`].
    #[inline(always)]
    fn start(&mut self, merges: &Merges, piece: &[u8]) {
        let mut n = 0;
        merges.first_joins(piece, |id| {
            n += 1;
            self.ids[n] = id;
        });
        self.begin(merges, n);
    }

    /// Begins with the `n` symbols from position 1 on.
    #[inline(always)]
    fn begin(&mut self, merges: &Merges, n: usize) {
        self.lanes = (n + 16) & !15;
        (self.ids[0], self.ids[n + 1]) = (merges.of_tokens.no_token(), merges.of_tokens.no_token());
        self.alive = u64::MAX >> (62 - n);
        for pair in self.ids[1..=n].windows(2) {
            merges.of_tokens.prefetch(pair[0], pair[1]);
        }
    }

    #[inline(always)]
    fn look_up_all(&mut self, merges: &Merges) {
        self.ranks[..self.lanes].fill(NEVER);
        let n = 62 - self.alive.leading_zeros() as usize;
        for (rank, pair) in self.ranks[1..].iter_mut().zip(self.ids[1..=n].windows(2)) {
            *rank = merges.rank(pair[0], pair[1]);
        }
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
            of_bytes: vec![OfBytes::NOTHING; 1 << 16],
            in_order: true,
            of_tokens: Pairs::new(numbers, pairs),
            made,
            backtrack: OnceLock::new(),
        }
    }

    /// Adds a pair of tokens: the first `cut` bytes of `joined`, and the others. A pair that is given twice has its last
    /// rank.
    pub fn insert(&mut self, left: u32, right: u32, rank: u32, joined: &[u8], cut: usize) {
        self.of_tokens.insert(left, right, rank);
        let id = self.id(rank);
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

    /// The rank of a pair, or [`NEVER`].
    #[inline(always)]
    pub fn rank(&self, left: u32, right: u32) -> u32 {
        self.of_tokens.get(left, right)
    }

    #[inline(always)]
    fn id(&self, rank: u32) -> u32 {
        if self.made.is_empty() { rank } else { self.made[rank as usize] }
    }

    /// Calls `each` with the symbols of a piece from left to right: the pairs of bytes that can be joined at once (see
    /// [`OfBytes`]), and the other bytes.
    #[inline(always)]
    fn first_joins(&self, piece: &[u8], mut each: impl FnMut(u32)) {
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
                each(if joined {
                    pair(start + bit).id
                } else {
                    self.byte_ids[usize::from(piece[start + bit])]
                });
                symbols &= symbols - 1;
            }
            gone = joins >> 63;
        }
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
            let mut symbols = std::mem::take(&mut scratch.symbols);
            symbols.clear();
            self.first_joins(piece, |id| symbols.push(id));
            if symbols.len() <= SHORT {
                let few = &mut scratch.group[0];
                few.ids[1..=symbols.len()].copy_from_slice(&symbols);
                few.begin(self, symbols.len());
                few.look_up_all(self);
                while few.join(self) {
                    few.look_up(self);
                    scratch.steps += few.lanes as u64;
                }
                out.extend_from_slice(few.finish());
            } else {
                self.apply_long(&symbols, scratch, || true, out);
            }
            scratch.symbols = symbols;
        }
    }

    /// Merge after merge, as [`Merges::apply_long`] does with `keep`, from the bytes on.
    pub fn apply_with(
        &self,
        piece: &[u8],
        scratch: &mut Scratch,
        keep: impl FnMut() -> bool,
        out: &mut Vec<u32>,
    ) {
        let mut symbols = std::mem::take(&mut scratch.symbols);
        symbols.clear();
        symbols.extend(piece.iter().map(|&byte| self.byte_ids[usize::from(byte)]));
        self.apply_long(&symbols, scratch, keep, out);
        scratch.symbols = symbols;
    }

    /// Calls `each` with the number of a piece and its tokens, for up to [`GROUP`] pieces of at most [`SHORT`] bytes, in
    /// any order. Quadratic in the length, but with a tiny constant: the symbols that are left are the bits of one
    /// number, and the lowest rank of sixteen is found at once.
    pub fn apply_group(&self, pieces: &[&[u8]], scratch: &mut Scratch, mut each: impl FnMut(usize, &[u32])) {
        let mut busy = [0; GROUP];
        for (index, (symbols, piece)) in scratch.group.iter_mut().zip(pieces).enumerate() {
            symbols.start(self, piece);
            scratch.steps += piece.len() as u64;
            busy[index] = index;
        }
        for symbols in &mut scratch.group[..pieces.len()] {
            symbols.look_up_all(self);
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
    fn apply_long(
        &self,
        symbols: &[u32],
        scratch: &mut Scratch,
        mut keep: impl FnMut() -> bool,
        out: &mut Vec<u32>,
    ) {
        if symbols.is_empty() {
            return;
        }
        let n = symbols.len() as u32;
        let Heap { ids, next, previous, queue, waiting } = &mut scratch.heap;
        waiting.clear();
        ids.clear();
        ids.extend_from_slice(symbols);
        next.clear();
        next.extend((1..n).chain([NONE]));
        previous.clear();
        previous.extend([NONE].into_iter().chain(0..n - 1));
        let entry = |rank: u32, at: u32| Reverse(u64::from(rank) << 32 | u64::from(at));
        let mut entries = std::mem::take(queue).into_vec();
        entries.clear();
        for (at, pair) in symbols.windows(2).enumerate() {
            let rank = self.rank(pair[0], pair[1]);
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
        if symbols.len() > 1 << 20 {
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
            merges.insert(left, right, rank as u32, joined, [1, 1, 2, 2][left as usize]);
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
                merges.apply_with(piece, &mut scratch, || true, ids);
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
