//! Which pattern: a name, a known spelling of one, or any regex.

use super::Splitter;
use super::scan::{Family, Scan};
use crate::error::{Error, Result};

/// GPT-2's pattern as tiktoken spells it. The original spelling below means the same.
const GPT2: &str = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s";
const GPT2_ORIGINAL: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const GPT2_RELEASED: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// cl100k as tiktoken spells it: white space that ends the text is one piece, newlines or not.
const CL100K: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s";
/// The same for Oniguruma, where `$` means the end of a line and `{1,3}+` repeats a repetition.
const CL100K_ONIGURUMA: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+\z|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// cl100k's relatives, in which white space at the end is cut at its last newline: `CL_HEADS[i]`, the digits of
/// a number piece, `CL_TAILS[j]`. Llama 3, Qwen 2 and many trainers use one of them.
const CL_HEADS: [&str; 3] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|",
];
const CL_DIGITS: [(&str, usize); 4] =
    [(r"\p{N}", 1), (r"\p{N}{1,1}", 1), (r"\p{N}{1,2}", 2), (r"\p{N}{1,3}", 3)];
const CL_TAILS: [&str; 3] = [
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];

/// How text is cut before merging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    Gpt2,
    Cl100k,
    O200k,
    /// Any other regex, in the syntax of the `fancy-regex` crate.
    Regex(String),
    /// Not at all: a text is one piece.
    None,
}

impl Pattern {
    /// A name, or a regex; a regex known to mean the same as a name becomes that name.
    pub fn parse(pattern: Option<&str>) -> Pattern {
        match pattern {
            None => Pattern::None,
            Some("gpt2" | GPT2 | GPT2_ORIGINAL | GPT2_RELEASED) => Pattern::Gpt2,
            Some("cl100k" | CL100K | CL100K_ONIGURUMA) => Pattern::Cl100k,
            Some("o200k" | O200K) => Pattern::O200k,
            Some(regex) => Pattern::Regex(regex.into()),
        }
    }

    /// The name, the regex, or nothing: what [`Pattern::parse`] makes this pattern of.
    pub fn spelling(&self) -> Option<&str> {
        match self {
            Pattern::Gpt2 => Some("gpt2"),
            Pattern::Cl100k => Some("cl100k"),
            Pattern::O200k => Some("o200k"),
            Pattern::Regex(regex) => Some(regex),
            Pattern::None => None,
        }
    }

    /// The regex in the syntax of `fancy-regex`, which is tiktoken's.
    pub fn regex(&self) -> Option<&str> {
        match self {
            Pattern::Gpt2 => Some(GPT2),
            Pattern::Cl100k => Some(CL100K),
            Pattern::O200k => Some(O200K),
            Pattern::Regex(regex) => Some(regex),
            Pattern::None => None,
        }
    }

    /// The regex in the syntax of Oniguruma, which is that of Hugging Face's tokenizers.
    pub fn oniguruma(&self) -> Option<&str> {
        match self {
            Pattern::Gpt2 => Some(GPT2_ORIGINAL),
            Pattern::Cl100k => Some(CL100K_ONIGURUMA),
            _ => self.regex(),
        }
    }

    /// Compiles the pattern. A named one, or a known relative, gets a hand-written scanner.
    pub fn splitter(&self) -> Result<Splitter> {
        let scan = |family, digits| Ok(Splitter::Scan(Scan::new(family, digits)));
        match self {
            Pattern::Gpt2 => scan(Family::Gpt2, usize::MAX),
            Pattern::Cl100k => scan(Family::Cl100k { whole_end: true }, 3),
            Pattern::O200k => scan(Family::O200k, 3),
            Pattern::None => Ok(Splitter::Whole),
            Pattern::Regex(regex) => {
                if let Some(digits) = relative_of_cl100k(regex) {
                    return scan(Family::Cl100k { whole_end: false }, digits);
                }
                compile(regex)
            }
        }
    }

    /// May a long text be cut at [`crate::cut`]'s boundaries without changing its pieces?
    pub fn cuttable(&self) -> bool {
        match self {
            Pattern::Gpt2 | Pattern::Cl100k | Pattern::O200k => true,
            Pattern::Regex(regex) => relative_of_cl100k(regex).is_some(),
            Pattern::None => false,
        }
    }
}

fn compile(regex: &str) -> Result<Splitter> {
    match fancy_regex::Regex::new(regex) {
        Ok(compiled) => Ok(Splitter::Regex(Box::new(compiled))),
        Err(error) => Err(Error::tokenizer(format!(
            "the pattern {regex:?} is not a regex that can be used: {error}. Known names: gpt2, cl100k, o200k; \
             None cuts nothing"
        ))),
    }
}

