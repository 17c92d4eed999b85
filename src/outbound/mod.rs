//! Requests that this crate makes itself: to whom, and with which client.

#[cfg(feature = "_https")]
mod https;
#[cfg(any(feature = "_https", feature = "postgres-tls"))]
pub(crate) mod tls;
#[cfg(any(feature = "_jwt", feature = "_https"))]
mod url;

#[cfg(feature = "_https")]
pub(crate) use https::HttpsClient;
#[cfg(any(feature = "_jwt", feature = "_https"))]
pub(crate) use url::check_url;
