//! Properties that hold for every text.

use hornbook::count::Counting;
use hornbook::special::Specials;
use hornbook::split::Pattern;
use hornbook::tally::Tally;
use hornbook::train::{Options, train};
use hornbook::{Rule, Tokenizer};
use proptest::prelude::*;

fn trained(text: &str, vocab_size: usize, pattern: Pattern) -> Tokenizer {
    let mut counting = Counting::new(pattern.clone(), Specials::default(), 2).unwrap();
    counting.add(&[text], None, &mut ()).unwrap();
    let (vocab, pairs) = train(counting.finish(), &Options::new(vocab_size), &mut ()).unwrap();
    let tokens: Vec<(u32, &[u8])> = vocab.iter().collect();
    Tokenizer::new(
        &tokens,
        vec![("<|end|>".into(), 60_000)],
        Rule::Merges { pairs, whole_first: false },
        pattern,
    )
    .unwrap()
}

fn tally(texts: &[String], pattern: Pattern, threads: usize) -> Tally {
    let specials = Specials::new(vec![("<|end|>".into(), 0), ("ab".into(), 0)]).unwrap();
    let mut counting = Counting::new(pattern, specials, threads).unwrap();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    counting.add(&texts, None, &mut ()).unwrap();
    Tally::of(counting)
}

/// A count file's bytes with the right checksum, so that what is wrong with them is looked at.
fn summed(mut body: Vec<u8>) -> Vec<u8> {
    let sum = crc32fast::hash(&body);
    body.extend_from_slice(&sum.to_le_bytes());
    body
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut out = Vec::new();
    tokenizer
        .with_worker(|worker| {
            tokenizer.encode(text, &tokenizer.specials, worker, &mut (), |ids| {
                out.extend_from_slice(ids);
                Ok(())
            })
        })
        .unwrap();
    out
}

fn patterns() -> Vec<Pattern> {
    [Some("gpt2"), Some("cl100k"), Some("o200k"), Some(r"\w+|\s"), None].map(Pattern::parse).to_vec()
}

