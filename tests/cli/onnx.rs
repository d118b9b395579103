//! An encoder of somebody's own: what an index remembers of it, and what is said when it is not there.

use super::*;

/// A network that `tests/reference/tiny_onnx.py` made, 12 x 8 pixels to 5 numbers, and its description.
fn encoder(place: &Place) -> String {
    std::fs::write(place.path("tiny.onnx"), include_bytes!("../reference/tiny.onnx")).unwrap();
    std::fs::write(place.path("tiny.json"), r#"{"shorter": 12, "rate_hz": 4.0}"#).unwrap();
    format!("onnx:{}", place.path("tiny.onnx").display())
}

#[test]
fn an_index_remembers_an_onnx_encoder() {
    let place = Place::with_clips();
    let encoder = encoder(&place);
    let indexed = place.index(&["--encoder", &encoder]);
    assert_eq!(indexed.last().unwrap()["indexed"], 3);
    // Nothing has to be said again, neither to search nor to go on.
    let picture = place.frame("bars.avi", "5", "query.png");
    let (code, reply) = place.search(&picture, &[]);
    assert_eq!(code, Some(0), "{reply}");
    assert_eq!(reply["results"][0]["title"], "bars", "{reply}");
    assert_eq!(place.index(&[]).last().unwrap()["unchanged"], 3);
    let info: Value = serde_json::from_slice(&place.run(&["info", "--json"]).stdout).unwrap();
    let id = info["attributes"]["encoder"].as_str().unwrap();
    assert!(id.starts_with("onnx:tiny/1+"), "{id}");

    // Moved elsewhere: the error names the file and the way out.
    std::fs::create_dir(place.path("moved")).unwrap();
    for file in ["tiny.onnx", "tiny.json"] {
        std::fs::rename(place.path(file), place.path("moved").join(file)).unwrap();
    }
    let output = place.run(&["search", picture.to_str().unwrap()]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(told.contains("tiny.onnx: ") && told.contains("--weights FILE"), "{told}");
    let moved = place.path("moved/tiny.onnx");
    assert_eq!(place.search(&picture, &["--weights", moved.to_str().unwrap()]).0, Some(0));

    // Another description makes other features.
    std::fs::write(place.path("moved/tiny.json"), "{}").unwrap();
    let output = place.run(&["search", picture.to_str().unwrap(), "--weights", moved.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains(&format!("the index needs the encoder {id}, but onnx:tiny/1+")));
}

#[test]
fn an_onnx_encoder_that_is_none_is_told() {
    let place = Place::with_clips();
    let videos = place.videos();
    for (file, told) in [("tiny.onnx", "tiny.json: "), ("none.onnx", "none.onnx: ")] {
        let encoder = encoder(&place);
        std::fs::remove_file(place.path("tiny.json")).unwrap();
        let encoder = encoder.replace("tiny.onnx", file);
        let output = place.run(&["index", videos.to_str().unwrap(), "--encoder", &encoder]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(told), "{}", text(&output.stderr));
        assert!(!place.path("index").exists());
    }
}
