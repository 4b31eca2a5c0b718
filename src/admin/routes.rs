//! Paths and their answers.

use actix_web::http::StatusCode;
use actix_web::http::header::ContentType;
use actix_web::{HttpRequest, HttpResponse, web};

use super::health::{Answer, Probe};
use super::reload::reload;
use super::{Watched, actors, process};

/// The content type that Prometheus' text format has.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Routes of the metrics server.
pub(super) fn metrics(routes: &mut web::ServiceConfig) {
    routes
        .route("/metrics", web::get().to(show_metrics))
        .route("/actors", web::get().to(show_actors))
        .route("/reload", web::post().to(reload));
}

/// Routes of the health server.
pub(super) fn health(routes: &mut web::ServiceConfig) {
    routes
        .route("/", web::get().to(ready))
        .route("/readyz", web::get().to(ready))
        .route("/livez", web::get().to(live))
        .route("/startupz", web::get().to(startup));
}

async fn show_metrics(watched: web::Data<Watched>) -> HttpResponse {
    let mut text = watched.serving().map(|serving| serving.engine.metrics().render()).unwrap_or_default();
    text.push_str(&process::render(watched.uptime()));
    HttpResponse::Ok().content_type(EXPOSITION).body(text)
}

async fn show_actors(watched: web::Data<Watched>) -> HttpResponse {
    let observations = watched.serving().map(|serving| serving.engine.observe()).unwrap_or_default();
    json(&Answer { status: 200, body: actors::render(observations) })
}

async fn ready(request: HttpRequest, watched: web::Data<Watched>) -> HttpResponse {
    probe(&request, &watched, Probe::Ready)
}

async fn live(request: HttpRequest, watched: web::Data<Watched>) -> HttpResponse {
    probe(&request, &watched, Probe::Live)
}

async fn startup(request: HttpRequest, watched: web::Data<Watched>) -> HttpResponse {
    probe(&request, &watched, Probe::Startup)
}

fn probe(request: &HttpRequest, watched: &Watched, probe: Probe) -> HttpResponse {
    let is_verbose = request.query_string().split('&').any(|part| part.split('=').next() == Some("verbose"));
    let phase = watched.phase();
    if is_verbose {
        let (status, text) = phase.verbose(probe);
        respond(status, ContentType::plaintext(), text)
    } else {
        json(&phase.answer(probe))
    }
}

fn json(answer: &Answer) -> HttpResponse {
    respond(answer.status, ContentType::json(), answer.body.to_string())
}

fn respond(status: u16, kind: ContentType, body: String) -> HttpResponse {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    HttpResponse::build(status).content_type(kind).body(body)
}
