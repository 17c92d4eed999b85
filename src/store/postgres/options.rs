//! How to reach the database.

use std::{fmt, sync::Arc, time::Duration};

#[cfg(feature = "postgres-tls")]
use super::link::Connector;
use super::{PostgresStore, feed::Feed, link::Target, session::Server};
#[cfg(feature = "postgres-tls")]
use crate::outbound::tls;
use crate::{error::ConfigError, store::StoreError};

/// How to open a [`PostgresStore`].
///
/// # Encryption
/// It is a matter of the URL's `sslmode`. Keys are never sent, but their digests and their owners are.
///
/// | `sslmode` | to this machine | to another one |
/// |---|---|---|
/// | none | in clear | encrypted, the server's certificate is checked |
/// | `require`, `verify-ca`, `verify-full` | encrypted, the certificate is checked | the same |
/// | `disable` | in clear | in clear, and a warning is logged |
/// | `allow`, `prefer` | in clear | refused: anybody on the way could switch encryption off |
///
/// "Checked" is always all of it: the chain, the time and the host name, also for `require`, which is less with
/// other clients. It must lead to one of Mozilla's root certificates, or to one in the file that the URL's
/// `sslrootcert` names. Encryption needs the feature `postgres-tls`; without it, what needs it is refused.
///
/// ```
/// use std::time::Duration;
/// use keyward::store::PostgresOptions;
///
/// let options = PostgresOptions::new("postgres://keyward:s3cret@localhost/keys")?
///     .with_schema("api_keys")?
///     .with_connections(16)
///     .with_timeout(Duration::from_secs(2));
/// assert!(!format!("{options:?}").contains("s3cret"));
/// # Ok::<(), keyward::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct PostgresOptions(Target);

impl PostgresOptions {
    /// The default options for the database at `url`: `postgres://user:password@host:port/database`, with the options
    /// of other clients after a `?`, such as `host=/var/run/postgresql` or `target_session_attrs=read-write`.
    /// `application_name` is `keyward` unless it is given.
    ///
    /// # Errors
    /// When it is no such URL, or says of encryption what is refused above. The sentence repeats nothing of it.
    pub fn new(url: &str) -> Result<Self, ConfigError> {
        Target::new(url).map(Self)
    }

    /// In which schema the tables are: `keyward` by default. It is made if it is absent and the user may. Stores
    /// with different schemas share nothing.
    ///
    /// # Errors
    /// When it is not 1 to 48 lower-case letters, digits and underscores, or begins with a digit or `pg_`.
    pub fn with_schema(mut self, schema: &str) -> Result<Self, ConfigError> {
        let plain = schema.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        let begins = !schema.starts_with(|first: char| first.is_ascii_digit()) && !schema.starts_with("pg_");
        if !plain || !begins || !(1..=48).contains(&schema.len()) {
            return Err(ConfigError::new(
                "the name of the schema must be 1 to 48 lower-case letters, digits and underscores, and not begin \
                 with a digit or `pg_`",
            ));
        }
        self.0.schema = Arc::from(schema);
        Ok(self)
    }

    /// How many connections there are at most, beside one for notifications: 1 to 1000, 8 by default. All processes
    /// together need fewer than the server's `max_connections`.
    #[must_use]
    pub fn with_connections(mut self, connections: usize) -> Self {
        self.0.connections = connections.clamp(1, 1000);
        self
    }

    /// How long a call takes at most: 4 seconds by default, and from 100 milliseconds to that. It may spend half of it
    /// waiting for a connection or making one, and three quarters on one statement. Requests are refused after
    /// 4.5 seconds anyway.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.0.timeout = timeout.clamp(Duration::from_millis(100), Duration::from_secs(4));
        self
    }

    /// How often [`changes`](crate::store::TokenStore::changes) looks for what other processes changed, beside
    /// whenever a notification comes: every 500 milliseconds by default, from 10 milliseconds to a minute.
    #[must_use]
    pub fn with_watch_interval(mut self, interval: Duration) -> Self {
        self.0.watch_interval = interval.clamp(Duration::from_millis(10), Duration::from_secs(60));
        self
    }

    /// Has the database itself check that a call for one user sees that user's tokens alone and changes no others: a
    /// second wall behind the conditions that each of this store's statements has. Off by default.
    ///
    /// The first store that is opened with this switches row-level security on for the tables `tokens` and `usage`, for
    /// which its database user must have made them. From then on whoever is neither a superuser nor has `BYPASSRLS`
    /// sees no token unless they first `SET keyward.scope`, to `*` or `user:` and an id. So another program on the same
    /// database, a report for instance, sees nothing by mistake; this is no protection from somebody who can run
    /// any SQL as this user. Stores without this option go on as before, but without the wall. To take it down, run
    /// `ALTER TABLE keyward.tokens DISABLE ROW LEVEL SECURITY`, and the same for `keyward.usage`.
    ///
    /// Looking for a presented key, operators' calls, counting uses and cleaning up concern all users; so does storing a
    /// new token, whose parent must be seen to be somebody else's. Each call for one user takes a round trip to
    /// the server more, reading ones three.
    ///
    /// A database user for whom it does not hold is refused with
    /// [`StoreErrorKind::Incompatible`](crate::store::StoreErrorKind::Incompatible) when the store is opened.
    #[must_use]
    pub fn with_row_level_security(mut self, on: bool) -> Self {
        self.0.row_security = on;
        self
    }

    /// Trusts the certificate authorities in `pem` (RFC 7468, section 5) and no others, where the connection is
    /// encrypted: for a server inside a company.
    ///
    /// # Errors
    /// When there is no certificate in it, or one that cannot be an authority's.
    #[cfg(feature = "postgres-tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "postgres-tls")))]
    pub fn with_root_certificates(mut self, pem: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        let roots = tls::roots_of(pem.as_ref())?;
        if self.0.is_encrypted() {
            self.0.connector = Connector::trusting(roots)?;
        }
        Ok(self)
    }

    /// Connects, and brings the tables to the current version. Of several processes that start at once one does
    /// this, and the others wait for it, ten minutes at most.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unavailable`](crate::store::StoreErrorKind::Unavailable) when the server does not answer, or
    /// refuses; [`StoreErrorKind::Incompatible`](crate::store::StoreErrorKind::Incompatible) when the tables are of a
    /// newer keyward or not keyward's, the server is older than 13, or the database is not encoded in UTF-8.
    pub async fn open(self) -> Result<PostgresStore, StoreError> {
        let store = self.open_late()?;
        store.server.open().await?;
        Ok(store)
    }

    /// A store that connects at the first call that needs it, for a service that must start without its store: with
    /// an [`EmergencyAuth`](crate::auth::EmergencyAuth), say. Calls fail as [`open`](Self::open) would until the
    /// database is in order; nothing needs to be started anew then.
    ///
    /// ```
    /// use keyward::{TokenManager, store::PostgresOptions};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let nobody_listens = PostgresOptions::new("postgres://keyward@127.0.0.1:9/keys")?;
    /// let tokens = TokenManager::new(nobody_listens.open_late()?);
    /// assert!(tokens.health().await.is_err()); // and fine from when there is a server
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreErrorKind::Unavailable`](crate::store::StoreErrorKind::Unavailable) when no pool can be made.
    pub fn open_late(self) -> Result<PostgresStore, StoreError> {
        if self.0.exposed {
            tracing::warn!(
                "the connection to the database on another machine is not encrypted, as its URL says: digests of keys \
                 and names of users can be read and changed on the way"
            );
        }
        Ok(PostgresStore { server: Arc::new(Server::new(self.0)?), feed: Feed::default() })
    }
}

/// Without the password.
impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
