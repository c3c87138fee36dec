//! Does merging take time in proportion to the length of a piece? Counted in steps, which a busy machine does not change.

use crate::count::Counting;
use crate::merge::Scratch;
use crate::special::Specials;
use crate::split::Pattern;
use crate::tokenizer::{Rule, Tokenizer};
use crate::train::{Options, train};

/// The sources of some modules, as text that people wrote.
const TEXT: &str = concat!(
    include_str!("batch.rs"),
    include_str!("count.rs"),
    include_str!("encode.rs"),
    include_str!("merge.rs"),
    include_str!("train.rs"),
    include_str!("unicode.rs"),
);

fn random_letters(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        b'a' + ((state >> 33) % 26) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn cycled(of: &str, len: usize) -> Vec<u8> {
    of.bytes().cycle().take(len).collect()
}

/// One piece of so many bytes, of several kinds.
fn pieces(len: usize) -> [(&'static str, Vec<u8>); 5] {
    [
        ("a", cycled("a", len)),
        ("ab", cycled("ab", len)),
        ("aab", cycled("aab", len)),
        ("random letters", random_letters(len)),
        ("text", cycled(TEXT, len)),
    ]
}

const ANOTHER_WAY: &str = "a pair is listed twice";

fn tokenizers() -> Vec<(&'static str, Tokenizer)> {
    let mut counting = Counting::new(Pattern::None, Specials::default(), 1).unwrap();
    let letters = String::from_utf8(random_letters(20_000)).unwrap();
    let texts = [&"a".repeat(300), &"ab".repeat(300), &"aab".repeat(300), letters.as_str(), &TEXT[..30_000]];
    counting.add(&texts, None, &mut ()).unwrap();
    let (vocab, pairs) = train(counting.finish(), &Options::new(1500), &mut ()).unwrap();
    let tokens: Vec<(u32, &[u8])> = vocab.iter().collect();
    let made = |rule: Rule| Tokenizer::new(&tokens, vec![], rule, Pattern::None).unwrap();
    let mut another_way = pairs.clone();
    another_way.extend(pairs.first()); // the same once more, which training never does
    vec![
        ("merges", made(Rule::Merges { pairs, whole_first: false })),
        ("ranks", made(Rule::Ranks)),
        (ANOTHER_WAY, made(Rule::Merges { pairs: another_way, whole_first: false })),
    ]
}

fn steps(tokenizer: &Tokenizer, piece: &[u8]) -> u64 {
    let (mut scratch, mut ids, mut bytes) = (Scratch::default(), Vec::new(), Vec::new());
    tokenizer.merges.apply(piece, &mut scratch, &mut (), &mut ids).unwrap();
    tokenizer.vocab.decode(ids.iter().map(|&id| id.into()), &mut bytes).unwrap();
    assert!(bytes == piece);
    assert!(
        scratch.steps >= ids.len() as u64,
        "{} tokens, but only {} steps were counted",
        ids.len(),
        scratch.steps
    );
    scratch.steps
}

/// So many times the length takes so many times the steps, but for a tenth.
fn check(vocabulary: &str, tokenizer: &Tokenizer, len: usize, times: usize) {
    for ((kind, short), (_, long)) in pieces(len).iter().zip(&pieces(len * times)) {
        let (few, many) = (steps(tokenizer, short), steps(tokenizer, long));
        let growth = many as f64 / few as f64;
        println!("{vocabulary}, {kind}: {few} and {many} steps, {growth:.3} times");
        assert!(growth < times as f64 * 1.1, "{growth:.3} times the steps for {times} times {len} bytes");
    }
}

#[test]
fn merging_is_linear() {
    for (vocabulary, tokenizer) in tokenizers() {
        check(vocabulary, &tokenizer, 1 << 16, 8);
    }
}

#[test]
#[ignore = "takes half a minute"]
fn merging_is_linear_up_to_64_mb() {
    for (vocabulary, tokenizer) in tokenizers() {
        // What others made goes through a queue: the steps are in proportion, but each takes log n.
        let times = if vocabulary == ANOTHER_WAY { 4 } else { 64 };
        check(vocabulary, &tokenizer, 1 << 20, times);
    }
}
