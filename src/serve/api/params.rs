//! Parameters of requests. One struct defines their names, types, descriptions and ranges for the parser and
//! for the OpenAPI document.

use std::fmt;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{AdditionalProperties, Object, Schema, SchemaType, Type};
use utoipa::openapi::{RefOr, Required};
use utoipa::{IntoParams, Number, PartialSchema};

use crate::serve::error::ApiError;

/// Range of a numeric parameter, both ends included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ParamRange {
    pub(crate) name: &'static str,
    pub(crate) min: f64,
    /// [`f64::MAX`] if there is no limit.
    pub(crate) max: f64,
}

impl fmt::Display for ParamRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.max {
            f64::MAX => write!(f, "a number of at least {}", self.min),
            max => write!(f, "{} to {max}", self.min),
        }
    }
}

impl ParamRange {
    /// # Errors
    /// 400 if the value is outside the range.
    fn check(&self, value: f64) -> Result<(), ApiError> {
        if (self.min..=self.max).contains(&value) {
            return Ok(());
        }
        Err(ApiError::malformed(format!("{} is {value}: expected {self}", self.name)))
    }

    /// Adds the range to the schema of the number.
    fn describe(&self, schema: &mut Object) {
        let is_integer = match &schema.schema_type {
            SchemaType::Type(one) => *one == Type::Integer,
            SchemaType::Array(types) => types.contains(&Type::Integer),
            SchemaType::AnyValue => false,
        };
        let number = |value: f64| if is_integer { Number::UInt(value as usize) } else { Number::Float(value) };
        schema.minimum = Some(number(self.min));
        schema.maximum = (self.max < f64::MAX).then(|| number(self.max));
    }
}

/// A struct of request parameters.
pub(crate) trait RequestParams: Default + DeserializeOwned + PartialSchema {
    /// Fields of the struct that a query string may not have.
    const BODY_ONLY: &'static [&'static str] = &[];

    /// The numeric fields with their ranges.
    fn numbers(&self) -> Vec<(ParamRange, Option<f64>)>;

    /// # Errors
    /// 400 if a number is out of its range.
    fn check(&self) -> Result<(), ApiError> {
        self.numbers().iter().try_for_each(|(range, value)| value.map_or(Ok(()), |value| range.check(value)))
    }

    /// Schema of an object that has only the fields for which `keep` is true.
    fn object(keep: impl Fn(&str) -> bool) -> Object {
        let RefOr::T(Schema::Object(mut object)) = Self::schema() else { return Object::default() };
        for (range, _) in Self::default().numbers() {
            if let Some(RefOr::T(Schema::Object(number))) = object.properties.get_mut(range.name) {
                range.describe(number);
            }
        }
        object.properties.retain(|name, _| keep(name));
        object.required.retain(|name| keep(name));
        object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        object
    }
}

/// The same schema without `null`, which a query string and a form cannot contain.
pub(crate) fn without_null(schema: RefOr<Schema>) -> RefOr<Schema> {
    match schema {
        RefOr::T(Schema::Object(mut object)) => {
            if let SchemaType::Array(types) = &mut object.schema_type {
                types.retain(|one| *one != Type::Null);
                if let [only] = &types[..] {
                    object.schema_type = SchemaType::Type(only.clone());
                }
            }
            RefOr::T(Schema::Object(object))
        }
        RefOr::T(Schema::OneOf(variants)) => {
            let is_null = |schema: &RefOr<Schema>| matches!(schema, RefOr::T(Schema::Object(object)) if object.schema_type == SchemaType::Type(Type::Null));
            let Some(mut value) = variants.items.into_iter().find(|schema| !is_null(schema)) else {
                return Schema::default().into();
            };
            match &mut value {
                RefOr::T(Schema::Object(object)) => object.description = variants.description,
                RefOr::T(Schema::Array(array)) => array.description = variants.description,
                _ => {}
            }
            value
        }
        other => other,
    }
}

/// Extracts the parameters of the query string, and describes them in the OpenAPI document.
#[derive(Debug)]
pub(crate) struct QueryParams<T>(pub(crate) T);

impl<T: RequestParams, S: Send + Sync> FromRequestParts<S> for QueryParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<QueryParams<T>, ApiError> {
        let Query(params) =
            Query::<T>::from_request_parts(parts, state).await.map_err(|e| ApiError::malformed(e.body_text()))?;
        let query = parts.uri.query().unwrap_or_default();
        let pairs: Vec<(String, String)> = serde_urlencoded::from_str(query).unwrap_or_default();
        if let Some((name, _)) = pairs.iter().find(|(name, _)| T::BODY_ONLY.contains(&name.as_str())) {
            return Err(ApiError::malformed(format!("`{name}` is a field of the body, not a query parameter")));
        }
        params.check()?;
        Ok(QueryParams(params))
    }
}

impl<T: RequestParams> IntoParams for QueryParams<T> {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let object = T::object(|name| !T::BODY_ONLY.contains(&name));
        let Object { properties, required, .. } = object;
        let parameter = |(name, schema): (String, RefOr<Schema>)| {
            let mut schema = without_null(schema);
            let description = match &mut schema {
                RefOr::T(Schema::Object(object)) => object.description.take(),
                _ => None,
            };
            let is_required = if required.contains(&name) { Required::True } else { Required::False };
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Query)
                .required(is_required)
                .description(description)
                .schema(Some(schema))
                .build()
        };
        properties.into_iter().map(parameter).collect()
    }
}
