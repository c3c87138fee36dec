//! BPE-dropout (Provilkov, Emelianenko and Voita 2020, arXiv:1910.13267): the same text becomes other tokens every time.
//!
//! Before each merge, every pair that could join is left out with probability `p`; of the others the one of the lowest
//! rank joins. Training on such tokens teaches a model how words are spelled. 0 leaves nothing out, 1 leaves bytes.

use crate::encode::Worker;
use crate::error::{Error, Result, Watch};
use crate::special::Specials;
use crate::tokenizer::{Rule, Tokenizer};

/// How much is left out, and what chance begins with.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// A pair is left out if a random number of 64 bits is below this.
    below: u128,
    seed: u64,
}

impl Dropout {
    /// `None` for a probability of 0.
    pub fn new(probability: f64, seed: u64) -> Result<Option<Self>> {
        if !(0.0..=1.0).contains(&probability) {
            return Err(Error::tokenizer(format!(
                "dropout is {probability}; it is a probability, from 0 to 1"
            )));
        }
        let below = (probability * 2f64.powi(64)) as u128;
        Ok((below > 0).then_some(Dropout { below, seed }))
    }

    /// Chance for one of many texts, whichever thread comes to it.
    pub fn of_text(&self, index: usize) -> Chance {
        Chance { below: self.below, state: mix(self.seed ^ mix(index as u64)) }
    }
}

/// Random numbers: SplitMix64 (Steele, Lea and Flood 2014).
pub struct Chance {
    below: u128,
    state: u64,
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Chance {
    fn keep(&mut self) -> bool {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        u128::from(mix(self.state)) >= self.below
    }
}

impl Tokenizer {
    /// [`Tokenizer::encode`] with dropout. Nothing is remembered from one piece to the next.
    pub fn encode_with_dropout(
        &self,
        text: &str,
        allowed: &Specials,
        worker: &mut Worker,
        chance: &mut Chance,
        watch: &mut dyn Watch,
        mut each: impl FnMut(&[u32]) -> Result<()>,
    ) -> Result<()> {
        let (splitter, scratch) = worker.tools();
        let mut ids = Vec::new();
        allowed.for_each_part(text, |start, end, special| {
            if let Some(id) = special {
                return each(&[id]);
            }
            let part = &text[start..end];
            splitter.for_each_batch(part, self.rule == Rule::Ranks, |spans| {
                ids.clear();
                for &(from, to) in spans {
                    let piece = &part.as_bytes()[from..to];
                    self.merges.apply_with(piece, scratch, || chance.keep(), watch, &mut ids)?;
                }
                watch.tick("encode", spans[0].0 as u64, Some(part.len() as u64))?;
                each(&ids)
            })
        })
    }
}
