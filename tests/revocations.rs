//! Users who are suspended or gone, and JWTs that are revoked: in memory, on a file, and between processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "helpers of tests")]

use std::{sync::Arc, time::Duration};

use http::Request;
use keyward::{
    AdminProof, Principal, TokenManager, UserId,
    auth::{
        AnyOf, ApiKeyAuth, Authenticator, CredentialReader, JwtSubject, RequestHead, Revocations, Subject,
        Verdict,
    },
    error::Refusal,
    manage::{NewToken, TokenError},
    store::{MemoryStore, SqliteStore, TokenLookup, TokenStore, UserStatus},
    testing::ManualClock,
    time::UnixTime,
};

const NOW: UnixTime = UnixTime::from_millis(1_767_225_600_500);
const ISSUER: &str = "https://issuer.example";

fn admin() -> AdminProof {
    AdminProof::operator("ops", "test").unwrap()
}

fn alice() -> UserId {
    UserId::new("alice").unwrap()
}

async fn ask(tokens: &TokenManager, key: &str) -> Result<Principal, String> {
    let request = Request::get("/").header("x-api-key", key).body(()).unwrap();
    let mut head = RequestHead::new(&request);
    head.presented =
        CredentialReader::default().read(request.method(), request.uri(), request.headers()).ok().flatten();
    match ApiKeyAuth::new(tokens).authenticate(&head) {
        Verdict::Decided(verdict) => verdict.map_err(|error| error.to_string()),
        Verdict::Pending(pending) => pending.await.map_err(|error| error.to_string()),
        Verdict::Abstain => Err("abstained".to_owned()),
    }
}

fn verdict(tokens: &TokenManager, jwt_id: Option<&str>, issued_at: Option<UnixTime>) -> Result<(), Refusal> {
    let jwt = JwtSubject::new(ISSUER, jwt_id, issued_at);
    TokenLookup::from(tokens).check(&Subject::new(&alice(), Some(jwt)))
}

async fn life_of_a_user(store: impl TokenStore) {
    let tokens = TokenManager::builder(store).with_clock(ManualClock::at(NOW)).build();
    let issued = tokens.create(&alice(), NewToken::named("laptop")).await.unwrap();
    let key = issued.key.expose();
    ask(&tokens, key).await.unwrap();

    tokens.suspend(&admin(), &alice()).await.unwrap();
    assert!(ask(&tokens, key).await.is_err());
    assert_eq!(verdict(&tokens, None, Some(NOW)), Err(Refusal::UserInactive));
    let refused = tokens.create(&alice(), NewToken::named("more")).await;
    assert!(matches!(refused, Err(TokenError::OwnerInactive)), "{refused:?}");
    tokens.restore(&admin(), &alice()).await.unwrap();
    ask(&tokens, key).await.unwrap();

    tokens.revoke_jwts_of(&admin(), &alice()).await.unwrap();
    let second = Duration::from_secs(1);
    assert_eq!(verdict(&tokens, None, Some(NOW)), Err(Refusal::Revoked));
    assert_eq!(verdict(&tokens, None, None), Err(Refusal::Revoked));
    let next = NOW.saturating_add(second);
    assert_eq!(verdict(&tokens, None, Some(next)), Ok(()));
    ask(&tokens, key).await.unwrap();

    let lookup = TokenLookup::from(&tokens);
    let before = lookup.generation(NOW).expect("loaded");
    tokens.revoke_jwt(&admin(), ISSUER, "7", NOW.saturating_add(60 * second)).await.unwrap();
    assert_ne!(lookup.generation(NOW), Some(before));
    assert_eq!(verdict(&tokens, Some("7"), Some(next)), Err(Refusal::Revoked));
    assert_eq!(verdict(&tokens, Some("8"), Some(next)), Ok(()));

    assert_eq!(tokens.offboard(&admin(), &alice()).await.unwrap(), 1);
    assert!(ask(&tokens, key).await.is_err());
    assert_eq!(verdict(&tokens, Some("8"), Some(next)), Err(Refusal::UserInactive));
    let state = tokens.user_state(&admin(), &alice()).await.unwrap();
    assert_eq!((state.status, state.jwts_not_before), (UserStatus::Offboarded, Some(NOW)));
    tokens.restore(&admin(), &alice()).await.unwrap();
    assert!(ask(&tokens, key).await.is_err(), "what was revoked stays revoked");
}

#[tokio::test]
async fn in_memory_a_user_is_suspended_restored_and_offboarded() {
    life_of_a_user(MemoryStore::new()).await;
}

#[tokio::test]
async fn on_a_file_a_user_is_suspended_restored_and_offboarded() {
    let directory = tempfile::tempdir().unwrap();
    life_of_a_user(SqliteStore::open(directory.path().join("tokens.db")).await.unwrap()).await;
}

#[tokio::test]
async fn another_process_learns_of_it_within_a_second() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens.db");
    let one = TokenManager::new(SqliteStore::open(&path).await.unwrap());
    let two = TokenManager::new(SqliteStore::open(&path).await.unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let work = tokio::spawn(two.clone().run(async { drop(stopped.await) }));
    let issued = one.create(&alice(), NewToken::named("laptop")).await.unwrap();
    ask(&two, issued.key.expose()).await.unwrap();
    let lookup = TokenLookup::from(&two);
    lookup.refresh().await.unwrap();
    assert_eq!(verdict(&two, None, None), Ok(()));
    one.suspend(&admin(), &alice()).await.unwrap();
    let seen = async {
        while verdict(&two, None, None).is_ok() || ask(&two, issued.key.expose()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(1), seen).await.expect("seen in a second");
    one.offboard(&admin(), &alice()).await.unwrap();
    assert!(ask(&two, issued.key.expose()).await.is_err());
    drop(stop);
    work.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offboarding_beside_creations_leaves_no_living_key() {
    let tokens = TokenManager::builder(MemoryStore::new()).with_max_active(None).build();
    let creating: Vec<_> = (0..64)
        .map(|_| {
            let tokens = tokens.clone();
            tokio::spawn(async move { tokens.create(&alice(), NewToken::named("race")).await })
        })
        .collect();
    tokens.offboard(&admin(), &alice()).await.unwrap();
    for created in creating {
        if let Ok(issued) = created.await.unwrap() {
            assert!(ask(&tokens, issued.key.expose()).await.is_err());
        }
    }
    assert_eq!(tokens.count(&alice()).await.unwrap(), 0);
}

#[derive(Debug, Default)]
struct Adopting(std::sync::OnceLock<Arc<dyn Revocations>>);

impl Authenticator for Adopting {
    fn authenticate(&self, _: &RequestHead<'_>) -> Verdict {
        Verdict::Abstain
    }

    fn adopt_revocations(&self, revocations: &Arc<dyn Revocations>) {
        let _ = self.0.set(revocations.clone());
    }
}

#[tokio::test]
async fn authenticators_beside_api_keys_ask_the_same_store() {
    let tokens = TokenManager::new(MemoryStore::new());
    let adopting = Arc::new(Adopting::default());
    let _any = AnyOf::new([Box::new(adopting.clone()) as _, ApiKeyAuth::new(&tokens).into()]);
    let revocations = adopting.0.get().expect("offered");
    tokens.suspend(&admin(), &alice()).await.unwrap();
    assert_eq!(revocations.check(&Subject::new(&alice(), None)), Err(Refusal::UserInactive));
}
