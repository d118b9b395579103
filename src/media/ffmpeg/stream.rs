//! Decodes coded pictures without a container, such as the tiles of a HEIC picture.

use std::io::{self, BufWriter, Write};

use super::child::Child;
use super::{Limits, Tools, input_from};
use crate::base::Cancel;
use crate::media::Error;

/// A file of coded pictures, for one of ffmpeg's demuxers.
pub(in crate::media) struct CodedStream {
    file: BufWriter<tempfile::NamedTempFile>,
    demuxer: &'static str,
}

impl CodedStream {
    /// An empty temporary file. It is removed on drop.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(in crate::media) fn new(demuxer: &'static str) -> Result<CodedStream, Error> {
        let file = tempfile::Builder::new().prefix("reelseek-").tempfile();
        let file = file.map_err(|reason| Error::io(&std::env::temp_dir(), reason))?;
        Ok(CodedStream { file: BufWriter::new(file), demuxer })
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(in crate::media) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|reason| self.failed(reason))
    }

    fn failed(&self, reason: io::Error) -> Error {
        Error::io(self.file.get_ref().path(), reason)
    }
}

/// Decodes a stream, and passes at most `count` pictures to `take`: packed 8-bit RGB of this size. Returns
/// the number of pictures, and ffmpeg's messages.
///
/// # Errors
/// [`Error::NoFfmpeg`], [`Error::Limit`], [`Error::Cancelled`], [`Error::Killed`], and [`Error::Io`].
pub(in crate::media) fn decode_stream(
    tools: &Tools,
    mut stream: CodedStream,
    [width, height]: [u32; 2],
    count: usize,
    limits: &Limits,
    cancel: &Cancel,
    mut take: impl FnMut(&[u8]),
) -> Result<(u64, Option<String>), Error> {
    stream.file.flush().map_err(|reason| stream.failed(reason))?;
    let path = stream.file.get_ref().path();
    let mut command = input_from(tools, path, limits, &["-r", "25", "-f", stream.demuxer]);
    // Each picture gets its own time, so that none is left out or repeated.
    command.args(["-vf", &format!("setpts=N/25/TB,scale=w={width}:h={height},format=rgb24")]);
    command.args(["-frames:v", &count.to_string(), "-f", "rawvideo", "pipe:1"]);
    let mut child = Child::start(command, path, limits, cancel)?;
    let mut rgb = vec![0; width as usize * height as usize * 3];
    let mut pictures = 0;
    while child.read_exact(&mut rgb)? {
        pictures += 1;
        take(&rgb);
    }
    Ok((pictures, child.finish()?.errors))
}
