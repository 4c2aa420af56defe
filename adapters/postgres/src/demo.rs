//! The business tables of the demo.

use sqlx::Executor;

use crate::error::ConnectError;
use crate::{PostgresOptions, PostgresStore, session};

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
    /// Creates the tables `users` and `posts` of the demo in the schema `public`, unless they are there: before a store
    /// is opened that may not do without them.
    pub async fn create_demo_tables(url: &str, options: &PostgresOptions) -> Result<(), ConnectError> {
        let target = session::target(url, options)?;
        let mut connection = session::open(&target, options.acquire_timeout).await?;
        connection.execute(CREATE).await?;
        session::close(connection).await;
        Ok(())
    }
}
