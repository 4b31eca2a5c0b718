//! Paths and their answers.

use actix_web::http::StatusCode;
use actix_web::http::header::ContentType;
use actix_web::{HttpResponse, web};

use super::health::Answer;
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
        .route("/livez", web::get().to(live));
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

async fn ready(watched: web::Data<Watched>) -> HttpResponse {
    json(&watched.phase().ready())
}

async fn live(watched: web::Data<Watched>) -> HttpResponse {
    json(&watched.phase().live())
}

fn json(answer: &Answer) -> HttpResponse {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    HttpResponse::build(status).content_type(ContentType::json()).body(answer.body.to_string())
}
