//! What clients get to see.

use std::net::IpAddr;

use serde::Serialize;

use crate::{
    id::{TokenId, UserId},
    limit::Limits,
    manage::{Finished, IssuedToken, TokenManager, TokenPage},
    net::IpList,
    scope::{Grant, RoleSet},
    time::UnixTime,
    token::{Metadata, TokenClass, TokenRecord, TokenStatus},
};

/// A token as its owner sees it: everything but the digest.
#[derive(Debug, Serialize)]
pub(super) struct TokenView<'a> {
    id: TokenId,
    name: &'a str,
    user_id: &'a UserId,
    hint: &'a str,
    class: TokenClass,
    scopes: &'a Grant,
    roles: &'a Grant<RoleSet>,
    allowed_ips: Option<&'a IpList>,
    metadata: &'a Metadata,
    limits: Option<Limits>,
    created_at: UnixTime,
    created_ip: Option<IpAddr>,
    created_by: Option<TokenId>,
    parent_id: Option<TokenId>,
    expires_at: Option<UnixTime>,
    last_used: Option<UnixTime>,
    last_used_ip: Option<IpAddr>,
    request_count: u64,
    enabled: bool,
    revoked: bool,
    revoked_at: Option<UnixTime>,
    successor_id: Option<TokenId>,
    status: TokenStatus,
    /// For administrators only: to all others a trap looks like any key.
    #[serde(skip_serializing_if = "Option::is_none")]
    honeytoken: Option<bool>,
}

impl<'a> TokenView<'a> {
    pub(super) fn new(tokens: &TokenManager, record: &'a TokenRecord) -> Self {
        Self {
            id: record.id,
            name: &record.name,
            user_id: &record.owner,
            hint: &record.hint,
            class: record.class,
            scopes: &record.scopes,
            roles: &record.roles,
            allowed_ips: record.allowed_ips.as_ref(),
            metadata: &record.metadata,
            limits: Some(record.limits).filter(|limits| !limits.is_empty()),
            created_at: record.created_at,
            created_ip: record.created_ip,
            created_by: record.created_by,
            parent_id: record.parent,
            expires_at: tokens.apparent_expiry(record),
            last_used: record.last_used,
            last_used_ip: record.last_used_ip,
            request_count: record.request_count,
            enabled: record.disabled_at.is_none(),
            revoked: record.revoked_at.is_some(),
            revoked_at: record.revoked_at,
            successor_id: record.successor,
            status: tokens.status(record),
            honeytoken: None,
        }
    }

    fn for_admin(self, record: &TokenRecord) -> Self {
        Self { honeytoken: Some(record.honeytoken), expires_at: record.expires_at, ..self }
    }
}

/// The only answer with a key in it. It has no `Debug`.
#[derive(Serialize)]
pub(super) struct Issued<'a> {
    key: &'a str,
    #[serde(flatten)]
    token: TokenView<'a>,
}

impl<'a> Issued<'a> {
    pub(super) fn new(tokens: &TokenManager, issued: &'a IssuedToken) -> Self {
        Self { key: issued.key.expose(), token: TokenView::new(tokens, &issued.record) }
    }

    pub(super) fn for_admin(tokens: &TokenManager, issued: &'a IssuedToken) -> Self {
        let Self { key, token } = Self::new(tokens, issued);
        Self { key, token: token.for_admin(&issued.record) }
    }
}

/// A replaced token whose overlap was ended.
#[derive(Debug, Serialize)]
pub(super) struct FinishedView<'a> {
    still_used: bool,
    #[serde(flatten)]
    token: TokenView<'a>,
}

impl<'a> FinishedView<'a> {
    pub(super) fn new(tokens: &TokenManager, finished: &'a Finished) -> Self {
        Self { still_used: finished.still_used, token: TokenView::new(tokens, &finished.record) }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct TokenList<'a> {
    tokens: Vec<TokenView<'a>>,
    next_cursor: Option<TokenId>,
}

impl<'a> TokenList<'a> {
    pub(super) fn new(tokens: &TokenManager, page: &'a TokenPage) -> Self {
        let views = page.tokens.iter().map(|record| TokenView::new(tokens, record)).collect();
        Self { tokens: views, next_cursor: page.next_cursor }
    }

    pub(super) fn for_admin(tokens: &TokenManager, page: &'a TokenPage) -> Self {
        let views =
            page.tokens.iter().map(|record| TokenView::new(tokens, record).for_admin(record)).collect();
        Self { tokens: views, next_cursor: page.next_cursor }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Ownership<'a> {
    pub(super) user_id: &'a UserId,
    pub(super) user_tokens_count: u64,
    pub(super) total_tokens_in_system: u64,
}
