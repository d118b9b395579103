//! The handlers of the HTTP API and of the web page.

pub(crate) mod batch;
mod bodies;
mod cache;
pub(crate) mod catalogue;
mod compat;
mod files;
mod health;
pub(crate) mod jobs;
mod json;
pub(crate) mod library;
pub(crate) mod links;
pub(crate) mod media;
pub(crate) mod openapi;
pub(crate) mod page;
mod params;
pub(crate) mod request;
pub(crate) mod search;
mod session;

use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::serve::state::App;

/// The routes that need no token, and those that do.
pub(crate) fn routes() -> (OpenApiRouter<App>, OpenApiRouter<App>) {
    use bodies::{batch_body, picture_body, search_body, with_body};
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
