//! Runs and relevance judgements in the format of trec_eval.
//!
//! A line of a run is `query Q0 video rank score tag`, a line of judgements is `query 0 video 1`. trec_eval
//! orders by score in single precision and breaks ties by name. To keep the engine's order, a score that is
//! not below the previous one is replaced by the next number below the previous one.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::Error;
use super::retrieval::RankedAnswer;
use super::task::RetrievalTask;
use crate::base::files;

/// Escapes white space, which separates fields, and `%` as `%` and two hexadecimal digits per byte.
fn name(id: &str) -> String {
    let mut out = String::with_capacity(id.len());
    for c in id.chars() {
        if c.is_whitespace() || c == '%' {
            let mut bytes = [0; 4];
            c.encode_utf8(&mut bytes).bytes().for_each(|byte| out.push_str(&format!("%{byte:02x}")));
        } else {
            out.push(c);
        }
    }
    out
}

fn write(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|source| Error::Io { path: folder.to_owned(), source })?;
    files::replace_buffered(path, fill).map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// Writes a run.
///
/// # Errors
/// [`Error::Io`].
pub fn write_run(path: &Path, task: &RetrievalTask<'_>, answers: &[RankedAnswer]) -> Result<(), Error> {
    write(path, |out| {
        for answer in answers {
            let query = name(&task.set.images.rows[task.queries[answer.query] as usize].id);
            let mut previous = f32::INFINITY;
            for (rank, (video, score)) in answer.top.iter().zip(&answer.scores).enumerate() {
                let score = if *score < previous { *score } else { previous.next_down() };
                previous = score;
                writeln!(out, "{query} Q0 {} {} {score:e} reelseek", name(&task.videos[*video as usize]), rank + 1)?;
            }
        }
        Ok(())
    })
}

/// Writes the relevance judgements of all queries with a relevant video.
///
/// # Errors
/// [`Error::Io`].
pub fn write_qrels(path: &Path, task: &RetrievalTask<'_>) -> Result<(), Error> {
    write(path, |out| {
        for (index, query) in task.queries.iter().enumerate() {
            let query = name(&task.set.images.rows[*query as usize].id);
            for video in task.relevant(index) {
                writeln!(out, "{query} 0 {} 1", name(&task.videos[*video as usize]))?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_white_space() {
        assert_eq!(name("a b\t%é\u{a0}"), "a%20b%09%25é%c2%a0");
    }
}
