//! The server that gives out tokens, over HTTP. The one place that needs a client: all else is tested without.

use watershed_stage::Failure;

use super::{Settings, TokenEndpoint};

/// The endpoint at `token_url`. An extension is shared by all lanes, so no connection may outlive its request.
pub(crate) fn connect(settings: &Settings) -> Result<Box<dyn TokenEndpoint>, Failure> {
    Err(Failure::new(format!("`token_url` = {:?}: this build has no HTTP client yet", settings.token_url)))
}
