//! The catalog in force: the configured tables with the foreign keys that the database declares between them.

use std::sync::Arc;
use std::time::Duration;

use outrigger_application::{ProjectionStore, SharedCatalog, StoreError, TableConfig, tables};

/// Reads the catalog for the first time.
pub(crate) async fn read(
    tables: &[TableConfig],
    projection: &dyn ProjectionStore,
) -> Result<SharedCatalog, StoreError> {
    let found = projection.refresh_catalog().await?;
    Ok(SharedCatalog::new(tables::catalog(tables, &found)))
}

/// Reads it anew for ever, so that a table that is altered, added or dropped is noticed without a restart. While it
/// cannot be read the last one stays in force; that is logged when it begins and when it ends.
pub(crate) async fn follow(
    tables: Vec<TableConfig>,
    projection: Arc<dyn ProjectionStore>,
    catalog: SharedCatalog,
    every: Duration,
) {
    let mut failing = false;
    loop {
        tokio::time::sleep(every).await;
        match projection.refresh_catalog().await {
            Ok(found) => {
                catalog.replace(tables::catalog(&tables, &found));
                if failing {
                    tracing::info!("the catalog of the business tables can be read again");
                }
                failing = false;
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "the catalog of the business tables cannot be read; the last one is used");
                }
                failing = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use outrigger_application::ports::projection::MockProjectionStore;
    use outrigger_domain::{Reference, TableName};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_changed_catalog_is_noticed_and_a_failing_one_changes_nothing() {
        let name = |name| TableName::parse_qualified(name).unwrap();
        let tables = ["users", "posts"].map(|table| TableConfig::new(name(table))).to_vec();
        let found = move || vec![(name("posts"), Reference { column: "author_id".into(), parent: name("users") })];
        let mut calls = 0;
        let mut projection = MockProjectionStore::new();
        projection.expect_refresh_catalog().returning(move || {
            calls += 1;
            match calls {
                1 => Ok(Vec::new()),
                2 => Ok(found()),
                3 | 4 => Err(StoreError::Unavailable("it is down".into())),
                _ => Ok(Vec::new()),
            }
        });
        let projection: Arc<dyn ProjectionStore> = Arc::new(projection);
        let catalog = read(&tables, &*projection).await.unwrap();
        let references =
            || catalog.current().find("public", "posts").map(|table| table.references.len()).expect("it is registered");
        assert_eq!(references(), 0);
        let every = Duration::from_secs(5);
        tokio::spawn(follow(tables, projection, catalog.clone(), every));
        // Between two readings, on a clock that only moves when everything waits.
        tokio::time::sleep(every / 2).await;
        for expected in [1, 1, 1, 0] {
            tokio::time::sleep(every).await;
            assert_eq!(references(), expected);
        }
    }
}
