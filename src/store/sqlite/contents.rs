//! What the store gives out and takes in, as SQL on one connection.

use rusqlite::{Connection, ToSql, Transaction, params, types::Value};

use super::{
    failure::Failure,
    queries::{find, insert_row, replace_row, write},
    rows::{decode, encode_usage, from_time, select},
    users,
};
use crate::{
    id::{TokenId, UserId},
    store::{
        JwtId, JwtRevocation, StoreErrorKind,
        transfer::{Conflict, Damaged, Exported, Imported, Item, KnownUser, Position, Section, StoredToken},
    },
    time::UnixTime,
};

/// The keys come from an index, and each row is read alone: what is damaged hides no other.
const KEYS_OF_JWTS: &str = "SELECT id FROM revoked_jwts WHERE id > ?1 ORDER BY id LIMIT ?2";
const KEYS_OF_TOKENS: &str = "SELECT id FROM tokens WHERE id > ?1 ORDER BY id LIMIT ?2";
const KEYS_OF_USERS: &str = "SELECT user_id FROM owners WHERE user_id > ?1 \
                             UNION SELECT user_id FROM users WHERE user_id > ?1 ORDER BY user_id LIMIT ?2";

pub(super) fn export(
    connection: &Connection,
    section: Section,
    after: Option<&[u8]>,
    limit: u32,
) -> Result<Exported, Failure> {
    let snapshot = connection.unchecked_transaction()?;
    let keys = keys_after(&snapshot, section, after.unwrap_or_default(), limit)?;
    let next = keys.last().filter(|_| keys.len() == limit as usize);
    let mut exported = Exported::new(Vec::new(), next.map(|key| Position::from_bytes(key)));
    for key in &keys {
        match section {
            Section::RevokedJwts => export_jwt(&snapshot, key, &mut exported)?,
            Section::Users => export_user(&snapshot, key, &mut exported)?,
            Section::Tokens => export_token(&snapshot, key, &mut exported)?,
        }
    }
    if after.is_none() {
        exported.total = Some(count(&snapshot, section)?);
    }
    Ok(exported)
}

fn keys_after(
    connection: &Connection,
    section: Section,
    after: &[u8],
    limit: u32,
) -> Result<Vec<Vec<u8>>, Failure> {
    let text;
    let (sql, after): (_, &dyn ToSql) = match section {
        Section::RevokedJwts => (KEYS_OF_JWTS, &after),
        Section::Tokens => (KEYS_OF_TOKENS, &after),
        Section::Users => {
            text = str::from_utf8(after).map_err(|_| Failure::from(StoreErrorKind::Conflict))?;
            (KEYS_OF_USERS, &text)
        }
    };
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![after, limit])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        // Whatever it is: it may be damaged.
        keys.push(row.get_ref(0)?.as_bytes().unwrap_or_default().to_vec());
    }
    Ok(keys)
}

