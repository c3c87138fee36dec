//! A tokenizer as bytes: the same tokenizer has the same bytes, on every machine, in every release. Equality,
//! the hash in shard manifests and pickle rest on it.

use crate::error::{Error, Result};
use crate::split::Pattern;
use crate::tokenizer::{Rule, Split, Tokenizer};

/// Changes when the layout below does.
const MAGIC: &[u8; 12] = b"hornbook-tk1";

impl Tokenizer {
    /// Magic, pattern, rule, tokens, special tokens; numbers are 32 bits, little-endian, and strings have their
    /// length before them.
    pub fn to_state(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let number = |out: &mut Vec<u8>, n: usize| out.extend_from_slice(&(n as u32).to_le_bytes());
        let string = |out: &mut Vec<u8>, s: &[u8]| {
            number(out, s.len());
            out.extend_from_slice(s);
        };
        number(&mut out, usize::from(self.pattern.spelling().is_some()));
        string(&mut out, self.pattern.spelling().unwrap_or("").as_bytes());
        match &self.rule {
            Rule::Ranks => number(&mut out, 2),
            Rule::Merges { pairs, whole_first } => {
                number(&mut out, usize::from(*whole_first));
                number(&mut out, pairs.len());
                for &(left, right) in pairs {
                    number(&mut out, left as usize);
                    number(&mut out, right as usize);
                }
            }
        }
        let specials = self.specials.tokens();
        number(&mut out, self.vocab.iter().count() - specials.len());
        for (id, token) in self.vocab.iter() {
            if self.vocab.id(token) == Some(id) {
                number(&mut out, id as usize);
                string(&mut out, token);
            }
        }
        let mut specials = specials.to_vec();
        specials.sort_by_key(|&(_, id)| id);
        number(&mut out, specials.len());
        for (token, id) in specials {
            number(&mut out, id as usize);
            string(&mut out, token.as_bytes());
        }
        out
    }

    /// The inverse of [`Tokenizer::to_state`]. With [`Tokenizer::splits`] it is faster.
    pub fn from_state(state: &[u8], splits: &[Split]) -> Result<Self> {
        let mut reader = Reader { rest: state };
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(broken());
        }
        let has_pattern = reader.number()? == 1;
        let spelling = reader.text()?;
        let pattern = Pattern::parse(has_pattern.then_some(spelling.as_str()));
        let rule = match reader.number()? {
            2 => Rule::Ranks,
            whole_first => {
                let count = reader.number()?;
                let mut pairs = Vec::new();
                for _ in 0..count {
                    pairs.push((reader.number()?, reader.number()?));
                }
                Rule::Merges { pairs, whole_first: whole_first == 1 }
            }
        };
        let mut tokens = Vec::new();
        for _ in 0..reader.number()? {
            tokens.push((reader.number()?, reader.string()?));
        }
        let mut specials = Vec::new();
        for _ in 0..reader.number()? {
            let id = reader.number()?;
            specials.push((reader.text()?, id));
        }
        Tokenizer::with_splits(&tokens, specials, rule, pattern, splits)
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        if len > self.rest.len() {
            return Err(broken());
        }
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().map_err(|_| broken())?))
    }

    fn string(&mut self) -> Result<&'a [u8]> {
        let len = self.number()?;
        self.take(len as usize)
    }

    fn text(&mut self) -> Result<String> {
        String::from_utf8(self.string()?.to_vec()).map_err(|_| broken())
    }
}

fn broken() -> Error {
    Error::tokenizer("this is not the state of a tokenizer of this version, or it was cut short")
}
