//! The schema of a typical app: users, their posts, files with bytes, and reviews that name a file by base64.

use crate::business::{World, table};

const SQL: &str = "
CREATE SCHEMA business;
CREATE TABLE business.users (
    id uuid PRIMARY KEY, name text NOT NULL, email text NOT NULL,
    created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now()
);
CREATE TABLE business.posts (
    id uuid PRIMARY KEY, title text NOT NULL, content text NOT NULL,
    author_id uuid NOT NULL REFERENCES business.users (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now()
);
CREATE TABLE business.files (id uuid PRIMARY KEY, name text NOT NULL, data bytea NOT NULL);
CREATE TABLE business.file_reviews (
    id uuid PRIMARY KEY, review text NOT NULL,
    file_id uuid NOT NULL REFERENCES business.files (id) DEFERRABLE INITIALLY DEFERRED
);";
const TABLES: [&str; 4] = ["business.users", "business.posts", "business.files", "business.file_reviews"];
/// Base64 of the key 00000000-0000-0000-0000-000000000007.
const FILE: &str = "AAAAAAAAAAAAAAAAAAAABw==";
const ALL: &str = "
SELECT concat_ws(' ', 'user', right(id::text, 1), name, email, created_at AT TIME ZONE 'UTC') FROM business.users
UNION ALL SELECT concat_ws(' ', 'post', right(id::text, 1), title, right(author_id::text, 1)) FROM business.posts
UNION ALL SELECT concat_ws(' ', 'file', right(id::text, 1), name, data) FROM business.files
UNION ALL SELECT concat_ws(' ', 'review', right(id::text, 1), review, right(file_id::text, 1)) FROM business.file_reviews
ORDER BY 1";

#[tokio::test]
async fn an_app_s_rows_arrive_whatever_their_order_in_the_upload() {
    let world = World::new(SQL, TABLES.map(table).into()).await;
    let author = uuid::Uuid::from_u128(1).to_string();
    let review = format!(r#"{{"id":"AAAAAAAAAAAAAAAAAAAACA==","review":"good","file_id":"{FILE}"}}"#);
    let post = format!(r#"{{"title":"t","content":"c","author_id":"{author}"}}"#);
    let user =
        r#"{"name":"Ann","email":"ann@example.com","created_at":"2025-08-08T07:01:00Z","updated_at":1754636460}"#;
    // Children before their parents.
    let upload = [
        ("INSERT", TABLES[3], 8, review.as_str()),
        ("INSERT", TABLES[1], 2, &post),
        ("INSERT", TABLES[2], 7, r#"{"name":"a.bin","data":"3q2+7w=="}"#),
        ("INSERT", TABLES[0], 1, user),
    ];
    world.up("alice", &upload).await;
    assert_eq!(
        world.rows(ALL).await,
        ["file 7 a.bin \\xdeadbeef", "post 2 t 1", "review 8 good 7", "user 1 Ann ann@example.com 2025-08-08 07:01:00"]
    );
    assert_eq!(world.failures("alice").await, []);
    // Parents before their children, and a file that comes again in the same upload.
    let file = ("UPDATE", TABLES[2], 7, r#"{"name":"b.bin","data":"\\x00"}"#);
    let deletes = [("DELETE", TABLES[0], 1, ""), ("DELETE", TABLES[1], 2, ""), ("DELETE", TABLES[2], 7, ""), file];
    world.up("alice", &deletes).await;
    assert_eq!(world.rows(ALL).await, ["file 7 b.bin \\x00", "review 8 good 7"]);
    assert_eq!(world.failures("alice").await, []);
}

#[tokio::test]
async fn a_reference_is_checked_on_the_user_s_own_rows() {
    let world = World::new(SQL, TABLES.map(table).into()).await;
    world.up("bob", &[("INSERT", TABLES[2], 7, r#"{"name":"a","data":""}"#)]).await;
    let review = format!(r#"{{"review":"good","file_id":"{FILE}"}}"#);
    let decisions = world.try_up("alice", &[("INSERT", TABLES[3], 8, &review)]).await;
    let [outrigger_domain::Decision::Invalid(refusal)] = decisions.as_slice() else { panic!("{decisions:?}") };
    assert_eq!(
        refusal.missing.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["business.files:00000000-0000-0000-0000-000000000007"]
    );
    assert_eq!(world.rows(ALL).await, ["file 7 a \\x"]);
}
