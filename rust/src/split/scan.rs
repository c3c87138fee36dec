//! Hand-written scanners for the patterns of GPT-2, GPT-4 (cl100k) and GPT-4o (o200k).
//!
//! Each is its regex read by a person: the alternatives in order, with every run of characters read once, so
//! that no text is slow. A regex engine backtracks over long white space, and gives up at a million characters.

use super::window::Level;
use crate::unicode::{HEAD, LETTER, MARK, NEWLINE, NUMBER, SPACE, TAIL, Table, table};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Gpt2,
    /// `whole_end`: white space up to the end of the text is one piece even if it holds newlines.
    Cl100k {
        whole_end: bool,
    },
    O200k,
}

/// Where the pieces of a text end, one by one. [`super::window`] does the same for many at once.
#[derive(Clone, Copy)]
pub struct Scan {
    family: Family,
    /// How many digits a piece holds at most.
    digits: usize,
    level: Level,
    table: &'static Table,
}

/// Anything that is no letter, number or white space.
const NOT_OTHER: u8 = LETTER | NUMBER | SPACE;

impl Scan {
    pub fn new(family: Family, digits: usize) -> Self {
        Scan { family, digits, level: Level::best(), table: table() }
    }

    /// The same with other instructions, so that tests can compare all that this processor has.
    pub fn with_level(self, level: Level) -> Self {
        Scan { level, ..self }
    }

    pub fn family(&self) -> Family {
        self.family
    }

    pub fn digits(&self) -> usize {
        self.digits
    }

    pub fn level(&self) -> Level {
        self.level
    }

    /// Where the piece ends that begins at `start`, which must be below `text.len()`.
    #[inline]
    pub fn end_of_piece(&self, text: &str, start: usize) -> usize {
        match self.family {
            Family::Gpt2 => self.gpt2(text, start),
            Family::Cl100k { whole_end } => self.cl100k(text, start, whole_end),
            Family::O200k => self.o200k(text, start),
        }
    }

    /// The character at `at`: a bit for each of its bytes, whether it is a letter, and whether it is a number or white
    /// space.
    #[inline(always)]
    pub(super) fn look_up(&self, text: &str, at: usize) -> (u64, bool, bool) {
        let (flags, len) = self.peek(text, at).unwrap_or_default();
        ((1 << len) - 1, flags & LETTER != 0, flags & (NUMBER | SPACE) != 0)
    }

    /// `'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s`
    fn gpt2(&self, text: &str, start: usize) -> usize {
        let first = text.as_bytes()[start];
        if let Some(end) = contraction(text.as_bytes(), start, false) {
            return end;
        }
        let at = start + usize::from(first == b' ');
        match self.peek(text, at) {
            Some((flags, _)) if flags & LETTER != 0 => self.run(text, at, LETTER),
            Some((flags, _)) if flags & NUMBER != 0 => self.run(text, at, NUMBER),
            Some((flags, _)) if flags & SPACE == 0 => self.run_of_other(text, at),
            _ => self.space(text, start, false, false),
        }
    }

    /// `'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s`
    fn cl100k(&self, text: &str, start: usize, whole_end: bool) -> usize {
        if let Some(end) = contraction(text.as_bytes(), start, true) {
            return end;
        }
        let (flags, len) = self.peek(text, start).expect("start is inside the text");
        if flags & LETTER != 0 {
            return self.run(text, start + len, LETTER);
        }
        if flags & NUMBER != 0 {
            return self.number(text, start);
        }
        let next = self.peek(text, start + len);
        if flags & NEWLINE == 0 && next.is_some_and(|(flags, _)| flags & LETTER != 0) {
            return self.run(text, start + len, LETTER);
        }
        if let Some(end) = self.other(text, start, flags, next) {
            return self.run(text, end, NEWLINE);
        }
        self.space(text, start, true, whole_end)
    }

    /// The pattern of GPT-4o. Its words are `P? H* T+` or `P? H+ T*` with an optional contraction, where P is
    /// one character that is no letter, number or newline, H the class [`HEAD`] and T the class [`TAIL`], which
    /// overlap: what a backtracking engine would do is worked out in [`Scan::word`].
    fn o200k(&self, text: &str, start: usize) -> usize {
        let (flags, len) = self.peek(text, start).expect("start is inside the text");
        if flags & NUMBER != 0 {
            return self.number(text, start);
        }
        let word = if flags & LETTER != 0 {
            Some(self.word(text, start).1)
        } else if flags & NEWLINE == 0 {
            let (has_tail, end) = self.word(text, start + len);
            if has_tail {
                Some(end)
            } else if flags & MARK != 0 {
                // A mark can be P, but is in H and T too: alone, it is a word by the first alternative,
                // which comes before the second with the mark as its P.
                Some(start + len)
            } else {
                (end > start + len).then_some(end)
            }
        } else {
            None
        };
        if let Some(end) = word {
            return contraction(text.as_bytes(), end, true).unwrap_or(end);
        }
        let next = self.peek(text, start + len);
        if let Some(mut end) = self.other(text, start, flags, next) {
            let bytes = text.as_bytes();
            while end < bytes.len() && matches!(bytes[end], b'\r' | b'\n' | b'/') {
                end += 1;
            }
            return end;
        }
        self.space(text, start, true, false)
    }

