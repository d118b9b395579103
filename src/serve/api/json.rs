//! Searches that come as JSON. It is read straight into what is asked for, and no further than that can reach: a list that goes on for megabytes costs
//! neither memory nor time.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::serve::api::ask::{MAX_QUERIES, Sought};
use crate::serve::api::search::{GroupBy, Wish};
use crate::serve::error::ApiError;
use crate::serve::state::App;

/// Numbers of a vector: several times those of the longest embeddings.
const MAX_NUMBERS: usize = 16_384;
/// The largest body that is read on the threads that listen: a fraction of a millisecond. The others wait for their turn as searches do.
const HERE_BYTES: usize = 32 << 10;

/// What a body asks for.
pub(crate) struct Body {
    /// In the body itself.
    pub(crate) query: Query,
    /// Those of a batch.
    pub(crate) queries: Option<Vec<Query>>,
    pub(crate) wish: Wish,
}

/// What is sought.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Query {
    vector: Option<Numbers>,
    url: Option<String>,
}

impl Query {
    /// It, if there is anything.
    pub(crate) fn given(self) -> Option<Query> {
        (self.vector.is_some() || self.url.is_some()).then_some(self)
    }

    pub(crate) fn sought(self) -> Result<Sought, ApiError> {
        match (self.vector, self.url) {
            (Some(Numbers(vector)), None) => Ok(Sought::Vector(vector)),
            (None, Some(url)) => Ok(Sought::Url(url)),
            _ => Err(ApiError::malformed(
                "there must be either a `vector` or a `url`; a picture comes as a form, or as the body itself",
            )),
        }
    }
}

/// All fields that a body may have.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    vector: Option<Numbers>,
    url: Option<String>,
    queries: Option<Queries>,
    top: Option<usize>,
    skip: Option<usize>,
    filter: Option<String>,
    exact: Option<bool>,
    ef: Option<usize>,
    min_confidence: Option<f32>,
    group: Option<GroupBy>,
}

/// Reads a body.
///
/// # Errors
/// 400 if it is not what is expected, and as [`crate::serve::admission::gate::Gate::run`] if it is large.
pub(crate) async fn read(app: &App, bytes: Bytes) -> Result<Body, ApiError> {
    if bytes.len() <= HERE_BYTES {
        return parse(&bytes);
    }
    app.gate.run(&app.metrics, move || parse(&bytes)).await
}

fn parse(bytes: &[u8]) -> Result<Body, ApiError> {
    let Object(written) = serde_json::from_slice::<Object<Written>>(bytes)
        .map_err(|error| ApiError::malformed(format!("the body cannot be read as JSON: {error}")))?;
    let Written { vector, url, queries, top, skip, filter, exact, ef, min_confidence, group } = written;
    Ok(Body {
        query: Query { vector, url },
        queries: queries.map(|Queries(queries)| queries),
        wish: Wish { top, skip, filter, exact, ef, min_confidence, group },
    })
}

/// An object, and not the list of its values that serde takes as well.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// A list that ends where it becomes too long.
struct Short<T> {
    most: usize,
    what: &'static str,
    of: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Short<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of {}", self.what)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            if values.len() == self.most {
                return Err(A::Error::custom(format_args!("more than {} {}", self.most, self.what)));
            }
            values.push(value);
        }
        Ok(values)
    }
}

#[derive(Debug)]
struct Numbers(Vec<f32>);

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Numbers, D::Error> {
        deserializer.deserialize_seq(Short { most: MAX_NUMBERS, what: "numbers", of: PhantomData }).map(Numbers)
    }
}

struct Queries(Vec<Query>);

impl<'de> Deserialize<'de> for Queries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Queries, D::Error> {
        let list = Short::<Object<Query>> { most: MAX_QUERIES, what: "queries", of: PhantomData };
        let queries = deserializer.deserialize_seq(list)?;
        Ok(Queries(queries.into_iter().map(|Object(query)| query).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        parse(text.as_bytes()).err().unwrap_or_else(|| panic!("{}", &text[..text.len().min(80)])).message
    }

    #[test]
    fn a_body_is_read_into_what_it_asks_for() {
        let body = parse(br#" {"vector":[1,2.5e0,-3],"top":7,"skip":null,"group":"moment"}"#).unwrap();
        assert!(matches!(body.query.sought(), Ok(Sought::Vector(v)) if v == [1.0, 2.5, -3.0]));
        assert_eq!((body.wish.top, body.wish.skip, body.queries.is_none()), (Some(7), None, true));
        let body = parse(br#"{"queries":[{"vector":[1]},{"url":"http://a.org/"}]}"#).unwrap();
        assert_eq!((body.queries.map(|q| q.len()), body.query.given().is_none()), (Some(2), true));
    }

    /// What would be wrong behind it is never seen.
    #[test]
    fn a_list_that_is_too_long_is_not_read_to_its_end() {
        let numbers = format!("{{\"vector\":[{}nonsense", "0,".repeat(MAX_NUMBERS + 1));
        assert!(wrong(&numbers).contains("more than 16384 numbers"), "{}", wrong(&numbers));
        let queries = format!("{{\"queries\":[{}nonsense", "{\"vector\":[0]},".repeat(MAX_QUERIES + 1));
        assert!(wrong(&queries).contains("more than 32 queries"), "{}", wrong(&queries));
        let other = format!("{{\"other\":[{}nonsense", "0,".repeat(9));
        assert!(wrong(&other).contains("unknown field `other`"), "{}", wrong(&other));
    }

    #[test]
    fn what_is_said_twice_or_is_no_object_is_refused() {
        assert!(wrong(r#"{"vector":[1],"vector":[2]}"#).contains("duplicate field `vector`"));
        assert!(wrong(r#"{"queries":[{"url":"a","url":"b"}]}"#).contains("duplicate field `url`"));
        assert!(wrong("[[1],null,null,null,null,null,null,null,null,null]").contains("expected a JSON object"));
        assert!(wrong(r#"{"queries":[[[1],null]]}"#).contains("expected a JSON object"));
    }
}
