//! What to look for.

use std::{net::IpAddr, time::Duration};

use crate::{
    error::ConfigError,
    watch::{MAX_NETWORKS, Network, network::Prefixes},
};

/// Which changes in the use of a key raise an alert, for
/// [`TokenManagerBuilder::with_watch`](crate::manage::TokenManagerBuilder::with_watch).
///
/// By default new networks, sharing and spikes; user agents only when asked for, since they cost a look-up of the
/// header and a hash for each request.
///
/// ```
/// use std::time::Duration;
/// use keyward::{TokenManager, store::MemoryStore, watch::{Sharing, Watch}};
///
/// let watch = Watch::default()
///     .with_user_agents(true)
///     .with_sharing(Some(Sharing::new(3, Duration::from_secs(3600))?));
/// let tokens = TokenManager::builder(MemoryStore::new()).with_watch(watch).build();
/// # let _ = tokens;
/// # Ok::<(), keyward::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Watch {
    pub(crate) networks: bool,
    pub(crate) user_agents: bool,
    pub(crate) sharing: Option<Sharing>,
    pub(crate) spike: Option<Spike>,
    pub(crate) learning: Duration,
    pub(super) prefixes: Prefixes,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            networks: true,
            user_agents: false,
            sharing: Some(Sharing::default()),
            spike: Some(Spike::default()),
            learning: Duration::ZERO,
            prefixes: Prefixes { v4: 32, v6: 64 },
        }
    }
}

impl Watch {
    /// Whether a network that a key was not used from before raises an alert; on by default. While a key is
    /// [shared](Self::with_sharing), and where as many are known as there is room for, there is one a day at most, which
    /// says how many were new.
    pub fn with_new_networks(self, on: bool) -> Self {
        Self { networks: on, ..self }
    }

    /// Whether another program, by its `User-Agent`, raises an alert; off by default. To name none is to be another
    /// program. Where as many are known as there is room for, there is one a day at most.
    pub fn with_user_agents(self, on: bool) -> Self {
        Self { user_agents: on, ..self }
    }

    /// From when on a key counts as shared; by default with 5 networks within 10 minutes. `None` is never.
    pub fn with_sharing(self, sharing: Option<Sharing>) -> Self {
        Self { sharing, ..self }
    }

    /// From when on the use of a key is a spike; by default with 10 times its busiest hour, and 1000 requests at
    /// least. `None` is never.
    pub fn with_spike(self, spike: Option<Spike>) -> Self {
        Self { spike, ..self }
    }

    /// For how long from its first use on networks and programs are learnt without an alert; zero by default: only those
    /// of the first use are. With a day, office, home and train are known before somebody is told of a new network, and a
    /// key that is stolen in that time shows by [sharing](Self::with_sharing) only. One that takes the place of another
    /// one by rotation does not begin anew.
    pub fn with_learning(self, learning: Duration) -> Self {
        Self { learning, ..self }
    }

    /// How many bits of an IPv4 and of an IPv6 address make a network; by default 32 and 64: each address, and each network
    /// of an IPv6 customer, is told apart. A provider gives its customer a new address now and then, mostly in the same
    /// network as before: with 24 and 48 that is no alert. With longer ones than before, a part of what was known is known too.
    ///
    /// # Errors
    /// When they are not 8 to 32, and 16 to 64.
    pub fn with_prefixes(self, v4: u8, v6: u8) -> Result<Self, ConfigError> {
        if !(8..=32).contains(&v4) || !(16..=64).contains(&v6) {
            return Err(ConfigError::new(
                "a network is 8 to 32 bits of an IPv4 address, and 16 to 64 of an IPv6 one",
            ));
        }
        Ok(Self { prefixes: Prefixes { v4, v6 }, ..self })
    }

    /// The network of `ip`.
    pub(crate) fn network(&self, ip: IpAddr) -> Network {
        Network::of(ip).widened(self.prefixes)
    }

