//! Joining the bytes of one piece into tokens: always the pair of the lowest rank, the leftmost of equals.

mod first;
mod heap;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::backtrack::Backtrack;
use crate::error::{Result, Watch};
use crate::pairs::{NEVER, Pairs};
use first::FirstJoins;
use heap::Heap;

/// Pieces of up to so many bytes or symbols are merged by looking at all pairs again after each merge.
pub const SHORT: usize = 62;
/// From so many bytes on it pays to follow the tokens from left to right, where that is possible.
const LINEAR: usize = 1 << 10;
/// Making ready for that takes, for each pair, as long as to merge about so many bytes in the other way.
const WORTH: usize = 5;

/// A few milliseconds' worth.
pub const STEPS_PER_TICK: u64 = 1 << 15;

/// Which neighbours join. The rank of a pair says how early, and what they become.
pub struct Merges {
    /// The token of each byte.
    byte_ids: [u32; 256],
    first: FirstJoins,
    of_tokens: Pairs,
    /// The token that each rank makes; empty where ranks are ids.
    made: Vec<u32>,
    /// Another way to the same tokens, made when the first long piece comes, if this vocabulary allows it.
    backtrack: OnceLock<Option<Backtrack>>,
    making: Mutex<()>,
    /// How many bytes of long pieces there were until then, and at how many it is made.
    long_bytes: AtomicUsize,
    worth: usize,
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
    /// Begins with the symbols that [`FirstJoins::for_each`] makes of a piece, of which there are at most [`SHORT`]. Their
    /// ranks are looked up by [`Symbols::look_up_all`].
    #[inline(always)]
    fn start(&mut self, merges: &Merges, piece: &[u8]) {
        let mut n = 0;
        merges.first.for_each(piece, &merges.byte_ids, |id| {
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

impl Merges {
    /// `numbers`: more than all ids and ranks; `pairs`: about how many there will be. `made`: the token that each rank
    /// makes, or empty if ranks are ids.
    pub fn new(byte_ids: [u32; 256], numbers: usize, pairs: usize, made: Vec<u32>) -> Self {
        Merges {
            byte_ids,
            first: FirstJoins::new(),
            of_tokens: Pairs::new(numbers, pairs),
            made,
            backtrack: OnceLock::new(),
            making: Mutex::new(()),
            long_bytes: AtomicUsize::new(0),
            worth: WORTH * pairs,
        }
    }

    /// Adds a pair of tokens: the first `cut` bytes of `joined`, and the others. A pair that is given twice has its last
    /// rank.
    pub fn insert(&mut self, left: u32, right: u32, rank: u32, joined: &[u8], cut: usize) {
        self.of_tokens.insert(left, right, rank);
        let id = self.id(rank);
        self.first.insert(joined, cut, rank, id);
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

    pub fn byte_ids(&self) -> &[u32; 256] {
        &self.byte_ids
    }

    /// All pairs and what they become, if ranks are ids.
    pub fn by_id(&self) -> Option<impl Iterator<Item = (u32, u32, u32)>> {
        self.made.is_empty().then(|| self.of_tokens.iter())
    }

    /// Appends the tokens of `piece` to `out`.
    pub fn apply(
        &self,
        piece: &[u8],
        scratch: &mut Scratch,
        watch: &mut dyn Watch,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        if piece.len() >= LINEAR
            && let Some(backtrack) = self.backtrack(piece.len())
        {
            return backtrack.apply(self, piece, &mut scratch.steps, watch, out);
        }
        self.apply_directly(piece, scratch, watch, out)
    }

    /// The way from left to right, if it exists and was made, or if enough long pieces came to be worth its making.
    ///
    /// Nobody waits while another thread makes it, who may not be there in a forked process.
    fn backtrack(&self, len: usize) -> Option<&Backtrack> {
        if let Some(known) = self.backtrack.get() {
            return known.as_ref();
        }
        if self.long_bytes.fetch_add(len, Ordering::Relaxed) + len < self.worth {
            return None;
        }
        let _made_by_one = self.making.try_lock().ok()?;
        if self.backtrack.get().is_none() {
            let _ = self.backtrack.set(Backtrack::new(self));
        }
        self.backtrack.get()?.as_ref()
    }

    /// The same by the definition: merge after merge.
    pub fn apply_directly(
        &self,
        piece: &[u8],
        scratch: &mut Scratch,
        watch: &mut dyn Watch,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        if piece.len() <= SHORT {
            self.apply_group(&[piece], scratch, |_, ids| out.extend_from_slice(ids));
        } else {
            let mut symbols = std::mem::take(&mut scratch.symbols);
            symbols.clear();
            self.first.for_each(piece, &self.byte_ids, |id| symbols.push(id));
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
                scratch.heap.apply(self, &symbols, || true, &mut scratch.steps, watch, out)?;
            }
            scratch.symbols = symbols;
        }
        Ok(())
    }

    /// Merge after merge, from the bytes on. Before a pair is joined, `keep` is asked: see [`Heap::apply`].
    pub fn apply_with(
        &self,
        piece: &[u8],
        scratch: &mut Scratch,
        keep: impl FnMut() -> bool,
        watch: &mut dyn Watch,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let mut symbols = std::mem::take(&mut scratch.symbols);
        symbols.clear();
        symbols.extend(piece.iter().map(|&byte| self.byte_ids[usize::from(byte)]));
        scratch.heap.apply(self, &symbols, keep, &mut scratch.steps, watch, out)?;
        scratch.symbols = symbols;
        Ok(())
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
                merges.apply_with(piece, &mut scratch, || true, &mut (), ids).unwrap();
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
