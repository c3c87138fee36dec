//! Targets that encode and decode with finished tokenizers.

use std::sync::OnceLock;

use hornbook::batch::{Choice, Encoded, Encoder};
use hornbook::count::Counting;
use hornbook::special::Specials;
use hornbook::split::window::Level;
use hornbook::split::{Pattern, Span, Splitter};
use hornbook::stream::Pending;
use hornbook::train::{Options, train};
use hornbook::{Result, Rule, Tokenizer};

use super::input::{Input, PARTS};
use super::naive::{Cutter, Naive};

const PATTERNS: [Option<&str>; 8] = [
    Some("gpt2"),
    Some("cl100k"),
    Some("o200k"),
    // A relative of cl100k, one digit a piece and white space cut at its last newline.
    Some(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    Some(r"\w+|\s"),
    Some(r"(?<=a)b|\s+(?!\S)|[^ ]+"),
    Some("^..|.$"),
    None,
];

/// Each pattern, and its regex compiled.
pub fn cutters() -> &'static [(Pattern, Cutter)] {
    static CUTTERS: OnceLock<Vec<(Pattern, Cutter)>> = OnceLock::new();
    CUTTERS.get_or_init(|| {
        let with_cutter = |pattern: Pattern| {
            let cutter = Cutter::new(&pattern);
            (pattern, cutter)
        };
        PATTERNS.map(Pattern::parse).map(with_cutter).into()
    })
}

/// A tokenizer for each pattern and rule, and the same once more.
fn all() -> &'static [(Tokenizer, Naive)] {
    static ALL: OnceLock<Vec<(Tokenizer, Naive)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let text = "Don't they'll; the 'thing' was 1234567 things\r\n\n  a bad cab, a bad dad! ÉTÉ été 中文한국 и\u{301} ";
        let text = [text, &PARTS.concat(), text, "aaaaaaaaaaaabababababab            \n\n\n\n"].concat();
        let mut made = Vec::new();
        for pattern in PATTERNS.map(Pattern::parse) {
            let mut counting = Counting::new(pattern.clone(), Specials::default(), 1).unwrap();
            counting.add(&[&text], None, &mut ()).unwrap();
            let (vocab, pairs) = train(counting.finish(), &Options::new(340), &mut ()).unwrap();
            let tokens: Vec<(u32, &[u8])> = vocab.iter().collect();
            let rules = [
                Rule::Merges { pairs: pairs.clone(), whole_first: false },
                Rule::Merges { pairs, whole_first: true },
                Rule::Ranks,
            ];
            for rule in rules {
                let specials = [("<|end|>", 400), ("<|en", 401), ("🙂", 403), ("<|end|>\n", 402)];
                let specials = specials.map(|(token, id)| (token.to_string(), id)).to_vec();
                let tokenizer = Tokenizer::new(&tokens, specials, rule, pattern.clone()).unwrap();
                let naive = Naive::new(&tokenizer);
                made.push((tokenizer, naive));
            }
        }
        made
    })
}

fn one_of_all(input: &mut Input) -> &'static (Tokenizer, Naive) {
    let all = all();
    &all[input.below(all.len())]
}

fn choice(input: &mut Input) -> Choice {
    match input.below(4) {
        0 => Choice::None,
        1 => Choice::All,
        2 => Choice::These(vec!["<|end|>".into()]),
        _ => Choice::These(vec!["<|en".into(), "d|>".into(), "🙂".into()]),
    }
}

/// The bytes of ids.
pub fn decoded(tokenizer: &Tokenizer, ids: &[u32]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    tokenizer.vocab.decode(ids.iter().map(|&id| id.into()), &mut bytes).map(|()| bytes)
}

/// Ids equal the naive ones, ranges tile the text, decoding gives it back.
pub fn encode(data: &[u8]) {
    let mut input = Input::new(data);
    let (tokenizer, naive) = one_of_all(&mut input);
    let encoder = Encoder::new(tokenizer, choice(&mut input), Choice::None).unwrap();
    let mut text = input.text(400);
    if data.get(1).is_some_and(|byte| byte & 0x80 > 0) {
        text = text.repeat(8); // long pieces are merged in other ways
    }
    let ids = encoder.one(&text, &mut ());
    let Some((expected, expected_spans)) = naive.encode(&text, encoder.allowed.tokens()) else {
        assert!(ids.is_err(), "the regex gave up on {text:?}, but only once");
        return;
    };
    assert_eq!(ids.as_ref(), Ok(&expected), "{text:?}");
    let (same, spans) = encoder.with_spans(&text, &mut ()).unwrap();
    assert_eq!((same, &spans), (expected.clone(), &expected_spans), "{text:?}");
    let mut batch = vec![Vec::new(); 3];
    let collect = |encoded: &Encoded| {
        let mut rest = encoded.ids.as_slice();
        for &(index, length) in &encoded.lengths {
            let (these, others) = rest.split_at(length);
            batch[index].extend_from_slice(these);
            rest = others;
        }
        Ok(())
    };
    encoder.many(&[&text, "", &text], 2, &mut (), collect).unwrap();
    assert_eq!(batch, [&expected[..], &[], &expected]);
    for most in [0, 1, expected.len() / 2, expected.len()] {
        let mut truncated = Encoder::new(tokenizer, Choice::None, Choice::None).unwrap();
        (truncated.most, truncated.allowed) = (most, encoder.allowed.clone());
        assert_eq!(truncated.one(&text, &mut ()).unwrap(), expected[..most.min(expected.len())], "{text:?}");
    }
    // A special token that is allowed but unknown has no id that decodes; without those, the text comes back.
    if encoder.allowed.tokens().iter().all(|&(_, id)| id != u32::MAX) {
        let bytes = decoded(tokenizer, &expected).unwrap();
        let covered: Vec<u8> =
            spans.iter().flat_map(|&(start, end)| &text.as_bytes()[start..end]).copied().collect();
        assert_eq!(bytes, covered);
        if tokenizer.rule != Rule::Ranks || tokenizer.pattern.cuttable() {
            assert_eq!(bytes, text.as_bytes());
        }
    }
}

