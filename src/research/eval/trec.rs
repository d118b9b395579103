//! Runs and relevance judgements as trec_eval reads them.
//!
//! A run is `query Q0 video rank score tag` a line, judgements are `query 0 video 1`. trec_eval orders by score, as single precision, and breaks ties by
//! name; so that its order is ours, a score that is not below the one before is written as the next smaller number.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::retrieval::{Answer, Error, Task};
use crate::base::files;

/// Names without white space, which separates fields: such characters are written as `%` and two hexadecimal digits, and so is `%`.
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
    let written = files::replace(path, |part| {
        let mut out = BufWriter::new(File::create(part)?);
        fill(&mut out)?;
        out.flush()
    });
    written.map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// Writes what was ranked.
///
/// # Errors
/// [`Error::Io`].
pub fn write_run(path: &Path, task: &Task<'_>, answers: &[Answer]) -> Result<(), Error> {
    write(path, |out| {
        for answer in answers {
            let query = name(&task.set.images.rows[task.queries[answer.query] as usize].id);
            let mut before = f32::INFINITY;
            for (rank, (video, score)) in answer.top.iter().zip(&answer.scores).enumerate() {
                let score = if *score < before { *score } else { before.next_down() };
                before = score;
                writeln!(out, "{query} Q0 {} {} {score:e} reelseek", name(&task.videos[*video as usize]), rank + 1)?;
            }
        }
        Ok(())
    })
}

/// Writes which videos are relevant to which query, for queries to which any is.
///
/// # Errors
/// [`Error::Io`].
pub fn write_qrels(path: &Path, task: &Task<'_>) -> Result<(), Error> {
    write(path, |out| {
        for (place, query) in task.queries.iter().enumerate() {
            let query = name(&task.set.images.rows[*query as usize].id);
            for video in task.relevant(place) {
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
    fn names_have_no_white_space() {
        assert_eq!(name("a b\t%é\u{a0}"), "a%20b%09%25é%c2%a0");
    }
}
