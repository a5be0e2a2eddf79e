-- What each table holds, so that a changed bit is noticed, and how far the catalog has come, so that a lost log is.

CREATE TABLE seal (
    name        TEXT PRIMARY KEY,          -- of the table; sqlite_schema: the schema itself
    rows        INTEGER NOT NULL,
    digest      TEXT NOT NULL CHECK (length(digest) = 32)  -- hex: the sum of the digests of its rows, modulo 2^128
) STRICT, WITHOUT ROWID;

CREATE TABLE head (                        -- one row
    catalog     TEXT NOT NULL,             -- a name that no other catalog has
    commits     INTEGER NOT NULL           -- transactions that changed something
) STRICT;

INSERT INTO head VALUES (lower(hex(randomblob(16))), 0);
