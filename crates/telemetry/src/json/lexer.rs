//! JSON's own syntax: what a value is made of, not what it means.

use std::borrow::Cow;

use crate::build::Room;
use crate::json::error::{Fault, JsonFlaw};
use crate::json::number::{digits, number_len};
use crate::json::plain_len;
use crate::wire::MAX_DEPTH;

/// Reads JSON from the front, token by token, for formats with a meaning of their own.
///
/// What is between quotation marks is not checked for UTF-8: that is cheaper over a whole text at once.
#[derive(Debug)]
pub struct Lexer<'a> {
    text: &'a [u8],
    pos: usize,
    /// Where the last key stands.
    key_pos: usize,
}

/// What stands between two quotation marks.
#[derive(Clone, Copy)]
struct Quoted<'a> {
    raw: &'a [u8],
    /// Where it starts.
    at: usize,
    /// Whether there are escapes in it.
    escaped: bool,
}

impl<'a> Lexer<'a> {
    /// Starts at the beginning of `text`.
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, pos: 0, key_pos: 0 }
    }

    /// How many bytes were read.
    pub fn pos(&self) -> usize {
        self.pos
    }

    /// Where the last key stands.
    pub(super) fn key_pos(&self) -> usize {
        self.key_pos
    }

    fn rest(&self) -> &'a [u8] {
        self.text.get(self.pos..).unwrap_or_default()
    }

    /// The first byte of the next token, which stays; `None` at the end.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.text.get(self.pos) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.pos += 1;
        }
        None
    }

    /// Whether the next token is this one; then it is read.
    #[inline]
    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.pos += usize::from(found);
        found
    }

    /// The flaw that not `expected` but something else is next, or the end.
    #[cold]
    pub fn unexpected(&mut self, expected: JsonFlaw) -> Fault {
        match self.peek() {
            Some(_) => Fault::new(expected, self.pos),
            None => Fault::new(JsonFlaw::Truncated, self.pos),
        }
    }

    /// That nothing follows.
    pub fn end(&mut self) -> Result<(), Fault> {
        match self.peek() {
            Some(_) => Err(Fault::new(JsonFlaw::Trailing, self.pos)),
            None => Ok(()),
        }
    }

    /// Enters an object.
    #[inline]
    pub fn object(&mut self) -> Result<(), Fault> {
        if self.eat(b'{') { Ok(()) } else { Err(self.unexpected(JsonFlaw::Type("an object"))) }
    }

    /// Enters an array.
    #[inline]
    pub fn array(&mut self) -> Result<(), Fault> {
        if self.eat(b'[') { Ok(()) } else { Err(self.unexpected(JsonFlaw::Type("an array"))) }
    }

    /// Whether an array goes on, up to the next element.
    #[inline]
    pub fn element(&mut self, first: bool) -> Result<bool, Fault> {
        if self.eat(b']') {
            return Ok(false);
        }
        if first || self.eat(b',') {
            return Ok(true);
        }
        Err(self.unexpected(JsonFlaw::Expected("`,` or `]`")))
    }

    /// Whether the next key is this one, quotation marks, colon and all; then it is read.
    #[inline]
    pub(super) fn known_key(&mut self, first: bool, key: &str) -> bool {
        let at = match self.text.get(self.pos) {
            Some(b',') if !first => self.pos + 1,
            _ if first => self.pos,
            _ => return false,
        };
        let found = self.text.get(at..).is_some_and(|rest| rest.starts_with(key.as_bytes()));
        if found {
            (self.key_pos, self.pos) = (at, at + key.len());
        }
        found
    }

    /// The next key of an object, up to its value; `None` at the end.
    #[inline]
    pub(super) fn key<'s>(
        &mut self,
        first: bool,
        scratch: &'s mut Vec<u8>,
        room: &mut Room<'_>,
    ) -> Result<Option<&'s [u8]>, Fault>
    where
        'a: 's,
    {
        let Some(key) = self.quoted_key(first)? else { return Ok(None) };
        self.key_pos = key.at - 1;
        key.text(scratch, room).map(Some)
    }

    /// As a key of its own, for keys that are not known before: borrowed unless there are escapes in it.
    #[inline]
    pub fn text_key(&mut self, first: bool) -> Result<Option<Cow<'a, [u8]>>, Fault> {
        self.quoted_key(first)?.map(Quoted::owned).transpose()
    }

    #[inline]
    fn quoted_key(&mut self, first: bool) -> Result<Option<Quoted<'a>>, Fault> {
        if self.eat(b'}') {
            return Ok(None);
        }
        if !first && !self.eat(b',') {
            return Err(self.unexpected(JsonFlaw::Expected("`,` or `}`")));
        }
        if self.peek() != Some(b'"') {
            return Err(self.unexpected(JsonFlaw::Expected("a key in quotation marks")));
        }
        let key = self.quoted()?;
        if self.eat(b':') { Ok(Some(key)) } else { Err(self.unexpected(JsonFlaw::Expected("`:`"))) }
    }

    /// The string that must be next, without its escapes; if it has any, it is written to `scratch`. `what` says
    /// what should be there.
    #[inline]
    pub(super) fn string<'s>(
        &mut self,
        what: &'static str,
        scratch: &'s mut Vec<u8>,
        room: &mut Room<'_>,
    ) -> Result<&'s [u8], Fault>
    where
        'a: 's,
    {
        match self.peek() {
            Some(b'"') => self.quoted()?.text(scratch, room),
            _ => Err(self.unexpected(JsonFlaw::Type(what))),
        }
    }

    /// The string that must be next, borrowed unless there are escapes in it. `what` says what should be there.
    #[inline]
    pub fn text(&mut self, what: &'static str) -> Result<Cow<'a, [u8]>, Fault> {
        match self.peek() {
            Some(b'"') => self.quoted()?.owned(),
            _ => Err(self.unexpected(JsonFlaw::Type(what))),
        }
    }

    /// Reads the string whose opening mark is next.
    #[inline]
    fn quoted(&mut self) -> Result<Quoted<'a>, Fault> {
        self.pos += 1;
        let at = self.pos;
        let mut escaped = false;
        loop {
            self.pos += plain_len(self.rest());
            match self.text.get(self.pos) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.pos = self.text.len().min(self.pos + 2);
                }
                Some(_) => return Err(Fault::new(JsonFlaw::Control, self.pos)),
                None => return Err(Fault::new(JsonFlaw::Truncated, self.pos)),
            }
        }
        let raw = self.text.get(at..self.pos).unwrap_or_default();
        self.pos += 1;
        Ok(Quoted { raw, at, escaped })
    }

    /// The number that is next.
    #[inline]
    pub fn number(&mut self) -> Result<&'a [u8], Fault> {
        let rest = self.rest();
        let len = number_len(rest).map_err(|at| {
            let flaw = if at < rest.len() { JsonFlaw::Number } else { JsonFlaw::Truncated };
            Fault::new(flaw, self.pos + at)
        })?;
        self.pos += len;
        Ok(rest.get(..len).unwrap_or_default())
    }

    /// The number that is next, if it is nothing but some digits, in quotation marks perhaps; then it is read.
    #[inline]
    pub fn natural(&mut self, may_be_quoted: bool) -> Option<u64> {
        let rest = self.rest();
        let (text, quoted) = match rest {
            [b'"', text @ ..] if may_be_quoted => (text, true),
            text => (text, false),
        };
        let (value, after) = digits(text)?;
        let whole = match after.first() {
            Some(b'"') => quoted,
            Some(b'.' | b'e' | b'E') => false,
            _ => !quoted,
        };
        self.pos += if whole { rest.len() - after.len() + usize::from(quoted) } else { 0 };
        whole.then_some(value)
    }

    /// Whether `true`, `false` or `null` is next; then it is read.
    #[inline]
    pub fn literal(&mut self, literal: &str) -> bool {
        let found = self.rest().starts_with(literal.as_bytes());
        self.pos += if found { literal.len() } else { 0 };
        found
    }

    /// Reads any value, without recursion.
    pub fn skip(&mut self) -> Result<(), Fault> {
        // Whether the value that is open at each depth is an object.
        let mut open = [false; MAX_DEPTH];
        let mut depth = 0;
        loop {
            let entered = match self.peek() {
                Some(opening @ (b'{' | b'[')) => {
                    let Some(place) = open.get_mut(depth) else {
                        return Err(Fault::new(JsonFlaw::Depth, self.pos));
                    };
                    *place = opening == b'{';
                    depth += 1;
                    self.pos += 1;
                    true
                }
                Some(b'"') => {
                    self.quoted()?.unescape(&mut |_| ())?;
                    false
                }
                Some(b'-' | b'0'..=b'9') => {
                    self.number()?;
                    false
                }
                Some(_) if ["true", "false", "null"].iter().any(|literal| self.literal(literal)) => false,
                _ => return Err(self.unexpected(JsonFlaw::Expected("a value"))),
            };
            let mut first = entered;
            // Up to the next value inside of what is open.
            loop {
                let Some(is_object) = depth.checked_sub(1).and_then(|top| open.get(top)) else {
                    return Ok(());
                };
                let more = if *is_object {
                    match self.quoted_key(first)? {
                        Some(key) => key.unescape(&mut |_| ()).map(|()| true)?,
                        None => false,
                    }
                } else {
                    self.element(first)?
                };
                first = false;
                if more {
                    break;
                }
                depth -= 1;
            }
        }
    }
}

