//! What the bytes of a window are, read on any processor.

use super::super::scan::Scan;
use super::WINDOW;

/// Which bytes of a window are what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes {
    pub letter: u64,
    pub upper: u64,
    pub digit: u64,
    pub space: u64,
    pub newline: u64,
    pub blank: u64,
    pub quote: u64,
    /// Not ASCII; once [`Leads::settle`] has looked, only what it left open.
    pub high: u64,
}

/// What the bytes of characters beyond ASCII are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leads {
    /// The second, third and fourth bytes.
    pub follow: u64,
    /// The first bytes of characters of two and of three bytes that are letters whatever follows, but for `signs`: most
    /// of Latin and Cyrillic; of Chinese and Korean.
    pub two: u64,
    pub three: u64,
    /// The second bytes of × and ÷, which stand among letters.
    pub signs: u64,
}

impl Leads {
    /// Adds to the classes what is beyond ASCII, up to the first digit or white space there, which is left open.
    #[inline(always)]
    pub fn settle(&self, c: &mut Classes, scan: &Scan, text: &str, at: usize) {
        let signs = self.signs | self.signs >> 1;
        c.letter |= (self.two | self.two << 1 | self.three | self.three << 1 | self.three << 2) & !signs;
        let mut rest = c.high & !(self.follow | self.two | self.three);
        c.high = 0;
        while rest != 0 {
            let place = rest.trailing_zeros() as usize;
            let (bits, is_letter, is_open) = scan.look_up(text, at + place);
            c.letter |= if is_letter { bits << place } else { 0 };
            if is_open {
                c.high = u64::MAX << place;
                return;
            }
            rest &= rest - 1;
        }
    }
}

/// Reads classes from bytes, with the instructions of some processor.
pub trait Classify {
    fn classify(window: &[u8; WINDOW]) -> Classes;
    fn leads(window: &[u8; WINDOW]) -> Leads;
}

/// Eight bytes at a time in an ordinary register, on any processor.
pub struct Portable;

impl Classify for Portable {
    #[inline(always)]
    fn classify(window: &[u8; WINDOW]) -> Classes {
        const ONES: u64 = 0x0101_0101_0101_0101;
        const TOPS: u64 = 0x80 * ONES;
        let mut all = [0u64; 8];
        for (index, word) in window.as_chunks::<8>().0.iter().enumerate() {
            let bytes = u64::from_le_bytes(*word);
            let (low, high) = (bytes & !TOPS, bytes & TOPS);
            // The top bit of each byte: is it at least `least`? (Of bytes up to 127, so nothing is borrowed.)
            let from = |x: u64, least: u8| (x | TOPS) - u64::from(least) * ONES;
            let within = |x: u64, first: u8, last: u8| from(x, first) & !from(x, last + 1) & TOPS & !high;
            let blank = within(low, b' ', b' ');
            let found = [
                within(low | (0x20 * ONES), b'a', b'z'),
                within(low, b'A', b'Z'),
                within(low, b'0', b'9'),
                within(low, b'\t', b'\r') | blank,
                within(low, b'\n', b'\n') | within(low, b'\r', b'\r'),
                blank,
                within(low, b'\'', b'\''),
                high,
            ];
            for (mask, tops) in all.iter_mut().zip(found) {
                // Gathers the top bits of eight bytes into one byte.
                *mask |= ((tops >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * index);
            }
        }
        let [letter, upper, digit, space, newline, blank, quote, high] = all;
        Classes { letter, upper, digit, space, newline, blank, quote, high }
    }

    #[inline(always)]
    fn leads(window: &[u8; WINDOW]) -> Leads {
        let mut leads = Leads { follow: 0, two: 0, three: 0, signs: 0 };
        let mut before = 0;
        for (at, &byte) in window.iter().enumerate() {
            leads.follow |= u64::from(byte & 0xC0 == 0x80) << at;
            leads.two |= u64::from(matches!(byte, 0xC3..=0xCA | 0xD0..=0xD1)) << at;
            leads.three |= u64::from(matches!(byte, 0xE5..=0xE9 | 0xEB..=0xEC)) << at;
            leads.signs |= u64::from(before == 0xC3 && matches!(byte, 0x97 | 0xB7)) << at;
            before = byte;
        }
        leads
    }
}

/// Windows for tests. Under Miri, which is a thousand times slower, few.
#[cfg(test)]
pub fn windows() -> impl Iterator<Item = [u8; WINDOW]> {
    (0..256u32)
        .step_by(if cfg!(miri) { 37 } else { 1 })
        .map(|shift| std::array::from_fn(|i| (i as u32 * 37 + shift) as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With this version of Unicode.
    #[test]
    #[cfg_attr(miri, ignore = "a million characters")]
    fn leads_that_are_letters() {
        let table = crate::unicode::table();
        let mut pure = 0;
        for c in (0x80..=u32::from(char::MAX)).filter_map(char::from_u32) {
            let mut window = [b' '; WINDOW];
            let len = c.encode_utf8(&mut window).len();
            let leads = Portable::leads(&window);
            assert_eq!(leads.follow, (1 << len) - 2, "{c:?}");
            assert_eq!((leads.two | leads.three) & !1, 0, "{c:?}");
            if leads.two | leads.three != 0 && leads.signs == 0 {
                assert!(table.of(c) & crate::unicode::LETTER != 0, "{c:?}");
                assert_eq!(leads.three, u64::from(len == 3), "{c:?}");
                pure += 1;
            } else {
                assert!(leads.signs == 0 || matches!(c, '×' | '÷'), "{c:?}");
            }
        }
        assert_eq!(pure, 8 * 64 - 2 + 2 * 64 + 7 * 4096);
    }

    #[test]
    fn portable_classes() {
        for window in windows() {
            let classes = Portable::classify(&window);
            for (at, byte) in window.iter().enumerate() {
                let has = |mask: u64| mask >> at & 1 == 1;
                assert_eq!(has(classes.letter), byte.is_ascii_alphabetic());
                assert_eq!(has(classes.upper), byte.is_ascii_uppercase());
                assert_eq!(has(classes.digit), byte.is_ascii_digit());
                assert_eq!(has(classes.space), matches!(byte, 9..=13 | b' '));
                assert_eq!(has(classes.newline), matches!(byte, b'\r' | b'\n'));
                assert_eq!(has(classes.blank), *byte == b' ');
                assert_eq!(has(classes.quote), *byte == b'\'');
                assert_eq!(has(classes.high), *byte >= 128);
            }
        }
    }
}
