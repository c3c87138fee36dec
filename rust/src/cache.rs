//! The ids of pieces that were met before. Most pieces of a text were, and looking them up costs a tenth of merging
//! them again.

use std::hash::BuildHasher;

use bytemuck::{Pod, Zeroable};
use hashbrown::DefaultHashBuilder;

use crate::pages::Pages;
use crate::piece::{self, Key};
use crate::split::{BATCH, Span};

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

/// Pieces of [`Cache`] that came lately and stand at their first place there: of 100 pieces of English 85 are here. The
/// cache holds the whole vocabulary and so is too large for the processor's nearest caches; this is not. A piece has one
/// place and takes it from the piece that was there, so that one look tells all.
pub struct Hot(Box<[Slot; HOT]>);

/// A quarter of a megabyte. Twice as much was no faster on a processor that has 2 MB at hand.
const HOT: usize = 1 << 13;

impl Default for Hot {
    fn default() -> Self {
        Hot(bytemuck::zeroed_box())
    }
}

impl Hot {
    /// Writes the ids of the pieces at `spans`, at most [`BATCH`], to `ids`, and the numbers of those pieces that are not
    /// here to `rest`. Returns how many these are; what stands in `ids` for them means nothing.
    #[inline(never)] // among the other loops its variables would not stay in registers
    pub fn find(&self, text: &[u8], spans: &[Span], ids: &mut [Few], rest: &mut [u16; BATCH]) -> usize {
        let mut count = 0;
        for (index, (&span, ids)) in spans.iter().zip(ids).enumerate() {
            let key = piece::key(text, span);
            let slot = &self.0[piece::place(piece::hash(key), HOT)];
            *ids = slot.ids;
            rest[count % BATCH] = index as u16;
            count += usize::from(slot.key != key);
        }
        count
    }

    /// Remembers a piece.
    #[inline(always)]
    pub fn insert(&mut self, slot: &Slot, hash: u64) {
        self.0[piece::place(hash, HOT)] = *slot;
    }
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
#[repr(C, align(32))] // so that none lies across two lines
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
///
/// A search goes to two places in memory, the table and what it points to. Both can be asked for beforehand.
#[derive(Default)]
pub struct LongCache {
    /// 32 bits of the hash, and one more than the place in `store`; 0 if free. A power of two, at most half of it taken.
    slots: Vec<u64>,
    used: usize,
    /// Of each piece: how many ids, how many bytes, the ids, the bytes.
    store: Vec<u32>,
    hasher: DefaultHashBuilder,
}

/// Longer pieces come rarely and cost much memory.
const LONGEST_CACHED: usize = 512;
const MOST_STORED: usize = 1 << 22;
const FEWEST_SLOTS: usize = 1 << 10;

impl LongCache {
    /// What the other functions are told about a piece.
    #[inline]
    pub fn hash(&self, piece: &[u8]) -> u64 {
        self.hasher.hash_one(piece)
    }

    #[inline(always)]
    fn place(&self, hash: u64) -> usize {
        (hash >> 32) as usize & (self.slots.len() - 1)
    }

    /// Asks for the slot of a piece.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        if !self.slots.is_empty() {
            piece::prefetch(&self.slots[self.place(hash)]);
        }
    }

    /// Asks for what its slot points to.
    #[inline(always)]
    pub fn prefetch_ids(&self, hash: u64) {
        if !self.slots.is_empty()
            && let Some(stored) =
                self.store.get((self.slots[self.place(hash)] as u32).wrapping_sub(1) as usize)
        {
            piece::prefetch(stored);
        }
    }

    pub fn find(&self, piece: &[u8], hash: u64) -> Option<&[u32]> {
        if self.slots.is_empty() {
            return None;
        }
        let mut place = self.place(hash);
        loop {
            let slot = self.slots[place];
            if slot == 0 {
                return None;
            }
            if slot >> 32 == hash >> 32 {
                let [count, len, rest @ ..] = &self.store[slot as u32 as usize - 1..] else { return None };
                let (ids, bytes) = rest.split_at(*count as usize);
                let words = &bytes[..(*len as usize).div_ceil(4)];
                if bytemuck::cast_slice::<u32, u8>(words).get(..*len as usize) == Some(piece) {
                    return Some(ids);
                }
            }
            place = (place + 1) & (self.slots.len() - 1);
        }
    }

    /// Adds a piece, unless it is there or very long.
    pub fn insert(&mut self, piece: &[u8], hash: u64, ids: &[u32]) {
        if piece.len() > LONGEST_CACHED || self.find(piece, hash).is_some() {
            return;
        }
        if self.store.len() > MOST_STORED {
            self.store.clear();
            self.slots.fill(0);
            self.used = 0;
        }
        if self.used * 2 >= self.slots.len() {
            let larger = vec![0; (self.slots.len() * 2).max(FEWEST_SLOTS)];
            for slot in std::mem::replace(&mut self.slots, larger).into_iter().filter(|&slot| slot != 0) {
                self.put(slot);
            }
        }
        self.put(hash >> 32 << 32 | (self.store.len() as u64 + 1));
        self.used += 1;
        self.store.extend([ids.len() as u32, piece.len() as u32]);
        self.store.extend_from_slice(ids);
        self.store.extend(piece.chunks(4).map(|bytes| {
            let mut word = [0; 4];
            word[..bytes.len()].copy_from_slice(bytes);
            u32::from_ne_bytes(word)
        }));
    }

    fn put(&mut self, slot: u64) {
        let mut place = self.place(slot);
        while self.slots[place] != 0 {
            place = (place + 1) & (self.slots.len() - 1);
        }
        self.slots[place] = slot;
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

    #[test]
    fn long_pieces_come_back() {
        const PIECES: usize = if cfg!(miri) { 100 } else { 3000 }; // it is a thousand times slower
        let mut cache = LongCache::default();
        let piece = |number: usize| format!("{number:04}").repeat(1 + number % 50);
        let ids = |number: usize| vec![number as u32; 1 + number % 7];
        for number in 0..PIECES {
            let (piece, ids) = (piece(number), ids(number));
            let hash = cache.hash(piece.as_bytes());
            assert_eq!(cache.find(piece.as_bytes(), hash), None);
            cache.prefetch(hash);
            cache.prefetch_ids(hash);
            cache.insert(piece.as_bytes(), hash, &ids);
            cache.insert(piece.as_bytes(), hash, &[7]); // is there already
        }
        for number in 0..PIECES {
            let hash = cache.hash(piece(number).as_bytes());
            assert_eq!(cache.find(piece(number).as_bytes(), hash), Some(&ids(number)[..]));
            // Another piece of the same hash is not taken for it.
            assert_eq!(cache.find(b"another piece", hash), None);
        }
        let huge = "x".repeat(LONGEST_CACHED + 1);
        let hash = cache.hash(huge.as_bytes());
        cache.insert(huge.as_bytes(), hash, &[1]);
        assert_eq!(cache.find(huge.as_bytes(), hash), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "many pieces")]
    fn a_full_long_cache_forgets_and_goes_on() {
        let mut cache = LongCache::default();
        let mut forgot = 0;
        for number in 0..60_000u32 {
            let piece = format!("{number:0400}");
            let (hash, before) = (cache.hash(piece.as_bytes()), cache.used);
            cache.insert(piece.as_bytes(), hash, &[number]);
            forgot += usize::from(cache.used < before);
            assert_eq!(cache.find(piece.as_bytes(), hash), Some(&[number][..]));
        }
        assert!(forgot > 0 && cache.store.len() < MOST_STORED + 200);
    }
}
