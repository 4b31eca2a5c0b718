//! The `prometheus` exporter: keeps the last value of every series, to be scraped.

mod negotiate;
#[cfg(test)]
mod oracle;
mod protobuf;
mod series;
mod service;
pub(crate) mod settings;
mod store;
#[cfg(test)]
mod tests;
mod text;

use std::cell::RefCell;
use std::sync::Arc;

use watershed_net::serve_http;
use watershed_stage::{
    Batch, Env, ExportError, Exporter, Failure, Listener, Partial, Placement, Sending, Serve, Signal,
};

use self::service::{Scraped, Service};
use self::settings::Settings;
use self::store::Bounds;
use crate::translate::{DropCounters, Scratch, Translation};

/// Fills the store that is scraped.
pub(crate) struct Prometheus {
    settings: Arc<Settings>,
    env: Env,
    translation: Translation,
    bounds: Bounds,
    scratch: RefCell<Scratch>,
    drops: DropCounters,
}

// === impl Prometheus ===

impl Exporter for Prometheus {
    type Settings = Settings;

    fn signals() -> &'static [Signal] {
        &[Signal::Metrics]
    }

    fn placement(_: &Settings) -> Placement {
        Placement::Single
    }

    fn listeners(settings: &Arc<Settings>) -> Vec<Listener<()>> {
        let shared = settings.server();
        let address = settings.address();
        let security = shared.security();
        let settings = settings.clone();
        let open = move |env: &Env| {
            let door = shared.open(env)?;
            let scraped = Arc::new(Scraped::new(&settings, door.gate, env));
            let serve: Arc<Serve<()>> = Arc::new(move |(), connections, stop| {
                let service = Service(scraped.clone());
                Box::pin(serve_http(Arc::new(service), connections, door.options.clone(), stop))
            });
            Ok(serve)
        };
        vec![Listener { address, key: "endpoint", transport: "http", security, open: Arc::new(open) }]
    }

    fn sending(settings: &Settings) -> Sending {
        let (retry, queue) = (settings.retry_on_failure.clone(), settings.sending_queue.clone());
        Sending { timeout: None, retry, queue }
    }

    fn build(settings: &Arc<Settings>, env: &Env) -> Result<Self, Failure> {
        Ok(Self {
            translation: settings.translation(),
            bounds: settings.bounds(env),
            settings: settings.clone(),
            env: env.clone(),
            scratch: RefCell::default(),
            drops: DropCounters::new(env),
        })
    }

    async fn export(&self, batch: &Batch) -> Result<Partial, ExportError> {
        let Self { settings, env, translation, bounds, scratch, drops } = self;
        let scratch = &mut scratch.borrow_mut();
        let left_out = settings.store.fill(&batch.payload, translation, scratch, *bounds, &env.budget)?;
        drops.count(&left_out);
        Ok(Partial { rejected: left_out.lost(), message: left_out.text(), ..Partial::default() })
    }
}
