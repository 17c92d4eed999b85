//! A flood of wrong keys against the example service, and what it does to those beside it.
//!
//! `KEYWARD_FLOOD_REQUESTS` sets how many there are; with less than 100 000 the memory is only told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod service_process;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, TcpStream},
    time::{Duration, Instant},
};

use keyward::token::KeyFormat;
use serde_json::json;
use service_process::{Service, scratch, setting};

const JUNK: &str = "kw_live_10123456789ABCDEFGHIJKLMNOPQRSTU1G9zjb";
const MIB: f64 = 1024.0 * 1024.0;

/// One connection that is kept.
struct Client(BufReader<TcpStream>);

impl Client {
    fn new(service: &Service) -> Self {
        let stream = TcpStream::connect(service.address()).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(BufReader::new(stream))
    }

    fn status(&mut self, address: &str, key: &str) -> u16 {
        let request = format!(
            "GET /whoami HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: {address}\r\nX-API-Key: {key}\r\n\r\n"
        );
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut status, mut length) = (0, 0);
        let mut line = String::new();
        while self.0.read_line(&mut line).unwrap() > 2 {
            if status == 0 {
                status = line.split(' ').nth(1).unwrap().parse().unwrap();
            } else if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        self.0.read_exact(&mut vec![0; length]).unwrap();
        status
    }
}

#[expect(clippy::disallowed_methods, reason = "measures what users would notice")]
fn now() -> Instant {
    Instant::now()
}

fn v4(n: usize) -> String {
    Ipv4Addr::from_bits(0x0b00_0000 + u32::try_from(n).unwrap()).to_string()
}

fn v6(n: usize) -> String {
    Ipv6Addr::from_bits((0x2001_0db8_0000_0000 + n as u128) << 64 | 1).to_string()
}

/// From which address the wrong key of a request comes, and the key.
type Wrong = dyn Fn(usize) -> (String, String);

/// What came of a flood.
#[derive(Debug, Default)]
struct Outcome {
    refused: usize,
    told_to_wait: usize,
    good: Vec<Duration>,
}

/// One client floods, another one asks beside it with a good key.
fn flood(service: &Service, good: &str, requests: usize, wrong: &Wrong) -> Outcome {
    let (mut attacker, mut neighbour) = (Client::new(service), Client::new(service));
    let mut outcome = Outcome::default();
    for n in 0..requests {
        let (address, key) = wrong(n);
        match attacker.status(&address, &key) {
            401 => outcome.refused += 1,
            429 => outcome.told_to_wait += 1,
            other => panic!("{other}"),
        }
        if n % 50 == 0 {
            let begun = now();
            assert_eq!(neighbour.status("10.1.2.3", good), 200, "after {n} wrong ones");
            outcome.good.push(begun.elapsed());
        }
    }
    outcome.good.sort_unstable();
    outcome
}

#[test]
fn a_flood_of_wrong_keys_takes_little_memory_and_harms_nobody() {
    let requests = setting("KEYWARD_FLOOD_REQUESTS", 2_000);
    let format = KeyFormat::default();
    let well_formed = move || format.generate().unwrap().expose().to_owned();
    let floods: [(&str, Box<Wrong>); 5] = [
        ("junk, one address", Box::new(|_| (v4(1), JUNK.to_owned()))),
        ("well-formed, one address", {
            let key = well_formed.clone();
            Box::new(move |_| (v4(1), key()))
        }),
        ("junk, an address each", Box::new(|n| (v4(n), JUNK.to_owned()))),
        ("junk, a network of IPv6 each", Box::new(|n| (v6(n), JUNK.to_owned()))),
        ("well-formed, an address each", Box::new(move |n| (v4(n), well_formed()))),
    ];
    for (name, wrong) in floods {
        let settings = [("KEYWARD_TRUSTED_PROXIES", "127.0.0.1"), ("RUST_LOG", "error")];
        let service = Service::start(scratch().path(), &settings);
        let made =
            service.post("/admin/tokens", &service.admin_key, json!({ "user_id": "alice", "name": "x" }));
        let (good, mut client) = (made.text("key"), Client::new(&service));
        for _ in 0..200 {
            assert_eq!(client.status("10.1.2.3", &good), 200);
            assert_eq!(client.status("10.9.9.9", JUNK) / 100, 4);
        }
        let before = service.resident_bytes();
        let outcome = flood(&service, &good, requests, &*wrong);
        let after = service.resident_bytes();
        let at = |part: usize| outcome.good[(outcome.good.len() - 1) * part / 100].as_secs_f64() * 1e3;
        let memory = before.zip(after).map(|(before, after)| (before as f64 / MIB, after as f64 / MIB));
        println!(
            "{name:30} {:6} x 401, {:6} x 429; {:5} good: p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms; \
             memory before and after, MiB: {memory:.1?}",
            outcome.refused,
            outcome.told_to_wait,
            outcome.good.len(),
            at(50),
            at(99),
            at(100),
        );
        assert_eq!(outcome.refused + outcome.told_to_wait, requests, "{name}");
        if name.ends_with("one address") {
            // A hundred a minute, for as many minutes as it took.
            assert!(outcome.refused < 200 + requests / 100, "{name}: {}", outcome.refused);
        } else {
            assert_eq!(outcome.told_to_wait, 0, "{name}");
        }
        if let (Some((before, after)), true) = (memory, requests >= 100_000) {
            assert!(after < before + 32.0, "{name}: from {before} to {after} MiB");
        }
    }
}
