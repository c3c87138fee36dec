//! A hash table from pairs of token ids to something small. Every step of BPE asks it.

use bytemuck::{Pod, Zeroable};

use crate::pages::Pages;
use crate::piece;

/// From pairs of numbers below 2³² − 1 to such a number. Open addressing with linear probing, at most three
/// quarters full.
pub struct PairTable {
    /// One more than the key, 0 where the slot is free, and the value.
    slots: Pages<[u64; 2]>,
    shift: u32,
    len: usize,
}

#[inline(always)]
fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl PairTable {
    pub fn with_capacity(pairs: usize) -> Self {
        let size = (pairs + pairs / 3).next_power_of_two().max(16);
        let slots = Pages::zeroed(size).expect("there is no memory for a table of pairs");
        PairTable { slots, shift: 64 - size.trailing_zeros(), len: 0 }
    }

    /// Where the search for a key begins.
    #[inline(always)]
    fn place(&self, key: u64) -> usize {
        // Multiplying mixes the low bits into the high ones, so the index is taken from the top.
        (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize
    }

    /// Asks for the memory of a pair before it is needed.
    #[inline(always)]
    pub fn prefetch(&self, left: u32, right: u32) {
        piece::prefetch(&self.slots.get()[self.place(key(left, right))]);
    }

    /// The slot that holds `key`, or the empty one where it belongs.
    #[inline(always)]
    fn slot(&self, key: u64) -> usize {
        let slots = self.slots.get();
        let mut index = self.place(key);
        loop {
            let found = slots[index][0];
            if found == key + 1 || found == 0 {
                return index;
            }
            index = (index + 1) & (slots.len() - 1);
        }
    }

    #[inline]
    pub fn get(&self, left: u32, right: u32) -> Option<u32> {
        let [found, value] = self.slots.get()[self.slot(key(left, right))];
        (found != 0).then_some(value as u32)
    }

    /// What the pair maps to; `make` is called for a pair that is new.
    #[inline]
    pub fn get_or_insert(&mut self, left: u32, right: u32, make: impl FnOnce() -> u32) -> u32 {
        let key = key(left, right);
        let mut slot = self.slot(key);
        let [found, value] = self.slots.get()[slot];
        if found != 0 {
            return value as u32;
        }
        if (self.len + 1) * 4 > self.slots.get().len() * 3 {
            self.grow();
            slot = self.slot(key);
        }
        let value = make();
        self.slots.get_mut()[slot] = [key + 1, u64::from(value)];
        self.len += 1;
        value
    }

    /// Sets what the pair maps to, over an earlier value if there is one.
    pub fn insert(&mut self, left: u32, right: u32, value: u32) {
        self.get_or_insert(left, right, || value);
        let slot = self.slot(key(left, right));
        self.slots.get_mut()[slot][1] = u64::from(value);
    }

    fn iter(&self) -> impl Iterator<Item = (u32, u32, u32)> {
        let taken = self.slots.get().iter().filter(|slot| slot[0] != 0);
        taken.map(|&[found, value]| (((found - 1) >> 32) as u32, (found - 1) as u32, value as u32))
    }

    #[cold]
    fn grow(&mut self) {
        let mut larger = PairTable::with_capacity(self.slots.get().len());
        for &[found, value] in self.slots.get().iter().filter(|slot| slot[0] != 0) {
            let slot = larger.slot(found - 1);
            larger.slots.get_mut()[slot] = [found, value];
        }
        larger.len = self.len;
        *self = larger;
    }
}

/// No rank: the pair never joins.
pub const NEVER: u32 = u32::MAX;

/// The ranks of pairs of tokens.
pub enum Pairs {
    /// Where ids and ranks are small.
    Small(SmallPairs),
    Wide(PairTable),
}

impl Pairs {
    /// `numbers`: more than all ids and ranks. `pairs`: about how many there will be.
    pub fn new(numbers: usize, pairs: usize) -> Self {
        if numbers < SMALL as usize {
            Pairs::Small(SmallPairs::with_capacity(pairs))
        } else {
            Pairs::Wide(PairTable::with_capacity(pairs))
        }
    }

    /// An id that no pair holds.
    #[inline(always)]
    pub fn no_token(&self) -> u32 {
        match self {
            Pairs::Small(_) => SMALL - 1,
            Pairs::Wide(_) => u32::MAX,
        }
    }

    /// The rank of a pair of which at most one is [`Pairs::no_token`], or [`NEVER`].
    #[inline(always)]
    pub fn get(&self, left: u32, right: u32) -> u32 {
        match self {
            Pairs::Small(pairs) => pairs.get(left, right),
            Pairs::Wide(pairs) => pairs.get(left, right).unwrap_or(NEVER),
        }
    }

    /// Asks for the memory of a pair before it is needed.
    #[inline(always)]
    pub fn prefetch(&self, left: u32, right: u32) {
        if let Pairs::Small(pairs) = self {
            let key = u64::from(left) << 21 | u64::from(right);
            piece::prefetch(&pairs.buckets.get()[pairs.place(key)]);
        }
    }

    /// Sets the rank of a pair, over an earlier one if there is one.
    pub fn insert(&mut self, left: u32, right: u32, rank: u32) {
        match self {
            Pairs::Small(pairs) => pairs.insert(left, right, rank),
            Pairs::Wide(pairs) => pairs.insert(left, right, rank),
        }
    }

    /// All pairs with their ranks, in no particular order.
    pub fn iter(&self) -> Box<dyn Iterator<Item = (u32, u32, u32)> + '_> {
        match self {
            Pairs::Small(pairs) => Box::new(pairs.iter()),
            Pairs::Wide(pairs) => Box::new(pairs.iter()),
        }
    }
}

