//! Two users, all routes: does anything of one reach the other?

use std::fmt;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use tower_service::Service;

/// What [`assert_isolated`] tries: how to make something as a user, and which routes could leak it.
///
/// ```
/// use keyward::testing::Isolation;
///
/// let jobs = Isolation::new("POST /jobs", r#"{"name":"secret of MARKER"}"#, "/id")
///     .route("GET /jobs/{id}")
///     .route("DELETE /jobs/{id}")
///     .list("GET /jobs");
/// # let _ = jobs;
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Isolation {
    create: Route,
    body: String,
    id_pointer: String,
    routes: Vec<(Route, String)>,
    lists: Vec<Route>,
}

/// A method and a path, as in `GET /jobs/{id}`.
#[derive(Clone, Debug)]
struct Route {
    method: Method,
    path: String,
}

impl Route {
    fn new(text: &str) -> Self {
        let (method, path) = text.split_once(' ').unwrap_or(("GET", text));
        Self { method: method.parse().unwrap_or(Method::GET), path: path.to_owned() }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// One way in which something of one user reached another.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leak {
    /// The route, as it was given.
    pub route: String,
    /// What happened there.
    pub what: String,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.route, self.what)
    }
}

impl Isolation {
    /// Resources are made by `create` (such as `POST /jobs`) with the JSON `body`, in which `MARKER`
    /// stands for a text that only the owner may see again; the answer holds the id at the JSON pointer
    /// `id_pointer` (RFC 6901).
    pub fn new(create: &str, body: &str, id_pointer: &str) -> Self {
        Self {
            create: Route::new(create),
            body: body.to_owned(),
            id_pointer: id_pointer.to_owned(),
            routes: Vec::new(),
            lists: Vec::new(),
        }
    }

    /// A route about one resource, whose id stands for `{id}` in the path.
    pub fn route(self, route: &str) -> Self {
        self.route_with_body(route, "")
    }

    /// A route about one resource that takes the JSON `body`.
    pub fn route_with_body(mut self, route: &str, body: &str) -> Self {
        self.routes.push((Route::new(route), body.to_owned()));
        self
    }

    /// A route that shows or changes all that the caller has, and nothing of others.
    pub fn list(mut self, route: &str) -> Self {
        self.lists.push(Route::new(route));
        self
    }

    /// Tries all routes with both users, in both directions, and returns every leak found.
    pub async fn leaks<S, B>(&self, service: S, alice: &str, bob: &str) -> Vec<Leak>
    where
        S: Service<Request<B>, Response = Response<B>> + Clone,
        B: http_body::Body + From<Bytes>,
    {
        let client = Client { service, body: std::marker::PhantomData };
        let mut leaks = self.one_way(&client, alice, bob, "first").await;
        leaks.extend(self.one_way(&client, bob, alice, "second").await);
        leaks
    }

    async fn one_way<S, B>(
        &self,
        client: &Client<S, B>,
        owner: &str,
        stranger: &str,
        direction: &str,
    ) -> Vec<Leak>
    where
        S: Service<Request<B>, Response = Response<B>> + Clone,
        B: http_body::Body + From<Bytes>,
    {
        let mut leaks = Vec::new();
        // Each direction has its own, since the stranger has made something as an owner before.
        let marker = format!("only-the-owner-sees-this-{direction}");
        let body = self.body.replace("MARKER", &marker);
        let created = client.send(&self.create, "", owner, &body).await;
        let Some(id) = created.id_at(&self.id_pointer) else {
            let what = format!("the owner could not create anything: {created}");
            return vec![Leak { route: self.create.to_string(), what }];
        };
        let mut leak = |route: &Route, what: String| leaks.push(Leak { route: route.to_string(), what });
        for (route, body) in &self.routes {
            let before = client.all(&self.routes, owner, &id).await;
            let foreign = client.send(route, &id, stranger, body).await;
            let absent = client.send(route, &another(&id), stranger, body).await;
            if foreign.status.is_success() {
                leak(route, format!("a stranger got {foreign}"));
            } else if foreign != absent {
                leak(route, format!("somebody else's is told from none at all: {foreign} and {absent}"));
            }
            if client.all(&self.routes, owner, &id).await != before {
                leak(route, "what the owner sees changed after a stranger's request".to_owned());
            }
        }
        for route in &self.lists {
            let before = client.all(&self.routes, owner, &id).await;
            let list = client.send(route, "", stranger, "").await;
            if list.contains(&id) || list.contains(&marker) {
                leak(route, format!("a stranger's list holds it: {list}"));
            }
            if client.all(&self.routes, owner, &id).await != before {
                leak(route, "what the owner sees changed after a stranger's request".to_owned());
            }
        }
        leaks.extend(self.unusable(client, owner).await);
        leaks
    }

