//! A verified credential and the count of its uses, shared by all requests that present it.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
};

use crate::{
    event::Audit,
    id::{TokenId, UserId},
    limit::{Limiter, Limits},
    net::IpList,
    principal::{AuthMethod, JwtClaims},
    scope::{Grant, RoleSet},
    secret::TokenDigest,
    time::UnixTime,
    token::TokenClass,
    watch::Tracker,
};

/// A verified credential: who it stands for and what it may do. Shared by all requests that present it.
#[derive(Debug)]
pub(crate) struct Credential {
    /// What the cache finds it by; of no meaning for credentials that are not cached.
    pub(crate) digest: TokenDigest,
    pub(crate) user: UserId,
    pub(crate) token: Option<TokenId>,
    pub(crate) scopes: Grant,
    pub(crate) roles: RoleSet,
    /// Whether it carries whatever roles its user has, now and later.
    pub(crate) all_roles: bool,
    pub(crate) audit: Audit,
    pub(crate) method: AuthMethod,
    /// Allows safe methods only.
    pub(crate) read_only: bool,
    /// Which revision of the stored token this was made from.
    pub(crate) revision: u32,
    /// From when until when this verdict may be used without asking the store.
    pub(crate) fresh_from: UnixTime,
    pub(crate) fresh_until: UnixTime,
    /// [`UnixTime::MAX`] if it never expires.
    pub(crate) expires_at: UnixTime,
    /// No key minted through this credential may live longer; [`UnixTime::MAX`] if there is no end.
    pub(crate) hard_end: UnixTime,
    /// Set if use renews it: the class whose lifetime counts.
    pub(crate) rolling: Option<TokenClass>,
    pub(crate) extra: Option<Box<Extra>>,
    pub(crate) uses: Uses,
}

/// What only some credentials have.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    pub(crate) allowed_ips: Option<IpList>,
    pub(crate) limits: Limits,
    pub(crate) limiter: Option<Limiter>,
    /// Until when it still reads, if it is in its grace period.
    pub(crate) grace_until: Option<UnixTime>,
    /// When one of the tokens that it ends with expires, if that is before its own expiry. Use may renew those.
    pub(crate) ends_with: Option<UnixTime>,
    pub(crate) jwt: Option<JwtClaims>,
    /// Its habits, if somebody watches them.
    pub(crate) tracker: Option<Arc<Tracker>>,
}

impl Extra {
    /// Nothing takes no memory.
    pub(crate) fn boxed(self) -> Option<Box<Self>> {
        let Self { allowed_ips, limits, limiter, grace_until, ends_with, jwt, tracker } = &self;
        let limited = allowed_ips.is_some() || !limits.is_empty() || limiter.is_some();
        let ends = grace_until.is_some() || ends_with.is_some();
        (limited || ends || jwt.is_some() || tracker.is_some()).then(|| Box::new(self))
    }
}

impl Credential {
    /// Where it may be presented from, if that is limited.
    #[inline]
    pub(crate) fn allowed_ips(&self) -> Option<&IpList> {
        self.extra.as_deref()?.allowed_ips.as_ref()
    }

    /// How often it may be used; unlimited by default.
    pub(crate) fn limits(&self) -> Limits {
        self.extra.as_deref().map(|extra| extra.limits).unwrap_or_default()
    }

    /// When it stops working, if nothing renews it or what it ends with before.
    #[inline]
    pub(crate) fn ends_at(&self) -> UnixTime {
        self.extra.as_deref().and_then(|extra| extra.ends_with).unwrap_or(self.expires_at)
    }

    /// What counts its requests, if they are limited.
    pub(crate) fn limiter(&self) -> Option<&Limiter> {
        self.extra.as_deref()?.limiter.as_ref()
    }

    /// Its habits, if somebody watches them.
    #[inline]
    pub(crate) fn tracker(&self) -> Option<&Tracker> {
        self.extra.as_deref()?.tracker.as_deref()
    }

    /// What it says, if it is a JWT.
    #[inline]
    pub(crate) fn jwt(&self) -> Option<&JwtClaims> {
        self.extra.as_deref()?.jwt.as_ref()
    }
}

/// Use of one credential since it was last written to the store. Counting never waits and never
/// allocates.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    count: AtomicU64,
    last_used: AtomicI64,
    /// The last address as 128 bits, IPv4 mapped; 0 while unknown.
    ip: [AtomicU64; 2],
    /// Set while `ip` is written or read as a whole.
    ip_busy: AtomicBool,
    /// Whether this credential waits in the queue of those to be written.
    pub(crate) queued: AtomicBool,
    /// Whether the store may not know yet that earlier uses have renewed the credential. Here it takes no room.
    pub(crate) is_renewed: bool,
}

