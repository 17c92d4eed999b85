//! What a person should look at.

use super::Outcome;

/// What a person should look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Alert {
    /// A user asked for a resource or token of somebody else, and was told that there is none. Of the same caller
    /// and target it is said the first time, the 10th, the 100th and so on within an hour, with how many there were
    /// in between as the event's count; of a caller who tries more than 32 targets, all further ones count as one.
    ForeignAccess,
    /// A store returned somebody else's record; it was dropped.
    ForeignRecord,
    /// A revoked token was presented; said once an hour of each and each network (a /24, or a /48 of IPv6), and of 8
    /// networks at most.
    RevokedTokenUsed,
    /// A token was presented that was replaced, after its overlap: by somebody who was forgotten, or who should
    /// not have it. Said as often as of a revoked one.
    RotatedTokenUsed,
    /// A [trap](crate::token::TokenRecord::honeytoken) was presented, so whoever did has seen what nobody should.
    /// Said as often as of a revoked one.
    HoneytokenUsed,
    /// A token that works was presented from an address that it may not be used from, and refused. Said as often as of a
    /// revoked one.
    AddressNotAllowed,
    /// A token was used from networks that it was not used from before; see [`Watch`](crate::watch::Watch). The event's
    /// address is that of the last of them, if it is told of at once.
    NewNetwork {
        /// How many were new since the last alert; mostly one.
        new: u32,
        /// How many are known beside them.
        known: u32,
    },
    /// A token was used by programs that it was not used by before. The event's
    /// [`user_agent`](super::Event::user_agent) is that of the last of them, if it is told of at once.
    NewUserAgent {
        /// How many were new since the last alert; mostly one.
        new: u32,
        /// How many are known beside them.
        known: u32,
    },
    /// A token is used from so many networks at once that several people or machines may share it.
    SharedToken {
        /// How many networks.
        networks: u32,
        /// Within how many seconds.
        seconds: u64,
    },
    /// A token is used much more than ever lately.
    UsageSpike {
        /// How many requests it has made since the hour began.
        requests: u64,
        /// How many it made in the busiest hour of its past, of which the older ones count less.
        usual: u64,
    },
    /// More credentials from one address were wrong than allowed; said once until it keeps to the limit for a
    /// minute.
    BruteForce,
    /// The store stopped answering; said once until a call of any kind succeeds again.
    StoreUnavailable,
    /// The store answers again.
    StoreRecovered,
    /// The keys of a JWT issuer cannot be fetched; said once until they can be again.
    KeysUnavailable,
    /// The keys of a JWT issuer can be fetched again.
    KeysRecovered,
    /// An issuer's key set holds a key that must not be there, such as a symmetric one; it is not used.
    KeyRefused,
    /// The stored audit log is not what was written; the reason says which entry.
    AuditTampered,
    /// The application's own source of users stopped answering; said once until it answers again.
    DirectoryUnavailable,
    /// The application's own source of users answers again.
    DirectoryRecovered,
    /// The emergency key was used; the event's reason is the one that was given.
    EmergencyUse,
    /// The emergency key was presented and refused; the event's reason says why.
    EmergencyRefused,
}

impl Alert {
    /// The stable name of this alert, such as `foreign_access`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ForeignAccess => "foreign_access",
            Self::ForeignRecord => "foreign_record",
            Self::RevokedTokenUsed => "revoked_token_used",
            Self::RotatedTokenUsed => "rotated_token_used",
            Self::HoneytokenUsed => "honeytoken_used",
            Self::AddressNotAllowed => "address_not_allowed",
            Self::NewNetwork { .. } => "new_network",
            Self::NewUserAgent { .. } => "new_user_agent",
            Self::SharedToken { .. } => "shared_token",
            Self::UsageSpike { .. } => "usage_spike",
            Self::BruteForce => "brute_force",
            Self::StoreUnavailable => "store_unavailable",
            Self::StoreRecovered => "store_recovered",
            Self::KeysUnavailable => "keys_unavailable",
            Self::KeysRecovered => "keys_recovered",
            Self::KeyRefused => "key_refused",
            Self::AuditTampered => "audit_tampered",
            Self::DirectoryUnavailable => "directory_unavailable",
            Self::DirectoryRecovered => "directory_recovered",
            Self::EmergencyUse => "emergency_use",
            Self::EmergencyRefused => "emergency_refused",
        }
    }

    /// Of something new, beside how many known ones.
    #[must_use]
    pub const fn known(self) -> Option<u32> {
        match self {
            Self::NewNetwork { known, .. } | Self::NewUserAgent { known, .. } => Some(known),
            _ => None,
        }
    }

    /// Of a spike, how many requests there were in the busiest hour before.
    #[must_use]
    pub const fn usual(self) -> Option<u64> {
        match self {
            Self::UsageSpike { usual, .. } => Some(usual),
            _ => None,
        }
    }

    /// Of a shared token, within how many seconds it was used from so many networks.
    #[must_use]
    pub const fn within_seconds(self) -> Option<u64> {
        match self {
            Self::SharedToken { seconds, .. } => Some(seconds),
            _ => None,
        }
    }

    /// How it ended: whether what raised this alert was done, refused or did not work.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::StoreRecovered
            | Self::KeysRecovered
            | Self::DirectoryRecovered
            | Self::EmergencyUse
            | Self::NewNetwork { .. }
            | Self::NewUserAgent { .. }
            | Self::SharedToken { .. }
            | Self::UsageSpike { .. } => Outcome::Success,
            Self::ForeignAccess
            | Self::ForeignRecord
            | Self::RevokedTokenUsed
            | Self::RotatedTokenUsed
            | Self::HoneytokenUsed
            | Self::AddressNotAllowed
            | Self::BruteForce
            | Self::KeyRefused
            | Self::EmergencyRefused => Outcome::Refused,
            Self::StoreUnavailable
            | Self::KeysUnavailable
            | Self::DirectoryUnavailable
            | Self::AuditTampered => Outcome::Failed,
        }
    }
}
