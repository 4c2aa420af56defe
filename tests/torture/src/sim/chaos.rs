//! What happens to the server, when the plan says so.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{Mutex, MutexGuard, RwLock};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::facts::Facts;
use super::node::{Node, Program};
use super::plan::{Fault, Pruning, user_name};
use super::proxy::Lines;
use super::store::Store;

/// Numbers that `restore-mark` skips: more than an episode gives out.
pub(crate) const SKIP: i64 = 100_000;

/// The server of an episode, as far as it can be broken.
pub(crate) struct Server {
    pub(crate) store: Store,
    pub(crate) lines: Arc<Lines>,
    program: Program,
    nodes: Vec<Mutex<Node>>,
    /// Whoever works on the database from aside reads this; whoever puts another in its place writes it.
    in_place: RwLock<()>,
    /// What the backup holds, once there is one, and whether it was put back.
    backup: Mutex<Option<Facts>>,
    /// What the database held when it began its last life.
    pub(crate) restored: Mutex<Option<Facts>>,
}

impl Server {
    /// Starts the nodes.
    pub(crate) async fn start(store: Store, program: Program, lines: &Arc<Lines>) -> Result<Arc<Self>, String> {
        let node = |number| Mutex::new(Node::new(program.clone(), number, lines.nodes.clone()));
        let nodes = (0..lines.plan.nodes).map(node).collect();
        let (in_place, backup, restored) = (RwLock::default(), Mutex::default(), Mutex::default());
        let server = Self { store, lines: Arc::clone(lines), program, nodes, in_place, backup, restored };
        server.start_all(lines.plan.pruning).await?;
        Ok(Arc::new(server))
    }

    /// Lets all faults happen, each at its time.
    pub(crate) async fn suffer(self: &Arc<Self>) -> Result<(), String> {
        let began = Instant::now();
        let mut happening = JoinSet::new();
        for (at, fault) in self.lines.plan.faults.clone() {
            sleep_until(began + Duration::from_millis(at)).await;
            let server = Arc::clone(self);
            happening.spawn(async move {
                server.lines.ledger.count(format!("fault {}", name(fault)));
                server.happen(fault).await.map_err(|why| format!("{fault:?} failed: {why}"))
            });
        }
        while let Some(done) = happening.join_next().await {
            done.map_err(|error| error.to_string())??;
        }
        Ok(())
    }

    /// Mends everything: all nodes are new, on the machine's clock, and clear nothing.
    pub(crate) async fn mend(&self) -> Result<(), String> {
        self.kill_all().await?;
        for node in &self.nodes {
            node.lock().await.set_clock(0).map_err(|error| error.to_string())?;
        }
        self.start_all(Pruning::Never).await
    }

    /// Kills all nodes. What they have said must not tell of a panic.
    pub(crate) async fn end(&self) -> Result<(), String> {
        self.kill_all().await?;
        for node in &self.nodes {
            let log = node.lock().await.log();
            if let Some(line) = log.lines().find(|line| line.contains("panicked")) {
                return Err(format!("a node panicked: {line}"));
            }
        }
        Ok(())
    }

    /// Runs a command of the server's beside it.
    pub(crate) async fn run(&self, arguments: &'static [&'static str], pruning: Pruning) -> Result<String, String> {
        let program = self.program.clone();
        let ran = tokio::task::spawn_blocking(move || program.run(arguments, pruning)).await;
        ran.map_err(|error| error.to_string())?
    }

    async fn happen(&self, fault: Fault) -> Result<(), String> {
        let ms = Duration::from_millis;
        match fault {
            Fault::KillNode { node, down_ms } => {
                // Under its lock, so that it is not killed again before it is up.
                let mut node = self.nodes[node].lock().await;
                node.kill()?;
                sleep(ms(down_ms)).await;
                node.start(self.lines.plan.pruning).await
            }
            Fault::StopDatabase { is_killed, down_ms } => self.store.stop(is_killed, ms(down_ms)).await,
            Fault::Exhaust { hold_ms } => {
                self.store.exhaust(ms(hold_ms)).await;
                Ok(())
            }
            Fault::Clock { node, offset_s } => {
                self.nodes[node].lock().await.set_clock(offset_s).map_err(|error| error.to_string())
            }
            Fault::Backup => self.back_up().await,
            Fault::Restore => self.restore().await,
            // These need the database themselves, and another fault may have it.
            Fault::Terminate { percent } => self.tried(self.store.terminate(percent).await),
            Fault::HoldStream { user, hold_ms } => {
                let _in_place = self.in_place.read().await;
                self.tried(self.store.hold(&user_name(user), ms(hold_ms)).await)
            }
            Fault::Compact => {
                let _in_place = self.in_place.read().await;
                self.tried(self.run(&["compact"], self.lines.plan.pruning).await.map(drop))
            }
        }
    }

    fn tried(&self, done: Result<(), String>) -> Result<(), String> {
        if done.is_err() {
            self.lines.ledger.count("faults that met another");
        }
        Ok(())
    }

    async fn back_up(&self) -> Result<(), String> {
        let _in_place = self.in_place.write().await;
        let mut nodes = self.all_nodes().await;
        for node in &mut nodes {
            node.kill()?;
        }
        self.persist(|| self.store.back_up().boxed()).await?;
        let facts = self.persist(|| Facts::read(&self.store).boxed()).await?;
        *self.backup.lock().await = Some(facts);
        self.start_each(&mut nodes, self.lines.plan.pruning).await
    }

    async fn restore(&self) -> Result<(), String> {
        let _in_place = self.in_place.write().await;
        let Some(facts) = self.backup.lock().await.take() else { return Err("there is no backup".into()) };
        let mut nodes = self.all_nodes().await;
        for node in &mut nodes {
            node.kill()?;
        }
        self.persist(|| self.store.restore().boxed()).await?;
        let mark = || self.run(&["restore-mark", "--skip", "100000"], Pruning::Never).boxed();
        self.persist(mark).await?;
        self.lines.ledger.restored();
        *self.restored.lock().await = Some(facts);
        self.start_each(&mut nodes, self.lines.plan.pruning).await
    }

    /// Tries again while another fault has the database.
    async fn persist<'a, T>(&self, work: impl Fn() -> BoxFuture<'a, Result<T, String>>) -> Result<T, String> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match work().await {
                Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(100)).await,
                done => return done,
            }
        }
    }

    async fn all_nodes(&self) -> Vec<MutexGuard<'_, Node>> {
        let mut nodes = Vec::new();
        for node in &self.nodes {
            nodes.push(node.lock().await);
        }
        nodes
    }

    async fn kill_all(&self) -> Result<(), String> {
        self.all_nodes().await.iter_mut().try_for_each(|node| node.kill())
    }

    async fn start_all(&self, pruning: Pruning) -> Result<(), String> {
        self.start_each(&mut self.all_nodes().await, pruning).await
    }

    async fn start_each(&self, nodes: &mut [MutexGuard<'_, Node>], pruning: Pruning) -> Result<(), String> {
        let started = nodes.iter_mut().map(|node| node.start(pruning));
        futures::future::try_join_all(started).await.map(drop)
    }
}

/// The name of a fault, without its numbers.
fn name(fault: Fault) -> String {
    let text = format!("{fault:?}");
    text.split(' ').next().unwrap_or_default().to_owned()
}
