//! What grows with the number of keys, and what must not: `cargo bench --bench scale`.
//!
//! * A look-up through the layer, with 1000 to 10 000 000 keys in the cache: for 1000 of them that carry
//!   all the traffic (`hot`), and for all of them alike (`uniform`).
//! * The bytes of one cached key, beyond its user's name: as counted by the allocator, and as the process
//!   grows (`rss`).
//! * Writing the uses of keys to SQLite: 100 000 and 1000 keys in one batch, and 1000 keys with 20 requests
//!   each in one batch against an update for each request.
//!
//! For instructions as well see `hot_path.rs`. `KEYWARD_SCALE_MAX` limits the number of keys; the largest
//! takes about 4 GB and two minutes. It fails when a limit on instructions or memory is exceeded. A limit on
//! time only warns.

#![expect(unsafe_code, reason = "the counting allocator and the breakpoint; the crate itself has none")]
#![expect(clippy::expect_used, reason = "a bench stops where its setup fails")]

mod support;

#[path = "support/computed.rs"]
mod computed;
#[path = "support/flush.rs"]
mod flush;

use std::{env, process::ExitCode};

use bytes::{Bytes, BytesMut};
use http::{Extensions, HeaderName, HeaderValue, Request, StatusCode};
use keyward::{
    AuthLayer, TokenManager,
    auth::ApiKeyAuth,
    layer::Auth,
    testing::ManualClock,
    time::{Clock, SystemClock},
    token::KeyFormat,
};
use tower::Layer;

use crate::{
    computed::{Computed, USER_BYTES},
    support::{
        alloc::{allocated, settle},
        measure::{counted, instructions_each, is_bench, mark_regions, median, setting, thread_time},
        report::{Gate, Report, number},
        service::{NoOp, arrived, block_on, request, send},
    },
};

static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

const HOT: usize = 1000;
/// So many keys stand for all of them in uniform access.
const SAMPLE: usize = 65_536;
/// So many look-ups are counted.
const COUNTED: u64 = 30;
const ROUNDS: usize = 21;
/// The number of keys at which memory is judged.
const MEMORY_AT: usize = 1_000_000;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let _timers = runtime.enter();
    if !is_bench() && !env::args().any(|argument| argument == "--child") {
        look_up(&[1000], false);
        runtime.block_on(flush::measure(&mut Report::default(), 1000));
        return ExitCode::SUCCESS;
    }
    let largest =
        setting("KEYWARD_SCALE_MAX").and_then(|max| max.to_str()?.parse().ok()).unwrap_or(10_000_000);
    let decades = (3..8).map(|power| 10usize.pow(power)).filter(|keys| *keys <= largest);
    let mut sizes: Vec<usize> = decades.collect();
    sizes.extend(sizes.last().is_none_or(|last| *last < largest).then_some(largest));
    if !is_bench() {
        look_up(&sizes, true).iter().for_each(Looked::print);
        return ExitCode::SUCCESS;
    }
    let mut report = Report::default();
    judge(&mut report, &look_up_and_count(&sizes));
    runtime.block_on(flush::measure(&mut report, 100_000));
    report.exit_code()
}

/// What was measured at one number of keys.
#[derive(Debug, Default)]
struct Looked {
    keys: f64,
    /// Nanoseconds of one look-up, and how many times that of the fewest keys.
    hot: f64,
    hot_ratio: f64,
    uniform: f64,
    uniform_ratio: f64,
    /// Bytes of one key.
    live: f64,
    rss: f64,
    /// Instructions of a hot and of a uniform look-up.
    instructions: Option<(f64, f64)>,
}

impl Looked {
    fn print(&self) {
        let Self { keys, hot, hot_ratio, uniform, uniform_ratio, live, rss, instructions: _ } = self;
        println!("{keys} {hot} {hot_ratio} {uniform} {uniform_ratio} {live} {rss}");
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(' ').map_while(|field| field.parse().ok());
        let mut next = || fields.next();
        Some(Self {
            keys: next()?,
            hot: next()?,
            hot_ratio: next()?,
            uniform: next()?,
            uniform_ratio: next()?,
            live: next()?,
            rss: next()?,
            instructions: None,
        })
    }
}

