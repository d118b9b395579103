//! The OpenAPI document.

use super::*;
use serde_json::json;

#[test]
fn the_openapi_document_has_every_route_and_its_errors() {
    run(async {
        let server = Server::new();
        let document = server.get("/openapi.json").await.json();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
        let text = document.to_string();
        for (at, name) in text.match_indices("\"$ref\":\"#").map(|(at, name)| (at + name.len(), name)) {
            let pointer = text[at..].split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{name}{pointer} leads nowhere");
        }
        let paths = document["paths"].as_object().unwrap();
        for path in [
            "/v1/search",
            "/v1/search/batch",
            "/v1/info",
            "/v1/session",
            "/search",
            "/me",
            "/healthz",
            "/readyz",
            "/metrics",
        ] {
            assert!(paths.contains_key(path), "{path}");
        }
        for (path, schemes) in [
            ("/v1/thumbnail", ["bearer", "cookie", "link"].as_slice()),
            ("/v1/preview", &["bearer", "cookie", "link"]),
            ("/v1/media/{id}", &["bearer", "cookie", "link"]),
            ("/search", &["bearer", "cookie", "trace_header", "trace_query"]),
            ("/me", &["bearer", "cookie", "trace_header", "trace_query"]),
        ] {
            let security = document["paths"][path]["get"]["security"].as_array().unwrap();
            let names: Vec<&String> = security.iter().flat_map(|one| one.as_object().unwrap().keys()).collect();
            assert_eq!(names, schemes, "{path}");
            assert!(schemes.iter().all(|scheme| document["components"]["securitySchemes"][scheme].is_object()));
        }
        for (path, item) in paths {
            for (method, operation) in item.as_object().unwrap() {
                let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap();
                let answers = operation["responses"].as_object().unwrap();
                assert!(
                    answers.contains_key("403") && answers.keys().any(|status| status.starts_with('2')),
                    "{method} {path}"
                );
                let reply = server.send(request(method.clone(), path).body(Body::empty()).unwrap()).await;
                assert_ne!(reply.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
                // Every operation with a body documents these errors.
                if operation.get("requestBody").is_some() {
                    assert!(
                        ["408", "413", "429"].iter().all(|status| answers.contains_key(*status)),
                        "{method} {path}"
                    );
                }
                let documented = answers.contains_key(reply.status.as_str());
                assert!(documented, "{method} {path} answers {}, which is not in the document", reply.status);
            }
        }
    });
}

/// The document states the ranges that the parser checks, and the fields that it takes.
#[test]
fn the_openapi_document_describes_the_parameters_of_every_kind_of_search() {
    run(async {
        let document = Server::new().get("/openapi.json").await.json();
        let operation = &document["paths"]["/v1/search"]["post"];
        let options = ["crop", "ef", "exact", "filter", "group", "match", "min_confidence", "skip", "top", "whole"];
        let mut parameters: Vec<&Value> = operation["parameters"].as_array().unwrap().iter().collect();
        parameters.sort_by_key(|parameter| parameter["name"].as_str());
        let names: Vec<&Value> = parameters.iter().map(|parameter| &parameter["name"]).collect();
        assert_eq!(names, options);
        assert!(parameters.iter().all(|p| p["description"].is_string() && p["required"] == false), "{parameters:?}");
        let top = &parameters[8]["schema"];
        assert_eq!((&top["type"], &top["minimum"], &top["maximum"]), (&"integer".into(), &1.into(), &100.into()));
        assert_eq!(parameters[4]["schema"]["enum"], json!(["video", "moment"]));
        assert_eq!(parameters[5]["schema"]["enum"], json!(["scene", "kind", "both"]));

        let contents = &operation["requestBody"]["content"];
        let fields =
            |schema: &Value| -> Vec<String> { schema["properties"].as_object().unwrap().keys().cloned().collect() };
        let form = &contents["multipart/form-data"]["schema"];
        assert_eq!(fields(form).len(), options.len() + 2, "{form}");
        assert_eq!(form["properties"]["top"]["type"], "integer");
        let json_bodies = contents["application/json"]["schema"]["oneOf"].as_array().unwrap();
        assert_eq!(json_bodies[0]["properties"]["vector"]["maxItems"], 16_384);
        for (body, field) in json_bodies.iter().zip(["vector", "url"]) {
            assert_eq!((&body["required"], &body["additionalProperties"]), (&json!([field]), &false.into()));
            assert_eq!(fields(body).len(), options.len() + 1, "{body}");
            assert_eq!(body["properties"]["top"]["type"], json!(["integer", "null"]));
            assert!(body["properties"][field]["description"].is_string(), "{body}");
            assert_eq!(body["properties"]["top"]["maximum"], 100);
        }
        let batch =
            &document["paths"]["/v1/search/batch"]["post"]["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(
            (&batch["required"], &batch["properties"]["queries"]["maxItems"]),
            (&json!(["queries"]), &32.into())
        );
        let result = &document["components"]["schemas"]["SearchResult"];
        assert!(result["properties"]["evidence"].is_object());
        let referred = |property: &Value| document.pointer(&property["$ref"].as_str().unwrap()[1..]).unwrap();
        assert_eq!(referred(&result["properties"]["match"])["enum"], json!(["scene", "kind"]));
        // A search with a vector has no region.
        let is_optional = |name| !result["required"].as_array().unwrap().contains(&name);
        for name in ["region", "turn", "mirrored"] {
            assert!(result["properties"][name]["description"].is_string() && is_optional(json!(name)), "{result}");
        }
        // The result of the API is the one of the command line, with links.
        let linked = &document["components"]["schemas"]["LinkedSearchResult"];
        assert_eq!(linked["allOf"][0]["$ref"], "#/components/schemas/SearchResult", "{linked}");
        assert!(linked["allOf"][1]["properties"]["thumbnail"].is_object(), "{linked}");
        let reason = &document["components"]["schemas"]["EmptyReason"];
        assert_eq!(reason["required"], json!(["code", "message"]), "{reason}");
        let codes = referred(&reason["properties"]["code"])["enum"].as_array().unwrap();
        assert!(codes.contains(&json!("no_match_for_filter")) && codes.len() == 7, "{reason}");
        let busy = &document["components"]["responses"]["Error429"];
        assert!(busy["headers"]["Retry-After"].is_object() && busy["description"].is_string(), "{busy}");
    });
}
