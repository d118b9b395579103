//! Latency of searches over HTTP. The binary serves an index of 100,000 rows and gets first pictures at a
//! steady rate, then vectors as fast as it answers.
//!
//! ```text
//! cargo bench -p reelseek --bench serve
//! cargo bench -p reelseek --bench serve -- hold    # serves the index for a load tool, until Ctrl-C
//! ```

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reelseek::media::Picture;
use reelseek::search::align;
use reelseek_index::{Index, IndexSettings, Span, Video};

const VIDEOS: usize = 2_000;
const ROWS: usize = 50;
const DIM: usize = 128;
/// Pictures per second.
const RATE: u32 = 20;
/// Duration of the measurement with pictures in seconds. The one with vectors takes half as long.
const SECONDS: u32 = 20;
/// Number of connections. Each sends its next request after the response to the previous one.
const CONNECTIONS: usize = 8;
/// Approximate size of the picture's file.
const JPEG_BYTES: usize = 200_000;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 24) as f32 - 0.5
    }
}

/// A picture of smooth blotches with noise, which compresses like a photograph.
fn picture(width: u32, height: u32, random: &mut Random) -> Picture {
    let cells: Vec<u8> = (0..9 * 16 * 3).map(|_| ((random.next() + 0.5) * 255.0) as u8).collect();
    let coarse = Picture { width: 16, height: 9, rgb: cells };
    let mut picture = coarse.resize(width, height);
    for value in &mut picture.rgb {
        *value = value.saturating_add_signed((random.next() * 24.0) as i8);
    }
    picture
}

fn jpeg(random: &mut Random) -> Outcome<Vec<u8>> {
    let Picture { width, height, rgb } = picture(1280, 720, random);
    let mut best = Vec::new();
    for quality in (30..=98).step_by(2) {
        let mut bytes = Vec::new();
        let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality);
        encoder.encode(&rgb, width, height, image::ExtendedColorType::Rgb8)?;
        if bytes.len() > JPEG_BYTES {
            break;
        }
        best = bytes;
    }
    Ok(best)
}

/// Makes an index with sketches, in which the rows of each video are near each other.
fn index(folder: &std::path::Path, random: &mut Random) -> Outcome<()> {
    let settings = IndexSettings { sketch: align::BYTES as u32, ..IndexSettings::new(DIM) };
    let index = Index::create(folder, &settings)?;
    let mut writer = index.writer()?;
    let spans: Vec<Span> = (0..ROWS as u32)
        .map(|i| Span { start_ms: i * 1000, end_ms: i * 1000 + 2000, at_ms: i * 1000 + 1000 })
        .collect();
    for number in 0..VIDEOS {
        let centre: Vec<f32> = (0..DIM).map(|_| random.next()).collect();
        let mut rows = Vec::with_capacity(ROWS * DIM);
        for _ in 0..ROWS {
            let row: Vec<f32> = centre.iter().map(|v| v + 0.5 * random.next()).collect();
            let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            rows.extend(row.iter().map(|v| v / length));
        }
        let sketches = align::sketch(&picture(64, 64, random)).repeat(ROWS);
        let name = format!("{number:016x}");
        let video = Video {
            path: format!("/videos/{name}.mp4"),
            title: name.clone(),
            id: name,
            duration_ms: 51_000,
            ..Video::default()
        };
        writer.put(video, &spans, &rows, &sketches)?;
    }
    writer.commit()?;
    Ok(())
}

/// A server process, killed on drop.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends a search and reads its response.
///
/// # Errors
/// If the status is not 200.
fn search(stream: &mut BufReader<TcpStream>, kind: &str, body: &[u8]) -> Outcome<()> {
    let head = format!(
        "POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.get_mut().write_all(head.as_bytes())?;
    stream.get_mut().write_all(body)?;
    let (mut length, mut line) = (0, String::new());
    stream.read_line(&mut line)?;
    if !line.starts_with("HTTP/1.1 200") {
        return Err(line.into());
    }
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line)?;
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse()?;
        }
    }
    stream.read_exact(&mut vec![0; length])?;
    Ok(())
}

fn connect(address: &str) -> Outcome<BufReader<TcpStream>> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

