//! Both ends of the network, knowing nothing of what the messages say.
//!
//! * [`Sockets`] owns listening sockets by address, so that neither a restart nor a rename of a receiver refuses
//!   a connection; [`Socket::deal`] deals what it accepts to the lanes.
//! * [`DatagramSocket`] is such a socket for datagrams, and [`serve_datagrams`] reads from it.
//! * [`serve`] answers gRPC on the connections dealt to one lane. Admission is decided on the five bytes before a
//!   message ([`Unary::admit`]); the body is gathered, and inflated, only inside the [`Permit`] that grants.
//! * [`serve_http`] answers HTTP/1.1 in the same way ([`HttpService::admit`]). Either is encrypted by [`ServerTls`].
//! * [`Client`] makes gRPC calls over one connection that it opens, and opens again, by itself.
//! * [`HttpClient`] posts over HTTP/1.1, on connections that it keeps for the next request, and gets what does not end.
//! * [`ClientTls`] and [`Proxy`] are the way to the server for either of them.
//! * [`Status`] is what either end says, with the delay a retrying client should keep (`google.rpc.RetryInfo`).
//!
//! # Why not tonic's transport
//!
//! Both ends stand on `h2`, on which tonic's transport stands too. A whole call of 40 KB, both ends and the kernel
//! together, costs 26 us of CPU so; tonic's server in the place of ours adds 5 us at equal settings and 21 us at
//! its own (16 KiB frames), tonic's client 8 to 17 us (`examples/relay_cost.rs`). And its server can neither
//! retire idle connections, nor say goodbye before it cuts an aged one, nor end a graceful stop at a deadline.
//! tonic's vocabulary ([`Code`]) is kept, and tonic's own client and server are what the tests speak to.
//!
//! [`Permit`]: watershed_delivery::Permit

mod client;
mod compression;
mod datagram;
mod frame;
mod http;
mod ping;
mod server;
mod socket;
mod status;
mod stop;
mod timeout;
mod tls;

pub use self::http::{
    Cors, HttpRefusal, HttpRequest, HttpResponse, HttpServerOptions, HttpService, serve_http,
};
pub use client::{CallError, CallErrorKind, Client, ClientKeepalive, ClientOptions, EndpointError, Proxy};
pub use client::{FetchError, Fetched};
pub use client::{HttpAnswer, HttpClient, HttpClientOptions, HttpError, HttpErrorKind, HttpStream};
pub use compression::Compression;
pub use datagram::{DatagramService, DatagramSocket, serve_datagrams};
pub use server::{Call, ConnectionLimit, ConnectionRefused, ServerKeepalive, ServerOptions, Unary, serve};
pub use socket::{BindError, Socket, Sockets};
pub use status::{Code, Status};
pub use stop::{Stop, StopSignal};
pub use tls::{Alpn, ClientTls, ClientTlsOptions, Pem, ServerTls, ServerTlsOptions, TlsError, TlsVersion};
