//! Every limit of the server, with the reason for its value.

use std::time::Duration;

/// Threads that accept, read and write. Computation runs on other threads.
pub(crate) const IO_THREADS: usize = 2;
/// Stack of the threads that compute: as large as a main thread's, because picture decoders and the filter
/// parser recurse.
pub(crate) const STACK_BYTES: usize = 8 << 20;
/// Interval between checks for a new commit. A check reads the metadata of one file.
pub(crate) const COMMIT_POLL: Duration = Duration::from_millis(500);

// Connections.

/// Connections at once. An idle connection costs a few kilobytes and a file descriptor.
pub(crate) const MAX_CONNECTIONS: usize = 4096;
/// File descriptors reserved for the index, videos and ffmpeg.
pub(crate) const RESERVED_FILES: u64 = 256;
/// Longest time for the head of a request, and between two requests of a connection.
pub(crate) const HEAD_TIME: Duration = Duration::from_secs(15);
/// The largest head: many cookies, and the longest address.
pub(crate) const MAX_HEAD_BYTES: usize = 64 << 10;
/// Longest time in which a client reads nothing of a response. Players that pause return with a range
/// request.
pub(crate) const WRITE_STALL: Duration = Duration::from_secs(60);
/// Pause after a failed accept, while the system has no free file descriptor.
pub(crate) const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// While all connections are taken: interval between attempts to evict one.
pub(crate) const EVICT_RETRY: Duration = Duration::from_millis(20);
/// Idle time, or time without body progress, after which a connection may be evicted.
pub(crate) const EVICT_IDLE: Duration = Duration::from_secs(1);
/// The same where only younger connections remain. The head of a request must arrive within this time.
pub(crate) const EVICT_IDLE_MIN: Duration = Duration::from_millis(100);
/// Bytes of a body that count as progress. A sender of single bytes counts as idle.
pub(crate) const PROGRESS_BYTES: usize = 16_000;
/// At shutdown: wait for a connection that has sent nothing yet, since a request may be under way.
pub(crate) const IDLE_CLOSE: Duration = Duration::from_millis(300);
/// At shutdown: longest wait for requests and an indexing job together. Docker kills after ten seconds.
pub(crate) const DRAIN: Duration = Duration::from_secs(8);

// Bodies.

/// The largest picture or form: 25 MB, the limit of trace.moe and more than cameras write.
pub(crate) const MAX_BODY_BYTES: usize = 25_000_000;
/// The largest JSON search: a batch of 32 vectors of 4,096 numbers with all digits.
pub(crate) const MAX_JSON_BYTES: usize = 4_000_000;
/// The largest index request: a list of folder names.
pub(crate) const MAX_INDEX_REQUEST_BYTES: usize = 64_000;
/// The largest body of every other route, those without a token included: a session's token.
pub(crate) const MAX_OTHER_BODY_BYTES: usize = 4_000;
/// Slowest body: this many bytes in each window, which is 32 kB/s. The largest body takes at most 13 minutes.
pub(crate) const BODY_WINDOW_BYTES: usize = 160_000;
pub(crate) const BODY_WINDOW: Duration = Duration::from_secs(5);
/// Extra time of the first window, so that small bodies arrive over any line.
pub(crate) const BODY_GRACE: Duration = Duration::from_secs(5);
/// Bytes of a refused body that are read and dropped: many clients read the response only after sending
/// everything.
pub(crate) const DISCARD_BYTES: usize = 2 * MAX_BODY_BYTES;
pub(crate) const DISCARD_TIME: Duration = Duration::from_secs(5);
/// Memory of all bodies and fetched pictures together: ten of the largest.
pub(crate) const BODY_BUDGET_BYTES: usize = 10 * MAX_BODY_BYTES;
/// The part of the budget that large bodies may use. The rest is reserved for small ones.
pub(crate) const LARGE_BODIES_BYTES: usize = 8 * MAX_BODY_BYTES;
/// A larger body counts as large. Most pictures are smaller.
pub(crate) const SMALL_BODY_BYTES: usize = 1_000_000;

// Work.

/// Longest wait in the worker queue. After that most clients have left.
pub(crate) const QUEUE_TIME: Duration = Duration::from_secs(10);
/// Longest computation of a response. The largest picture needs a few seconds.
pub(crate) const WORK_TIME: Duration = Duration::from_secs(30);

// Fetching.

