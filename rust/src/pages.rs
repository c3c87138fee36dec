//! Memory for large tables.
//!
//! A table of megabytes that is read here and there spends much of its time on finding out where its pages lie: with
//! pages of 4 kB the processor remembers the places of some thousand of them only. Linux gives pages of 2 MB to those
//! who ask, and encoding English gained a tenth by it.

use std::marker::PhantomData;

use bytemuck::{Pod, Zeroable};
use memmap2::MmapMut;

/// The size of a large page.
const LARGE: usize = 2 << 20;

/// A table of zeros at first, whose memory is taken when it is touched.
pub struct Pages<T> {
    map: Option<MmapMut>,
    start: usize,
    len: usize,
    of: PhantomData<T>,
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Pages { map: None, start: 0, len: 0, of: PhantomData }
    }
}

impl<T: Pod + Zeroable> Pages<T> {
    /// `len` entries, or `None` where the system has no memory left.
    pub fn zeroed(len: usize) -> Option<Self> {
        let size = len.checked_mul(size_of::<T>())?;
        if size == 0 {
            return Some(Pages::default());
        }
        let spare = if size >= LARGE { LARGE } else { 0 };
        let map = MmapMut::map_anon(size.checked_add(spare)?).ok()?;
        let mut start = 0;
        if spare > 0 {
            start = map.as_ptr().align_offset(LARGE).min(spare);
            #[cfg(target_os = "linux")]
            // Not all kernels have large pages; without them all is as before.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Some(Pages { map: Some(map), start, len, of: PhantomData })
    }

    /// The same memory as bytes.
    pub fn into_bytes(self) -> Pages<u8> {
        Pages { len: self.len * size_of::<T>(), map: self.map, start: self.start, of: PhantomData }
    }

    #[inline]
    pub fn get(&self) -> &[T] {
        match &self.map {
            Some(map) => bytemuck::cast_slice(&map[self.start..][..self.len * size_of::<T>()]),
            None => &[],
        }
    }

    #[inline]
    pub fn get_mut(&mut self) -> &mut [T] {
        match &mut self.map {
            Some(map) => bytemuck::cast_slice_mut(&mut map[self.start..][..self.len * size_of::<T>()]),
            None => &mut [],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_zero_and_hold_what_is_written() {
        for len in [0, 1, 1000, 1 << 20] {
            let mut pages = Pages::<u32>::zeroed(len).unwrap();
            assert_eq!(pages.get(), vec![0; len]);
            pages.get_mut().iter_mut().enumerate().for_each(|(index, entry)| *entry = index as u32);
            assert!(pages.get().iter().enumerate().all(|(index, &entry)| entry == index as u32));
        }
        assert!(Pages::<u64>::zeroed(usize::MAX / 4).is_none());
    }
}
