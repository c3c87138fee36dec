//! The order of the 256 byte tokens: GPT-2's, printable bytes first.
//!
//! GPT-2 writes each byte as one visible character: the printable bytes of Latin-1 stand for themselves,
//! the other 68 become U+0100, U+0101, … in order. Sorted by that character, the bytes have ids 0–255.

/// Is this byte one of the 188 that GPT-2 shows as themselves?
const fn printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// `BYTE_OF_ID[id]` is the byte with that id.
pub const BYTE_OF_ID: [u8; 256] = {
    let mut order = [0u8; 256];
    let mut id = 0;
    let mut pass = 0;
    while pass < 2 {
        let mut byte = 0;
        while byte < 256 {
            if printable(byte as u8) == (pass == 0) {
                order[id] = byte as u8;
                id += 1;
            }
            byte += 1;
        }
        pass += 1;
    }
    order
};

/// `ID_OF_BYTE[byte]` is the id of that byte.
pub const ID_OF_BYTE: [u8; 256] = {
    let mut ids = [0u8; 256];
    let mut id = 0;
    while id < 256 {
        ids[BYTE_OF_ID[id] as usize] = id as u8;
        id += 1;
    }
    ids
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_bytes_come_first_and_nothing_is_lost() {
        assert_eq!(BYTE_OF_ID[0], b'!');
        assert_eq!(BYTE_OF_ID[187], 0xFF);
        assert_eq!(BYTE_OF_ID[188], 0);
        assert_eq!(ID_OF_BYTE[b' ' as usize], 220);
        assert_eq!(ID_OF_BYTE[b'\n' as usize], 198);
        for byte in 0..=255u8 {
            assert_eq!(BYTE_OF_ID[ID_OF_BYTE[byte as usize] as usize], byte);
        }
    }
}
