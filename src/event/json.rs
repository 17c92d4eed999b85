//! Events as JSON.

use std::net::IpAddr;

use serde::{Serialize, Serializer};

use super::{Alert, Event, Outcome};
use crate::{
    error::Refusal,
    id::{TokenId, UserId},
    time::UnixTime,
};

#[derive(Serialize)]
struct View<'a> {
    at: UnixTime,
    event: &'static str,
    alert: bool,
    outcome: Outcome,
    actor: Option<&'a UserId>,
    actor_email: Option<&'a str>,
    user_id: Option<&'a UserId>,
    token_id: Option<TokenId>,
    client_ip: Option<IpAddr>,
    request_id: Option<&'a str>,
    refusal: Option<&'static str>,
    reason: Option<&'a str>,
    count: Option<u64>,
    known: Option<u32>,
    usual: Option<u64>,
    within_seconds: Option<u64>,
    user_agent: Option<&'a str>,
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let alert = self.kind.alert();
        let view = View {
            at: self.at,
            event: self.kind.name(),
            alert: self.kind.is_alert(),
            outcome: self.kind.outcome(),
            actor: self.actor.as_ref(),
            actor_email: self.actor_email.as_deref(),
            user_id: self.owner.as_ref(),
            token_id: self.token,
            client_ip: self.client_ip,
            request_id: self.request_id.as_deref(),
            refusal: self.kind.refusal().map(Refusal::as_str),
            reason: self.reason.as_deref(),
            count: self.count(),
            known: alert.and_then(Alert::known),
            usual: alert.and_then(Alert::usual),
            within_seconds: alert.and_then(Alert::within_seconds),
            user_agent: self.user_agent.as_deref(),
        };
        view.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventKind;

    #[test]
    fn the_members_have_stable_names() {
        let id: TokenId = "019a9d5a-7c00-7abc-8def-0123456789ab".parse().unwrap();
        let event = Event::new(EventKind::AccessRefused(Refusal::Revoked))
            .by(&UserId::new("alice").unwrap())
            .with_email(Some("alice@example.org".into()))
            .owned_by(&UserId::new("bob").unwrap())
            .token(id)
            .at_ip(Some([192, 0, 2, 7].into()))
            .in_request(Some("r-1"))
            .because("line\nbreak");
        let expected = concat!(
            r#"{"at":"1970-01-01T00:00:00.000Z","event":"access.refused","alert":false,"outcome":"refused","#,
            r#""actor":"alice","actor_email":"alice@example.org","user_id":"bob","#,
            r#""token_id":"019a9d5a-7c00-7abc-8def-0123456789ab","client_ip":"192.0.2.7","request_id":"r-1","#,
            r#""refusal":"revoked","reason":"line\nbreak","count":null,"#,
            r#""known":null,"usual":null,"within_seconds":null,"user_agent":null}"#
        );
        assert_eq!(serde_json::to_string(&event).unwrap(), expected);
    }

    #[test]
    fn what_was_noticed_is_told_in_members_of_its_own() {
        let alerts = [
            Alert::NewNetwork { new: 1, known: 4 },
            Alert::NewUserAgent { new: 2, known: 3 },
            Alert::SharedToken { networks: 5, seconds: 600 },
            Alert::UsageSpike { requests: 9000, usual: 70 },
        ];
        let facts = alerts.map(|alert| {
            let json = serde_json::to_value(Event::alert(alert).by_program(Some("curl/8"))).unwrap();
            assert_eq!(json["user_agent"], "curl/8");
            ["count", "known", "usual", "within_seconds"].map(|name| json[name].as_u64())
        });
        let expected = [
            [Some(1), Some(4), None, None],
            [Some(2), Some(3), None, None],
            [Some(5), None, None, Some(600)],
            [Some(9000), None, Some(70), None],
        ];
        assert_eq!(facts, expected);
    }

    #[test]
    fn what_was_lost_is_an_alert_if_alerts_are_among_it() {
        for (kind, alert, outcome, count) in [
            (EventKind::AuditDropped { events: 3, alerts: 0 }, false, "failed", Some(3)),
            (EventKind::AuditDropped { events: 3, alerts: 1 }, true, "failed", Some(3)),
            (EventKind::TokensRevoked(0), false, "success", Some(0)),
            (EventKind::Alert(Alert::ForeignAccess), true, "refused", None),
            (EventKind::Alert(Alert::StoreRecovered), true, "success", None),
        ] {
            let json = serde_json::to_value(Event::new(kind)).unwrap();
            assert_eq!(json["alert"], alert, "{kind:?}");
            assert_eq!(json["outcome"], outcome, "{kind:?}");
            assert_eq!(json["count"].as_u64(), count, "{kind:?}");
        }
    }
}
