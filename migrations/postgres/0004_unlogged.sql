-- Changes that were answered and left no entry in the log are remembered like those that were applied and pruned: a copy
-- of one that comes late is told the same, whatever has become of its row.

-- unlogged: how the change was settled without an entry, null where there was one: 'conflict'; or 'never_there' or
-- 'deleted_before', which were to delete such a row. server_version is then the one that the change named, and the digest
-- is of no payload: a node of the release before takes the key for that of an entry, and must not find that it was this
-- change's.
ALTER TABLE sync.sync_pruned_key ADD COLUMN unlogged text COLLATE "C";

-- A user with nothing else has a stream that ends at 0. The table takes it; that of SQLite is made anew for it.
