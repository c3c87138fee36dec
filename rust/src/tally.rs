//! What was counted of a corpus, or of a part of one: all that training needs to know of it.
//!
//! As bytes it can be kept and sent: each machine counts a part, the sum of the files is the count of the whole, and
//! the merges are the same. The same counts have the same bytes, whatever the threads and the order of the texts.
//!
//! The bytes: magic, pattern (1 and its spelling, or 0), special tokens, texts, bytes of text, pieces, and a CRC-32
//! of all before it in 4 bytes, little-endian. Numbers are varints (LEB128), strings and lists have their length
//! before them. Pieces are sorted. Of each there is a byte, of which the upper half says how many bytes it shares with
//! the piece before and the lower half how many others follow (15: more, and a varint says how many more); then those
//! bytes, then the count. Half a byte for what is shared, so that a file cannot be far smaller than what it means.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::time::{Duration, Instant};

use crate::count::{Counter, Counting};
use crate::error::{Error, Result, Watch};
use crate::split::Pattern;

/// Its last character changes when the layout does.
const MAGIC: &[u8; 12] = b"hornbook-ct1";

/// More bytes of text than this are not believed, so that no sum of counts can overflow.
const MOST: u64 = 1 << 62;

/// How many bytes a piece shares with the one before, at most.
const SHARED: usize = 15;

/// The counts of distinct pieces, and what they were counted with.
#[derive(Default)]
pub struct Tally {
    pub pattern: Option<String>,
    pub specials: Vec<String>,
    pub texts: u64,
    /// Of the texts, special tokens included.
    pub bytes: u64,
    pub counter: Counter,
}

impl Tally {
    pub fn of(counting: Counting) -> Tally {
        Tally {
            pattern: counting.pattern().spelling().map(str::to_string),
            specials: counting.specials().tokens().iter().map(|(token, _)| token.clone()).collect(),
            texts: counting.texts(),
            bytes: counting.bytes(),
            counter: counting.finish(),
        }
    }

    pub fn copy(&self) -> Result<Tally> {
        let (pattern, specials) = (self.pattern.clone(), self.specials.clone());
        let mut copy = Tally { pattern, specials, ..Tally::default() };
        copy.add(self)?;
        Ok(copy)
    }

    /// Adds another count, which must have been made with the same pattern and special tokens.
    pub fn add(&mut self, other: &Tally) -> Result<()> {
        let differ = |what: &str, one: &dyn std::fmt::Debug, two: &dyn std::fmt::Debug| {
            Error::tokenizer(format!(
                "counts can be added only if they were made alike: the {what} of one is {one:?}, of another {two:?}; \
                 count one of them again"
            ))
        };
        if self.pattern != other.pattern {
            let shown = |tally: &Tally| tally.pattern.clone().unwrap_or_else(|| "None".into());
            return Err(differ("pattern", &shown(self), &shown(other)));
        }
        if self.specials != other.specials {
            return Err(differ("list of special tokens", &self.specials, &other.specials));
        }
        if self.bytes + other.bytes > MOST {
            return Err(Error::data("these counts are of more text than there can be"));
        }
        self.texts = self.texts.saturating_add(other.texts);
        self.bytes += other.bytes;
        other.counter.for_each(|piece, count| self.counter.add(piece, count));
        Ok(())
    }

