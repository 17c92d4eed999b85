//! What is unusual about the use of a token: [`Watch`] says what to look for, [`Habits`] is what is known of one token.
//!
//! Somebody else who has a key shows: by the network they come from, by their program, by how much they ask for. keyward
//! remembers the habits of each key beside its use, and raises an [`Alert`](crate::event::Alert) once when it
//! changes them. Nothing is refused for it.
//!
//! | alert | when |
//! |---|---|
//! | [`NewNetwork`](crate::event::Alert::NewNetwork) | a key comes from a network that it was not used from before |
//! | [`NewUserAgent`](crate::event::Alert::NewUserAgent) | its `User-Agent` names another program; other versions of one are the same |
//! | [`SharedToken`](crate::event::Alert::SharedToken) | it is used from several networks within a short time |
//! | [`UsageSpike`](crate::event::Alert::UsageSpike) | it makes many times more requests in an hour than ever lately |
//!
//! A network is an address of IPv4 or a /64 of IPv6, unless [`Watch::with_prefixes`] says otherwise. What a key shows at its
//! first use, or for [some time from it on](Watch::with_learning), is learnt without an alert, and a new key made by rotation
//! knows what the old one knew. The habits of a key are bounded: [`MAX_NETWORKS`] and [`MAX_USER_AGENTS`], of which the one that was not seen
//! for the longest time is forgotten. They are written with its use, so they survive a restart in a store that keeps
//! them ([`TokenRecord::habits`](crate::token::TokenRecord::habits)).
//!
//! Several processes on one store learn from one another when they load the key again, so each of them may raise an
//! alert of the same thing. That a key is in use from a network which it knows is written at once if it was not for half
//! of the time of [`Sharing`], and otherwise only after that half. So a key that is shared across processes is noticed
//! up to that much, a second and the cache's [staleness](crate::manage::TokenManagerBuilder::with_staleness) later than
//! within one, and not at all if the uses from some of the networks stop before.

mod habits;
mod network;
mod pace;
mod settings;
mod tracker;

pub use habits::{Habits, MAX_NETWORKS, MAX_USER_AGENTS, Sighting};
pub use network::{InvalidNetwork, Network};
pub use settings::{Sharing, Spike, Watch};
pub(crate) use tracker::{Finding, Tracker, agent_words, fingerprint};
