//! What changed, by publish and subscribe.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::redis::aio::{PubSubSink, PubSubStream};
use async_trait::async_trait;
use futures_util::{Stream, StreamExt, stream};

use super::{Redis, message};
use crate::store::{Notice, Wakeup};

/// How often a connection is asked whether it is one, and for how long it may take to say so.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a server that failed is left alone.
const RETRY_AFTER: Duration = Duration::from_millis(250);

type Notices = Pin<Box<dyn Stream<Item = Notice> + Send>>;

impl Redis {
    /// Tells other processes what this one changes, and listens to them, by the channel `keyward:changes`. Each manager
    /// needs one of its own.
    ///
    /// A message holds digests of keys, as the store does, and a random number for the manager that sent it. A
    /// connection that is lost is noticed within two seconds, or at once if it is closed, and made again as soon as the
    /// server answers. Then all that is cached is looked up again: whatever was missed meanwhile, including what could
    /// not be sent, is found. Until then the cache's bound holds, and the store's own feed goes on.
    ///
    /// Whoever makes a change waits for the message no longer than a request waits for Redis.
    #[must_use]
    pub fn wakeup(&self) -> RedisWakeup {
        let mut random = [0; 8];
        // Without randomness it hears itself, which makes it look once more.
        let _ = getrandom::fill(&mut random);
        let sender = format!("{:016x}", u64::from_le_bytes(random));
        let channel = Arc::new(Channel {
            name: self.key("changes"),
            redis: self.clone(),
            sender,
            missed: AtomicBool::new(false),
        });
        RedisWakeup { channel: channel.clone(), notices: tokio::sync::Mutex::new(notices(channel)) }
    }
}

/// A manager's channel to others; see [`Redis::wakeup`].
pub struct RedisWakeup {
    channel: Arc<Channel>,
    notices: tokio::sync::Mutex<Notices>,
}

struct Channel {
    redis: Redis,
    name: String,
    /// Who is told apart by this does not listen to themselves.
    sender: String,
    /// Whether something could not be sent.
    missed: AtomicBool,
}

impl fmt::Debug for RedisWakeup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Channel { redis, name, .. } = &*self.channel;
        f.debug_struct("RedisWakeup").field("redis", redis).field("channel", name).finish_non_exhaustive()
    }
}

#[async_trait]
impl Wakeup for RedisWakeup {
    async fn publish(&self, notice: &Notice) {
        self.channel.send(notice).await;
    }

    async fn woken(&self) -> Notice {
        match self.notices.lock().await.next().await {
            Some(notice) => notice,
            // It has no end.
            None => std::future::pending().await,
        }
    }
}

impl Channel {
    /// What cannot be sent, or is given up, is made good later.
    async fn send(&self, notice: &Notice) {
        let text = if self.missed.swap(false, Ordering::Relaxed) {
            message::write(&self.sender, &Notice::anything())
        } else {
            message::write(&self.sender, notice)
        };
        let unsent = Unsent(&self.missed);
        let command = ::redis::cmd("PUBLISH").arg(&self.name).arg(text).to_owned();
        let command = &command;
        let sent =
            self.redis.0.link.run(|mut connection| async move { command.exec_async(&mut connection).await });
        if sent.await.is_some() {
            std::mem::forget(unsent);
        }
    }

    async fn send_missed(&self) {
        if self.missed.load(Ordering::Relaxed) {
            self.send(&Notice::anything()).await;
        }
    }
}

/// A message on its way. Dropped, it was not sent, as far as anybody knows.
struct Unsent<'a>(&'a AtomicBool);

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection, if there is one.
struct Listening {
    channel: Arc<Channel>,
    open: Option<(PubSubSink, PubSubStream)>,
}

/// What others say, for ever. Kept in one place while nobody asks, so that nothing is lost between two questions.
fn notices(channel: Arc<Channel>) -> Notices {
    let listening = Listening { channel, open: None };
    Box::pin(stream::unfold(listening, async |mut listening| {
        let notice = listening.next().await;
        Some((notice, listening))
    }))
}

impl Listening {
    async fn next(&mut self) -> Notice {
        loop {
            let Some((sink, messages)) = &mut self.open else {
                self.open().await;
                // Whatever was said while nobody listened.
                return Notice::anything();
            };
            let heard = tokio::select! {
                message = messages.next() => message,
                () = tokio::time::sleep(PING_INTERVAL) => {
                    let ping = sink.ping::<::redis::Value>();
                    if let Ok(Ok(_)) = tokio::time::timeout(PING_TIMEOUT, ping).await {
                        self.channel.send_missed().await;
                        continue;
                    }
                    None
                }
            };
            let Some(message) = heard else {
                tracing::warn!(channel = %self.channel.name, "not connected: changes by others are seen later");
                self.open = None;
                continue;
            };
            if let Some(notice) = message::read(&self.channel.sender, message.get_payload_bytes()) {
                return notice;
            }
        }
    }

    async fn open(&mut self) {
        loop {
            match self.channel.redis.0.link.listen(&self.channel.name).await {
                Ok(listening) => {
                    tracing::debug!(channel = %self.channel.name, "listening");
                    self.open = Some(listening.split());
                    return;
                }
                Err(error) => {
                    tracing::debug!(channel = %self.channel.name, %error, "cannot listen");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }
}
