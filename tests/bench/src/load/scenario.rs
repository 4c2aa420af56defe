//! What is measured, line by line.

use std::fmt;
use std::str::FromStr;

use super::LoadBench;

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// New rows.
    Upload,
    /// Changes of rows that are there.
    Update,
    /// Updates of which half are on a version that is none any more.
    Conflict,
    /// Uploads that were applied, sent again.
    Retry,
    /// Pages of a long stream.
    Download,
    /// A new device that downloads all of it.
    FirstSync,
    /// Many users with little each.
    SmallUsers,
    /// Many devices of one user who has much.
    LargeUser,
}

impl What {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 8] = [
        Self::Upload,
        Self::Update,
        Self::Conflict,
        Self::Retry,
        Self::Download,
        Self::FirstSync,
        Self::SmallUsers,
        Self::LargeUser,
    ];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Update => "update",
            Self::Conflict => "conflict",
            Self::Retry => "retry",
            Self::Download => "download",
            Self::FirstSync => "first-sync",
            Self::SmallUsers => "small-users",
            Self::LargeUser => "large-user",
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|what| what.name() == text);
        found.ok_or_else(|| format!("one of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) what: What,
    pub(crate) users: u32,
    /// Of each user.
    pub(crate) devices: u32,
    /// Changes of an upload, or of a page.
    pub(crate) batch: u32,
}

impl Scenario {
    /// What it is, for people.
    pub(crate) fn label(&self) -> String {
        let Self { what, users, devices, batch } = self;
        let all = users * devices;
        match what {
            What::Upload => format!("upload, batches of {batch}, {all} devices"),
            What::Update => format!("update, batches of {batch}, {all} devices"),
            What::Conflict => format!("half conflicts, batches of {batch}, {all} devices"),
            What::Retry => format!("retry, batches of {batch}, {all} devices"),
            What::Download => format!("download, pages of {batch}, {all} devices"),
            What::FirstSync => format!("first sync, pages of {batch}"),
            What::SmallUsers => format!("{users} small users, batches of {batch}"),
            What::LargeUser => format!("one large user, {all} devices, batches of {batch}"),
        }
    }
}

/// The lines that were asked for. With one device only, each line is about that.
pub(crate) fn scenarios(bench: &LoadBench, many: bool) -> Vec<Scenario> {
    let wanted = |what: &What| bench.only.is_empty() || bench.only.contains(what);
    let mut all = Vec::new();
    for what in What::ALL.into_iter().filter(wanted) {
        let sizes: &[u32] = match what {
            What::Upload => &bench.batches,
            What::Download => &bench.pages,
            What::Update | What::Conflict | What::Retry => &[100],
            What::FirstSync => &[1_000],
            What::SmallUsers | What::LargeUser => &[10],
        };
        for &batch in sizes {
            let (users, devices) = match what {
                // One change at a time is bound by the disk, and takes more devices to use what there is.
                What::Upload if batch == 1 => (16, 1),
                What::Upload | What::Update | What::Conflict | What::Retry => (8, 1),
                What::Download => (1, 2),
                What::FirstSync => (1, 1),
                What::SmallUsers => (64, 1),
                What::LargeUser => (1, 16),
            };
            let one_user = matches!(what, What::Download | What::FirstSync | What::LargeUser);
            let users = if one_user { users } else { bench.users.unwrap_or(users) };
            let devices = bench.devices.unwrap_or(devices);
            let (users, devices) = if many { (users, devices) } else { (1, 1) };
            all.push(Scenario { what, users, devices, batch });
        }
    }
    all
}
