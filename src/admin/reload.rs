//! `POST /reload`: the configuration read again, for those who can not send a signal.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::ContentType;
use actix_web::{HttpRequest, HttpResponse, web};

use super::Watched;
use crate::cli::{Reloaded, Reloader};

/// Answers with what has changed, or why nothing has.
pub(super) async fn reload(request: HttpRequest, watched: web::Data<Watched>) -> HttpResponse {
    // Metrics are often open to the network. Who may change what runs has to be on this machine.
    let is_near = request.peer_addr().is_some_and(|peer| peer.ip().to_canonical().is_loopback());
    if !is_near {
        return text(StatusCode::FORBIDDEN, "a reload is only for this machine: ask from localhost");
    }
    let Some(reloader) = watched.reloader() else {
        return text(StatusCode::CONFLICT, "it is not running yet, or no longer");
    };
    match reloader.reload("POST /reload").await {
        Reloaded::Applied(diff) => text(StatusCode::OK, &format!("reloaded\n{diff}")),
        Reloaded::Unchanged => text(StatusCode::OK, "unchanged"),
        Reloaded::Wrong(why) => text(StatusCode::UNPROCESSABLE_ENTITY, &why),
        Reloaded::Refused(why) | Reloaded::Busy(why) => {
            text(StatusCode::CONFLICT, &format!("nothing has changed: {why}"))
        }
    }
}

fn text(status: StatusCode, body: &str) -> HttpResponse {
    HttpResponse::build(status).content_type(ContentType::plaintext()).body(format!("{}\n", body.trim_end()))
}

// === impl Watched ===

impl Watched {
    /// Reloads are asked of this one from now on.
    pub(crate) fn reload_by(&self, reloader: Arc<Reloader>) {
        // Told once, as the engine is.
        let _ = self.reloader.set(reloader);
    }

    fn reloader(&self) -> Option<&Arc<Reloader>> {
        self.reloader.get()
    }
}