    /// The `most` most frequent pieces; of equally frequent ones the first in the order of bytes.
    pub fn most_common(&self, most: usize) -> Vec<(Vec<u8>, u64)> {
        let mut best: BinaryHeap<(Reverse<u64>, Vec<u8>)> = BinaryHeap::new(); // the least of them on top
        self.counter.for_each(|piece, count| {
            if best.len() == most {
                match best.peek() {
                    Some((least, last)) if (*least, last.as_slice()) > (Reverse(count), piece) => best.pop(),
                    _ => return,
                };
            }
            best.push((Reverse(count), piece.to_vec()));
        });
        best.into_sorted_vec().into_iter().map(|(Reverse(count), piece)| (piece, count)).collect()
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        number(&mut out, u64::from(self.pattern.is_some()));
        if let Some(pattern) = &self.pattern {
            string(&mut out, pattern.as_bytes());
        }
        number(&mut out, self.specials.len() as u64);
        self.specials.iter().for_each(|token| string(&mut out, token.as_bytes()));
        number(&mut out, self.texts);
        number(&mut out, self.bytes);
        number(&mut out, self.counter.len() as u64);

        let mut pieces = Vec::with_capacity(self.counter.len());
        let mut bytes = Vec::new();
        self.counter.for_each(|piece, count| {
            pieces.push((first_bytes(piece), bytes.len(), piece.len(), count));
            bytes.extend_from_slice(piece);
        });
        let of = |start: usize, length: usize| &bytes[start..start + length];
        pieces.sort_unstable_by(|a, b| (a.0.cmp(&b.0)).then_with(|| of(a.1, a.2).cmp(of(b.1, b.2))));
        let mut before: &[u8] = &[];
        for (_, start, length, count) in pieces {
            let piece = of(start, length);
            let shared = before.iter().zip(piece).take(SHARED).take_while(|(a, b)| a == b).count();
            let rest = length - shared;
            out.push((shared << 4 | rest.min(15)) as u8);
            if rest >= 15 {
                number(&mut out, rest as u64 - 15);
            }
            out.extend_from_slice(&piece[shared..]);
            number(&mut out, count);
            before = piece;
        }
        let sum = crc32fast::hash(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// The inverse of [`Tally::to_bytes`]. Nothing in the bytes is believed: what they say must fit together.
    pub fn from_bytes(data: &[u8], watch: &mut dyn Watch) -> Result<Tally> {
        if !data.starts_with(MAGIC) {
            let known = data.starts_with(&MAGIC[..MAGIC.len() - 1]);
            let what = if known { "a count file of another version of Hornbook" } else { "not a count file" };
            return Err(Error::data(format!("{what}; make it with `hornbook tokenizer count`")));
        }
        let (body, sum) = data.split_last_chunk::<4>().ok_or_else(|| broken("it is too short"))?;
        if body.len() < MAGIC.len() || crc32fast::hash(body) != u32::from_le_bytes(*sum) {
            return Err(broken("its checksum is wrong"));
        }
        let mut reader = Reader { rest: &body[MAGIC.len()..] };
        let pattern = match reader.number()? {
            0 => None,
            1 => Some(reader.text()?),
            _ => return Err(broken("it says neither that there is a pattern nor that there is none")),
        };
        let pattern = Pattern::parse(pattern.as_deref());
        pattern.splitter()?;
        let (mut specials, mut seen) = (Vec::new(), HashSet::new());
        for _ in 0..reader.number()? {
            let token = reader.text()?;
            if token.is_empty() || !seen.insert(token.clone()) {
                return Err(broken("a special token is empty or comes twice"));
            }
            specials.push(token);
        }
        let (texts, bytes, pieces) = (reader.number()?, reader.number()?, reader.number()?);
        if bytes > MOST {
            return Err(broken("it counts more text than there can be"));
        }
        let mut counter = Counter::default();
        let mut left = bytes;
        let (mut before, mut piece) = (Vec::new(), Vec::new());
        let mut last_tick = Instant::now();
        for index in 0..pieces {
            let count = reader.piece(&before, &mut piece)?;
            if piece <= before || std::str::from_utf8(&piece).is_err() {
                return Err(broken("its pieces are not sorted, or not UTF-8"));
            }
            left = (count.checked_mul(piece.len() as u64))
                .and_then(|size| left.checked_sub(size))
                .filter(|_| count > 0)
                .ok_or_else(|| broken("its counts do not fit its size"))?;
            counter.add(&piece, count);
            std::mem::swap(&mut before, &mut piece);
            if index % 4096 == 0 && last_tick.elapsed() > Duration::from_millis(100) {
                watch.tick("load", index, Some(pieces))?;
                last_tick = Instant::now();
            }
        }
        if !reader.rest.is_empty() {
            return Err(broken("there is more after its end"));
        }
        Ok(Tally { pattern: pattern.spelling().map(str::to_string), specials, texts, bytes, counter })
    }
}

/// A piece's first bytes as a number that sorts like them.
fn first_bytes(piece: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let length = piece.len().min(8);
    bytes[..length].copy_from_slice(&piece[..length]);
    u64::from_be_bytes(bytes)
}

fn number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn number(&mut self) -> Result<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            n |= bits << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(broken("a number has more than 64 bits"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let taken = self.rest.split_at_checked(length).ok_or_else(|| broken("it ends too early"))?;
        self.rest = taken.1;
        Ok(taken.0)
    }

    fn text(&mut self) -> Result<String> {
        let length = self.number()?;
        let bytes = self.take(length)?.to_vec();
        String::from_utf8(bytes).map_err(|_| broken("its pattern or a special token is not UTF-8"))
    }

    /// The next piece, put into `piece`, and its count.
    fn piece(&mut self, before: &[u8], piece: &mut Vec<u8>) -> Result<u64> {
        let byte = self.take(1)?[0];
        let (shared, mut rest) = (usize::from(byte >> 4), u64::from(byte & 15));
        if rest == 15 {
            rest = self.number()?.saturating_add(15);
        }
        let shared = before.get(..shared).ok_or_else(|| broken("a piece shares more than there is"))?;
        piece.clear();
        piece.extend_from_slice(shared);
        piece.extend_from_slice(self.take(rest)?);
        self.number()
    }
}

fn broken(why: &str) -> Error {
    Error::data(format!("the count file is damaged or cut short: {why}. Copy it again, or count again"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::special::Specials;

    fn tally(texts: &[&str], threads: usize) -> Tally {
        let specials = Specials::new(vec![("<|x|>".into(), 0)]).unwrap();
        let mut counting = Counting::new(Pattern::Gpt2, specials, threads).unwrap();
        counting.add(texts, None, &mut ()).unwrap();
        Tally::of(counting)
    }

    #[test]
    fn the_bytes_are_as_described() {
        let bytes = tally(&["aaa b b<|x|>\n"], 1).to_bytes();
        let body = b"hornbook-ct1\x01\x04gpt2\x01\x05<|x|>\x01\x0d\x03\x01\n\x01\x02 b\x02\x03aaa\x01";
        assert_eq!(bytes[..bytes.len() - 4], body[..]);
        assert_eq!(bytes[bytes.len() - 4..], crc32fast::hash(body).to_le_bytes());
    }

    #[test]
    fn a_long_piece_is_split_over_both_halves() {
        let (long, longer) = ("x".repeat(40), "x".repeat(300));
        let one = tally(&[&long, &longer, "x"], 1);
        let two = Tally::from_bytes(&one.to_bytes(), &mut ()).unwrap();
        let expected =
            [("x".into(), 1), (long, 1), (longer, 1)].map(|(s, n): (String, _)| (s.into_bytes(), n));
        assert_eq!(two.most_common(9), expected);
        assert_eq!(two.most_common(2), expected[..2]);
        assert_eq!((two.texts, two.bytes), (3, 341));
    }

    #[test]
    fn threads_and_order_do_not_change_the_bytes() {
        let text: String = (0..60_000).map(|i| format!("word{} don't  {}\n", i % 97, i % 1013)).collect();
        let one = tally(&[&text, "some more"], 1).to_bytes();
        assert_eq!(one, tally(&["some more", &text], 3).to_bytes());
        let mut sum = tally(&["some more"], 2);
        sum.add(&tally(&[&text], 2)).unwrap();
        assert_eq!(one, sum.to_bytes());
    }
}
