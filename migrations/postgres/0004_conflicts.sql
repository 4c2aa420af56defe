-- Changes that were refused are remembered like those that were applied and pruned: a copy of one that comes late is
-- refused again, whatever has become of its row.

-- unlogged: why there never was an entry under the key; null for one that was pruned. With 'conflict' server_version is
-- the one that the change named, and the digest is of no payload: a node of the release before takes the key for that of a
-- change that was applied, and must not find that it was this one.
ALTER TABLE sync.sync_pruned_key ADD COLUMN unlogged text COLLATE "C";

-- A user with nothing but conflicts has a stream that ends at 0. The table takes it; that of SQLite is made anew for it.
