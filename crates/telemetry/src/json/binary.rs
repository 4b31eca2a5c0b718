//! Bytes as text: hex for ids, base64 for all else.

/// What a byte stands for in a text; 0xFF for none.
type Values = [u8; 256];

const fn values(digits: &[u8], mut values: Values) -> Values {
    let mut at = 0;
    while at < digits.len() {
        values[digits[at] as usize] = at as u8;
        at += 1;
    }
    values
}

const HEX: &[u8; 16] = b"0123456789abcdef";
static FROM_HEX: Values = values(b"0123456789ABCDEF", values(HEX, [0xFF; 256]));

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
static FROM_BASE64: Values = values(BASE64_URL, values(BASE64, [0xFF; 256]));

/// Reads pairs of hex digits of either case into `out`; whether they are.
pub(super) fn read_hex(text: &[u8], out: &mut Vec<u8>) -> bool {
    let (pairs, rest) = text.as_chunks::<2>();
    let mut seen = 0;
    out.extend(pairs.iter().map(|[high, low]| {
        let (high, low) = (FROM_HEX[usize::from(*high)], FROM_HEX[usize::from(*low)]);
        seen |= high | low;
        high << 4 | low
    }));
    seen <= 0x0F && rest.is_empty()
}

/// The id that hex digits of either case are, filled up with zeros in front; `None` if they are none, or too many.
pub fn read_hex_id<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut id = [0; N];
    let mut seen = 0;
    for (byte, digits) in id.iter_mut().rev().zip(text.rchunks(2)) {
        let (high, low) = match digits {
            [high, low] => (FROM_HEX[usize::from(*high)], FROM_HEX[usize::from(*low)]),
            digits => (0, digits.first().map_or(0xFF, |low| FROM_HEX[usize::from(*low)])),
        };
        seen |= high | low;
        *byte = high << 4 | low;
    }
    (seen <= 0x0F && (1..=2 * N).contains(&text.len())).then_some(id)
}

/// Appends bytes as pairs of lower-case hex digits.
pub fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    let digit = |value: u8| HEX[usize::from(value & 0x0F)];
    // An id at a time.
    for chunk in bytes.chunks(16) {
        let mut text = [[0; 2]; 16];
        for (pair, byte) in text.iter_mut().zip(chunk) {
            *pair = [digit(byte >> 4), digit(*byte)];
        }
        out.extend_from_slice(text.as_flattened().get(..2 * chunk.len()).unwrap_or_default());
    }
}

/// Reads base64 of either alphabet into `out`; whether it is. Padding may be left out, but not be wrong.
pub(super) fn read_base64(text: &[u8], out: &mut Vec<u8>) -> bool {
    let padding = match text {
        [.., b'=', b'='] => 2,
        [.., b'='] => 1,
        _ => 0,
    };
    let digits = text.get(..text.len() - padding).unwrap_or_default();
    let mut seen = 0;
    for group in digits.chunks(4) {
        let mut bits = 0u32;
        for (place, digit) in group.iter().enumerate() {
            let value = FROM_BASE64[usize::from(*digit)];
            seen |= value;
            bits |= u32::from(value & 0x3F) << (18 - 6 * place);
        }
        // Four digits are three bytes, three are two, two are one.
        let [_, bytes @ ..] = bits.to_be_bytes();
        out.extend_from_slice(bytes.get(..group.len() - 1).unwrap_or_default());
    }
    seen <= 0x3F && digits.len() % 4 != 1 && (padding == 0 || text.len().is_multiple_of(4))
}

/// Appends base64 with padding, in the standard alphabet.
pub fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    for group in bytes.chunks(3) {
        let mut bits = [0; 4];
        for (place, byte) in bits.iter_mut().skip(1).zip(group) {
            *place = *byte;
        }
        let bits = u32::from_be_bytes(bits);
        let digits = [18, 12, 6, 0].map(|shift| BASE64[(bits >> shift & 0x3F) as usize]);
        out.extend_from_slice(digits.get(..=group.len()).unwrap_or_default());
        out.extend_from_slice(b"==".get(..3 - group.len()).unwrap_or_default());
    }
}
