//! JSON bodies with one clear sentence for every mistake.

use axum::{
    extract::{FromRequest, Request},
    http::{StatusCode, header},
};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::api::ApiError;

/// A JSON object as body. What is wrong with one is answered as a problem document: 400, or 415 without
/// `Content-Type: application/json`, or 413 for a body that is too long. An empty body is `{}`.
///
/// ```
/// use axum::{Router, routing::post};
/// use keyward::api::JsonBody;
///
/// #[derive(serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct NewJob { name: String }
///
/// async fn create(body: JsonBody<NewJob>) -> String { body.0.name }
/// let app: Router = Router::new().route("/jobs", post(create));
/// # let _ = app;
/// ```
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "handlers take it apart")]
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let is_json = is_json(&request);
        let bytes = Bytes::from_request(request, state).await.map_err(|error| match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "The body is too long.")
            }
            _ => ApiError::bad_request("The body could not be read."),
        })?;
        if !is_json && !bytes.is_empty() {
            let sentence = "Send the body as JSON, with `Content-Type: application/json`.";
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, sentence));
        }
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        if text.trim_ascii_start().first() != Some(&b'{') {
            return Err(ApiError::bad_request("The body is not a JSON object."));
        }
        serde_json::from_slice(text).map(Self).map_err(|error| {
            // serde's own words repeat what was sent, which may be a key in the wrong place.
            let sentence = match error.classify() {
                serde_json::error::Category::Data => format!(
                    "The body has an unknown field, lacks one, or has a value of the wrong kind, at column {}.",
                    error.column()
                ),
                _ => "The body is not JSON.".to_owned(),
            };
            ApiError::bad_request(sentence)
        })
    }
}

fn is_json(request: &Request) -> bool {
    let essence = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok()?.split(';').next())
        .unwrap_or_default()
        .trim();
    essence.eq_ignore_ascii_case("application/json")
}
