//! The state of the router. Handlers and middleware extract the parts that they need.

use std::sync::Arc;

use axum::extract::FromRef;

use super::admission::budget::BodyBudget;
use super::admission::gate::WorkerGate;
use super::api::catalogue::CatalogueCache;
use super::api::jobs::Jobs;
use super::api::jobs::handlers::JobContext;
use super::api::library::LibraryContext;
use super::api::links::Links;
use super::api::media::{MediaContext, MediaStore};
use super::api::search::SearchContext;
use super::connection::registry::Connections;
use super::error::Error;
use super::guard::auth::Auth;
use super::guard::fetch::{FetchClient, Fetcher};
use super::guard::host::HostGuard;
use super::observe::metrics::Metrics;
use super::options::ServeOptions;
use super::snapshot::SnapshotStore;
use crate::base::Cancel;

/// Defines [`App`] from its parts. Each part can be extracted by its type.
macro_rules! app {
    ($($field:ident: $type:ty),+ $(,)?) => {
        /// All parts of the server.
        #[derive(Clone)]
        pub(crate) struct App {
            $(pub(crate) $field: $type,)+
        }

        $(impl FromRef<App> for $type {
            fn from_ref(app: &App) -> $type {
                app.$field.clone()
            }
        })+
    };
}

app! {
    options: Arc<ServeOptions>,
    snapshots: Arc<SnapshotStore>,
    gate: Arc<WorkerGate>,
    bodies: Arc<BodyBudget>,
    connections: Arc<Connections>,
    metrics: Arc<Metrics>,
    auth: Arc<Auth>,
    hosts: Arc<HostGuard>,
    fetcher: Arc<Fetcher>,
    links: Arc<Links>,
    catalogues: Arc<CatalogueCache>,
    media: Arc<MediaStore>,
    jobs: Arc<Jobs>,
    stopping: Cancel,
}

/// Defines a context of handlers: a struct of some parts of [`App`].
macro_rules! context {
    ($context:ident: $($field:ident),+) => {
        impl FromRef<App> for $context {
            fn from_ref(app: &App) -> $context {
                $context { $($field: app.$field.clone(),)+ }
            }
        }
    };
}

context!(SearchContext: snapshots, gate, fetcher, metrics, links);
context!(LibraryContext: snapshots, gate, catalogues, links);
context!(MediaContext: snapshots, media);
context!(JobContext: snapshots, jobs, stopping, options);

impl App {
    /// Builds the parts, and opens the index if there is one.
    ///
    /// # Errors
    /// For unusable hosts or origins, or an index that cannot be opened.
    pub(crate) fn open(options: ServeOptions) -> Result<App, Error> {
        let (metrics, bodies) = (Arc::<Metrics>::default(), Arc::<BodyBudget>::default());
        let auth = Arc::new(Auth::new(options.token.as_ref()));
        let hosts = HostGuard::new(options.listen, &options.hosts, &options.origins, auth.clone())?;
        let client = options.fetch.then(FetchClient::public);
        let stopping = Cancel::default();
        let app = App {
            snapshots: Arc::new(SnapshotStore::new(&options, &metrics)),
            gate: Arc::new(WorkerGate::new(options.workers, options.queue, &metrics)),
            hosts: Arc::new(hosts),
            fetcher: Arc::new(Fetcher::new(client, &bodies, &metrics)),
            links: Arc::new(Links::new(auth.clone(), options.show_paths)),
            catalogues: Arc::default(),
            media: Arc::new(MediaStore::new(options.cache_bytes, &metrics, &stopping)),
            jobs: Arc::new(Jobs::new(&options.library)),
            stopping,
            auth,
            connections: Arc::new(Connections::new(&metrics)),
            bodies,
            metrics,
            options: Arc::new(options),
        };
        app.snapshots.refresh()?;
        Ok(app)
    }
}
