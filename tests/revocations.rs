//! Users who are suspended or gone, and JWTs that are revoked: in memory, on a file, and between processes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests"
)]

use std::{sync::Arc, time::Duration};

use http::Request;
use keyward::{
    AdminProof, Principal, TokenManager, UserId,
    auth::{
        AnyOf, ApiKeyAuth, Authenticator, CredentialReader, JwtSubject, RequestHead, Revocations, StaticAuth,
        Subject, Verdict,
    },
    error::Refusal,
    manage::{NewToken, TokenError},
    store::{MemoryStore, SqliteStore, StaticList, TokenLookup, TokenStore, UserStatus},
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
    ask_by(&ApiKeyAuth::new(tokens), key).await
}

async fn ask_by(auth: &dyn Authenticator, key: &str) -> Result<Principal, String> {
    match verdict_by(auth, key) {
        Verdict::Decided(verdict) => verdict.map_err(|error| error.to_string()),
        Verdict::Pending(pending) => pending.await.map_err(|error| error.to_string()),
        Verdict::Abstain => Err("abstained".to_owned()),
    }
}

fn verdict_by(auth: &dyn Authenticator, key: &str) -> Verdict {
    let request = Request::get("/").header("x-api-key", key).body(()).unwrap();
    let mut head = RequestHead::new(&request);
    head.presented =
        CredentialReader::default().read(request.method(), request.uri(), request.headers()).ok().flatten();
    auth.authenticate(&head)
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
    let tokens =
        TokenManager::builder(MemoryStore::new()).with_max_active(None).with_creation_limit(None).build();
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

// ---- static tokens -----------------------------------------------------------------------------------

const OF_ALICE: &str = "3f5c0a9e7b1d4826a0c3e5f7192b4d6e";
const OF_BOB: &str = "91b7d2c4e6f8a0b3c5d7e9f1a2b4c6d8";

fn static_auth() -> StaticAuth {
    let list = StaticList::parse(&format!("alice:{OF_ALICE},bob:{OF_BOB}")).unwrap();
    StaticAuth::new(&list).with_clock(ManualClock::at(NOW))
}

fn manager() -> TokenManager {
    TokenManager::builder(MemoryStore::new()).with_clock(ManualClock::at(NOW)).build()
}

async fn static_tokens_follow_their_user(auth: &dyn Authenticator, tokens: &TokenManager) {
    let alice_passes = async |when: &str| {
        let asked = ask_by(auth, OF_ALICE).await;
        ask_by(auth, OF_BOB).await.unwrap_or_else(|error| panic!("bob, {when}: {error}"));
        asked.is_ok()
    };
    assert!(alice_passes("at first").await);
    tokens.suspend(&admin(), &alice()).await.unwrap();
    assert!(!alice_passes("while alice is suspended").await);
    tokens.restore(&admin(), &alice()).await.unwrap();
    assert!(alice_passes("when alice is back").await);
    tokens.revoke_jwts_of(&admin(), &alice()).await.unwrap();
    assert!(alice_passes("when JWTs of alice ended").await, "a static token was issued at no time");
    tokens.offboard(&admin(), &alice()).await.unwrap();
    assert!(!alice_passes("when alice is gone").await);
    tokens.restore(&admin(), &alice()).await.unwrap();
    assert!(alice_passes("when alice is back again").await, "the list still holds the token");
}

#[tokio::test]
async fn static_tokens_beside_keys_stop_with_their_user() {
    let tokens = manager();
    for keys_first in [true, false] {
        let mut both: [Box<dyn Authenticator>; 2] =
            [ApiKeyAuth::new(&tokens).into(), static_auth().with_audit(tokens.audit()).into()];
        if !keys_first {
            both.reverse();
        }
        static_tokens_follow_their_user(&AnyOf::new(both), &tokens).await;
    }
}

#[tokio::test]
async fn static_tokens_alone_stop_with_their_user_where_they_are_told_who_knows() {
    let tokens = manager();
    let auth = static_auth().with_revocations(TokenLookup::from(&tokens)).with_audit(tokens.audit());
    static_tokens_follow_their_user(&auth, &tokens).await;
}

#[tokio::test]
async fn static_tokens_by_another_clock_are_judged_all_the_same() {
    let tokens = manager();
    let auth = static_auth().with_clock(keyward::time::SystemClock);
    let auth = auth.with_revocations(TokenLookup::from(&tokens));
    static_tokens_follow_their_user(&auth, &tokens).await;
}

#[tokio::test]
async fn each_list_asks_the_one_store_that_it_was_told_of_or_stands_beside() {
    let (one, two, told) = (manager(), manager(), manager());
    let shared = static_auth();
    let beside =
        |auth: StaticAuth, tokens: &TokenManager| AnyOf::new([ApiKeyAuth::new(tokens).into(), auth.into()]);
    let by_one = beside(shared.clone(), &one);
    let by_two = beside(shared.clone(), &two);
    let by_told = beside(shared.clone().with_revocations(TokenLookup::from(&told)), &one);
    let all: [&AnyOf; 3] = [&by_one, &by_two, &by_told];
    for (suspending, stopped) in [(&one, 0), (&two, 1), (&told, 2)] {
        for auth in all {
            ask_by(auth, OF_ALICE).await.unwrap();
        }
        suspending.suspend(&admin(), &alice()).await.unwrap();
        for (at, auth) in all.into_iter().enumerate() {
            assert_eq!(ask_by(auth, OF_ALICE).await.is_err(), at == stopped, "{at} of {stopped}");
        }
        suspending.restore(&admin(), &alice()).await.unwrap();
    }
    ask_by(&shared, OF_ALICE).await.unwrap();
}

#[tokio::test]
async fn a_verdict_by_one_store_is_none_by_another() {
    let (one, two, shared) = (manager(), manager(), static_auth());
    let by_one = AnyOf::new([ApiKeyAuth::new(&one).into(), shared.clone().into()]);
    let by_two = AnyOf::new([ApiKeyAuth::new(&two).into(), shared.into()]);
    let bob = UserId::new("bob").unwrap();
    one.suspend(&admin(), &bob).await.unwrap();
    one.restore(&admin(), &bob).await.unwrap();
    two.suspend(&admin(), &bob).await.unwrap();
    two.suspend(&admin(), &alice()).await.unwrap();
    let generation = |tokens: &TokenManager| TokenLookup::from(tokens).generation(NOW);
    assert_ne!(generation(&one), generation(&two), "no number of one is a number of another");
    ask_by(&by_one, OF_ALICE).await.unwrap();
    assert!(ask_by(&by_two, OF_ALICE).await.is_err());
}

#[tokio::test]
async fn a_static_token_is_judged_at_once_while_it_is_known_who_is_denied() {
    let tokens = manager();
    let auth = AnyOf::new([ApiKeyAuth::new(&tokens).into(), static_auth().into()]);
    let at_once = || match verdict_by(&auth, OF_ALICE) {
        Verdict::Decided(verdict) => Some(verdict.map(|me| me.user_id().clone()).map_err(|e| e.status())),
        Verdict::Pending(_) | Verdict::Abstain => None,
    };
    assert!(at_once().is_none(), "nothing is known yet");
    ask_by(&auth, OF_ALICE).await.unwrap();
    assert_eq!(at_once(), Some(Ok(alice())));
    tokens.suspend(&admin(), &alice()).await.unwrap();
    assert_eq!(at_once(), Some(Err(http::StatusCode::UNAUTHORIZED)));
    let unknown = verdict_by(&auth, "c0ffee0a9e7b1d4826a0c3e5f7192b4d");
    assert!(matches!(unknown, Verdict::Abstain), "what is not on the list asks nobody: {unknown:?}");
}
