//! A hash table from pairs of token ids to something small. Every step of BPE asks it.

/// Open addressing with linear probing, at most half full. `V` is small and `Copy`.
#[derive(Clone)]
pub struct PairTable<V> {
    slots: Vec<(u64, V)>,
    shift: u32,
    len: usize,
}

/// No pair: ids stay far below `u32::MAX`.
const EMPTY: u64 = u64::MAX;

#[inline]
fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl<V: Copy + Default> PairTable<V> {
    pub fn with_capacity(pairs: usize) -> Self {
        let size = (pairs * 2).next_power_of_two().max(16);
        PairTable { slots: vec![(EMPTY, V::default()); size], shift: 64 - size.trailing_zeros(), len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slot that holds `key`, or the empty one where it belongs.
    #[inline]
    fn slot(&self, key: u64) -> usize {
        let mask = self.slots.len() - 1;
        // Multiplying mixes the low bits into the high ones, so the index is taken from the top.
        let mut index = (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize;
        loop {
            let found = self.slots[index].0;
            if found == key || found == EMPTY {
                return index;
            }
            index = (index + 1) & mask;
        }
    }

    #[inline]
    pub fn get(&self, left: u32, right: u32) -> Option<V> {
        let key = key(left, right);
        let (found, value) = self.slots[self.slot(key)];
        (found == key).then_some(value)
    }

    /// What the pair maps to; `make` is called for a pair that is new.
    #[inline]
    pub fn get_or_insert(&mut self, left: u32, right: u32, make: impl FnOnce() -> V) -> V {
        let key = key(left, right);
        let mut slot = self.slot(key);
        if self.slots[slot].0 == key {
            return self.slots[slot].1;
        }
        if (self.len + 1) * 2 > self.slots.len() {
            self.grow();
            slot = self.slot(key);
        }
        let value = make();
        self.slots[slot] = (key, value);
        self.len += 1;
        value
    }

    /// Sets what the pair maps to, over an earlier value if there is one.
    pub fn insert(&mut self, left: u32, right: u32, value: V) {
        self.get_or_insert(left, right, || value);
        let slot = self.slot(key(left, right));
        self.slots[slot].1 = value;
    }

    fn grow(&mut self) {
        let mut larger = PairTable::with_capacity(self.slots.len());
        for &(key, value) in &self.slots {
            if key != EMPTY {
                let slot = larger.slot(key);
                larger.slots[slot] = (key, value);
            }
        }
        larger.len = self.len;
        *self = larger;
    }
}

/// From pairs of ids below 2²¹ to such an id, in eight bytes a slot: half a [`PairTable`], so that twice as much of it
/// is in the processor's cache.
#[derive(Clone)]
pub struct SmallPairs {
    /// Left, right and result, 21 bits each.
    slots: Vec<u64>,
    shift: u32,
    len: usize,
}

/// Ids from here on are too large for [`SmallPairs`].
pub const SMALL: u32 = 1 << 21;

impl SmallPairs {
    pub fn with_capacity(pairs: usize) -> Self {
        let size = (pairs * 2).next_power_of_two().max(16);
        SmallPairs { slots: vec![EMPTY; size], shift: 64 - size.trailing_zeros(), len: 0 }
    }

    /// The slot that holds the pair, or the empty one where it belongs.
    #[inline(always)]
    fn slot(&self, key: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut index = (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize;
        loop {
            let found = self.slots[index];
            if found >> 21 == key || found == EMPTY {
                return index;
            }
            index = (index + 1) & mask;
        }
    }

    #[inline(always)]
    pub fn get(&self, left: u32, right: u32) -> Option<u32> {
        let found = self.slots[self.slot(u64::from(left) << 21 | u64::from(right))];
        (found != EMPTY).then_some(found as u32 & (SMALL - 1))
    }

    /// Sets what the pair becomes. All three are below [`SMALL`].
    pub fn insert(&mut self, left: u32, right: u32, id: u32) {
        if (self.len + 1) * 2 > self.slots.len() {
            let old = std::mem::replace(self, SmallPairs::with_capacity(self.slots.len()));
            for found in old.slots.into_iter().filter(|&found| found != EMPTY) {
                let slot = self.slot(found >> 21);
                self.slots[slot] = found;
            }
            self.len = old.len;
        }
        let key = u64::from(left) << 21 | u64::from(right);
        let slot = self.slot(key);
        self.len += usize::from(self.slots[slot] == EMPTY);
        self.slots[slot] = key << 21 | u64::from(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_pairs_survive_growth() {
        let mut table = SmallPairs::with_capacity(0);
        for i in 0..10_000u32 {
            table.insert(SMALL - 1 - i % 100, i, SMALL - 1 - i);
        }
        table.insert(SMALL - 6, 5, 77);
        assert_eq!(table.len, 10_000);
        assert_eq!(table.get(SMALL - 6, 5), Some(77));
        assert_eq!(table.get(SMALL - 100, 9999), Some(SMALL - 10_000));
        assert_eq!(table.get(1, 0), None);
    }

    #[test]
    fn many_pairs_survive_growth() {
        let mut table = PairTable::with_capacity(0);
        for i in 0..10_000u32 {
            table.insert(i % 100, i, i);
        }
        table.insert(5, 5, 77);
        assert_eq!(table.len(), 10_000);
        assert_eq!(table.get(5, 5), Some(77));
        assert_eq!(table.get(99, 9999), Some(9999));
        assert_eq!(table.get(1, 0), None);
    }
}
