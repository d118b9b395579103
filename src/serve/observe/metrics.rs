//! What `/metrics` tells, and the stages that are timed.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Bounds of the histograms' buckets in seconds: from what a search takes to the longest that is waited for.
const BUCKETS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// A part of a request's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Waiting for a worker.
    Queue,
    /// Receiving the body.
    Read,
    /// Fetching a picture from its address.
    Fetch,
    /// From a picture's bytes to pixels.
    Decode,
    /// From pixels to embeddings.
    Encode,
    /// From embeddings to answers.
    Search,
    /// Waiting for the making of a thumbnail or a preview to begin.
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
struct OfStage {
    stage: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRoute {
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAnswer {
    route: String,
    method: &'static str,
    status: u16,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

/// All that is counted.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    stages: Histograms<OfStage>,
    routes: Histograms<OfRoute>,
    answers: Family<OfAnswer, Counter>,
    /// Requests that are being answered.
    pub(crate) in_flight: Gauge,
    /// Connections that are open.
    pub(crate) connections: Gauge,
    /// Connections that were closed to make room for others.
    pub(crate) evicted: Counter,
    queue: Gauge,
    generation: Gauge,
    rows: Gauge,
    videos: Gauge,
    start: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let metrics = Metrics {
            registry: Mutex::new(Registry::with_prefix("reelseek")),
            stages: Histograms::new_with_constructor(histogram),
            routes: Histograms::new_with_constructor(histogram),
            answers: Family::default(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            evicted: Counter::default(),
            queue: Gauge::default(),
            generation: Gauge::default(),
            rows: Gauge::default(),
            videos: Gauge::default(),
            start: Gauge::default(),
        };
        metrics.start.set(std::time::UNIX_EPOCH.elapsed().map_or(0.0, |since| since.as_secs_f64()));
        metrics.register(|r| {
            r.register("stage_seconds", "Time of each stage of a request", metrics.stages.clone());
            r.register("request_seconds", "Time from a request's head to its answer's", metrics.routes.clone());
            r.register("requests", "Requests by route, method and status", metrics.answers.clone());
            r.register("requests_in_flight", "Requests that are being answered", metrics.in_flight.clone());
            r.register("connections", "Open connections", metrics.connections.clone());
            r.register(
                "connections_evicted",
                "Connections closed for others: idle, or slow to send",
                metrics.evicted.clone(),
            );
            r.register("queue_depth", "Requests that wait for a worker", metrics.queue.clone());
            r.register("index_generation", "Commits of the index taken up since the start", metrics.generation.clone());
            r.register("index_rows", "Rows that are searched", metrics.rows.clone());
            r.register("index_videos", "Videos that are searched", metrics.videos.clone());
            r.register("start_time_seconds", "Start of the server, since 1970", metrics.start.clone());
        });
        metrics
    }
}

impl Metrics {
    /// Puts metrics in the list, without the prefix `reelseek_`.
    pub(crate) fn register(&self, put: impl FnOnce(&mut Registry)) {
        put(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Notes how long a stage took.
    pub(crate) fn observe(&self, stage: Stage, took: Duration) {
        self.stages.get_or_create(&OfStage { stage: stage.name() }).observe(took.as_secs_f64());
    }

    /// Notes a request that was answered. Routes are those of the router, never what somebody asked for: there are only so many.
    pub(crate) fn answered(&self, route: &str, method: &'static str, status: u16, took: Duration) {
        let route = route.to_owned();
        self.routes.get_or_create(&OfRoute { route: route.clone() }).observe(took.as_secs_f64());
        self.answers.get_or_create(&OfAnswer { route, method, status }).inc();
    }

    /// Notes the snapshot that is searched from now on.
    pub(crate) fn snapshot(&self, generation: u64, rows: usize, videos: usize) {
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.rows.set(i64::try_from(rows).unwrap_or(i64::MAX));
        self.videos.set(i64::try_from(videos).unwrap_or(i64::MAX));
    }

    /// The text that Prometheus reads.
    pub(crate) fn text(&self, waiting: usize) -> Result<String, std::fmt::Error> {
        self.queue.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        let mut out = String::new();
        text::encode(&mut out, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(out)
    }
}
