-- Objects that nobody needs any more, until they are gone: `body` says which, as JSON.
CREATE TABLE deletions (
    id   INTEGER PRIMARY KEY AUTOINCREMENT,
    body TEXT NOT NULL
) STRICT;
