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

#[cfg(test)]
mod tests {
    use super::*;

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
