//! The installed programs of Postgres, and the account they run under.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const PROGRAMS: [&str; 3] = ["initdb", "pg_ctl", "postgres"];
const ADVICE: &str = "install Postgres (on Debian: apt-get install postgresql) \
                      or set OUTRIGGER_TEST_POSTGRES_URL to a server whose role may create databases and roles";

/// Where a program of the installed Postgres is, such as `pgbench`. None if it is not installed.
pub fn postgres_program(name: &str) -> Option<PathBuf> {
    candidates().into_iter().map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// Where the programs are, and who runs them.
pub(crate) struct Binaries {
    folder: PathBuf,
    account: Option<Account>,
}

/// The numbers of a user and its group.
#[derive(Clone, Copy)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Binaries {
    /// Finds them on the `PATH`, by `pg_config`, or where Debian puts them. Panics with advice if there are none.
    pub(crate) fn find() -> Self {
        let folder = candidates().into_iter().find(|folder| has_programs(folder));
        let folder = folder.unwrap_or_else(|| panic!("tests need a Postgres server: {ADVICE}"));
        Self { folder, account: account() }
    }

    /// The account that the server's files must belong to, if it is not this process's own.
    pub(crate) fn account(&self) -> Option<Account> {
        self.account
    }

    /// A call of one of the programs. It speaks English, and its files belong to the right account.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.folder.join(program));
        command.env("LC_ALL", "C");
        if let Some(Account { uid, gid }) = self.account {
            command.uid(uid).gid(gid);
        }
        command
    }
}

fn has_programs(folder: &Path) -> bool {
    PROGRAMS.iter().all(|program| folder.join(program).is_file())
}

fn candidates() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        found.push(String::from_utf8_lossy(&output.stdout).trim().into());
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |name: &std::ffi::OsStr| name.to_str().and_then(|name| name.parse::<u32>().ok());
    let mut versions: Vec<_> = versions.map(|entry| (number(&entry.file_name()), entry.path().join("bin"))).collect();
    versions.sort();
    found.extend(versions.into_iter().rev().map(|(_, folder)| folder));
    found
}

/// Postgres refuses to run as root, so root runs it as the user that its package has made.
fn account() -> Option<Account> {
    let own = id(&["-u"]).expect("`id` tells the own user");
    if own != 0 {
        return None;
    }
    match (id(&["-u", "postgres"]), id(&["-g", "postgres"])) {
        (Some(uid), Some(gid)) => Some(Account { uid, gid }),
        _ => panic!("root cannot run Postgres and there is no user `postgres` to do it: {ADVICE}"),
    }
}

fn id(arguments: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(arguments).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
