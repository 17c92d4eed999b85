//! Which request events belong to.

use std::{
    cell::RefCell,
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

thread_local! {
    static CURRENT: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

pin_project! {
    /// A future whose events are of one request, unless they say otherwise themselves.
    #[derive(Debug)]
    pub(crate) struct InRequest<F> {
        id: Option<Box<str>>,
        #[pin]
        inner: F,
    }
}

impl<F> InRequest<F> {
    pub(crate) fn new(id: Option<&str>, inner: F) -> Self {
        Self { id: id.map(Box::from), inner }
    }
}

impl<F: Future> Future for InRequest<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = Entered::new(this.id);
        this.inner.poll(cx)
    }
}

/// Exchanges the current id for another, and back when it is dropped, also by a panic.
struct Entered<'a>(&'a mut Option<Box<str>>);

impl<'a> Entered<'a> {
    fn new(id: &'a mut Option<Box<str>>) -> Self {
        exchange(id);
        Self(id)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        exchange(self.0);
    }
}

fn exchange(id: &mut Option<Box<str>>) {
    // While a thread ends there may be no current id any more.
    let _ = CURRENT.try_with(|current| mem::swap(&mut *current.borrow_mut(), id));
}

/// The id of the request that this thread works on.
pub(super) fn current() -> Option<Box<str>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Audit, Event, EventKind},
        testing::RecordingSink,
    };

    #[tokio::test]
    async fn events_carry_the_id_of_the_future_that_they_happen_in() {
        let sink = RecordingSink::default();
        let audit = Audit::new(sink.clone());
        let emit = || audit.emit(Event::new(EventKind::TokenRead));
        let one = InRequest::new(Some("one"), async {
            emit();
            InRequest::new(Some("inner"), async { emit() }).await;
            tokio::task::yield_now().await;
            emit();
        });
        let two = InRequest::new(None, async {
            emit();
            audit.emit(Event::new(EventKind::TokenRead).in_request(Some("own")));
        });
        tokio::join!(biased; one, two);
        let panics = InRequest::new(Some("panics"), async { panic!("in a handler") });
        tokio::spawn(panics).await.unwrap_err();
        emit();
        let ids: Vec<_> = sink.events().into_iter().map(|event| event.request_id).collect();
        let ids: Vec<_> = ids.iter().map(Option::as_deref).collect();
        assert_eq!(ids, [Some("one"), Some("inner"), None, Some("own"), Some("one"), None]);
    }
}
