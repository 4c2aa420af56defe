//! The commands beside `serve`, as a script would run them.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use outrigger_testkit::postgres_database;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::server::{SECRET, Server, command};

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");

/// Runs a command to its end: its exit code, stdout and stderr.
fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn outrigger(folder: &Path, line: &str, variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    run(command(folder).args(line.split(' ')).envs(variables.iter().copied()))
}

#[test]
fn the_configurations_under_deploy_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let manifests = std::fs::read_to_string(format!("{DEPLOY}/kubernetes/outrigger.yaml")).unwrap();
    let (_, block) = manifests.split_once("outrigger.toml: |\n").unwrap();
    let lines = block.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    let in_manifests: Vec<&str> = lines.map(|line| line.get(4..).unwrap_or_default()).collect();
    assert!(in_manifests.contains(&"[[tables]]"));
    let of_service = std::fs::read_to_string(format!("{DEPLOY}/outrigger.toml")).unwrap();
    for text in [of_service, in_manifests.join("\n")] {
        std::fs::write(folder.path().join("a.toml"), &text).unwrap();
        let variables = [("JWT_SECRET", SECRET), ("DATABASE_URL", "postgres://app@db/app")];
        let (code, stdout, stderr) = outrigger(folder.path(), "config check --config a.toml", &variables);
        assert_eq!((code, stdout.as_str()), (Some(0), "the configuration in a.toml is right\n"), "{stderr}");
    }
}

#[test]
fn a_configuration_that_cannot_be_started_with_does_not_pass_the_check() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("outrigger.toml"), "[[tables]]\nname = 'users'\n").unwrap();
    for line in ["config check", "config show", "doctor"] {
        let (code, stdout, stderr) = outrigger(folder.path(), line, &[]);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{line}");
        assert!(stderr.contains("auth.jwt_secret"), "{line}: {stderr}");
    }
    let (code, stdout, _) =
        outrigger(folder.path(), "config check --json --database-url memory:", &[("JWT_SECRET", SECRET)]);
    let answer: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &answer["ok"], &answer["file"]), (Some(0), &true.into(), &"outrigger.toml".into()));
    assert!(answer["doubts"][0].as_str().unwrap().contains("memory:"), "{answer}");
}

#[test]
fn what_is_shown_can_be_read_again_and_holds_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "listen = '0.0.0.0:80'\ndatabase_url = 'postgres://app:p4ssw0rd@db/app?sslmode=require'\n\
         [auth]\njwt_secret = '{SECRET}'\nkeys = [{{ kid = 'a', alg = 'HS256', secret = 'x{SECRET}' }}]\n\
         [retention]\nsuperseded_after = '36h'\n[[tables]]\nname = 'a.posts'\nreferences = {{ b_id = 'a.b' }}\nmaterialize = 'required'\n"
    );
    std::fs::write(folder.path().join("outrigger.toml"), text).unwrap();
    let (code, shown, stderr) = outrigger(folder.path(), "config show --log warn", &[]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!shown.contains("p4ssw0rd") && !shown.contains(SECRET), "{shown}");
    for part in [
        "postgres://app:***@db/app?sslmode=require",
        "log = \"warn\"",
        "superseded_after = \"36h\"",
        "tombstones_after = \"90d\"",
        "name = \"a.posts\"",
        "b_id = \"a.b\"",
        "materialize = \"required\"",
        "leeway_s = 30",
    ] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    // With secrets in the place of the masks it says the same.
    let again = shown.replacen("\"***\"", &format!("'{SECRET}'"), 2);
    std::fs::write(folder.path().join("again.toml"), again).unwrap();
    let (code, second, stderr) = outrigger(folder.path(), "config show --config again.toml", &[]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(second.replace("again.toml", "outrigger.toml"), shown);
    let (_, json, _) = outrigger(folder.path(), "config show --json", &[]);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["retention"]["superseded_after"], "36h");
}

async fn migrates(folder: &Path, url: &str) {
    let line = |check: &str| outrigger(folder, &format!("migrate{check} --database-url {url}"), &[]);
    let (code, stdout, stderr) = line(" --check");
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stdout.ends_with("migrations are missing\n"), "{stdout}");
    let (code, stdout, stderr) = line("");
    assert!(code == Some(0) && stdout.ends_with("migrations were applied\n"), "{stdout} {stderr}");
    for check in [" --check", ""] {
        let (code, stdout, stderr) = line(check);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stdout.starts_with("the database is up to date: "), "{stdout}");
    }
}

