//! `outrigger users`, `devices`, `export` and `delete-user`

use std::io::{self, Write, stdout};
use std::sync::Arc;

use outrigger_application::ports::users::UserRecord;
use outrigger_application::{Erasure, Exports, Hub, Snapshots};
use outrigger_config::Config;
use outrigger_http::{DeviceBody, Exported, UserBody, export_lines};
use serde::Serialize;

use crate::cli::{DeleteUserArgs, DevicesArgs, ExportArgs, UsersArgs};
use crate::wire::failed;
use crate::{Outcome, RunError, catalog, output, shutdown, wire};

/// Users or devices that are read at once.
const PAGE: u32 = 500;

/// `users`
pub(crate) async fn users(config: &Config, args: &UsersArgs) -> Result<Outcome, RunError> {
    let store = wire::open_existing(config).await?.users;
    let (mut after, mut rows) = (None, Vec::new());
    loop {
        let page = store.users(after.as_ref(), PAGE).await.map_err(|error| failed("cannot list users", error))?;
        let Some(last) = page.last() else { break };
        after = Some(last.user.clone());
        for record in &page {
            if args.json {
                write_line(&UserBody::from(record))?;
                continue;
            }
            let UserRecord { user, head, devices, last_contact, failures } = record;
            let contact = last_contact.map_or_else(String::new, |at| at.to_string());
            let [head, devices, failures] = [head.to_string(), devices.to_string(), failures.to_string()];
            rows.push([output::one_line(user.as_str()), head, devices, contact, failures]);
        }
    }
    if args.json { Ok(Outcome::Done) } else { table(["USER", "END", "DEVICES", "LAST CONTACT", "FAILURES"], &rows) }
}

/// `devices`
pub(crate) async fn devices(config: &Config, args: &DevicesArgs) -> Result<Outcome, RunError> {
    let store = wire::open_existing(config).await?.users;
    let (mut after, mut rows) = (None, Vec::new());
    loop {
        let page = store.devices(args.user.as_ref(), after.as_ref(), PAGE).await;
        let page = page.map_err(|error| failed("cannot list devices", error))?;
        let Some(last) = page.last() else { break };
        after = Some((last.user.clone(), last.source.clone()));
        for device in &page {
            if args.json {
                write_line(&DeviceBody::from(device))?;
                continue;
            }
            let [user, source] = [device.user.as_str(), device.source.as_str()].map(output::one_line);
            let [first, last] = [device.first_contact, device.last_contact].map(|at| at.to_string());
            let cursor = device.cursor.map_or_else(String::new, |cursor| cursor.to_string());
            rows.push([user, source, first, last, cursor, device.lag().to_string()]);
        }
    }
    let heading = ["USER", "SOURCE", "FIRST CONTACT", "LAST CONTACT", "CURSOR", "LAG"];
    if args.json { Ok(Outcome::Done) } else { table(heading, &rows) }
}

/// `export`
pub(crate) async fn export(config: &Config, args: &ExportArgs) -> Result<Outcome, RunError> {
    let store = wire::open_existing(config).await?;
    let cannot = |error| failed("cannot read the catalog of the business tables", error);
    let catalog = catalog::read(&config.tables, &*store.projection).await.map_err(cannot)?;
    let snapshots = Snapshots::new(Arc::clone(&store.sync), catalog);
    let exports = Exports::new(store.sync, snapshots, store.projection, store.users);
    let stopped = |error| failed("the export stopped", error);
    let Some(mut export) = exports.begin(&args.user).await.map_err(stopped)? else {
        return Err(RunError::Failed(format!("nothing is kept of a user {}", args.user)));
    };
    let user = args.user.clone();
    while let Some(part) = export.next().await.map_err(stopped)? {
        let lines = export_lines(&Exported { user: &user, part: &part });
        // Half an export is none, so that nobody reads on is a failure here.
        stdout().write_all(&lines).map_err(|error| failed("cannot write", error))?;
    }
    Ok(Outcome::Done)
}

/// `delete-user`
pub(crate) async fn delete(config: &Config, args: &DeleteUserArgs) -> Result<Outcome, RunError> {
    if !args.yes {
        let why = format!("this removes all that is kept of {} for good: add --yes", args.user);
        return Err(RunError::Configuration(why));
    }
    let store = wire::open_existing(config).await?;
    let told_to_stop = shutdown::listen().map_err(|error| failed("cannot listen for signals", error))?;
    let cannot = |error| failed("cannot read the catalog of the business tables", error);
    let catalog = catalog::read(&config.tables, &*store.projection).await.map_err(cannot)?;
    // Nobody waits for news in this process; servers look for themselves.
    let erasure = Erasure::new(store.erasure(Arc::new(Hub::default())), catalog);
    let bar = output::counter();
    let progress = |erased: &outrigger_application::erasure::Erased| {
        bar.set_position(erased.rows + erased.entries + erased.keys);
        true
    };
    let erased = tokio::select! {
        erased = erasure.erase(&args.user, progress) => erased.map_err(|error| failed("the removal stopped", error))?,
        // A step that is cut short is undone or done; the next run goes on.
        () = told_to_stop => {
            bar.abandon();
            return Err(RunError::Failed("stopped half-way; run it again to go on".into()));
        }
    };
    bar.finish_and_clear();
    let Some(erased) = erased else {
        return Err(RunError::Failed(format!("nothing is kept of a user {}", args.user)));
    };
    let (rows, entries, keys) = (erased.rows, erased.entries, erased.keys);
    let _ = writeln!(stdout(), "{rows} rows, {entries} entries and {keys} keys removed");
    if erased.stuck > 0 {
        let stuck = erased.stuck;
        let why = "`outrigger failures list --user` says why; mend that and run it again";
        return Err(RunError::Failed(format!("{stuck} business rows could not be deleted: {why}")));
    }
    if !erased.done {
        return Err(RunError::Failed(
            "the user's devices keep uploading; let their tokens end and run it again".into(),
        ));
    }
    Ok(Outcome::Done)
}

fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> Result<Outcome, RunError> {
    let written = output::table(&mut stdout().lock(), heading, rows);
    output::unless_closed(written).map_err(|error| failed("cannot write", error))?;
    Ok(Outcome::Done)
}

fn write_line(line: &impl Serialize) -> Result<(), RunError> {
    let write = || -> io::Result<()> {
        let mut to = stdout().lock();
        serde_json::to_writer(&mut to, line)?;
        writeln!(to)
    };
    output::unless_closed(write()).map_err(|error| failed("cannot write", error))
}