    /// Whether addresses matter.
    pub(crate) fn looks_at_networks(&self) -> bool {
        self.networks || self.sharing.is_some()
    }
}

/// From how many networks within what time a key is used by several.
///
/// There is one alert, and another one only after there were fewer for one and a half times that long.
///
/// ```
/// use std::time::Duration;
/// use keyward::watch::Sharing;
///
/// assert!(Sharing::new(3, Duration::from_secs(60)).is_ok());
/// assert!(Sharing::new(1, Duration::from_secs(60)).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Sharing {
    pub(crate) networks: u32,
    pub(crate) within: Duration,
}

impl Default for Sharing {
    /// 5 networks within 10 minutes.
    fn default() -> Self {
        Self { networks: 5, within: Duration::from_secs(600) }
    }
}

impl Sharing {
    /// So many networks within this time.
    ///
    /// # Errors
    /// When there are not 2 to 16 networks, or the time is not a second to a day.
    pub fn new(networks: u32, within: Duration) -> Result<Self, ConfigError> {
        if !(2..=MAX_NETWORKS as u32).contains(&networks) {
            return Err(ConfigError::new("a key counts as shared with 2 to 16 networks"));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&within) {
            return Err(ConfigError::new("the time within which a key is shared is a second to a day"));
        }
        Ok(Self { networks, within })
    }
}

/// How much more than ever lately is too much.
///
/// What counts is the number of requests in an hour of the clock, against the busiest hour of the key's own past, of
/// which half is forgotten in 30 days. A key is judged from a day after its first use, since before that it has no past.
/// There is one alert an hour at most.
///
/// ```
/// use keyward::watch::Spike;
///
/// assert!(Spike::new(20, 500).is_ok());
/// assert!(Spike::new(1, 500).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Spike {
    pub(crate) factor: u32,
    pub(crate) least: u64,
}

impl Default for Spike {
    /// 10 times the busiest hour, and at least 1000 requests.
    fn default() -> Self {
        Self { factor: 10, least: 1000 }
    }
}

impl Spike {
    /// More than `factor` times the busiest hour, and at least so many requests.
    ///
    /// # Errors
    /// When the factor is not 2 to 1000, or nothing at all would be enough.
    pub fn new(factor: u32, least: u64) -> Result<Self, ConfigError> {
        if !(2..=1000).contains(&factor) {
            return Err(ConfigError::new("a spike is 2 to 1000 times the usual"));
        }
        if least == 0 {
            return Err(ConfigError::new("a spike is at least one request an hour; such as 1000"));
        }
        Ok(Self { factor, least })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_right_are_refused() {
        let seconds = Duration::from_secs;
        for (networks, within, is_ok) in [
            (1, seconds(60), false),
            (2, seconds(1), true),
            (16, seconds(86_400), true),
            (17, seconds(60), false),
            (5, Duration::from_millis(999), false),
            (5, seconds(86_401), false),
        ] {
            assert_eq!(Sharing::new(networks, within).is_ok(), is_ok, "{networks} in {within:?}");
        }
        for (factor, least, is_ok) in
            [(1, 1, false), (2, 1, true), (1000, 1, true), (1001, 1, false), (10, 0, false)]
        {
            assert_eq!(Spike::new(factor, least).is_ok(), is_ok, "{factor} times, {least}");
        }
        for (v4, v6, is_ok) in
            [(8, 16, true), (32, 64, true), (7, 48, false), (33, 48, false), (24, 15, false), (24, 65, false)]
        {
            assert_eq!(Watch::default().with_prefixes(v4, v6).is_ok(), is_ok, "{v4} and {v6}");
        }
        assert_eq!(Watch::default().with_prefixes(32, 64).unwrap(), Watch::default());
        assert_eq!(Sharing::new(5, seconds(600)).unwrap(), Sharing::default());
        assert_eq!(Spike::new(10, 1000).unwrap(), Spike::default());
    }
}
