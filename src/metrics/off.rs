//! Without the feature `metrics` there is nobody to tell.

/// Never returns.
pub(crate) async fn keep_published() {
    std::future::pending().await
}
