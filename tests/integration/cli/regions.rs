//! Parts of pictures: found by the search, or named by a crop.

use super::*;

#[test]
fn finds_the_frame_inside_of_a_screenshot() {
    let folder = TestFolder::with_clips();
    folder.index(&["--match", "scene"]);
    let app = "scale=540:304,pad=540:1170:0:380:white,drawbox=20:40:60:40:black:fill,drawbox=20:720:400:14:gray:fill,\
               drawbox=20:760:300:14:gray:fill,drawbox=20:1100:500:8:red:fill";
    let slide = "scale=320:180,pad=960:540:520:220:white,drawbox=60:40:500:40:navy:fill,drawbox=60:240:300:16:gray:fill,\
                 drawbox=60:300:360:16:gray:fill";
    for (clip, filter, turn, first, last) in [
        ("zoom.mp4", app, 0, [0.0, 380.0], [540.0, 684.0]),
        ("bars.avi", app, 0, [0.0, 380.0], [540.0, 684.0]),
        ("zoom.mp4", slide, 0, [520.0, 220.0], [840.0, 400.0]),
        ("bars.avi", "transpose=clock", 90, [0.0, 0.0], [180.0, 320.0]),
        ("bars.avi", "transpose=cclock", 270, [0.0, 0.0], [180.0, 320.0]),
    ] {
        let picture = folder.filtered_frame(clip, "7", filter, "query.png");
        let (_, reply) = folder.search(&picture, &[]);
        let best = &reply["results"][0];
        assert!(best["path"].as_str().unwrap().ends_with(&format!("videos/{clip}")), "{filter}: {reply}");
        assert_eq!(best["turn"], turn, "{filter}: {reply}");
        for (corner, expected) in [(0, first), (2, last)] {
            let [x, y] = [0, 1].map(|k| best["region"][corner][k].as_f64().unwrap() - expected[k]);
            assert!(x.hypot(y) < 30.0, "{filter}: corner {corner} of {reply}");
        }
        let (_, whole) = folder.search(&picture, &["--whole"]);
        let sure = |reply: &Value| reply["results"][0]["confidence"].as_f64().unwrap_or(0.0);
        assert!(sure(&reply) > 0.95 && sure(&reply) > sure(&whole), "{filter}: {reply} {whole}");
    }
}

#[test]
fn a_crop_finds_the_part_of_a_screenshot_and_results_name_it() {
    let folder = TestFolder::with_clips();
    folder.index(&[]);
    let screenshot = "scale=320:180,pad=360:800:20:300:white";
    let picture = folder.filtered_frame("zoom.mp4", "7", screenshot, "screenshot.png");
    let plain = folder.frame("zoom.mp4", "7", "plain.png");
    for crop in ["20,300,320,180", "5.5556%,37.5%,88.8889%,22.5%"] {
        let (code, reply) = folder.search(&picture, &["--whole", "--crop", crop]);
        let best = &reply["results"][0];
        assert!(best["path"].as_str().unwrap().ends_with("videos/zoom.mp4") && code == Some(0), "{crop}: {reply}");
        assert_eq!(best["region"], json!([[20.0, 300.0], [340.0, 300.0], [340.0, 480.0], [20.0, 480.0]]), "{reply}");
        assert_eq!((&reply["query_size"], &best["turn"]), (&json!([360, 800]), &json!(0)), "{reply}");
        assert!(best["confidence"].as_f64().unwrap() > 0.95, "{reply}");
    }
    // The table has no note if the region is all of the crop.
    let table = folder.run(&["search", picture.to_str().unwrap(), "--whole", "--crop", "20,300,320,180"]);
    assert!(text(&table.stdout).lines().nth(1).unwrap().ends_with("zoom.mp4"), "{}", output_text(&table));
    let bars = folder.filtered_frame("zoom.mp4", "7", "scale=320:180,pad=400:400:40:100", "bars.png");
    let table = text(&folder.run(&["search", bars.to_str().unwrap()]).stdout);
    assert!(table.lines().nth(1).unwrap().contains("zoom.mp4  (in the part "), "{table}");

    let names = [picture.to_str().unwrap(), plain.to_str().unwrap()];
    for (crop, message) in [
        ("1,2,3", "expected a crop X,Y,W,H in pixels"),
        ("0,0,0,10", "is empty"),
        ("0,0,1%,0.01%", "is empty"),
        ("0,0,400,10", "ends at 400 x 10: expected a part of the picture, which has 360 x 800 pixels"),
    ] {
        let output = folder.run(&["search", names[0], "--crop", crop]);
        assert_eq!(output.status.code(), Some(2), "{crop}");
        assert!(text(&output.stderr).contains(message), "{crop}: {}", text(&output.stderr));
    }
    // Each picture has its crop: this one is outside of the second.
    let lines = json_lines(&folder.run(&["search", "--json", "--crop", "0,300,300,200", names[0], names[1]]));
    assert!(lines[0]["results"].is_array(), "{lines:?}");
    assert!(lines[1]["error"].as_str().unwrap().contains("plain.png: the crop 0,300,300,200"), "{lines:?}");
}