fn count(connection: &Connection, section: Section) -> Result<u64, Failure> {
    let sql = match section {
        Section::RevokedJwts => "SELECT count(*) FROM revoked_jwts",
        Section::Users => "SELECT count(*) FROM owners",
        Section::Tokens => "SELECT count(*) FROM tokens",
    };
    let count: i64 = connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// What was read; `None` and a word in `exported` if it is damaged.
fn readable<T>(
    read: Result<T, Failure>,
    exported: &mut Exported,
    name: impl FnOnce() -> String,
) -> Result<Option<T>, Failure> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(failure) if failure.error.kind() == StoreErrorKind::Corrupt => {
            exported.damaged.push(Damaged::new(name(), failure.error.to_string()));
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

fn export_jwt(connection: &Connection, key: &[u8], exported: &mut Exported) -> Result<(), Failure> {
    let id = key.try_into().map(JwtId::from_bytes).map_err(|_| Failure::unreadable("id"));
    let Some(id) = readable(id, exported, || format!("JWT {}", hex(key)))? else { return Ok(()) };
    let until = users::jwt(connection, &id);
    // Nobody knows when it ends, so it is denied for ever.
    let until = readable(until, exported, || Item::Jwt(JwtRevocation::new(id, UnixTime::MAX)).to_string())?;
    let until = until.map_or(Some(UnixTime::MAX), |found| found);
    exported.items.extend(until.map(|until| Item::Jwt(JwtRevocation::new(id, until))));
    Ok(())
}

fn export_user(connection: &Connection, key: &[u8], exported: &mut Exported) -> Result<(), Failure> {
    let id = str::from_utf8(key).ok().and_then(|id| UserId::new(id).ok());
    let id = id.ok_or_else(|| Failure::unreadable("user_id"));
    let name = || format!("user {}", String::from_utf8_lossy(key).escape_debug());
    let Some(id) = readable(id, exported, name)? else { return Ok(()) };
    let had_token = is_owner(connection, &id)?;
    let known = match readable(users::state(connection, &id), exported, name)? {
        Some(state) => KnownUser::new(id, had_token, state),
        None => KnownUser::unreadable(id, had_token),
    };
    exported.items.push(Item::User(known));
    Ok(())
}

fn is_owner(connection: &Connection, user: &UserId) -> Result<bool, Failure> {
    let sql = "SELECT EXISTS (SELECT 1 FROM owners WHERE user_id = ?1)";
    Ok(connection.prepare_cached(sql)?.query_row([user.as_str()], |row| row.get(0))?)
}

fn export_token(connection: &Connection, key: &[u8], exported: &mut Exported) -> Result<(), Failure> {
    let name = || {
        let id = key.try_into().ok().and_then(TokenId::from_bytes);
        let id = id.map_or_else(|| hex(key), |id| id.to_string());
        let owner = owner_of(connection, key).map_or(String::new(), |owner| format!(" of {owner}"));
        format!("token {id}{owner}")
    };
    let token = readable(stored(connection, key), exported, name)?.flatten();
    exported.items.extend(token.map(|token| Item::Token(Box::new(token))));
    Ok(())
}

/// Whose a damaged token was, if that can be read.
fn owner_of(connection: &Connection, key: &[u8]) -> Option<UserId> {
    let mut statement = connection.prepare_cached("SELECT user_id FROM tokens WHERE id = ?1").ok()?;
    let owner: String = statement.query_row([key], |row| row.get(0)).ok()?;
    UserId::new(owner).ok()
}

fn stored(connection: &Connection, id: &[u8]) -> Result<Option<StoredToken>, Failure> {
    let mut statement = connection.prepare_cached(select!("WHERE t.id = ?1"))?;
    let mut rows = statement.query([id])?;
    let Some(record) = rows.next()?.map(decode).transpose()? else { return Ok(None) };
    let sql = "SELECT warn_from FROM tokens WHERE id = ?1";
    let warn_from = connection.prepare_cached(sql)?.query_row([id], |row| Ok(from_time(row, 0)))??;
    Ok(Some(StoredToken::new(record, warn_from)))
}

pub(super) fn import(connection: &mut Connection, items: &[Item]) -> Result<Vec<Imported>, Failure> {
    write(connection, |transaction| {
        let imported = items.iter().map(|item| match item {
            Item::Jwt(jwt) => import_jwt(transaction, jwt),
            Item::User(known) => import_user(transaction, known),
            Item::Token(token) => import_token(transaction, token),
        });
        imported.collect()
    })
}

/// What is stored in the place of an item; a damaged row is no reason to write nothing else.
fn in_place<T>(stored: Result<T, Failure>) -> Result<Result<T, Imported>, Failure> {
    match stored {
        Ok(stored) => Ok(Ok(stored)),
        Err(failure) if failure.error.kind() == StoreErrorKind::Corrupt && !failure.reopen => {
            Ok(Err(Imported::Refused(Conflict::Unreadable)))
        }
        Err(failure) => Err(failure),
    }
}

fn import_jwt(transaction: &Transaction<'_>, jwt: &JwtRevocation) -> Result<Imported, Failure> {
    let stored = match in_place(users::jwt(transaction, &jwt.id))? {
        Ok(stored) => stored,
        Err(refused) => return Ok(refused),
    };
    let imported = Imported::of_jwt(jwt, stored);
    if matches!(imported, Imported::Added | Imported::Changed) {
        users::put_jwt(transaction, jwt)?;
    }
    Ok(imported)
}

fn import_user(transaction: &Transaction<'_>, known: &KnownUser) -> Result<Imported, Failure> {
    let had_token = is_owner(transaction, &known.user)?;
    let stored = match in_place(users::state(transaction, &known.user))? {
        Ok(state) => KnownUser::new(known.user.clone(), had_token, state),
        Err(refused) => return Ok(refused),
    };
    let is_new = !stored.had_token && stored.state.is_none();
    let (merged, imported) = known.over(&stored);
    if merged.had_token && !stored.had_token {
        let sql = "INSERT OR IGNORE INTO owners (user_id) VALUES (?1)";
        transaction.prepare_cached(sql)?.execute([merged.user.as_str()])?;
    }
    if let Some(state) = merged.state.filter(|state| Some(state) != stored.state.as_ref()) {
        users::put(transaction, &state)?;
    }
    Ok(if is_new { Imported::Added } else { imported })
}

fn import_token(transaction: &Transaction<'_>, token: &StoredToken) -> Result<Imported, Failure> {
    let record = &token.record;
    let id = record.id.into_bytes();
    let imported = match in_place(stored(transaction, &id))? {
        Ok(Some(stored)) => token.over(&stored),
        Ok(None) => match in_place(find(transaction, &record.digest))? {
            Ok(None) => Imported::Added,
            Ok(Some(_)) => Imported::Refused(Conflict::DigestTaken),
            Err(refused) => refused,
        },
        Err(refused) => refused,
    };
    match imported {
        Imported::Added => insert_row(transaction, record)?,
        Imported::Changed => {
            replace_row(transaction, record)?;
            let values = [Value::Blob(id.to_vec())].into_iter().chain(encode_usage(record)?);
            transaction
                .prepare_cached(
                    "UPDATE usage SET last_used = ?2, last_used_ip = ?3, request_count = ?4, seal = ?5, \
                     quota = ?6, habits = ?7 WHERE n = (SELECT n FROM tokens WHERE id = ?1)",
                )?
                .execute(rusqlite::params_from_iter(values))?;
        }
        _ => return Ok(imported),
    }
    if token.warn_from != Some(UnixTime::EPOCH) || imported == Imported::Changed {
        transaction
            .prepare_cached("UPDATE tokens SET warn_from = ?2 WHERE id = ?1")?
            .execute(params![id, token.warn_from.map(UnixTime::as_millis)])?;
    }
    Ok(imported)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use tempfile::TempDir;

    use super::*;
    use crate::{
        AdminProof, Owner,
        event::{Event, EventKind},
        secret::TokenDigest,
        store::{
            AuditError, AuditStore, Broken, ChainHead, Flaw, MemoryStore, SqliteOptions, SqliteStore,
            TokenStore, UserState, UserStatus,
            audit::verify::verify,
            transfer::{Report, Transfer},
        },
        token::TokenRecord,
    };

    const FAR: UnixTime = UnixTime::from_millis(4_000_000_000_000);

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn record(n: u8) -> TokenRecord {
        let id = TokenId::from_bytes([n; 16]).unwrap();
        let record = TokenRecord::new(id, TokenDigest::of(&[n]), user("alice"), UnixTime::EPOCH);
        TokenRecord { name: format!("name-{n}-").repeat(20).into(), ..record }
    }

    async fn filled(tokens: u8) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.db");
        let store = SqliteStore::open(&path).await.unwrap();
        for n in 1..=tokens {
            store.insert(&record(n), None).await.unwrap();
        }
        for name in ["bob", "carol"] {
            store.set_user_state(&UserState::new(user(name), UserStatus::Active)).await.unwrap();
        }
        for n in [1, 2] {
            let jwt = JwtRevocation::new(JwtId::from_bytes([n; 32]), FAR);
            store.revoke_jwt(&jwt, UnixTime::EPOCH).await.unwrap();
        }
        store.append(&[1, 2, 3, 4, 5].map(|_| Event::new(EventKind::TokenCreated))).await.unwrap();
        drop(store);
        // This waits until all others have closed it, and leaves nothing beside the file.
        let connection = Connection::open(&path).unwrap();
        while connection.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).is_err() {
            tokio::task::yield_now().await;
        }
        (directory, path)
    }

    async fn copied(path: &PathBuf, target: &MemoryStore) -> Report {
        let source = SqliteOptions::new(path).with_check_on_open(false).open().await.unwrap();
        let proof = AdminProof::operator("ops", "a test").unwrap();
        Transfer::new(&source, target, &proof).with_audit(&source, target).finish(|_| {}).await.unwrap()
    }

    fn found(report: &Report) -> Vec<String> {
        report.findings.iter().map(|finding| format!("{}: {}", finding.side, finding.item)).collect()
    }

    #[tokio::test]
    async fn damaged_rows_are_named_and_keep_back_nothing_else() {
        let (_directory, path) = filled(9).await;
        let sql = "UPDATE tokens SET scopes = '[\"a\"]' WHERE n = 2; \
                   UPDATE usage SET request_count = 7 WHERE n = 4; \
                   UPDATE tokens SET id = x'0707' WHERE n = 7; \
                   UPDATE tokens SET user_id = char(8) WHERE n = 9; \
                   UPDATE users SET status = 'offboarded' WHERE user_id = 'bob'; \
                   UPDATE revoked_jwts SET until = 5 WHERE id = (SELECT min(id) FROM revoked_jwts)";
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        let target = MemoryStore::new();
        let report = copied(&path, &target).await;
        assert!(report.is_equal() && !report.is_complete(), "{report}");
        let expected = [
            "source: JWT 0101010101010101".to_owned(),
            "source: user bob".to_owned(),
            format!("source: token {} of alice", record(2).id),
            format!("source: token {} of alice", record(4).id),
            "source: token 0707 of alice".to_owned(),
            format!("source: token {}", record(9).id),
        ];
        let mut found = found(&report);
        for expected in &expected {
            assert!(found.contains(expected), "{expected} is not in\n{report}");
        }
        found.retain(|found| !expected.contains(found));
        assert!(found.is_empty(), "{found:?}");
        for n in 1..=9 {
            let copied = target.find(&record(n).digest).await.unwrap();
            assert_eq!(copied.is_some(), ![2, 4, 7, 9].contains(&n), "token {n}");
        }
        let denials = target.denials(UnixTime::EPOCH).await.unwrap();
        assert_eq!(denials.jwts.len(), 2, "what is revoked for an unknown time is revoked");
        let states: Vec<_> =
            denials.users.iter().map(|state| (state.user.as_str(), state.is_active())).collect();
        assert_eq!(states, [("bob", false), ("carol", true)]);
    }

    #[tokio::test]
    async fn a_page_that_cannot_be_read_keeps_back_its_own_rows_only() {
        let (_directory, path) = filled(200).await;
        let mut bytes = fs::read(&path).unwrap();
        let place = bytes.windows(9).position(|window| window == b"name-100-").unwrap();
        bytes[place / 4096 * 4096] = 0x63;
        fs::write(&path, bytes).unwrap();
        let target = MemoryStore::new();
        let report = copied(&path, &target).await;
        assert!(report.is_equal() && !report.is_complete(), "{report}");
        let lost = report.findings.len();
        assert!(found(&report).contains(&format!("source: token {}", record(100).id)), "{report}");
        assert!((2..30).contains(&lost), "{report}");
        let proof = AdminProof::operator("ops", "a test").unwrap();
        assert_eq!(target.count(Owner::Any(&proof)).await.unwrap(), 200 - lost as u64);
    }

    #[tokio::test]
    async fn a_flaw_of_the_audit_log_is_named_and_comes_along() {
        for (sql, number, flaw) in [
            ("UPDATE audit SET event = 'x' WHERE n = 3", 3, Flaw::Altered),
            ("UPDATE audit SET count = -1 WHERE n = 3", 3, Flaw::Unreadable),
            ("DELETE FROM audit WHERE n = 3", 3, Flaw::Missing),
        ] {
            let (_directory, path) = filled(1).await;
            Connection::open(&path).unwrap().execute_batch(sql).unwrap();
            let target = MemoryStore::new();
            let report = copied(&path, &target).await;
            assert!(report.is_equal() && !report.is_complete(), "{sql}: {report}");
            assert_eq!(found(&report), ["source: audit log"], "{sql}: {report}");
            let broken = Broken { number, flaw };
            assert_eq!(&*report.findings[0].what, broken.to_string(), "{sql}");
            match verify(&target, None).await {
                Err(AuditError::Broken(found)) => assert_eq!(found, broken, "{sql}"),
                other => panic!("{sql}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn what_stands_behind_the_end_of_the_audit_log_is_named_and_not_copied() {
        let (_directory, path) = filled(1).await;
        let sql = "INSERT INTO audit SELECT n + 1, version, at, event, alert, outcome, actor, actor_email, user_id, \
                   token_id, client_ip, request_id, refusal, reason, count, hash FROM audit WHERE n = 5";
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        let target = MemoryStore::new();
        let report = copied(&path, &target).await;
        assert_eq!(found(&report), ["source: audit log"], "{report}");
        assert!(report.findings[0].what.contains("was not written by keyward"), "{report}");
        let ends = target.chain_ends().await.unwrap();
        assert_eq!((ends.anchor, ends.head.number), (ChainHead::START, 5));
    }
}