    /// Matches `H* T+` or else `H+` at `start`: whether it was the first, and where the match ends.
    ///
    /// `H*` takes all it can. If T follows, `T+` takes all it can. If not, `H*` gives back characters until the
    /// last of them is in T too: the match ends after the last character that is in both classes, since only
    /// capitals stand behind it.
    fn word(&self, text: &str, start: usize) -> (bool, usize) {
        let mut at = start;
        let mut after_both = None;
        while let Some((flags, len)) = self.peek(text, at) {
            if flags & HEAD == 0 {
                if flags & TAIL != 0 {
                    return (true, self.run(text, at + len, TAIL));
                }
                break;
            }
            at += len;
            if flags & TAIL != 0 {
                after_both = Some(at);
            }
        }
        match after_both {
            Some(end) => (true, end),
            None => (false, at),
        }
    }

    /// ` ?[^\s\p{L}\p{N}]+` at `start`, whose flags are `flags`, followed by a character `next`.
    #[inline]
    fn other(&self, text: &str, start: usize, flags: u8, next: Option<(u8, usize)>) -> Option<usize> {
        if flags & NOT_OTHER == 0 {
            return Some(self.run_of_other(text, start));
        }
        let space = text.as_bytes()[start] == b' ';
        (space && next.is_some_and(|(flags, _)| flags & NOT_OTHER == 0))
            .then(|| self.run_of_other(text, start + 1))
    }

    /// White space: up to its last newline (`newlines`), else all of it at the end of the text, else all but
    /// the last character, which goes with what follows; a single one alone.
    fn space(&self, text: &str, start: usize, newlines: bool, whole_end: bool) -> usize {
        let mut at = start;
        let mut last = start;
        let mut after_newline = None;
        while let Some((flags, len)) = self.peek(text, at) {
            if flags & SPACE == 0 {
                break;
            }
            last = at;
            at += len;
            if flags & NEWLINE != 0 {
                after_newline = Some(at);
            }
        }
        let at_end = at == text.len();
        match after_newline {
            Some(end) if newlines && !(at_end && whole_end) => end,
            _ if at_end || last == start => at,
            _ => last,
        }
    }

    fn number(&self, text: &str, start: usize) -> usize {
        let mut at = start;
        for _ in 0..self.digits {
            match self.peek(text, at) {
                Some((flags, len)) if flags & NUMBER != 0 => at += len,
                _ => break,
            }
        }
        at
    }

    /// The end of the run of characters that have one of the flags.
    #[inline]
    fn run(&self, text: &str, mut at: usize, wanted: u8) -> usize {
        while let Some((flags, len)) = self.peek(text, at) {
            if flags & wanted == 0 {
                break;
            }
            at += len;
        }
        at
    }

    #[inline]
    fn run_of_other(&self, text: &str, mut at: usize) -> usize {
        while let Some((flags, len)) = self.peek(text, at) {
            if flags & NOT_OTHER != 0 {
                break;
            }
            at += len;
        }
        at
    }

    #[inline(always)]
    fn peek(&self, text: &str, at: usize) -> Option<(u8, usize)> {
        self.table.peek(text.as_bytes(), at)
    }
}

/// The end of `'s 't 'm 'd 'll 've 're` at `start`; with `fold` in any case. Case folding makes one letter
/// outside ASCII equal to one of these: the long s, U+017F.
#[inline]
pub(super) fn contraction(text: &[u8], start: usize, fold: bool) -> Option<usize> {
    let rest = text[start..].strip_prefix(b"'")?;
    let lower = |index: usize| {
        let byte = *rest.get(index)?;
        Some(if fold { byte.to_ascii_lowercase() } else { byte })
    };
    match (lower(0)?, lower(1)) {
        (b's' | b'd' | b'm' | b't', _) => Some(start + 2),
        (b'l', Some(b'l')) | (b'v' | b'r', Some(b'e')) => Some(start + 3),
        (0xC5, Some(0xBF)) if fold => Some(start + 3),
        _ => None,
    }
}
