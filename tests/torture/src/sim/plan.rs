//! What will happen in one episode: a pure function of its seed.

use std::fmt;

use crate::seed;

/// How long faults go on, in milliseconds. Then everything is mended and the devices come to rest.
const CHAOS_MS: u64 = 8_000;
/// Users of an episode.
pub(super) const USERS: u8 = 3;
/// Numbers that [`crate::seed::derived`] makes generators of, so that no two draw the same.
const OF_THE_WHOLE: u64 = 1;
const OF_DEVICES: u64 = 1_000;
const OF_REQUESTS: u64 = 2_000;
const OF_STOPS: u64 = 3_000;

/// Where the server keeps its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum StoreKind {
    /// One node on a SQLite file.
    Sqlite,
    /// Two nodes on one Postgres.
    Postgres,
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        })
    }
}

/// One episode.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What it is made from.
    pub seed: u64,
    /// What it runs on.
    pub store: StoreKind,
    /// Server processes.
    pub nodes: usize,
    /// What is cleared from the log meanwhile.
    pub pruning: Pruning,
    /// The devices, those that join later included.
    pub devices: Vec<DevicePlan>,
    /// What happens to the server, with the milliseconds after which it does.
    pub faults: Vec<(u64, Fault)>,
}

/// What nodes clear from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pruning {
    /// Nothing, whatever the time is.
    Never,
    /// Everything that may go, at once; the keys stay.
    Entries,
    /// The keys too.
    EntriesAndKeys,
}

/// What one device does.
#[derive(Clone, Debug, PartialEq)]
pub struct DevicePlan {
    /// Whose it is.
    pub user: u8,
    /// Its number among all devices.
    pub number: usize,
    /// Its number among those of its user.
    pub place: usize,
    /// When it is there, in milliseconds.
    pub joins_ms: u64,
    /// How it decides conflicts.
    pub policy: Policy,
    /// Whether it syncs by itself, listening to the server, or only when told to.
    pub is_background: bool,
    /// What its user does.
    pub steps: Vec<Step>,
}

impl DevicePlan {
    /// The name of its user.
    pub fn user_name(&self) -> String {
        user_name(self.user)
    }

    /// The name of the device, which no other one has.
    pub fn name(&self) -> String {
        format!("device-{}", self.number)
    }

    /// What it is for the server: a name that devices of other users have too.
    pub fn source(&self) -> String {
        format!("source-{}", self.place)
    }
}

/// The user of that number.
pub(super) fn user_name(user: u8) -> String {
    format!("user-{user}")
}

/// How a device decides conflicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The server's row counts.
    ServerWins,
    /// The device's row counts.
    ClientWins,
    /// Both are merged, column by column.
    MergeFields,
}

/// What a user does on a device.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Writes into the app's tables.
    Edit(String),
    /// Syncs.
    Sync,
    /// Does nothing for so many milliseconds.
    Pause(u64),
    /// Ends the app, whatever it is doing, and starts it again.
    Restart,
}

/// What happens to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A node is killed with SIGKILL, and stays down for so many milliseconds.
    KillNode { node: usize, down_ms: u64 },
    /// Postgres is stopped in mode `immediate`, or killed with SIGKILL.
    StopDatabase { is_killed: bool, down_ms: u64 },
    /// That share of the server's connections to Postgres is terminated, in percent.
    Terminate { percent: u8 },
    /// All connections that Postgres has are taken.
    Exhaust { hold_ms: u64 },
    /// Somebody holds the lock on a user's stream; on SQLite on the whole file.
    HoldStream { user: u8, hold_ms: u64 },
    /// The clock of a node shows another time from now on.
    Clock { node: usize, offset_s: i64 },
    /// `outrigger compact` runs beside the server.
    Compact,
    /// A backup is taken.
    Backup,
    /// The backup is put back, and marked.
    Restore,
}

/// What happens to one request on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Nothing.
    Clean,
    /// It never arrives.
    LoseRequest,
    /// It arrives, and its answer is lost.
    LoseAnswer,
    /// It arrives twice at the same time, perhaps at two nodes.
    Twice,
    /// It arrives, and so much later once more, behind requests that were made after it.
    AgainLater(u64),
    /// The device is told that it is lost, and so much later it arrives.
    Late(u64),
    /// The connection breaks when so many thousandths of the request have arrived.
    CutRequest(u16),
    /// The connection breaks when so many thousandths of the answer have.
    CutAnswer(u16),
    /// It waits so many milliseconds.
    Delay(u64),
    /// Request and answer trickle, with so many milliseconds between the pieces.
    Slow(u64),
}

