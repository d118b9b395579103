//! Every limit of the server, with the reason for its value.

use std::time::Duration;

use crate::media::PictureLimits;

/// Threads that accept connections, read requests and write responses. Computation runs on other threads.
pub(crate) const IO_THREADS: usize = 2;
/// Stack of the threads that compute: as large as a main thread's, because picture decoders and the filter
/// parser recurse.
pub(crate) const STACK_BYTES: usize = 8 << 20;
/// Interval between checks for a new commit. A check reads the metadata of one file.
pub(crate) const COMMIT_POLL: Duration = Duration::from_millis(500);

// Connections.

/// Most open connections. A connection costs a few kilobytes and one file descriptor, whatever it sends or
/// receives.
pub(crate) const MAX_CONNECTIONS: usize = 4096;
/// File descriptors reserved for the index, videos that are read at this moment, and ffmpeg.
#[cfg(unix)]
pub(crate) const RESERVED_FILES: u64 = 256;
/// Longest time for the head of a request, and between two requests of a connection.
pub(crate) const HEAD_TIME: Duration = Duration::from_secs(15);
/// The largest request head: many cookies, and the longest URL.
pub(crate) const MAX_HEAD_BYTES: usize = 64 << 10;
/// Longest time in which a client reads nothing of a response. A paused player requests the rest as a range
/// later.
pub(crate) const WRITE_STALL: Duration = Duration::from_secs(60);
/// Unsent bytes of a connection that the system may hold. More would cost memory for each client that does
/// not read, and hide whether a slow client reads.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) const UNSENT_BYTES: u32 = 128 << 10;
/// Shortest time between two messages that no connection can be accepted.
pub(crate) const ACCEPT_LOG: Duration = Duration::from_secs(1);
/// Pause after a failed accept, while the system has no free file descriptor.
pub(crate) const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// While all connections are taken: interval between attempts to evict one.
pub(crate) const EVICT_RETRY: Duration = Duration::from_millis(20);
/// Idle time, or time without progress of the request's or the response's body, after which a connection may
/// be evicted.
pub(crate) const EVICT_IDLE: Duration = Duration::from_secs(1);
/// The same if no connection has reached [`EVICT_IDLE`]. A client has at least this time to send the head of
/// a request.
pub(crate) const EVICT_IDLE_MIN: Duration = Duration::from_millis(100);
/// Bytes of a body that count as progress. A client that sends or reads single bytes counts as idle.
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
/// The largest body of every other route. The only such body is the token for `POST /v1/session`, a route
/// that admits clients without a token.
pub(crate) const MAX_OTHER_BODY_BYTES: usize = 4_000;
/// Least bytes of a body in each window: 32 kB/s. The largest body takes at most 13 minutes.
pub(crate) const BODY_WINDOW_BYTES: usize = 160_000;
pub(crate) const BODY_WINDOW: Duration = Duration::from_secs(5);
/// Extra time of the first window, so that small bodies arrive over slow networks too.
pub(crate) const BODY_GRACE: Duration = Duration::from_secs(5);
/// Bytes of a refused body that are read and dropped: many clients read the response only after they have
/// sent the whole body.
pub(crate) const DISCARD_BYTES: usize = 2 * MAX_BODY_BYTES;
pub(crate) const DISCARD_TIME: Duration = Duration::from_secs(5);
/// Memory of all bodies and fetched pictures together: ten of the largest.
pub(crate) const BODY_BUDGET_BYTES: usize = 10 * MAX_BODY_BYTES;
/// The part of the budget that large bodies may use. The rest is reserved for small ones.
pub(crate) const LARGE_BODIES_BYTES: usize = 8 * MAX_BODY_BYTES;
/// Bodies of more bytes count as large. Most pictures are smaller.
pub(crate) const SMALL_BODY_BYTES: usize = 1_000_000;

// Work.

/// Longest wait in the worker queue. Most clients do not wait longer.
pub(crate) const QUEUE_TIME: Duration = Duration::from_secs(10);
/// Longest computation of a response. The largest picture needs a few seconds.
pub(crate) const WORK_TIME: Duration = Duration::from_secs(30);

// Fetching.

/// Longest time to fetch a picture, redirects included.
pub(crate) const FETCH_TIME: Duration = Duration::from_secs(15);
/// Longest wait for a fetch to start, unless the caller sets a deadline.
pub(crate) const FETCH_QUEUE_TIME: Duration = Duration::from_secs(3);
/// Fetches at once: each holds a thread and up to 25 MB while it waits for another server.
pub(crate) const MAX_FETCHES: usize = 8;
/// Fetches that may wait.
pub(crate) const MAX_QUEUED_FETCHES: usize = 64;
pub(crate) const MAX_REDIRECTS: u32 = 5;
/// The longest URL that is fetched.
pub(crate) const MAX_URL_BYTES: usize = 4096;
/// Bytes of a fetched picture that are read before they are charged to the budget.
pub(crate) const FETCH_CHUNK_BYTES: u64 = 64 << 10;

// Tokens.

