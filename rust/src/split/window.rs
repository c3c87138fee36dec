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

use crate::piece;

use super::scan::{Family, Scan, contraction};

mod classes;
#[cfg(target_arch = "x86_64")]
mod x86;

use classes::{Classes, Classify, Leads, Portable};

/// How many bytes a window holds.
pub const WINDOW: usize = 64;

/// So far ahead the text is asked for. The processor does so by itself within a page of memory, but not across.
const AHEAD: usize = 512;

/// Where a piece begins and ends, in bytes.
pub type Span = (usize, usize);

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
            if let Some(soon) = bytes.get(at + AHEAD) {
                piece::prefetch(soon);
            }
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
                let ends = begins & (u64::MAX >> (63 - sure)) & !1 | 1 << sure;
                write_spans(at, ends, &mut spans[count..]);
                count += ends.count_ones() as usize;
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

/// Writes the pieces of a window that begins at `at` and whose pieces end at the bits of `ends`. Eight are written
/// whether there are so many or not, and then eight more: how many windows have one more than another cannot be
/// foreseen, and a jump on it costs as much as to write all eight. So `spans` has room for [`WINDOW`].
#[inline(always)]
fn write_spans(at: usize, mut ends: u64, spans: &mut [Span]) {
    let mut begin = at;
    for eight in spans[..WINDOW].as_chunks_mut::<8>().0 {
        for span in eight {
            let end = at + (ends.trailing_zeros() as usize & 63);
            *span = (begin, end);
            begin = end;
            ends &= ends.wrapping_sub(1);
        }
        if ends == 0 {
            break;
        }
    }
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
    use super::classes::windows;
    use super::*;

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
