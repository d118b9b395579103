//! The metrics that `/metrics` returns, and the timed stages of a request.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

/// Upper bounds of the histogram buckets in seconds, from the fastest search to the longest wait.
const BUCKETS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// A timed stage of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Waiting for a worker.
    Queue,
    /// Receiving the body.
    Read,
    /// Fetching a picture by its URL.
    Fetch,
    /// Decoding a picture to pixels.
    Decode,
    /// Computing embeddings of the pixels.
    Encode,
    /// Searching the index by embeddings.
    Search,
    /// Waiting for a worker that makes thumbnails or previews.
    CutQueue,
    /// Making a thumbnail or a preview.
    Cut,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::Queue => "queue",
            Stage::Read => "read",
            Stage::Fetch => "fetch",
            Stage::Decode => "decode",
            Stage::Encode => "encode",
            Stage::Search => "search",
            Stage::CutQueue => "cut_queue",
            Stage::Cut => "cut",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    stage: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResponseLabels {
    route: String,
    method: &'static str,
    status: u16,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

/// All counters, gauges and histograms.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    stages: Histograms<StageLabels>,
    routes: Histograms<RouteLabels>,
    responses: Family<ResponseLabels, Counter>,
    /// Requests whose response is not complete.
    pub(crate) in_flight: Gauge,
    /// Open connections.
    pub(crate) connections: Gauge,
    /// Connections closed to make room for others.
    pub(crate) evicted: Counter,
    /// Memory of responses that are not sent completely.
    pub(crate) response_bytes: Gauge,
    queue: Gauge,
    generation: Gauge,
    rows: Gauge,
    videos: Gauge,
    kind_rows: Gauge,
}

/// Registers a metric by its name without the prefix `reelseek_`.
fn registered<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut registry = Registry::with_prefix("reelseek");
        let r = &mut registry;
        let (stages, routes) =
            (Histograms::new_with_constructor(histogram), Histograms::new_with_constructor(histogram));
        let head = "Time from the head of a request to the head of its response";
        let evicted = "Connections closed to make room for others: idle, or slow to send or to read";
        let unsent = "Memory of responses that are not sent completely";
        let generation = "Commits of the index opened since the start";
        let start = Gauge::<f64, AtomicU64>::default();
        start.set(std::time::UNIX_EPOCH.elapsed().map_or(0.0, |since| since.as_secs_f64()));
        registered(r, "start_time_seconds", "Start of the server as Unix time", start);
        Metrics {
            stages: registered(r, "stage_seconds", "Time of each stage of a request", stages),
            routes: registered(r, "request_seconds", head, routes),
            responses: registered(r, "requests", "Requests by route, method and status", Family::default()),
            in_flight: registered(r, "requests_in_flight", "Requests whose response is not complete", Gauge::default()),
            connections: registered(r, "connections", "Open connections", Gauge::default()),
            evicted: registered(r, "connections_evicted", evicted, Counter::default()),
            response_bytes: registered(r, "response_bytes", unsent, Gauge::default()),
            queue: registered(r, "queue_depth", "Requests waiting for a worker", Gauge::default()),
            generation: registered(r, "index_generation", generation, Gauge::default()),
            rows: registered(r, "index_rows", "Rows of the index", Gauge::default()),
            videos: registered(r, "index_videos", "Videos of the index", Gauge::default()),
            kind_rows: registered(r, "index_kind_rows", "Rows of the index's kind space", Gauge::default()),
            registry: Mutex::new(registry),
        }
    }
}

impl Metrics {
    /// Registers another metric by its name without the prefix `reelseek_`.
    pub(crate) fn register<M: Metric + Clone + Default>(&self, name: &str, help: &str) -> M {
        registered(&mut self.registry.lock(), name, help, M::default())
    }

    /// Records the duration of a stage.
    pub(crate) fn observe(&self, stage: Stage, took: Duration) {
        self.stages.get_or_create(&StageLabels { stage: stage.name() }).observe(took.as_secs_f64());
    }

    /// Counts a response. `route` is a route of the router, never a URL, so that the number of label values
    /// is bounded.
    pub(crate) fn count_response(&self, route: &str, method: &'static str, status: u16, took: Duration) {
        let route = route.to_owned();
        self.routes.get_or_create(&RouteLabels { route: route.clone() }).observe(took.as_secs_f64());
        self.responses.get_or_create(&ResponseLabels { route, method, status }).inc();
    }

    /// Records the newest snapshot of the index.
    pub(crate) fn snapshot(&self, generation: u64, [rows, kind_rows]: [usize; 2], videos: usize) {
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.kind_rows.set(i64::try_from(kind_rows).unwrap_or(i64::MAX));
        self.rows.set(i64::try_from(rows).unwrap_or(i64::MAX));
        self.videos.set(i64::try_from(videos).unwrap_or(i64::MAX));
    }

    /// All metrics as OpenMetrics text.
    ///
    /// # Errors
    /// If the text cannot be written, which is a bug.
    pub(crate) fn text(&self, waiting: usize) -> Result<String, std::fmt::Error> {
        self.queue.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        let mut out = String::new();
        text::encode(&mut out, &self.registry.lock())?;
        Ok(out)
    }
}
