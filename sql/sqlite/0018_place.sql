-- Where the files are that this catalog speaks of, when they are not in the store's folder.

CREATE TABLE place (                       -- one row, or none
    store_url   TEXT NOT NULL,
    owner       TEXT NOT NULL              -- what the files there say of whose they are
) STRICT;