fn print_latency(what: &str, mut took: Vec<Duration>, seconds: f64) {
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    let rate = took.len() as f64 / seconds;
    println!(
        "{what:<10} {rate:>7.1}/s   p50 {:>6.2} ms   p99 {:>6.2} ms   worst {:>6.2} ms",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// Measures pictures that are due at fixed times, even if earlier ones have no answer yet. Latency counts
/// from the due time.
fn steady(address: &str, jpeg: &[u8]) -> Outcome<()> {
    let count = RATE * SECONDS;
    let start = Instant::now() + Duration::from_millis(100);
    let took = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..CONNECTIONS as u32)
            .map(|lane| {
                scope.spawn(move || -> Result<Vec<Duration>, String> {
                    let mut stream = connect(address).map_err(|e| e.to_string())?;
                    let mut took = Vec::new();
                    for i in (lane..count).step_by(CONNECTIONS) {
                        let due = start + Duration::from_secs(1) * i / RATE;
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        search(&mut stream, "image/jpeg", jpeg).map_err(|e| e.to_string())?;
                        took.push(due.elapsed());
                    }
                    Ok(took)
                })
            })
            .collect();
        lanes
            .into_iter()
            .map(|lane| lane.join().unwrap_or_else(|_| Err("a panic".to_owned())))
            .collect::<Result<Vec<_>, _>>()
    })?;
    print_latency("pictures", took.concat(), f64::from(SECONDS));
    Ok(())
}

/// Measures vectors, as fast as the server answers.
fn fast(address: &str, bodies: &[String]) -> Outcome<()> {
    let end = Instant::now() + Duration::from_secs(u64::from(SECONDS) / 2);
    let took = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..CONNECTIONS)
            .map(|lane| {
                scope.spawn(move || -> Result<Vec<Duration>, String> {
                    let mut stream = connect(address).map_err(|e| e.to_string())?;
                    let mut took = Vec::new();
                    for body in bodies.iter().cycle().skip(lane * 37) {
                        let start = Instant::now();
                        if start > end {
                            break;
                        }
                        search(&mut stream, "application/json", body.as_bytes()).map_err(|e| e.to_string())?;
                        took.push(start.elapsed());
                    }
                    Ok(took)
                })
            })
            .collect();
        lanes
            .into_iter()
            .map(|lane| lane.join().unwrap_or_else(|_| Err("a panic".to_owned())))
            .collect::<Result<Vec<_>, _>>()
    })?;
    print_latency("vectors", took.concat(), f64::from(SECONDS) / 2.0);
    Ok(())
}

fn main() -> Outcome<()> {
    let mut random = Random(7);
    let place = tempfile::tempdir()?;
    let folder = place.path().join("index");
    eprintln!("indexing {} rows", VIDEOS * ROWS);
    index(&folder, &mut random)?;
    let jpeg = jpeg(&mut random)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_reelseek"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--index"]).arg(&folder).env_remove("REELSEEK_TOKEN");
    let mut server = Server(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    let address = line.trim().strip_prefix("listening on http://").ok_or("the server did not start")?;
    let bodies: Vec<String> = (0..200)
        .map(|_| serde_json::json!({ "vector": (0..DIM).map(|_| random.next()).collect::<Vec<f32>>() }).to_string())
        .collect();
    if std::env::args().any(|argument| argument == "hold") {
        let (picture, vector) = (place.path().join("picture.jpg"), place.path().join("vector.json"));
        std::fs::write(&picture, &jpeg)?;
        std::fs::write(&vector, &bodies[0])?;
        println!("http://{address}/v1/search\n{} ({} bytes)\n{}", picture.display(), jpeg.len(), vector.display());
        server.0.wait()?;
        return Ok(());
    }
    println!("{} bytes of JPEG, 1280 x 720; {} rows", jpeg.len(), VIDEOS * ROWS);
    // Warm-up.
    let mut stream = connect(address)?;
    for body in &bodies[..20] {
        search(&mut stream, "image/jpeg", &jpeg)?;
        search(&mut stream, "application/json", body.as_bytes())?;
    }
    steady(address, &jpeg)?;
    fast(address, &bodies)
}
