//! Inflation in steps, each granted before it is taken.
//!
//! 300 bytes can claim to be 200 MB. So the output grows by steps and the permit grows before the output does;
//! where there is no room for a step the message is refused at once, with what it had taken given back.

use flate2::{Decompress, FlushDecompress, Status as Flate};
use watershed_delivery::{Exhausted, Permit};
use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use super::Encoding;
use crate::server::{memory_refused, too_large};
use crate::status::{Code, Status};

/// Output between two yields, in bytes: about a millisecond of work.
const STEP: usize = 1 << 20;

/// The first step where the input does not say credibly what it holds.
const FIRST: u64 = 64 << 10;

/// A claimed size is taken at its word up to this many times the compressed size. Telemetry shrinks 5 to 20 times.
const CREDIBLE: u64 = 64;

/// The largest window a zstd frame may ask for, as a power of two: 8 MiB, what RFC 8878 tells decoders to support.
/// Larger ones would make the decoder take memory that no permit covers.
const ZSTD_WINDOW_LOG: u32 = 23;

/// The decoders of one lane. Messages take turns, so that a lane holds one zstd window however many clients send.
#[derive(Default)]
pub(crate) struct Inflater {
    zstd: Option<DCtx<'static>>,
}

/// What one step did.
struct Progress {
    read: usize,
    written: usize,
    /// A gzip member or zstd frame is complete; another may follow.
    ended: bool,
}

enum Decoder<'a> {
    Gzip(Box<Decompress>),
    Zstd(&'a mut DCtx<'static>),
}

// === impl Inflater ===

impl Inflater {
    /// Inflates `input`, which `permit` covers already, to at most `limit` bytes.
    ///
    /// While it works the permit covers input and output, and may be left covering more than the result.
    pub async fn inflate(
        &mut self,
        encoding: Encoding,
        input: &[u8],
        limit: u64,
        permit: &Permit,
    ) -> Result<Vec<u8>, Status> {
        let mut decoder = self.decoder(encoding)?;
        let room = Room { limit, input: input.len() as u64, permit };
        let mut output = Vec::new();
        room.grow(&mut output, claimed_size(encoding, input).unwrap_or(FIRST))?;
        let mut rest = input;
        let mut yielded = 0;
        loop {
            if output.len() == output.capacity() {
                let wanted = 2 * output.capacity() as u64;
                room.grow(&mut output, wanted)?;
            }
            let start = output.len();
            let end = output.capacity().min(start + STEP);
            output.resize(end, 0);
            let step = decoder.step(rest, &mut output[start..])?;
            output.truncate(start + step.written);
            rest = &rest[step.read..];
            if output.len() as u64 > limit {
                return Err(too_large(limit));
            }
            if step.ended && rest.is_empty() {
                output.shrink_to_fit();
                return Ok(output);
            }
            if step.ended {
                decoder.next();
            } else if step.written < end - start && (rest.is_empty() || step.read == 0) {
                return Err(corrupt("it ends too early"));
            }
            if output.len() - yielded >= STEP {
                yielded = output.len();
                tokio::task::yield_now().await;
            }
        }
    }

    fn decoder(&mut self, encoding: Encoding) -> Result<Decoder<'_>, Status> {
        match encoding {
            Encoding::Gzip => Ok(Decoder::Gzip(Box::new(Decompress::new_gzip(15)))),
            Encoding::Zstd => {
                let context = match &mut self.zstd {
                    Some(context) => context,
                    none => none.insert(DCtx::try_create().ok_or_else(memory_refused)?),
                };
                // Whoever used it before may have been dropped in the middle of a frame.
                let ready = context
                    .reset(ResetDirective::SessionAndParameters)
                    .and_then(|_| context.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG)));
                ready.map_err(|code| corrupt(zstd_safe::get_error_name(code)))?;
                Ok(Decoder::Zstd(context))
            }
        }
    }
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflater").finish_non_exhaustive()
    }
}

/// What the output may grow to.
struct Room<'a> {
    limit: u64,
    input: u64,
    permit: &'a Permit,
}

impl Room<'_> {
    /// Makes room for `wanted` bytes, or for as many as can ever be allowed; there must be more than before.
    fn grow(&self, output: &mut Vec<u8>, wanted: u64) -> Result<(), Status> {
        // One byte above the limit tells a message that is too large from one that just fits.
        let most = (self.limit + 1).min(self.permit.budget().limit().saturating_sub(self.input));
        let capacity = wanted.max(1).min(most);
        if capacity <= output.capacity() as u64 {
            return Err(too_large(self.limit.min(most)));
        }
        self.permit.try_cover(self.input + capacity).map_err(|exhausted| match exhausted {
            Exhausted::ForNow => memory_refused(),
            Exhausted::ForEver => too_large(most),
        })?;
        let capacity = usize::try_from(capacity).map_err(|_| too_large(most))?;
        output.reserve_exact(capacity - output.len());
        Ok(())
    }
}

// === impl Decoder ===

impl Decoder<'_> {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress, Status> {
        match self {
            Self::Gzip(gzip) => {
                let (read, written) = (gzip.total_in(), gzip.total_out());
                let status = gzip
                    .decompress(input, output, FlushDecompress::None)
                    .map_err(|error| corrupt(error.message().unwrap_or("no gzip")))?;
                // Both are differences within one slice.
                let (read, written) =
                    ((gzip.total_in() - read) as usize, (gzip.total_out() - written) as usize);
                Ok(Progress { read, written, ended: status == Flate::StreamEnd })
            }
            Self::Zstd(context) => {
                let (mut input, mut output) = (InBuffer::around(input), OutBuffer::around(output));
                let hint = context
                    .decompress_stream(&mut output, &mut input)
                    .map_err(|code| corrupt(zstd_safe::get_error_name(code)))?;
                Ok(Progress { read: input.pos(), written: output.pos(), ended: hint == 0 })
            }
        }
    }

    /// Makes ready for another member; zstd does that by itself.
    fn next(&mut self) {
        if let Self::Gzip(gzip) = self {
            gzip.reset(true);
        }
    }
}

/// The size that the input claims to have, where that is credible.
fn claimed_size(encoding: Encoding, input: &[u8]) -> Option<u64> {
    let size = match encoding {
        // The last four bytes of a member: its size modulo 2^32.
        Encoding::Gzip => u64::from(u32::from_le_bytes(*input.last_chunk()?)),
        Encoding::Zstd => zstd_safe::get_frame_content_size(input).ok()??,
    };
    (size <= CREDIBLE * input.len() as u64).then_some(size)
}

/// gRPC's answer to what cannot be decompressed though the algorithm is known; never retried.
fn corrupt(reason: &str) -> Status {
    Status::new(Code::Internal, format!("the message cannot be decompressed: {reason}"))
}