/// How many digits go together, if this is one of the spellings above.
fn relative_of_cl100k(regex: &str) -> Option<usize> {
    CL_HEADS.iter().find_map(|head| {
        let rest = regex.strip_prefix(head)?;
        CL_TAILS.iter().find_map(|tail| {
            let number = rest.strip_suffix(tail)?;
            CL_DIGITS.iter().find(|(spelling, _)| *spelling == number).map(|&(_, digits)| digits)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::window::Level;

    /// Texts that visit the corners of every alternative.
    fn odd_texts() -> Vec<String> {
        let parts = [
            "a", "B", "ß", "ǅ", "ʰ", "中", "\u{301}", "1", "٣", "²", " ", "  ", "\n", "\r\n", "\t", "\u{a0}",
            "'", "'s", "'LL", "'ſ", "'re", "!", "/", "…", "\u{200d}", "\u{0}", "🙂", "x y", "DON'T",
            "\u{e000}",
        ];
        made_of(&parts, 20_000, 12)
    }

    /// Texts that are long enough to be cut by the window, and mostly ASCII.
    fn long_texts() -> Vec<String> {
        let parts = [
            "a",
            "B",
            "word",
            "Camel",
            "CAPS",
            "7",
            "123",
            "1234567",
            " ",
            " ",
            " ",
            "   ",
            "\n",
            "\n\n",
            "\r\n",
            "\n  \n",
            "\t",
            "\t\t",
            "'",
            "'s",
            "'LL",
            "'t",
            "'re",
            "'ve'",
            "!",
            "...",
            "/",
            "//",
            "!\n",
            "/\n/",
            "(x)",
            "-",
            "\u{b}",
            "\u{0}",
            "\u{7f}",
            "é",
            "\u{a0}",
            "'ſ",
            " longer words here ",
            "a_b",
            "x=1;\n    return x\n",
        ];
        made_of(&parts, 20_000, 80)
    }

    /// Texts that are long enough to be cut by the window, and mostly beyond ASCII.
    fn long_texts_of_the_world() -> Vec<String> {
        let parts = [
            "a",
            "Wort",
            "é",
            "Ünï",
            "été ",
            "×",
            "÷",
            "a×b",
            "ſ",
            "'ſ",
            "'ſa",
            "ß",
            "Ж",
            "слово",
            " Слова ",
            "ѐ",
            "҂",
            "Ѧ",
            "λόγος",
            "\u{3f6}",
            "\u{378}",
            "שלום",
            "\u{5b0}",
            "كلمة",
            "\u{64b}",
            "٣",
            "٣٤٥٦",
            "हिन्दी",
            "\u{93f}",
            "७",
            "ไทย",
            "\u{e31}",
            "中",
            "中文字",
            "\u{4dc0}",
            "、",
            "。",
            "かな",
            "カ・ナ",
            "\u{3000}",
            "한국어",
            "\u{d7a4}",
            "😀",
            "👨\u{200d}👩",
            "𝐀",
            "𝟗",
            "𠀀",
            "«",
            "»",
            "“",
            "”",
            "“a",
            " “",
            "…",
            "—",
            " — ",
            "’",
            "'s",
            "’s",
            "²",
            "½",
            "ª",
            "\u{a0}",
            "\u{2009}",
            "\u{85}",
            "\u{301}",
            "\u{ad}",
            "\u{feff}",
            "\u{e000}",
            "\u{10ffff}",
            " ",
            " ",
            " ",
            "  ",
            "\n",
            " \n",
            "\n ",
            "1",
            "1234",
            "!",
            "...",
            "/",
            "_",
        ];
        made_of(&parts, 20_000, 60)
    }

    fn made_of(parts: &[&str], texts: usize, longest: usize) -> Vec<String> {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize
        };
        (0..texts).map(|_| (0..next() % longest).map(|_| parts[next() % parts.len()]).collect()).collect()
    }

    fn pieces(splitter: &Splitter, text: &str) -> Vec<(usize, usize)> {
        let mut out = Vec::new();
        splitter
            .for_each_batch(text, true, |spans| {
                out.extend_from_slice(spans);
                Ok(())
            })
            .unwrap();
        out
    }

    #[test]
    fn scanners_agree_with_their_regexes() {
        let mut patterns = vec![Pattern::Gpt2, Pattern::Cl100k, Pattern::O200k];
        for head in CL_HEADS {
            for (digits, _) in CL_DIGITS {
                patterns.extend(CL_TAILS.map(|tail| Pattern::Regex(format!("{head}{digits}{tail}"))));
            }
        }
        let mut texts = odd_texts();
        texts.extend(long_texts());
        texts.extend(long_texts_of_the_world());
        for (index, pattern) in patterns.iter().enumerate() {
            let Splitter::Scan(scan) = pattern.splitter().unwrap() else {
                panic!("{pattern:?} has no scanner")
            };
            let regex = compile(pattern.regex().unwrap()).unwrap();
            let step = if index < 3 { 1 } else { 20 };
            for text in texts.iter().step_by(step) {
                let expected = pieces(&regex, text);
                for level in Level::all() {
                    let scanner = Splitter::Scan(scan.with_level(level));
                    assert_eq!(pieces(&scanner, text), expected, "{level:?}, {pattern:?} on {text:?}");
                }
            }
        }
    }

    #[test]
    fn other_spellings_of_the_names_mean_the_same() {
        for (a, b) in [(GPT2, GPT2_ORIGINAL), (GPT2, GPT2_RELEASED), (CL100K, CL100K_ONIGURUMA)] {
            let (a, b) = (compile(a).unwrap(), compile(b).unwrap());
            for text in odd_texts().iter().step_by(4) {
                assert_eq!(pieces(&a, text), pieces(&b, text), "{text:?}");
            }
        }
    }

    #[test]
    fn every_code_point_is_cut_as_the_regex_cuts_it() {
        for pattern in [Pattern::Gpt2, Pattern::Cl100k, Pattern::O200k] {
            let scanner = pattern.splitter().unwrap();
            let regex = compile(pattern.regex().unwrap()).unwrap();
            for c in '\0'..=char::MAX {
                // Too short for a window, and behind it what fills one.
                for rest in ["", "b and so on, until there are enough of bytes for whole windows of them"] {
                    let text = format!("a{c}A{c}{c}1{c} {c}{rest}");
                    assert_eq!(pieces(&scanner, &text), pieces(&regex, &text), "{pattern:?} on {text:?}");
                }
            }
        }
    }
}
