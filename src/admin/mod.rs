//! What an operator asks a running process: metrics, actors, health.
//!
//! Both servers have a thread, an actix System and one worker of their own, away from the engine's lanes: they
//! answer while a lane is stuck, which is when they are asked, and a scrape takes no lane's time.

mod actors;
mod health;
mod process;
mod reload;
mod routes;
mod time;
mod watched;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use actix_web::dev::{Server, ServerHandle};
use actix_web::{App, HttpServer, web};

pub(crate) use self::watched::Watched;

/// The servers. They stop when this is dropped.
pub(crate) struct Admin {
    handles: Vec<ServerHandle>,
}

/// Why the endpoints could not be opened.
#[derive(Debug)]
pub(crate) enum AdminError {
    /// The address of `key` can not be listened on.
    Bind { key: &'static str, address: String, error: std::io::Error },
    /// The thread or the servers on it did not start.
    Thread(String),
}

/// A server that has its socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Metrics,
    Health,
}

// === impl Admin ===

impl Admin {
    /// Listens on both addresses and answers from then on; `None` or an empty one is off.
    pub(crate) fn start(
        metrics: Option<&str>,
        health: Option<&str>,
        watched: &Arc<Watched>,
    ) -> Result<Self, AdminError> {
        let mut bound = Vec::new();
        for (endpoint, address) in [(Endpoint::Metrics, metrics), (Endpoint::Health, health)] {
            if let Some(address) = address.filter(|address| !address.is_empty()) {
                let (listener, local) = bind(endpoint.key(), address)?;
                tracing::info!(address = %local, "{}", endpoint.serves());
                bound.push((endpoint, listener));
            }
        }
        if bound.is_empty() {
            return Ok(Self { handles: Vec::new() });
        }
        let (started, starting) = sync_channel(1);
        let watched = watched.clone();
        let thread = move || {
            actix_web::rt::System::new().block_on(async move {
                let servers: Result<Vec<Server>, _> = bound
                    .into_iter()
                    .map(|(endpoint, listener)| server(endpoint, listener, &watched))
                    .collect();
                match servers {
                    Ok(servers) => {
                        let _ = started.send(Ok(servers.iter().map(Server::handle).collect()));
                        for server in servers.into_iter().map(actix_web::rt::spawn).collect::<Vec<_>>() {
                            let _ = server.await;
                        }
                    }
                    Err(error) => drop(started.send(Err(error))),
                }
            });
        };
        #[allow(
            clippy::disallowed_methods,
            reason = "a thread beside the engine's, so that it answers when they do not"
        )]
        std::thread::Builder::new()
            .name("admin".into())
            .spawn(thread)
            .map_err(|error| AdminError::Thread(error.to_string()))?;
        match starting.recv() {
            Ok(Ok(handles)) => Ok(Self { handles }),
            Ok(Err(error)) => Err(AdminError::Thread(error.to_string())),
            Err(_) => Err(AdminError::Thread("it ended before it was ready".into())),
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        for handle in &self.handles {
            // The order to stop is given by the call; its future only waits for the end.
            drop(handle.stop(false));
        }
    }
}

fn bind(key: &'static str, address: &str) -> Result<(TcpListener, SocketAddr), AdminError> {
    let failed = |error| AdminError::Bind { key, address: address.to_owned(), error };
    let listener = TcpListener::bind(address).map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok((listener, local))
}

fn server(endpoint: Endpoint, listener: TcpListener, watched: &Arc<Watched>) -> std::io::Result<Server> {
    let watched = web::Data::from(watched.clone());
    let app = move || {
        App::new().app_data(watched.clone()).configure(match endpoint {
            Endpoint::Metrics => routes::metrics,
            Endpoint::Health => routes::health,
        })
    };
    Ok(HttpServer::new(app).workers(1).disable_signals().shutdown_timeout(1).listen(listener)?.run())
}

// === impl Endpoint ===

impl Endpoint {
    /// The key of the configuration that names its address.
    fn key(self) -> &'static str {
        match self {
            Self::Metrics => "service.telemetry.metrics.address",
            Self::Health => "service.health.endpoint",
        }
    }

    fn serves(self) -> &'static str {
        match self {
            Self::Metrics => "metrics on /metrics, actors on /actors, POST /reload",
            Self::Health => "health on /, /livez, /readyz and /startupz",
        }
    }
}

// === impl AdminError ===

impl std::fmt::Display for AdminError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bind { key, address, error } => write!(
                f,
                "{key}: cannot listen on \"{address}\": {error}; choose another address, as in \
                 `--set {key}=127.0.0.1:0`, or none: `--set {key}=\"\"`"
            ),
            Self::Thread(error) => write!(f, "the thread of the metrics and health endpoints: {error}"),
        }
    }
}

impl std::error::Error for AdminError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_reported_by_the_key_that_names_it() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let error = Admin::start(None, Some(&address), &Arc::new(Watched::default())).err().unwrap();
        let text = error.to_string();
        assert!(text.starts_with("service.health.endpoint: cannot listen on"), "{text}");
    }

    #[test]
    fn empty_addresses_are_off() {
        let admin = Admin::start(Some(""), None, &Arc::new(Watched::default())).unwrap();
        assert!(admin.handles.is_empty());
    }
}