impl Uses {
    /// No uses yet, of a credential that is renewed already, or not.
    pub(crate) fn of(is_renewed: bool) -> Self {
        Self { is_renewed, ..Self::default() }
    }

    #[inline]
    pub(crate) fn count(&self, now: UnixTime) {
        self.count.fetch_add(1, Ordering::Relaxed);
        if self.last_used.load(Ordering::Relaxed) < now.as_millis() {
            self.last_used.store(now.as_millis(), Ordering::Relaxed);
        }
    }

    /// When the last use was, as far as is known here.
    pub(crate) fn last_used(&self) -> UnixTime {
        UnixTime::from_millis(self.last_used.load(Ordering::Relaxed))
    }

    /// Whether the last use came from `ip`.
    #[inline]
    pub(crate) fn is_at(&self, ip: IpAddr) -> bool {
        let [high, low] = &self.ip;
        [high.load(Ordering::Relaxed), low.load(Ordering::Relaxed)] == halves(ip)
    }

    /// Notes that the last use came from `ip`.
    #[inline]
    pub(crate) fn move_to(&self, ip: IpAddr) {
        let [high, low] = &self.ip;
        // A writer that is already here has an address as new as ours.
        if !self.ip_busy.swap(true, Ordering::Acquire) {
            let halves = halves(ip);
            high.store(halves[0], Ordering::Relaxed);
            low.store(halves[1], Ordering::Relaxed);
            self.ip_busy.store(false, Ordering::Release);
        }
    }

    /// What was counted and when it was last used, without forgetting it.
    pub(crate) fn peek(&self) -> UseCount {
        self.with_count(self.count.load(Ordering::Relaxed))
    }

    /// What was counted since the last call.
    pub(crate) fn take(&self) -> UseCount {
        self.queued.store(false, Ordering::Release);
        self.with_count(self.count.swap(0, Ordering::Relaxed))
    }

    /// Gives back what [`take`](Self::take) took, because it could not be written.
    pub(crate) fn restore(&self, count: u64, last_used: UnixTime) {
        self.last_used.fetch_max(last_used.as_millis(), Ordering::Relaxed);
        self.count.fetch_add(count, Ordering::Relaxed);
    }

    fn with_count(&self, count: u64) -> UseCount {
        // Two stores are what there can be to wait for.
        while self.ip_busy.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
        let [high, low] = &self.ip;
        let bits = u128::from(high.load(Ordering::Relaxed)) << 64 | u128::from(low.load(Ordering::Relaxed));
        self.ip_busy.store(false, Ordering::Release);
        UseCount {
            count,
            last_used: UnixTime::from_millis(self.last_used.load(Ordering::Relaxed)),
            ip: (bits != 0).then(|| IpAddr::V6(bits.into()).to_canonical()),
        }
    }
}

#[inline]
fn halves(ip: IpAddr) -> [u64; 2] {
    let bits = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct UseCount {
    pub(crate) count: u64,
    pub(crate) last_used: UnixTime,
    pub(crate) ip: Option<IpAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A million cached credentials are a quarter of a gigabyte; the speed table of the README says so.
    #[test]
    fn a_cached_credential_stays_small() {
        assert!(size_of::<Credential>() <= 200, "{}", size_of::<Credential>());
    }

    #[test]
    fn uses_are_taken_once_and_addresses_come_back_whole() {
        let uses = Uses::default();
        let (v4, v6): (IpAddr, IpAddr) = ("192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap());
        for (now, ip, expected) in [(5, Some(v4), Some(v4)), (9, Some(v6), Some(v6)), (7, None, Some(v6))] {
            uses.count(UnixTime::from_millis(now));
            if let Some(ip) = ip {
                uses.move_to(ip);
                assert!(uses.is_at(ip) && !uses.is_at([192, 0, 2, 8].into()));
            }
            assert_eq!(uses.peek().ip, expected);
        }
        let taken = uses.take();
        assert_eq!((taken.count, taken.last_used.as_millis()), (3, 9), "the last use moves forward only");
        assert_eq!(uses.take().count, 0);
        uses.restore(taken.count, taken.last_used);
        assert_eq!(uses.peek().count, 3);
    }
}
