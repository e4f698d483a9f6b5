-- Who was refused what. Denials of the same caller, method and reason are counted together over a short while, so that
-- a flood of them writes few rows.
CREATE TABLE denials (
    id            INTEGER PRIMARY KEY,
    who           TEXT NOT NULL CHECK (length(who) BETWEEN 1 AND 256),
    method        TEXT NOT NULL CHECK (length(method) BETWEEN 1 AND 256),
    reason        TEXT NOT NULL CHECK (length(reason) BETWEEN 1 AND 64),
    count         INTEGER NOT NULL CHECK (count > 0),
    first_unix_ns INTEGER NOT NULL,
    last_unix_ns  INTEGER NOT NULL CHECK (last_unix_ns >= first_unix_ns)
) STRICT;

CREATE TRIGGER denials_stay BEFORE UPDATE ON denials
BEGIN SELECT RAISE(ABORT, 'dormouse: a denial is never changed'); END;
CREATE TRIGGER denials_remain BEFORE DELETE ON denials
BEGIN SELECT RAISE(ABORT, 'dormouse: a denial is never deleted'); END;
