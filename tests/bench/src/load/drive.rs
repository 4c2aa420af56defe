//! Devices at work, all at once, for some time.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::work::Work;
use crate::BenchError;
use crate::client::Client;

/// When a run ends: whichever comes first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    /// Its time.
    pub(crate) time: Duration,
    /// Changes of all devices together.
    pub(crate) changes: Option<u64>,
}

/// What devices have done.
#[derive(Debug, Default)]
pub(crate) struct Driven {
    pub(crate) changes: u64,
    pub(crate) wall: Duration,
    pub(crate) times: Vec<Duration>,
    /// Sent and received.
    pub(crate) bytes: u64,
}

/// A device: its connection, and what it does.
pub(crate) type Device<W> = (Client, W);

/// Has all devices do their work until the limit is reached, each as fast as it is answered.
pub(crate) async fn drive<W: Work + 'static>(
    devices: Vec<Device<W>>,
    limit: Limit,
) -> Result<(Driven, Vec<Device<W>>), BenchError> {
    let quota = limit.changes.map_or(u64::MAX, |changes| changes.div_ceil(devices.len().max(1) as u64));
    let mut running = JoinSet::new();
    let began = Instant::now();
    for device in devices {
        running.spawn(one(device, began + limit.time, quota));
    }
    let (mut driven, mut devices) = (Driven::default(), Vec::new());
    while let Some(ended) = running.join_next().await {
        let (done, device) = ended.map_err(BenchError::other)??;
        driven.changes += done.changes;
        driven.bytes += done.bytes;
        driven.times.extend(done.times);
        devices.push(device);
    }
    driven.wall = began.elapsed();
    Ok((driven, devices))
}

async fn one<W: Work>(
    (mut client, mut work): Device<W>,
    until: Instant,
    quota: u64,
) -> Result<(Driven, Device<W>), BenchError> {
    let (mut done, bytes) = (Driven::default(), client.bytes());
    let mut spent = Duration::ZERO;
    while done.changes < quota && Instant::now() < until {
        // What it takes to make the request is not the server's.
        let Some(request) = work.next() else { break };
        let began = Instant::now();
        let answer = client.call(request.method, &request.path, request.body).await?;
        spent += began.elapsed();
        let answered = work.answered(&answer)?;
        done.changes += answered.changes;
        if answered.whole {
            done.times.push(std::mem::take(&mut spent));
        }
    }
    done.bytes = client.bytes() - bytes;
    Ok((done, (client, work)))
}
