//! Windows by the vector instructions of x86-64. These are the only functions here that a processor may lack.

use super::{Classes, Classify, Family, Leads, Scan, Span, WINDOW, fill_with};
use std::arch::x86_64::*;

pub struct Avx2;

impl Classify for Avx2 {
    #[inline(always)]
    fn classify(window: &[u8; WINDOW]) -> Classes {
        // SAFETY: reads the two halves of 64 bytes, from any address; the processor has AVX2, as `fill_avx2`, which this
        // is a part of, is called only then.
        unsafe {
            let low = half(_mm256_loadu_si256(window.as_ptr().cast()));
            let high = half(_mm256_loadu_si256(window.as_ptr().add(32).cast()));
            let [letter, upper, digit, space, newline, blank, quote, high] =
                std::array::from_fn(|i| u64::from(low[i]) | u64::from(high[i]) << 32);
            Classes { letter, upper, digit, space, newline, blank, quote, high }
        }
    }

    #[inline(always)]
    fn leads(window: &[u8; WINDOW]) -> Leads {
        // SAFETY: as above.
        unsafe {
            let low = half_leads(_mm256_loadu_si256(window.as_ptr().cast()));
            let high = half_leads(_mm256_loadu_si256(window.as_ptr().add(32).cast()));
            let [follow, two, three, first, second] =
                std::array::from_fn(|i| u64::from(low[i]) | u64::from(high[i]) << 32);
            Leads { follow, two, three, signs: first << 1 & second }
        }
    }
}

/// Of 32 bytes, those of [`Leads`]; its signs as first and second bytes.
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
unsafe fn half_leads(x: __m256i) -> [u32; 5] {
    // SAFETY: that is the caller's.
    unsafe {
        let within = |first: u8, count: i8| {
            let above = _mm256_sub_epi8(x, _mm256_set1_epi8(first as i8));
            _mm256_cmpeq_epi8(_mm256_min_epu8(above, _mm256_set1_epi8(count)), above)
        };
        let is = |byte: u8| _mm256_cmpeq_epi8(x, _mm256_set1_epi8(byte as i8));
        let mask = |found: __m256i| _mm256_movemask_epi8(found) as u32;
        [
            mask(within(0x80, 0x3F)),
            mask(_mm256_or_si256(within(0xC3, 7), within(0xD0, 1))),
            mask(_mm256_or_si256(within(0xE5, 4), within(0xEB, 1))),
            mask(is(0xC3)),
            mask(_mm256_or_si256(is(0x97), is(0xB7))),
        ]
    }
}

/// The classes of 32 bytes, in the order of the fields of [`Classes`].
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
unsafe fn half(x: __m256i) -> [u32; 8] {
    // SAFETY: that is the caller's.
    unsafe {
        // At most `count` above `first`, where subtraction wraps around.
        let within = |x: __m256i, first: u8, count: i8| {
            let above = _mm256_sub_epi8(x, _mm256_set1_epi8(first as i8));
            _mm256_cmpeq_epi8(_mm256_min_epu8(above, _mm256_set1_epi8(count)), above)
        };
        let is = |byte: u8| _mm256_cmpeq_epi8(x, _mm256_set1_epi8(byte as i8));
        let mask = |found: __m256i| _mm256_movemask_epi8(found) as u32;
        let blank = is(b' ');
        [
            mask(within(_mm256_or_si256(x, _mm256_set1_epi8(0x20)), b'a', 25)),
            mask(within(x, b'A', 25)),
            mask(within(x, b'0', 9)),
            mask(_mm256_or_si256(within(x, b'\t', 4), blank)),
            mask(_mm256_or_si256(is(b'\n'), is(b'\r'))),
            mask(blank),
            mask(is(b'\'')),
            mask(x),
        ]
    }
}

pub struct Avx512;

impl Classify for Avx512 {
    #[inline(always)]
    fn classify(window: &[u8; WINDOW]) -> Classes {
        // SAFETY: reads 64 bytes, from any address; the processor has AVX-512 BW, as `fill_avx512`, which this is a
        // part of, is called only then.
        unsafe {
            let x = _mm512_loadu_si512(window.as_ptr().cast());
            let within = |x: __m512i, first: u8, count: i8| {
                let above = _mm512_sub_epi8(x, _mm512_set1_epi8(first as i8));
                _mm512_cmple_epu8_mask(above, _mm512_set1_epi8(count))
            };
            let is = |byte: u8| _mm512_cmpeq_epi8_mask(x, _mm512_set1_epi8(byte as i8));
            let blank = is(b' ');
            Classes {
                letter: within(_mm512_or_si512(x, _mm512_set1_epi8(0x20)), b'a', 25),
                upper: within(x, b'A', 25),
                digit: within(x, b'0', 9),
                space: within(x, b'\t', 4) | blank,
                newline: is(b'\n') | is(b'\r'),
                blank,
                quote: is(b'\''),
                high: _mm512_movepi8_mask(x),
            }
        }
    }

    #[inline(always)]
    fn leads(window: &[u8; WINDOW]) -> Leads {
        // SAFETY: as above.
        unsafe {
            let x = _mm512_loadu_si512(window.as_ptr().cast());
            let within = |first: u8, count: i8| {
                let above = _mm512_sub_epi8(x, _mm512_set1_epi8(first as i8));
                _mm512_cmple_epu8_mask(above, _mm512_set1_epi8(count))
            };
            let is = |byte: u8| _mm512_cmpeq_epi8_mask(x, _mm512_set1_epi8(byte as i8));
            Leads {
                follow: within(0x80, 0x3F),
                two: within(0xC3, 7) | within(0xD0, 1),
                three: within(0xE5, 4) | within(0xEB, 1),
                signs: is(0xC3) << 1 & (is(0x97) | is(0xB7)),
            }
        }
    }
}

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub fn fill_avx2(scan: &Scan, family: Family, text: &str, start: usize, spans: &mut [Span]) -> usize {
    fill_with::<Avx2>(scan, family, text, start, spans)
}

#[target_feature(enable = "avx512f,avx512bw,bmi1,bmi2,lzcnt,popcnt")]
pub fn fill_avx512(scan: &Scan, family: Family, text: &str, start: usize, spans: &mut [Span]) -> usize {
    fill_with::<Avx512>(scan, family, text, start, spans)
}