    /// The routes that refuse their owner as well: nothing was checked there.
    async fn unusable<S, B>(&self, client: &Client<S, B>, owner: &str) -> Vec<Leak>
    where
        S: Service<Request<B>, Response = Response<B>> + Clone,
        B: http_body::Body + From<Bytes>,
    {
        let mut unusable = Vec::new();
        let safe_lists = self.lists.iter().filter(|route| route.method.is_safe()).map(|route| (route, ""));
        for (route, body) in self.routes.iter().map(|(route, body)| (route, body.as_str())).chain(safe_lists)
        {
            let own = client.send(&self.create, "", owner, &self.body).await.id_at(&self.id_pointer);
            let used = client.send(route, &own.unwrap_or_default(), owner, body).await;
            if matches!(used.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
                let what = format!("not checked, since the owner cannot use it either: {used}");
                unusable.push(Leak { route: route.to_string(), what });
            }
        }
        unusable
    }
}

/// Drives two users, by their API keys, over the routes of `isolation` and finds what leaks between them.
///
/// # Panics
/// When something leaks; the message lists each leak with its route.
///
/// ```no_run
/// # async fn test(app: axum::Router, alice: &str, bob: &str) {
/// use keyward::testing::{Isolation, assert_isolated};
///
/// let jobs = Isolation::new("POST /jobs", r#"{"name":"MARKER"}"#, "/id")
///     .route("GET /jobs/{id}")
///     .route("DELETE /jobs/{id}")
///     .list("GET /jobs");
/// assert_isolated(app, alice, bob, &jobs).await;
/// # }
/// ```
#[expect(clippy::panic, reason = "an assertion reports by panicking")]
pub async fn assert_isolated<S, B>(service: S, alice: &str, bob: &str, isolation: &Isolation)
where
    S: Service<Request<B>, Response = Response<B>> + Clone,
    B: http_body::Body + From<Bytes>,
{
    let leaks = isolation.leaks(service, alice, bob).await;
    if !leaks.is_empty() {
        let list: String = leaks.iter().map(|leak| format!("\n  {leak}")).collect();
        panic!("{} leaks between two users:{list}", leaks.len());
    }
}

/// An id of the same form that no resource has.
fn another(id: &str) -> String {
    let flip = |c: char| match c {
        '0'..='8' => char::from(c as u8 + 1),
        '9' => '0',
        other => other,
    };
    let digits = id.chars().filter(char::is_ascii_digit).count();
    if digits == 0 { format!("{id}-absent") } else { id.chars().map(flip).collect() }
}

struct Client<S, B> {
    service: S,
    body: std::marker::PhantomData<fn() -> B>,
}

/// What a client sees of an answer, without what differs from request to request.
#[derive(Clone, PartialEq, Eq)]
struct Answer {
    status: StatusCode,
    headers: Vec<(String, String)>,
    body: Bytes,
}

impl Answer {
    fn contains(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.body).contains(text)
    }

    fn id_at(&self, pointer: &str) -> Option<String> {
        let body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        match body.pointer(pointer)? {
            serde_json::Value::String(id) => Some(id.clone()),
            serde_json::Value::Number(id) => Some(id.to_string()),
            _ => None,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:.200}", self.status.as_u16(), String::from_utf8_lossy(&self.body))
    }
}

impl<S, B> Client<S, B>
where
    S: Service<Request<B>, Response = Response<B>> + Clone,
    B: http_body::Body + From<Bytes>,
{
    async fn send(&self, route: &Route, id: &str, key: &str, body: &str) -> Answer {
        let request = Request::builder()
            .method(route.method.clone())
            .uri(route.path.replace("{id}", id))
            .header("x-api-key", key)
            .header(header::CONTENT_TYPE, "application/json")
            .body(B::from(Bytes::from(body.to_owned())));
        let mut service = self.service.clone();
        let ready = std::future::poll_fn(|cx| service.poll_ready(cx)).await.is_ok();
        let response = match request {
            Ok(request) if ready => service.call(request).await.ok(),
            _ => None,
        };
        let failed = || Answer { status: StatusCode::BAD_GATEWAY, headers: Vec::new(), body: Bytes::new() };
        let Some(response) = response else { return failed() };
        let (parts, body) = response.into_parts();
        let Ok(body) = body.collect().await else { return failed() };
        let varying = [header::DATE.as_str(), "x-request-id"];
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let kept = parts.headers.iter().filter(|(name, _)| !varying.contains(&name.as_str()));
        let headers = kept.map(|(name, value)| (name.to_string(), text(value))).collect();
        Answer { status: parts.status, headers, body: body.to_bytes() }
    }

    /// Everything that the safe routes show the owner.
    async fn all(&self, routes: &[(Route, String)], owner: &str, id: &str) -> Vec<Answer> {
        let mut answers = Vec::new();
        for (route, body) in routes.iter().filter(|(route, _)| route.method.is_safe()) {
            answers.push(self.send(route, id, owner, body).await);
        }
        answers
    }
}
