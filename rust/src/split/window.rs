//! Cutting text 64 bytes at a time.
//!
//! Each class of characters becomes a number of 64 bits, one for each byte of the window, and where pieces begin
//! follows from arithmetic on these numbers: `letters & !(letters << 1)` are the letters that have no letter before
//! them, and adding the first bit of a run to the run carries to the place behind it. A window always begins where a
//! piece begins, so nothing is carried from one to the next, and it is believed only up to the last place that
//! nothing behind it can change: after a run of letters or of digits. What no window decides, [`Scan`] reads character
//! by character: pieces longer than a window, the end of the text, digits and white space beyond ASCII, and in the
//! pattern of o200k everything beyond ASCII.
//!
//! All bytes of a character have its class. Most letters beyond ASCII are known by their first byte alone ([`Leads`]);
//! the other characters are looked up one by one.

use super::scan::{Family, Scan, contraction};

#[cfg(target_arch = "x86_64")]
mod x86;

/// How many bytes a window holds.
pub const WINDOW: usize = 64;

/// Where a piece begins and ends, in bytes.
pub type Span = (usize, usize);

/// Which bytes of a window are what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes {
    letter: u64,
    upper: u64,
    digit: u64,
    space: u64,
    newline: u64,
    blank: u64,
    quote: u64,
    /// Not ASCII; once [`Leads::settle`] has looked, only what it left open.
    high: u64,
}

/// What the bytes of characters beyond ASCII are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leads {
    /// The second, third and fourth bytes.
    follow: u64,
    /// The first bytes of characters of two and of three bytes that are letters whatever follows, but for `signs`: most
    /// of Latin and Cyrillic; of Chinese and Korean.
    two: u64,
    three: u64,
    /// The second bytes of × and ÷, which stand among letters.
    signs: u64,
}

impl Leads {
    /// Adds to the classes what is beyond ASCII, up to the first digit or white space there, which is left open.
    #[inline(always)]
    fn settle(&self, c: &mut Classes, scan: &Scan, text: &str, at: usize) {
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
trait Classify {
    fn classify(window: &[u8; WINDOW]) -> Classes;
    fn leads(window: &[u8; WINDOW]) -> Leads;
}

/// Eight bytes at a time in an ordinary register, on any processor.
struct Portable;

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

/// Which instructions read the windows. A value exists only for those that this processor has: [`fill`] relies on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(Instructions);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instructions {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Instructions {
    fn are_here(&self) -> bool {
        // What `fill_avx2` and `fill_avx512` are compiled for, no less.
        #[cfg(target_arch = "x86_64")]
        let counts_bits = || {
            is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt")
        };
        match self {
            Instructions::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => counts_bits() && is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => {
                counts_bits() && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
            }
        }
    }
}

impl Level {
    /// Those of this processor, the fastest last.
    pub fn all() -> impl Iterator<Item = Level> {
        let known = [
            Instructions::Portable,
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2,
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512,
        ];
        known.into_iter().filter(Instructions::are_here).map(Level)
    }

    pub fn best() -> Level {
        Level::all().last().unwrap_or(Level(Instructions::Portable))
    }
}

/// Writes the pieces of `text` from byte `start` on into `spans`, which has room for at least [`WINDOW`], and returns
/// how many: as many as fit, all if some room is left.
pub fn fill(scan: &Scan, family: Family, text: &str, start: usize, spans: &mut [Span]) -> usize {
    match scan.level().0 {
        Instructions::Portable => fill_with::<Portable>(scan, family, text, start, spans),
        // SAFETY: the processor has all features of `fill_avx2`, or there would be no such level.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => unsafe { x86::fill_avx2(scan, family, text, start, spans) },
        // SAFETY: the processor has all features of `fill_avx512`, or there would be no such level.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 => unsafe { x86::fill_avx512(scan, family, text, start, spans) },
    }
}

#[inline(always)]
fn fill_with<C: Classify>(
    scan: &Scan,
    family: Family,
    text: &str,
    start: usize,
    spans: &mut [Span],
) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut count) = (start, 0);
    while at < bytes.len() && count + WINDOW <= spans.len() {
        if let Some(window) = bytes[at..].first_chunk::<WINDOW>() {
            let mut classes = C::classify(window);
            let mut follow = 0;
            if classes.high != 0 && family != Family::O200k {
                let leads = C::leads(window);
                leads.settle(&mut classes, scan, text, at);
                follow = leads.follow;
            }
            let (begins, sure) = match family {
                Family::Gpt2 => gpt2(&classes, window),
                Family::Cl100k { .. } => cl100k(&classes, window, follow, scan.digits()),
                Family::O200k => o200k(&classes, window, scan.digits()),
            };
            if sure > 0 {
                // The places after the first at which a piece begins are those at which the one before it ends.
                let mut ends = begins & (u64::MAX >> (63 - sure)) & !1 | 1 << sure;
                let mut begin = at;
                while ends != 0 {
                    let end = at + ends.trailing_zeros() as usize;
                    spans[count] = (begin, end);
                    (begin, count) = (end, count + 1);
                    ends &= ends - 1;
                }
                at += sure;
                continue;
            }
        }
        let end = scan.end_of_piece(text, at);
        spans[count] = (at, end);
        (at, count) = (end, count + 1);
    }
    count
}