/// Ids decode to the bytes of their tokens, one after another, or the first that is no token is named.
pub fn decode(data: &[u8]) {
    let mut input = Input::new(data);
    let (tokenizer, _) = one_of_all(&mut input);
    let mut ids = Vec::new();
    while !input.is_empty() {
        let id = u32::from(input.byte()) | u32::from(input.byte()) << 8;
        ids.push(if id == u32::from(u16::MAX) { u32::MAX } else { id % 512 });
    }
    let tokens: Vec<Option<&[u8]>> = ids.iter().map(|&id| tokenizer.vocab.get(id)).collect();
    match decoded(tokenizer, &ids) {
        Ok(bytes) => assert_eq!(bytes, tokens.into_iter().map(Option::unwrap).collect::<Vec<_>>().concat()),
        Err(error) => {
            let bad = tokens.iter().position(Option::is_none).expect("all ids are tokens");
            assert!(error.message.contains(&format!("no token has the id {}:", ids[bad])), "{error}");
        }
    }
}

/// Every scanner, with all instructions that this processor has, cuts like its regex.
pub fn split(data: &[u8]) {
    let mut input = Input::new(data);
    let (pattern, cutter) = &cutters()[input.below(PATTERNS.len())];
    let drop_gaps = input.below(2) == 1;
    let before = input.below(70); // so that windows begin anywhere
    let text = "x".repeat(before) + &input.text(600);
    let expected = cutter.pieces(&text, drop_gaps);
    let splitter = pattern.splitter().unwrap();
    let splitters = match splitter {
        Splitter::Scan(scan) => Level::all().map(|level| Splitter::Scan(scan.with_level(level))).collect(),
        other => vec![other],
    };
    for splitter in splitters {
        let mut found: Vec<Span> = Vec::new();
        let result = splitter.for_each_batch(&text, drop_gaps, |spans| {
            found.extend_from_slice(spans);
            Ok(())
        });
        assert_eq!(result.ok().map(|()| found), expected, "{pattern:?} on {text:?}");
    }
}

/// A text in chunks has the ids of the whole, and special tokens that are forbidden are found.
pub fn stream(data: &[u8]) {
    let mut input = Input::new(data);
    let (tokenizer, _) = one_of_all(&mut input);
    let (allowed, forbidden) = (choice(&mut input), choice(&mut input));
    let encoder = Encoder::new(tokenizer, allowed, forbidden).unwrap();
    let sizes = input.bytes(4).to_vec();
    let text = input.text(300);
    let known = encoder.allowed.tokens().iter().chain(encoder.forbidden.tokens()).cloned().collect();
    let known = Specials::new(known).unwrap();

    let (mut pending, mut ids, mut rest) = (Pending::default(), Vec::new(), text.as_str());
    assert_eq!(pending.take(Some(""), &known, tokenizer.pattern.cuttable()), None);
    let mut sizes = sizes.iter().cycle();
    let streamed = loop {
        let chunk = (!rest.is_empty()).then(|| {
            let mut end = sizes.next().map_or(1, |size| 1 + usize::from(size % 31)).min(rest.len());
            while !rest.is_char_boundary(end) {
                end += 1;
            }
            let (chunk, after) = rest.split_at(end);
            rest = after;
            chunk
        });
        let Some(ready) = pending.take(chunk, &known, tokenizer.pattern.cuttable()) else { continue };
        match encoder.one(&ready, &mut ()) {
            Ok(more) => ids.extend(more),
            Err(error) => break Err(error),
        }
        if chunk.is_none() {
            break Ok(ids);
        }
    };
    match encoder.one(&text, &mut ()) {
        Ok(whole) => assert_eq!(streamed, Ok(whole), "{text:?}"),
        Err(error) => {
            let other = streamed.expect_err("the whole was refused");
            // The place is that in the part which was encoded at once.
            assert_eq!(other.message.split(" at byte ").next(), error.message.split(" at byte ").next());
        }
    }
}
