//! A running `outrigger`, and the little of a client that these tests need.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::{Value, json};

/// The secret of servers that are not demos.
pub(crate) const SECRET: &str = "a secret of the tests, long enough to be taken";
/// The flags of a server that takes any port.
pub(crate) const FREE_PORT: [&str; 2] = ["--listen", "127.0.0.1:0"];

/// The binary, to be run in `folder` with nothing of this process's environment.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.current_dir(folder).env_clear().stdin(Stdio::null());
    command
}

/// A server, killed when dropped.
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
    /// Where it listens, without a slash at the end.
    pub(crate) url: String,
}

impl Server {
    /// Starts one on a free port and waits until it listens.
    pub(crate) fn start(folder: &Path, variables: &[(&str, &str)]) -> Self {
        Self::spawn(command(folder).args(FREE_PORT).envs(variables.iter().copied())).listening()
    }

    /// A demo on a free port.
    pub(crate) fn demo(folder: &Path) -> Self {
        Self::start(folder, &[])
    }

    /// Starts one with a [`command`].
    pub(crate) fn spawn(command: &mut Command) -> Starting {
        // Stderr goes to a file, so that what came before the line on stdout is there when that is.
        let log = command.get_current_dir().unwrap().join(format!("stderr-{}", uuid::Uuid::new_v4()));
        let child = command.stdout(Stdio::piped()).stderr(File::create(&log).unwrap()).spawn().unwrap();
        Starting(Self { child, log, url: String::new() })
    }

    /// What it has written to stderr so far.
    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Sends a signal, by its name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// The id of its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// A token of the demo.
    pub(crate) async fn sign_in(&self, user: &str, device: &str) -> Client {
        let request = json!({"user": user, "password": "demo", "device": device});
        let answer = reqwest::Client::new().post(format!("{}/dummy-signin", self.url)).json(&request).send();
        let answer: Value = answer.await.unwrap().error_for_status().unwrap().json().await.unwrap();
        Client { http: reqwest::Client::new(), url: self.url.clone(), token: answer["token"].as_str().unwrap().into() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that may not listen yet.
pub(crate) struct Starting(Server);

impl Starting {
    /// Waits until it says where it listens.
    pub(crate) fn listening(mut self) -> Server {
        let line = self.line();
        let url = line.strip_prefix("outrigger is listening on ");
        self.0.url = url.unwrap_or_else(|| panic!("not listening: {line:?}\n{}", self.0.stderr())).trim().into();
        self.0
    }

    /// A command that listens nowhere.
    pub(crate) fn unready(self) -> Server {
        self.0
    }

    /// Waits until it has given up; its exit code and what it wrote to stderr.
    pub(crate) fn refused(mut self) -> (Option<i32>, String) {
        assert_eq!(self.line(), "", "it started");
        (self.0.wait().code(), self.0.stderr())
    }

    /// The first line of its stdout; empty if it has ended without one.
    fn line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        line
    }
}

/// A device.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Client {
    /// Inserts a user of that number; the answer's only status, or None if no answer came.
    pub(crate) async fn insert(&self, number: u32) -> Option<Value> {
        self.change(json!({
            "source_change_id": number, "table": "users", "op": "INSERT",
            "pk": format!("00000000-0000-4000-8000-{number:012}"), "server_version": 0, "payload": {"number": number},
        }))
        .await
    }

    /// Inserts users of those numbers in one upload.
    pub(crate) async fn insert_all(&self, numbers: &[u32]) {
        let change = |number: &u32| {
            json!({"source_change_id": number, "table": "users", "op": "INSERT",
                   "pk": format!("00000000-0000-4000-8000-{number:012}"), "server_version": 0, "payload": {"n": number}})
        };
        let changes: Vec<Value> = numbers.iter().map(change).collect();
        let request = self.http.post(format!("{}/sync/upload", self.url)).bearer_auth(&self.token);
        let answer = request.json(&json!({"changes": changes})).send().await.unwrap().error_for_status().unwrap();
        let answer: Value = answer.json().await.unwrap();
        assert!(answer["statuses"].as_array().unwrap().iter().all(|status| status["status"] == "applied"), "{answer}");
    }

    /// Uploads one change; its status, or None if no answer came.
    pub(crate) async fn change(&self, change: Value) -> Option<Value> {
        let request = self.http.post(format!("{}/sync/upload", self.url)).bearer_auth(&self.token);
        let answer = request.json(&json!({"last_server_seq_seen": 0, "changes": [change]})).send().await.ok()?;
        let answer: Value = answer.error_for_status().ok()?.json().await.ok()?;
        Some(answer["statuses"][0].clone())
    }

    /// The status of an answer, and its error if it is one.
    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.send(path).await;
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.unwrap()["error"].clone())
    }

    /// Asks, whatever the answer is.
    pub(crate) async fn send(&self, path: &str) -> reqwest::Response {
        self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.token).send().await.unwrap()
    }

    /// Posts JSON, whatever the answer is.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> reqwest::Response {
        self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.token).json(body).send().await.unwrap()
    }

    /// Events of the changes of others.
    pub(crate) async fn watch(&self) -> reqwest::Response {
        let request = self.http.get(format!("{}/sync/watch", self.url)).bearer_auth(&self.token);
        request.send().await.unwrap().error_for_status().unwrap()
    }

    /// The whole stream.
    pub(crate) async fn download(&self) -> Vec<Value> {
        let mut stream: Vec<Value> = Vec::new();
        let mut after = 0;
        loop {
            let url = format!("{}/sync/download?include_self=true&limit=1000&after={after}", self.url);
            let answer = self.http.get(url).bearer_auth(&self.token).send().await.unwrap();
            let page: Value = answer.error_for_status().unwrap().json().await.unwrap();
            stream.extend(page["changes"].as_array().unwrap().iter().cloned());
            if page["has_more"] == false {
                return stream;
            }
            after = page["next_after"].as_i64().unwrap();
        }
    }

    /// The bearer token.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }
}
