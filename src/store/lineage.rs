//! Tokens that end with others: what those say.

use std::{collections::HashMap, sync::atomic::Ordering};

use crate::{
    id::TokenId,
    store::{
        Owner, StoreError,
        lookup::{Inner, verify_owner},
    },
    time::UnixTime,
    token::{RequestClass, TokenRecord, decide, ended_at},
};

/// How many tokens one can end with, through one another.
pub(crate) const MAX_ANCESTORS: usize = 8;

/// What was replaced is followed so many times: rotation moves the tokens that end with it, so more than once
/// needs several rotations during one look.
const MAX_SUCCESSORS: usize = 4;

/// Tokens that were asked for, for a look at many of one owner.
pub(crate) type Ancestors = HashMap<TokenId, Option<TokenRecord>>;

/// What the tokens say that one ends with.
#[derive(Debug)]
pub(crate) struct Lineage {
    /// Whether all of them work.
    pub(crate) lives: bool,
    /// Before this time that stays so if nobody changes or uses them.
    pub(crate) until: UnixTime,
    /// When the first of them expires, or ended if one did.
    pub(crate) end: UnixTime,
    /// Since when one of them is switched off.
    pub(crate) disabled_at: Option<UnixTime>,
    /// From the nearest on.
    pub(crate) ancestors: Vec<TokenId>,
}

impl Lineage {
    /// That of a token that ends with no other.
    fn none() -> Self {
        Self {
            lives: true,
            until: UnixTime::MAX,
            end: UnixTime::MAX,
            disabled_at: None,
            ancestors: Vec::new(),
        }
    }

    /// Makes the record of a token say what they say.
    pub(crate) fn narrow(&self, record: &mut TokenRecord) {
        if self.end < UnixTime::MAX {
            record.expires_at = Some(record.expires_at.map_or(self.end, |at| at.min(self.end)));
        }
        record.disabled_at = record.disabled_at.or(self.disabled_at);
    }
}

impl Inner {
    /// Asks for the tokens that `record` ends with. A chain that is too long, or that has a gap, is dead.
    pub(crate) async fn lineage(&self, record: &TokenRecord, now: UnixTime) -> Result<Lineage, StoreError> {
        self.lineage_among(record, now, &mut Ancestors::new()).await
    }

    pub(crate) async fn lineage_among(
        &self,
        record: &TokenRecord,
        now: UnixTime,
        known: &mut Ancestors,
    ) -> Result<Lineage, StoreError> {
        let mut lineage = Lineage::none();
        let mut next = record.parent;
        while let Some(id) = next {
            // Before the store is asked: whoever changes one of them afterwards must see it.
            self.families.store(true, Ordering::SeqCst);
            let parent = match known.get(&id) {
                Some(parent) => parent.clone(),
                None => self.parent(Owner::User(&record.owner), id).await?,
            };
            known.insert(id, parent.clone());
            let Some(parent) = parent.filter(|_| lineage.ancestors.len() < MAX_ANCESTORS) else {
                lineage.lives = false;
                lineage.end = lineage.end.min(record.created_at);
                return Ok(lineage);
            };
            self.add_parent(&mut lineage, &parent, now);
            next = parent.parent;
        }
        Ok(lineage)
    }

    fn add_parent(&self, lineage: &mut Lineage, parent: &TokenRecord, now: UnixTime) {
        let policy = self.lifetimes.policy(parent.class);
        // A grace period is the parent's own.
        let decision = decide(parent, policy, now, RequestClass::Unsafe);
        let ended_at = ended_at(parent, policy);
        let end = if ended_at <= now { ended_at } else { parent.expires_at.unwrap_or(UnixTime::MAX) };
        lineage.lives &= decision.access().is_ok();
        lineage.until = lineage.until.min(decision.until());
        lineage.end = lineage.end.min(end);
        lineage.disabled_at = lineage.disabled_at.or(parent.disabled_at);
        lineage.ancestors.push(parent.id);
    }

    /// The token `id`, or what replaced it since somebody read that name.
    async fn parent(&self, owner: Owner<'_>, mut id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        for _ in 0..=MAX_SUCCESSORS {
            let found = self.watch(self.store.get(owner, id).await)?;
            let found = found.and_then(|record| verify_owner(&self.audit, owner, record));
            match found.filter(|record| record.id == id) {
                Some(TokenRecord { successor: Some(successor), .. }) => id = successor,
                Some(mut record) => {
                    self.add_latest_use(&mut record);
                    return Ok(Some(record));
                }
                None => return Ok(None),
            }
        }
        Ok(None)
    }
}