/// The last place of the window behind a run of letters or digits; 0 if there is none. `but` not there.
#[inline(always)]
fn last_sure(c: &Classes, but: u64) -> usize {
    let open = c.high & c.high.wrapping_neg(); // the first byte that is not known: white space or a number
    let known = open.wrapping_sub(1);
    let ends = ((c.letter << 1 & !c.letter & (known | open)) | (c.digit << 1 & !c.digit & known)) & !but;
    63 - (ends | 1).leading_zeros() as usize
}

/// Digits that begin a piece: the first of a run, and after each `most` of them.
#[inline(always)]
fn numbers(digit: u64, most: usize) -> u64 {
    let mut begins = digit & !(digit << 1);
    if most >= 64 {
        return begins;
    }
    let mut whole = digit; // digits with `most` digits before them
    for back in 1..=most {
        whole &= digit << back;
    }
    let mut next = begins << most & whole;
    while next != 0 {
        begins |= next;
        next = next << most & whole;
    }
    begins
}

/// The length of a contraction at `at`, or 0.
#[inline(always)]
fn contraction_at(window: &[u8; WINDOW], at: usize, fold: bool) -> usize {
    contraction(window, at, fold).map_or(0, |end| end - at)
}

/// Calls `each` for the index of every bit.
#[inline(always)]
fn for_each_bit(mut bits: u64, mut each: impl FnMut(usize)) {
    while bits != 0 {
        each(bits.trailing_zeros() as usize);
        bits &= bits - 1;
    }
}

#[inline(always)]
fn gpt2(c: &Classes, window: &[u8; WINDOW]) -> (u64, usize) {
    let sure = last_sure(c, 0);
    let other = !(c.letter | c.digit | c.space);
    let alone = other & !((other | c.blank) << 1);
    let mut begins = (c.letter & !((c.letter | c.blank) << 1))
        | (c.digit & !((c.digit | c.blank) << 1))
        | alone
        | (c.space & !(c.space << 1)) // the first of white space
        | (c.space & !c.space >> 1); // the last of it
    for_each_bit(c.quote & alone & c.letter >> 1 & below(sure), |at| {
        let len = contraction_at(window, at, false);
        if len > 0 {
            begins = begins & !(2 << at) | (c.letter & 1 << (at + len));
        }
    });
    (begins, sure)
}

/// What cl100k and o200k have in common: places where white space and others begin, and the characters that go with
/// a letter behind them.
#[inline(always)]
fn common(c: &Classes, other: u64, follow: u64) -> Common {
    // The first of a run of others, without a blank before it, which would go with it.
    let alone = other & !((other | c.blank) << 1);
    let mut whole = alone; // with the other bytes of that character
    for _ in 0..3 {
        whole |= whole << 1 & follow;
    }
    // Newlines behind others go with them.
    let taken = c.newline & !c.newline.wrapping_add(c.newline & other << 1);
    let space = c.space & !taken;
    let flat = space & !c.newline; // blanks, tabs and the like
    // White space behind the last newline of its run is a piece of its own ...
    let mut tails = flat & (space & c.newline) << 1;
    // ... but is not behind the last if its run goes on to another one.
    if flat.wrapping_add(tails) & !flat & c.newline != 0 {
        for_each_bit(tails, |at| {
            let end = at + (!(flat >> at)).trailing_zeros() as usize;
            if end < 64 && c.newline >> end & 1 == 1 {
                tails &= !(1 << at);
            }
        });
    }
    let first = space & !(space << 1);
    let last = flat & !c.space >> 1;
    Common { alone, taken, begins: alone | tails | first | last, before_letter: flat | whole }
}

struct Common {
    alone: u64,
    taken: u64,
    begins: u64,
    before_letter: u64,
}