impl Plan {
    /// The episode of that seed.
    pub fn new(seed: u64, store: StoreKind) -> Self {
        let rng = &mut seed::derived(seed, OF_THE_WHOLE);
        let nodes = if store == StoreKind::Postgres { 2 } else { 1 };
        let pruning = match rng.u8(..6) {
            0..=2 => Pruning::Never,
            3..=4 => Pruning::Entries,
            _ => Pruning::EntriesAndKeys,
        };
        let mut devices = Vec::new();
        for user in 0..USERS {
            let (at_start, joining) = (rng.u64(2..=4), rng.u64(0..=1));
            for n in 0..at_start + joining {
                let joins_ms = if n < at_start { 0 } else { rng.u64(CHAOS_MS / 4..CHAOS_MS * 3 / 4) };
                let plan = device(seed, (user, devices.len()), joins_ms);
                devices.push(DevicePlan { place: n as usize, ..plan });
            }
        }
        let mut faults = faults(rng, store, nodes);
        if rng.u8(..3) == 0 {
            faults.push((rng.u64(CHAOS_MS / 4..CHAOS_MS / 2), Fault::Backup));
            faults.push((rng.u64(CHAOS_MS * 5 / 8..CHAOS_MS * 7 / 8), Fault::Restore));
        }
        faults.sort_by_key(|(at, _)| *at);
        Self { seed, store, nodes, pruning, devices, faults }
    }

    /// Whether a backup is put back.
    pub fn restores(&self) -> bool {
        self.faults.iter().any(|(_, fault)| *fault == Fault::Restore)
    }

    /// What happens to the request of that number of a device, and which node it goes to.
    pub fn line(&self, device: usize, request: u64) -> (Line, usize) {
        let rng = &mut seed::derived(self.seed, OF_REQUESTS + device as u64 + (request << 20));
        let node = rng.usize(..self.nodes);
        let line = match rng.u8(..100) {
            0..=3 => Line::LoseRequest,
            4..=8 => Line::LoseAnswer,
            9..=12 => Line::Twice,
            13..=16 => Line::AgainLater(rng.u64(20..1_500)),
            17..=20 => Line::Late(rng.u64(5..1_500)),
            21..=23 => Line::CutRequest(rng.u16(..1_000)),
            24..=27 => Line::CutAnswer(rng.u16(..1_000)),
            28..=32 => Line::Delay(rng.u64(5..400)),
            33..=34 => Line::Slow(rng.u64(1..15)),
            _ => Line::Clean,
        };
        (line, node)
    }

    /// Whether a device dies at the point of that number that it comes to.
    pub fn dies(&self, device: usize, point: u64) -> bool {
        seed::derived(self.seed, OF_STOPS + device as u64 + (point << 20)).u16(..600) == 0
    }
}

/// The plan in words, one line for everything that happens.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, store, nodes, pruning, devices, faults } = self;
        writeln!(f, "seed {seed} on {store}, {nodes} nodes, pruning {pruning:?}")?;
        for (at, fault) in faults {
            writeln!(f, "{at:>6} ms  {fault:?}")?;
        }
        for device in devices {
            let DevicePlan { joins_ms, policy, is_background, steps, .. } = device;
            let (user, name, source) = (device.user_name(), device.name(), device.source());
            writeln!(
                f,
                "{joins_ms:>6} ms  {name}, {source} of {user}: {policy:?}, in the background: {is_background}"
            )?;
            for step in steps {
                writeln!(f, "           {name} {step:?}")?;
            }
            let lines: Vec<String> = (0..200).map(|n| format!("{:?}", self.line(device.number, n))).collect();
            writeln!(f, "           {name} requests {}", lines.join(" "))?;
        }
        Ok(())
    }
}

fn faults(rng: &mut fastrand::Rng, store: StoreKind, nodes: usize) -> Vec<(u64, Fault)> {
    let count = rng.usize(4..=9);
    let mut faults: Vec<(u64, Fault)> =
        (0..count).map(|_| (rng.u64(300..CHAOS_MS), fault(rng, store, nodes))).collect();
    // No episode goes by without the two that lose most.
    faults.push((rng.u64(300..CHAOS_MS), Fault::KillNode { node: rng.usize(..nodes), down_ms: rng.u64(..600) }));
    if store == StoreKind::Postgres {
        let (is_killed, down_ms) = (rng.bool(), rng.u64(..600));
        faults.push((rng.u64(300..CHAOS_MS), Fault::StopDatabase { is_killed, down_ms }));
    }
    faults
}

