//! What kind of character is this? One byte of flags for each code point.
//!
//! The table is filled on first use from the classes of the `regex-syntax` crate, the same ones that
//! tiktoken's regexes are compiled with, so that our hand-written splitters and its regexes agree on every
//! code point. They are those of Unicode 16.0. Another version would split newly assigned characters
//! differently: when a new `regex-syntax` brings one, a test fails, and what says the version is to be changed.

use std::sync::OnceLock;

use regex_syntax::hir::{Class, HirKind};

/// `\p{L}`
pub const LETTER: u8 = 1;
/// `\p{N}`
pub const NUMBER: u8 = 2;
/// `\s`
pub const SPACE: u8 = 4;
/// `[\r\n]`
pub const NEWLINE: u8 = 8;
/// `\p{M}`
pub const MARK: u8 = 16;
/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`, what an o200k word begins with
pub const HEAD: u8 = 32;
/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`, what an o200k word ends with
pub const TAIL: u8 = 64;

const CLASSES: [(&str, u8); 7] = [
    (r"\p{L}", LETTER),
    (r"\p{N}", NUMBER),
    (r"\s", SPACE),
    (r"[\r\n]", NEWLINE),
    (r"\p{M}", MARK),
    (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", HEAD),
    (r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", TAIL),
];

/// Flags of all code points: blocks of 256, equal blocks stored once (about 50 kB).
pub struct Table {
    block: Vec<u8>,
    flags: Vec<[u8; 256]>,
}

impl Table {
    /// The flags of `c`.
    #[inline]
    pub fn of(&self, c: char) -> u8 {
        let code = c as usize;
        self.flags[self.block[code >> 8] as usize][code & 255]
    }

    /// The flags and the length in bytes of the character that begins at byte `at` of valid UTF-8; nothing at the end.
    #[inline(always)]
    pub fn peek(&self, text: &[u8], at: usize) -> Option<(u8, usize)> {
        let first = *text.get(at)?;
        if first < 128 {
            return Some((self.flags[self.block[0] as usize][first as usize], 1));
        }
        let bits = |index: usize| usize::from(text[at + index] & 0x3F);
        let (code, len) = match first {
            ..0xE0 => (usize::from(first & 0x1F) << 6 | bits(1), 2),
            0xE0..0xF0 => (usize::from(first & 0x0F) << 12 | bits(1) << 6 | bits(2), 3),
            0xF0.. => (usize::from(first & 0x07) << 18 | bits(1) << 12 | bits(2) << 6 | bits(3), 4),
        };
        Some((self.flags[self.block[code >> 8] as usize][code & 255], len))
    }
}

/// The one table, built in a few milliseconds when it is first asked for. Nobody waits while another thread builds it,
/// who may not be there in a forked process, but builds one too.
pub fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get().unwrap_or_else(|| {
        let _ = TABLE.set(build()); // somebody else's is as good
        TABLE.get().expect("it was set in the line above")
    })
}

fn build() -> Table {
    let mut all = vec![0u8; 0x11_0000];
    for (class, flag) in CLASSES {
        for (start, end) in ranges(class) {
            for flags in &mut all[start as usize..=end as usize] {
                *flags |= flag;
            }
        }
    }
    let mut table = Table { block: Vec::new(), flags: Vec::new() };
    for block in all.chunks_exact(256) {
        let found = table.flags.iter().position(|known| known == block);
        let index = found.unwrap_or_else(|| {
            table.flags.push(block.try_into().expect("a chunk of 256"));
            table.flags.len() - 1
        });
        table.block.push(u8::try_from(index).expect("at most 256 different blocks"));
    }
    table
}

/// The code points that a one-character pattern matches.
fn ranges(class: &str) -> Vec<(char, char)> {
    let hir = regex_syntax::parse(class).expect("the classes above are valid");
    match hir.into_kind() {
        HirKind::Class(Class::Unicode(set)) => set.iter().map(|r| (r.start(), r.end())).collect(),
        HirKind::Class(Class::Bytes(set)) => {
            set.iter().map(|r| (r.start() as char, r.end() as char)).collect()
        }
        _ => unreachable!("{class} is a class"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_characters() {
        let table = table();
        assert_eq!(table.of('a'), LETTER | TAIL);
        assert_eq!(table.of('A'), LETTER | HEAD);
        assert_eq!(table.of('中'), LETTER | HEAD | TAIL);
        assert_eq!(table.of('7'), NUMBER);
        assert_eq!(table.of('\n'), SPACE | NEWLINE);
        assert_eq!(table.of('\u{301}'), MARK | HEAD | TAIL);
        assert_eq!(table.of('!'), 0);
    }
}
