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
        ("NOT NOT surfing", "a"),
        ("NOT (NOT (NOT surfing))", "bc"),
        ("films -(-(wall))", "b"),
        ("films -(wall OR -surfing)", "a"),
        ("NOT (surfing OR wall)", "c"),
        ("(surfing wall) OR (films -surfing -wall)", "c"),
        ("+films surfing", "a"),
        ("surfing^2 OR wall^0.5", "ab"),
        ("title:(at dawn) OR label:(rock -climbing)", "a"),
        ("id: IN [a c nothing]", "ac"),
        ("extra.year:[2018 TO 2020.5]", "b"),
        ("extra.year:[2018.5 TO 2030]", "ab"),
        ("extra.year:{2019 TO 99999999999999999999]", "a"),
        ("extra.year:[1e3 TO 2019]", "b"),
        ("extra.year:[1990 TO q000]", ""),
        ("extra.camera:[goo TO 5000]", ""),
        ("extra.camera: IN [gopro]", "a"),
        ("extra.place.town:*", "a"),
        ("title:[su TO sv]", "a"),
        ("\"at dusk dawn\"~2", ""),
        ("\"surfing dawn\"~1", "a"),
        ("\"at da\"*", "a"),
        ("surfing \"...\"", "a"),
        ("NOT surfing \"...\"", "bc"),
        ("\"...\"", ""),
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
    for field in ["extra.\0a", "extra.a\u{1}b", "extra.\u{7f}", "\0"] {
        for value in [":x", ":[1 TO 2]", ":*", ": IN [a b]", ":\"a b\"*"] {
            let error = searcher.filter(&format!("{field}{value}")).unwrap_err();
            assert!(matches!(&error, Error::Filter { .. }), "{field:?}{value}: {error}");
        }
    }
    for pair in
        ["true TO 5", "2020-01-01T00:00:00Z TO 7", "a TO true", "-1 TO 99999999999999999999", "1e400 TO 5", "nan TO 1"]
    {
        let found = searcher.filter(&format!("extra.year:[{pair}]"));
        assert!(matches!(found, Ok(_) | Err(Error::Filter { .. })), "{pair}: {found:?}");
    }
    for (query, reason) in [
        ("colour:red", "there is no field 'colour'."),
        ("duration:[a TO b]", "expected a number."),
        ("size:>x", "expected a whole number."),
        ("title:/a.*/", "regular expressions, as in /a.*/, are not supported; quote text that contains /."),
        ("\"a\"*", "expected at least two words in a phrase that ends in *."),
    ] {
        let error = searcher.filter(query).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot understand the filter '{query}': {reason}\n")), "{error}");
    }
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

