//! Events as numbers.

use super::{Alert, EventKind};
use crate::count;

/// Counts what happened, but for access, which the layers count.
pub(super) fn count(kind: EventKind) {
    match kind {
        EventKind::AccessGranted | EventKind::AccessRefused(_) => {}
        EventKind::Alert(alert) => {
            Alert::ALL.iter().position(|one| *one == alert).into_iter().for_each(count::raised);
        }
        kind => count::EVENTS.add(kind.name()),
    }
}

/// Every kind of alert; the compiler names one that is missing here.
macro_rules! alerts {
    ($($alert:ident)+) => {
        impl Alert {
            pub(crate) const ALL: &[Self] = &[$(Self::$alert),+];

            const fn _is_listed(self) {
                match self {
                    $(Self::$alert => {})+
                }
            }
        }
    };
}

alerts! {
    ForeignAccess ForeignRecord RevokedTokenUsed BruteForce
    StoreUnavailable StoreRecovered KeysUnavailable KeysRecovered KeyRefused
    AuditTampered DirectoryUnavailable DirectoryRecovered EmergencyUse EmergencyRefused
}
