//! Targets that make vocabularies: by hand, and by training.

use hornbook::batch::{Choice, Encoder};
use hornbook::count::Counter;
use hornbook::split::Pattern;
use hornbook::train::{Options, Tie};
use hornbook::{Rule, Tokenizer};

use super::input::Input;
use super::naive::{self, Naive};
use super::texts::decoded;

/// A tokenizer of any tokens and merges, also such as training would never make: both rules join like the naive ones.
pub fn merge(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.byte();
    let (ranks, whole_first, downwards, holes) = (flags & 1, flags & 2, flags & 4, flags & 8);
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let mut joins: Vec<(usize, usize)> = Vec::new();
    for _ in 0..input.below(48) {
        let letters = b"ab\xc3\xa9c";
        // Mostly of the few letters, and of what was joined before.
        let mut pick = || match input.below(tokens.len() - 256 + letters.len()) {
            letter if letter < letters.len() => usize::from(letters[letter]),
            other => 256 + other - letters.len(),
        };
        let (left, right) = (pick(), pick());
        let joined = [&tokens[left][..], &tokens[right]].concat();
        if joined.len() > 40 {
            continue;
        }
        if !tokens.contains(&joined) {
            tokens.push(joined);
        }
        joins.push((left, right));
    }
    if ranks == 1 {
        // The rule of ranks asks for no merges, so that any bytes can be a token.
        for _ in 0..input.below(4) {
            let len = input.below(9);
            let token: Vec<u8> =
                input.bytes(len).iter().map(|byte| b"ab\xc3\xa9"[usize::from(byte % 4)]).collect();
            if !token.is_empty() && !tokens.contains(&token) {
                tokens.push(token);
            }
        }
    }
    let id = |index: usize| {
        let place = if downwards > 0 { tokens.len() - 1 - index } else { index };
        (if holes > 0 { place * 3 + 1 } else { place }) as u32
    };
    let rule = if ranks == 1 {
        Rule::Ranks
    } else {
        let pairs = joins.iter().map(|&(left, right)| (id(left), id(right))).collect();
        Rule::Merges { pairs, whole_first: whole_first > 0 }
    };
    let listed: Vec<(u32, &[u8])> =
        tokens.iter().enumerate().map(|(index, token)| (id(index), token.as_slice())).collect();
    let tokenizer = Tokenizer::new(&listed, vec![], rule, Pattern::None).unwrap();
    let naive = Naive::new(&tokenizer);
    let texts = (0..input.len().min(100))
        .map(|_| ["a", "b", "é", "c", "aa", "ab"][input.below(6)])
        .collect::<Vec<_>>();
    let whole = texts.concat();
    // Long pieces are merged in other ways than short ones.
    for text in [whole.as_str(), &whole.repeat(4), &whole.repeat(1 + 1100 / whole.len().max(1))] {
        let (expected, _) = naive.encode(text, &[]).unwrap();
        let ids = Encoder::new(&tokenizer, Choice::None, Choice::None).unwrap().one(text, &mut ()).unwrap();
        assert_eq!(ids, expected, "{text:?} with {joins:?}");
        assert_eq!(decoded(&tokenizer, &ids).unwrap(), text.as_bytes());
    }
}

/// The trainer finds the merges that trying everything finds.
pub fn train(data: &[u8]) {
    let mut input = Input::new(data);
    let options = Options {
        vocab_size: 256 + input.below(64),
        tie: [Tie::HuggingFace, Tie::Raw, Tie::LargestContent][input.below(3)],
        min_frequency: input.below(32).saturating_sub(20) as u64,
        max_token_length: [usize::MAX, usize::MAX, 1, 2, 3, 5, 8][input.below(7)],
    };
    let letters = 1 + input.below(5);
    let mut counter = Counter::default();
    while !input.is_empty() {
        let (len, count) = (1 + input.below(24), 1 + input.below(4) as u64);
        let word: Vec<u8> = input
            .bytes(len)
            .iter()
            .map(|&byte| [b'a', b'b', 0, b'z', 0xFF][usize::from(byte) % letters])
            .collect();
        if !word.is_empty() {
            counter.add(&word, count);
        }
    }
    let mut words: Vec<(Vec<u8>, u64)> = Vec::new();
    counter.for_each(|word, count| words.push((word.to_vec(), count)));
    let (vocab, merges) = hornbook::train::train(counter, &options, &mut ()).unwrap();
    assert_eq!(merges, naive::train(&words, &options), "{options:?} on {words:?}");
    assert_eq!(vocab.len(), 256 + merges.len());
    for ((id, token), (left, right)) in vocab.iter().skip(256).zip(merges) {
        assert!(left < id && right < id);
        assert_eq!(token, [vocab.get(left).unwrap(), vocab.get(right).unwrap()].concat());
    }
}
