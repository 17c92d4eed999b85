//! One digest over all that a store holds, whatever kind of store it is.

use std::{fmt, net::IpAddr};

use serde::{Serialize, Serializer};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Item, KnownUser, StoredToken};
use crate::{
    id::TokenId,
    store::{AuditEntry, ChainEnds, ChainHash},
    time::UnixTime,
    token::TokenRecord,
};

/// SHA-256 over the contents of a store: all users, revocations, tokens with their use, and audit entries. Two stores
/// with the same one hold the same. `Display` and serde use 64 hexadecimal digits.
///
/// What is hashed may change between versions of this crate: compare only what one version computed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentDigest([u8; 32]);

impl ContentDigest {
    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ContentDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Each value after a byte that says what it is, texts after their length: no two contents have one encoding.
#[derive(Debug, Default)]
pub(super) struct Hasher(Sha256);

impl Hasher {
    pub(super) fn finish(self) -> ContentDigest {
        ContentDigest(self.0.finalize().into())
    }

    pub(super) fn item(&mut self, item: &Item) {
        match item {
            Item::Jwt(jwt) => {
                self.kind(b'j');
                self.bytes(jwt.id.as_bytes());
                self.time(Some(jwt.until));
            }
            Item::User(known) => self.user(known),
            Item::Token(token) => self.token(token),
        }
    }

    pub(super) fn audit_entry(&mut self, entry: &AuditEntry) {
        self.kind(b'a');
        self.bytes(entry.hash_after(&ChainHash::ZERO).as_bytes());
        self.bytes(entry.hash.as_bytes());
    }

    pub(super) fn audit_ends(&mut self, ends: &ChainEnds) {
        self.kind(b'e');
        for end in [ends.anchor, ends.head] {
            self.integer(i128::from(end.number));
            self.bytes(end.hash.as_bytes());
        }
    }

    fn user(&mut self, known: &KnownUser) {
        self.kind(b'u');
        self.bytes(known.user.as_str().as_bytes());
        self.flag(known.had_token);
        self.flag(known.state.is_some());
        if let Some(state) = &known.state {
            self.bytes(state.status.as_str().as_bytes());
            self.time(state.jwts_not_before);
        }
    }

    /// Names all fields, so that one that is added is not forgotten here.
    fn token(&mut self, token: &StoredToken) {
        #[rustfmt::skip]
        let TokenRecord {
            id, digest, owner, name, class, scopes, roles, allowed_ips, metadata, hint, created_at, created_ip,
            created_by, parent, limits, honeytoken, expires_at, rolling, hard_end, disabled_at, revoked_at,
            successor, revision, last_used, last_used_ip, request_count, quota_use, habits,
        } = &token.record;
        self.kind(b't');
        self.bytes(&id.into_bytes());
        self.bytes(digest.as_bytes());
        for text in [owner.as_str(), name, class.as_str(), hint] {
            self.bytes(text.as_bytes());
        }
        self.json(scopes);
        self.json(roles);
        self.json(allowed_ips);
        self.object(metadata);
        self.json(limits);
        self.json(quota_use);
        self.json(habits);
        for ip in [created_ip, last_used_ip] {
            self.address(*ip);
        }
        for id in [created_by, parent, successor] {
            self.id(*id);
        }
        for flag in [*honeytoken, *rolling] {
            self.flag(flag);
        }
        let times = [*expires_at, *hard_end, *disabled_at, *revoked_at, *last_used, token.warn_from];
        [Some(*created_at)].into_iter().chain(times).for_each(|time| self.time(time));
        // No store need count further.
        self.integer(i128::from((*request_count).min(i64::MAX as u64)));
        self.integer(i128::from(*revision));
    }

    fn kind(&mut self, kind: u8) {
        self.0.update([kind]);
    }

    fn integer(&mut self, value: i128) {
        self.kind(1);
        self.0.update(value.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.kind(2);
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    fn flag(&mut self, flag: bool) {
        self.kind(if flag { 4 } else { 3 });
    }

    fn time(&mut self, time: Option<UnixTime>) {
        self.flag(time.is_some());
        time.into_iter().for_each(|time| self.integer(i128::from(time.as_millis())));
    }

    fn id(&mut self, id: Option<TokenId>) {
        self.flag(id.is_some());
        id.into_iter().for_each(|id| self.bytes(&id.into_bytes()));
    }

    fn address(&mut self, ip: Option<IpAddr>) {
        self.flag(ip.is_some());
        ip.into_iter().for_each(|ip| self.bytes(ip.to_string().as_bytes()));
    }

    fn json(&mut self, value: &impl Serialize) {
        // None of these can fail: they hold no map whose keys are no texts.
        self.value(&serde_json::to_value(value).unwrap_or_default());
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.kind(b'n'),
            Value::Bool(flag) => self.flag(*flag),
            Value::Number(number) => self.bytes(number.to_string().as_bytes()),
            Value::String(text) => {
                self.kind(b's');
                self.bytes(text.as_bytes());
            }
            Value::Array(values) => {
                self.kind(b'[');
                self.integer(values.len() as i128);
                values.iter().for_each(|value| self.value(value));
            }
            Value::Object(object) => self.object(object),
        }
    }

    /// In the order of the names: with a feature of `serde_json` that another crate may have switched on, an object
    /// keeps the order in which it was made.
    fn object(&mut self, object: &serde_json::Map<String, Value>) {
        let mut members: Vec<_> = object.iter().collect();
        members.sort_unstable_by_key(|(name, _)| *name);
        self.kind(b'{');
        self.integer(members.len() as i128);
        for (name, value) in members {
            self.bytes(name.as_bytes());
            self.value(value);
        }
    }
}
