//! The business tables of the demo.

use outrigger_application::StoreError;

use crate::{PostgresStore, error};

/// One statement, so that all of it happens or nothing; under a lock, since `CREATE TABLE` is not safe to race.
/// The key of the lock is "outdem" in ASCII.
const CREATE: &str = "
DO $$
BEGIN
    PERFORM pg_advisory_xact_lock(x'6f757464656d'::bigint);
    IF to_regclass('public.users') IS NULL THEN
        CREATE TABLE public.users (
            id uuid PRIMARY KEY,
            name text,
            email text,
            created_at timestamptz DEFAULT now(),
            updated_at timestamptz DEFAULT now()
        );
    END IF;
    IF to_regclass('public.posts') IS NULL THEN
        CREATE TABLE public.posts (
            id uuid PRIMARY KEY,
            title text,
            content text,
            author_id uuid REFERENCES public.users (id),
            created_at timestamptz DEFAULT now(),
            updated_at timestamptz DEFAULT now()
        );
    END IF;
END
$$";

impl PostgresStore {
    /// Creates the tables `users` and `posts` of the demo in the schema `public`, unless they are there.
    pub async fn create_demo_tables(&self) -> Result<(), StoreError> {
        self.sessions.rows(sqlx::query(CREATE)).await.map_err(error::from_sqlx)?;
        self.projection.reload(&self.sessions).await.map(drop).map_err(error::from_sqlx)
    }
}
