//! Requests that this crate makes itself: to whom, and with which client.

#[cfg(feature = "_https")]
mod https;
mod url;

#[cfg(feature = "_https")]
pub(crate) use https::HttpsClient;
pub(crate) use url::check_url;
