//! How one process tells the others that something changed: the [`Wakeup`] contract.

use std::fmt;

use async_trait::async_trait;

use crate::{
    secret::TokenDigest,
    store::{ChangeCursor, Changes},
};

/// With more tokens than this a notice names none of them.
const MOST_DIGESTS: usize = 500;

/// A channel between processes on one store. It makes them look sooner; it need not be reliable, and nobody is let in
/// by what it says. What it says is no secret.
///
/// A store has a [feed of changes](crate::store::TokenStore::changes) of its own, which knows all of them but may take
/// its time. Whenever somebody is woken, the feed is asked again at once, beside what the notice names. So a notice
/// that is lost costs no more than time, and the cache's bound stands in any case.
///
/// For [`with_wakeup`](crate::manage::TokenManagerBuilder::with_wakeup); each manager needs one of its own.
///
/// ```
/// use keyward::{TokenManager, store::{MemoryStore, Notice, Wakeup, async_trait}};
/// use tokio::sync::broadcast::{self, error::RecvError};
///
/// /// Between managers of one process.
/// #[derive(Debug)]
/// struct Local(broadcast::Sender<Notice>, tokio::sync::Mutex<broadcast::Receiver<Notice>>);
///
/// #[async_trait]
/// impl Wakeup for Local {
///     async fn publish(&self, notice: &Notice) {
///         let _ = self.0.send(notice.clone());
///     }
///
///     async fn woken(&self) -> Notice {
///         match self.1.lock().await.recv().await {
///             Ok(notice) => notice,
///             Err(RecvError::Lagged(_)) => Notice::anything(), // some were missed
///             Err(RecvError::Closed) => std::future::pending().await,
///         }
///     }
/// }
///
/// let (sender, receiver) = broadcast::channel(16);
/// let tokens = TokenManager::builder(MemoryStore::new()).with_wakeup(Local(sender, receiver.into())).build();
/// # let _ = tokens;
/// ```
#[async_trait]
pub trait Wakeup: fmt::Debug + Send + Sync + 'static {
    /// Tells the others. The change is done, and whoever made it waits for this: be quick, and give up soon.
    async fn publish(&self, notice: &Notice);

    /// Waits until another process changed something. It is dropped and called again all the time, and must lose
    /// nothing by that. After anything that may have been lost, and when it begins to listen, it says
    /// [`Notice::anything`].
    async fn woken(&self) -> Notice;
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notice {
    /// The digests of the tokens that changed; `None` if any may have.
    pub digests: Option<Vec<TokenDigest>>,
    /// Whether what [`denials`](crate::store::TokenStore::denials) says may have changed.
    pub denials: bool,
}

impl Notice {
    /// Tokens with these digests changed; of more than 500 it is not said which.
    #[must_use]
    pub fn of(digests: Vec<TokenDigest>) -> Self {
        let few = digests.len() <= MOST_DIGESTS;
        Self { digests: few.then_some(digests), denials: !few }
    }

    /// Anything may have changed.
    #[must_use]
    pub fn anything() -> Self {
        Self { digests: None, denials: true }
    }

    /// The same, and what is denied changed as well.
    #[must_use]
    pub fn with_denials(self) -> Self {
        Self { denials: true, ..self }
    }

    /// For whoever follows a store's feed, which goes on from where it was.
    pub(super) fn at(self, cursor: ChangeCursor) -> Changes {
        let Self { digests, denials } = self;
        Changes { denials, digests, ..Changes::unknown(cursor) }
    }
}
