//! Request bodies in the OpenAPI document, made from the struct that parses them.

use utoipa::openapi::path::Paths;
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{
    ArrayBuilder, KnownFormat, Object, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat, Type,
};
use utoipa::openapi::{Content, RefOr, Required};
use utoipa_axum::router::UtoipaMethodRouter;

use crate::serve::api::params::{RequestParams, without_null};
use crate::serve::api::request::SearchRequest;
use crate::serve::limits::MAX_BATCH_QUERIES;

/// Sets the request body of the operations of a route.
pub(crate) fn with_body<S: Clone + Send + Sync + 'static>(
    (schemas, mut paths, router): UtoipaMethodRouter<S>,
    body: RequestBody,
) -> UtoipaMethodRouter<S> {
    set_body(&mut paths, &body);
    (schemas, paths, router)
}

fn set_body(paths: &mut Paths, body: &RequestBody) {
    for operation in paths.paths.values_mut().filter_map(|item| item.post.as_mut()) {
        operation.request_body = Some(RefOr::T(body.clone()));
    }
}

/// Body of `POST /v1/search`: a picture, a form, or JSON with a vector or a URL.
pub(crate) fn search_body() -> RequestBody {
    let json = OneOfBuilder::new().item(json_with("vector", is_option)).item(json_with("url", is_option));
    body([
        ("image/jpeg", binary()),
        ("image/png", binary()),
        ("application/octet-stream", binary()),
        ("multipart/form-data", form(|name| name == "url" || is_option(name), ("image", binary()), false)),
        ("application/json", json.into()),
    ])
}

/// Body of `POST /v1/search/batch`: a form with several pictures, or JSON with several vectors or URLs.
pub(crate) fn batch_body() -> RequestBody {
    let of = |items: Schema| -> Schema {
        ArrayBuilder::new().items(RefOr::T(items)).min_items(Some(1)).max_items(Some(MAX_BATCH_QUERIES)).into()
    };
    let query = OneOfBuilder::new().item(json_with("vector", |_| false)).item(json_with("url", |_| false));
    let mut json = SearchRequest::object(is_option);
    json.properties.insert("queries".into(), RefOr::T(of(query.into())));
    json.required.push("queries".into());
    body([
        ("multipart/form-data", form(is_option, ("image", of(binary())), true)),
        ("application/json", Schema::Object(json)),
    ])
}

/// Body of trace.moe's `POST /search`: a picture or a form.
pub(crate) fn picture_body() -> RequestBody {
    body([
        ("image/jpeg", binary()),
        ("application/octet-stream", binary()),
        ("multipart/form-data", form(|name| name == "url", ("image", binary()), false)),
    ])
}

fn body<const N: usize>(contents: [(&str, Schema); N]) -> RequestBody {
    let body = RequestBodyBuilder::new().required(Some(Required::True));
    contents.into_iter().fold(body, |body, (kind, schema)| body.content(kind, Content::new(Some(schema)))).build()
}

fn is_option(name: &str) -> bool {
    !SearchRequest::BODY_ONLY.contains(&name)
}

/// A picture's file, such as JPEG, PNG, WebP, HEIC, AVIF or GIF, or a video.
fn binary() -> Schema {
    ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary))).into()
}

/// A JSON object that must have one field, and may have others.
fn json_with(field: &str, may_have: impl Fn(&str) -> bool) -> Schema {
    let mut object = SearchRequest::object(|name| name == field || may_have(name));
    if let Some(schema) = object.properties.get_mut(field) {
        *schema = without_null(schema.clone());
    }
    object.required.push(field.to_owned());
    Schema::Object(object)
}

/// A form with text fields and a field of files.
fn form(text: impl Fn(&str) -> bool, (name, file): (&str, Schema), is_required: bool) -> Schema {
    let Object { properties, .. } = SearchRequest::object(text);
    let texts = properties.into_iter().map(|(name, schema)| (name, without_null(schema)));
    let form = texts.fold(ObjectBuilder::new(), |form, (name, schema)| form.property(name, schema));
    let form = form.property(name, file);
    if is_required { form.required(name) } else { form }.into()
}
