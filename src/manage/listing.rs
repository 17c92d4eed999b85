//! Lists of tokens, page by page, and what is wanted of them.

use crate::{
    id::UserId,
    manage::{ListQuery, TokenError, TokenManager, TokenPage},
    store::{Owner, Page, lineage::Ancestors, lookup::verify_owner},
    time::UnixTime,
    token::{TokenRecord, hard_end},
};

impl TokenManager {
    /// Reads on until the page is full or the store has no more; after a bound the page stays short.
    pub(super) async fn list_pages(
        &self,
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
                if self.is_wanted(query, &record) {
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

    fn is_wanted(&self, query: &ListQuery, record: &TokenRecord) -> bool {
        let now = self.lookup.now();
        let end = || {
            let hard_end = hard_end(record, self.inner().lifetimes.policy(record.class));
            record.expires_at.unwrap_or(UnixTime::MAX).min(hard_end)
        };
        let ends = record.revoked_at.is_none() && !record.honeytoken;
        let is_expiring = |within| ends && end() > now && end() <= now.saturating_add(within);
        query.status.is_none_or(|status| status == self.status(record))
            && query.expiring_within.is_none_or(is_expiring)
            && query.unused_for.is_none_or(|time| record.last_active() <= now.saturating_sub(time))
    }
}
