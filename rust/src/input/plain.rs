//! Plain text.

use memchr::memchr;

use super::Sink;
use super::open::Input;
use crate::cut::last_cut;
use crate::error::Result;
use crate::special::Specials;

/// Hands on a file as one text, or as the texts between lines that hold `mark` and white space only. The line break before
/// a mark belongs to the mark, and in a file with marks also the one at its end.
pub fn read(input: &mut Input, mark: Option<&str>, cut: Option<&Specials>, sink: &mut Sink) -> Result<()> {
    let mut text = String::new(); // what was not handed on yet
    let mut line = 0; // where the line that is being read begins in it
    let mut scanned = 0; // there is no line break between the line's beginning and this
    let mut inside = false; // the line's beginning was handed on, so it is no mark
    let mut searched = 0; // there is no place to cut before this
    let mut marks = false;
    while input.more(&mut text)? {
        let mut start = 0; // what comes before was handed on
        if let Some(mark) = mark {
            while let Some(length) = memchr(b'\n', &text.as_bytes()[line.max(scanned)..]) {
                let next = line.max(scanned) + length + 1;
                if !inside && text[line..next].trim() == mark {
                    sink.part(without_break(&text[start..line]), true)?;
                    (start, marks) = (next, true);
                }
                (line, inside) = (next, false);
            }
            scanned = text.len();
        }
        if let Some(specials) = cut
            && text.len() - start >= sink.sizes.bytes
        {
            // A special token that has begun before the cut must be seen whole: keep its length behind the cut.
            let mut to = text.len().saturating_sub(specials.longest().max(1));
            if mark.is_some_and(|mark| !inside && may_be(mark, &text[line..])) {
                to = to.min(line);
            }
            while !text.is_char_boundary(to) {
                to -= 1;
            }
            let from = searched.max(start);
            if to > from {
                match last_cut(&text, from, to, specials) {
                    Some(place) => {
                        sink.part(&text[start..place], false)?;
                        start = place;
                        inside |= line < place;
                    }
                    None => searched = to, // nothing here: look on, and never twice at the same place
                }
            }
        }
        text.drain(..start);
        line = if mark.is_some() { line.saturating_sub(start) } else { 0 };
        (searched, scanned) = (searched.saturating_sub(start), scanned.saturating_sub(start));
    }
    if mark.is_some_and(|mark| !inside && text[line..].trim() == mark) {
        return sink.part(without_break(&text[..line]), true);
    }
    if text.is_empty() {
        return Ok(()); // and never after a cut, which leaves something
    }
    if marks {
        text.truncate(without_break(&text).len());
    }
    sink.last(text, 0)
}

fn without_break(text: &str) -> &str {
    text.strip_suffix('\n').unwrap_or(text)
}

/// May a line that begins like this turn out to be the mark?
fn may_be(mark: &str, line: &str) -> bool {
    let line = line.trim_start();
    mark.starts_with(line) || line.trim_end() == mark
}
