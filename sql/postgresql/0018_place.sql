-- Where the files are that this catalog speaks of, when they are not in the store's folder.

CREATE TABLE place (                       -- one row, or none
    store_url   code_text NOT NULL,
    owner       code_text NOT NULL         -- what the files there say of whose they are
);
