//! Indexes with sketches.

use reelseek_index::{Index, IndexSettings};

use crate::support::{CELLS, TestFolder};

#[test]
fn a_changed_sidecar_keeps_the_sketches() {
    let folder = TestFolder::new();
    folder.clip(CELLS, 12, "cells.mkv");
    folder.index(&[]);
    // A second index of the same videos, with sketches.
    let (dir, copy) = (folder.path("index"), folder.path("copy"));
    let sketches = {
        let index = Index::open(&dir).unwrap();
        let searcher = index.searcher().unwrap();
        let settings = IndexSettings { sketch: 3, ..index.settings().clone() };
        let mut writer = Index::create(&copy, &settings).unwrap().writer().unwrap();
        let number = searcher.video_numbers()[0];
        let (spans, vectors) = searcher.rows_of(number).unwrap().unwrap();
        let sketches: Vec<u8> = (0..3 * spans.len()).map(|i| i as u8).collect();
        writer.put(searcher.video(number).unwrap(), &spans, &vectors, &sketches).unwrap();
        writer.set_state(searcher.state().unwrap().clone());
        writer.commit().unwrap();
        writer.close().unwrap();
        sketches
    };
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::rename(&copy, &dir).unwrap();

    folder.sidecar("cells.mkv", r#"{"title":"Life of cells"}"#);
    assert_eq!(folder.index(&[]).last().unwrap()["indexed"], 1);
    let searcher = Index::open(&dir).unwrap().searcher().unwrap();
    let number = searcher.video_numbers()[0];
    assert_eq!(searcher.video(number).unwrap().title, "Life of cells");
    assert!(!sketches.is_empty());
    assert_eq!(searcher.sketches_of(number).unwrap().unwrap(), sketches);
}
