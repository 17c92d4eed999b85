//! A small service whose users own API keys and jobs.
//!
//! Run with `cargo run --example key_service`. The first start prints an admin key; with it a key for a
//! user is made by `POST /admin/tokens`. The README shows the whole tour.

mod clock;
mod jobs;
mod metrics;
mod routes;
mod server;
mod settings;
mod tokens;

use std::{collections::HashSet, error::Error, io::Write, sync::Arc, time::Duration};

use keyward::{
    AdminProof, AuthLayer, TokenManager, UserId,
    api::{Admission, Bootstrap},
    audit::AuditLog,
    auth::{AnyOf, ApiKeyAuth, Authenticator, StaticAuth},
    event::TracingSink,
    jwt::JwtAuth,
    manage::{ListQuery, NewToken, TokenError},
    scope::RoleSet,
    store::{AuditStore, MemoryStore, PostgresOptions, SqliteOptions, SqliteStore, TokenStore},
    token::TokenClass,
    watch::Watch,
};
use tokio::{net::TcpListener, signal, sync::watch};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use clock::clock;
use server::Bounds;
use settings::{BootstrapMode, Database, KeySource, Settings};

/// The user whose key the first start prints.
const BOOTSTRAP_ADMIN: &str = "keyward:admin";

#[tokio::main]
async fn main() {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // A log that cannot be written must not take the service down.
    log.log_internal_errors(false).init();
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let result = match &*arguments {
        [] => serve().await,
        [only] if only == "--print-config" => print_config(),
        _ => {
            Err("the only argument is `--print-config`, which shows the settings and where they come from"
                .into())
        }
    };
    if let Err(error) = result {
        let _ = writeln!(std::io::stderr(), "key_service: {error}");
        std::process::exit(1);
    }
}

/// Secrets are masked.
fn print_config() -> Result<(), Box<dyn Error>> {
    let (_, report) = settings::sources().read(Settings::read)?;
    report.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(write!(std::io::stdout(), "{report}")?)
}

async fn serve() -> Result<(), Box<dyn Error>> {
    let (settings, report) = settings::sources().read(Settings::read)?;
    report.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    report.to_string().lines().for_each(|setting| tracing::debug!(setting));
    warn_of_open_doors(&settings);
    if let Some(redis) = &settings.redis
        && let Err(error) = redis.ready().await
    {
        tracing::warn!(%error, "started without it: limits are this instance's own until it is there");
    }
    clock::check()?;
    let (tokens, log) = open_tokens(&settings).await?;
    let (served, stop_writing) = watch::channel(false);
    let writing = tokio::spawn(log.clone().run(stopped(stop_writing)));
    let result = serve_tokens(&settings, tokens, log).await;
    // The last of all: whatever ends may have something to report.
    served.send_replace(true);
    writing.await?;
    result
}

async fn serve_tokens(
    settings: &Settings,
    tokens: TokenManager,
    log: AuditLog,
) -> Result<(), Box<dyn Error>> {
    let jwt = tokens::authenticator(&settings.jwt, &roles(settings), &tokens.audit())?;
    let bootstrap = bootstrap(settings);
    let auth = auth_layer(settings, &tokens, jwt.clone()).with_mode(bootstrap.mode_at(routes::KEYS));
    let recorder = metrics::install()?;
    let open = metrics::route(recorder.clone(), auth.clone());
    let app = routes::app(settings, &tokens, log, &bootstrap, jwt.clone(), auth, open)?;
    let listener = TcpListener::bind(&settings.listen).await;
    let listener = listener.map_err(|error| format!("cannot listen on {}: {error}", settings.listen))?;
    // Only once nothing refuses to start any more: it is shown once.
    match print_first_admin_key(&tokens).await {
        // With an emergency key the service starts all the same; it goes on as soon as the store is in order.
        Err(error) if settings.emergency.is_some() => {
            tracing::error!(%error, "started without its store: only the emergency key opens anything");
            tokio::spawn(print_first_admin_key_later(tokens.clone()));
        }
        done => done?,
    }
    let (stopping, stop) = watch::channel(false);
    let signalled = signalled()?;
    tokio::spawn(async move {
        signalled.await;
        stopping.send_replace(true);
    });

    writeln!(std::io::stdout(), "listening on http://{}", listener.local_addr()?)?;
    let (served, stop_background) = watch::channel(false);
    let fetching = jwt.map(|jwt| tokio::spawn(jwt.run(stopped(stop_background.clone()))));
    let background = tokio::spawn(async move {
        tokio::select! {
            () = tokens.run(stopped(stop_background)) => {}
            () = metrics::keep_up(recorder) => {}
        }
    });
    tokio::select! {
        () = server::serve(listener, app, Bounds::default(), stopped(stop.clone())) => {}
        () = cut_off(stop) => tracing::warn!("requests that took longer than ten seconds were cut off"),
    }
    served.send_replace(true);
    background.await?;
    if let Some(fetching) = fetching {
        fetching.await?;
    }
    Ok(())
}