/// Longest time to fetch a picture, redirects included.
pub(crate) const FETCH_TIME: Duration = Duration::from_secs(15);
/// Longest wait for a fetch to start, unless the caller has a deadline.
pub(crate) const FETCH_QUEUE_TIME: Duration = Duration::from_secs(3);
/// Fetches at once: each holds a thread and up to 25 MB while it waits for another server.
pub(crate) const MAX_FETCHES: usize = 8;
/// Fetches that may wait.
pub(crate) const MAX_QUEUED_FETCHES: usize = 64;
pub(crate) const MAX_REDIRECTS: u32 = 5;
/// The longest URL that is fetched.
pub(crate) const MAX_URL_BYTES: usize = 4096;
/// Bytes read of a fetched picture before they are charged to the budget.
pub(crate) const FETCH_CHUNK_BYTES: u64 = 64 << 10;

// Tokens.

/// Lifetime of a session cookie: a month.
pub(crate) const SESSION_S: u32 = 30 * 24 * 3600;
/// Characters below which a token can be guessed.
pub(crate) const SHORT_TOKEN: usize = 16;
/// How long a browser may cache the answer to a CORS preflight, in seconds.
pub(crate) const PREFLIGHT_S: &str = "600";

// Responses.

/// `Retry-After` of 429: a search takes a fraction of it.
pub(crate) const BUSY_RETRY_S: u32 = 1;
/// `Retry-After` of 503: an index appears, or a slow decoder finishes.
pub(crate) const UNREADY_RETRY_S: u32 = 5;
/// The longest error text in characters. Some texts quote the request.
pub(crate) const MAX_MESSAGE: usize = 2000;
/// Characters kept of the start of a longer error text. The rest is kept of its end.
pub(crate) const MESSAGE_START: usize = 500;
/// The longest request id accepted from a proxy.
pub(crate) const MAX_REQUEST_ID_BYTES: usize = 64;
/// The longest plain-text error that is rewritten as JSON.
pub(crate) const MAX_ERROR_BYTES: usize = 16 << 10;

// Searches.

/// The most pixels of a picture. The largest cameras make as many; decoding takes a second or two.
pub(crate) const MAX_PIXELS: u64 = 50_000_000;
/// Queries of one batch.
pub(crate) const MAX_BATCH_QUERIES: usize = 32;
/// Time for all queries of a batch, including fetches and waits for a worker. Later queries fail.
pub(crate) const BATCH_TIME: Duration = Duration::from_secs(20);
/// Queries of a batch that are fetched at once.
pub(crate) const MAX_BATCH_FETCHES: usize = 4;
/// Numbers of a vector: several times the length of the longest embeddings.
pub(crate) const MAX_VECTOR_NUMBERS: usize = 16_384;
/// The largest JSON body that is parsed on the threads that serve connections: it takes a fraction of a
/// millisecond. Larger bodies wait for a worker, as searches do.
pub(crate) const INLINE_JSON_BYTES: usize = 32 << 10;
/// Bytes of a text field of a form: longer than the longest filter and the longest address.
pub(crate) const MAX_FORM_TEXT_BYTES: usize = 64 << 10;
/// Fields of a form: the pictures of a batch, and each option.
pub(crate) const MAX_FORM_FIELDS: usize = MAX_BATCH_QUERIES + 16;
/// Most labels, and most folders, that are returned as facets.
pub(crate) const MAX_FACETS: usize = 1000;

// Media.

/// Thumbnails made at once. A page of fifty results must not slow a search.
pub(crate) const THUMBNAIL_WORKERS: usize = 2;
/// Previews made at once. They have a separate queue, so that no thumbnail waits for one.
pub(crate) const PREVIEW_WORKERS: usize = 1;
/// Thumbnails that may wait: those of a long page.
pub(crate) const MAX_QUEUED_THUMBNAILS: usize = 256;
/// Previews that may wait: those of a few people.
pub(crate) const MAX_QUEUED_PREVIEWS: usize = 32;
/// Longest wait in these queues.
pub(crate) const MEDIA_QUEUE_TIME: Duration = Duration::from_secs(30);
/// Longest run of ffmpeg. By then the client has left.
pub(crate) const FFMPEG_TIME: Duration = Duration::from_secs(60);
/// Longest time to make a thumbnail or a preview: two runs of ffmpeg, as when seeking fails.
pub(crate) const MEDIA_WORK_TIME: Duration = Duration::from_secs(2 * 60 + 5);
/// Videos whose start is remembered.
pub(crate) const MAX_VIDEO_STARTS: usize = 10_000;
/// Bytes of a file that are read at once.
pub(crate) const FILE_CHUNK_BYTES: usize = 256 << 10;

// Jobs.

/// Failed files that a job lists.
pub(crate) const MAX_JOB_FAILURES: usize = 100;
/// Jobs that are remembered.
pub(crate) const MAX_JOBS: usize = 100;
