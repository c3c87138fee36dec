//! The bytes of every token, and the token of given bytes.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::error::{Error, Result};

/// Tokens by id. Ids may have holes (cl100k's do), which decode to an error.
#[derive(Clone, Default)]
pub struct Vocab {
    bytes: Vec<u8>,
    /// Where the bytes of token `id` lie: `bytes[span[id].0..][..span[id].1]`; no length for a hole.
    span: Vec<(u32, Option<u32>)>,
    by_bytes: HashTable<u32>,
    /// Of each token, its bytes if there are at most 15, and at the end their number, 16 for more and 0 for a hole.
    padded: Vec<[u8; 16]>,
    hasher: DefaultHashBuilder,
    /// How many tokens were promised.
    promised: usize,
    /// How many came.
    came: usize,
}

impl Vocab {
    /// One more than the highest id.
    pub fn len(&self) -> usize {
        self.span.len()
    }

    pub fn is_empty(&self) -> bool {
        self.span.is_empty()
    }

    /// The bytes of a token, unless `id` is a hole or too high.
    #[inline]
    pub fn get(&self, id: u32) -> Option<&[u8]> {
        let &(start, len) = self.span.get(id as usize)?;
        Some(&self.bytes[start as usize..][..len? as usize])
    }

    /// The id of these bytes. Special tokens are not found.
    #[inline]
    pub fn id(&self, bytes: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(bytes);
        self.by_bytes.find(hash, |&id| self.get(id) == Some(bytes)).copied()
    }

    /// Makes room for so many tokens.
    pub fn reserve(&mut self, tokens: usize) {
        self.promised = tokens;
        self.span.reserve(tokens);
        self.bytes.reserve(tokens * 8);
        if self.by_bytes.is_empty() {
            self.by_bytes = HashTable::with_capacity(tokens);
        }
    }

    /// Adds a token that text can become.
    pub fn add(&mut self, id: u32, bytes: &[u8]) -> Result<()> {
        if let Some(other) = self.id(bytes) {
            return Err(Error::tokenizer(format!(
                "two tokens have the bytes {:?}: ids {other} and {id}; ids must be unique both ways",
                String::from_utf8_lossy(bytes)
            )));
        }
        self.add_special(id, bytes)?;
        let hash = self.hasher.hash_one(bytes);
        let Vocab { bytes: all, span, by_bytes, hasher, .. } = self;
        by_bytes.insert_unique(hash, id, |&id| {
            let (start, len) = span[id as usize];
            hasher.hash_one(&all[start as usize..][..len.unwrap_or(0) as usize])
        });
        Ok(())
    }

    /// Adds a token that only decoding knows.
    pub fn add_special(&mut self, id: u32, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Err(Error::tokenizer(format!(
                "token {id} is empty: every token needs at least one byte"
            )));
        }
        if self.get(id).is_some() {
            return Err(Error::tokenizer(format!("two tokens have the id {id}; ids must be unique")));
        }
        // A wild id would otherwise cost memory for all the holes below it.
        self.came += 1;
        let highest = (self.promised.max(self.came) * 16).max(1 << 20);
        if id as usize > highest {
            return Err(Error::tokenizer(format!(
                "the token id {id} is too high: at most {highest} in a vocabulary of so few tokens"
            )));
        }
        let start =
            u32::try_from(self.bytes.len()).map_err(|_| Error::tokenizer("more than 4 GB of tokens"))?;
        if self.span.len() <= id as usize {
            self.span.resize(id as usize + 1, (0, None));
        }
        self.span[id as usize] = (start, Some(bytes.len() as u32));
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// All tokens that are no holes, by id.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> + Clone {
        (0..self.span.len() as u32).filter_map(|id| Some((id, self.get(id)?)))
    }

    /// Makes [`Vocab::decode`] ready, after the last token was added.
    pub fn finish(&mut self) {
        let mut padded = vec![[0; 16]; self.span.len()];
        for (id, bytes) in self.iter() {
            let slot = &mut padded[id as usize];
            if bytes.len() < 16 {
                slot[..bytes.len()].copy_from_slice(bytes);
            }
            slot[15] = bytes.len().min(16) as u8;
        }
        self.padded = padded;
    }

    /// Appends the bytes of tokens to `out`. An id that is no token is an error.
    ///
    /// Sixteen bytes are copied whatever a token's length, and the next token goes over what was too much: no copy
    /// whose length is not known beforehand.
    pub fn decode(&self, ids: impl Iterator<Item = i64>, out: &mut Vec<u8>) -> Result<()> {
        let mut block = [0; 2048];
        let mut used = 0;
        for id in ids {
            // A negative number becomes one that is too high.
            let slot = self.padded.get(id as usize).unwrap_or(&[0; 16]);
            let len = usize::from(slot[15]);
            if len.wrapping_sub(1) >= 15 || used + 16 > block.len() {
                out.extend_from_slice(&block[..used]);
                used = 0;
                if len == 0 {
                    return Err(self.unknown(id));
                }
                if len > 15 {
                    out.extend_from_slice(self.get(id as u32).unwrap_or_default());
                    continue;
                }
            }
            block[used..][..16].copy_from_slice(slot);
            used += len;
        }
        out.extend_from_slice(&block[..used]);
        Ok(())
    }

    /// The error for an id that is no token.
    pub fn unknown(&self, id: i64) -> Error {
        let reason = if (0..self.len() as i64).contains(&id) {
            "is not given to any token".to_string()
        } else {
            format!("is outside 0..{}", self.len())
        };
        Error::tokenizer(format!(
            "no token has the id {id}: it {reason} (vocab_size is {}). Were the ids made with another tokenizer?",
            self.len()
        ))
    }
}