impl<'a> Quoted<'a> {
    /// Without its escapes.
    #[inline]
    fn text<'s>(self, scratch: &'s mut Vec<u8>, room: &mut Room<'_>) -> Result<&'s [u8], Fault>
    where
        'a: 's,
    {
        if !self.escaped {
            return Ok(self.raw);
        }
        scratch.clear();
        // No escape is shorter than what it stands for.
        room.reserve(scratch, self.raw.len())?;
        self.unescape(&mut |part| scratch.extend_from_slice(part))?;
        Ok(scratch)
    }

    /// Without its escapes, which take memory of their own: less than the text.
    #[inline]
    fn owned(self) -> Result<Cow<'a, [u8]>, Fault> {
        if !self.escaped {
            return Ok(Cow::Borrowed(self.raw));
        }
        let mut text = Vec::with_capacity(self.raw.len());
        self.unescape(&mut |part| text.extend_from_slice(part))?;
        Ok(Cow::Owned(text))
    }

    /// Hands out the text part by part.
    fn unescape(self, put: &mut impl FnMut(&[u8])) -> Result<(), Fault> {
        let mut rest = self.raw;
        while self.escaped && !rest.is_empty() {
            let (plain, escape) = rest.split_at(plain_len(rest));
            put(plain);
            rest = escape;
            let at = self.at + self.raw.len() - escape.len();
            if let [b'\\', kind, after @ ..] = escape {
                let one = match kind {
                    b'"' | b'\\' | b'/' => *kind,
                    b'b' => 0x08,
                    b'f' => 0x0C,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'u' => {
                        let (character, after) = unicode(escape).map_err(|flaw| Fault::new(flaw, at))?;
                        put(character.encode_utf8(&mut [0; 4]).as_bytes());
                        rest = after;
                        continue;
                    }
                    _ => return Err(Fault::new(JsonFlaw::Escape, at)),
                };
                put(&[one]);
                rest = after;
            }
        }
        Ok(())
    }
}

/// The character that a `\uXXXX` or a pair of them stands for, and what follows.
fn unicode(escape: &[u8]) -> Result<(char, &[u8]), JsonFlaw> {
    let (high, after) = utf16(escape).ok_or(JsonFlaw::Escape)?;
    if let Some(character) = char::from_u32(high) {
        return Ok((character, after));
    }
    let (low, after) = utf16(after).ok_or(JsonFlaw::Surrogate)?;
    if high < 0xDC00 && (0xDC00..0xE000).contains(&low) {
        let character = char::from_u32(0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00));
        return Ok((character.ok_or(JsonFlaw::Surrogate)?, after));
    }
    Err(JsonFlaw::Surrogate)
}

fn utf16(escape: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, after) = escape.strip_prefix(b"\\u")?.split_first_chunk::<4>()?;
    let unit = digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))?;
    Some((unit, after))
}
