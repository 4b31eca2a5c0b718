//! Inflation in steps, each granted before it is taken.
//!
//! 300 bytes can claim to be 200 MB. So the output grows by steps and the permit grows before the output does;
//! where there is no room for a step the message is refused at once, with what it had taken given back.

use std::io::Read;

use flate2::{Decompress, FlushDecompress, Status as Flate};
use snap::read::FrameDecoder;
use watershed_delivery::{Exhausted, Permit};
use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use super::{Coding, lz4};
use crate::server::{memory_refused, too_large};
use crate::status::{Code, Status};

/// Output of a step and between two yields, in bytes: about a millisecond of work.
const STEP: usize = 1 << 20;

/// Input of a step and between two yields, in bytes: empty blocks cost work and write nothing.
const INPUT: usize = 64 << 10;

/// Steps between two yields: so do empty members and frames, of which each takes a step of its own.
const STEPS: usize = 64;

/// What a gzip or zlib decoder takes: its window and its tables.
const FLATE_STATE: u64 = 48 << 10;

/// What a decoder of snappy's frames takes: the largest chunk, compressed and not.
const FRAMES_STATE: u64 = 144 << 10;

/// How snappy's frames begin.
const FRAMES: &[u8] = b"\xff\x06\0\0sNaPpY";

/// Bytes before one of snappy's chunks: its kind and its length.
const CHUNK: usize = 4;

/// The first step where the input does not say credibly what it holds.
pub(super) const FIRST: u64 = 64 << 10;

/// A claimed size is taken at its word up to this many times the compressed size. Telemetry shrinks 5 to 20 times.
pub(super) const CREDIBLE: u64 = 64;

/// The largest window a zstd frame may ask for, as a power of two: 8 MiB, what RFC 8878 tells decoders to support.
/// Larger ones would make the decoder take memory that no permit covers.
const ZSTD_WINDOW_LOG: u32 = 23;

/// The decoders of one lane. zstd messages take turns, so that a lane holds one zstd window however many clients
/// send. The other decoders are small: each message has its own, covered by its permit.
#[derive(Default)]
pub(crate) struct Inflater {
    zstd: tokio::sync::Mutex<Option<DCtx<'static>>>,
}

/// What one step did.
pub(super) struct Progress {
    pub(super) read: usize,
    pub(super) written: usize,
    /// What was begun (a gzip member, a zstd frame, a chunk) is complete; another may follow.
    pub(super) ended: bool,
}

enum Decoder<'a> {
    Gzip(Box<Decompress>),
    /// zlib, or what is inside it: nothing may follow its end.
    Deflate(Box<Decompress>),
    Zstd(&'a mut DCtx<'static>),
    /// Given one chunk at a time.
    Snappy(Box<FrameDecoder<&'a [u8]>>),
}

// === impl Inflater ===

