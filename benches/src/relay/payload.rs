//! What a relay makes of a request's bytes, and the tonic codecs around it.

use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// A request in the form in which a relay holds it.
pub trait Payload: Sized + Send + Sync + 'static {
    /// Reads one message.
    fn decode(bytes: &mut DecodeBuf<'_>) -> Result<Self, Status>;

    /// Its length on the wire.
    fn bytes(&self) -> usize;

    /// Writes several as one message.
    fn encode(merged: Vec<Self>, out: &mut EncodeBuf<'_>) -> Result<(), Status>;
}

/// The bytes, untouched: merging lays them end to end.
pub struct Raw(Bytes);

impl Payload for Raw {
    fn decode(bytes: &mut DecodeBuf<'_>) -> Result<Self, Status> {
        Ok(Raw(bytes.copy_to_bytes(bytes.remaining())))
    }

    fn bytes(&self) -> usize {
        self.0.len()
    }

    fn encode(merged: Vec<Self>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(merged.iter().map(|Raw(bytes)| bytes.len()).sum());
        merged.iter().for_each(|Raw(bytes)| out.put_slice(bytes));
        Ok(())
    }
}

/// The generated structs, as tonic's stock codec makes them.
pub struct Decoded(ExportTraceServiceRequest, usize);

impl Payload for Decoded {
    fn decode(bytes: &mut DecodeBuf<'_>) -> Result<Self, Status> {
        let length = bytes.remaining();
        let request = ExportTraceServiceRequest::decode(bytes);
        request.map(|request| Decoded(request, length)).map_err(|error| Status::internal(error.to_string()))
    }

    fn bytes(&self) -> usize {
        self.1
    }

    fn encode(merged: Vec<Self>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let mut merged = merged.into_iter().map(|Decoded(request, _)| request);
        let mut request = merged.next().unwrap_or_default();
        merged.for_each(|mut other| request.resource_spans.append(&mut other.resource_spans));
        request.encode(out).map_err(|error| Status::internal(error.to_string()))
    }
}

/// Towards the callers: payloads in, empty messages out.
pub struct ServerCodec<P>(PhantomData<P>);

/// Towards the sink: merged payloads out, answers unread.
pub struct ClientCodec<P>(PhantomData<P>);

impl<P> Default for ServerCodec<P> {
    fn default() -> Self {
        ServerCodec(PhantomData)
    }
}

impl<P> Default for ClientCodec<P> {
    fn default() -> Self {
        ClientCodec(PhantomData)
    }
}

impl<P: Payload> Codec for ServerCodec<P> {
    type Encode = ();
    type Decode = P;
    type Encoder = Empty;
    type Decoder = Self;

    fn encoder(&mut self) -> Empty {
        Empty
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<P: Payload> Codec for ClientCodec<P> {
    type Encode = Vec<P>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Empty;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Empty {
        Empty
    }
}

impl<P: Payload> Decoder for ServerCodec<P> {
    type Item = P;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<P>, Status> {
        P::decode(bytes).map(Some)
    }
}

impl<P: Payload> Encoder for ClientCodec<P> {
    type Item = Vec<P>;
    type Error = Status;

    fn encode(&mut self, merged: Vec<P>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        P::encode(merged, out)
    }
}

/// The answers' side: an export response without partial success is an empty message.
pub struct Empty;

impl Encoder for Empty {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for Empty {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        bytes.advance(bytes.remaining());
        Ok(Some(()))
    }
}
