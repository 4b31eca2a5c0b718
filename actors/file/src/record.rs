//! Records: a batch as bytes, and where the last whole one in a file ends.

use std::fs::File;
use std::io::{BufReader, Error, ErrorKind, Read as _, Result, Seek as _};
use std::os::unix::fs::FileExt as _;

use watershed_stage::telemetry::json;
use watershed_stage::{ExportError, Payload};
use zstd::bulk::Compressor;

use crate::settings::{Compression, Format, Settings};

/// How records are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Each ends in a line feed, which is nowhere else in it.
    Lines,
    /// Each comes after its length in four bytes, most significant first.
    Prefixed,
}

/// The largest record. It keeps a length's first byte below every letter, so that text is never taken for a length.
const LARGEST: u64 = 1 << 30;

/// How much is read at once while a line feed is looked for.
const STEP: u64 = 64 << 10;

/// Makes records of batches.
pub(crate) struct Encoder {
    format: Format,
    framing: Framing,
    compressor: Option<Compressor<'static>>,
}

// === impl Encoder ===

impl Encoder {
    pub fn new(settings: &Settings) -> Result<Self> {
        let compressor = match settings.compression {
            Compression::None => None,
            Compression::Zstd => Some(Compressor::new(settings.compression_params.level)?),
        };
        Ok(Self { format: settings.format, framing: settings.framing(), compressor })
    }

    /// One record, ready to be written.
    pub fn record(&mut self, payload: &Payload) -> std::result::Result<Vec<u8>, ExportError> {
        let mut record = match self.framing {
            Framing::Lines => Vec::new(),
            Framing::Prefixed => vec![0; 4],
        };
        match (self.format, &mut self.compressor) {
            (Format::Json, None) => json::encode_payload(payload, &mut record),
            (Format::Proto, None) => record.extend_from_slice(&payload.to_bytes()),
            (Format::Json, Some(compressor)) => {
                let mut text = Vec::new();
                json::encode_payload(payload, &mut text);
                compress(compressor, &text, &mut record)?;
            }
            (Format::Proto, Some(compressor)) => compress(compressor, &payload.to_bytes(), &mut record)?,
        }
        if self.framing == Framing::Lines {
            record.push(b'\n');
        } else {
            let length = record.len() - 4;
            let length = u32::try_from(length).ok().filter(|length| u64::from(*length) <= LARGEST);
            let length =
                length.ok_or_else(|| invalid("a batch of more than 1 GiB does not fit into a record"))?;
            record[..4].copy_from_slice(&length.to_be_bytes());
        }
        Ok(record)
    }
}

fn compress(
    compressor: &mut Compressor<'_>,
    from: &[u8],
    to: &mut Vec<u8>,
) -> std::result::Result<(), ExportError> {
    let frame = compressor.compress(from).map_err(|error| invalid(format!("zstd: {error}")))?;
    to.extend_from_slice(&frame);
    Ok(())
}

fn invalid(reason: impl Into<std::borrow::Cow<'static, str>>) -> ExportError {
    const INVALID_ARGUMENT: i32 = 3;
    ExportError::Permanent { code: INVALID_ARGUMENT, reason: reason.into() }
}

// === impl Framing ===

impl Framing {
    /// Where the last whole record of a file ends: what follows was torn when a process or a machine died. A file of
    /// something else is an error, so that nobody's data is cut off by mistake.
    pub fn whole(self, file: &File) -> Result<u64> {
        let length = file.metadata()?.len();
        match self {
            Self::Lines => lines(file, length),
            Self::Prefixed => prefixed(file, length),
        }
    }
}

fn lines(file: &File, length: u64) -> Result<u64> {
    let mut block = vec![0; STEP as usize];
    let mut end = length;
    let whole = loop {
        let start = end.saturating_sub(STEP);
        let block = &mut block[..(end - start) as usize];
        file.read_exact_at(block, start)?;
        match block.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => break start + at as u64 + 1,
            None if start == 0 => break 0,
            None => end = start,
        }
    };
    if whole < length {
        let mut first = [0];
        file.read_exact_at(&mut first, whole)?;
        // Zeroes are what some file systems leave of the last write before a power cut.
        if !matches!(first, [b'{' | 0]) {
            return Err(foreign("lines of OTLP/JSON"));
        }
    }
    Ok(whole)
}

fn prefixed(file: &File, length: u64) -> Result<u64> {
    let mut whole = 0;
    // Small records have many of their lengths in one read.
    let mut reader = BufReader::new(file);
    reader.rewind()?;
    while length - whole >= 4 {
        let mut prefix = [0; 4];
        reader.read_exact(&mut prefix)?;
        let record = u64::from(u32::from_be_bytes(prefix));
        if record > LARGEST {
            return Err(foreign("records after their lengths"));
        }
        // No record is empty: zeroes are what some file systems leave of the last write before a power cut.
        if record == 0 || record > length - whole - 4 {
            break;
        }
        reader.seek_relative(record as i64)?;
        whole += 4 + record;
    }
    Ok(whole)
}

fn foreign(expected: &str) -> Error {
    Error::new(
        ErrorKind::InvalidData,
        format!("the file holds something else than {expected}: move it away, or use another path"),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn whole(framing: Framing, bytes: &[u8]) -> Result<u64> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        framing.whole(&file)
    }

    fn framed(framing: Framing, record: &[u8]) -> Vec<u8> {
        match framing {
            Framing::Lines => [b"{", record, b"}\n"].concat(),
            Framing::Prefixed => [&(record.len() as u32).to_be_bytes()[..], record].concat(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn wherever_a_file_is_torn_its_whole_records_are_found(
            records in prop::collection::vec(prop::collection::vec(b'a'..=b'z', 1..40), 0..6),
            cut in any::<prop::sample::Index>(),
            prefixed in any::<bool>(),
        ) {
            let framing = if prefixed { Framing::Prefixed } else { Framing::Lines };
            let mut file = Vec::new();
            let mut ends = vec![0];
            for record in &records {
                file.extend(framed(framing, record));
                ends.push(file.len());
            }
            file.truncate(cut.index(file.len() + 1));
            let last = *ends.iter().rfind(|end| **end <= file.len()).unwrap();
            prop_assert_eq!(whole(framing, &file).unwrap(), last as u64);
        }
    }

    #[test]
    fn a_long_torn_line_is_found_across_blocks() {
        let torn = [b"{}\n{".to_vec(), vec![b'x'; 3 * STEP as usize]].concat();
        assert_eq!(whole(Framing::Lines, &torn).unwrap(), 3);
    }

    #[test]
    fn zeroes_at_the_end_are_no_records() {
        assert_eq!(whole(Framing::Prefixed, b"\0\0\0\x01a\0\0\0\0\0\0\0\0").unwrap(), 5);
        assert_eq!(whole(Framing::Lines, b"{}\n\0\0\0\0").unwrap(), 3);
    }

    #[test]
    fn what_is_somebody_elses_is_not_cut_off() {
        for (framing, file) in [
            (Framing::Prefixed, &b"{\"resourceSpans\":[]}\n"[..]),
            (Framing::Lines, b"a poem without an end"),
            (Framing::Lines, b"first line\nsecond"),
        ] {
            assert_eq!(whole(framing, file).unwrap_err().kind(), ErrorKind::InvalidData);
        }
    }
}
