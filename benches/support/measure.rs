//! Time and instructions.

use std::{
    env,
    ffi::OsString,
    process::{Command, Stdio},
};

use crate::support::alloc::settle;

/// The environment variable with the path of the program that counts instructions. It runs the program
/// that its arguments name, and for every second breakpoint writes a line `SS region <n> insns <m>` to its
/// standard error: how many instructions were retired since the breakpoint before.
const SINGLESTEP: &str = "KEYWARD_SINGLESTEP";

/// Nanoseconds of CPU time that this thread has used.
#[cfg(target_os = "linux")]
pub(crate) fn thread_time() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

/// Nanoseconds since some moment: elsewhere the wall clock has to do.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::disallowed_methods, reason = "a bench measures time")]
pub(crate) fn thread_time() -> f64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed().as_nanos() as f64
}

/// A setting of the bench.
#[expect(clippy::disallowed_methods, reason = "a bench is set by its environment")]
pub(crate) fn setting(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// Whether `cargo bench` runs this, and not `cargo test`.
pub(crate) fn is_bench() -> bool {
    env::args().any(|argument| argument == "--bench")
}

/// Stops for the program that counts, which is the only one to run this under.
pub(crate) fn breakpoint() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction touches neither memory nor registers; it hands over to the tracer.
    unsafe {
        std::arch::asm!("int3", options(nostack));
    }
}

/// Counts `run(0)` and `run(times)` as two regions: what is done once for all times lies in both.
pub(crate) fn mark_regions(times: u64, mut run: impl FnMut(u64)) {
    settle();
    // What is only slow right afterwards, or the first time of all, is not stepped through.
    run(3);
    for times in [0, times] {
        breakpoint();
        run(times);
        breakpoint();
    }
}

/// Runs this bench with `arguments` under the program that counts: the regions' instructions, and what
/// was written to standard output. `None` if there is no such program.
pub(crate) fn counted(arguments: &[&str]) -> Option<(Vec<f64>, String)> {
    let program = setting(SINGLESTEP)?;
    let bench = env::current_exe().expect("the path of this bench");
    let run = Command::new(program).arg(bench).args(arguments).stdin(Stdio::null()).output();
    let output = run.expect("KEYWARD_SINGLESTEP names a program");
    let errors = String::from_utf8_lossy(&output.stderr);
    let regions: Vec<f64> = errors.lines().filter_map(region).collect();
    assert!(!regions.is_empty(), "no instructions were counted: {errors}");
    Some((regions, String::from_utf8_lossy(&output.stdout).into_owned()))
}

fn region(line: &str) -> Option<f64> {
    let (_, count) = line.strip_prefix("SS region ")?.split_once(" insns ")?;
    count.trim().parse().ok()
}

/// Instructions for each time, of the two regions that [`mark_regions`] marked.
pub(crate) fn instructions_each(none: f64, some: f64, times: u64) -> f64 {
    (some - none) / times as f64
}

/// The median of `values`.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    percentile(values, 50)
}

/// The value that `percent` of `values` lie below.
pub(crate) fn percentile(values: impl IntoIterator<Item = f64>, percent: usize) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() * percent / 100).copied().unwrap_or(f64::NAN)
}