/// Runs a test with the stack of a small thread.
fn on_a_small_stack(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(test).unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Why a filter is refused; `None` if it is not.
fn refusal(searcher: &Searcher, filter: &str) -> Option<String> {
    match searcher.filter(filter) {
        Ok(_) => None,
        Err(Error::Filter { reason, .. }) => Some(reason),
        Err(error) => panic!("{filter}: {error}"),
    }
}

/// Ways to put a filter into a filter: the text before it and the text after it.
const NESTINGS: [(&str, &str); 15] = [
    ("w -(", ")"),
    ("w (", ")"),
    ("w AND (", ")"),
    ("w OR (", ")"),
    ("w AND NOT (", ")"),
    ("w OR NOT (", ")"),
    ("w OR (w AND ", ")"),
    ("+w +(", ")"),
    ("-(w ", ")"),
    ("title:(w ", ")"),
    ("w (w ", ")^2"),
    ("w\t-(\n", "\t)"),
    ("w (\"a b\" ", ")"),
    ("(duration:>1 OR ", ")"),
    ("w AND (extra.n:* OR ", ")"),
];

#[test]
fn nesting_is_limited_for_every_operator() {
    on_a_small_stack(|| {
        let searcher = searcher();
        for (before, after) in NESTINGS {
            let nested = |levels: usize| format!("{}a{}", before.repeat(levels), after.repeat(levels));
            assert_eq!(refusal(&searcher, &nested(2)), None, "{before}");
            let openings = before.matches("NOT ").count() + 1;
            let reason = refusal(&searcher, &nested(60 / openings)).unwrap();
            let expected = if before.contains('\t') { "32 tabs and line ends" } else { "32 nested levels" };
            assert!(reason.starts_with(&format!("expected at most {expected}, found ")), "{before}: {reason}");
            let reason = refusal(&searcher, &nested(8000 / (before.len() + after.len()))).unwrap();
            assert!(
                reason.starts_with("expected at most 64 opening parentheses and NOTs, found "),
                "{before}: {reason}"
            );
        }
        let levels = |count: usize| format!("{}a{}", "w -(".repeat(count), ")".repeat(count));
        assert_eq!(refusal(&searcher, &levels(33)), None);
        assert_eq!(refusal(&searcher, &levels(34)).unwrap(), "expected at most 32 nested levels, found 33");
    });
}

#[test]
fn pairs_of_negations_cancel() {
    on_a_small_stack(|| {
        let searcher = searcher();
        let (all, one) = (searcher.filter("*").unwrap(), searcher.filter("label:a").unwrap());
        for (before, after, most) in [("NOT ", "", 64), ("-(", ")", 64), ("NOT (", ")", 32)] {
            for count in [1, 2, 31, 32, 33, 63, 64].into_iter().filter(|count| *count <= most) {
                let filter = format!("{}label:a{}", before.repeat(count), after.repeat(count));
                let expected = if count % 2 == 0 { one.len() } else { all.len() - one.len() };
                assert_eq!(searcher.filter(&filter).unwrap().len(), expected, "{filter}");
            }
            let filter = format!("{}label:a{}", before.repeat(most + 1), after.repeat(most + 1));
            assert!(refusal(&searcher, &filter).unwrap().contains("expected at most 64 opening"), "{before}");
        }
        let filter = "NOT ".repeat(1900) + "a";
        let expected = "expected at most 64 opening parentheses and NOTs, found 1900";
        assert_eq!(refusal(&searcher, &filter).unwrap(), expected);
    });
}

#[test]
fn the_number_of_words_is_limited_for_every_operator() {
    on_a_small_stack(|| {
        let searcher = searcher();
        let repeated = |count: usize, between: &str, piece: &dyn Fn(usize) -> String| {
            (0..count).map(piece).collect::<Vec<_>>().join(between)
        };
        for (between, before, after) in [
            (" ", "w", ""),
            (" AND ", "w", ""),
            (" OR ", "w", ""),
            (" ", "-w", ""),
            (" ", "+w", ""),
            (" AND NOT ", "w", ""),
            (" ", "title:w", ""),
            (" ", "extra.camera:w", ""),
            (" ", "\"w", "\""),
            (" ", "'w", "'"),
            (" ", "w", "^2"),
            (" ", "duration:>", ""),
            (" OR ", "size:[1 TO ", "]"),
            (" OR ", "extra.n:{0 TO ", "}"),
        ] {
            let filter = |count| repeated(count, between, &|i| format!("{before}{i}{after}"));
            if !between.contains("NOT") {
                assert_eq!(refusal(&searcher, &filter(128)), None, "{between}{before}");
            }
            let reason = refusal(&searcher, &filter(150)).unwrap();
            assert!(reason.starts_with("expected at most "), "{between}{before}: {reason}");
            assert!(refusal(&searcher, &filter(8000 / (between.len() + before.len() + after.len() + 4))).is_some());
        }
        let set = |count| format!("id: IN [{}]", repeated(count, " ", &|i| format!("v{i}")));
        assert_eq!(refusal(&searcher, &set(128)), None);
        assert_eq!(refusal(&searcher, &set(129)).unwrap(), "expected at most 128 words, found 129");
        // The tokenizer makes a phrase of a word with punctuation.
        let phrase = |between: &str, count| repeated(count, between, &|i| format!("w{i}"));
        for between in [".", "-", "_", "\\ "] {
            assert_eq!(refusal(&searcher, &phrase(between, 100)), None);
            let reason = refusal(&searcher, &phrase(between, 150)).unwrap();
            assert_eq!(reason, "expected at most 128 words, found 150", "{between}");
            assert!(refusal(&searcher, &phrase(between, 1200)).is_some());
        }
        assert!(refusal(&searcher, "\"a b\"~33").unwrap().contains("32"));
        let broad = repeated(9, " OR ", &|i| format!("path:[{i} TO z]"));
        assert!(refusal(&searcher, &broad).unwrap().contains("ranges of words"));
        assert!(refusal(&searcher, &"a\t".repeat(4000)).unwrap().contains("parts between white space"));
    });
}

#[test]
fn any_nesting_of_any_operators_is_answered_or_refused() {
    const REPEATED: [&str; 21] = [
        "NOT (w ",
        "NOT ",
        "-",
        "+",
        "- ",
        "(",
        "a AND ",
        "a OR ",
        "a AND NOT ",
        "a:",
        "[",
        "{",
        "\"",
        "'",
        "a^",
        "IN [",
        "\"a b\"~2 ",
        "\"a b\"*",
        "title:(",
        "a\t",
        "/a/ ",
    ];
    let layer = prop_oneof![
        proptest::sample::select(&NESTINGS[..]),
        proptest::sample::select(&REPEATED[..]).prop_map(|before| (before, "")),
    ];
    let layers = proptest::collection::vec((layer, prop_oneof![1..6usize, 1..2000usize]), 1..6);
    on_a_small_stack(move || {
        let searcher = searcher();
        let numbers = searcher.video_numbers();
        proptest!(|(layers in layers)| {
            let mut filter = "label:a".to_owned();
            for ((before, after), count) in layers {
                for _ in 0..count {
                    if filter.len() + before.len() + after.len() > 8192 {
                        break;
                    }
                    filter = format!("{before}{filter}{after}");
                }
            }
            match searcher.filter(&filter) {
                Ok(set) => prop_assert!(set.iter().all(|number| numbers.contains(&number)), "{}", filter),
                Err(Error::Filter { reason, .. }) => prop_assert!(reason.chars().count() <= 300, "{}", filter),
                Err(error) => prop_assert!(false, "{filter}: {error}"),
            }
        });
    });
}

/// A filter as a formula, to compare with.
#[derive(Debug, Clone)]
enum Formula {
    Label(u8),
    Not(Box<Formula>),
    And(Vec<Formula>),
    Or(Vec<Formula>),
}

impl Formula {
    fn matches(&self, labels: u8) -> bool {
        match self {
            Formula::Label(label) => labels >> label & 1 == 1,
            Formula::Not(inner) => !inner.matches(labels),
            Formula::And(parts) => parts.iter().all(|part| part.matches(labels)),
            Formula::Or(parts) => parts.iter().any(|part| part.matches(labels)),
        }
    }

    fn text(&self) -> String {
        let joined = |parts: &[Formula], with: &str| {
            parts.iter().map(|part| format!("({})", part.text())).collect::<Vec<_>>().join(with)
        };
        match self {
            Formula::Label(label) => format!("label:l{label}"),
            Formula::Not(inner) => format!("NOT ({})", inner.text()),
            Formula::And(parts) => joined(parts, " AND "),
            Formula::Or(parts) => joined(parts, " OR "),
        }
    }
}

#[test]
fn a_filter_matches_as_its_formula() {
    let (_folder, index) = fresh();
    let mut writer = index.writer().unwrap();
    for labels in 0..16u8 {
        let names = (0..4).filter(|label| labels >> label & 1 == 1).map(|label| format!("l{label}")).collect();
        let video = Video { labels: names, ..video(&format!("{labels}")) };
        writer.put(video, &spans(1), &vectors(1, 1), &[]).unwrap();
        if labels % 5 == 0 {
            writer.commit().unwrap(); // several segments
        }
    }
    writer.commit().unwrap();
    let searcher = index.searcher().unwrap();
    let formula = (0..4u8).prop_map(Formula::Label).prop_recursive(4, 24, 3, |inner| {
        let several = proptest::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            inner.prop_map(|inner| Formula::Not(Box::new(inner))),
            several.clone().prop_map(Formula::And),
            several.prop_map(Formula::Or),
        ]
    });
    proptest!(|(formula in formula)| {
        let found = searcher.filter(&formula.text()).unwrap();
        let found: Vec<u8> = found.iter().map(|n| searcher.video(n).unwrap().id.parse().unwrap()).collect();
        let expected: Vec<u8> = (0..16).filter(|labels| formula.matches(*labels)).collect();
        prop_assert_eq!(found, expected, "{}", formula.text());
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
