//! Lists of tokens, page by page, and what is wanted of them.

use crate::{
    id::UserId,
    manage::{Actor, ListQuery, TokenError, TokenManager, TokenPage},
    store::{Owner, Page, lineage::Ancestors, lookup::verify_owner},
    time::UnixTime,
    token::{TokenRecord, apparent_expiry, hard_end},
};

impl TokenManager {
    /// Reads on until the page is full or the store has no more; after a bound the page stays short.
    pub(super) async fn list_pages(
        &self,
        actor: Actor<'_>,
        scope: Owner<'_>,
        query: &ListQuery,
    ) -> Result<TokenPage, TokenError> {
        self.refuse_keys(query.owner.as_ref().map(UserId::as_str), None)?;
        self.inner().write_unattended_usage().await;
        let wanted = query.limit as usize;
        let step = if query.is_filtered() { ListQuery::MAX_LIMIT } else { query.limit };
        let mut page = TokenPage { tokens: Vec::new(), next_cursor: query.cursor };
        let mut known = Ancestors::new();
        for _ in 0..10 {
            let part = Page { before: page.next_cursor, limit: step };
            let records = self.ask(self.inner().store.list(scope, part)).await?;
            let ended = (records.len() as u64) < u64::from(step);
            for record in records {
                page.next_cursor = Some(record.id);
                let Some(record) = verify_owner(&self.inner().audit, scope, record) else { continue };
                let record = self.as_it_works(record, &mut known).await?;
                if self.is_wanted(actor, query, &record) {
                    page.tokens.push(record);
                }
                if page.tokens.len() == wanted {
                    return Ok(page);
                }
            }
            if ended {
                page.next_cursor = None;
                return Ok(page);
            }
        }
        Ok(page)
    }

    /// When the token ends as far as its owner can see: see [`apparent_expiry`].
    #[cfg_attr(not(feature = "api"), expect(dead_code, reason = "only the module `api` shows it"))]
    pub(crate) fn apparent_expiry(&self, record: &TokenRecord) -> Option<UnixTime> {
        apparent_expiry(record, self.inner().lifetimes.policy(record.class), self.lookup.now())
    }

    fn is_wanted(&self, actor: Actor<'_>, query: &ListQuery, record: &TokenRecord) -> bool {
        let now = self.lookup.now();
        // A caller finds a trap where its shown end has it found; all others know that it has none.
        let is_seen_from_outside = matches!(actor, Actor::Principal(_));
        let end = || {
            let policy = self.inner().lifetimes.policy(record.class);
            let expiry = apparent_expiry(record, policy, now).unwrap_or(UnixTime::MAX);
            if record.honeytoken { expiry } else { expiry.min(hard_end(record, policy)) }
        };
        let ends = record.revoked_at.is_none() && (!record.honeytoken || is_seen_from_outside);
        let is_expiring = |within| ends && end() > now && end() <= now.saturating_add(within);
        query.status.is_none_or(|status| status == self.status(record))
            && query.expiring_within.is_none_or(is_expiring)
            && query.unused_for.is_none_or(|time| record.last_active() <= now.saturating_sub(time))
    }
}
