//! What is unusual about the use of a token, on its way to an alert.

use std::{net::IpAddr, sync::Arc};

use crate::{
    error::{AuthError, Refusal},
    event::{Alert, Event},
    id::TokenId,
    limit::Meters,
    principal::{Credential, UseCount},
    secret::TokenDigest,
    store::{
        cache::Dead,
        lookup::{Inner, TokenLookup},
    },
    time::UnixTime,
    token::TokenRecord,
    watch::{Finding, Habits, Tracker, Watch, fingerprint},
};

/// What is looked for, and what is known of tokens. It outlives the credentials that the cache forgets, so that what
/// is not written yet is not told twice.
#[derive(Debug)]
pub(crate) struct Noticing {
    pub(crate) watch: Watch,
    trackers: Meters<TokenId, Tracker>,
}

impl Noticing {
    pub(crate) fn new(watch: Watch, capacity: usize) -> Self {
        Self { watch, trackers: Meters::new(capacity) }
    }

    /// What is known of the token of `record`.
    pub(super) fn tracker(&self, record: &TokenRecord, now: UnixTime) -> Arc<Tracker> {
        let tracker = self.trackers.of(&record.id, now);
        tracker.absorb(&self.watch, record.habits.as_deref(), record.request_count, now);
        // Whoever begins to watch knows where a key was made, and where it was used last.
        let ips = record.created_ip.into_iter().chain(record.last_used_ip);
        tracker.suppose(ips.map(|ip| self.watch.network(ip)));
        tracker
    }
}

impl TokenLookup {
    /// The answer to a token that does not work. What nobody has a reason to present raises an alert.
    #[cold]
    pub(crate) fn refuse(&self, dead: &Dead, client_ip: Option<IpAddr>) -> AuthError {
        let alert = match dead.reason {
            Refusal::Revoked => Some(Alert::RevokedTokenUsed),
            Refusal::Honeytoken => Some(Alert::HoneytokenUsed),
            _ if dead.replaced => Some(Alert::RotatedTokenUsed),
            _ => None,
        };
        if let (Some(alert), Some(owner)) = (alert, &dead.owner)
            && self.begins(&dead.digest, alert, client_ip)
        {
            let event = Event::alert(alert).owned_by(owner).token(dead.token).at_ip(client_ip);
            self.inner().audit.emit(event);
        }
        dead.error()
    }

    /// Tells that a token which works was presented from an address that it may not be used from.
    #[cold]
    pub(crate) fn tell_address(&self, credential: &Credential, client_ip: Option<IpAddr>) {
        let alert = Alert::AddressNotAllowed;
        if self.begins(&credential.digest, alert, client_ip) {
            let event = Event::alert(alert).owned_by(&credential.user).token(credential.token);
            self.inner().audit.emit(event.at_ip(client_ip));
        }
    }

    /// Whether that was not told of the token within the last hour for the network of `ip`.
    fn begins(&self, digest: &TokenDigest, alert: Alert, ip: Option<IpAddr>) -> bool {
        let thing = digest.prefix() ^ fingerprint(alert.name().as_bytes());
        self.inner().episodes.begins(thing, ip, self.now())
    }

    /// Whether it matters which program presents a token.
    #[inline]
    pub(crate) fn watches_agents(&self) -> bool {
        self.inner().noticing.as_ref().is_some_and(|noticing| noticing.watch.user_agents)
    }

    /// Notes that a credential is presented by a program: what stands for all of its text and for its words, and what may
    /// be told of it.
    pub(crate) fn meet(
        &self,
        credential: &Credential,
        (print, words): (u64, u64),
        excerpt: impl FnOnce() -> String,
        ip: Option<IpAddr>,
        now: UnixTime,
    ) {
        let (Some(noticing), Some(tracker)) = (&self.inner().noticing, credential.tracker()) else { return };
        // While somebody else is at it the next request will do.
        if let Ok(Some(finding)) = tracker.meet(&noticing.watch, print, words, now) {
            self.inner().tell(credential, ip, finding, Some(&excerpt()));
        }
    }
}

impl Inner {
    /// Notes that a credential comes from another address than before.
    #[cold]
    #[inline(never)]
    pub(super) fn move_to(&self, credential: &Credential, now: UnixTime, ip: IpAddr) {
        if let (Some(noticing), Some(tracker)) = (&self.noticing, credential.tracker())
            && noticing.watch.looks_at_networks()
        {
            let last_used = credential.uses.last_used();
            let arrived = tracker.arrive(&noticing.watch, noticing.watch.network(ip), last_used, now);
            // While somebody else is at it, it is noted, and looked at when the use is written.
            if let Ok(Some(finding)) = arrived {
                self.tell(credential, Some(ip), finding, None);
            }
        }
        credential.uses.move_to(ip);
    }

    /// Looks at how much a credential was used, and gives what is to be written with it.
    pub(super) fn notice_count(&self, credential: &Credential, counted: UseCount) -> Option<Box<Habits>> {
        let (noticing, tracker) = (self.noticing.as_ref()?, credential.tracker()?);
        let now = self.clock.now();
        let watch = &noticing.watch;
        let last = counted.ip.map(|ip| watch.network(ip));
        let (findings, habits) = tracker.count(watch, last, counted.count, counted.last_used, now);
        for (finding, network) in findings {
            // What was new before need not be where it is used now.
            self.tell(credential, counted.ip.filter(|_| network == last), finding, None);
        }
        habits.map(Box::new)
    }

    fn tell(&self, credential: &Credential, ip: Option<IpAddr>, finding: Finding, agent: Option<&str>) {
        let watch = self.noticing.as_ref().map(|noticing| &noticing.watch);
        let within = watch.and_then(|watch| watch.sharing);
        let seconds = within.map_or(0, |sharing| sharing.within.as_secs());
        let (alert, reason) = match finding {
            Finding::NewNetwork { new, known } => {
                let network = ip.zip(watch).map(|(ip, watch)| watch.network(ip).to_string());
                (Alert::NewNetwork { new, known }, news("networks", new, known, network.as_deref()))
            }
            Finding::NewUserAgent { new, known } => {
                (Alert::NewUserAgent { new, known }, news("programs", new, known, agent))
            }
            Finding::Shared(networks) => (
                Alert::SharedToken { networks, seconds },
                format!("used from {networks} networks within {seconds} seconds"),
            ),
            Finding::Spike { requests, usual } => (
                Alert::UsageSpike { requests, usual },
                format!("{requests} requests in this hour, and {usual} in the busiest one before"),
            ),
        };
        let event = Event::alert(alert).owned_by(&credential.user).token(credential.token);
        self.audit.emit(event.at_ip(ip).by_program(agent).because(&reason));
    }
}

/// What is new about a token, in words.
fn news(things: &str, new: u32, known: u32, last: Option<&str>) -> String {
    match last {
        Some(last) if new == 1 => format!("none of the {known} {things} that are known of it: {last}"),
        Some(last) => {
            format!("{new} {things} since the last alert, beside {known} that are known of it: {last}")
        }
        None => format!("{new} {things} since the last alert, beside {known} that are known of it"),
    }
}
