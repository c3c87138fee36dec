//! The options of encoding.

use pyo3::prelude::*;

use crate::batch::{Choice, Encoder};
use crate::dropout::Dropout;
use crate::error::Error;
use crate::tokenizer::Tokenizer;

/// Which special tokens: `None` or `False` for none, `True` for all, or a list of strings.
#[derive(FromPyObject)]
pub enum Wanted {
    All(bool),
    These(Vec<String>),
}

pub fn choice(wanted: Option<Wanted>) -> Choice {
    match wanted {
        Some(Wanted::All(true)) => Choice::All,
        Some(Wanted::These(tokens)) => Choice::These(tokens),
        _ => Choice::None,
    }
}

/// The options of encoding: which special tokens count and which may not be there, how many ids a text gets at most,
/// and BPE-dropout with its seed.
#[derive(Default, FromPyObject)]
pub struct Choices {
    #[pyo3(item(0))]
    pub allowed: Option<Wanted>,
    #[pyo3(item(1))]
    pub forbidden: Option<Wanted>,
    #[pyo3(item(2))]
    pub most: Option<usize>,
    #[pyo3(item(3))]
    pub dropout: f64,
    #[pyo3(item(4))]
    pub seed: u64,
}

impl Choices {
    pub fn encoder(self, tokenizer: &Tokenizer) -> Result<Encoder<'_>, Error> {
        let mut encoder = Encoder::new(tokenizer, choice(self.allowed), choice(self.forbidden))?;
        encoder.most = self.most.unwrap_or(usize::MAX);
        encoder.dropout = Dropout::new(self.dropout, self.seed)?;
        Ok(encoder)
    }
}