async fn open_tokens(settings: &Settings) -> Result<(TokenManager, AuditLog), Box<dyn Error>> {
    let (store, entries) = match &settings.database {
        Database::Memory => for_both(MemoryStore::new()),
        Database::Sqlite(path) if settings.emergency.is_some() => {
            for_both(SqliteOptions::new(path).open_late()?)
        }
        Database::Sqlite(path) => for_both(SqliteStore::open(path).await?),
        Database::Postgres(options) if settings.emergency.is_some() => {
            for_both(PostgresOptions::clone(options).open_late()?)
        }
        Database::Postgres(options) => for_both(PostgresOptions::clone(options).open().await?),
    };
    let log = AuditLog::builder(entries).with_clock(clock());
    let (audit, log) = match settings.audit_retention {
        Some(age) => log.with_retention(age).build(),
        None => log.build(),
    };
    let builder = TokenManager::builder(store).with_clock(clock()).with_roles(roles(settings));
    let builder = builder.with_audit((TracingSink, audit));
    let builder = match settings.watch {
        true => {
            let learning = Duration::from_secs(u64::from(settings.watch_learning_hours) * 3600);
            builder.with_watch(Watch::default().with_user_agents(true).with_learning(learning))
        }
        false => builder,
    };
    let builder = match &settings.redis {
        Some(redis) => builder.with_wakeup(redis.wakeup()).with_shared_limits(redis.limits()),
        None => builder,
    };
    Ok((builder.build(), log))
}

/// One store for the tokens and the audit log.
fn for_both(store: impl TokenStore + AuditStore) -> (Arc<dyn TokenStore>, Arc<dyn AuditStore>) {
    let store = Arc::new(store);
    (store.clone(), store)
}

/// Who is an administrator at the moment: a key never carries more than that.
fn roles(settings: &Settings) -> impl Fn(&UserId) -> RoleSet + Clone + Send + Sync + 'static {
    let admin = RoleSet::new(["admin"]).unwrap_or_else(|_| RoleSet::empty());
    let admins = settings.admin_users.clone();
    move |user| {
        let is_admin = user.as_str() == BOOTSTRAP_ADMIN || admins.contains(user);
        if is_admin { admin.clone() } else { RoleSet::empty() }
    }
}

/// How somebody without any credential comes to a first key, and which names are not to be had.
fn bootstrap(settings: &Settings) -> Bootstrap {
    let labels: HashSet<UserId> =
        settings.static_tokens.iter().flat_map(|list| list.users().cloned()).collect();
    let other_issuer = match &settings.jwt.keys {
        Some(KeySource::Oidc { issuer, .. }) => Some(format!("{issuer}#")),
        _ => None,
    };
    let admission = Admission::new().with_taken(move |user| {
        let is_foreign = other_issuer.as_ref().is_some_and(|issuer| user.as_str().starts_with(&**issuer));
        is_foreign || labels.contains(user)
    });
    let admission = match settings.trusted_proxies.clone() {
        Some(proxies) => admission.with_client_ip(proxies),
        None => admission,
    };
    match settings.bootstrap {
        BootstrapMode::Admin => Bootstrap::AdminOnly,
        BootstrapMode::Register => Bootstrap::Register(admission),
        BootstrapMode::Public => Bootstrap::Public(admission),
    }
}

