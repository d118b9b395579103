//! Filters: the syntax, and random filters.

use proptest::prelude::*;
use reelseek_index::{Effort, Error, FILTER_SYNTAX, Searcher, Video};
use serde_json::json;

use crate::support::*;

#[test]
fn filters_select_the_right_videos() {
    let (_folder, index) = fresh();
    let mut writer = index.writer().unwrap();
    let all = [
        Video {
            path: "/films/Holiday-2024/beach_01.mp4".into(),
            title: "Surfing at dawn".into(),
            labels: vec!["surfing".into(), "sea".into()],
            duration_ms: 15_000,
            size_bytes: 1000,
            extra: json!({"camera": "GoPro", "year": 2024, "place": {"town": "Biarritz"}}),
            ..video("a")
        },
        Video {
            title: "The wall".into(),
            labels: vec!["rock climbing".into()],
            duration_ms: 90_000,
            size_bytes: 5000,
            extra: json!({"camera": "sony", "year": 2019, "long": "x".repeat(200_000) + " needle"}),
            ..video("b")
        },
        Video {
            labels: vec!["rock".into(), "climbing".into()],
            duration_ms: 30_000,
            extra: json!("loose words"),
            ..video("c")
        },
    ];
    for (i, video) in all.into_iter().enumerate() {
        writer.put(video, &spans(2), &vectors(2, i as u64), &[]).unwrap();
    }
    writer.commit().unwrap();
    let searcher = index.searcher().unwrap();
    let matches = |query: &str| -> String {
        let set = searcher.filter(query).unwrap_or_else(|error| panic!("{query}: {error}"));
        assert_eq!(set.iter().count(), set.len());
        set.iter().map(|number| searcher.video(number).unwrap().id).collect()
    };
    for (query, expected) in [
        ("", "abc"),
        ("  ", "abc"),
        ("*", "abc"),
        ("path:holiday", "a"),
        ("path:films", "abc"),
        ("path:beach", "a"),
        ("title:\"at dawn\"", "a"),
        ("surfing", "a"),
        ("SURFING dawn", "a"),
        ("surfing wall", ""),
        ("surfing OR wall", "ab"),
        ("films -wall", "ac"),
        ("label:surfing", "a"),
        ("label:\"rock climbing\"", "b"),
        ("label:rock", "bc"),
        ("label_exact:\"rock climbing\"", "b"),
        ("id:c", "c"),
        ("duration:[10 TO 60]", "ac"),
        ("duration:>30", "b"),
        ("duration:>=30", "bc"),
        ("duration:<15.5", "a"),
        ("size:>=1000 AND NOT size:5000", "a"),
        ("NOT surfing", "bc"),
        ("-surfing", "bc"),
        ("surfing OR NOT films", "a"),
        ("surfing OR (NOT wall)", "ac"),
        ("extra.camera:gopro", "a"),
        ("extra.place.town:biarritz", "a"),
        ("extra.year:2019", "b"),
        ("extra.year:[2020 TO 2030]", "a"),
        ("biarritz", "a"),
        ("needle", "b"),
        ("loose", "c"),
    ] {
        assert_eq!(matches(query), expected, "{query}");
    }
    let too_deep = "(".repeat(5000);
    let too_long = "a ".repeat(9000);
    for query in
        ["colour:red", "duration:[a TO b]", "duration:long", "title:\"open", "(", ")", "AND", &too_deep, &too_long]
    {
        if let Err(error) = searcher.filter(query) {
            let text = error.to_string();
            assert!(matches!(error, Error::Filter { .. }) && text.contains(FILTER_SYNTAX), "{query}: {text}");
        }
    }
    assert!(searcher.filter("colour:red").unwrap_err().to_string().contains("colour"));
    assert!(searcher.filter(&too_deep).is_err() && searcher.filter(&too_long).is_err());

    let only = searcher.filter("label:surfing").unwrap();
    let hits = searcher.search(&vectors(1, 9), 10, Some(&only), Effort::Default).unwrap();
    assert_eq!(hits.len(), 2);
    assert!(hits.iter().all(|hit| only.contains(hit.video)));
}

/// Pieces of filters: syntax, fields, values and arbitrary text.
fn piece() -> impl Strategy<Value = String> {
    const PIECES: [&str; 32] = [
        " ",
        "AND",
        "OR",
        "NOT",
        "-",
        "+",
        "(",
        ")",
        "\"",
        "[",
        "]",
        "{",
        "}",
        "TO",
        ":",
        ">",
        "<=",
        "*",
        "^",
        "~",
        "\\",
        "/",
        "path",
        "title",
        "label_exact",
        "duration",
        "size",
        "extra.camera",
        "id:a",
        "7",
        "-1e999",
        "IN [",
    ];
    prop_oneof![4 => proptest::sample::select(&PIECES[..]).prop_map(str::to_owned), 1 => ".{0,8}"]
}

fn searcher() -> Searcher {
    let (_folder, index) = fresh();
    let mut writer = index.writer().unwrap();
    for id in ["a", "b", "c"] {
        let extra = json!({"camera": id, "n": id.len()});
        let video = Video { title: format!("title of {id}"), labels: vec![id.into()], extra, ..video(id) };
        writer.put(video, &spans(1), &vectors(1, 1), &[]).unwrap();
    }
    writer.commit().unwrap();
    index.searcher().unwrap()
}

#[test]
fn any_filter_gives_live_videos_or_an_error_with_the_syntax() {
    let searcher = searcher();
    let numbers = searcher.video_numbers();
    proptest!(|(pieces in proptest::collection::vec(piece(), 0..24))| {
        let filter = pieces.concat();
        match searcher.filter(&filter) {
            Ok(set) => prop_assert!(set.iter().all(|number| numbers.contains(&number)), "{}", filter),
            Err(Error::Filter { query, reason }) => {
                prop_assert!(query.chars().count() <= 200 && !reason.is_empty(), "{}", filter);
            }
            Err(error) => prop_assert!(false, "{filter}: {error}"),
        }
    });
}

#[test]
fn a_quoted_id_selects_exactly_its_video() {
    let (_folder, index) = fresh();
    proptest!(ProptestConfig::with_cases(64), |(id in "[^\"\\\\]{1,40}", others in proptest::collection::vec("[a-z ]{1,8}", 0..4))| {
        prop_assume!(!others.contains(&id));
        let mut writer = index.writer().unwrap();
        for id in others.iter().chain([&id]) {
            put(&mut writer, id, 1, 1);
        }
        writer.commit().unwrap();
        writer.close().unwrap();
        let searcher = index.searcher().unwrap();
        let found: Vec<_> = searcher.filter(&format!("id:\"{id}\"")).unwrap().iter().collect();
        prop_assert_eq!(found, vec![searcher.number_of(&id).unwrap().unwrap()]);
    });
}
