//! One run of one thing, and what some runs come to.

use std::time::Duration;

use serde::Serialize;

use super::drive::Driven;
use crate::stats::{Times, median};

const MIB: f64 = 1024.0 * 1024.0;

/// What was measured once.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    pub(crate) driven: Driven,
    /// Time on a core of the server, where it can be known.
    pub(crate) server_cpu: Option<Duration>,
    /// That of the database's processes.
    pub(crate) database_cpu: Option<Duration>,
    /// The most memory that the server has had, in bytes.
    pub(crate) memory_peak: Option<u64>,
}

/// The medians of some runs.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Figures {
    /// Changes decided or downloaded in a second.
    pub changes_per_s: f64,
    /// Times of one request, or of one first sync.
    #[serde(flatten)]
    pub(crate) times: Times,
    /// Microseconds of a core that a change costs the server.
    pub server_us: Option<f64>,
    /// … and the database's processes.
    pub database_us: Option<f64>,
    /// Bytes on the wire, both ways, heads included.
    pub bytes_per_change: f64,
    /// The most that the server has had in any of the runs.
    pub memory_peak_mib: Option<f64>,
}

impl Sample {
    pub(crate) fn changes_per_s(&self) -> f64 {
        self.driven.changes as f64 / self.driven.wall.as_secs_f64().max(1e-9)
    }

    /// Microseconds of a core for a change, of server and database together.
    pub(crate) fn cpu_us(&self) -> Option<f64> {
        let all = self.server_cpu.unwrap_or_default() + self.database_cpu.unwrap_or_default();
        (self.server_cpu.is_some() || self.database_cpu.is_some()).then(|| self.per_change(all))
    }

    fn per_change(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() * 1e6 / self.driven.changes.max(1) as f64
    }
}

impl Figures {
    /// Of these runs.
    pub(crate) fn of(runs: &[Sample]) -> Self {
        let of = |value: &dyn Fn(&Sample) -> f64| median(runs.iter().map(value).collect());
        let known = |value: &dyn Fn(&Sample) -> Option<f64>| {
            let values: Option<Vec<f64>> = runs.iter().map(value).collect();
            values.map(median)
        };
        let times: Vec<Times> = runs.iter().map(|run| Times::of(run.driven.times.clone())).collect();
        let time = |value: fn(&Times) -> f64| median(times.iter().map(value).collect());
        Self {
            changes_per_s: of(&Sample::changes_per_s),
            times: Times {
                p50_ms: time(|times| times.p50_ms),
                p99_ms: time(|times| times.p99_ms),
                max_ms: time(|times| times.max_ms),
            },
            server_us: known(&|run| run.server_cpu.map(|cpu| run.per_change(cpu))),
            database_us: known(&|run| run.database_cpu.map(|cpu| run.per_change(cpu))),
            bytes_per_change: of(&|run| run.driven.bytes as f64 / run.driven.changes.max(1) as f64),
            memory_peak_mib: runs.iter().filter_map(|run| run.memory_peak).max().map(|bytes| bytes as f64 / MIB),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(changes: u64, cpu_ms: u64) -> Sample {
        let wall = Duration::from_secs(1);
        let driven = Driven { changes, wall, times: vec![wall], bytes: 3 * changes };
        Sample { driven, server_cpu: Some(Duration::from_millis(cpu_ms)), ..Sample::default() }
    }

    #[test]
    fn figures_are_medians_of_runs() {
        let figures = Figures::of(&[run(100, 1), run(300, 3), run(1_000, 50)]);
        assert_eq!((figures.changes_per_s, figures.server_us, figures.database_us), (300.0, Some(10.0), None));
        assert_eq!((figures.bytes_per_change, figures.times.max_ms), (3.0, 1_000.0));
    }
}