#[tokio::test]
async fn migrations_are_checked_and_applied() {
    let folder = tempfile::tempdir().unwrap();
    migrates(folder.path(), "sqlite://a.db").await;
    migrates(folder.path(), postgres_database().await.url()).await;
    assert_eq!(outrigger(folder.path(), "migrate --database-url memory:", &[]).0, Some(2));
}

#[test]
fn checking_migrations_makes_no_file() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(outrigger(folder.path(), "migrate --check", &[]).0, Some(1));
    assert_eq!(outrigger(folder.path(), "doctor", &[]).0, Some(0));
    assert!(!folder.path().join("outrigger.db").exists());
}

/// What `doctor` found, by check.
fn findings(folder: &Path, variables: &[(&str, &str)]) -> (Option<i32>, Vec<Value>) {
    let (code, stdout, stderr) = outrigger(folder, "doctor --json --listen 127.0.0.1:0 --log error", variables);
    assert_eq!(stderr, "");
    (code, stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn state(findings: &[Value], check: &str) -> String {
    let finding = findings.iter().find(|finding| finding["check"] == check);
    finding.unwrap_or_else(|| panic!("no {check} in {findings:?}"))["state"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_doctor_finds_a_database_that_loses_data() {
    let folder = tempfile::tempdir().unwrap();
    let database = postgres_database().await;
    let variables = [("DATABASE_URL", database.url())];
    let (_, found) = findings(folder.path(), &variables);
    assert_eq!(state(&found, "migrations"), "doubtful");
    assert_eq!(outrigger(folder.path(), "migrate", &variables).0, Some(0));
    let (_, found) = findings(folder.path(), &variables);
    for check in ["migrations", "business tables", "failures", "clock", "address"] {
        assert_eq!(state(&found, check), "ok", "{check}: {found:?}");
    }
    let and = if database.url().contains('?') { '&' } else { '?' };
    let lossy = format!("{}{and}options=-c%20synchronous_commit%3Doff", database.url());
    let (code, found) =
        findings(folder.path(), &[("DATABASE_URL", &lossy), ("OUTRIGGER_POSTGRES__SESSION_SETTINGS", "false")]);
    assert_eq!((code, state(&found, "durability").as_str()), (Some(1), "wrong"), "{found:?}");
    let (code, found) = findings(folder.path(), &[("DATABASE_URL", "postgres://127.0.0.1:1/x")]);
    assert_eq!((code, state(&found, "database").as_str()), (Some(1), "wrong"), "{found:?}");
}

#[tokio::test]
async fn the_doctor_finds_a_business_table_that_the_role_may_not_write() {
    let folder = tempfile::tempdir().unwrap();
    let database = postgres_database().await;
    let mut sql = PgConnection::connect(database.url()).await.unwrap();
    let (_, rest) = database.url().split_once('@').unwrap();
    let (_, name) = rest.split_once('/').unwrap();
    // Roles are the cluster's, and the database's name is like no other.
    let role = format!("role_{}", name.split('?').next().unwrap());
    let set_up = format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'secret';
         DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO {role}', current_database()); END $$;
         CREATE TABLE notes (id uuid PRIMARY KEY); CREATE TABLE others (id uuid PRIMARY KEY); GRANT ALL ON others TO {role}"
    );
    sqlx::raw_sql(AssertSqlSafe(set_up)).execute(&mut sql).await.unwrap();
    let url = format!("postgres://{role}:secret@{rest}");
    let variables = [
        ("DATABASE_URL", &*url),
        ("JWT_SECRET", SECRET),
        ("OUTRIGGER_TABLES", r#"[{name="notes"},{name="others"},{name="nowhere"}]"#),
    ];
    let (code, found) = findings(folder.path(), &variables);
    let detail = |found: &[Value]| {
        let wrong: Vec<_> = found
            .iter()
            .filter(|finding| finding["state"] == "wrong" && finding["check"] == "business tables")
            .map(|finding| finding["detail"].as_str().unwrap().to_owned())
            .collect();
        wrong.join(", ")
    };
    assert_eq!(code, Some(1));
    assert!(detail(&found).contains(&format!("the role {role} may not read and write public.notes")), "{found:?}");
    assert!(!detail(&found).contains("others"), "{found:?}");
    let grant = format!("GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO {role}");
    sqlx::raw_sql(AssertSqlSafe(grant)).execute(&mut sql).await.unwrap();
    let (_, found) = findings(folder.path(), &variables);
    assert_eq!(detail(&found), "", "{found:?}");
    let gone = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    sqlx::raw_sql(AssertSqlSafe(gone)).execute(&mut sql).await.unwrap();
}

#[test]
fn the_doctor_finds_files_and_folders_that_are_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let (code, found) = findings(folder.path(), &[("DATABASE_URL", "sqlite://nowhere/x.db")]);
    assert_eq!((code, state(&found, "database").as_str()), (Some(1), "wrong"), "{found:?}");
    let missing = [("OUTRIGGER_TLS__CERT", "no.pem"), ("OUTRIGGER_TLS__KEY", "no.key")];
    let (code, found) = findings(folder.path(), &missing);
    let is_it = |finding: &Value| finding["state"] == "wrong" && finding["detail"].as_str().unwrap().contains("no.pem");
    assert!(code == Some(1) && found.iter().any(is_it), "{found:?}");
}

#[test]
fn the_doctor_finds_a_file_that_is_damaged() {
    use std::io::{Seek, SeekFrom, Write};
    let folder = tempfile::tempdir().unwrap();
    drop(Server::demo(folder.path()));
    let (code, found) = findings(folder.path(), &[]);
    assert_eq!((code, state(&found, "database").as_str()), (Some(0), "ok"), "{found:?}");
    // Every page behind the first is overwritten, which has the schema.
    let mut file = std::fs::OpenOptions::new().write(true).open(folder.path().join("outrigger.db")).unwrap();
    let length = file.metadata().unwrap().len();
    file.seek(SeekFrom::Start(4096)).unwrap();
    file.write_all(&vec![0xa5; length as usize - 4096]).unwrap();
    drop(file);
    let (code, found) = findings(folder.path(), &[]);
    assert_eq!(code, Some(1), "{found:?}");
    assert!(found.iter().any(|finding| finding["state"] == "wrong"), "{found:?}");
}

#[test]
fn a_ping_says_whether_a_server_is_up() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::demo(folder.path());
    let listen = server.url.strip_prefix("http://").unwrap().to_owned();
    for flag in ["", " --ready"] {
        let (code, stdout, stderr) = outrigger(folder.path(), &format!("ping --listen {listen}{flag}"), &[]);
        assert!(code == Some(0) && stdout.contains("answers 200"), "{stdout} {stderr}");
    }
    drop(server);
    let (code, _, stderr) = outrigger(folder.path(), &format!("ping --listen {listen}"), &[]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("does not answer"), "{stderr}");
}

#[tokio::test]
async fn a_token_from_the_command_line_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let variables = [("JWT_SECRET", SECRET), ("OUTRIGGER_TABLES", "[{name=\"users\"}]")];
    let server = Server::start(folder.path(), &variables);
    let token = |line: &str| outrigger(folder.path(), line, &variables);
    let (code, good, stderr) = token("token --user alice --device laptop --ttl 15m");
    assert_eq!(code, Some(0), "{stderr}");
    let ask = async |token: &str| {
        let request = reqwest::Client::new().get(format!("{}/sync/source", server.url)).bearer_auth(token.trim());
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let (status, answer) = ask(&good).await;
    assert_eq!((status, &answer["user"], &answer["source_id"]), (200, &"alice".into(), &"laptop".into()));
    let other = [("JWT_SECRET", "another secret that is long enough to be one")];
    let (_, forged, _) = outrigger(folder.path(), "token --user alice --device laptop", &other);
    assert_eq!(ask(&forged).await.0, 401);
    for (line, variables) in [
        ("token --user alice --device laptop --admin", variables.as_slice()),
        ("token --user alice --device laptop", &[]),
        ("token --user alice --device laptop --ttl 0s", &variables),
        ("token --user alice", &variables),
    ] {
        let (code, stdout, _) = outrigger(folder.path(), line, variables);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{line}");
    }
}

/// A server where Alice has synced two users and Bob one, stopped so that it has written all it knows.
async fn synced(folder: &Path) {
    let mut server = Server::demo(folder);
    server.sign_in("alice", "phone").await.insert_all(&[1, 2]).await;
    server.sign_in("bob", "phone").await.insert_all(&[3]).await;
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}

#[tokio::test]
async fn users_are_listed_exported_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    synced(folder.path()).await;
    let run = |line: &str| outrigger(folder.path(), line, &[]);
    let lines = |text: &str| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
    let (code, users, stderr) = run("users --json");
    assert_eq!(code, Some(0), "{stderr}");
    let users: Vec<_> = lines(&users).iter().map(|line| (line["user"].clone(), line["devices"].clone())).collect();
    assert_eq!(users, [("alice".into(), 1.into()), ("bob".into(), 1.into())]);
    assert!(run("users").1.starts_with("USER   END  DEVICES"), "{}", run("users").1);
    let devices = lines(&run("devices --user alice --json").1);
    assert_eq!(
        (devices.len(), &devices[0]["source_id"], &devices[0]["highest_source_change_id"]),
        (1, &"phone".into(), &2.into())
    );
    assert!(run("devices").1.contains("bob    phone"), "{}", run("devices").1);

    let (code, export, stderr) = run("export --user alice");
    assert_eq!(code, Some(0), "{stderr}");
    let end = lines(&export).pop().unwrap();
    assert_eq!(
        (&end["kind"], &end["rows"], &end["changes"], &end["devices"]),
        (&"end".into(), &2.into(), &2.into(), &1.into())
    );
    assert_eq!(run("export --user nobody").0, Some(1));

    assert_eq!(run("delete-user --user alice").0, Some(2), "nothing is removed by mistake");
    assert_eq!(lines(&run("users --json").1).len(), 2);
    let (code, removed, stderr) = run("delete-user --user alice --yes");
    assert_eq!((code, removed.as_str()), (Some(0), "2 rows, 4 entries and 4 keys removed\n"), "{stderr}");
    assert_eq!(lines(&run("users --json").1)[0]["user"], "bob");
    assert_eq!(run("delete-user --user alice --yes").0, Some(1));
}

#[tokio::test]
async fn a_business_row_that_is_needed_keeps_its_user() {
    let folder = tempfile::tempdir().unwrap();
    synced(folder.path()).await;
    let database = rusqlite::Connection::open(folder.path().join("outrigger.db")).unwrap();
    let needed = "CREATE TABLE invoices (user_id TEXT REFERENCES users (id));
                  INSERT INTO invoices SELECT id FROM users ORDER BY id LIMIT 1";
    database.execute_batch(needed).unwrap();
    let run = || outrigger(folder.path(), "delete-user --user alice --yes", &[]);
    let (code, _, stderr) = run();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("1 business rows could not be deleted"), "{stderr}");
    let count = || database.query_row("SELECT count(*) FROM users", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count(), 2, "what could be deleted is, and the other user's is there");
    database.execute_batch("DELETE FROM invoices").unwrap();
    let (code, _, stderr) = run();
    assert_eq!((code, count()), (Some(0), 1), "{stderr}");
}

#[test]
fn shells_and_manuals_know_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let (_, help, _) = outrigger(folder.path(), "--help", &[]);
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let commands: Vec<&str> = commands
        .lines()
        .map_while(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|c| *c != "help")
        .collect();
    assert!(commands.len() > 10, "{commands:?}");
    let (code, man, _) = outrigger(folder.path(), "man", &[]);
    assert!(code == Some(0) && man.contains(".TH"), "{man}");
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, stderr) = outrigger(folder.path(), &format!("completions {shell}"), &[]);
        assert_eq!(code, Some(0), "{stderr}");
        for command in &commands {
            assert!(script.contains(command), "{command} is unknown to {shell}");
            assert!(man.contains(&format!("OUTRIGGER {}", command.to_uppercase())), "{command} is not in the manual");
        }
        if shell == "bash" {
            let file = folder.path().join("completions");
            std::fs::write(&file, script).unwrap();
            let read = Command::new("bash").arg("-n").arg(file).stdin(Stdio::null()).status().unwrap();
            assert!(read.success());
        }
    }
    assert_eq!(outrigger(folder.path(), "completions csh", &[]).0, Some(2));
}