impl Inflater {
    /// Inflates `input`, which `permit` covers already, to at most `limit` bytes.
    ///
    /// While it works the permit covers input and output, and may be left covering more than the result.
    pub async fn inflate(
        &self,
        coding: Coding,
        input: &[u8],
        limit: u64,
        permit: &Permit,
    ) -> Result<Vec<u8>, Status> {
        let held = input.len() as u64;
        let begin = |state: u64| {
            let room = Room { limit, held: held + state, permit };
            let mut output = Vec::new();
            room.grow(&mut output, claimed_size(coding, input).unwrap_or(FIRST))?;
            Ok((room, output))
        };
        match coding {
            Coding::Zstd => {
                let mut context = self.zstd.lock().await;
                let (room, output) = begin(0)?;
                run(Decoder::Zstd(ready(&mut context)?), input, output, &room).await
            }
            Coding::Snappy if !input.starts_with(FRAMES) => block(input, &Room { limit, held, permit }).await,
            Coding::Lz4 => lz4::frames(input, &Room { limit, held, permit }).await,
            Coding::Snappy | Coding::SnappyFrames => {
                let (room, output) = begin(FRAMES_STATE)?;
                let decoder = Decoder::Snappy(Box::new(FrameDecoder::new(&[])));
                run(decoder, input, output, &room).await
            }
            Coding::Gzip => {
                let (room, output) = begin(FLATE_STATE)?;
                let decoder = Decoder::Gzip(Box::new(Decompress::new_gzip(15)));
                run(decoder, input, output, &room).await
            }
            Coding::Zlib | Coding::Deflate => {
                let (room, output) = begin(FLATE_STATE)?;
                let wrapped = coding == Coding::Zlib || is_zlib(input);
                let decoder = Decoder::Deflate(Box::new(Decompress::new(wrapped)));
                run(decoder, input, output, &room).await
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
async fn run<'a>(
    mut decoder: Decoder<'a>,
    mut input: &'a [u8],
    mut output: Vec<u8>,
    room: &Room<'_>,
) -> Result<Vec<u8>, Status> {
    // `output` is zeroed as far as a step has ever reached, and holds what was inflated up to `written`.
    let mut written = 0;
    let mut work = Work::default();
    loop {
        if written == output.capacity() {
            // Where there is no room for twice as much there may be for the next step, and it may be the last.
            let capacity = output.capacity() as u64;
            room.grow(&mut output, 2 * capacity)
                .or_else(|_| room.grow(&mut output, capacity + (STEP as u64).min(capacity)))?;
        }
        let end = output.capacity().min(written + STEP);
        if output.len() < end {
            output.resize(end, 0);
        }
        let step = decoder.step(input, &mut output[written..end])?;
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
            decoder.next()?;
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
pub(super) struct Work {
    read: usize,
    written: usize,
    steps: usize,
}

impl Work {
    /// Counts the step; whether it is the others' turn.
    pub(super) fn is_enough(&mut self, step: &Progress) -> bool {
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
        let most = self.limit.saturating_add(1).min(self.permit.budget().most().saturating_sub(self.held));
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

impl<'a> Decoder<'a> {
    fn step(&mut self, input: &'a [u8], output: &mut [u8]) -> Result<Progress, Status> {
        let part = &input[..input.len().min(INPUT)];
        match self {
            Self::Gzip(flate) | Self::Deflate(flate) => {
                let (read, written) = (flate.total_in(), flate.total_out());
                let status = flate
                    .decompress(part, output, FlushDecompress::None)
                    .map_err(|error| corrupt(error.message().unwrap_or("it is something else")))?;
                // Both are differences within one slice.
                let (read, written) =
                    ((flate.total_in() - read) as usize, (flate.total_out() - written) as usize);
                Ok(Progress { read, written, ended: status == Flate::StreamEnd })
            }
            Self::Zstd(context) => {
                let (mut input, mut output) = (InBuffer::around(part), OutBuffer::around(output));
                let hint = context
                    .decompress_stream(&mut output, &mut input)
                    .map_err(|code| corrupt(zstd_safe::get_error_name(code)))?;
                Ok(Progress { read: input.pos(), written: output.pos(), ended: hint == 0 })
            }
            Self::Snappy(frames) => {
                let mut read = |frames: &mut FrameDecoder<&'a [u8]>| {
                    frames.read(output).map_err(|error| corrupt(&error.to_string()))
                };
                // What is left of the last chunk comes first.
                let (mut written, mut taken) = (read(frames)?, 0);
                if written == 0 && !input.is_empty() {
                    let chunk = chunk(input)?;
                    taken = chunk.len();
                    *frames.get_mut() = chunk;
                    written = read(frames)?;
                }
                Ok(Progress { read: taken, written, ended: written < output.len() })
            }
        }
    }

    /// Makes ready for what follows, where anything may; zstd and snappy are ready by themselves.
    fn next(&mut self) -> Result<(), Status> {
        match self {
            Self::Gzip(gzip) => gzip.reset(true),
            Self::Deflate(_) => return Err(corrupt("something follows its end")),
            Self::Zstd(_) | Self::Snappy(_) => {}
        }
        Ok(())
    }
}

/// The first of snappy's chunks in `input`.
fn chunk(input: &[u8]) -> Result<&[u8], Status> {
    let length = input.first_chunk::<CHUNK>().map(|&[_, a, b, c]| u32::from_le_bytes([a, b, c, 0]) as usize);
    length.and_then(|length| input.get(..CHUNK + length)).ok_or_else(|| corrupt("it ends too early"))
}

/// Inflates one block of snappy, in one piece: it says how long it is, and cannot be read in parts. At its largest
/// that takes the lane some twenty milliseconds.
async fn block(input: &[u8], room: &Room<'_>) -> Result<Vec<u8>, Status> {
    let snappy = |error: snap::Error| corrupt(&error.to_string());
    let length = snap::raw::decompress_len(input).map_err(snappy)?;
    if length as u64 > room.limit {
        return Err(too_large(room.limit));
    }
    // Three bytes repeat at most 64.
    if length as u64 > CREDIBLE * input.len() as u64 {
        return Err(corrupt("it claims to be longer than it can be"));
    }
    let mut output = Vec::new();
    room.grow(&mut output, length as u64)?;
    if output.capacity() < length {
        return Err(too_large(output.capacity() as u64));
    }
    output.resize(length, 0);
    snap::raw::Decoder::new().decompress(input, &mut output).map_err(snappy)?;
    if length >= STEP {
        tokio::task::yield_now().await;
    }
    Ok(output)
}

/// Whether it begins as zlib does (RFC 1950, 2.2); bare deflate hardly ever does.
fn is_zlib(input: &[u8]) -> bool {
    input.first_chunk().is_some_and(|head| head[0] & 15 == 8 && u16::from_be_bytes(*head) % 31 == 0)
}

/// The size that the input claims to have, where that is credible.
fn claimed_size(coding: Coding, input: &[u8]) -> Option<u64> {
    let size = match coding {
        // The last four bytes of a member: its size modulo 2^32.
        Coding::Gzip => u64::from(u32::from_le_bytes(*input.last_chunk()?)),
        Coding::Zstd => zstd_safe::get_frame_content_size(input).ok()??,
        Coding::Zlib | Coding::Deflate | Coding::Snappy | Coding::SnappyFrames | Coding::Lz4 => return None,
    };
    (size <= CREDIBLE * input.len() as u64).then_some(size)
}

/// gRPC's answer to what cannot be decompressed though the algorithm is known; never retried.
pub(super) fn corrupt(reason: &str) -> Status {
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
        for (what, coding, input) in [
            ("empty members", Coding::Gzip, member.repeat(1000)),
            ("empty blocks", Coding::Gzip, blocks),
            ("empty frames", Coding::Zstd, frame.repeat(1000)),
            ("empty chunks", Coding::Snappy, FRAMES.repeat(1000)),
            (
                "empty LZ4 frames",
                Coding::Lz4,
                [4, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82, 0, 0, 0, 0].repeat(1000),
            ),
            (
                "empty LZ4 blocks",
                Coding::Lz4,
                [&[4, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82][..], &[0, 0, 0, 0x80].repeat(1000), &[0; 4]]
                    .concat(),
            ),
        ] {
            let permit = Budget::new(1 << 20).try_take(input.len() as u64).unwrap();
            let inflater = Inflater::default();
            let inflate = || inflater.inflate(coding, &input, 1000, &permit);
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
        let inflated = inflater.inflate(Coding::Gzip, &member, 1000, &permit).now_or_never();
        assert_eq!(inflated.unwrap().unwrap(), []);
    }

    #[tokio::test]
    async fn where_there_is_no_room_for_twice_as_much_there_may_be_for_a_step() {
        // What claims so much more than it is, is not taken at its word: it begins with a first step.
        let input = zstd::bulk::compress(&vec![0; 9 << 19], 1).unwrap();
        let budget = Budget::new(16 << 20);
        let _others = budget.try_take(10 << 20).unwrap();
        let permit = budget.try_take(input.len() as u64).unwrap();
        let inflated = Inflater::default().inflate(Coding::Zstd, &input, u64::MAX, &permit).await;
        assert_eq!(inflated.unwrap().len(), 9 << 19);
    }
}
