//! Where the database is, and how connections to it are made.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use deadpool_postgres::Connect;
use tokio::task::JoinHandle;
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, Error, NoTls, Socket,
    config::{Host, SslMode},
    tls::TlsStream,
};
#[cfg(feature = "postgres-tls")]
use tokio_postgres_rustls::MakeRustlsConnect;

use super::wall::EVERYTHING;
use crate::error::ConfigError;
#[cfg(feature = "postgres-tls")]
use crate::outbound::tls;

/// Options of other clients that are not known here. No others are named: they might be a part of a password.
const NOT_SUPPORTED: [&str; 7] =
    ["sslcert", "sslkey", "sslpassword", "sslcrl", "gssencmode", "service", "passfile"];

/// How long a connection may be idle before it is looked at whether the other side is still there.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// All that is known of the database.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) config: Config,
    pub(super) connector: Connector,
    pub(super) schema: Arc<str>,
    pub(super) connections: usize,
    pub(super) timeout: Duration,
    pub(super) watch_interval: Duration,
    pub(super) row_security: bool,
    /// Whether what is sent can be read on the way.
    pub(super) exposed: bool,
}

impl Target {
    pub(super) fn new(url: &str) -> Result<Self, ConfigError> {
        let (config, security) = parse(url)?;
        let remote = is_remote(&config);
        let encrypted = security.encrypts(remote)?;
        let mut target = Self {
            config,
            connector: Connector::Plain,
            schema: Arc::from("keyward"),
            connections: 8,
            timeout: Duration::from_secs(4),
            watch_interval: Duration::from_millis(500),
            row_security: false,
            exposed: remote && !encrypted,
        };
        target.config.ssl_mode(if encrypted { SslMode::Require } else { SslMode::Disable });
        if target.config.get_application_name().is_none() {
            target.config.application_name("keyward");
        }
        target.config.keepalives_idle(KEEPALIVE).keepalives_interval(KEEPALIVE).keepalives_retries(2);
        if encrypted {
            target.connector = Connector::encrypted(security.roots.as_deref())?;
        }
        Ok(target)
    }

    /// What each connection is told first.
    pub(super) fn settings(&self) -> String {
        // Less than the whole call has, so that the server says why. There is an index for each look-up; where
        // PostgreSQL takes a table for small, or knows nothing of it yet, it might read all of it instead, or all that
        // an index leads to before the first rows in its order.
        let statement = self.timeout.as_millis() * 3 / 4;
        format!(
            "SET search_path = \"{}\"; SET statement_timeout = {statement}; \
             SET idle_in_transaction_session_timeout = {}; SET jit = off; \
             SET enable_seqscan = off; SET enable_bitmapscan = off; \
             SET default_transaction_isolation = 'read committed'; SET keyward.scope = '{EVERYTHING}'",
            self.schema,
            self.timeout.as_millis() * 2,
        )
    }

    pub(super) fn is_encrypted(&self) -> bool {
        !matches!(self.connector, Connector::Plain)
    }
}

/// Without the password.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("hosts", &self.config.get_hosts())
            .field("ports", &self.config.get_ports())
            .field("database", &self.config.get_dbname())
            .field("user", &self.config.get_user())
            .field("schema", &self.schema)
            .field("encrypted", &self.is_encrypted())
            .finish_non_exhaustive()
    }
}

/// What the URL says of encryption.
#[derive(Default)]
struct Security {
    mode: Option<String>,
    roots: Option<String>,
}

impl Security {
    fn encrypts(&self, remote: bool) -> Result<bool, ConfigError> {
        match self.mode.as_deref() {
            None => Ok(remote),
            Some("disable") => Ok(false),
            Some("allow" | "prefer") if remote => Err(ConfigError::new(
                "with this sslmode anybody on the way to the database can switch encryption off; use \
                 `sslmode=verify-full`, or `sslmode=disable` where the network is encrypted by other means",
            )),
            Some("allow" | "prefer") => Ok(false),
            Some("require" | "verify-ca" | "verify-full") => Ok(true),
            Some(_) => Err(ConfigError::new(
                "the database URL has an unknown sslmode: use `sslmode=verify-full` or `sslmode=disable`",
            )),
        }
    }
}