/// Merges by trying everything: count all pairs, join the best, begin again.
fn train_naively(words: &[(Vec<u8>, u64)], vocab_size: usize) -> Vec<Vec<u8>> {
    let mut tokens: Vec<Vec<u8>> = hornbook::bytes::BYTE_OF_ID.iter().map(|&b| vec![b]).collect();
    let id = |tokens: &[Vec<u8>], bytes: &[u8]| tokens.iter().position(|token| token == bytes);
    let mut split: Vec<(Vec<usize>, u64)> =
        words.iter().map(|(w, n)| (w.iter().map(|b| id(&tokens, &[*b]).unwrap()).collect(), *n)).collect();
    while tokens.len() < vocab_size {
        let mut counts = std::collections::BTreeMap::new();
        for (word, n) in &split {
            for pair in word.windows(2) {
                *counts.entry((pair[0], pair[1])).or_insert(0) += n;
            }
        }
        let Some((&(left, right), _)) = counts.iter().max_by_key(|&(&pair, &n)| (n, std::cmp::Reverse(pair)))
        else {
            break;
        };
        let joined = [tokens[left].clone(), tokens[right].clone()].concat();
        let new = tokens.len();
        tokens.push(joined);
        for (word, _) in &mut split {
            let mut at = 0;
            while at + 1 < word.len() {
                if (word[at], word[at + 1]) == (left, right) {
                    word.splice(at..at + 2, [new]);
                }
                at += 1;
            }
        }
    }
    tokens
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn decoding_undoes_encoding(text in r"(\PC|[a-c ]|<\|end\|>|\s){0,200}") {
        for pattern in patterns() {
            let tokenizer = trained("a bad cab had a bad dad; the cab, a-b-c 123 \n\n  \u{301}é中文", 300, pattern);
            let ids = encode(&tokenizer, &text);
            let mut bytes = Vec::new();
            tokenizer.vocab.decode(ids.iter().map(|&id| id.into()), &mut bytes).unwrap();
            prop_assert_eq!(bytes, text.as_bytes());
        }
    }

    #[test]
    fn chunks_do_not_matter(texts in prop::collection::vec(r"([a-c ]|<\|end\||>|\s|\PC|[1-9']){0,12}", 0..30)) {
        for pattern in patterns() {
            let tokenizer = trained("a bad cab had a bad dad; the cab, a-b-c 123", 280, pattern);
            let specials = &tokenizer.specials;
            let mut pending = hornbook::stream::Pending::default();
            let mut ids = Vec::new();
            for text in texts.iter().map(|text| Some(text.as_str())).chain([None]) {
                if let Some(ready) = pending.take(text, specials, tokenizer.pattern.cuttable()) {
                    ids.extend(encode(&tokenizer, &ready));
                }
            }
            prop_assert_eq!(ids, encode(&tokenizer, &texts.concat()));
        }
    }

    #[test]
    fn states_round_trip(text in r"[a-d ]{0,200}") {
        let tokenizer = trained(&text, 280, Pattern::O200k);
        let state = tokenizer.to_state();
        prop_assert_eq!(Tokenizer::from_state(&state, &tokenizer.splits()).unwrap().to_state(), state.clone());
        prop_assert_eq!(Tokenizer::from_state(&state, &[]).unwrap().to_state(), state.clone());
        prop_assert!(Tokenizer::from_state(&state[..state.len() - 1], &[]).is_err());
    }

    #[test]
    fn counts_round_trip_and_add_up(texts in prop::collection::vec(r"([a-d ]|<\|end\|>|\PC|[a-z]{16,40}){0,60}", 0..9), cut in 0..9usize) {
        for pattern in patterns() {
            let whole = tally(&texts, pattern.clone(), 1);
            let bytes = whole.to_bytes();
            let again = Tally::from_bytes(&bytes, &mut ()).unwrap();
            prop_assert_eq!(again.to_bytes(), bytes.clone());
            prop_assert_eq!((again.texts, again.bytes), (texts.len() as u64, texts.concat().len() as u64));
            let (first, second) = texts.split_at(cut.min(texts.len()));
            let mut sum = tally(second, pattern.clone(), 2);
            sum.add(&tally(first, pattern, 1)).unwrap();
            prop_assert_eq!(sum.to_bytes(), bytes);
        }
    }

    #[test]
    fn the_fast_trainer_is_the_slow_one(words in prop::collection::vec(r"[a-d]{1,4}(a{1,9}|(ab){1,5})?[a-h]{0,4}", 1..40)) {
        let mut counting = Counting::new(Pattern::None, Specials::default(), 1).unwrap();
        let texts: Vec<&str> = words.iter().map(String::as_str).collect();
        counting.add(&texts, None, &mut ()).unwrap();
        let counter = counting.finish();
        let mut all: Vec<(Vec<u8>, u64)> = Vec::new();
        counter.for_each(|w, n| all.push((w.to_vec(), n)));
        let (vocab, _) = train(counter, &Options::new(300), &mut ()).unwrap();
        let tokens: Vec<Vec<u8>> = vocab.iter().map(|(_, token)| token.to_vec()).collect();
        prop_assert_eq!(tokens, train_naively(&all, 300));
    }

    /// tiktoken's rule needs one split of each token only, if the tokens were made by merging. Few letters, so that runs
    /// of the same one overlap in every way.
    #[test]
    fn ranks_join_whatever_is_a_token(learnt in "[ab]{2,60}", text in "[abc]{0,60}") {
        let listed = trained(&learnt, 280, Pattern::None);
        let tokens: Vec<(u32, &[u8])> = listed.vocab.iter().filter(|&(id, _)| id < 60_000).collect();
        let tokenizer = Tokenizer::new(&tokens, vec![], Rule::Ranks, Pattern::None).unwrap();
        prop_assert_eq!(encode(&tokenizer, &text), join_naively(&tokenizer, text.as_bytes()));
    }
}

/// A whole token, or else again and again the neighbours that are the token of lowest id, the leftmost of equals.
fn join_naively(tokenizer: &Tokenizer, text: &[u8]) -> Vec<u32> {
    let id = |bytes: &[u8]| tokenizer.vocab.id(bytes);
    if let Some(whole) = id(text) {
        return vec![whole];
    }
    let mut parts: Vec<&[u8]> = text.chunks(1).collect();
    let mut ends: Vec<usize> = (1..=text.len()).collect();
    loop {
        let starts = |at: usize| ends[at] - parts[at].len();
        let joins = (1..parts.len()).filter_map(|at| Some((id(&text[starts(at - 1)..ends[at]])?, at)));
        let Some((_, at)) = joins.min() else { break };
        parts[at] = &text[starts(at - 1)..ends[at]];
        parts.remove(at - 1);
        ends.remove(at - 1);
    }
    parts.into_iter().map(|part| id(part).unwrap()).collect()
}

/// Sizes in a count file are not believed: a few bytes that promise billions cost nothing.
#[test]
fn promises_of_a_count_file_cost_nothing() {
    let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let starts: [&[u8]; 5] = [
        b"\x01",                             // the length of the pattern
        b"\x01\x04gpt2",                     // how many special tokens
        b"\x01\x04gpt2\x01",                 // the length of one
        b"\x01\x04gpt2\x00\x01\x7f",         // how many pieces
        b"\x01\x04gpt2\x00\x01\x7f\x01\x0f", // the length of one
    ];
    for start in starts {
        let body = [b"hornbook-ct1", start, &most].concat();
        let error = Tally::from_bytes(&summed(body), &mut ()).map(|_| ()).unwrap_err();
        assert!(error.message.contains("damaged or cut short"), "{error}");
    }
    let too_many = [b"hornbook-ct1\x00\x00\x01".as_slice(), &most, b"\x00"].concat();
    assert!(Tally::from_bytes(&summed(too_many), &mut ()).is_err());
}
