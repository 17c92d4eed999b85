//! Row-level security: the database's own check of whose tokens a call may see.

use super::{failure::Failure, session::Session};
use crate::{id::UserId, store::StoreErrorKind};

/// What a connection may see: all of it. A call for one user narrows it for its transaction.
pub(super) const EVERYTHING: &str = "*";

/// Without a scope nothing is seen. The id stands behind a colon, so that no user is called like the scope of all.
/// The wall holds also for whoever made the tables. A new use is stored in one statement with its token, which a check
/// does not see yet.
const RAISE: &str = "
    ALTER TABLE tokens ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    ALTER TABLE usage ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    DROP POLICY IF EXISTS keyward_scope ON tokens;
    CREATE POLICY keyward_scope ON tokens
        USING ((SELECT current_setting('keyward.scope', true)) IN ('*', 'user:' || user_id));
    DROP POLICY IF EXISTS keyward_scope ON usage;
    CREATE POLICY keyward_scope ON usage
        USING ((SELECT current_setting('keyward.scope', true)) = '*'
            OR EXISTS (SELECT FROM tokens WHERE tokens.id = usage.id));
    DROP POLICY IF EXISTS keyward_new ON usage;
    CREATE POLICY keyward_new ON usage FOR INSERT WITH CHECK (true);
";

const STANDS: &str = "
    SELECT bool_and(relrowsecurity AND relforcerowsecurity AND EXISTS (
        SELECT FROM pg_policy WHERE polrelid = c.oid AND polname = 'keyward_scope'
    )) FROM pg_class AS c WHERE oid IN (to_regclass('tokens'), to_regclass('usage'))";

/// Makes the database check it, if it does not yet, and makes sure that it does for this user.
pub(super) async fn raise(session: &Session) -> Result<(), Failure> {
    // Before anything is changed: others would be behind a wall that this one asked for in vain.
    let sql = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user";
    if session.one(sql, &[]).await?.try_get::<_, bool>(0)? {
        return Err(no_wall());
    }
    let stands = async || Ok::<bool, Failure>(session.one(STANDS, &[]).await?.try_get(0)?);
    if !stands().await? {
        session.batch("BEGIN").await?;
        let done = async {
            session.lock("migration", "").await?;
            // Another process may have done it meanwhile.
            if stands().await? { Ok(()) } else { session.batch(RAISE).await }
        };
        let done = done.await;
        session.batch(if done.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
        done?;
    }
    let sql = "SELECT row_security_active('tokens') AND row_security_active('usage')";
    if session.one(sql, &[]).await?.try_get::<_, bool>(0)? { Ok(()) } else { Err(no_wall()) }
}

fn no_wall() -> Failure {
    Failure::new(
        StoreErrorKind::Incompatible,
        "row-level security holds for nobody who is a superuser or has BYPASSRLS; use a database user who is neither",
    )
}

/// Narrows what is seen until the end of the transaction.
pub(super) async fn narrow(session: &Session, user: &UserId) -> Result<(), Failure> {
    let scope = format!("user:{user}");
    session.query("SELECT set_config('keyward.scope', $1, true)", &[&scope]).await.map(drop)
}