/// Measures in a child process under the program that counts, or in this one if there is none.
fn look_up_and_count(sizes: &[usize]) -> Vec<Looked> {
    let Some((regions, output)) = counted(&["--child"]) else { return look_up(sizes, false) };
    let mut looked: Vec<Looked> = output.lines().filter_map(Looked::parse).collect();
    let mut each =
        regions.as_chunks::<2>().0.iter().map(|[none, some]| instructions_each(*none, *some, COUNTED));
    for looked in &mut looked {
        looked.instructions = each.next().zip(each.next());
    }
    looked
}

fn look_up(sizes: &[usize], mark: bool) -> Vec<Looked> {
    let mut caches: Vec<Cache> = sizes.iter().map(|keys| Cache::filled(*keys)).collect();
    settle();
    let mut hot = vec![Vec::new(); sizes.len()];
    let mut uniform = hot.clone();
    for _ in 0..ROUNDS {
        for ((cache, hot), uniform) in caches.iter_mut().zip(&mut hot).zip(&mut uniform) {
            hot.push(cache.time(Traffic::Hot));
            uniform.push(cache.time(Traffic::Uniform));
        }
    }
    let ratio = |of: &[f64], all: &[Vec<f64>]| {
        let base = all.first().into_iter().flatten();
        median(of.iter().zip(base).map(|(of, base)| of / base))
    };
    let mut looked = Vec::new();
    for ((cache, hot_times), uniform_times) in caches.iter_mut().zip(&hot).zip(&uniform) {
        if mark {
            cache.mark();
        }
        looked.push(Looked {
            keys: cache.keys as f64,
            hot: median(hot_times.iter().copied()),
            hot_ratio: ratio(hot_times, &hot),
            uniform: median(uniform_times.iter().copied()),
            uniform_ratio: ratio(uniform_times, &uniform),
            live: cache.live,
            rss: cache.rss,
            instructions: None,
        });
    }
    looked
}

#[derive(Clone, Copy, Debug)]
enum Traffic {
    Hot,
    Uniform,
}

/// The layer with so many keys in its cache, and requests to send through it.
struct Cache {
    keys: usize,
    store: Computed,
    service: Auth<NoOp>,
    request: Option<Request<()>>,
    hot: Vec<HeaderValue>,
    uniform: Vec<HeaderValue>,
    live: f64,
    rss: f64,
}

impl Cache {
    fn filled(keys: usize) -> Self {
        let now = SystemClock.now();
        let store = Computed::new(now);
        // The clock stands still: nothing goes stale while millions of keys are put in.
        let builder = TokenManager::builder(store.clone()).with_clock(ManualClock::at(now));
        // Each of 64 shards gets about its share of the keys: room for six standard deviations more.
        let share = keys as f64 / 64.0;
        let tokens =
            builder.with_cache_capacity((64.0 * (share + 6.0 * share.sqrt() + 8.0)) as usize).build();
        let service = AuthLayer::new(ApiKeyAuth::new(&tokens)).layer(NoOp);
        let request = Some(request("none"));
        let (hot, uniform) = (Vec::new(), Vec::new());
        let mut cache = Self { keys, store, service, request, hot, uniform, live: 0.0, rss: 0.0 };
        cache.fill(&tokens);
        cache
    }

    fn fill(&mut self, tokens: &TokenManager) {
        let format = KeyFormat::default();
        let mut kept = BytesMut::with_capacity(SAMPLE.min(self.keys) * 48);
        let stride = self.keys.div_ceil(SAMPLE);
        let before = (allocated().live, resident());
        for number in 0..self.keys {
            let key = format.generate().expect("randomness");
            let key = key.expose().as_bytes();
            self.send(HeaderValue::from_bytes(key).expect("a key is a header value"));
            if number.is_multiple_of(stride) {
                kept.extend_from_slice(key);
            }
        }
        block_on(tokens.flush()).expect("the store takes everything");
        self.live = (allocated().live - before.0) as f64 / self.keys as f64 - USER_BYTES;
        self.rss = (resident() - before.1) / self.keys as f64 - USER_BYTES;
        self.keep(&kept.freeze());
    }