fn fault(rng: &mut fastrand::Rng, store: StoreKind, nodes: usize) -> Fault {
    let node = rng.usize(..nodes);
    let hold_ms = rng.u64(50..1_200);
    match rng.u8(..if store == StoreKind::Postgres { 12 } else { 7 }) {
        0..=2 => Fault::KillNode { node, down_ms: rng.u64(..800) },
        3..=4 => {
            let offset_s = [-3_600, 3_600, 86_400, -3 * 86_400, 400 * 86_400, 0][rng.usize(..6)];
            Fault::Clock { node, offset_s }
        }
        5 => Fault::HoldStream { user: rng.u8(..USERS), hold_ms },
        6 => Fault::Compact,
        7 => Fault::StopDatabase { is_killed: rng.bool(), down_ms: rng.u64(..800) },
        8..=10 => Fault::Terminate { percent: rng.u8(20..=100) },
        _ => Fault::Exhaust { hold_ms },
    }
}

fn device(seed: u64, (user, number): (u8, usize), joins_ms: u64) -> DevicePlan {
    let rng = &mut seed::derived(seed, OF_DEVICES + number as u64);
    let policy = [Policy::ServerWins, Policy::ClientWins, Policy::MergeFields][rng.usize(..3)];
    let is_background = rng.u8(..3) == 0;
    let (mut steps, mut passed, mut edits) = (Vec::new(), joins_ms, 0);
    // An edit now and then; a sync behind one or several; sometimes a while offline.
    while passed < CHAOS_MS {
        match rng.u8(..20) {
            0..=9 => {
                edits += 1;
                steps.push(Step::Edit(edit(rng, (user, number), edits)));
            }
            10..=15 => steps.push(Step::Sync),
            16..=18 => {
                let ms = if rng.u8(..12) == 0 { rng.u64(500..2_000) } else { rng.u64(5..250) };
                passed += ms;
                steps.push(Step::Pause(ms));
            }
            _ => {
                if rng.u8(..4) == 0 {
                    steps.push(Step::Restart);
                }
            }
        }
    }
    DevicePlan { user, number, place: 0, joins_ms, policy, is_background, steps }
}

/// Writes into one of few rows, so that devices meet. What is written says who wrote it.
fn edit(rng: &mut fastrand::Rng, (user, device): (u8, usize), number: u32) -> String {
    let mark = format!("{}/{device}/{number}", user_name(user));
    let (author, post) = (pk(user, rng.u8(..7)), pk(user, 100 + rng.u8(..9)));
    match rng.u8(..12) {
        0..=2 => format!(
            "INSERT INTO users (id, name) VALUES ('{author}', '{mark}') ON CONFLICT (id) DO UPDATE SET name = excluded.name"
        ),
        3..=4 => format!("UPDATE users SET age = {number}, email = '{mark}' WHERE id = '{author}'"),
        5 => format!("DELETE FROM users WHERE id = '{author}'"),
        6..=9 => format!(
            "INSERT INTO posts (id, title, author_id) \
             VALUES ('{post}', '{mark}', (SELECT id FROM users ORDER BY id LIMIT 1 OFFSET {})) \
             ON CONFLICT (id) DO UPDATE SET title = excluded.title, author_id = excluded.author_id",
            rng.u8(..5)
        ),
        10 => format!("DELETE FROM posts WHERE id = '{post}'"),
        _ => format!("UPDATE posts SET title = '{mark}'"),
    }
}

/// A row's key. Some are the same for all users, so that what is not kept apart meets.
fn pk(user: u8, row: u8) -> String {
    let user = if row.is_multiple_of(3) { 255 } else { user };
    format!("0198f00d-0000-7000-8000-{user:02x}00000000{row:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_a_pure_function_of_its_seed() {
        for store in [StoreKind::Sqlite, StoreKind::Postgres] {
            let plan = Plan::new(7, store);
            assert_eq!(plan, Plan::new(7, store));
            assert_eq!(plan.to_string(), Plan::new(7, store).to_string());
            assert_ne!(plan.to_string(), Plan::new(8, store).to_string());
        }
    }

    #[test]
    fn everything_happens_in_some_episode() {
        let plans: Vec<Plan> = (0..60).map(|seed| Plan::new(seed, StoreKind::Postgres)).collect();
        let kinds = |of: &dyn Fn(&Plan) -> Vec<String>| {
            let names = plans.iter().flat_map(of).map(|text| text.split([' ', '(']).next().unwrap_or("").to_owned());
            names.collect::<std::collections::BTreeSet<String>>().len()
        };
        assert_eq!(kinds(&|plan| plan.faults.iter().map(|(_, fault)| format!("{fault:?}")).collect()), 9);
        assert_eq!(kinds(&|plan| (0..50).map(|n| format!("{:?}", plan.line(0, n).0)).collect()), 10);
        assert_eq!(kinds(&|plan| vec![format!("{:?}", plan.pruning)]), 3);
        assert!(plans.iter().any(|plan| plan.devices.iter().any(|device| device.joins_ms > 0)));
    }
}
