-- Streams in the long run: their epochs, what of them is kept, and the devices that read them.

-- The epoch of all streams. Another one is given out after the database was restored from a backup. The one table
-- without a user: its single row is the same for all. Where the schema is distributed by user, it is copied to every node.
CREATE TABLE sync.sync_epoch (
    is_present boolean NOT NULL,
    epoch uuid NOT NULL,
    CONSTRAINT sync_epoch_pkey PRIMARY KEY (is_present),
    CONSTRAINT sync_epoch_single_check CHECK (is_present)
);
INSERT INTO sync.sync_epoch (is_present, epoch) VALUES (true, gen_random_uuid());

-- epoch: that of this stream alone, if it has begun anew. kept_floor: the highest number of a deletion that was pruned;
-- kept_moved_at: the number that the last pruning took for itself. swept_at: when the stream was last swept;
-- clean_at: where it ended when a sweep left nothing to do.
ALTER TABLE sync.user_stream
    ADD COLUMN epoch uuid,
    ADD COLUMN kept_floor bigint NOT NULL DEFAULT 0,
    ADD COLUMN kept_moved_at bigint NOT NULL DEFAULT 0,
    ADD COLUMN swept_at timestamptz,
    ADD COLUMN clean_at bigint;

-- The idempotency keys of entries that were pruned from the log. digest: SHA-256 of the payload's canonical form.
CREATE TABLE sync.sync_pruned_key (
    user_id text COLLATE "C" NOT NULL,
    source_id text COLLATE "C" NOT NULL,
    source_change_id bigint NOT NULL,
    op text COLLATE "C" NOT NULL,
    schema_name text COLLATE "C" NOT NULL,
    table_name text COLLATE "C" NOT NULL,
    pk_uuid uuid NOT NULL,
    digest bytea,
    server_version bigint NOT NULL,
    pruned_at timestamptz NOT NULL,
    CONSTRAINT sync_pruned_key_pkey PRIMARY KEY (user_id, source_id, source_change_id)
);

-- The devices. The contacts are written some seconds late. forgotten_id: the highest number of a change whose
-- key is not remembered any more; a change with such a number or a lower one may have been applied before.
CREATE TABLE sync.sync_source (
    user_id text COLLATE "C" NOT NULL,
    source_id text COLLATE "C" NOT NULL,
    first_contact timestamptz,
    last_contact timestamptz,
    last_cursor bigint,
    forgotten_id bigint NOT NULL DEFAULT 0,
    CONSTRAINT sync_source_pkey PRIMARY KEY (user_id, source_id)
) WITH (fillfactor = 80);