    /// Makes header values of the keys that were kept, in random order. They share one buffer.
    fn keep(&mut self, kept: &Bytes) {
        let length = kept.len() / self.keys.div_ceil(self.keys.div_ceil(SAMPLE));
        let value = |at| HeaderValue::from_maybe_shared(kept.slice(at..at + length)).expect("as before");
        self.uniform = (0..kept.len()).step_by(length).map(value).collect();
        let mut random = 1u64;
        for at in (1..self.uniform.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            self.uniform.swap(at, (random >> 33) as usize % (at + 1));
        }
        self.hot = self.uniform.iter().take(HOT).cloned().collect();
    }

    #[inline]
    fn send(&mut self, key: HeaderValue) {
        let mut request = self.request.take().expect("it is put back below");
        *request.headers_mut().get_mut(&X_API_KEY).expect("the request has a key") = key;
        let response = send(&mut self.service, request);
        assert_eq!(response.status(), StatusCode::OK);
        let mut request = arrived();
        assert_eq!(request.extensions().len(), 2);
        *request.extensions_mut() = Extensions::new();
        self.request = Some(request);
    }

    fn run(&mut self, traffic: Traffic, times: u64) {
        let keys = match traffic {
            Traffic::Hot => std::mem::take(&mut self.hot),
            Traffic::Uniform => std::mem::take(&mut self.uniform),
        };
        for key in keys.iter().cycle().take(times as usize) {
            self.send(key.clone());
        }
        match traffic {
            Traffic::Hot => self.hot = keys,
            Traffic::Uniform => self.uniform = keys,
        }
    }

    /// Nanoseconds of one look-up. The store is not asked for any.
    fn time(&mut self, traffic: Traffic) -> f64 {
        let asked = self.store.asked();
        let times = match traffic {
            Traffic::Hot => 10 * HOT,
            Traffic::Uniform => self.uniform.len(),
        };
        self.run(traffic, times as u64 / 10);
        let start = thread_time();
        self.run(traffic, times as u64);
        let time = (thread_time() - start) / times as f64;
        assert_eq!(self.store.asked(), asked, "every key is in the cache");
        time
    }

    fn mark(&mut self) {
        for traffic in [Traffic::Hot, Traffic::Uniform] {
            mark_regions(COUNTED, |times| self.run(traffic, times));
        }
    }
}

/// Bytes of memory that the process holds; where it cannot be told, nothing.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.unwrap_or(0.0) * 1024.0
}

fn judge(report: &mut Report, looked: &[Looked]) {
    let columns = ["keys", "hot ns", "uniform ns", "hot instr", "unif. instr", "live bytes", "rss bytes"];
    println!("{}", columns.map(|column| format!("{column:>11}")).join(" "));
    for at in looked {
        let (hot, uniform) = at.instructions.unzip();
        let values =
            [Some(at.keys), Some(at.hot), Some(at.uniform), hot, uniform, Some(at.live), Some(at.rss)];
        println!("{}", values.map(|value| format!("{:>11}", number(value))).join(" "));
    }
    let base = looked.first().and_then(|first| first.instructions).unzip();
    for at in looked.iter().skip(1) {
        let name = |what: &str| format!("ratio {}/1000 keys {what}", at.keys);
        let (hot, uniform) = at.instructions.unzip();
        let ratio = |of: Option<f64>, base: Option<f64>| of.zip(base).map(|(of, base)| of / base);
        report.line(&name("instructions, hot"), ratio(hot, base.0), 1.05, Gate::Must);
        report.line(&name("instructions, uniform"), ratio(uniform, base.1), 1.05, Gate::Must);
        report.line(&name("time, hot"), Some(at.hot_ratio), 1.5, Gate::Warn);
        report.line(&name("time, uniform"), Some(at.uniform_ratio), 0.0, Gate::Told);
    }
    for at in looked.iter().filter(|at| at.keys == MEMORY_AT as f64) {
        report.line("bytes of a cached key, counted", Some(at.live), 256.0, Gate::Must);
        report.line("bytes of a cached key, rss", Some(at.rss), 256.0, Gate::Must);
    }
}