fn parse(url: &str) -> Result<(Config, Security), ConfigError> {
    let unusable = || {
        ConfigError::new(
            "the database URL cannot be used: write it as `postgres://user:password@host:port/database`, with \
             other characters than letters and digits in user and password as `%` and two hexadecimal digits",
        )
    };
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(unusable());
    }
    // A password may have a `?` in it.
    let host = url.find('@').unwrap_or(0);
    let (address, options) = match url.get(host..).unwrap_or_default().find('?') {
        Some(at) => (url.get(..host + at).unwrap_or_default(), url.get(host + at + 1..).unwrap_or_default()),
        None => (url, ""),
    };
    let (mut security, mut others) = (Security::default(), Vec::new());
    for option in options.split('&').filter(|option| !option.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("sslmode", mode) => security.mode = Some(mode.to_owned()),
            ("sslrootcert", path) => security.roots = Some(decoded(path).ok_or_else(unusable)?),
            (name, _) => match NOT_SUPPORTED.iter().find(|other| **other == name) {
                Some(name) => {
                    let sentence =
                        format!("the option `{name}` of the database URL is not supported; remove it");
                    return Err(ConfigError::new(sentence));
                }
                None => others.push(option),
            },
        }
    }
    let config: Config = format!("{address}?{}", others.join("&")).parse().map_err(|_| unusable())?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(ConfigError::new(
            "the database URL names no host: write `localhost`, or `?host=/var/run/postgresql` for the socket",
        ));
    }
    Ok((config, security))
}

/// A text with `%` and two hexadecimal digits for some bytes.
fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Whether any of the hosts may be another machine.
fn is_remote(config: &Config) -> bool {
    let addresses = config.get_hostaddrs();
    if !addresses.is_empty() {
        return addresses.iter().any(|address| !address.is_loopback());
    }
    config.get_hosts().iter().any(|host| match host {
        Host::Tcp(name) => {
            let address = name.trim_matches(['[', ']']).parse::<IpAddr>();
            name != "localhost" && !address.is_ok_and(|address| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => false,
    })
}

/// Makes connections. Each is a task in the runtime of the caller.
#[derive(Clone)]
pub(super) enum Connector {
    Plain,
    #[cfg(feature = "postgres-tls")]
    Encrypted(MakeRustlsConnect),
}

impl Connector {
    #[cfg(feature = "postgres-tls")]
    fn encrypted(roots: Option<&str>) -> Result<Self, ConfigError> {
        match roots {
            None => Self::trusting(tls::public_roots()),
            Some(path) => {
                let pem = std::fs::read(path).map_err(|error| {
                    ConfigError::new(format!("the sslrootcert of the database URL cannot be read: {error}"))
                })?;
                Self::trusting(tls::roots_of(&pem)?)
            }
        }
    }

    #[cfg(feature = "postgres-tls")]
    pub(super) fn trusting(roots: rustls::RootCertStore) -> Result<Self, ConfigError> {
        let mut config = tls::trusting(roots)?;
        // Servers from 17 on ask for it where TLS comes first.
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(Self::Encrypted(MakeRustlsConnect::new(config)))
    }

    #[cfg(not(feature = "postgres-tls"))]
    fn encrypted(_: Option<&str>) -> Result<Self, ConfigError> {
        Err(ConfigError::new(
            "the database is on another machine and this program has no TLS for it: build keyward with the feature \
             `postgres-tls`, or add `?sslmode=disable` to the URL where the network is encrypted by other means",
        ))
    }

    /// A connection whose notifications call `notified`; it ends with its client.
    pub(super) async fn listen(
        &self,
        config: &Config,
        notified: impl Fn() + Send + 'static,
    ) -> Result<(Client, JoinHandle<()>), Error> {
        match self {
            Self::Plain => {
                let (client, connection) = config.connect(NoTls).await?;
                Ok((client, tokio::spawn(drive(connection, notified))))
            }
            #[cfg(feature = "postgres-tls")]
            Self::Encrypted(tls) => {
                let (client, connection) = config.connect(tls.clone()).await?;
                Ok((client, tokio::spawn(drive(connection, notified))))
            }
        }
    }
}

impl Connect for Connector {
    fn connect(
        &self,
        config: &Config,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + '_>> {
        let config = config.clone();
        Box::pin(async move { self.listen(&config, || ()).await })
    }
}

async fn drive<T>(mut connection: Connection<Socket, T>, notified: impl Fn())
where
    T: TlsStream + Unpin,
{
    loop {
        match std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notification(_))) => notified(),
            Some(Ok(_)) => {}
            // The next call that needs it says so.
            Some(Err(_)) | None => break,
        }
    }
    notified();
}
