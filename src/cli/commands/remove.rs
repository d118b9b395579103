use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use reelseek_index::Video;

use crate::cli::FOUND_NOTHING;
use crate::cli::args::IndexFolderArgs;
use crate::cli::terminal::{count, printable};
use crate::collection::{Collection, CollectionState};
use crate::ingest;

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Videos to remove: paths, whose files may be gone, or ids
    #[arg(required = true, value_name = "VIDEO")]
    videos: Vec<PathBuf>,
    #[command(flatten)]
    folder: IndexFolderArgs,
}

pub(crate) fn run(args: &RemoveArgs) -> anyhow::Result<ExitCode> {
    let collection = Collection::open_for_writing(&args.folder.index)?;
    // The writer is opened before the index is read, so that no other process writes in between.
    let mut writer = collection.writer()?;
    let searcher = collection.searcher()?;
    let known = searcher.videos()?;
    let mut removed = 0;
    for named in &args.videos {
        match find(&known, named) {
            Some(video) => {
                writer.remove(&video.id)?;
                removed += 1;
            }
            None => eprintln!(
                "{}: not in the index (`reelseek info --videos` lists the videos)",
                printable(&named.to_string_lossy())
            ),
        }
    }
    writer.commit()?;
    // The calibration was measured on the removed videos too.
    ingest::calibrate(&collection, &mut writer, CollectionState::of(&searcher))?;
    writer.close()?;
    writeln!(std::io::stdout(), "{} removed from the index; no video file was touched", count(removed, "video"))?;
    Ok(if removed == 0 { ExitCode::from(FOUND_NOTHING) } else { ExitCode::SUCCESS })
}

/// The video with this path or id. Only the folder of a path is resolved, because the file may be gone.
fn find<'a>(known: &'a [Video], named: &Path) -> Option<&'a Video> {
    let text = named.to_string_lossy();
    let absolute = std::path::absolute(named).unwrap_or_else(|_| named.to_owned());
    let full = match (absolute.parent().and_then(|p| p.canonicalize().ok()), absolute.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => absolute,
    };
    known.iter().find(|v| v.id == text || v.path == full.to_string_lossy() || v.path == text)
}