#[inline(always)]
fn cl100k(c: &Classes, window: &[u8; WINDOW], follow: u64, digits: usize) -> (u64, usize) {
    let sure = last_sure(c, 0);
    let common = common(c, !(c.letter | c.digit | c.space), follow);
    let mut begins =
        common.begins | numbers(c.digit, digits) | (c.letter & !((c.letter | common.before_letter) << 1));
    for_each_bit(c.quote & common.alone & c.letter >> 1 & below(sure), |at| {
        let len = contraction_at(window, at, true);
        if len > 0 {
            begins |= c.letter & 1 << (at + len);
        }
    });
    (begins, sure)
}

#[inline(always)]
fn o200k(c: &Classes, window: &[u8; WINDOW], digits: usize) -> (u64, usize) {
    // A word may go on behind its letters, with a contraction, or with letters beyond ASCII.
    let sure = last_sure(c, c.quote | c.high);
    let other = !(c.letter | c.digit | c.space);
    let common = common(c, other, 0);
    // Others go on behind newlines with slashes, which is rare: left to the reader of characters.
    let mut slashes = false;
    for_each_bit(common.taken << 1 & other, |at| slashes |= window[at] == b'/');
    if slashes {
        return (0, 0);
    }
    let lower = c.letter & !c.upper;
    let mut begins = common.begins
        | numbers(c.digit, digits)
        | (c.letter & !((c.letter | common.before_letter) << 1))
        | (c.upper & lower << 1);
    let mut end = 0;
    for_each_bit(c.quote & c.letter << 1 & c.letter >> 1 & below(sure), |at| {
        let len = contraction_at(window, at, true);
        if len > 0 && at != end {
            end = at + len;
            let inside = (1 << end) - (1 << at);
            begins = begins & !inside | (c.letter & 1 << end);
        }
    });
    (begins, sure)
}

#[inline(always)]
fn below(place: usize) -> u64 {
    (1 << place) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Under Miri, which is a thousand times slower, few.
    fn windows() -> impl Iterator<Item = [u8; WINDOW]> {
        (0..256u32)
            .step_by(if cfg!(miri) { 37 } else { 1 })
            .map(|shift| std::array::from_fn(|i| (i as u32 * 37 + shift) as u8))
    }

    /// Through the same calls as any text, right up to the last byte of its memory.
    #[test]
    #[cfg_attr(miri, ignore = "the table of characters alone takes a minute")]
    fn all_levels_fill_alike() {
        let line = "I'll  go\tto 1234 (x/\r\n\n  /y) We'VE seen _it_...\n\n\n    ok\u{a0}été 12 if x { return 'a'; }   ";
        let text = line.repeat(3);
        for family in [Family::Gpt2, Family::Cl100k { whole_end: true }, Family::O200k] {
            let scan = Scan::new(family, 3);
            for (start, end) in (0..line.len()).zip((0..=text.len()).rev()) {
                if !text.is_char_boundary(start) || !text.is_char_boundary(end) {
                    continue;
                }
                let part = text[start..end].to_string(); // memory of its own, with nothing behind it
                let fill = |level| {
                    let mut spans = [(0, 0); 4 * WINDOW];
                    let count = fill(&scan.with_level(level), family, &part, 0, &mut spans);
                    spans[..count].to_vec()
                };
                let all: Vec<Vec<Span>> = Level::all().map(fill).collect();
                assert_eq!(all[0].last().map(|span| span.1), Some(part.len()));
                assert!(all.iter().all(|spans| spans == &all[0]), "{part:?}");
            }
        }
    }

    /// With this version of Unicode.
    #[test]
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

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn all_processors_agree() {
        #[target_feature(enable = "avx2")]
        fn avx2(window: &[u8; WINDOW]) -> (Classes, Leads) {
            (x86::Avx2::classify(window), x86::Avx2::leads(window))
        }
        #[target_feature(enable = "avx512f,avx512bw")]
        fn avx512(window: &[u8; WINDOW]) -> (Classes, Leads) {
            (x86::Avx512::classify(window), x86::Avx512::leads(window))
        }
        for window in windows() {
            let expected = (Portable::classify(&window), Portable::leads(&window));
            if is_x86_feature_detected!("avx2") {
                // SAFETY: asked for in the line above.
                assert_eq!(unsafe { avx2(&window) }, expected);
            }
            if is_x86_feature_detected!("avx512bw") {
                // SAFETY: asked for in the line above.
                assert_eq!(unsafe { avx512(&window) }, expected);
            }
        }
    }
}
