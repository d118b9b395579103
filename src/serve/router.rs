//! All routes with their layers.

use std::any::Any;

use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, middleware};
use bytes::Bytes;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::serve::api::bodies::{batch_body, picture_body, search_body, with_body};
use crate::serve::api::{batch, compat, health, jobs, library, media, openapi, page, search, session};
use crate::serve::connection::{body, response};
use crate::serve::error::{ApiError, Error};
use crate::serve::guard::{auth, host};
use crate::serve::limits;
use crate::serve::observe::request;
use crate::serve::state::App;

/// All routes with their layers.
pub(super) fn router(app: &App) -> Result<Router, Error> {
    let (open, closed) = routes();
    let (open, open_document) = open.split_for_parts();
    let (closed, mut document) = closed.split_for_parts();
    document.merge(open_document);
    openapi::complete(&mut document);
    // Written once: clients may request it often, and without a worker.
    let document = Bytes::from(serde_json::to_vec(&document).map_err(Error::Document)?);
    let document = move || async move { ([(CONTENT_TYPE, "application/json")], document) };
    let reader = body::BodyReader { budget: app.bodies.clone(), metrics: app.metrics.clone() };
    let read = || middleware::from_fn_with_state(reader.clone(), body::collect);
    let closed = closed
        .route("/openapi.json", get(document))
        .route_layer(read())
        .route_layer(middleware::from_fn_with_state(app.auth.clone(), auth::check));
    Ok(with_outer_layers(open.merge(page::routes()).route_layer(read()).merge(closed), app))
}

/// The routes that need no token, and those that do.
fn routes() -> (OpenApiRouter<App>, OpenApiRouter<App>) {
    let open = OpenApiRouter::default()
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(session::create_session, session::delete_session));
    let closed = OpenApiRouter::with_openapi(openapi::Api::openapi())
        .routes(with_body(routes!(search::search), search_body()))
        .routes(with_body(routes!(batch::batch), batch_body()))
        .routes(routes!(search::info))
        .routes(routes!(compat::trace_url))
        .routes(with_body(routes!(compat::trace_image), picture_body()))
        .routes(routes!(compat::me))
        .routes(routes!(library::videos))
        .routes(routes!(library::video))
        .routes(routes!(library::facets))
        .routes(routes!(library::folders))
        .routes(routes!(media::thumbnail::thumbnail))
        .routes(routes!(media::preview::preview))
        .routes(routes!(media::file::video_file))
        .routes(routes!(jobs::handlers::start_job))
        .routes(routes!(jobs::handlers::list_jobs))
        .routes(routes!(jobs::handlers::job, jobs::handlers::cancel_job))
        .routes(routes!(health::metrics));
    (open, closed)
}

/// Adds the layers of every request, whether there is a route for it or not.
pub(super) fn with_outer_layers(router: Router<App>, app: &App) -> Router {
    let routes = router
        .fallback(|| async { ApiError::new(StatusCode::NOT_FOUND, "no such address: see /openapi.json for all") })
        .layer(DefaultBodyLimit::max(limits::MAX_BODY_BYTES))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(app.hosts.clone(), host::check))
        .layer(middleware::from_fn_with_state(app.connections.clone(), response::count))
        .layer(middleware::from_fn_with_state(app.metrics.clone(), request::observe))
        .with_state(app.clone());
    Router::new().fallback_service(routes).layer(middleware::from_fn(request::name_allowed_methods))
}

/// The response to a request whose handler panicked.
fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::panicked().into_response()
}
