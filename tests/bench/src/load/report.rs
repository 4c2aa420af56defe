//! What comes out: a table for people, JSON for programs.

use serde::Serialize;

use super::sample::{Figures, Sample};
use super::scenario::Scenario;
use crate::stats::median;

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct LoadReport {
    /// Of this program.
    pub(crate) version: &'static str,
    /// `memory`, `sqlite` or `postgres`; none of a running server whose database was not named.
    pub(crate) store: Option<String>,
    /// Processor and number of cores.
    pub(crate) machine: String,
    pub(crate) payload_bytes: u32,
    pub(crate) runs: u32,
    /// What the server had before anything was asked of it.
    pub(crate) memory_idle_mib: Option<f64>,
    /// The most that it had.
    pub(crate) memory_peak_mib: Option<f64>,
    pub(crate) lines: Vec<Line>,
}

/// One line of the table.
#[derive(Debug, Serialize)]
pub struct Line {
    /// Its kind, as on the command line.
    what: &'static str,
    label: String,
    users: u32,
    devices: u32,
    /// Changes of an upload or a page.
    batch: u32,
    #[serde(flatten)]
    figures: Figures,
    /// What the same costs without the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    floor: Option<FloorFigures>,
}

/// The floor of a line. Ratios are medians of those of each run with the floor that was measured right before it.
#[derive(Debug, Serialize)]
struct FloorFigures {
    what: &'static str,
    #[serde(flatten)]
    figures: Figures,
    /// The server's changes in a second to those of the floor: the higher the better.
    ratio: f64,
    /// Time on a core for a change, of server and database, to that of the floor: the lower the better.
    cpu_ratio: Option<f64>,
}

impl Line {
    /// Of these runs and their floors, one each, or none at all.
    pub(crate) fn new(scenario: Scenario, runs: &[Sample], (what, floors): (&'static str, &[Sample])) -> Self {
        let pairs = || runs.iter().zip(floors);
        let ratio = || median(pairs().map(|(run, floor)| run.changes_per_s() / floor.changes_per_s()).collect());
        let cpu_ratios = || pairs().map(|(run, floor)| Some(run.cpu_us()? / floor.cpu_us().filter(|cpu| *cpu > 0.0)?));
        let floor = (!floors.is_empty()).then(|| FloorFigures {
            what,
            figures: Figures::of(floors),
            ratio: ratio(),
            cpu_ratio: cpu_ratios().collect::<Option<Vec<f64>>>().map(median),
        });
        let Scenario { users, devices, batch, .. } = scenario;
        let what = scenario.what.name();
        Self { what, label: scenario.label(), users, devices, batch, figures: Figures::of(runs), floor }
    }
}

impl Line {
    /// The server's part of it.
    pub(crate) fn figures(&self) -> &Figures {
        &self.figures
    }
}

impl LoadReport {
    /// For people.
    pub fn table(&self) -> String {
        let heading = [
            "",
            "changes/s",
            "of floor",
            "CPU",
            "p50 ms",
            "p99 ms",
            "max ms",
            "server µs",
            "database µs",
            "floor µs",
            "bytes",
            "MiB",
        ];
        let mut text = format!("{}\n\n{:<44}", self.about(), heading[0]);
        for name in &heading[1..] {
            text += &format!(" {name:>11}");
        }
        text.push('\n');
        for line in &self.lines {
            let (figures, floor) = (&line.figures, line.floor.as_ref());
            let number =
                |value: Option<f64>, digits: usize| value.map_or("–".into(), |value| format!("{value:.digits$}"));
            let cells = [
                number(Some(figures.changes_per_s), 0),
                number(floor.map(|floor| floor.ratio), 2),
                number(floor.and_then(|floor| floor.cpu_ratio), 2),
                number(Some(figures.times.p50_ms), 2),
                number(Some(figures.times.p99_ms), 2),
                number(Some(figures.times.max_ms), 2),
                number(figures.server_us, 1),
                number(figures.database_us, 1),
                number(floor.and_then(|floor| floor.figures.database_us), 1),
                number(Some(figures.bytes_per_change), 0),
                number(figures.memory_peak_mib, 1),
            ];
            text += &format!("{:<44}", line.label);
            for cell in cells {
                text += &format!(" {cell:>11}");
            }
            text.push('\n');
        }
        text + "\n" + &self.legend()
    }

    fn about(&self) -> String {
        let memory = |what: &str, mib: Option<f64>| mib.map_or(String::new(), |mib| format!(", {mib:.1} MiB {what}"));
        format!(
            "outrigger {} on {}, {}, payloads of {} bytes, medians of {} runs{}{}",
            self.version,
            self.store.as_deref().unwrap_or("a running server"),
            self.machine,
            self.payload_bytes,
            self.runs,
            memory("idle", self.memory_idle_mib),
            memory("at most", self.memory_peak_mib),
        )
    }

    fn legend(&self) -> String {
        let mut text = String::from(
            "of floor: changes/s to those of the floor. CPU: cores' time of server and database to that of the floor.\n\
             ms: one request, or one first sync. µs, bytes: of each change. MiB: the most that the server had.\n",
        );
        let mut named = Vec::new();
        for floor in self.lines.iter().filter_map(|line| line.floor.as_ref().map(|floor| (line.what, floor.what))) {
            if !named.contains(&floor) {
                text += &format!("floor of {}: {}\n", floor.0, floor.1);
                named.push(floor);
            }
        }
        text
    }
}
