//! The ids of pieces that were met before. Most pieces of a text were, and looking them up costs a tenth of merging
//! them again.

use std::hash::BuildHasher;

use bytemuck::{Pod, Zeroable};
use hashbrown::{DefaultHashBuilder, HashTable};

use crate::pages::Pages;
use crate::piece::{self, Key};

/// Up to four ids in sixteen bytes. Ids are below 2²⁸: the upper four bits of the first say how many there are.
pub type Few = [u32; 4];

/// Where in the first number of [`Few`] the count begins.
pub const COUNT_SHIFT: u32 = 28;

/// `ids`, of which there are one to four, as [`Few`].
#[inline]
pub fn few(ids: &[u32]) -> Few {
    let mut few = [0; 4];
    few[..ids.len()].copy_from_slice(ids);
    few[0] |= (ids.len() as u32) << COUNT_SHIFT;
    few
}

/// The ids of pieces that have a key, if they have at most four. It grows with the pieces that come, up to 32 MB, and
/// begins anew when that is full.
#[derive(Default)]
pub struct Cache {
    lines: Pages<Line>,
    used: usize,
    /// Does it hold every token that is a piece as a whole?
    pub seeded: bool,
}

/// Two slots, which the processor fetches as one. The first is filled first.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Line([Slot; 2]);

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Slot {
    pub key: Key,
    pub ids: Few,
}

impl Line {
    /// The slot that holds a key, if one of them does. Which of the two cannot be foreseen, so it is computed, not
    /// jumped upon.
    #[inline(always)]
    pub fn slot(&self, key: Key) -> &Slot {
        &self.0[usize::from(self.0[1].key == key)]
    }
}

const FEWEST_LINES: usize = 1 << 11;
const MOST_LINES: usize = 1 << 19;

impl Cache {
    /// The lines, a power of two; a piece belongs to the one at [`piece::place`] of its hash, or to the next free ones.
    #[inline]
    pub fn lines(&self) -> &[Line] {
        self.lines.get()
    }

    pub fn find(&self, key: Key, hash: u64) -> Option<Few> {
        let lines = self.lines.get();
        let mut place = piece::place(hash, lines.len());
        loop {
            let slot = lines[place].slot(key);
            if slot.key == key {
                return Some(slot.ids);
            }
            if lines[place].0[1].key == 0 {
                return None;
            }
            place = (place + 1) & (lines.len() - 1);
        }
    }

    /// Is there no room for another piece? Then [`Cache::grow`] makes some.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.used * 8 >= self.lines.get().len() * 10
    }

    /// Adds a piece that is not there. There must be room.
    #[inline]
    pub fn insert(&mut self, key: Key, hash: u64, ids: Few) {
        let lines = self.lines.get_mut();
        let mut place = piece::place(hash, lines.len());
        loop {
            let Line(slots) = &mut lines[place];
            if let Some(slot) = slots.iter_mut().find(|slot| slot.key == 0) {
                *slot = Slot { key, ids };
                self.used += 1;
                return;
            }
            place = (place + 1) & (lines.len() - 1);
        }
    }

    /// Makes room. The first time that this is not for a few pieces only, `seeds` come in: pieces and their ids, at
    /// most so many.
    #[cold]
    pub fn grow(&mut self, most: usize, seeds: impl Iterator<Item = (Key, u32)>) {
        let before = self.lines.get().len();
        let wanted = match before {
            0 => FEWEST_LINES,
            FEWEST_LINES => {
                ((most + FEWEST_LINES).next_power_of_two()).clamp(FEWEST_LINES * 4, MOST_LINES / 2)
            }
            _ => before * 2,
        };
        // Full, or no memory left for more: what there is begins anew.
        let larger = if before < MOST_LINES { Pages::zeroed(wanted) } else { None };
        let old = match larger {
            Some(lines) => std::mem::replace(&mut self.lines, lines),
            None if before == 0 => return self.lines = Pages::zeroed(FEWEST_LINES).unwrap_or_default(),
            None => {
                self.lines.get_mut().fill(Line::zeroed());
                self.seeded = false;
                Pages::default()
            }
        };
        self.used = 0;
        if before > 0 && !self.seeded {
            // The tokens that come most often have the lowest ids, and so the best places.
            for (key, id) in seeds {
                let hash = piece::hash(key);
                if !self.is_full() {
                    self.insert(key, hash, few(&[id]));
                }
            }
            self.seeded = !self.is_full();
        }
        for slot in old.get().iter().flat_map(|Line(slots)| slots).filter(|slot| slot.key != 0) {
            let hash = piece::hash(slot.key);
            if self.find(slot.key, hash).is_none() {
                self.insert(slot.key, hash, slot.ids);
            }
        }
    }
}

/// The ids of pieces that have no key, or more than four ids. Emptied when it is full.
#[derive(Default)]
pub struct LongCache {
    bytes: Vec<u8>,
    ids: Vec<u32>,
    table: HashTable<Long>,
    hasher: DefaultHashBuilder,
}

/// Where the bytes and the ids of a piece are.
struct Long {
    hash: u64,
    bytes: (u32, u32),
    ids: (u32, u32),
}

/// Longer pieces come rarely and cost much memory.
const LONGEST_CACHED: usize = 512;
const MOST_LONG_BYTES: usize = 1 << 23;

impl LongCache {
    pub fn find(&self, piece: &[u8]) -> Option<&[u32]> {
        if piece.len() > LONGEST_CACHED {
            return None;
        }
        let hash = self.hasher.hash_one(piece);
        let known = self.table.find(hash, |long| self.is(long, piece, hash))?;
        Some(&self.ids[known.ids.0 as usize..known.ids.1 as usize])
    }

    fn is(&self, long: &Long, piece: &[u8], hash: u64) -> bool {
        long.hash == hash && &self.bytes[long.bytes.0 as usize..long.bytes.1 as usize] == piece
    }

    pub fn insert(&mut self, piece: &[u8], ids: &[u32]) {
        if piece.len() > LONGEST_CACHED || self.find(piece).is_some() {
            return;
        }
        if self.bytes.len() > MOST_LONG_BYTES {
            self.bytes.clear();
            self.ids.clear();
            self.table.clear();
        }
        let hash = self.hasher.hash_one(piece);
        let long = Long {
            hash,
            bytes: (self.bytes.len() as u32, (self.bytes.len() + piece.len()) as u32),
            ids: (self.ids.len() as u32, (self.ids.len() + ids.len()) as u32),
        };
        self.bytes.extend_from_slice(piece);
        self.ids.extend_from_slice(ids);
        self.table.insert_unique(hash, long, |long| long.hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_cache_forgets_and_goes_on() {
        let key = |number: usize| piece::key(format!("{number:08}").as_bytes(), (0, 8));
        let mut cache = Cache::default();
        let seeds = || (0..5000).map(|number| (key(number), number as u32));
        let mut forgot = false;
        for number in 0..2_000_000 {
            if cache.is_full() {
                let before = cache.used;
                cache.grow(5000, seeds());
                forgot |= cache.used < before;
                assert!(cache.seeded || cache.lines().len() == FEWEST_LINES);
            }
            let hash = piece::hash(key(number));
            match cache.find(key(number), hash) {
                Some(ids) => assert!(number < 5000 && ids == few(&[number as u32])),
                None => cache.insert(key(number), hash, few(&[number as u32, 7])),
            }
        }
        assert!(forgot && cache.find(key(1_999_999), piece::hash(key(1_999_999))).is_some());
        assert!((0..5000).all(|number| cache.find(key(number), piece::hash(key(number))).is_some()));
    }
}
