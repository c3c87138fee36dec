//! Where a long text can be cut so that its parts have the pieces of the whole.
//!
//! After a letter or number, before a character that is neither, nor a mark, nor an apostrophe, every pattern
//! that [`crate::split::Pattern::cuttable`] names ends a piece: their pieces never hold a letter or number
//! followed by something else, except an o200k word (a mark or a contraction may follow). And none of them looks
//! further ahead than the character after a run of white space, which such a place is not.

use crate::special::Specials;
use crate::unicode::{LETTER, MARK, NUMBER, table};

/// The last such place in `text[from + 1..=to]` that lies in no special token. `from` and `to` are character
/// boundaries; the character after the place is read, so it is below `text.len()`.
pub fn last_cut(text: &str, from: usize, to: usize, specials: &Specials) -> Option<usize> {
    let table = table();
    let mut after = text[to..].chars().next().map(|c| (c, table.of(c)));
    for (at, c) in text[from..to].char_indices().rev() {
        let flags = table.of(c);
        let place = from + at + c.len_utf8();
        if let Some((next, next_flags)) = after {
            let ends = flags & (LETTER | NUMBER) != 0;
            if ends
                && next != '\''
                && next_flags & (LETTER | NUMBER | MARK) == 0
                && !specials.crosses(text, place)
            {
                return Some(place);
            }
        }
        after = Some((c, flags));
    }
    None
}

/// Cuts a text into parts of about `size` bytes. A part is longer where no place is found.
pub fn parts<'a>(text: &'a str, size: usize, specials: &Specials) -> Vec<&'a str> {
    let mut out = Vec::new();
    let (mut start, mut from) = (0, 0);
    while text.len() - start > size {
        let mut to = (from + size).min(text.len());
        while !text.is_char_boundary(to) {
            to += 1; // not down, where `from` may be
        }
        match last_cut(text, from, to, specials) {
            Some(place) => {
                out.push(&text[start..place]);
                (start, from) = (place, place);
            }
            None if to == text.len() => break,
            None => from = to, // nothing here: look on, and never twice at the same place
        }
    }
    if start < text.len() {
        out.push(&text[start..]);
    }
    out
}
