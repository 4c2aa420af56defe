//! Runs a line of the table: the floor and the server in turn, some times.

use outrigger_application::{Clock, SystemClock};

use super::LoadBench;
use super::changes::Changes;
use super::drive::{Device, Limit, drive};
use super::floor::{Floor, Shape, Write};
use super::report::Line;
use super::sample::Sample;
use super::scenario::{Scenario, What};
use super::target::Target;
use super::work::{Download, Insert, Keeping, Update, Work};
use crate::postgres::Database;
use crate::{BenchError, Progress};

/// Changes in one upload that fills a stream.
const FILL: usize = 1_000;

/// What runs stand on.
pub(crate) struct Runner<'a> {
    pub(crate) bench: &'a LoadBench,
    pub(crate) target: &'a Target,
    pub(crate) database: Option<Database>,
    pub(crate) floor: Floor,
    /// The long stream, once there is one.
    pub(crate) stream: Option<Stream>,
}

/// The stream of a user who has much.
pub(crate) struct Stream {
    user: String,
    /// Behind which change it begins, and where it ends.
    range: (i64, i64),
}

impl Runner<'_> {
    /// One line, with the medians of all runs.
    pub(crate) async fn line(&mut self, scenario: Scenario, progress: &dyn Progress) -> Result<Line, BenchError> {
        let (mut runs, mut floors) = (Vec::new(), Vec::new());
        for run in 1..=self.bench.runs {
            progress.begin(&format!("{} ({run} of {})", scenario.label(), self.bench.runs));
            if self.bench.floor.is_some() {
                self.settle();
                floors.extend(self.floor(scenario).await?);
            }
            self.settle();
            let (sample, own_floor) = self.sample(scenario).await?;
            runs.push(sample);
            floors.extend(own_floor);
            progress.step();
        }
        let floor = match scenario.what {
            What::Retry => "the first upload of the same",
            What::Download | What::FirstSync => self.floor.name(true),
            _ => self.floor.name(false),
        };
        Ok(Line::new(scenario, &runs, (floor, &floors)))
    }

    /// Both begin with nothing that is still to be written.
    fn settle(&self) {
        if let Some(database) = &self.database {
            // Not every role may do so. Runs are then less alike.
            let _ = database.ask("CHECKPOINT");
        }
    }

    fn limit(&self) -> Limit {
        Limit { time: self.bench.time, changes: self.bench.changes }
    }

    async fn floor(&mut self, scenario: Scenario) -> Result<Option<Sample>, BenchError> {
        let Scenario { what, users, devices, batch } = scenario;
        let shape = Shape { users, devices, batch, payload_bytes: self.bench.payload_bytes };
        match what {
            What::Upload | What::SmallUsers | What::LargeUser => self.floor.write(Write::Insert, shape, self.limit()),
            What::Update => self.floor.write(Write::Update, shape, self.limit()),
            // What a conflict costs is up to the implementation.
            What::Conflict | What::Retry => Ok(None),
            What::Download | What::FirstSync => {
                self.fill().await?;
                let stream = self.stream.as_ref().map_or("", |stream| &stream.user);
                self.floor.read(stream, self.limit())
            }
        }
    }

    /// One run, and what it is compared with where that is the server too.
    async fn sample(&mut self, scenario: Scenario) -> Result<(Sample, Option<Sample>), BenchError> {
        let batch = scenario.batch as usize;
        match scenario.what {
            What::Upload | What::SmallUsers => Ok((self.inserting(self.devices(scenario).await?, batch).await?, None)),
            What::LargeUser => {
                self.fill().await?;
                Ok((self.inserting(self.devices(scenario).await?, batch).await?, None))
            }
            What::Update | What::Conflict => {
                let stale = if scenario.what == What::Conflict { batch.div_ceil(2) } else { 0 };
                let mut devices = Vec::new();
                for (mut client, changes) in self.devices(scenario).await? {
                    let work = Update::prepare(&mut client, changes, (batch, stale)).await?;
                    devices.push((client, work));
                }
                Ok((self.measure(devices).await?.0, None))
            }
            What::Retry => {
                let keeping = |(client, changes)| (client, Keeping::new(Insert { changes, batch }));
                let devices = self.devices(scenario).await?.into_iter().map(keeping).collect();
                let (first, devices) = self.measure(devices).await?;
                let devices = devices.into_iter().map(|(client, work)| (client, work.again())).collect();
                Ok((self.measure(devices).await?.0, Some(first)))
            }
            What::Download | What::FirstSync => {
                self.fill().await?;
                let range = self.stream.as_ref().map_or((0, 0), |stream| stream.range);
                let whole = scenario.what == What::FirstSync;
                let work = || Download { range, after: range.0, page: scenario.batch, whole };
                let devices = self.devices(scenario).await?.into_iter().map(|(client, _)| (client, work())).collect();
                Ok((self.measure(devices).await?.0, None))
            }
        }
    }

    async fn inserting(&self, devices: Vec<Device<Changes>>, batch: usize) -> Result<Sample, BenchError> {
        let insert = |(client, changes)| (client, Insert { changes, batch });
        Ok(self.measure(devices.into_iter().map(insert).collect()).await?.0)
    }

    /// New devices, of new users where it is not about the one who has much.
    async fn devices(&self, scenario: Scenario) -> Result<Vec<Device<Changes>>, BenchError> {
        let run = fastrand::u32(..);
        let mut devices = Vec::new();
        for user in 0..scenario.users {
            let name = match (scenario.what, &self.stream) {
                (What::Download | What::FirstSync | What::LargeUser, Some(stream)) => stream.user.clone(),
                _ => format!("bench-{run}-{user}"),
            };
            for device in 0..scenario.devices {
                let client = self.target.connect(&name, &format!("device-{run}-{device}")).await?;
                devices.push((client, Changes::new(self.bench.payload_bytes, first_id())));
            }
        }
        Ok(devices)
    }

    /// Has the devices do their work, and takes what that costs.
    async fn measure<W: Work + 'static>(
        &self,
        devices: Vec<Device<W>>,
    ) -> Result<(Sample, Vec<Device<W>>), BenchError> {
        self.target.forget_peak();
        let database_cpu = || self.database.as_ref().and_then(Database::cpu);
        let (server, database) = (self.target.cost(), database_cpu());
        let (driven, devices) = drive(devices, self.limit()).await?;
        let (server_after, database_after) = (self.target.cost(), database_cpu());
        let sample = Sample {
            driven,
            server_cpu: server_after.zip(server).map(|(after, before)| after.since(before).cpu),
            database_cpu: database_after.zip(database).map(|(after, before)| after.saturating_sub(before)),
            memory_peak: server_after.map(|after| after.memory_peak),
        };
        Ok((sample, devices))
    }

    /// Makes the long stream, unless it is there.
    async fn fill(&mut self) -> Result<(), BenchError> {
        if self.stream.is_some() {
            return Ok(());
        }
        let user = format!("bench-large-{}", fastrand::u32(..));
        let mut phone = self.target.connect(&user, "phone").await?;
        let mut changes = Changes::new(self.bench.payload_bytes, first_id());
        let (mut left, mut head) = (self.bench.rows as usize, 0);
        while left > 0 {
            let rows: Vec<_> = (0..left.min(FILL)).map(|_| changes.row()).collect();
            left -= rows.len();
            let answer = phone.call("POST", "/sync/upload", changes.upload("INSERT", &rows)).await?;
            let text = String::from_utf8_lossy(&answer);
            let number = text.split_once("\"highest_server_seq\":").and_then(|(_, rest)| rest.split(',').next());
            head = number.and_then(|number| number.parse().ok()).unwrap_or(head);
        }
        self.stream = Some(Stream { user, range: (head - i64::from(self.bench.rows), head) });
        Ok(())
    }
}

/// Above all ids that the same source can have used in an earlier benchmark.
fn first_id() -> i64 {
    SystemClock.now().as_microsecond()
}
