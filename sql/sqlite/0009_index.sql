-- Search indexes: FAISS files beside exact search. A cache: all of it can be deleted and built again from the rows.

CREATE TABLE search_index (
    index_id    INTEGER PRIMARY KEY,
    space_id    INTEGER NOT NULL REFERENCES feature_space (space_id) ON DELETE CASCADE,
    kind        TEXT NOT NULL CHECK (kind IN ('flat', 'ivf_flat', 'ivf_sq8', 'hnsw')),
    name        TEXT NOT NULL UNIQUE,      -- path of the file below the store root
    rows        INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,
    sha256      TEXT NOT NULL CHECK (length(sha256) = 64),
    settings    TEXT NOT NULL,             -- what it was built by, JSON
    measured    TEXT NOT NULL,             -- recall and speed against exact search, JSON
    created     REAL NOT NULL,
    UNIQUE (space_id, kind)
) STRICT;

CREATE TABLE search_index_shard (          -- the shards whose rows it holds, in the order of their rows in it
    index_id    INTEGER NOT NULL REFERENCES search_index (index_id) ON DELETE CASCADE,
    ordinal     INTEGER NOT NULL,
    sha256      TEXT NOT NULL,             -- of the shard: its number may be given again
    rows        INTEGER NOT NULL,
    PRIMARY KEY (index_id, ordinal)
) STRICT, WITHOUT ROWID;

-- Whatever takes an index out of the catalog, its file must go.
CREATE TRIGGER search_index_file AFTER DELETE ON search_index BEGIN
    INSERT INTO doomed (name, after) VALUES (old.name, 0) ON CONFLICT DO NOTHING;
END;