/// From pairs of numbers below 2²¹ − 1 to such a number, in eight bytes: half a [`PairTable`], so that twice as much of
/// it is in the processor's cache. Four slots are looked at together, in one half of a cache line: whether one of
/// them holds the pair is computed, as nobody could foresee which.
pub struct SmallPairs {
    buckets: Pages<Bucket>,
    shift: u32,
    len: usize,
}

/// Left, right, and one more than the rank, 21 bits each; 0 for a free slot. They are filled in order.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(32))]
struct Bucket([u64; 4]);

/// Numbers from here on are too large for [`SmallPairs`].
const SMALL: u32 = 1 << 21;

impl SmallPairs {
    fn with_capacity(pairs: usize) -> Self {
        let size = (pairs / 2).next_power_of_two().max(4);
        let buckets = Pages::zeroed(size).expect("there is no memory for a table of pairs");
        SmallPairs { buckets, shift: 64 - size.trailing_zeros(), len: 0 }
    }

    #[inline(always)]
    fn place(&self, key: u64) -> usize {
        (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize
    }

    #[inline(always)]
    fn get(&self, left: u32, right: u32) -> u32 {
        let key = u64::from(left) << 21 | u64::from(right);
        let buckets = self.buckets.get();
        let mut place = self.place(key);
        loop {
            let Bucket(slots) = &buckets[place];
            // The first slot decides: a free one looks like the pair (0, 0).
            let mut found = 0;
            for slot in slots.iter().rev() {
                found = if slot >> 21 == key { *slot as u32 & (SMALL - 1) } else { found };
            }
            if (found != 0) | (slots[3] == 0) {
                return found.wrapping_sub(1);
            }
            place = (place + 1) & (buckets.len() - 1);
        }
    }

    fn insert(&mut self, left: u32, right: u32, rank: u32) {
        if self.len + 1 > self.buckets.get().len() * 2 {
            let larger = SmallPairs::with_capacity(self.buckets.get().len() * 4);
            let old = std::mem::replace(self, larger);
            old.iter().for_each(|(left, right, rank)| self.insert(left, right, rank));
        }
        let key = u64::from(left) << 21 | u64::from(right);
        let mut place = self.place(key);
        let buckets = self.buckets.get_mut();
        loop {
            if let Some(slot) = buckets[place].0.iter_mut().find(|slot| **slot >> 21 == key || **slot == 0) {
                self.len += usize::from(*slot == 0);
                *slot = key << 21 | u64::from(rank + 1);
                return;
            }
            place = (place + 1) & (buckets.len() - 1);
        }
    }

    fn iter(&self) -> impl Iterator<Item = (u32, u32, u32)> {
        let slots = self.buckets.get().iter().flat_map(|Bucket(slots)| slots).filter(|&&slot| slot != 0);
        let part = |slot: u64| slot as u32 & (SMALL - 1);
        slots.map(move |&slot| (part(slot >> 42), part(slot >> 21), part(slot) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_wide_pairs_agree() {
        for numbers in [SMALL as usize - 1, SMALL as usize] {
            let mut table = Pairs::new(numbers, 0);
            for i in 0..10_000u32 {
                table.insert(SMALL - 2 - i % 100, i, SMALL - 2 - i);
            }
            table.insert(SMALL - 7, 5, 77);
            assert_eq!(table.iter().count(), 10_000);
            assert!(table.iter().any(|pair| pair == (SMALL - 7, 5, 77)));
            assert_eq!(table.get(SMALL - 7, 5), 77);
            assert_eq!(table.get(SMALL - 101, 9999), SMALL - 10_001);
            assert_eq!(table.get(1, 0), NEVER);
            assert_eq!(table.get(table.no_token(), 5), NEVER);
            assert_eq!(table.get(SMALL - 7, table.no_token()), NEVER);
        }
    }

    #[test]
    fn many_pairs_survive_growth() {
        let mut table = PairTable::with_capacity(0);
        for i in 0..10_000u32 {
            table.insert(i % 100, i, i);
        }
        table.insert(5, 5, 77);
        assert_eq!(table.len, 10_000);
        assert_eq!(table.get(5, 5), Some(77));
        assert_eq!(table.get(99, 9999), Some(9999));
        assert_eq!(table.get(1, 0), None);
    }
}
