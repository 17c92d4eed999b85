//! What is unusual about the use of a token, on its way to an alert.

use std::{net::IpAddr, sync::Arc};

use crate::{
    error::{AuthError, Refusal},
    event::{Alert, Event},
    id::TokenId,
    limit::Meters,
    principal::{Credential, UseCount},
    store::{
        cache::Dead,
        lookup::{Inner, TokenLookup},
    },
    time::UnixTime,
    token::TokenRecord,
    watch::{Finding, Habits, Network, Tracker, Watch},
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
        tracker.absorb(record.habits.as_deref(), record.request_count, now);
        if let Some(ip) = record.created_ip {
            tracker.suppose(Network::of(ip));
        }
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
            && self.inner().episodes.begins(dead.digest.prefix(), self.now())
        {
            let event = Event::alert(alert).owned_by(owner).token(dead.token).at_ip(client_ip);
            self.inner().audit.emit(event);
        }
        dead.error()
    }

    /// Whether it matters which program presents a token.
    #[inline]
    pub(crate) fn watches_agents(&self) -> bool {
        self.inner().noticing.as_ref().is_some_and(|noticing| noticing.watch.user_agents)
    }

    /// Says what was found out about a credential, if there is something.
    pub(crate) fn tell(&self, credential: &Credential, ip: Option<IpAddr>, finding: Finding, agent: &str) {
        self.inner().tell(credential, ip, finding, agent);
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
            match tracker.arrive(&noticing.watch, Network::of(ip), last_used, now) {
                Ok(Some(finding)) => self.tell(credential, Some(ip), finding, ""),
                Ok(None) => {}
                // The next request from there is looked at, since the address stays as it was.
                Err(_busy) => return,
            }
        }
        credential.uses.move_to(ip);
    }

    /// Looks at how much a credential was used, and gives what is to be written with it.
    pub(super) fn notice_count(&self, credential: &Credential, counted: UseCount) -> Option<Box<Habits>> {
        let (noticing, tracker) = (self.noticing.as_ref()?, credential.tracker()?);
        let now = self.clock.now();
        let (finding, habits) = tracker.count(&noticing.watch, counted.count, counted.last_used, now);
        if let Some(finding) = finding {
            self.tell(credential, counted.ip, finding, "");
        }
        habits.map(Box::new)
    }

    fn tell(&self, credential: &Credential, ip: Option<IpAddr>, finding: Finding, agent: &str) {
        let within = self.noticing.as_ref().and_then(|noticing| noticing.watch.sharing);
        let seconds = within.map_or(0, |sharing| sharing.within.as_secs());
        let (alert, reason) = match finding {
            Finding::NewNetwork(known) => {
                let network = ip.map(|ip| Network::of(ip).to_string()).unwrap_or_default();
                (Alert::NewNetwork, format!("{network} is none of the {known} networks that are known of it"))
            }
            Finding::NewUserAgent(known) => {
                (Alert::NewUserAgent, format!("none of the {known} programs that are known of it: {agent}"))
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
        self.audit.emit(event.at_ip(ip).because(&reason));
    }
}
