//! What a store in memory gives out and takes in.

use std::ops::Bound;

use super::Tokens;
use crate::{
    id::{TokenId, UserId},
    store::{
        JwtId, JwtRevocation, StoreError, StoreErrorKind,
        transfer::{Conflict, Exported, Imported, Item, KnownUser, Position, Section, StoredToken},
    },
};

impl Tokens {
    pub(super) fn export(
        &self,
        section: Section,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<Exported, StoreError> {
        let bytes = after.map(Position::as_bytes);
        let (items, total): (Vec<_>, _) = match section {
            Section::RevokedJwts => {
                let later = self.jwts.range((start(bytes, jwt_id)?, Bound::Unbounded)).take(limit);
                let jwts = later.map(|(id, until)| Item::Jwt(JwtRevocation::new(*id, *until)));
                (jwts.collect(), self.jwts.len())
            }
            Section::Users => {
                let known = self.users_after(&start(bytes, user_id)?, limit).into_iter();
                (known.map(|user| Item::User(self.known_user(user))).collect(), self.owners.len())
            }
            Section::Tokens => {
                let later = self.by_id.range((start(bytes, token_id)?, Bound::Unbounded)).take(limit);
                let tokens = later.filter_map(|(id, _)| self.stored(*id));
                (tokens.map(|token| Item::Token(Box::new(token))).collect(), self.by_id.len())
            }
        };
        let next = items.last().filter(|_| items.len() == limit).map(position);
        Ok(Exported { total: after.is_none().then_some(total as u64), ..Exported::new(items, next) })
    }

    fn users_after(&self, start: &Bound<UserId>, limit: usize) -> Vec<&UserId> {
        let owners = self.owners.range((start.as_ref(), Bound::Unbounded)).take(limit);
        let users = self.users.range((start.as_ref(), Bound::Unbounded)).take(limit);
        let mut known: Vec<_> = owners.chain(users.map(|(user, _)| user)).collect();
        known.sort_unstable();
        known.dedup();
        known.truncate(limit);
        known
    }

    fn known_user(&self, user: &UserId) -> KnownUser {
        KnownUser::new(user.clone(), self.owners.contains(user), self.users.get(user).cloned())
    }

    fn stored(&self, id: TokenId) -> Option<StoredToken> {
        let record = self.by_id.get(&id)?.clone();
        Some(StoredToken::new(record, self.reminders.times.get(&id).copied()))
    }

    pub(super) fn import(&mut self, item: &Item) -> Result<Imported, StoreError> {
        match item {
            Item::Jwt(jwt) => Ok(self.import_jwt(jwt)),
            Item::User(known) => Ok(self.import_user(known)),
            Item::Token(token) => self.import_token(token),
        }
    }

    fn import_jwt(&mut self, jwt: &JwtRevocation) -> Imported {
        let stored = self.jwts.get(&jwt.id).copied();
        let until = stored.map_or(jwt.until, |stored| stored.max(jwt.until));
        self.jwts.insert(jwt.id, until);
        Imported::of_jwt(jwt, stored)
    }

    fn import_user(&mut self, known: &KnownUser) -> Imported {
        let is_known = self.owners.contains(&known.user) || self.users.contains_key(&known.user);
        let (merged, imported) = known.over(&self.known_user(&known.user));
        if merged.had_token {
            self.owners.insert(merged.user.clone());
        }
        if let Some(state) = merged.state {
            self.users.insert(merged.user, state);
        }
        if is_known { imported } else { Imported::Added }
    }

    fn import_token(&mut self, token: &StoredToken) -> Result<Imported, StoreError> {
        let record = &token.record;
        let imported = match self.stored(record.id) {
            Some(stored) => token.over(&stored),
            None if self.ids.contains_key(&record.digest) => Imported::Refused(Conflict::DigestTaken),
            None => {
                self.insert(record)?;
                Imported::Added
            }
        };
        if imported == Imported::Changed
            && let Some(old) = self.by_id.insert(record.id, record.clone())
        {
            self.links.remove(&old);
            self.links.add(record);
        }
        if matches!(imported, Imported::Added | Imported::Changed) {
            let warn_from = token.warn_from.filter(|_| record.expires_at.is_some());
            self.reminders.set(record.id, warn_from);
        }
        Ok(imported)
    }
}

fn position(item: &Item) -> Position {
    match item {
        Item::Jwt(jwt) => Position::from_bytes(jwt.id.as_bytes()),
        Item::User(known) => Position::from_bytes(known.user.as_str().as_bytes()),
        Item::Token(token) => Position::from_bytes(&token.record.id.into_bytes()),
    }
}

fn start<K>(after: Option<&[u8]>, read: impl Fn(&[u8]) -> Option<K>) -> Result<Bound<K>, StoreError> {
    let Some(after) = after else { return Ok(Bound::Unbounded) };
    read(after).map(Bound::Excluded).ok_or_else(|| StoreErrorKind::Conflict.into())
}

fn jwt_id(bytes: &[u8]) -> Option<JwtId> {
    bytes.try_into().ok().map(JwtId::from_bytes)
}

fn user_id(bytes: &[u8]) -> Option<UserId> {
    std::str::from_utf8(bytes).ok().map(|id| UserId::from_valid(id.to_owned()))
}

fn token_id(bytes: &[u8]) -> Option<TokenId> {
    bytes.try_into().ok().and_then(TokenId::from_bytes)
}
