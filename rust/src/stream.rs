//! A text that comes in chunks: holding back only what the next chunk could change.

use crate::cut::last_cut;
use crate::special::Specials;

/// The part of a text that has not been encoded yet.
#[derive(Default)]
pub struct Pending {
    text: String,
    /// No cut was found before this byte.
    searched: usize,
}

impl Pending {
    /// Adds a chunk (`None` ends the text) and takes out what can be encoded now. No cut goes through one of the
    /// `known` special tokens. A pattern that cannot be cut (an unknown regex, or none) holds back everything
    /// until the end.
    pub fn take(&mut self, chunk: Option<&str>, known: &Specials, cuttable: bool) -> Option<String> {
        let Some(chunk) = chunk else {
            self.searched = 0;
            return Some(std::mem::take(&mut self.text));
        };
        self.text.push_str(chunk);
        if !cuttable {
            return None;
        }
        // A special token that has begun before the cut must be seen whole: keep its length behind the cut.
        let mut to = self.text.len().saturating_sub(known.longest().max(1));
        while !self.text.is_char_boundary(to) {
            to -= 1;
        }
        if to <= self.searched {
            return None;
        }
        match last_cut(&self.text, self.searched, to, known) {
            Some(place) => {
                let rest = self.text.split_off(place);
                self.searched = 0;
                Some(std::mem::replace(&mut self.text, rest))
            }
            None => {
                self.searched = to;
                None
            }
        }
    }
}
