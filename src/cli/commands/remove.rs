use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use reelseek_index::{Searcher, Video, Writer};

use crate::cli::FOUND_NOTHING;
use crate::cli::args::IndexFolderArgs;
use crate::cli::terminal::{count, note, print_line};
use crate::collection::{Collection, CollectionState, video_path};
use crate::ingest;

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Videos to remove: paths of files or folders, which may be gone, or ids
    #[arg(required = true, value_name = "VIDEO")]
    videos: Vec<PathBuf>,
    #[command(flatten)]
    folder: IndexFolderArgs,
}

pub(crate) fn run(args: &RemoveArgs) -> anyhow::Result<ExitCode> {
    let collection = Collection::open_for_writing(&args.folder.index)?;
    let kind = collection.kind_for_writing()?;
    // The writer is opened before the index is read, so that no other process writes in between.
    let writer = collection.writer()?;
    let searcher = collection.searcher()?;
    let known = searcher.videos()?;
    let mut removed = BTreeSet::new();
    for named in &args.videos {
        let found = find(&known, named);
        if found.is_empty() {
            note!("{}: not in the index (`reelseek info --videos` lists the videos)", named.display());
        }
        removed.extend(found.into_iter().map(|video| &video.id));
    }
    remove(&collection, writer, &searcher, &removed)?;
    if let Some(kind) = kind {
        remove(&kind, kind.writer()?, &kind.searcher()?, &removed)?;
    }
    print_line!(
        std::io::stdout(),
        "{} removed from the index; no video file was touched",
        count(removed.len(), "video")
    )?;
    Ok(if removed.is_empty() { ExitCode::from(FOUND_NOTHING) } else { ExitCode::SUCCESS })
}

/// Removes videos from one space.
fn remove(
    space: &Collection,
    mut writer: Writer,
    before: &Searcher,
    ids: &BTreeSet<&String>,
) -> Result<(), ingest::Error> {
    ids.iter().try_for_each(|id| writer.remove(id).map(drop))?;
    writer.commit()?;
    // The calibration was measured on the removed videos too.
    ingest::calibrate(space, &mut writer, CollectionState::of(before), None)?;
    Ok(writer.close()?)
}

/// The video with this path or id, or else all videos in the folder with this path. The file or the folder
/// may be gone.
fn find<'a>(known: &'a [Video], named: &Path) -> Vec<&'a Video> {
    let (id, full) = (named.to_string_lossy(), ingest::resolved(named));
    let is_named = |video: &&Video| video.id == id || [&*full, named].contains(&&*video_path(video));
    let exact: Vec<&Video> = known.iter().filter(is_named).collect();
    match exact.is_empty() {
        true => known.iter().filter(|video| video_path(video).starts_with(&full)).collect(),
        false => exact,
    }
}
