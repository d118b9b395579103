use proptest::prelude::*;

use super::*;

fn query(body: SearchRequest) -> Result<SearchQuery, ApiError> {
    SearchQuery::new(body.vector, body.url)
}

fn refusal(text: &str) -> String {
    parse_json(text.as_bytes()).err().unwrap_or_else(|| panic!("{}", &text[..text.len().min(80)])).message
}

#[test]
fn json_gives_the_query_and_the_options() {
    let body = parse_json(br#" {"vector":[1,2.5e0,-3],"top":7,"skip":null,"group":"moment"}"#).unwrap();
    assert_eq!((body.top, body.skip, body.queries.is_none()), (Some(7), None, true));
    assert!(matches!(query(body), Ok(SearchQuery::Vector(v)) if v == [1.0, 2.5, -3.0]));
    let body = parse_json(br#"{"queries":[{"vector":[1]},{"url":"http://a.org/"}]}"#).unwrap();
    assert_eq!((body.queries.map(|q| q.0.len()), body.vector.is_none(), body.url), (Some(2), true, None));
}

/// The text after the limit is not JSON. A parser that read it would report a syntax error instead.
#[test]
fn a_list_that_is_too_long_is_not_read_to_its_end() {
    let numbers = format!("{{\"vector\":[{}nonsense", "0,".repeat(MAX_VECTOR_NUMBERS + 1));
    assert!(refusal(&numbers).contains("at most 16384 elements"), "{}", refusal(&numbers));
    let queries = format!("{{\"queries\":[{}nonsense", "{\"vector\":[0]},".repeat(MAX_BATCH_QUERIES + 1));
    assert!(refusal(&queries).contains("at most 32 elements"), "{}", refusal(&queries));
    let other = format!("{{\"other\":[{}nonsense", "0,".repeat(9));
    assert!(refusal(&other).contains("unknown field `other`"), "{}", refusal(&other));
}

#[test]
fn rejects_duplicate_fields_and_lists_instead_of_objects() {
    assert!(refusal(r#"{"vector":[1],"vector":[2]}"#).contains("duplicate field `vector`"));
    assert!(refusal(r#"{"queries":[{"url":"a","url":"b"}]}"#).contains("duplicate field `url`"));
    assert!(refusal("[[1],null,null,null,null,null,null,null,null,null]").contains("expected a JSON object"));
    assert!(refusal(r#"{"queries":[[[1],null]]}"#).contains("expected a JSON object"));
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused_with_400(text in "\\PC{0,200}|\\{(\"(vector|url|top|ef|queries)\":[-0-9.e\\[\\]{}\",a-z]{0,20},?){0,5}\\}?") {
        if let Err(error) = parse_json(text.as_bytes()) {
            prop_assert_eq!(error.status, StatusCode::BAD_REQUEST);
        }
    }

    #[test]
    fn options_within_their_ranges_are_kept_and_others_refused(top in 0_u32..200, skip in 0_u32..20_000, ef in 0_u32..200_000, confidence in -1.0_f64..2.0) {
        let body = serde_json::json!({ "vector": [1.0], "top": top, "skip": skip, "ef": ef, "min_confidence": confidence });
        let valid = (1..=100).contains(&top) && skip <= 10_000 && (1..=100_000).contains(&ef) && (0.0..=1.0).contains(&confidence);
        // The text fields of a form, and the query string, pass the same checks.
        let form = SearchForm {
            texts: body.as_object().unwrap().iter().filter(|(name, _)| *name != "vector").map(|(name, value)| (name.clone(), value.to_string())).collect(),
            ..SearchForm::default()
        };
        for parsed in [parse_json(body.to_string().as_bytes()), form.request()] {
            prop_assert_eq!(parsed.is_ok(), valid);
            if let Ok(request) = parsed {
                let options = request.options(SearchRequest::default()).search;
                prop_assert_eq!((options.top, options.skip), (top as usize, skip as usize));
                prop_assert!(matches!(options.effort, Effort::Ef(found) if found == ef as usize));
            }
        }
    }

    #[test]
    fn a_vector_keeps_its_numbers(vector in prop::collection::vec(-1e30_f32..1e30, 0..300)) {
        let body = serde_json::json!({ "vector": vector }).to_string();
        let SearchQuery::Vector(parsed) = query(parse_json(body.as_bytes()).unwrap()).unwrap() else { panic!("no vector") };
        prop_assert_eq!(parsed, vector);
    }
}