/// What is meant to be used with open eyes.
fn warn_of_open_doors(settings: &Settings) {
    if settings.emergency.is_some() {
        tracing::warn!("an emergency key is set: it opens everything, and each use raises an alert");
    }
    match settings.bootstrap {
        BootstrapMode::Admin => {}
        BootstrapMode::Public => tracing::warn!("KEYWARD_BOOTSTRAP=public: anybody can have a key"),
        BootstrapMode::Register if settings.jwt.secret.is_some() || settings.jwt.keys.is_some() => {
            tracing::warn!(
                "KEYWARD_BOOTSTRAP=register beside JSON Web Tokens: a name that is known from tokens only can be \
                 registered by anybody, who then is that user"
            );
        }
        BootstrapMode::Register => tracing::warn!("KEYWARD_BOOTSTRAP=register: anybody can become a user"),
    }
}

fn auth_layer(settings: &Settings, tokens: &TokenManager, jwt: Option<JwtAuth>) -> AuthLayer {
    let mut authenticators: Vec<Box<dyn Authenticator>> = vec![ApiKeyAuth::new(tokens).into()];
    authenticators.extend(jwt.map(Into::into));
    if let Some(list) = &settings.static_tokens {
        let list = StaticAuth::new(list).with_clock(clock()).with_roles(roles(settings));
        authenticators.push(list.with_audit(tokens.audit()).into());
    }
    // The last one, since it hashes whatever the others leave.
    let emergency = settings.emergency.clone();
    authenticators.extend(emergency.map(|key| key.with_clock(clock()).with_audit(tokens.audit()).into()));
    let layer = AuthLayer::new(AnyOf::new(authenticators)).with_failure_limit(settings.failure_limit.clone());
    match settings.trusted_proxies.clone() {
        Some(proxies) => layer.with_client_ip(proxies),
        None => layer,
    }
}

/// On an empty store there is nobody who could ask for a key, so one is made and shown here. Once: not again when all
/// keys have ended and are removed, or when that administrator is suspended or gone.
async fn print_first_admin_key(tokens: &TokenManager) -> Result<(), Box<dyn Error>> {
    let operator = AdminProof::operator("key_service", "first start on an empty store")?;
    if !tokens.list(&operator, ListQuery::default().with_limit(1)).await?.tokens.is_empty() {
        return Ok(());
    }
    let admin = NewToken::named("first admin key").with_class(TokenClass::Admin);
    // Fails here, before there is a key, if nobody could read it.
    writeln!(std::io::stdout(), "no key is stored")?;
    match tokens.bootstrap(&operator, &UserId::new(BOOTSTRAP_ADMIN)?, admin).await {
        Ok(issued) => writeln!(std::io::stdout(), "admin key: {}", issued.key.expose())?,
        // Also if another process was faster.
        Err(TokenError::UserExists) => {
            tracing::warn!("{BOOTSTRAP_ADMIN} had a key before, and gets no other one")
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// The same for a store that is in order only after the start.
async fn print_first_admin_key_later(tokens: TokenManager) {
    while print_first_admin_key(&tokens).await.is_err() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop as well.
    let _ = stop.wait_for(|stopping| *stopping).await;
}

/// Ten seconds after the service was told to stop.
async fn cut_off(stop: watch::Receiver<bool>) {
    stopped(stop).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
}

/// What ends when somebody tells the process to stop. From this call on, and not only once it is awaited, a signal
/// is seen.
#[cfg(unix)]
fn signalled() -> Result<impl Future<Output = ()>, std::io::Error> {
    let mut terminate = signal::unix::signal(signal::unix::SignalKind::terminate())?;
    let mut interrupt = signal::unix::signal(signal::unix::SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn signalled() -> Result<impl Future<Output = ()>, std::io::Error> {
    Ok(async {
        let _ = signal::ctrl_c().await;
    })
}
