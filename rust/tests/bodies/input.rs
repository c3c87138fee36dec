//! Bytes as choices, numbers and texts.

/// Parts of texts that end up in many alternatives of the patterns. One byte of an input stands for one of them, so that
/// a fuzzer finds them soon.
pub const PARTS: [&str; 64] = [
    "a",
    "b",
    "c",
    "d",
    "s",
    "t",
    "ll",
    "ve",
    "re",
    "m",
    "A",
    "B",
    "S",
    "LL",
    "Re",
    "é",
    "ß",
    "É",
    "ſ",
    "ǅ",
    "ʰ",
    "中",
    "한",
    "и",
    "𝒜",
    "\u{301}",
    "\u{200d}",
    "1",
    "2",
    "7",
    "٣",
    "²",
    "½",
    "Ⅷ",
    " ",
    "  ",
    "   ",
    "\n",
    "\r",
    "\r\n",
    "\t",
    "\u{b}",
    "\u{85}",
    "\u{a0}",
    "\u{2028}",
    "\u{3000}",
    "'",
    "'s",
    "'T",
    "’",
    "!",
    "/",
    "_",
    "-",
    "…",
    "😀",
    "\0",
    "\u{7f}",
    "\u{e000}",
    "\u{378}",
    "\u{10ffff}",
    "<|end|>",
    "<|en",
    "d|>",
];

pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Input { rest: bytes }
    }

    /// The next byte; 0 behind the last.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    /// A number below `end`, which is at most 256.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn len(&self) -> usize {
        self.rest.len()
    }

    /// Up to so many bytes.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(most.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// A text of what is left, at most `most` bytes of it: [`PARTS`], or UTF-8 as far as it is UTF-8.
    pub fn text(&mut self, most: usize) -> String {
        let plain = self.byte() & 1 == 1;
        let bytes = self.bytes(most);
        if plain {
            return String::from_utf8_lossy(bytes).into_owned();
        }
        bytes.iter().map(|&byte| PARTS[usize::from(byte) % PARTS.len()]).collect()
    }
}
