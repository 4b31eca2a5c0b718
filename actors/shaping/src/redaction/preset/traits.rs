//! What one look over a text tells of it: nearly always that there is nothing to find.
//!
//! Some bytes are counted. Words of which each credential, account or name of one has at least one are looked for
//! all at once, a bit for every letter of every word (the Shift-And method of Baeza-Yates and Gonnet).

/// What a text has in it.
#[derive(Clone, Copy, Debug)]
pub(in crate::redaction) struct Traits {
    counts: [usize; 8],
    /// The words in it, by the bits of their last letters.
    names: u64,
    shapes: u64,
}

/// Bytes that are counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark {
    Digit,
    At,
    /// What may begin an escape: `%40`, `\u0040`.
    Escape,
    Dot,
    Colon,
    Equals,
    Plus,
    /// May begin a letter beyond ASCII which is one of a word's in another case: U+017F is an `s`, U+212A a `k`.
    Foreign,
}

/// One byte of the sum for each mark.
static MARKS: [u64; 256] = {
    let mut marks = [0; 256];
    let mut digit = b'0';
    while digit <= b'9' {
        marks[digit as usize] = 1 << (8 * Mark::Digit as u64);
        digit += 1;
    }
    marks[b'@' as usize] = 1 << (8 * Mark::At as u64);
    marks[b'%' as usize] = 1 << (8 * Mark::Escape as u64);
    marks[b'\\' as usize] = 1 << (8 * Mark::Escape as u64);
    marks[b'.' as usize] = 1 << (8 * Mark::Dot as u64);
    marks[b':' as usize] = 1 << (8 * Mark::Colon as u64);
    marks[b'=' as usize] = 1 << (8 * Mark::Equals as u64);
    marks[b'+' as usize] = 1 << (8 * Mark::Plus as u64);
    marks[0xC5] = 1 << (8 * Mark::Foreign as u64);
    marks[0xE2] = 1 << (8 * Mark::Foreign as u64);
    marks
};

/// As many bytes as can be summed up without one count running into the next.
const SUMMED: usize = 255;

/// Kinds of words.
#[derive(Clone, Copy, Debug)]
pub(super) enum Word {
    /// In every name of a credential.
    Credential,
    /// Before a credential in HTTP.
    Scheme,
    /// In every name of a telephone number.
    Phone,
    /// As an account number begins.
    Account,
    /// In every credential that is told by its shape.
    Shape,
}

/// In any case, a class in brackets being one letter; by [`Word`].
static NAMES: Words<4> = Words::of(
    [
        "pass pwd auth toke secr key cred sess sig",
        "bear basi",
        "phon tel mobi msis fax",
        "[abcdefghijklmnopqrstuvwxyz][abcdefghijklmnopqrstuvwxyz][0123456789][0123456789]",
    ],
    true,
);

static SHAPES: Words<1> = Words::of(
    [
        "eyJ A[KSRIGNBC][IODPVC]A gh[pousr]_ _pat lpat npm_ xox[abeoprs] xapp slac [rs]k_[lt] AIza ya29 SG. -BEG sk-",
    ],
    false,
);

/// Words of `N` kinds, ready to be looked for.
struct Words<const N: usize> {
    /// The letters that each byte can be.
    letters: [u64; 256],
    /// The first letters.
    first: u64,
    /// The last letters of each kind.
    last: [u64; N],
}

// === impl Words ===

impl<const N: usize> Words<N> {
    /// All letters together are at most 64, or this does not compile.
    const fn of(kinds: [&str; N], any_case: bool) -> Self {
        let mut words = Self { letters: [0; 256], first: 0, last: [0; N] };
        let mut bit = 0;
        let mut kind = 0;
        while kind < N {
            let text = kinds[kind].as_bytes();
            let (mut at, mut begins, mut in_class) = (0, true, false);
            while at < text.len() {
                match text[at] {
                    b' ' => begins = true,
                    b'[' => in_class = true,
                    b']' => {
                        in_class = false;
                        bit += 1;
                    }
                    letter => {
                        words.letters[letter as usize] |= 1 << bit;
                        if any_case {
                            words.letters[letter.to_ascii_uppercase() as usize] |= 1 << bit;
                        }
                        if begins {
                            words.first |= 1 << bit;
                            begins = false;
                        }
                        bit += !in_class as u64;
                    }
                }
                at += 1;
                if at == text.len() || text[at] == b' ' {
                    words.last[kind] |= 1 << (bit - 1);
                }
            }
            kind += 1;
        }
        words
    }

    /// The letters that words have come to, with one byte more.
    #[inline]
    fn step(&self, state: u64, byte: u8) -> u64 {
        (state << 1 | self.first) & self.letters[usize::from(byte)]
    }
}

// === impl Traits ===

impl Traits {
    pub(in crate::redaction) fn of(text: &str) -> Self {
        let mut traits = Self { counts: [0; 8], names: 0, shapes: 0 };
        let (mut name, mut shape) = (0, 0);
        for part in text.as_bytes().chunks(SUMMED) {
            let mut sum = 0;
            for byte in part {
                sum += MARKS[usize::from(*byte)];
                name = NAMES.step(name, *byte);
                shape = SHAPES.step(shape, *byte);
                traits.names |= name;
                traits.shapes |= shape;
            }
            traits
                .counts
                .iter_mut()
                .zip(sum.to_le_bytes())
                .for_each(|(count, more)| *count += usize::from(more));
        }
        traits
    }

    pub(super) fn count(&self, mark: Mark) -> usize {
        self.counts[mark as usize]
    }

    pub(super) fn has(&self, mark: Mark) -> bool {
        self.count(mark) > 0
    }

    /// Whether there may be escapes in it.
    pub(in crate::redaction) fn has_escapes(&self) -> bool {
        self.has(Mark::Escape)
    }

    /// Whether there may be such a word in it.
    pub(super) fn says(&self, word: Word) -> bool {
        match word {
            Word::Shape => self.shapes & SHAPES.last[0] != 0,
            name => self.names & NAMES.last[name as usize] != 0 || self.has(Mark::Foreign),
        }
    }

    /// Those of a text that may have anything in it.
    #[cfg(test)]
    pub(super) fn any() -> Self {
        Self { counts: [usize::MAX; 8], names: u64::MAX, shapes: u64::MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_in_texts_of_any_length() {
        let traits = Traits::of(&"1.@".repeat(1000));
        assert_eq!(
            [Mark::Digit, Mark::Dot, Mark::At, Mark::Colon].map(|mark| traits.count(mark)),
            [1000, 1000, 1000, 0]
        );
        assert!(!traits.has_escapes() && Traits::of("%").has_escapes());
    }

    #[test]
    fn words_are_told_wherever_they_stand() {
        let pad = "p".repeat(SUMMED - 2);
        for (word, text) in [
            (Word::Credential, "my_PassWord"),
            (Word::Credential, "x-api-key"),
            (Word::Credential, "\u{17f}ecret"),
            (Word::Scheme, "Bearer"),
            (Word::Phone, "Telephone"),
            (Word::Account, "(de89"),
            (Word::Shape, "id=ASIA1"),
            (Word::Shape, "sk_live"),
        ] {
            assert!(Traits::of(text).says(word) && Traits::of(&format!("{pad}{text}")).says(word), "{text}");
        }
        for (word, text) in [
            (Word::Credential, "pas swd"),
            (Word::Scheme, "basalt"),
            (Word::Phone, "tefax".split_at(4).0),
            (Word::Account, "a1b2"),
            (Word::Shape, "region asia"),
        ] {
            assert!(!Traits::of(text).says(word), "{text}");
        }
    }
}
