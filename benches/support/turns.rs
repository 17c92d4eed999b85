//! Cases that run by turns in one process, and what is measured of each.

use std::{env, process::ExitCode};

use crate::{
    runs::Run,
    support::{
        alloc::{allocated, settle},
        measure::{
            counted, instructions_each, is_bench, mark_regions, median, percentile, setting, thread_time,
        },
        report::{Report, number},
    },
};

/// A case runs for so many nanoseconds in each round.
const BATCH: f64 = 2e6;

/// A case's name, and what sets it up.
pub(crate) type Case = (&'static str, fn() -> Run);

/// Measures the cases, prints the table and what `judge` finds; a test only runs each case.
pub(crate) fn run_all(cases: &[Case], judge: fn(&Results) -> Report) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _timers = runtime.enter();
    let arguments: Vec<String> = env::args().collect();
    if let [_, flag, name, times] = arguments.as_slice()
        && flag == "--one"
    {
        let (_, case) = cases.iter().find(|(case, _)| case == name).expect("a case");
        mark_regions(times.parse().expect("a number"), case());
        return ExitCode::SUCCESS;
    }
    let mut runs: Vec<(&str, Run)> = cases.iter().map(|(name, case)| (*name, case())).collect();
    if !is_bench() {
        runs.iter_mut().for_each(|(_, run)| run(3));
        return ExitCode::SUCCESS;
    }
    settle();
    let results = Results(measure(&mut runs));
    results.print();
    judge(&results).exit_code()
}

/// What was measured of one case.
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    /// Nanoseconds each, one for each round.
    times: Vec<f64>,
    instructions: Option<f64>,
    pub(crate) allocations: f64,
}

impl Measured {
    /// How many times the instructions of `other`.
    pub(crate) fn instructions_over(&self, other: &Self) -> Option<f64> {
        self.instructions.zip(other.instructions).map(|(of, to)| of / to)
    }

    /// How many times the time of `other`, compared round by round.
    pub(crate) fn time_over(&self, other: &Self) -> f64 {
        median(self.times.iter().zip(&other.times).map(|(of, to)| of / to))
    }
}

/// What was measured of all cases.
pub(crate) struct Results(Vec<Measured>);

impl Results {
    pub(crate) fn find(&self, name: &str) -> &Measured {
        self.0.iter().find(|result| result.name == name).expect("a case")
    }

    fn print(&self) {
        let width = self.0.iter().map(|result| result.name.len()).max().unwrap_or(0);
        println!(
            "{:<width$} {:>10} {:>10} {:>12} {:>11}",
            "case", "ns median", "ns p10", "instructions", "allocations"
        );
        for result in &self.0 {
            let times = || result.times.iter().copied();
            println!(
                "{:<width$} {:>10.1} {:>10.1} {:>12} {:>11.2}",
                result.name,
                median(times()),
                percentile(times(), 10),
                number(result.instructions),
                result.allocations
            );
        }
    }
}

fn measure(runs: &mut [(&'static str, Run)]) -> Vec<Measured> {
    let rounds = setting("KEYWARD_ROUNDS").and_then(|rounds| rounds.to_str()?.parse().ok()).unwrap_or(41);
    let batches: Vec<u64> =
        runs.iter_mut().map(|(_, run)| (BATCH / time_each(run, 200)).max(1.0) as u64).collect();
    let mut results: Vec<Measured> =
        runs.iter_mut().zip(&batches).map(|((name, run), batch)| start(name, run, *batch)).collect();
    for _ in 0..rounds {
        for (((_, run), batch), result) in runs.iter_mut().zip(&batches).zip(&mut results) {
            result.times.push(time_each(run, *batch));
        }
    }
    results
}

fn time_each(run: &mut Run, times: u64) -> f64 {
    let start = thread_time();
    run(times);
    (thread_time() - start) / times as f64
}

/// Counts what needs no rounds: it is the same each time. A step costs some 20 microseconds, so a case of
/// hundreds of thousands of instructions is stepped through once, and only a short one ten times.
fn start(name: &'static str, run: &mut Run, batch: u64) -> Measured {
    const TIMES: u64 = 1000;
    run(3);
    let before = allocated().blocks;
    run(TIMES);
    let allocations = (allocated().blocks - before) as f64 / TIMES as f64;
    let stepped = (batch / 100).clamp(1, 10);
    let regions = counted(&["--one", name, &stepped.to_string()]);
    let instructions = regions.map(|(regions, _)| match regions.as_slice() {
        [none, some] => instructions_each(*none, *some, stepped),
        other => unreachable!("two regions are marked, not {}", other.len()),
    });
    Measured { name, times: Vec::new(), instructions, allocations }
}