/// Lifetime of a session cookie: a month.
pub(crate) const SESSION_S: u32 = 30 * 24 * 3600;
/// The largest file of a token.
pub(crate) const MAX_TOKEN_FILE_BYTES: u64 = 64 << 10;
/// A token with fewer characters can be guessed.
pub(crate) const SHORT_TOKEN: usize = 16;
/// How long a browser may cache the answer to a CORS preflight, in seconds.
pub(crate) const PREFLIGHT_S: &str = "600";

// Responses.

/// Memory of all responses together.
pub(crate) const RESPONSE_BUDGET_BYTES: usize = 250_000_000;
/// Responses up to this size are sent even if the budget is exhausted: the number of connections
/// limits them.
pub(crate) const SMALL_RESPONSE_BYTES: usize = 64 << 10;
/// `Retry-After` of 429 in seconds. A search takes a fraction of a second.
pub(crate) const BUSY_RETRY_S: u32 = 1;
/// `Retry-After` of 503 in seconds. In this time an index may appear, or a slow decoder may finish.
pub(crate) const UNREADY_RETRY_S: u32 = 5;
/// The longest error text in characters. Some texts quote the request.
pub(crate) const MAX_MESSAGE: usize = 2000;
/// Characters kept from the start of a longer error text. The others are kept from its end.
pub(crate) const MESSAGE_START: usize = 500;
/// The longest request id accepted from a proxy.
pub(crate) const MAX_REQUEST_ID_BYTES: usize = 64;
/// The longest plain-text error that is rewritten as JSON.
pub(crate) const MAX_ERROR_BYTES: usize = 16 << 10;

// Searches.

/// Most pixels of a picture, and most memory of its decoding. Pictures of the largest cameras have as many
/// pixels, and take a second or two to decode.
pub(crate) const PICTURE: PictureLimits = PictureLimits { pixels: 50_000_000, bytes: 300_000_000 };
/// Queries of one batch.
pub(crate) const MAX_BATCH_QUERIES: usize = 32;
/// Time for all queries of a batch, including fetches and waits for a worker. Queries that have not started
/// by then fail.
pub(crate) const BATCH_TIME: Duration = Duration::from_secs(20);
/// Queries of a batch that are fetched at once.
pub(crate) const MAX_BATCH_FETCHES: usize = 4;
/// Numbers of a vector: several times the length of the longest embeddings.
pub(crate) const MAX_VECTOR_NUMBERS: usize = 16_384;
/// The largest JSON body that is parsed on the threads that serve connections, in a fraction of a
/// millisecond. Larger bodies wait for a worker, as searches do.
pub(crate) const INLINE_JSON_BYTES: usize = 32 << 10;
/// Bytes of a text field of a form: more than the longest filter and the longest URL have.
pub(crate) const MAX_FORM_TEXT_BYTES: usize = 64 << 10;
/// Most fields of a form: the pictures of a batch, and each option.
pub(crate) const MAX_FORM_FIELDS: usize = MAX_BATCH_QUERIES + 16;
/// Most labels, and most folders, that are returned as facets.
pub(crate) const MAX_FACETS: usize = 1000;

// Media.

/// Thumbnails made at once. A page of fifty results must not slow down searches.
pub(crate) const THUMBNAIL_WORKERS: usize = 2;
/// Previews made at once. They have their own queue, so that no thumbnail waits for a preview.
pub(crate) const PREVIEW_WORKERS: usize = 1;
/// Thumbnails that may wait: those of a long page.
pub(crate) const MAX_QUEUED_THUMBNAILS: usize = 256;
/// Previews that may wait: those of a few people.
pub(crate) const MAX_QUEUED_PREVIEWS: usize = 32;
/// Longest wait in these queues.
pub(crate) const MEDIA_QUEUE_TIME: Duration = Duration::from_secs(30);
/// Longest run of ffmpeg. Most clients do not wait longer.
pub(crate) const FFMPEG_TIME: Duration = Duration::from_secs(60);
/// Longest time to make a thumbnail or a preview: two of the longest runs of ffmpeg. There can be more runs,
/// because a failed seek needs another one, but most take a fraction of a second.
pub(crate) const MEDIA_WORK_TIME: Duration = Duration::from_secs(2 * 60 + 5);
/// Videos whose start (`VideoStart`) is remembered.
pub(crate) const MAX_VIDEO_STARTS: usize = 10_000;
/// Bytes of a file that are read at once.
pub(crate) const FILE_CHUNK_BYTES: usize = 64 << 10;
/// Memory of a response that is read from a file: a chunk, and the write buffer, which takes one more chunk
/// when it is not full.
pub(crate) const FILE_RESPONSE_BYTES: usize = MAX_HEAD_BYTES + FILE_CHUNK_BYTES;
/// Reads of videos and cached files at once. Each holds a file descriptor and a thread.
pub(crate) const FILE_READS: usize = 16;

// Jobs.

/// Failed files that a job lists.
pub(crate) const MAX_JOB_FAILURES: usize = 100;
/// Jobs that are remembered.
pub(crate) const MAX_JOBS: usize = 100;
