//! Events as numbers.

use super::{Alert, EventKind};
use crate::count;

/// Counts what happened, but for access, which the layers count.
pub(super) fn count(kind: EventKind) {
    match kind {
        EventKind::AccessGranted | EventKind::AccessRefused(_) => {}
        EventKind::Alert(alert) => {
            Alert::KINDS.iter().position(|kind| *kind == alert.name()).into_iter().for_each(count::raised);
        }
        kind => count::EVENTS.add(kind.name()),
    }
}

/// Every kind of alert; the compiler names one that is missing here.
macro_rules! alerts {
    ($($alert:ident $({ $($fact:ident),+ })?)+) => {
        impl Alert {
            /// The names of all kinds.
            pub(crate) const KINDS: &[&str] = &[$(Self::$alert $({ $($fact: 0),+ })?.name()),+];

            const fn _is_listed(self) {
                match self {
                    $(Self::$alert { .. } => {})+
                }
            }
        }
    };
}

alerts! {
    ForeignAccess ForeignRecord RevokedTokenUsed RotatedTokenUsed HoneytokenUsed AddressNotAllowed BruteForce
    NewNetwork { new, known } NewUserAgent { new, known } SharedToken { networks, seconds } UsageSpike { requests, usual }
    StoreUnavailable StoreRecovered KeysUnavailable KeysRecovered KeyRefused
    AuditTampered DirectoryUnavailable DirectoryRecovered EmergencyUse EmergencyRefused
}
