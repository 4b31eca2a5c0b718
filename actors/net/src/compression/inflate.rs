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

/// Output of a step and between two yields, in bytes: about a millisecond of work.
const STEP: usize = 1 << 20;

/// Input of a step and between two yields, in bytes: empty blocks cost work and write nothing.
const INPUT: usize = 64 << 10;

/// Steps between two yields: so do empty members and frames, of which each takes a step of its own.
const STEPS: usize = 64;

/// What a gzip decoder takes: its window and its tables.
const GZIP_STATE: u64 = 48 << 10;

/// The first step where the input does not say credibly what it holds.
const FIRST: u64 = 64 << 10;

/// A claimed size is taken at its word up to this many times the compressed size. Telemetry shrinks 5 to 20 times.
const CREDIBLE: u64 = 64;

/// The largest window a zstd frame may ask for, as a power of two: 8 MiB, what RFC 8878 tells decoders to support.
/// Larger ones would make the decoder take memory that no permit covers.
const ZSTD_WINDOW_LOG: u32 = 23;

/// The decoders of one lane. zstd messages take turns, so that a lane holds one zstd window however many clients
/// send. gzip decoders are small: each message has its own, covered by its permit.
#[derive(Default)]
pub(crate) struct Inflater {
    zstd: tokio::sync::Mutex<Option<DCtx<'static>>>,
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
        &self,
        encoding: Encoding,
        input: &[u8],
        limit: u64,
        permit: &Permit,
    ) -> Result<Vec<u8>, Status> {
        let first = claimed_size(encoding, input).unwrap_or(FIRST);
        let held = input.len() as u64;
        match encoding {
            Encoding::Gzip => {
                let room = Room { limit, held: held + GZIP_STATE, permit };
                let mut output = Vec::new();
                room.grow(&mut output, first)?;
                let decoder = Decoder::Gzip(Box::new(Decompress::new_gzip(15)));
                run(decoder, input, output, &room).await
            }
            Encoding::Zstd => {
                let mut context = self.zstd.lock().await;
                let room = Room { limit, held, permit };
                let mut output = Vec::new();
                room.grow(&mut output, first)?;
                run(Decoder::Zstd(ready(&mut context)?), input, output, &room).await
            }
        }
    }
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflater").finish_non_exhaustive()
    }
}

/// Inflates the whole of `input` to `output`, which has room for a first step.
async fn run(
    mut decoder: Decoder<'_>,
    mut input: &[u8],
    mut output: Vec<u8>,
    room: &Room<'_>,
) -> Result<Vec<u8>, Status> {
    // `output` is zeroed as far as a step has ever reached, and holds what was inflated up to `written`.
    let mut written = 0;
    let mut work = Work::default();
    loop {
        if written == output.capacity() {
            let wanted = 2 * output.capacity() as u64;
            room.grow(&mut output, wanted)?;
        }
        let end = output.capacity().min(written + STEP);
        if output.len() < end {
            output.resize(end, 0);
        }
        let step = decoder.step(&input[..input.len().min(INPUT)], &mut output[written..end])?;
        written += step.written;
        input = &input[step.read..];
        if written as u64 > room.limit {
            return Err(too_large(room.limit));
        }
        if step.ended && input.is_empty() {
            output.truncate(written);
            output.shrink_to_fit();
            return Ok(output);
        }
        if step.ended {
            decoder.next();
        } else if written < end && (input.is_empty() || step.read + step.written == 0) {
            return Err(corrupt("it ends too early"));
        }
        if work.is_enough(&step) {
            work = Work::default();
            tokio::task::yield_now().await;
        }
    }
}

/// The lane's zstd decoder, fit for another message.
fn ready<'a>(slot: &'a mut Option<DCtx<'static>>) -> Result<&'a mut DCtx<'static>, Status> {
    let context = match slot {
        Some(context) => context,
        none => none.insert(DCtx::try_create().ok_or_else(memory_refused)?),
    };
    // Whoever used it before may have been dropped in the middle of a frame.
    context
        .reset(ResetDirective::SessionAndParameters)
        .and_then(|_| context.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG)))
        .map_err(|code| corrupt(zstd_safe::get_error_name(code)))?;
    Ok(context)
}

/// What was done since the lane was last left to others.
#[derive(Default)]
struct Work {
    read: usize,
    written: usize,
    steps: usize,
}

impl Work {
    /// Counts the step; whether it is the others' turn.
    fn is_enough(&mut self, step: &Progress) -> bool {
        self.read += step.read;
        self.written += step.written;
        self.steps += 1;
        self.read >= INPUT || self.written >= STEP || self.steps >= STEPS
    }
}

/// What a buffer may grow to.
pub(crate) struct Room<'a> {
    pub limit: u64,
    /// What the message takes beside the buffer.
    pub held: u64,
    pub permit: &'a Permit,
}

impl Room<'_> {
    /// Makes room for `wanted` bytes, or for as many as can ever be allowed; there must be more than before.
    pub fn grow(&self, output: &mut Vec<u8>, wanted: u64) -> Result<(), Status> {
        // One byte above the limit tells a message that is too large from one that just fits.
        let most = (self.limit + 1).min(self.permit.budget().limit().saturating_sub(self.held));
        let capacity = wanted.max(1).min(most);
        if capacity <= output.capacity() as u64 {
            return Err(too_large(self.limit.min(most)));
        }
        self.permit.try_cover(self.held + capacity).map_err(|exhausted| match exhausted {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures_util::FutureExt;
    use watershed_delivery::Budget;

    use super::*;

    #[tokio::test]
    async fn what_inflates_to_nothing_leaves_the_lane_to_others_too() {
        let member = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff][..], &[3, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
        let blocks = [&member[..10], &[0, 0, 0, 0xff, 0xff].repeat(50_000), &member[10..]].concat();
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0];
        for (what, encoding, input) in [
            ("empty members", Encoding::Gzip, member.repeat(1000)),
            ("empty blocks", Encoding::Gzip, blocks),
            ("empty frames", Encoding::Zstd, frame.repeat(1000)),
        ] {
            let permit = Budget::new(1 << 20).try_take(input.len() as u64).unwrap();
            let inflater = Inflater::default();
            let inflate = || inflater.inflate(encoding, &input, 1000, &permit);
            assert!(inflate().now_or_never().is_none(), "{what}");
            assert_eq!(inflate().await.unwrap(), [], "{what}");
        }
    }

    #[tokio::test]
    async fn gzip_does_not_wait_for_zstd() {
        let inflater = Inflater::default();
        let _busy = inflater.zstd.lock().await;
        let permit = Budget::new(1 << 20).try_take(20).unwrap();
        let member = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let inflated = inflater.inflate(Encoding::Gzip, &member, 1000, &permit).now_or_never();
        assert_eq!(inflated.unwrap().unwrap(), []);
    }
}
