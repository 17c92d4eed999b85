//! What a transfer says: how far it is, what it did, and what it found.

use std::fmt;

use super::ContentDigest;
use crate::store::StoreError;

/// How many findings are named; more are counted.
const NAMED: usize = 1000;

/// How far a transfer is.
///
/// As text it is such as `tokens: 1500 of 100000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What it is at.
    pub step: Step,
    /// How many were looked at in this step.
    pub done: u64,
    /// How many there were when the step began, if the source said so. While it serves there may be more.
    pub total: Option<u64>,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.done)?;
        self.total.map_or(Ok(()), |total| write!(f, " of {total}"))
    }
}

/// What a transfer does, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// JWTs that are revoked.
    RevokedJwts,
    /// Users, their states, and who ever had a token.
    Users,
    /// Those of the tokens that are revoked, replaced or switched off.
    DeadTokens,
    /// All tokens.
    Tokens,
    /// The audit log.
    AuditEntries,
    /// Reading both sides and comparing them.
    Compare,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RevokedJwts => "revoked JWTs",
            Self::Users => "users",
            Self::DeadTokens => "revoked tokens",
            Self::Tokens => "tokens",
            Self::AuditEntries => "audit entries",
            Self::Compare => "compared",
        })
    }
}

/// How many of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copied {
    /// How many the source has.
    pub read: u64,
    /// How many the target did not have.
    pub added: u64,
    /// How many the target had as they were before.
    pub changed: u64,
}

/// What one round of a transfer did.
///
/// As text it is a few lines for people; the last ones are the findings.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
#[must_use]
pub struct Report {
    /// Of JWTs that are revoked.
    pub revoked_jwts: Copied,
    /// Of users.
    pub users: Copied,
    /// Of tokens.
    pub tokens: Copied,
    /// Of audit entries.
    pub audit_entries: Copied,
    /// What both sides hold, if they were compared.
    pub comparison: Option<Comparison>,
    /// What a person should look at; at most 1000.
    pub findings: Vec<Finding>,
    /// How many more there were.
    pub more_findings: u64,
}

impl Report {
    /// Whether both sides were compared and hold the same.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.comparison.as_ref().is_some_and(Comparison::is_equal)
    }

    /// Whether both sides hold the same and nothing was found: then the target can take over.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_equal() && self.findings.is_empty()
    }

    /// How much this round wrote to the target.
    #[must_use]
    pub fn written(&self) -> u64 {
        let all = [self.revoked_jwts, self.users, self.tokens, self.audit_entries];
        all.iter().map(|copied| copied.added + copied.changed).sum()
    }

    pub(super) fn find(&mut self, side: Side, item: &impl fmt::Display, what: &impl fmt::Display) {
        if self.findings.len() < NAMED {
            self.findings.push(Finding {
                side,
                item: item.to_string().into(),
                what: what.to_string().into(),
            });
        } else {
            self.more_findings += 1;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            (Step::RevokedJwts, self.revoked_jwts),
            (Step::Users, self.users),
            (Step::Tokens, self.tokens),
            (Step::AuditEntries, self.audit_entries),
        ];
        for (step, Copied { read, added, changed }) in kinds {
            writeln!(f, "{step}: {read} in the source, {added} added, {changed} brought up to date")?;
        }
        match &self.comparison {
            None => writeln!(f, "not compared")?,
            Some(Comparison { source, target, ended }) => {
                writeln!(f, "source: {source}")?;
                writeln!(f, "target: {target}")?;
                if *ended > 0 {
                    writeln!(f, "{ended} ended tokens are in the target only")?;
                }
                writeln!(f, "{}", if self.is_equal() { "equal" } else { "NOT equal" })?;
            }
        }
        self.findings.iter().try_for_each(|finding| writeln!(f, "{finding}"))?;
        if self.more_findings > 0 {
            writeln!(f, "and {} more findings", self.more_findings)?;
        }
        Ok(())
    }
}

/// What both sides hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Comparison {
    /// The source.
    pub source: Contents,
    /// The target.
    pub target: Contents,
    /// How many tokens only the target has that had ended, as far as
    /// [the transfer knows](super::Transfer::with_lifetimes): the source has removed them since they were copied. They
    /// count for nothing else here.
    pub ended: u64,
}

impl Comparison {
    /// Whether it is the same.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.source == self.target
    }
}

/// What one side holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contents {
    /// How many JWTs that are revoked and have not ended.
    pub revoked_jwts: u64,
    /// How many users.
    pub users: u64,
    /// How many tokens.
    pub tokens: u64,
    /// How many audit entries; none if the audit log is not copied.
    pub audit_entries: u64,
    /// Over all of that.
    pub digest: ContentDigest,
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { revoked_jwts, users, tokens, audit_entries, digest } = self;
        write!(
            f,
            "{tokens} tokens, {users} users, {revoked_jwts} revoked JWTs, {audit_entries} audit entries, \
             digest {digest}"
        )
    }
}

/// Where something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a transfer has two sides")]
pub enum Side {
    /// Where it is copied from.
    Source,
    /// Where it is copied to.
    Target,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// Something that a person should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// Where.
    pub side: Side,
    /// What it is about, such as `token 019a9d5a-7c00-7abc-8def-0123456789ab of alice`.
    pub item: Box<str>,
    /// What is the matter with it.
    pub what: Box<str>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.side, self.item, self.what)
    }
}

/// A side could not be read or written. What was copied until then stays, and the next round goes on from there.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// Where it is copied from.
    #[error("the source failed: {0}")]
    Source(#[source] StoreError),
    /// Where it is copied to.
    #[error("the target failed: {0}")]
    Target(#[source] StoreError),
}

impl TransferError {
    /// Of which side, and why.
    pub(super) fn of(side: Side) -> impl Fn(StoreError) -> Self {
        match side {
            Side::Source => Self::Source,
            Side::Target => Self::Target,
        }
    }
}
